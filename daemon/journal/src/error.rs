//! What can go wrong, and where: errors of the machine, of the caller, and damage to the log itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{io, result};

use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::tree::{Hash, TreeHead};

pub(crate) type Result<T> = result::Result<T, JournalError>;

/// Why a call on the journal failed.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The answer of the operating system.
        #[source]
        source: io::Error,
    },
    /// Another process holds the journal's lock.
    #[error("another daemon uses the journal `{dir}`")]
    Locked {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// The directory holds no segment.
    #[error("`{dir}` holds no journal")]
    NoJournal {
        /// The directory.
        dir: PathBuf,
    },
    /// The log is not what was once written.
    #[error("the journal is damaged")]
    Damaged(#[source] Damage),
    /// A body is longer than [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES).
    #[error("a record of {bytes} bytes is over the limit of {limit}")]
    BodyTooLarge {
        /// Length of the body.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Records that must share a batch are together longer than [`MAX_BATCH_BYTES`](crate::MAX_BATCH_BYTES).
    #[error("a batch of {bytes} bytes is over the limit of {limit}")]
    BatchTooLarge {
        /// Length of the batch on disk.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A write or sync failed, now or earlier: nothing is accepted until the journal is opened again.
    #[error("the journal refuses writes")]
    Poisoned {
        /// The first failure.
        #[source]
        cause: Arc<JournalError>,
    },
    /// A thread panicked while it wrote a batch.
    #[error("a thread died while it wrote to the journal")]
    WriterDied,
    /// There is no such record, or none yet.
    #[error("there is no record {seq}: {size} records are there and under a signed checkpoint")]
    NoRecord {
        /// The record's number.
        seq: u64,
        /// How many there are.
        size: u64,
    },
    /// The journal has fewer records than this host has signed: its end was cut, or an older copy was put back.
    #[error("the journal has {found} records, but its checkpoint of {} records was signed: its end is missing", .signed.size)]
    Shorter {
        /// What was signed.
        signed: TreeHead,
        /// Number of records now.
        found: u64,
    },
    /// The journal's first records are not those that this host has signed.
    #[error("the first {} records of the journal have the root {found}, but {} was signed: they were rewritten", .signed.size, .signed.root)]
    Rewritten {
        /// What was signed.
        signed: TreeHead,
        /// The root now.
        found: Hash,
    },
    /// The journal is another log than the one that this host has signed.
    #[error("the journal is the log `{found}`, but `{}` of {} records was signed: it was replaced", .signed.origin, .signed.head.size)]
    OtherLog {
        /// What was signed.
        signed: Checkpoint,
        /// Origin of the log that is there.
        found: String,
    },
    /// This host has signed a journal, and there is none.
    #[error("there is no journal, but `{}` of {} records was signed: it was removed", .signed.origin, .signed.head.size)]
    Gone {
        /// What was signed.
        signed: Checkpoint,
    },
    /// The journal's records do not lead to the root that was asked for.
    #[error("the records do not have the root that was signed for {size} of them")]
    Disagrees {
        /// Size of the tree.
        size: u64,
    },
    /// A signed checkpoint of the journal is none.
    #[error("a checkpoint of the journal")]
    Checkpoint {
        /// What is wrong with it.
        #[source]
        cause: CheckpointError,
    },
    /// The file that says what was signed last says something else.
    #[error("`{path}`, which says what was signed last")]
    Mark {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: CheckpointError,
    },
    /// The record was pruned.
    #[error("record {seq} is not here any more: the records before {first} were pruned")]
    Pruned {
        /// The record's number.
        seq: u64,
        /// Number of the first record that is there.
        first: u64,
    },
    /// The journal cannot begin with this record.
    #[error(
        "the journal cannot begin with record {first}: it does not begin a segment that another one follows"
    )]
    NotPrunable {
        /// The record's number.
        first: u64,
    },
    /// The state before the first record is not the one that was written.
    #[error("the base of record {first} has the SHA-256 {found}, but {written} was written")]
    BaseDiffers {
        /// Number of the first record that is there.
        first: u64,
        /// What was written.
        written: Hash,
        /// What is there.
        found: Hash,
    },
    /// A base is longer than [`BASE_MAX`](crate::BASE_MAX).
    #[error("a base of {bytes} bytes is over the limit of {} bytes", crate::BASE_MAX)]
    BaseTooLarge {
        /// Its length, as far as it was read.
        bytes: u64,
    },
    /// The hashes that are kept of the first records do not lead to their root.
    #[error("the tiles of the first {size} records do not lead to their root")]
    TilesDiffer {
        /// How many records.
        size: u64,
    },
    /// A tile of the tree that is needed is not there, and cannot be made from the records any more.
    #[error("`{path}` is missing or not a whole tile")]
    TileMissing {
        /// The tile.
        path: PathBuf,
    },
}

impl JournalError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        move |source| JournalError::Io { action, path: path.to_owned(), source }
    }
}

/// The first place where the log is not what was once written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{segment}`, byte {offset}, record {seq}: {what}")]
pub struct Damage {
    /// File name of the segment.
    pub segment: String,
    /// Byte offset in the segment.
    pub offset: u64,
    /// The record that was due there.
    pub seq: u64,
    /// What is wrong.
    pub what: Flaw,
}

impl From<Damage> for JournalError {
    fn from(damage: Damage) -> Self {
        JournalError::Damaged(damage)
    }
}

/// What is wrong at the place of a [`Damage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Flaw {
    /// The header's magic, version, length or checksum is wrong.
    #[error("the segment header is not valid")]
    Header,
    /// The header's first record is not the one in the file name.
    #[error("the file name and the header disagree on the first record")]
    Name,
    /// The header names another log.
    #[error("the segment belongs to another log")]
    ForeignLog,
    /// The first segment is not that of record 0, and no base of a pruned journal is beside it.
    #[error("the records before this one are missing, and no `.base` file says that they were pruned")]
    NoBase,
    /// No segment starts at the record that is due.
    #[error("the segment that starts with this record is missing")]
    SegmentMissing,
    /// The header does not continue the tree and the trailers of the segment before it.
    #[error("the segment does not continue the one before it")]
    Link,
    /// Length, checksum, kind or reserved bytes of a frame are wrong.
    #[error("no valid frame")]
    Frame,
    /// A whole frame has another sequence number than the one that is due.
    #[error("the frame carries the number {found}")]
    Sequence {
        /// The number in the frame.
        found: u64,
    },
    /// A batch is empty, over the limit, or its trailer names another first record.
    #[error("the batch is not the one its trailer describes")]
    Batch,
    /// The trailer's root is not the root of the records before it.
    #[error("the records do not have the root in the batch trailer")]
    Root,
    /// The trailer does not name the trailer before it.
    #[error("the batch trailer does not continue the one before it")]
    Chain,
    /// The seal's count, root or trailer is not the segment's.
    #[error("the seal does not match the segment")]
    Seal,
    /// A later segment exists, but this one has no seal.
    #[error("the segment has a successor but no seal")]
    NotSealed,
    /// Bytes follow the seal.
    #[error("bytes follow the seal")]
    AfterSeal,
    /// A valid frame follows an invalid one: not the work of an interrupted write.
    #[error("a valid frame follows a broken one, at byte {valid_at}")]
    FrameAfterTear {
        /// Byte offset of the valid frame.
        valid_at: u64,
    },
    /// The broken end is longer than a batch can be, or full of frame heads: not the work of one interrupted write.
    #[error("the broken end is not what one interrupted write leaves")]
    NotATear,
}
