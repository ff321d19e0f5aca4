//! `cargo xtask VERB`: everything a developer runs, one file per verb. Builds with rustup's stable toolchain alone,
//! so that `setup` can install whatever the other verbs need.

mod bench;
mod check;
mod command;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod layers;
mod metadata;
mod paths;
mod setup;
mod sources;
mod test;
mod toolchain;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use setup::Need;
use std::path::PathBuf;
use std::process::ExitCode;

/// Build, check, test and show Turnout.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what the other verbs need: Debian packages, bpf-linker, ONNX Runtime, cargo-deny, model-signing
    Setup,
    /// Build the eBPF programs
    Ebpf,
    /// Format, lints, layers, documentation, licences and advisories, house rules; all findings at the end
    Check,
    /// Only the layers: which crate may use which, and who may use the fenced libraries
    Layers,
    /// Set up, build and run every test that needs no booted machine
    Test {
        /// Passed on to `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Search every parser of outside bytes for inputs that break it; a finding is written to a file
    Fuzz(fuzz::Arguments),
    /// Boot Debian 12 and 13 under emulation, and run the scenarios that need a whole system
    VmTest(vm::Arguments),
    /// A booted system to look around in
    Vm {
        #[command(subcommand)]
        verb: vm::Verb,
    },
    /// Set up, build and walk through a release, a take-over and two rollbacks with live traffic
    Demo {
        /// Passed on to the demo: `--keep` leaves the daemon running
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Set up, build and make the .deb and the .rpm, in `target/dist`; each is checked
    Dist(dist::Arguments),
    /// Set up, build and measure
    Bench {
        /// Passed on to the benchmarks
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let root = workspace_root();
    match verb {
        Verb::Setup => setup::run(&root, &Need::ALL),
        Verb::Ebpf => setup::run(&root, &Need::EBPF).and_then(|()| ebpf::run(&root)),
        Verb::Check => check::run(&root),
        Verb::Layers => layers::run(&root),
        Verb::Test { rest } => test::run(&root, &rest),
        Verb::Fuzz(arguments) => fuzz::run(&root, &arguments),
        Verb::VmTest(arguments) => vm::test(&root, &arguments),
        Verb::Vm { verb: vm::Verb::Shell(shell) } => vm::shell(&root, &shell),
        Verb::Demo { rest } => demo::run(&root, &rest),
        Verb::Dist(arguments) => dist::run(&root, &arguments),
        Verb::Bench { rest } => bench::run(&root, &rest),
    }
}

/// The folder of the workspace: cargo says where this package is, also when the checkout was moved.
fn workspace_root() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or(env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map(PathBuf::from).unwrap_or(package)
}
