//! The launcher of the tests: its first argument names protections, with commas between, that its cells go without.
//! Never installed; `weaken` cannot be built without debug assertions.

use std::process::ExitCode;
use turnout_launcher::{Protection, Protections, run};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let names = arguments.next().and_then(|names| names.into_string().ok()).unwrap_or_default();
    let off = names.split(',').map(|name| Protection::named(name).expect("a protection's name"));
    run(lexopt::Parser::from_args(arguments), Protections::without(off.collect()))
}
