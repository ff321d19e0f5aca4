//! turnout-launcher with every protection on: the program that is installed.

use std::process::ExitCode;
use turnout_launcher::{Protections, run};

fn main() -> ExitCode {
    run(lexopt::Parser::from_env(), Protections::all())
}
