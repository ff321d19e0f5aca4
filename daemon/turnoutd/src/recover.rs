//! From the journal back to the state: every record is read, verified on the way, and folded; where older ones were pruned,
//! onto the base that they came to.

use crate::millis;
use std::path::Path;
use turnout_engine::base::BaseError;
use turnout_engine::{Base, Entry, Stamp, World};
use turnout_journal::{JournalError, Reader, base, head_before};
use turnout_manifest::Sha256;
use turnout_protocol::journal::{Prunings, Unvouched};

/// Why the state could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal could not be read.
    #[error("journal")]
    Journal(#[source] JournalError),
    /// A record of a newer daemon, or none of ours.
    #[error("journal record {seq} is not one that this version knows: install the one that wrote it")]
    Record {
        /// Its position.
        seq: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// What stands for the pruned records is not what was written.
    #[error("pruned records")]
    Unvouched(#[source] Unvouched),
    /// What stands for the pruned records is of another version, or none.
    #[error("the base `{first:012}.base`, which stands for the records before {first}")]
    Base {
        /// The first record that is there.
        first: u64,
        /// What is wrong with it.
        #[source]
        source: BaseError,
    },
    /// What stands for the pruned records is of another journal.
    #[error("the base `{first:012}.base` is of another journal, or of another place in it")]
    Foreign {
        /// The first record that is there.
        first: u64,
    },
}

/// Folds every record of the journal in this folder.
///
/// # Errors
/// [`RecoverError`]: nothing is guessed, a record that is not understood stops the daemon, and so does a base that no record
/// names.
pub fn replay(journal: &Path) -> Result<World, RecoverError> {
    let mut fold = Fold::begin(journal)?;
    let mut reader = Reader::open(journal, fold.first).map_err(RecoverError::Journal)?;
    while let Some(record) = reader.next_record().map_err(RecoverError::Journal)? {
        fold.take(&record)?;
    }
    fold.end()
}

/// The base of a journal that begins with record `seq`, which begins a segment: the fold of all records before it.
///
/// # Errors
/// As [`replay`]; whether a record names the base that it goes out from was looked at when the daemon started.
pub fn state_before(journal: &Path, seq: u64) -> Result<Base, RecoverError> {
    let mut fold = Fold::begin(journal)?;
    let mut reader = Reader::open(journal, fold.first).map_err(RecoverError::Journal)?;
    while let Some(record) = reader.next_record().map_err(RecoverError::Journal)? {
        if record.seq >= seq {
            break;
        }
        fold.take(&record)?;
    }
    let root = head_before(journal, seq).map_err(RecoverError::Journal)?.root.to_string();
    Ok(Base { minimum_index: seq, root, world: fold.world })
}

/// A state on its way through a journal.
struct Fold {
    world: World,
    /// The first record that is there.
    first: u64,
    /// SHA-256 of the base that stands for those before it.
    base: Option<Sha256>,
    prunings: Prunings,
}

impl Fold {
    fn begin(journal: &Path) -> Result<Self, RecoverError> {
        let prunings = Prunings::default();
        let Some(found) = base(journal).map_err(RecoverError::Journal)? else {
            return Ok(Self { world: World::default(), first: 0, base: None, prunings });
        };
        let first = found.first;
        let read = Base::parse(&found.bytes).map_err(|source| RecoverError::Base { first, source })?;
        let head = head_before(journal, first).map_err(RecoverError::Journal)?;
        if (read.minimum_index, &read.root) != (first, &head.root.to_string()) {
            return Err(RecoverError::Foreign { first });
        }
        let base = Some(Sha256(*found.sha256.as_bytes()));
        Ok(Self { world: read.world, first, base, prunings })
    }

    fn take(&mut self, record: &turnout_journal::Record) -> Result<(), RecoverError> {
        let parsed: Entry = serde_json::from_slice(&record.body)
            .map_err(|source| RecoverError::Record { seq: record.seq, source })?;
        let at_ms = millis(record.time_ns);
        self.prunings.see((record.seq, at_ms), &record.body);
        self.world.take(&parsed, Stamp { seq: record.seq, at_ms });
        Ok(())
    }

    fn end(self) -> Result<World, RecoverError> {
        if let Some(base) = self.base {
            self.prunings.vouch((self.first, base), None).map_err(RecoverError::Unvouched)?;
        }
        Ok(self.world)
    }
}
