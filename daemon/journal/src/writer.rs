//! Group commit: callers queue their records, one of them writes all that is queued as one batch with one sync, and nobody
//! returns before its record is durable. After the first failed write the journal accepts nothing more.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use std::{mem, thread};

use crate::active::{Active, Place, now_ns};
use crate::disk::{Disk, SystemDisk};
use crate::error::{JournalError, Result};
use crate::frame::{HEAD_BYTES, Kind, MAX_BATCH_BYTES, MAX_BODY_BYTES, encode};
use crate::recover::{self, Recovered};
use crate::reserve::Reserve;
use crate::tree::{Hash, TreeHead};

/// Most memory that is kept for the next batch.
const SPARE_MAX: usize = 1 << 20;

/// How a journal is written.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// A segment is sealed before it gets longer than this, unless a single batch is.
    pub segment_bytes: u64,
    /// And before the first record after it has become so old.
    pub segment_age: Duration,
    /// Space kept for the last records, for when the disk is full; 0 for none.
    pub reserve_bytes: u64,
}

/// Segments of 64 MiB or a week, and no reserve.
impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            segment_bytes: 64 << 20,
            segment_age: Duration::from_secs(7 * 86_400),
            reserve_bytes: 0,
        }
    }
}

/// Proof of acceptance: the record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The record's number.
    pub seq: u64,
    /// The time it got, in nanoseconds since 1970 UTC.
    pub time_ns: i64,
}

/// A journal opened for writing. Clones write to the same journal; the last one dropped releases its lock.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    front: Mutex<Front>,
    /// The head moved, the writer's seat is free, or the journal is poisoned.
    changed: Condvar,
    reserve: Reserve,
    /// For what changes older files, beside the writer.
    place: Place,
    /// Holds the lock file's lock until the end.
    _lock: File,
}

struct Front {
    /// Frames of records that must be in one batch.
    queue: VecDeque<Vec<u8>>,
    /// What the last batch was in: memory that is there already.
    spare: Vec<u8>,
    next_seq: u64,
    head: TreeHead,
    /// The writer's seat: the caller that takes the value out writes for all, and puts it back.
    seat: Option<Active>,
    poisoned: Option<Arc<JournalError>>,
}

impl Journal {
    /// Opens the journal in `dir`, or creates it, and recovers from an interrupted write.
    ///
    /// # Errors
    ///
    /// `Locked` while another process has it open, `Damaged` when the unsealed end or a link between segments is not what
    /// was written (nothing is changed then), `Io`.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<(Journal, Recovered)> {
        Journal::open_on(Arc::new(SystemDisk), dir, options)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: OpenOptions,
    ) -> Result<(Journal, Recovered)> {
        let lock = recover::lock(dir)?;
        let place = Place::open(dir, disk, &options)?;
        let reserve = Reserve::find(dir, options.reserve_bytes);
        let (active, recovered) = reserve.with_room(|| recover::recover(place.clone()))?;
        reserve.fill()?;
        let head = active.tree().head();
        let (queue, spare) = (VecDeque::new(), Vec::new());
        let front = Front { queue, spare, next_seq: head.size, head, seat: Some(active), poisoned: None };
        let (front, changed) = (Mutex::new(front), Condvar::new());
        let shared = Shared { front, changed, reserve, place, _lock: lock };
        Ok((Journal { shared: Arc::new(shared) }, recovered))
    }

    /// Appends one record and returns once it is durable.
    ///
    /// # Errors
    ///
    /// `BodyTooLarge`; `Poisoned` when this or an earlier write failed: whether the record is in the journal is then known
    /// only after it has been opened again.
    pub fn append(&self, body: &[u8]) -> Result<Receipt> {
        let receipts = self.append_all(&[body])?;
        Ok(*receipts.first().expect("one record gives one receipt"))
    }

    /// Appends records that become durable together or not at all, and returns once they are.
    ///
    /// # Errors
    ///
    /// As [`Journal::append`], and `BatchTooLarge`.
    pub fn append_all(&self, bodies: &[&[u8]]) -> Result<Vec<Receipt>> {
        let bytes = checked_bytes(bodies)?;
        let mut front = self.shared.front();
        front.check_not_poisoned()?;
        let receipts = front.enqueue(bodies, bytes);
        if let Some(last) = receipts.last() {
            self.shared.commit_through(front, last.seq)?;
        }
        Ok(receipts)
    }

    /// The durable part: size and root belong together.
    pub fn head(&self) -> TreeHead {
        self.shared.front().head
    }

    /// Number of durable records.
    pub fn size(&self) -> u64 {
        self.head().size
    }

    /// Root over the durable records.
    pub fn root(&self) -> Hash {
        self.head().root
    }

    /// Waits until more than `size` records are durable, or the deadline has passed; gives the number at that time.
    pub fn wait_beyond(&self, size: u64, deadline: Instant) -> u64 {
        let mut front = self.shared.front();
        while front.head.size <= size {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(front, left);
            (front, _) = waited.expect("no thread panics while it holds the queue");
        }
        front.head.size
    }

    /// Whether the disk was full and the space kept for the last records is being used. Records are accepted all the same,
    /// until that is full too.
    pub fn is_on_reserve(&self) -> bool {
        self.shared.reserve.is_spent()
    }

    /// Keeps space for the last records again; false when there is no room yet.
    ///
    /// # Errors
    ///
    /// `Io`.
    pub fn restore_reserve(&self) -> Result<bool> {
        self.shared.reserve.restore()
    }

    /// Where the journal lies, unless it accepts nothing any more.
    pub(crate) fn place(&self) -> Result<&Place> {
        self.shared.front().check_not_poisoned()?;
        Ok(&self.shared.place)
    }

    /// Batches that wait for a writer.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.shared.front().queue.len()
    }
}

fn checked_bytes(bodies: &[&[u8]]) -> Result<usize> {
    let mut total = 0;
    for body in bodies {
        if body.len() > MAX_BODY_BYTES {
            return Err(JournalError::BodyTooLarge { bytes: body.len(), limit: MAX_BODY_BYTES });
        }
        total += HEAD_BYTES + body.len();
    }
    if total > MAX_BATCH_BYTES {
        return Err(JournalError::BatchTooLarge { bytes: total, limit: MAX_BATCH_BYTES });
    }
    Ok(total)
}

impl Shared {
    fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().expect("no thread panics while it holds the queue")
    }

    /// Waits, or writes for all who wait, until record `seq` is durable.
    fn commit_through<'a>(&'a self, mut front: MutexGuard<'a, Front>, seq: u64) -> Result<()> {
        while front.head.size <= seq {
            front.check_not_poisoned()?;
            let Some(mut seat) = front.seat.take() else {
                front = self.changed.wait(front).expect("no thread panics while it holds the queue");
                continue;
            };
            let batch = front.take_batch();
            drop(front);
            let guard = PoisonOnPanic(self);
            let written = self.reserve.with_room(|| seat.commit(&batch));
            drop(guard);
            front = self.front();
            front.spare = if batch.capacity() <= SPARE_MAX { batch } else { Vec::new() };
            match written {
                Ok(()) => {
                    front.head = seat.tree().head();
                    front.seat = Some(seat);
                }
                Err(error) => front.poisoned = Some(Arc::new(error)),
            }
            self.changed.notify_all();
        }
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // After an error the seat is not there: nothing more may be changed then.
        if let Some(seat) = self.front.get_mut().ok().and_then(|front| front.seat.take()) {
            seat.close();
        }
    }
}

/// Those who wait must not wait for a writer that is gone.
struct PoisonOnPanic<'a>(&'a Shared);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.front().poisoned = Some(Arc::new(JournalError::WriterDied));
            self.0.changed.notify_all();
        }
    }
}

impl Front {
    fn check_not_poisoned(&self) -> Result<()> {
        match &self.poisoned {
            Some(cause) => Err(JournalError::Poisoned { cause: Arc::clone(cause) }),
            None => Ok(()),
        }
    }

    fn enqueue(&mut self, bodies: &[&[u8]], bytes: usize) -> Vec<Receipt> {
        let time_ns = now_ns();
        let mut receipts = Vec::with_capacity(bodies.len());
        let mut frames = mem::take(&mut self.spare);
        frames.clear();
        frames.reserve_exact(bytes);
        for body in bodies {
            let seq = self.next_seq;
            self.next_seq += 1;
            encode(Kind::Record, (seq, time_ns), body, &mut frames);
            receipts.push(Receipt { seq, time_ns });
        }
        if !frames.is_empty() {
            self.queue.push_back(frames);
        }
        receipts
    }

    /// Whole groups from the front of the queue, as many as fit into a batch.
    fn take_batch(&mut self) -> Vec<u8> {
        let mut batch = self.queue.pop_front().unwrap_or_default();
        while let Some(group) = self.queue.pop_front_if(|group| batch.len() + group.len() <= MAX_BATCH_BYTES)
        {
            batch.extend_from_slice(&group);
        }
        batch
    }
}
