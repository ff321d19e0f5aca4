//! Programs that cargo builds from the registry at a pinned version, into `target/tools`, and the toolchain's own components.

use super::State;
use crate::command;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// A program built by `cargo install`.
pub struct Tool {
    name: &'static str,
    version: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// Links eBPF programs; must have the LLVM of the compiler that makes them, or a later one.
pub const BPF_LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.13.0",
    arguments: &["--no-default-features", "--features", "llvm-22"],
    environment: &[("LLVM_PREFIX", "/usr/lib/llvm-22"), ("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22")],
};

/// Checks licences, bans, sources and advisories. It runs for a second: quick to build matters more than quick to run.
pub const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    arguments: &["--debug"],
    environment: &[("CARGO_PROFILE_DEV_DEBUG", "0")],
};

/// Says whether the tool is there at its pinned version.
///
/// # Errors
/// Never at present: a tool that cannot be asked is missing.
pub fn look(root: &Path, tool: &Tool) -> Result<State> {
    let wanted = format!("{} {}", tool.name, tool.version);
    let file = command::tools(root).join("bin").join(tool.name);
    let asked = command::capture(command::program(root, &file.to_string_lossy()).arg("--version"));
    match asked {
        Ok(answer) if answer.stdout.trim() == wanted => Ok(State::Present(wanted)),
        _ => Ok(State::Missing(format!("{wanted} into target/tools (built from source, takes minutes)"))),
    }
}

/// Builds and installs the tool.
///
/// # Errors
/// When the registry cannot be reached or the build fails.
pub fn install(root: &Path, tool: &Tool) -> Result<()> {
    let mut cargo = command::cargo(root);
    cargo.args(["install", tool.name, "--version", tool.version, "--locked", "--force", "--root"]);
    cargo.arg(command::tools(root)).args(tool.arguments).envs(tool.environment.iter().copied());
    command::run(&mut cargo)
        .context("remedy: check that the crates registry can be reached, then run it again")?;
    match look(root, tool)? {
        State::Present(_) => Ok(()),
        State::Missing(_) => bail!("`{}` was installed but does not answer to `--version`", tool.name),
    }
}

const COMPONENTS: [&str; 2] = ["rustfmt", "clippy"];

/// Says whether this toolchain has its formatter and its linter.
///
/// # Errors
/// Never at present: a component that does not answer is missing.
pub fn look_components(root: &Path) -> Result<State> {
    let answers =
        |verb| command::capture(command::cargo(root).args([verb, "--version"])).is_ok_and(|a| a.success);
    if answers("fmt") && answers("clippy") {
        return Ok(State::Present("in the toolchain".into()));
    }
    Ok(State::Missing("them into the toolchain in use".into()))
}

/// Adds the formatter and the linter by rustup.
///
/// # Errors
/// When rustup is not there or cannot reach its server.
pub fn install_components(root: &Path) -> Result<()> {
    command::run(command::program(root, "rustup").args(["component", "add"]).args(COMPONENTS))
        .context("remedy: install the toolchain with rustup (https://rustup.rs), default profile")
}
