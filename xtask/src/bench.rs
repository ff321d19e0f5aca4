//! `bench`: sets up, builds release binaries and runs the benchmarks of the tests crate.

use crate::demo;
use anyhow::Result;
use std::path::Path;

/// Runs the benchmarks; the arguments are passed on to them.
///
/// # Errors
/// When set-up, build or a benchmark fails.
pub fn run(root: &Path, rest: &[String]) -> Result<()> {
    demo::run_binary(root, "bench", rest)
}
