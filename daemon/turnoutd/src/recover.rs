//! From the journal back to the state: every record is read, verified on the way, and folded.

use crate::millis;
use std::path::Path;
use turnout_engine::{Entry, Stamp, World};
use turnout_journal::{JournalError, Reader};

/// Why the state could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The journal could not be read.
    #[error("journal")]
    Journal(#[source] JournalError),
    /// A record of a newer daemon, or none of ours.
    #[error("journal record {seq} is not one that this version knows")]
    Record {
        /// Its position.
        seq: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Folds every record of the journal in this folder.
///
/// # Errors
/// [`RecoverError`]: nothing is guessed, a record that is not understood stops the daemon.
pub fn replay(journal: &Path) -> Result<World, RecoverError> {
    let mut world = World::default();
    let mut reader = Reader::open(journal, 0).map_err(RecoverError::Journal)?;
    while let Some(record) = reader.next_record().map_err(RecoverError::Journal)? {
        let parsed: Entry = serde_json::from_slice(&record.body)
            .map_err(|source| RecoverError::Record { seq: record.seq, source })?;
        world.take(&parsed, Stamp { seq: record.seq, at_ms: millis(record.time_ns) });
    }
    Ok(world)
}
