//! Walks a whole journal from segment to segment, each checked to continue the one before. Needs no lock and no write,
//! so it works beside a running writer and on a read-only copy.

use std::path::{Path, PathBuf};

use crate::begin;
use crate::error::{Flaw, JournalError, Result};
use crate::replay::{End, Record, Replay, Step};
use crate::segment;
use crate::tail::{self, Tail};

/// How often the folder is listed again when a segment has gone since.
const TRIES: usize = 8;

/// A place in a journal, always at the end of a batch.
#[derive(Debug)]
pub(crate) struct Walk {
    dir: PathBuf,
    segment: Replay,
    segments: u64,
    tail: Tail,
    /// The end that the tail is of: whoever asks again and again is not told again what the same zeros mean.
    judged: Option<End>,
}

impl Walk {
    /// Starts at the first record of the segment that holds `seq`, or of the last one.
    pub(crate) fn open(dir: &Path, seq: u64) -> Result<Walk> {
        Walk::open_if(dir, |segments| match segments {
            [first, ..] if *first > seq => Err(JournalError::Pruned { seq, first: *first }),
            _ => Ok(segments.iter().copied().take_while(|first| *first <= seq).last()),
        })
    }

    /// Starts at the first record that is there.
    pub(crate) fn open_first(dir: &Path) -> Result<Walk> {
        Walk::open_if(dir, |segments| Ok(segments.first().copied()))
    }

    fn open_if(dir: &Path, choose: impl Fn(&[u64]) -> Result<Option<u64>>) -> Result<Walk> {
        let no_journal = || JournalError::NoJournal { dir: dir.to_owned() };
        for _ in 0..TRIES {
            let first_seq = choose(&begin::segments(dir)?)?.ok_or_else(no_journal)?;
            // One that was there when the folder was listed may have been pruned since.
            if let Some(segment) = Replay::open(dir, first_seq)? {
                return Ok(Walk {
                    dir: dir.to_owned(),
                    segment,
                    segments: 1,
                    tail: Tail::default(),
                    judged: None,
                });
            }
        }
        Err(no_journal())
    }

    /// The next committed batch; `None` at the end of the journal as it is now, and later batches when asked again.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Vec<Record>>> {
        let mut looked_at = None;
        loop {
            match self.segment.step()? {
                Step::Batch(records) => return Ok(Some(records)),
                Step::Sealed => {
                    looked_at = None;
                    if !self.enter_next_segment()? {
                        return Ok(None);
                    }
                }
                Step::End(end) if self.judged == Some(end) && !self.later_segment_exists()? => {
                    return Ok(None);
                }
                Step::End(end) => match self.judge(end) {
                    Ok(tail) => {
                        (self.tail, self.judged) = (tail, Some(end));
                        return Ok(None);
                    }
                    // A writer may have gone on between two reads. What is damage looks the same again.
                    Err(_) if looked_at != Some(end) => looked_at = Some(end),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// The segment walked at present.
    pub(crate) fn segment(&self) -> &Replay {
        &self.segment
    }

    /// How many segments were entered.
    pub(crate) fn segments(&self) -> u64 {
        self.segments
    }

    /// What follows the last committed batch, once [`Self::next_batch`] has given `None`.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    fn judge(&self, end: End) -> Result<Tail> {
        if self.later_segment_exists()? {
            let (at, what) = match end {
                End::Clean => (self.segment.offset(), Flaw::NotSealed),
                End::Torn { broken_at, .. } => (broken_at, Flaw::Frame),
            };
            return Err(self.segment.damage(at, self.segment.tree().size(), what).into());
        }
        match end {
            End::Clean => Ok(Tail::default()),
            End::Torn { broken_at, .. } => tail::examine(&self.segment, broken_at),
        }
    }

    /// Goes from a sealed segment into the next; false when there is none yet.
    fn enter_next_segment(&mut self) -> Result<bool> {
        let due = self.segment.successor();
        // Looked for first: a segment that appears after this is the due one or comes after it.
        let later = self.later_segment_exists()?;
        let Some(next) = Replay::open(&self.dir, due.first_seq())? else {
            if later {
                let seq = due.first_seq();
                let first = begin::segments(&self.dir)?.first().copied().unwrap_or(0);
                if first > seq {
                    return Err(JournalError::Pruned { seq, first });
                }
                return Err(self.segment.damage(self.segment.offset(), seq, Flaw::SegmentMissing).into());
            }
            return Ok(false);
        };
        let seq = next.first_seq();
        next.successor().check_continues(&due).map_err(|what| next.damage(0, seq, what))?;
        self.segment = next;
        self.judged = None;
        self.segments += 1;
        Ok(true)
    }

    fn later_segment_exists(&self) -> Result<bool> {
        Ok(segment::list(&self.dir)?.last().is_some_and(|last| *last > self.segment.first_seq()))
    }
}
