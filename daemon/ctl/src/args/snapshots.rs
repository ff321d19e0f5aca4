//! The commands about snapshots and the store. The doc comments here are the help.

use super::{parse_date, parse_time};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use turnout_manifest::{ModelName, Version};

/// `turnoutctl audit ...`, as far as it is about snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take an audit snapshot now
    Snapshot {
        /// What for, kept in the journal
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// List the audit snapshots: why each was made, what it shows, what keeps it
    Snapshots(SnapshotsArguments),
    /// Mount an audit snapshot read-only for a while (as root)
    Mount {
        /// Its name, as `audit snapshots` shows it
        snapshot: String,
        /// An empty folder
        dir: PathBuf,
        /// When the daemon takes it away again: `30m`, `8h`; one second to 30 days
        #[arg(long = "for", value_name = "TIME", value_parser = parse_time, default_value = "1h")]
        time: Duration,
    },
    /// Take a mounted snapshot away before its time (as root)
    Unmount {
        /// Where it is mounted
        dir: PathBuf,
    },
    /// Keep a snapshot and the versions in it, or the journal's records, whatever the policy says (as root)
    Hold {
        /// The snapshot's name, or `journal`
        #[arg(value_name = "SNAPSHOT|journal")]
        what: String,
        /// Why, kept in the journal
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Of the journal: the first record to keep; without it, all of them
        #[arg(long, value_name = "SEQ")]
        from: Option<u64>,
    },
    /// End a hold (as root)
    ReleaseHold {
        /// The snapshot's name, or `journal`
        #[arg(value_name = "SNAPSHOT|journal")]
        what: String,
    },
    /// What changed between two snapshots: live versions, manifests, weights, trust, configuration, files
    Diff {
        /// The earlier snapshot
        from: String,
        /// The later one
        to: String,
    },
    /// Write a snapshot as a `btrfs send` stream, and the signed list of its files beside it (as root)
    Export(ExportArguments),
    /// Compare the files below a folder with the signed list of an export; exits 3 when something differs
    Check {
        /// What `btrfs receive` made, or a mounted snapshot
        dir: PathBuf,
        /// The list beside the export
        #[arg(long, value_name = "FILE")]
        digests: PathBuf,
        /// Public key of the host that signed it, from `audit key`
        #[arg(long, value_name = "PEM")]
        key: PathBuf,
    },
    /// Print the public key with which this host signs what it gives out
    Key,
    /// Delete what the retention policy no longer keeps, now instead of within the hour (as root)
    Prune {
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Of the journal alone: records from before a time ago (`400d`) or a date (`2026-01-31`), as far as the
        /// configuration does not keep them; where it has no rule, those of the last 183 days stay
        #[arg(long, value_name = "WHEN", value_parser = parse_since)]
        before: Option<Since>,
    },
}

/// `turnoutctl audit export ...`
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Its name
    pub snapshot: String,
    /// Where to; without it, SNAPSHOT.btrfs in this folder. The list is called the same with `.digests.json`
    #[arg(short = 'o', long = "file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}

/// `turnoutctl audit snapshots ...`
#[derive(Debug, Args)]
pub struct SnapshotsArguments {
    /// Only those that show this model
    #[arg(long, value_name = "NAME")]
    pub model: Option<ModelName>,
    /// Only those that show this version
    #[arg(long, value_name = "VERSION")]
    pub version: Option<Version>,
    /// Only those made since: a time ago (`48h`, `30d`), or a date (`2026-11-26`, `2026-11-26T14:00:00Z`)
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub since: Option<Since>,
}

/// A moment to look back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// Milliseconds since the epoch.
    At(u64),
}

/// `turnoutctl store ...`
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// What the store is, how full it is, how long things are kept
    Show,
    /// Make the store's image larger, while it is in use (as root)
    Grow {
        /// The size it is to have: `16GiB`, `20000MiB`
        #[arg(value_parser = parse_bytes)]
        size: u64,
    },
    /// Read every block and compare it with its checksum; exits 3 when something is lost
    Scrub,
}

fn parse_since(text: &str) -> Result<Since, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok());
    let days = days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
    if let Some(ago) = days.or_else(|| parse_time(text).ok()) {
        return Ok(Since::Ago(ago));
    }
    let refused =
        || format!("`{text}` is neither a time ago such as `48h` or `30d` nor a date such as `2026-11-26`");
    parse_date(text).ok_or_else(refused)?.map(Since::At)
}

/// A size in binary units: `16GiB`, `512 MiB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let refused = || format!("`{text}` is not a size such as `512MiB`, `16GiB` or `2TiB`");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(refused()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_binary_unit() {
        assert_eq!((parse_bytes("512MiB"), parse_bytes("2 TiB")), (Ok(512 << 20), Ok(2 << 40)));
        for bad in ["", "16", "GiB", "16GB", "-1GiB", "1.5GiB", "16777216TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_moment_is_a_time_ago_or_a_date() {
        assert_eq!(parse_since("48h"), Ok(Since::Ago(Duration::from_secs(172_800))));
        assert_eq!(parse_since("2d"), Ok(Since::Ago(Duration::from_secs(172_800))));
        assert_eq!(parse_since("1970-01-02"), Ok(Since::At(86_400_000)));
        assert_eq!(parse_since("1970-01-01T00:00:01Z"), Ok(Since::At(1000)));
        for bad in ["", "yesterday", "1969-12-31", "2026-13-01", "48", "d", "-1d", "1.5d", "4294967296d"] {
            assert!(parse_since(bad).is_err(), "{bad:?}");
        }
    }
}
