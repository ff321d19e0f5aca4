//! `turnoutd`: configuration, state, sockets, then the loop. `turnoutd doctor` only examines the host.

use clap::Parser;
use std::process::ExitCode;
use turnoutd::arguments::{Arguments, Command};
use turnoutd::{chain, serve};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match arguments
        .config
        .as_deref()
        .map_or_else(|| turnoutd::config::Config::parse(""), turnoutd::config::Config::read)
    {
        Ok(config) => config,
        Err(error) => return refuse(&chain(&error), "every key is described in `docs/guide.md`"),
    };
    let config = match arguments.launcher_service {
        Some(cgroup) => config.with_launcher_service(cgroup),
        None => config,
    };
    let done = match arguments.command {
        None => serve::run(config),
        Some(Command::Doctor { output }) => return serve::doctor(&config, &output),
        Some(Command::Dismantle) => serve::dismantle(config),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&chain(&error), error.hint()),
    }
}

fn refuse(message: &str, hint: &str) -> ExitCode {
    eprintln!("error: {message}\nhint: {hint}");
    ExitCode::FAILURE
}
