//! Turnout's journal: the audit log that is also the recovery log, so that the two can never disagree.
//!
//! It stores byte strings in order and proves that none was changed, removed or moved. It knows nothing of releases: callers
//! give canonical JSON and get a number. How they use it so that recovery works:
//!
//! 1. *Intent.* Before an effect outside the process, append a record that says what will be done. [`Journal::append`]
//!    returns once it is on disk; on an error the effect must not happen.
//! 2. *Act.*
//! 3. *Done.* Append what came of it, naming the intent's number. Records that only make sense together go through
//!    [`Journal::append_all`].
//! 4. *After a crash*, [`Journal::open`], then read all with [`Reader`]. An intent without its outcome may or may not have
//!    taken effect: ask the host. What [`Recovered`] says was cut off is worth a record of its own.
//!
//! # What is on disk
//!
//! A directory with segments `NNNNNNNNNNNN.seg`, each named by its first record: a header, then batches of frames, each batch
//! ended by a trailer with the Merkle root (RFC 6962) after it and the hash of the trailer before it, and last a seal. One
//! batch is one `fdatasync`. Only the last segment may end in a torn write; everything else is either whole or damaged.
//!
//! # What it proves
//!
//! [`verify()`] finds every record that was altered, removed from the middle or reordered. Whoever is root on the host can
//! still rewrite the whole log or cut its end; that shows only against a size and root that somebody else kept, with
//! [`consistency_proof`] and [`verify_consistency`] to compare.

mod active;
mod disk;
mod error;
mod frame;
mod proof;
mod reader;
mod recover;
mod replay;
mod segment;
mod tail;
mod tree;
mod verify;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{Damage, Flaw, JournalError};
pub use frame::{MAX_BATCH_BYTES, MAX_BODY_BYTES};
pub use proof::{consistency_proof, inclusion_proof, verify_consistency, verify_inclusion};
pub use reader::Reader;
pub use recover::{Cut, Recovered};
pub use replay::Record;
pub use tree::{Hash, Tree, TreeHead, raw_leaf, record_leaf};
pub use verify::{Verified, verify};
pub use writer::{Journal, OpenOptions, Receipt};
