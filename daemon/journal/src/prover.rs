//! Makes proofs out of a journal's folder, beside a running writer or on a copy; each is checked before it is given out.

use std::path::Path;

use crate::checkpoint::Checkpoint;
use crate::error::{JournalError, Result};
use crate::note::Note;
use crate::proof::{self, Nodes, verify_consistency, verify_inclusion};
use crate::proof_file::ProofFile;
use crate::reader::Reader;
use crate::tiles::{Nodebook, Use};
use crate::tree::{Hash, TreeHead};

/// Proof that record `seq` of the journal in `dir` is in the tree of this signed checkpoint. The record goes with it.
///
/// # Errors
///
/// `NoRecord` when the checkpoint or the journal does not reach so far; `Disagrees` when the journal is not the one that
/// was signed; `Io`, `Damaged`.
pub fn prove(dir: &Path, seq: u64, signed: &Note) -> Result<ProofFile> {
    let head = Checkpoint::unverified(signed).map_err(|cause| JournalError::Checkpoint { cause })?.head;
    if seq >= head.size {
        return Err(JournalError::NoRecord { seq, size: head.size });
    }
    let found = Reader::open(dir, seq)?.next_record()?.filter(|record| record.seq == seq);
    let record = found.ok_or(JournalError::NoRecord { seq, size: head.size })?;
    let path = checked(
        (dir, head.size),
        |nodes| proof::inclusion_proof(nodes, seq, head.size),
        |path| verify_inclusion(record.leaf(), seq, head, path),
    )?;
    Ok(ProofFile::new(&record, path, signed.clone()))
}

/// Proof that the tree of the first `old` records of the journal in `dir` is the beginning of the tree of `new`. Also
/// gives the root over the first `old` records, as they are now.
///
/// # Errors
///
/// `NoRecord` when `old` is 0 or beyond `new`, or the journal does not reach so far; `Disagrees` when it does not have
/// the root of `new`; `Io`, `Damaged`.
pub fn prove_consistency(dir: &Path, old: u64, new: TreeHead) -> Result<(Hash, Vec<Hash>)> {
    if old == 0 || old > new.size {
        return Err(JournalError::NoRecord { seq: old.saturating_sub(1), size: new.size });
    }
    let make = |nodes: &mut dyn Nodes| {
        let root = proof::root(nodes, (0, old))?;
        Ok((root, proof::consistency_proof(nodes, old, new.size)?))
    };
    checked((dir, new.size), make, |(root, path)| {
        verify_consistency(TreeHead { size: old, root: *root }, new, path)
    })
}

/// Makes a proof with the help of tiles and, where it does not hold, from the records alone.
fn checked<T>(
    (dir, size): (&Path, u64),
    make: impl Fn(&mut dyn Nodes) -> Result<T>,
    holds: impl Fn(&T) -> bool,
) -> Result<T> {
    let with_tiles = Nodebook::open(dir, size, Use::Tiles).and_then(|mut nodes| make(&mut nodes));
    if let Some(proof) = with_tiles.ok().filter(|proof| holds(proof)) {
        return Ok(proof);
    }
    let proof = make(&mut Nodebook::open(dir, size, Use::RecordsAlone)?)?;
    if holds(&proof) { Ok(proof) } else { Err(JournalError::Disagrees { size }) }
}
