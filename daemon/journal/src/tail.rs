//! Judges the bytes after the last committed batch: left by an interrupted write, or damage to what was once whole?

use std::fs::File;
use std::io;

use crate::error::{Flaw, JournalError, Result};
use crate::frame::{Frame, HEAD_BYTES, Head, MAX_BATCH_BYTES, TRAILER_BYTES};
use crate::replay::{Replay, read_at_most};

/// Frame heads whose frames do not hold that are looked into before the end counts as no tear.
const MAX_SUSPECTS: usize = 4096;
const ZERO_CHECK_BYTES: usize = 256 << 10;

/// Uncommitted bytes at the end of the last segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Up to the last byte that is not zero.
    pub(crate) torn: Vec<u8>,
    /// Zero bytes after that: blocks allocated but never written.
    pub(crate) zeros: u64,
}

/// Reads the tail of the last segment, of which `broken_at` is the first byte that begins no valid frame.
///
/// # Errors
///
/// `Damaged` when the tail cannot come from one interrupted write.
pub(crate) fn examine(segment: &Replay, broken_at: u64) -> Result<Tail> {
    let cut = segment.offset();
    let size = segment.tree().size();
    let damage = |offset, what| segment.damage(offset, size, what);
    let limit = MAX_BATCH_BYTES + TRAILER_BYTES;
    let bytes = read_at_most(segment.file(), cut, limit).map_err(JournalError::io("read", segment.path()))?;
    let rest = cut + bytes.len() as u64;
    let zeros_after = count_zeros(segment.file(), rest).map_err(JournalError::io("read", segment.path()))?;
    let Some(zeros_after) = zeros_after else { return Err(damage(rest, Flaw::NotATear).into()) };
    let skip = usize::try_from(broken_at - cut).unwrap_or(usize::MAX).saturating_add(1);
    match find_frame(&bytes, skip, size) {
        Search::Nothing => {}
        Search::FrameAt(at) => {
            let valid_at = cut + at as u64;
            return Err(damage(broken_at, Flaw::FrameAfterTear { valid_at }).into());
        }
        Search::TooManySuspects => return Err(damage(broken_at, Flaw::NotATear).into()),
    }
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let zeros = (bytes.len() - used) as u64 + zeros_after;
    Ok(Tail { torn: bytes[..used].to_vec(), zeros })
}

/// Counts the bytes from this offset to the end; `None` when one of them is not zero.
fn count_zeros(file: &File, from: u64) -> io::Result<Option<u64>> {
    let mut count = 0;
    loop {
        let bytes = read_at_most(file, from + count, ZERO_CHECK_BYTES)?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(None);
        }
        if bytes.is_empty() {
            return Ok(Some(count));
        }
        count += bytes.len() as u64;
    }
}

enum Search {
    Nothing,
    FrameAt(usize),
    TooManySuspects,
}

/// Looks from byte `skip` on for a valid frame whose number could follow `size` records.
fn find_frame(bytes: &[u8], skip: usize, size: u64) -> Search {
    let furthest = size.saturating_add((MAX_BATCH_BYTES / HEAD_BYTES) as u64);
    let mut suspects = 0;
    for at in skip..bytes.len() {
        let plausible = |head: &Head| (size..=furthest).contains(&head.seq);
        if Head::parse(&bytes[at..]).filter(plausible).is_none() {
            continue;
        }
        if Frame::parse(&bytes[at..]).is_some() {
            return Search::FrameAt(at);
        }
        suspects += 1;
        if suspects > MAX_SUSPECTS {
            return Search::TooManySuspects;
        }
    }
    Search::Nothing
}
