//! The commands about the journal's checkpoints and proofs. The doc comments here are the help.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Where the journal is, and whose signature counts.
#[derive(Debug, Args)]
pub struct JournalArguments {
    /// A journal's folder, for instance inside a snapshot, instead of the daemon's
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The host's public key: a PEM file from `audit key`, or a file with what `audit checkpoint --key` prints; may be
    /// repeated. Without it, the key that the daemon shows
    #[arg(long, value_name = "FILE")]
    pub key: Vec<PathBuf>,
}

/// `turnoutctl audit ...`, as far as it is about checkpoints and proofs.
#[derive(Debug, Subcommand)]
pub enum ProofCommand {
    /// Print the signed checkpoint of the journal as it is now; keep it elsewhere
    Checkpoint {
        /// Print the key that signs instead, as verifiers of signed notes take it
        #[arg(long)]
        key: bool,
    },
    /// Prove that a record is in the journal: a file that holds without journal, host and daemon
    Prove(ProveArguments),
    /// Check that the journal goes on from an older checkpoint; exits 3 when it does not
    Consistency {
        /// A checkpoint kept from an earlier time, from `audit checkpoint`
        old: PathBuf,
        #[command(flatten)]
        journal: JournalArguments,
    },
    /// Have a witness sign the newest checkpoint too, and keep its cosignature (as root)
    Witness {
        /// Where the witness takes checkpoints: `http://HOST:PORT/PREFIX` or `unix:PATH`
        url: String,
        /// File with the witness's key, `NAME+ID+BASE64`; a cosignature of any other key is not kept
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

/// `turnoutctl audit prove ...`
#[derive(Debug, Args)]
pub struct ProveArguments {
    /// Number of the record
    #[arg(required_unless_present = "check", conflicts_with = "check")]
    pub seq: Option<u64>,
    /// Check a proof instead; exits 3 when it does not hold
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "dir")]
    pub check: Option<PathBuf>,
    #[command(flatten)]
    pub journal: JournalArguments,
}
