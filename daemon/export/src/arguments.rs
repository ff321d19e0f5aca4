//! The command line. The doc comments here are the help and the manual pages.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use turnout_protocol::client::DEFAULT_SOCKET;

/// Takes the records of Turnout's journal elsewhere, in order, each at least once.
///
/// Every record carries `event_id`, the log's id and the record's number: a receiver that keeps the ids it has seen has
/// each record exactly once.
#[derive(Parser)]
#[command(name = "turnout-export", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do instead of exporting records.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Folder of the journal's segments; may be a read-only copy, such as an audit snapshot.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/turnout/journal")]
    pub journal: PathBuf,
    /// Where to: one JSON document a line on standard output, or the systemd journal.
    #[arg(long, default_value = "stdout")]
    pub to: To,
    /// File that keeps the place between runs; without it every run begins at the first record. After a power cut, what
    /// journald may not have had on disk yet is given again.
    #[arg(long, value_name = "FILE")]
    pub cursor: Option<PathBuf>,
    /// Wait for new records instead of ending at the last.
    #[arg(long)]
    pub follow: bool,
}

/// What the exporter does besides exporting records.
#[derive(Subcommand)]
pub enum Command {
    /// Serve the daemon's metrics to Prometheus at `/metrics`.
    Metrics(MetricsArguments),
}

/// Serve the daemon's metrics to Prometheus at `/metrics`.
///
/// Needs no right but to open the control socket. Whoever can reach the address can read the metrics.
#[derive(Args)]
pub struct MetricsArguments {
    /// Address and port to listen on.
    #[arg(long, env = "TURNOUT_METRICS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    pub listen: SocketAddr,
    /// Control socket of the daemon.
    #[arg(long, env = "TURNOUT_SOCKET", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Cursor of an export of the journal, to tell how far it is; may be repeated. One that is not there is not told.
    #[arg(long, value_name = "FILE")]
    pub cursor: Vec<PathBuf>,
}

/// Where records go.
#[derive(Clone, Copy, ValueEnum)]
pub enum To {
    /// One JSON document a line on standard output.
    Stdout,
    /// The systemd journal, with fields of their own.
    Journald,
}
