//! The segment that is being written: appends batches, seals it when it is full, starts the next one.
//! Whoever owns the [`Active`] value is the only writer.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::{Disk, Point};
use crate::error::{JournalError, Result};
use crate::frame::{Kind, SEAL_BYTES, Seal, TRAILER_BYTES, Trailer, encode};
use crate::segment::{Header, file_name};
use crate::tree::{Hash, Tree, record_leaf};

/// Mode of every file: root writes, the group may read.
const FILE_MODE: u32 = 0o640;
/// A segment that has no header yet.
const NEW_SEGMENT: &str = "segment.new";

/// Where segments are written and how long they get.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) dir: PathBuf,
    pub(crate) directory: Arc<File>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segment_bytes: u64,
    pub(crate) segment_age: Duration,
}

/// A record on its way to the disk.
pub(crate) struct Pending {
    pub(crate) seq: u64,
    pub(crate) time_ns: i64,
    pub(crate) body: Vec<u8>,
}

/// The end of the journal.
pub(crate) struct Active {
    place: Place,
    path: PathBuf,
    file: File,
    length: u64,
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
        Active { place, path, file, length, first_seq, created_ns, log_id, tree, last_trailer, sealed: false }
    }

    /// Creates the segment with this header. It gets its name only once the header is durable.
    pub(crate) fn create(place: Place, header: Header) -> Result<Active> {
        let first_seq = header.first_seq();
        let (new, path) = (place.dir.join(NEW_SEGMENT), place.dir.join(file_name(first_seq)));
        let file = open_for_writing(&new)?;
        let bytes = header.encode();
        let (disk, io) = (&place.disk, JournalError::io);
        disk.truncate(Point::SegmentWrite, &file, 0).map_err(io("empty", &new))?;
        disk.write(Point::SegmentWrite, &file, (0, &bytes)).map_err(io("write", &new))?;
        disk.sync(Point::SegmentSync, &file).map_err(io("sync", &new))?;
        disk.rename(Point::SegmentRename, &new, &path).map_err(io("rename", &new))?;
        disk.sync(Point::SegmentDirectorySync, &place.directory).map_err(io("sync", &place.dir))?;
        Ok(Active::resume(place, file, (first_seq, bytes.len() as u64), header))
    }

    /// Writes the records as one batch and returns once they are durable. After an error nothing more may be written.
    pub(crate) fn commit(&mut self, records: &[Pending]) -> Result<()> {
        let mut tree = self.tree.clone();
        let mut bytes = Vec::new();
        for record in records {
            encode(Kind::Record, (record.seq, record.time_ns), &record.body, &mut bytes);
            tree.push(record_leaf(record.seq, record.time_ns, &record.body));
        }
        let first_seq = self.tree.size();
        self.roll_unless_fits(bytes.len() + TRAILER_BYTES)?;
        let trailer = Trailer { first_seq, root: tree.root(), previous: self.last_trailer };
        let trailer_at = bytes.len();
        encode(Kind::Trailer, (tree.size(), now_ns()), &trailer.to_body(), &mut bytes);
        self.append((Point::BatchWrite, Point::BatchSync), &bytes)?;
        self.last_trailer = Hash::of(&bytes[trailer_at..]);
        self.tree = tree;
        Ok(())
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
            let seal = Seal { records, root: self.tree.root(), last_trailer: self.last_trailer };
            let mut bytes = Vec::with_capacity(SEAL_BYTES);
            encode(Kind::Seal, (self.tree.size(), now_ns()), &seal.to_body(), &mut bytes);
            self.append((Point::SealWrite, Point::SealSync), &bytes)?;
            self.sealed = true;
        }
        let (tree, last_trailer) = (self.tree.clone(), self.last_trailer);
        let header = Header { log_id: self.log_id, created_ns: now_ns(), tree, last_trailer };
        *self = Active::create(self.place.clone(), header)?;
        Ok(())
    }

    fn append(&mut self, (write, sync): (Point, Point), bytes: &[u8]) -> Result<()> {
        let disk = &self.place.disk;
        disk.write(write, &self.file, (self.length, bytes)).map_err(JournalError::io("write", &self.path))?;
        disk.sync(sync, &self.file).map_err(JournalError::io("sync", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// Opens a file of the journal for writing, creating it where it is missing.
pub(crate) fn open_for_writing(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    options.open(path).map_err(JournalError::io("open", path))
}

/// Nanoseconds since 1970 UTC by the wall clock, however wrong it is.
pub(crate) fn now_ns() -> i64 {
    let since = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|before| -since(before.duration()), since)
}
