//! Turnout's journal: the audit log that is also the recovery log, so that the two can never disagree.
//!
//! It stores byte strings in order and proves that none was changed, removed or moved. It knows nothing of releases: callers
//! give canonical JSON and get a number. How they use it so that recovery works:
//!
//! 1. *Intent.* Before an effect outside the process, append a record that says what will be done. [`Journal::append`]
//!    returns once it is on disk; on an error the effect must not happen.
//! 2. *Act*, then append what came of it, naming the intent's number. Records that only make sense together go through
//!    [`Journal::append_all`].
//! 3. *After a crash*, [`Journal::open`], then read all with [`Reader`]. An intent without its outcome may or may not have
//!    taken effect: ask the host. What [`Recovered`] says was cut off is worth a record of its own.
//!
//! # What is on disk
//!
//! A directory with segments `NNNNNNNNNNNN.seg`, each named by its first record: a header, then batches of frames, each batch
//! ended by a trailer with the Merkle root (RFC 6962) after it and the hash of the trailer before it, and last a seal. One
//! batch is one `fdatasync`. Only the last segment may end in a torn write, or in zeros written ahead; all else is whole or damaged.
//! Pruned segments ([`Journal::prune`]) leave their hashes, as tiles, and a *base*: what they came to, as the caller says.
//!
//! # What it proves
//!
//! [`verify()`] finds every record that was altered, removed or reordered, and every signed checkpoint that the records do
//! not lead to; [`check_signed`], a journal that is shorter than what [`Checkpoints`] signed. Whoever is root can still
//! rewrite and sign everything: that shows only against a checkpoint kept elsewhere, by [`verify_consistency`].

mod active;
mod begin;
mod checkpoint;
mod cursor;
mod disk;
mod error;
mod frame;
mod note;
mod proof;
mod proof_file;
mod prover;
mod prune;
mod reader;
mod recover;
mod replay;
mod reserve;
mod segment;
mod signed;
mod succession;
mod tail;
mod tiles;
mod tree;
mod verify;
mod walk;
mod witness;
mod writer;

#[cfg(test)]
mod tests;

pub use begin::{
    BASE_MAX, Base, SegmentInfo, base, beside_pruning, first_record, head_before, oldest_file, segment_infos,
};
pub use checkpoint::{Checkpoint, CheckpointError, origin};
pub use cursor::{CURSOR_MAX, NoCursor, ReaderPlace};
pub use error::{Damage, Flaw, JournalError};
pub use frame::{MAX_BATCH_BYTES, MAX_BODY_BYTES};
pub use note::{
    COSIGNATURE, ECDSA, Holds, NOTE_MAX, Note, NoteError, NoteKey, NoteSignature, SIGNATURES_MAX, cosigned,
};
pub use proof::{verify_consistency, verify_inclusion};
pub use proof_file::{HASHES_MAX, PROOF_MAX, ProofError, ProofFile, Proven};
pub use prover::{prove, prove_consistency};
pub use prune::Pruned;
pub use reader::Reader;
pub use recover::{Cut, JournalLock, Recovered};
pub use replay::Record;
pub use reserve::RESERVE;
pub use signed::{CHECKPOINTS, Checkpoints, Signer, check_signed, log_origin, newest};
pub use succession::{Predecessor, Succession, succeed};
pub use tiles::{Tiles, hashed, tiled};
pub use tree::{Hash, NoHash, Tree, TreeHead, raw_leaf, record_leaf};
pub use verify::{Verified, verify, verify_each, verify_signed};
pub use witness::add_checkpoint;
pub use writer::{Journal, OpenOptions, Receipt};
