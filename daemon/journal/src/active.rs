//! The segment that is being written: appends batches, seals it when it is full, starts the next one.
//! Whoever owns the [`Active`] value is the only writer.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::{self, Disk, Point};
use crate::error::{JournalError, Result};
use crate::frame::{Kind, SEAL_BYTES, Seal, TRAILER_BYTES, Trailer, encode, records};
use crate::reserve::found_no_room;
use crate::segment::{Header, file_name};
use crate::tree::{Hash, Tree, record_leaf};
use crate::writer::OpenOptions as JournalOptions;

/// A segment that has no header yet.
const NEW_SEGMENT: &str = "segment.new";
/// Zeros that are written ahead: a file that gets longer has to wait for the file system's own journal too, one that is
/// written over has not.
static ZEROS: [u8; FILL_BYTES] = [0; FILL_BYTES];
pub(crate) const FILL_BYTES: usize = 64 << 10;
/// Longest batch that zeros are written for: for longer ones, they would cost more than they save.
const FILLED_BATCH_MAX: usize = 32 << 10;
/// A batch that the disk is given before it is hashed, so that both go on at once.
const LARGE_BATCH: usize = 64 << 10;
/// Leaves that a second thread hands over together.
const HASHED_AT_ONCE: usize = 64;
/// What the kernel writes at least: 4 KiB on every machine that Turnout runs on.
const PAGE: u64 = 4096;

/// Where segments are written and how long they get.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) directory: Arc<File>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age: Duration,
    /// Whether zeros are worth writing ahead there.
    fills: bool,
}

impl Place {
    /// The journal's folder, with how it is to be written.
    pub(crate) fn open(dir: &Path, disk: Arc<dyn Disk>, options: &JournalOptions) -> Result<Place> {
        let directory = Arc::new(File::open(dir).map_err(JournalError::io("open", dir))?);
        let fills = disk.overwrites(&directory);
        let JournalOptions { segment_bytes, segment_age, .. } = *options;
        Ok(Place { dir: dir.to_owned(), directory, disk, segment_bytes, segment_age, fills })
    }
}

/// The end of the journal.
pub(crate) struct Active {
    place: Place,
    path: PathBuf,
    file: File,
    length: u64,
    /// Up to here the file may be filled with zeros, or with what a batch that found no room has left.
    filled: u64,
    first_seq: u64,
    created_ns: i64,
    log_id: Hash,
    tree: Tree,
    last_trailer: Hash,
    /// The seal is written, the next segment is not there yet: its making was refused and can be asked for again.
    sealed: bool,
}

impl Active {
    /// Takes up an unsealed segment whose last valid batch ends at `length`; `head` is what a successor's header would say,
    /// but for the time: that is the segment's own.
    pub(crate) fn resume(place: Place, file: File, (first_seq, length): (u64, u64), head: Header) -> Active {
        let Header { log_id, created_ns, tree, last_trailer } = head;
        let path = place.dir.join(file_name(first_seq));
        let (filled, sealed) = (length, false);
        Active {
            place,
            path,
            file,
            length,
            filled,
            first_seq,
            created_ns,
            log_id,
            tree,
            last_trailer,
            sealed,
        }
    }

    /// Creates the segment with this header. It gets its name only once the header is durable.
    pub(crate) fn create(place: Place, header: Header) -> Result<Active> {
        let first_seq = header.first_seq();
        let (new, path) = (place.dir.join(NEW_SEGMENT), place.dir.join(file_name(first_seq)));
        let bytes = header.encode();
        let (disk, io) = (&place.disk, JournalError::io);
        let file = disk.create(Point::SegmentCreate, &new).map_err(io("open", &new))?;
        disk.truncate(Point::SegmentWrite, &file, 0).map_err(io("empty", &new))?;
        disk.write(Point::SegmentWrite, &file, (0, &bytes)).map_err(io("write", &new))?;
        disk.sync(Point::SegmentSync, &file).map_err(io("sync", &new))?;
        disk.rename(Point::SegmentRename, &new, &path).map_err(io("rename", &new))?;
        disk.sync(Point::SegmentDirectorySync, &place.directory).map_err(io("sync", &place.dir))?;
        Ok(Active::resume(place, file, (first_seq, bytes.len() as u64), header))
    }

    /// Writes the records that these frames hold as one batch and returns once they are durable. After an error nothing more
    /// may be written.
    pub(crate) fn commit(&mut self, frames: &[u8]) -> Result<()> {
        self.roll_unless_fits(frames.len() + TRAILER_BYTES)?;
        self.fill_ahead(frames.len() + TRAILER_BYTES)?;
        // Without room some of the batch may stay behind where no zeros are: a seal in its place would not be the end.
        self.filled = self.filled.max(self.length + (frames.len() + TRAILER_BYTES) as u64);
        let tree = if frames.len() < LARGE_BATCH {
            self.write(Point::BatchWrite, (self.length, frames))?;
            self.tree_with(leaves(frames))
        } else {
            self.write_and_hash(frames)?
        };
        let body = Trailer { first_seq: self.tree.size(), root: tree.root(), previous: self.last_trailer };
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        encode(Kind::Trailer, (tree.size(), now_ns()), &body.to_body(), &mut trailer);
        self.write(Point::BatchWrite, (self.length + frames.len() as u64, &trailer))?;
        self.sync(Point::BatchSync)?;
        self.length += (frames.len() + TRAILER_BYTES) as u64;
        self.last_trailer = Hash::of(&trailer);
        self.tree = tree;
        Ok(())
    }

    /// Gives the frames to the disk, and hashes them meanwhile, most of them in a second thread.
    fn write_and_hash(&self, frames: &[u8]) -> Result<Tree> {
        let (first, rest) = split(frames, frames.len() / 8);
        let (hashed, hashes) = mpsc::channel();
        thread::scope(|scope| {
            let second = thread::Builder::new().spawn_scoped(scope, || hash_in_parts(rest, hashed));
            self.write(Point::BatchWrite, (self.length, frames))?;
            // The last page gets the trailer too, and is left alone until then.
            let whole_pages = (self.length + frames.len() as u64) / PAGE * PAGE;
            self.place.disk.begin_writing(&self.file, self.length..whole_pages);
            let mut tree = self.tree_with(leaves(first));
            match second {
                Ok(_) => hashes.into_iter().flatten().for_each(|leaf| tree.push(leaf)),
                Err(_) => leaves(rest).for_each(|leaf| tree.push(leaf)),
            }
            Ok(tree)
        })
    }

    fn tree_with(&self, leaves: impl Iterator<Item = Hash>) -> Tree {
        let mut tree = self.tree.clone();
        leaves.for_each(|leaf| tree.push(leaf));
        tree
    }

    /// Leaves the file as long as what is written. Zeros at its end would do no harm.
    pub(crate) fn close(self) {
        if self.filled > self.length {
            let _ = self.place.disk.truncate(Point::FillTruncate, &self.file, self.length);
        }
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Whether the segment was begun so long ago that it ends: whole segments are all that can ever be pruned.
    fn is_old(&self) -> bool {
        // A clock that was set back makes it young.
        let age = u128::try_from(i128::from(now_ns()) - i128::from(self.created_ns)).unwrap_or(0);
        age >= self.place.segment_age.as_nanos()
    }

    /// Seals this segment and starts the next one, if it has records and is old, or the batch does not fit with a seal
    /// after it.
    fn roll_unless_fits(&mut self, batch_bytes: usize) -> Result<()> {
        let needed = (batch_bytes + SEAL_BYTES) as u64;
        let records = self.tree.size() - self.first_seq;
        let fits = self.length + needed <= self.place.segment_bytes;
        if records == 0 || (fits && !self.sealed && !self.is_old()) {
            return Ok(());
        }
        if !self.sealed {
            self.drop_fill()?;
            let seal = Seal { records, root: self.tree.root(), last_trailer: self.last_trailer };
            let mut bytes = Vec::with_capacity(SEAL_BYTES);
            encode(Kind::Seal, (self.tree.size(), now_ns()), &seal.to_body(), &mut bytes);
            self.write(Point::SealWrite, (self.length, &bytes))?;
            self.sync(Point::SealSync)?;
            self.sealed = true;
        }
        let (tree, last_trailer) = (self.tree.clone(), self.last_trailer);
        let header = Header { log_id: self.log_id, created_ns: now_ns(), tree, last_trailer };
        *self = Active::create(self.place.clone(), header)?;
        Ok(())
    }

    /// Writes zeros where the next small batches will be, if this one is the first beyond those that are there. They become
    /// durable with it.
    fn fill_ahead(&mut self, batch_bytes: usize) -> Result<()> {
        let end = self.length + batch_bytes as u64;
        if !self.place.fills || batch_bytes > FILLED_BATCH_MAX || end <= self.filled {
            return Ok(());
        }
        match self.write(Point::FillWrite, (end, &ZEROS)) {
            Err(error) if !found_no_room(&error) => return Err(error),
            // Without room for them the batch may still fit, and some of them may be there.
            _ => self.filled = end + ZEROS.len() as u64,
        }
        Ok(())
    }

    /// Cuts off what is left after the last batch, durably.
    fn drop_fill(&mut self) -> Result<()> {
        if self.filled > self.length {
            let cut = self.place.disk.truncate(Point::FillTruncate, &self.file, self.length);
            cut.map_err(JournalError::io("cut", &self.path))?;
            self.sync(Point::FillTruncateSync)?;
            self.filled = self.length;
        }
        Ok(())
    }

    fn write(&self, point: Point, at: (u64, &[u8])) -> Result<()> {
        self.place.disk.write(point, &self.file, at).map_err(JournalError::io("write", &self.path))
    }

    fn sync(&self, point: Point) -> Result<()> {
        self.place.disk.sync(point, &self.file).map_err(JournalError::io("sync", &self.path))
    }
}

fn leaves(frames: &[u8]) -> impl Iterator<Item = Hash> {
    records(frames).map(|(head, body)| record_leaf(head.seq, head.time_ns, body))
}

/// Gives the leaves in order, some at a time.
fn hash_in_parts(frames: &[u8], hashed: Sender<Vec<Hash>>) {
    let mut leaves = leaves(frames);
    loop {
        let part: Vec<Hash> = leaves.by_ref().take(HASHED_AT_ONCE).collect();
        if part.is_empty() || hashed.send(part).is_err() {
            return;
        }
    }
}

/// Splits the frames between two of them, about at this byte.
fn split(frames: &[u8], about: usize) -> (&[u8], &[u8]) {
    let mut at = 0;
    for (head, _) in records(frames) {
        if at >= about {
            break;
        }
        at += head.frame_bytes();
    }
    frames.split_at(at)
}

/// Opens a file of the journal for writing, creating it where it is missing.
pub(crate) fn open_for_writing(path: &Path) -> Result<File> {
    disk::open_for_writing(path).map_err(JournalError::io("open", path))
}

/// Nanoseconds since 1970 UTC by the wall clock, however wrong it is.
pub(crate) fn now_ns() -> i64 {
    let since = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|before| -since(before.duration()), since)
}
