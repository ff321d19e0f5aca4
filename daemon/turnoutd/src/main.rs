//! `turnoutd`: configuration, state, sockets, then the loop. `turnoutd doctor` only examines the host.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use turnoutd::{audit_http, chain, serve};

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
    /// Serve snapshots over HTTP: started by the daemon, with the port as standard input and the folder as output.
    #[command(hide = true, name = audit_http::SUBCOMMAND)]
    ServeSnapshots {
        #[arg(long)]
        uid: u32,
        #[arg(long)]
        parent: i32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // It has no file to read its configuration from, and no right to.
    if let Some(Command::ServeSnapshots { uid, parent }) = arguments.command {
        return match audit_http::serve(uid, parent) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&chain(&error), "the daemon starts this process: see `[audit.http]`"),
        };
    }
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
        Some(Command::ServeSnapshots { .. }) => Ok(()),
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
