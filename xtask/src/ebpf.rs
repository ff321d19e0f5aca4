//! `cargo xtask ebpf`: builds the kernel side into `target/ebpf/turnout.o`. Uses the distribution's compiler, which
//! comes with the source of `core` that the kernel's target needs, and leaves installing it to the set-up.

use crate::paths;
use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Debian's compiler (rustc-web, rust-web-src): the project's own toolchain has no source of `core`.
const RUSTC: &str = "/usr/bin/rustc";
/// Debian's cargo (cargo-web), of the same version.
const CARGO: &str = "/usr/bin/cargo";
/// Debian's LLVM tools (llvm-22), of the version that the linker is built with.
const STRIP: &str = "/usr/lib/llvm-22/bin/llvm-strip";
/// Names the linker when it is neither set up nor on the path.
const LINKER_VARIABLE: &str = "TURNOUT_BPF_LINKER";
const TARGET: &str = "bpfel-unknown-none";
/// What the object is made of, below the project's root.
const INPUTS: [&str; 7] = [
    "ebpf/Cargo.toml",
    "ebpf/Cargo.lock",
    "ebpf/src",
    "ebpf/layout/Cargo.toml",
    "ebpf/layout/src",
    "xtask/src/ebpf.rs",
    "xtask/src/paths.rs",
];

/// Builds the object unless it is up to date with the content of its sources.
///
/// # Errors
/// A missing tool, named with what brings it, or a failed build.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let out = root.join("target/ebpf");
    let (object, stamp) = (out.join("turnout.o"), out.join("turnout.inputs"));
    let inputs = digest_of_inputs(root)?;
    if object.exists() && fs::read_to_string(&stamp).is_ok_and(|built| built == inputs) {
        println!("ebpf: {} is up to date", object.display());
        return Ok(());
    }
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let linked = compile(root, &out)?;
    let fresh = out.join("turnout.o.new");
    strip(&linked, &fresh)?;
    fs::rename(&fresh, &object).with_context(|| format!("cannot write {}", object.display()))?;
    fs::write(&stamp, inputs).with_context(|| format!("cannot write {}", stamp.display()))?;
    println!("ebpf: built {} ({} bytes)", object.display(), fs::metadata(&object)?.len());
    Ok(())
}

fn compile(root: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    for tool in [RUSTC, CARGO, STRIP] {
        ensure!(Path::new(tool).exists(), "`{tool}` is missing: run `cargo xtask setup`");
    }
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Cdebuginfo=2".to_owned(),
        format!("-Clinker={}", linker(root)?.display()),
        "-Clink-arg=--btf".to_owned(),
    ];
    // The type information holds the names of source files: the same object, wherever it is built.
    flags.extend(paths::remapped(root)?);
    let target_directory = out.join("build");
    let status = Command::new(CARGO)
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", TARGET, "--target-dir"])
        .arg(&target_directory)
        .current_dir(root.join("ebpf"))
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .with_context(|| format!("cannot run `{CARGO}`"))?;
    ensure!(status.success(), "the kernel side did not build ({status})");
    Ok(target_directory.join(TARGET).join("release/turnout"))
}

/// The linker: as named by the environment, as set up below `target/tools`, or from the path.
fn linker(root: &Path) -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os(LINKER_VARIABLE) {
        return Ok(named.into());
    }
    let on_path = env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(root.join("target/tools/bin"))
        .chain(env::split_paths(&on_path))
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file());
    found.with_context(|| {
        format!("`bpf-linker` is missing: run `cargo xtask setup`, or name it in {LINKER_VARIABLE}")
    })
}

/// Drops the debug information and keeps the type information that the kernel reads.
fn strip(linked: &Path, stripped: &Path) -> anyhow::Result<()> {
    let status = Command::new(STRIP).arg("-g").arg(linked).arg("-o").arg(stripped).status();
    let status = status.with_context(|| format!("cannot run `{STRIP}`"))?;
    ensure!(status.success(), "`{STRIP}` failed on {} ({status})", linked.display());
    Ok(())
}

fn digest_of_inputs(root: &Path) -> anyhow::Result<String> {
    let mut files = Vec::new();
    for input in INPUTS {
        collect(&root.join(input), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file);
        hash.update(format!("{} {}\n", name.display(), content.len()));
        hash.update(content);
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    }))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
