//! Where a journal begins: with record 0, or, once older records were pruned, with the first record of a later segment.
//! Beside that segment lies its *base*: what the records before it came to, in bytes that are the caller's.

use std::io::Read;
use std::path::Path;

use crate::disk::open_for_reading;
use crate::error::{Damage, Flaw, JournalError, Result};
use crate::replay::Replay;
use crate::segment;
use crate::tree::{Hash, Tree, TreeHead};

/// Longest base, bytes.
pub const BASE_MAX: u64 = 256 << 20;

/// How often the journal is read while ever more of it is pruned.
const TRIES: usize = 8;

/// What is left of the pruned records of a journal, beside their hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Number of the first record that is there.
    pub first: u64,
    /// SHA-256 of the bytes.
    pub sha256: Hash,
    /// The bytes the caller gave.
    pub bytes: Vec<u8>,
}

/// A segment as its header and its file tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Number of its first record.
    pub first: u64,
    /// Length of its file.
    pub bytes: u64,
    /// When it was begun: nanoseconds since 1970 UTC.
    pub created_ns: i64,
}

/// File name of the base of a journal that begins with this record.
pub(crate) fn base_name(first: u64) -> String {
    format!("{first:012}.base")
}

/// Numbers of all bases in the directory, ascending.
pub(crate) fn bases(dir: &Path) -> Result<Vec<u64>> {
    segment::numbered(dir, |name| {
        let first = name.strip_suffix(".base")?.parse().ok()?;
        (base_name(first) == name).then_some(first)
    })
}

/// First records of the segments that the journal has, ascending. What an interrupted pruning has left of older ones does
/// not count: a base lies beside the first that stays, and is there before the first one goes.
pub(crate) fn segments(dir: &Path) -> Result<Vec<u64>> {
    let mut segments = segment::list(dir)?;
    let Some(oldest) = segments.first().copied().filter(|oldest| *oldest > 0) else { return Ok(segments) };
    let first = bases(dir)?.into_iter().find(|base| *base >= oldest && segments.contains(base));
    let none = || Damage { segment: segment::file_name(oldest), offset: 0, seq: oldest, what: Flaw::NoBase };
    let first = first.ok_or_else(none)?;
    segments.retain(|segment| *segment >= first);
    Ok(segments)
}

/// Number of the first record that is there; 0 for an empty journal too.
///
/// # Errors
///
/// `Damaged` when older records are gone and no base is there, `Io`.
pub fn first_record(dir: &Path) -> Result<u64> {
    Ok(segments(dir)?.first().copied().unwrap_or(0))
}

/// Reads something of the whole journal in `dir`, and anew from the beginning where that failed while records were being
/// pruned.
///
/// # Errors
///
/// What `read` gives.
pub fn beside_pruning<T, E>(
    dir: &Path,
    mut read: impl FnMut() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    for _ in 1..TRIES {
        let first = first_record(dir).ok();
        match read() {
            Err(_) if first_record(dir).ok() != first => {}
            done => return done,
        }
    }
    read()
}

/// First record of the oldest segment file, also one that an interrupted pruning has left; `None` where there is none.
///
/// # Errors
///
/// `Io`.
pub fn oldest_file(dir: &Path) -> Result<Option<u64>> {
    Ok(segment::list(dir)?.first().copied())
}

/// The base of the journal in `dir`; `None` where it begins with record 0. Whether it is the one that was written is for the
/// caller to compare.
///
/// # Errors
///
/// `Damaged`, `Io`; `BaseTooLarge` for a file that no base can be.
pub fn base(dir: &Path) -> Result<Option<Base>> {
    let first = first_record(dir)?;
    if first == 0 {
        return Ok(None);
    }
    let bytes = read_base(dir, first)?;
    Ok(Some(Base { first, sha256: Hash::of(&bytes), bytes }))
}

/// The bytes of this base.
pub(crate) fn read_base(dir: &Path, first: u64) -> Result<Vec<u8>> {
    let path = dir.join(base_name(first));
    let file = open_for_reading(&path).map_err(JournalError::io("open", &path))?;
    let mut bytes = Vec::new();
    file.take(BASE_MAX + 1).read_to_end(&mut bytes).map_err(JournalError::io("read", &path))?;
    if bytes.len() as u64 > BASE_MAX {
        return Err(JournalError::BaseTooLarge { bytes: bytes.len() as u64 });
    }
    Ok(bytes)
}

/// Size and root of the journal in `dir` when it had the records before `seq`, which begins a segment.
///
/// # Errors
///
/// `NotPrunable` when it begins none; `Damaged`, `Io`.
pub fn head_before(dir: &Path, seq: u64) -> Result<TreeHead> {
    tree_before(dir, seq).map(|tree| tree.head())
}

/// The tree over the records before the one that this segment begins with, as its header has it.
pub(crate) fn tree_before(dir: &Path, first: u64) -> Result<Tree> {
    let segment = Replay::open(dir, first)?.ok_or(JournalError::NotPrunable { first })?;
    Ok(segment.tree().clone())
}

/// Every segment of the journal in `dir`, oldest first; the last one is being written.
///
/// # Errors
///
/// `Damaged` when a header is not valid, `Io`.
pub fn segment_infos(dir: &Path) -> Result<Vec<SegmentInfo>> {
    let mut infos = Vec::new();
    for first in segments(dir)? {
        // One that is not there any more was pruned meanwhile.
        let Some(segment) = Replay::open(dir, first)? else { continue };
        let bytes = segment.file().metadata().map_err(JournalError::io("inspect", segment.path()))?.len();
        infos.push(SegmentInfo { first, bytes, created_ns: segment.created_ns() });
    }
    Ok(infos)
}
