//! The guest's side of `cargo xtask vm-test --only power-cut`, as a program.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use turnout_scenarios::daemon::Ctl;
use turnout_scenarios::power_cut::{Acknowledged, Lost, Subject};

/// The exit code for records that were acknowledged and are gone; `xtask/src/vm/cuts.rs` knows it.
const LOST: u8 = 3;

/// Releases under load until the power goes, and demands after it what must hold.
#[derive(Parser)]
struct Arguments {
    /// `turnoutctl`
    #[arg(long, default_value = "/usr/bin/turnoutctl")]
    ctl: PathBuf,
    /// The daemon's control socket
    #[arg(long, default_value = "/run/turnout/control.sock")]
    socket: PathBuf,
    /// Where the daemon keeps its journal
    #[arg(long, default_value = "/var/lib/turnout")]
    state: PathBuf,
    /// Where keys and models' folders are made
    #[arg(long, default_value = "/var/tmp/turnout-power-cut")]
    work: PathBuf,
    /// Where `digits` is served
    #[arg(long, default_value = "127.0.0.1:8700")]
    address: SocketAddr,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Make a key, import the versions, release the first one
    Prepare,
    /// Release one after the other under load, and say what is acknowledged
    Release {
        /// For so long
        #[arg(long)]
        seconds: u64,
    },
    /// After the next boot: demand what must hold
    Check {
        /// Records that were acknowledged
        #[arg(long)]
        size: u64,
        /// The journal's root over them
        #[arg(long, default_value = "")]
        root: String,
    },
}

fn main() -> ExitCode {
    match play(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error:#}");
            if error.is::<Lost>() { ExitCode::from(LOST) } else { ExitCode::FAILURE }
        }
    }
}

fn play(arguments: Arguments) -> Result<()> {
    let ctl = Ctl { program: arguments.ctl, socket: arguments.socket };
    let subject = Subject::new(ctl, &arguments.state, &arguments.work, arguments.address)?;
    match arguments.part {
        Part::Prepare => subject.prepare(),
        Part::Release { seconds } => subject.release(Duration::from_secs(seconds)),
        Part::Check { size, root } => subject.check(&Acknowledged { size, root }),
    }
}
