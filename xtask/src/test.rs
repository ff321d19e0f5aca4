//! `test`: everything that needs no booted machine, on a machine that has nothing yet; ends with a verdict.

use crate::setup::{self, Need};
use crate::{command, ebpf};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Sets up, builds the eBPF programs and the binaries, runs all tests.
///
/// # Errors
/// When set-up or build fails, or a test does.
pub fn run(root: &Path, rest: &[String]) -> Result<()> {
    let began = Instant::now();
    setup::run(root, &Need::TEST)?;
    ebpf::run(root)?;
    command::run(&mut cargo(root, &["build", "--workspace", "--bins", "--locked"]))?;
    let mut tests = cargo(root, &["test", "--workspace", "--locked", "--no-fail-fast"]);
    let outcome = watch(tests.args(rest))?;
    let Tally { passed, failed, ignored, binaries } = outcome.tally;
    let figures = format!("{passed} passed, {failed} failed, {ignored} ignored in {binaries} test binaries");
    println!("test: {figures}, {:.0} s with set-up and build", began.elapsed().as_secs_f64());
    if !outcome.success {
        bail!("not all tests passed; each failure is listed above with its output");
    }
    if passed == 0 {
        bail!("no test ran; remedy: look at the filter given to `cargo test`");
    }
    println!("test: all good");
    Ok(())
}

/// A cargo command that sees the same libraries and writes to the same folder as every other verb.
pub fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut cargo = command::cargo(root);
    cargo.args(&arguments[..1]).arg("--target-dir").arg(root.join("target")).args(&arguments[1..]);
    cargo.env("TURNOUT_ONNXRUNTIME", setup::onnxruntime_library(root));
    cargo
}

#[derive(Default, Debug, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    binaries: u64,
}

struct Outcome {
    success: bool,
    tally: Tally,
}

/// Runs the tests with their output in the open, and counts on the way.
fn watch(command: &mut Command) -> Result<Outcome> {
    println!("  $ {}", command::shown(command));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("the tests' output is no text")?;
        println!("{line}");
        tally.add(&line);
    }
    Ok(Outcome { success: child.wait()?.success(), tally })
}

impl Tally {
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        self.binaries += 1;
        for part in rest.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(word)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_binaries_are_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.12s",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 7, failed: 2, ignored: 1, binaries: 2 });
    }
}
