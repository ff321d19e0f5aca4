//! The command line. The doc comments here are the help and the manual page.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Moves live inference traffic from one version of a model to another: verified, audited, rolled back on its own.
#[derive(Parser)]
#[command(name = "turnoutd", version)]
pub struct Arguments {
    /// The configuration; without it, every setting has its default.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The launcher is a service of its own that owns this cgroup: use it, and never start another.
    #[arg(long, value_name = "CGROUP")]
    pub launcher_service: Option<PathBuf>,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the daemon's program does besides serving.
#[derive(Subcommand)]
pub enum Command {
    /// Examine whether this host is ready, and change nothing.
    Doctor {
        /// `json` for programs.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        output: String,
    },
    /// End every worker and the launcher, and take routes, programs, pins and mounts away, also snapshots that somebody has
    /// mounted. Versions, journal and evidence stay. What fails keeps nothing else; of a configuration that is refused only
    /// the places count.
    Dismantle,
    /// Go on with a new log, where the journal is shorter than what this host has signed, another one, removed or
    /// damaged. What can be read is taken over; the folder before is kept beside. Only while no daemon runs.
    NewLog {
        /// Why, kept in the new log.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Serve snapshots over HTTP, without rights: started by the daemon, with the port as standard input and the folder
    /// as output, or by systemd with the port as a handed socket.
    #[command(hide = true)]
    ServeSnapshots {
        /// The user to become.
        #[arg(long)]
        uid: u32,
        /// The daemon, without which it ends.
        #[arg(long, required_unless_present = "snapshots", conflicts_with = "snapshots")]
        parent: Option<i32>,
        /// The folder to serve; the port is a socket that systemd hands over.
        #[arg(long, value_name = "DIR")]
        snapshots: Option<PathBuf>,
    },
}
