//! `demo`: sets up, builds release binaries and runs the demo of the tests crate, which does the walk and prints the verdict.

use crate::setup::{self, Need};
use crate::{command, ebpf, test};
use anyhow::Result;
use std::path::Path;

/// Runs the demo; the arguments are passed on to it.
///
/// # Errors
/// When set-up, build or a line of the demo fails.
pub fn run(root: &Path, rest: &[String]) -> Result<()> {
    run_binary(root, "demo", rest)
}

/// Sets up, builds everything optimised and runs one binary of the tests crate.
///
/// # Errors
/// When set-up or build fails, or the binary does not succeed.
pub fn run_binary(root: &Path, name: &str, rest: &[String]) -> Result<()> {
    setup::run(root, &Need::BUILD)?;
    ebpf::run(root)?;
    command::run(&mut test::cargo(root, &["build", "--release", "--workspace", "--bins", "--locked"]))?;
    let binary = root.join("target/release").join(name);
    let mut demo = command::program(root, &binary.to_string_lossy());
    command::run(demo.args(rest).env("TURNOUT_ONNXRUNTIME", setup::onnxruntime_library(root)))
}
