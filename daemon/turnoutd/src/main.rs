//! `turnoutd`: configuration, state, sockets, then the loop. `turnoutd doctor` only examines the host.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use turnoutd::{chain, serve};

/// Moves live inference traffic from one version of a model to another: verified, audited, rolled back on its own.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The configuration; without it, every setting has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Examine whether this host is ready, and change nothing.
    Doctor {
        /// `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        output: String,
    },
    /// End every worker and the launcher, and take routes, programs, pins and mounts away. Versions, journal and evidence stay.
    Dismantle,
}

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
