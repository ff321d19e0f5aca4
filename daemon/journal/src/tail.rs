//! Judges the bytes after the last committed batch: left by an interrupted write, or damage to what was once whole?

use std::ops::Range;

use crate::active::FILL_BYTES;
use crate::error::{Flaw, JournalError, Result};
use crate::frame::{Frame, HEAD_BYTES, Head, Kind, MAX_BATCH_BYTES, TRAILER_BYTES, Trailer};
use crate::replay::{Replay, read_at_most};

/// Frame heads whose frames do not hold that are looked into before the end counts as no tear.
const MAX_SUSPECTS: usize = 4096;
/// Longest batch with its trailer; zeros written ahead may follow.
const BATCH_MAX: usize = MAX_BATCH_BYTES + TRAILER_BYTES;
/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;
/// More zeros in a row than the head of a frame and a trailer's number can have.
const HOLE_BYTES: usize = 32;
/// Zeros that the length of a frame can begin with.
const LENGTH_ZEROS_MAX: usize = 3;

/// Uncommitted bytes at the end of the last segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Up to the last byte that is not zero.
    pub(crate) torn: Vec<u8>,
    /// Zero bytes after that: written ahead, or blocks that were allocated and never written.
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
    let bytes = read_at_most(segment.file(), cut, BATCH_MAX + FILL_BYTES + 1)
        .map_err(JournalError::io("read", segment.path()))?;
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if used > BATCH_MAX || bytes.len() > BATCH_MAX + FILL_BYTES {
        return Err(damage(cut + BATCH_MAX as u64, Flaw::NotATear).into());
    }
    let broken = usize::try_from(broken_at - cut).unwrap_or(usize::MAX);
    let torn = Torn { cut, bytes: &bytes, used, size };
    match torn.find_frame(broken.saturating_add(1)) {
        Search::Nothing => {}
        Search::SameBatch { from } if torn.has_hole(broken..from) => {}
        Search::SameBatch { from } | Search::OtherBatch { from } => {
            let valid_at = cut + from as u64;
            return Err(damage(broken_at, Flaw::FrameAfterTear { valid_at }).into());
        }
        Search::TooManySuspects => return Err(damage(broken_at, Flaw::NotATear).into()),
    }
    let zeros = (bytes.len() - used) as u64;
    Ok(Tail { torn: bytes[..used].to_vec(), zeros })
}

/// The bytes after the last committed batch.
struct Torn<'a> {
    /// Their place in the file.
    cut: u64,
    bytes: &'a [u8],
    /// Where the zeros at their end begin.
    used: usize,
    /// Records before them.
    size: u64,
}

/// What whole frames there are after the first broken one.
enum Search {
    Nothing,
    /// All can be of the one batch that was being written.
    SameBatch {
        from: usize,
    },
    /// A second batch was begun, so the first one was whole once.
    OtherBatch {
        from: usize,
    },
    TooManySuspects,
}

impl Torn<'_> {
    /// Looks from byte `skip` on for valid frames whose numbers could follow.
    fn find_frame(&self, skip: usize) -> Search {
        let (mut at, mut first, mut suspects) = (skip, None, 0);
        while at < self.used {
            let head = Head::parse(&self.bytes[at..]).filter(|head| self.may_follow(head));
            let frame = head.and_then(|_| Frame::parse(&self.bytes[at..]));
            if let Some(frame) = frame {
                let from = *first.get_or_insert(at);
                at += frame.head.frame_bytes();
                if !self.is_of_first_batch(&frame, at) {
                    return Search::OtherBatch { from };
                }
                continue;
            }
            suspects += usize::from(head.is_some());
            if suspects > MAX_SUSPECTS {
                return Search::TooManySuspects;
            }
            at += 1;
        }
        first.map_or(Search::Nothing, |from| Search::SameBatch { from })
    }

    fn may_follow(&self, head: &Head) -> bool {
        let furthest = self.size.saturating_add((MAX_BATCH_BYTES / HEAD_BYTES) as u64);
        (self.size..=furthest).contains(&head.seq)
    }

    /// Whether this frame, which ends at byte `end`, can be of the batch that begins with the next record.
    fn is_of_first_batch(&self, frame: &Frame<'_>, end: usize) -> bool {
        match frame.head.kind {
            Kind::Record => true,
            Kind::Trailer => {
                end >= self.used
                    && Trailer::parse(frame.body()).is_ok_and(|trailer| trailer.first_seq == self.size)
            }
            Kind::Seal => false,
        }
    }

    /// Whether something between these bytes was never written: the first of a broken frame and the first of a valid one.
    /// Where a batch is written over zeros, its blocks reach the disk in any order, and each that did not is still zeros up to
    /// the end of a sector. Altered bytes do not look like that.
    fn has_hole(&self, between: Range<usize>) -> bool {
        let offset = |at: usize| self.cut + at as u64;
        // The valid frame may begin in the hole: with zeros.
        let last_end = offset(between.end + LENGTH_ZEROS_MAX);
        let ends = (offset(between.start) / SECTOR + 1..).map(|sector| sector * SECTOR);
        ends.take_while(|end| *end <= last_end).any(|end| {
            let end = usize::try_from(end - self.cut).unwrap_or(usize::MAX).min(self.bytes.len());
            let hole = &self.bytes[end.saturating_sub(HOLE_BYTES)..end];
            // The first bytes of a length are zeros without a hole.
            let means_something = || hole.len() > LENGTH_ZEROS_MAX || self.lacks(end, between.end);
            hole.iter().all(|byte| *byte == 0) && means_something()
        })
    }

    /// Whether nothing but this many bytes of its length keep the first frame, up to this end, from being whole.
    fn lacks(&self, bytes: usize, frame_end: usize) -> bool {
        let length = frame_end.checked_sub(HEAD_BYTES).and_then(|length| u32::try_from(length).ok());
        length.is_some_and(|length| {
            let mut frame = self.bytes[..frame_end].to_vec();
            frame[..bytes].copy_from_slice(&length.to_be_bytes()[..bytes]);
            Frame::parse(&frame).is_some_and(|frame| frame.head.frame_bytes() == frame_end)
        })
    }
}
