//! `ebpf`: builds the eBPF programs from source with Debian's compiler, whose library source needs no rustup component.

use crate::command;
use anyhow::{Context, Result};
use std::path::Path;

/// Builds the object, for this machine's architecture.
///
/// # Errors
/// When the compiler or the linker is missing or refuses the programs.
pub fn run(root: &Path) -> Result<()> {
    let flags =
        format!("--cfg=bpf_target_arch=\"{}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf", std::env::consts::ARCH);
    let mut cargo = command::program(&root.join("ebpf"), "/usr/bin/cargo");
    cargo.args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", "bpfel-unknown-none"]);
    cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags);
    command::run(&mut cargo).context("remedy: `cargo xtask setup`")
}
