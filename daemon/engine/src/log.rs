//! Records about the journal itself and the clock its times come from. They change no release; their fold is nothing.

use serde::{Deserialize, Serialize};
use turnout_manifest::Sha256;

/// Why the clock was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockReason {
    /// The daemon began to run.
    Start,
    /// The kernel's word on whether it is synchronized changed.
    Changed,
    /// It was set: it moved by another amount than the time that passed.
    Stepped,
    /// Nothing was written for an hour: a sign of life, so that an empty hour is under a checkpoint too.
    Idle,
}

/// A log that was signed, as far as this host knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedLog {
    /// Its name in checkpoints.
    pub origin: String,
    /// Number of records.
    pub size: u64,
    /// RFC 6962 root over them, hex.
    pub root: String,
}

/// The base of a pruned log, as it was taken over into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBase {
    /// The first record that is there.
    pub minimum_index: u64,
    /// SHA-256 of the base that stands for the records before it.
    pub base: Sha256,
}

/// A record about the journal. On the wire it stands among the others, by its own `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum LogRecord {
    /// The clock as it is now. The times of all records up to the next one of these are of this boot, and as good as
    /// it says.
    ClockRead {
        /// Why.
        reason: ClockReason,
        /// The kernel's id of this boot.
        boot: String,
        /// Milliseconds since that boot, suspended time included.
        since_boot_ms: u64,
        /// Whether something keeps the clock right (adjtimex(2)).
        synchronized: bool,
        /// The kernel's bound on its error, microseconds.
        error_us: u64,
        /// By how much it was set, milliseconds; 0 unless it was.
        stepped_ms: i64,
    },
    /// An operator decided to go on with a new log, because the one before is not what this host had signed, or is
    /// damaged. Everything before this record was taken over from it.
    LogOpened {
        /// Who decided.
        by: String,
        /// Why, in their words.
        reason: String,
        /// The log before, as far as it was taken over; its name is absent where none was found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
        /// Number of records taken over.
        taken: u64,
        /// RFC 6962 root over them, hex.
        taken_root: String,
        /// What this host had signed last; absent where it had signed nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signed: Option<SignedLog>,
        /// Where the log before is damaged; absent where all of it was taken over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        damage: Option<String>,
        /// Where the older records of the log before were pruned: the base that was taken over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pruned: Option<TakenBase>,
    },
    /// The journal's disk is full: its reserve was given up, so that what is under way can be ended and undone. Nothing
    /// new is begun.
    ReserveSpent,
    /// There is room again, and a reserve.
    ReserveRestored,
    /// The journal ended in what an interrupted write had left; it was cut off at a start, and kept. Nothing in it was
    /// acknowledged, unless the disk lost bytes.
    LogRecovered {
        /// How many bytes.
        bytes: u64,
        /// SHA-256 of them.
        sha256: Sha256,
        /// The file that holds them, in the journal's folder.
        kept_in: String,
    },
}
