//! Verifies a whole journal offline: every checksum, number, root, trailer, seal and link, and that each signed checkpoint
//! is a beginning of it. Writes nothing.

use std::path::Path;

use crate::begin;
use crate::checkpoint::{CheckpointError, origin};
use crate::error::{JournalError, Result};
use crate::note::{Holds, Note, NoteError, NoteKey};
use crate::replay::Record;
use crate::signed::Notes;
use crate::tiles;
use crate::tree::{Hash, Tree, TreeHead};
use crate::walk::Walk;

/// A journal that is whole. What was cut off at its end after the newest checkpoint shows only when size and root are
/// compared with a copy kept elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Number of committed records, those that were pruned among them.
    pub size: u64,
    /// Number of the first record that is there; of those before it, the hashes were verified.
    pub first: u64,
    /// SHA-256 of the base that stands for the records before it. Whether it is the one that was written, a record says.
    pub base: Option<Hash>,
    /// RFC 6962 root over them.
    pub root: Hash,
    /// The id drawn when the log was created.
    pub log_id: Hash,
    /// Number of segment files.
    pub segments: u64,
    /// Time of the first record that is there, in nanoseconds since 1970 UTC; `None` in an empty journal.
    pub first_time_ns: Option<i64>,
    /// Time of the last record.
    pub last_time_ns: Option<i64>,
    /// Uncommitted bytes at the end, left by an interrupted write.
    pub torn_bytes: u64,
    /// Signed checkpoints that are a beginning of this journal: all that lie beside the segments.
    pub checkpoints: u64,
    /// Of these, with a signature by one of the keys that were given.
    pub signed: u64,
    /// Size of the newest one.
    pub signed_size: Option<u64>,
}

/// Verifies the journal in `dir`; signatures are not looked at.
///
/// # Errors
///
/// `Damaged` with the first place where the log is not what was once written; `Shorter`, `Rewritten`, `OtherLog` where a
/// checkpoint beside it is none of this journal, `Checkpoint` where it is none at all; `NoJournal`, `Io`.
pub fn verify(dir: &Path) -> Result<Verified> {
    verify_each(dir, None, &mut |_| {})
}

/// As [`verify`], and checks the signatures of the checkpoints. One by an unknown key is passed over, but the newest must
/// be signed by one of these.
///
/// # Errors
///
/// As [`verify`], and `Checkpoint` for a signature that does not hold, and for a newest checkpoint that none of the keys
/// has signed.
pub fn verify_signed(dir: &Path, keys: &[NoteKey], holds: Holds<'_>) -> Result<Verified> {
    verify_each(dir, Some((keys, holds)), &mut |_| {})
}

/// As [`verify`], or [`verify_signed`] with keys, and gives each record that is there, once it is verified.
///
/// # Errors
///
/// As theirs; `TileMissing` and `TilesDiffer` for what was pruned.
pub fn verify_each(
    dir: &Path,
    trusted: Option<(&[NoteKey], Holds<'_>)>,
    each: &mut dyn FnMut(&Record),
) -> Result<Verified> {
    let mut walk = Walk::open_first(dir)?;
    let (log_id, first) = (walk.segment().successor().log_id, walk.segment().first_seq());
    let base = if first > 0 { Some(Hash::of(&begin::read_base(dir, first)?)) } else { None };
    let mut checks = Checks::begin(dir, origin(log_id), trusted)?;
    check_pruned((dir, first), walk.segment().tree(), &mut checks)?;
    let (mut first_time_ns, mut last_time_ns) = (None, None);
    loop {
        let mut tree = walk.segment().tree().clone();
        let Some(records) = walk.next_batch()? else {
            // A checkpoint that was signed meanwhile is of records that were written meanwhile.
            if checks.next_size().is_some_and(|size| size > tree.size()) && !checks.asked_again {
                checks.asked_again = true;
                continue;
            }
            break;
        };
        checks.asked_again = false;
        first_time_ns = first_time_ns.or(records.first().map(|record| record.time_ns));
        last_time_ns = records.last().map(|record| record.time_ns);
        records.iter().for_each(&mut *each);
        if checks.next_size().is_some_and(|size| size <= tree.size() + records.len() as u64) {
            for record in &records {
                tree.push(record.leaf());
                checks.reached(&tree)?;
            }
        }
    }
    let tree = walk.segment().tree();
    let Checks { checkpoints, signed, signed_size, .. } = checks.end(tree.size())?;
    Ok(Verified {
        size: tree.size(),
        first,
        base,
        root: tree.root(),
        log_id,
        segments: walk.segments(),
        first_time_ns,
        last_time_ns,
        torn_bytes: walk.tail().torn.len() as u64,
        checkpoints,
        signed,
        signed_size,
    })
}

/// Follows the hashes of the pruned records from the very first one on, as the records themselves would be.
fn check_pruned((dir, first): (&Path, u64), due: &Tree, checks: &mut Checks<'_>) -> Result<()> {
    let mut tree = Tree::empty();
    checks.reached(&tree)?;
    tiles::leaves(dir, (0, first), &mut |leaf| {
        tree.push(leaf);
        if checks.next_size() == Some(tree.size()) { checks.reached(&tree) } else { Ok(()) }
    })?;
    if tree == *due { Ok(()) } else { Err(JournalError::TilesDiffer { size: first }) }
}

/// Compares the checkpoints, in the order of their sizes, with the tree as it grows.
struct Checks<'a> {
    notes: Notes,
    origin: String,
    trusted: Option<(&'a [NoteKey], Holds<'a>)>,
    next: Option<TreeHead>,
    checkpoints: u64,
    signed: u64,
    signed_size: Option<u64>,
    /// Who has signed the newest one, when none of the trusted keys has.
    strangers: Option<Vec<String>>,
    asked_again: bool,
}

impl<'a> Checks<'a> {
    fn begin(dir: &Path, origin: String, trusted: Option<(&'a [NoteKey], Holds<'a>)>) -> Result<Self> {
        let mut checks = Checks {
            notes: Notes::open(dir)?,
            origin,
            trusted,
            next: None,
            checkpoints: 0,
            signed: 0,
            signed_size: None,
            strangers: None,
            asked_again: false,
        };
        checks.advance()?;
        Ok(checks)
    }

    fn next_size(&self) -> Option<u64> {
        self.next.map(|head| head.size)
    }

    /// Compares every checkpoint of this size.
    fn reached(&mut self, tree: &Tree) -> Result<()> {
        while let Some(signed) = self.next.filter(|next| next.size == tree.size()) {
            let found = tree.root();
            if found != signed.root {
                return Err(JournalError::Rewritten { signed, found });
            }
            self.checkpoints += 1;
            self.signed_size = Some(signed.size);
            self.advance()?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<()> {
        let before = self.next.take();
        let Some((note, checkpoint)) = self.notes.next()? else { return Ok(()) };
        if checkpoint.origin != self.origin {
            return Err(JournalError::OtherLog { signed: checkpoint, found: self.origin.clone() });
        }
        if before.is_some_and(|before| checkpoint.head.size < before.size) {
            let cause = CheckpointError::Form("it stands after one of a longer log");
            return Err(JournalError::Checkpoint { cause });
        }
        self.count_signature(&note)?;
        self.next = Some(checkpoint.head);
        Ok(())
    }

    fn count_signature(&mut self, note: &Note) -> Result<()> {
        let Some((keys, holds)) = self.trusted else { return Ok(()) };
        match note.verify(keys, holds) {
            Ok(_) => {
                self.signed += 1;
                self.strangers = None;
            }
            Err(NoteError::NotSigned(names)) => self.strangers = Some(names),
            Err(error) => return Err(JournalError::Checkpoint { cause: error.into() }),
        }
        Ok(())
    }

    fn end(self, size: u64) -> Result<Self> {
        if let Some(signed) = self.next {
            return Err(JournalError::Shorter { signed, found: size });
        }
        match &self.strangers {
            Some(names) => {
                Err(JournalError::Checkpoint { cause: NoteError::NotSigned(names.clone()).into() })
            }
            None => Ok(self),
        }
    }
}
