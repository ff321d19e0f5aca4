//! Replays one segment batch by batch and checks everything on the way: frames, numbers, roots, the chain of trailers, the seal.
//! The only reader of the format: opening, reading and verifying all go through it. What a broken end means is `tail.rs`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::disk::open_for_reading;
use crate::error::{Damage, Flaw, JournalError, Result};
use crate::frame::{Frame, HEAD_BYTES, Head, Kind, MAX_BATCH_BYTES, MAX_BODY_BYTES, Seal, Trailer};
use crate::segment::{Header, file_name};
use crate::tree::{Hash, Tree, record_leaf};

const READ_AHEAD_BYTES: usize = 256 << 10;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, counted from 0.
    pub seq: u64,
    /// When it was handed to the journal: nanoseconds since 1970 UTC. The order is `seq` alone.
    pub time_ns: i64,
    /// The bytes the caller gave.
    pub body: Vec<u8>,
}

impl Record {
    /// Its leaf in the Merkle tree.
    pub fn leaf(&self) -> Hash {
        record_leaf(self.seq, self.time_ns, &self.body)
    }
}

/// What comes next in a segment.
#[derive(Debug)]
pub(crate) enum Step {
    /// A committed batch.
    Batch(Vec<Record>),
    /// The segment is sealed and complete.
    Sealed,
    /// No further committed batch: end of the file, or bytes that are not a whole valid batch.
    End(End),
}

/// Where the committed part of a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At the end of the file.
    Clean,
    /// Bytes follow, up to `length`, whole frames at first; the first that are not start at `broken_at`.
    Torn { broken_at: u64, length: u64 },
}

/// A segment being replayed.
#[derive(Debug)]
pub(crate) struct Replay {
    name: String,
    path: PathBuf,
    created_ns: i64,
    window: Window,
    done: Done,
}

/// What was replayed: everything up to the last valid batch, or the seal.
#[derive(Debug)]
struct Done {
    first_seq: u64,
    log_id: Hash,
    offset: u64,
    tree: Tree,
    last_trailer: Hash,
    sealed: bool,
}

/// Records that no trailer has committed yet.
struct Draft {
    /// End of the last frame taken.
    at: u64,
    tree: Tree,
    records: Vec<Record>,
}

impl Replay {
    /// Opens the segment that starts with this record; `None` when there is no such file.
    pub(crate) fn open(dir: &Path, first_seq: u64) -> Result<Option<Replay>> {
        let name = file_name(first_seq);
        let path = dir.join(&name);
        let file = match open_for_reading(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(JournalError::io("open", &path)(error)),
        };
        let mut window = Window::new(file);
        let head = window.get(0, Header::MAX_BYTES).map_err(JournalError::io("read", &path))?;
        let damage = |what| Damage { segment: name.clone(), offset: 0, seq: first_seq, what };
        let (header, length) = Header::parse(head).ok_or_else(|| damage(Flaw::Header))?;
        if header.first_seq() != first_seq {
            return Err(damage(Flaw::Name).into());
        }
        if first_seq == 0 && header.last_trailer != Hash::ZERO {
            return Err(damage(Flaw::Link).into());
        }
        let Header { log_id, created_ns, tree, last_trailer } = header;
        let done = Done { first_seq, log_id, offset: length as u64, tree, last_trailer, sealed: false };
        Ok(Some(Replay { name, path, created_ns, window, done }))
    }

    /// Goes on to the next batch or finds the end. After an end it may be asked again: a writer may have gone on.
    pub(crate) fn step(&mut self) -> Result<Step> {
        if self.done.sealed {
            return self.check_nothing_follows();
        }
        let mut draft = Draft { at: self.done.offset, tree: self.done.tree.clone(), records: Vec::new() };
        loop {
            let frame = self.window.frame(draft.at).map_err(JournalError::io("read", &self.path))?;
            let Some(frame) = frame else { return self.end(draft.at).map(Step::End) };
            let flaw = match self.done.take(&frame, &mut draft) {
                Ok(Kind::Record) => continue,
                Ok(Kind::Trailer) => return Ok(Step::Batch(draft.records)),
                Ok(Kind::Seal) => return self.check_nothing_follows(),
                Err(flaw) => flaw,
            };
            return Err(self.damage(draft.at, draft.tree.size(), flaw).into());
        }
    }

    /// The header of this segment before the first step, and that of the next one after the last; but for the time.
    pub(crate) fn successor(&self) -> Header {
        let (tree, last_trailer) = (self.done.tree.clone(), self.done.last_trailer);
        Header { log_id: self.done.log_id, created_ns: 0, tree, last_trailer }
    }

    pub(crate) fn damage(&self, offset: u64, seq: u64, what: Flaw) -> Damage {
        Damage { segment: self.name.clone(), offset, seq, what }
    }

    pub(crate) fn first_seq(&self) -> u64 {
        self.done.first_seq
    }

    /// When the segment was begun: nanoseconds since 1970 UTC.
    pub(crate) fn created_ns(&self) -> i64 {
        self.created_ns
    }

    pub(crate) fn offset(&self) -> u64 {
        self.done.offset
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.done.tree
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.done.sealed
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.window.file
    }

    fn check_nothing_follows(&mut self) -> Result<Step> {
        let follows = self.window.get(self.done.offset, 1).map_err(JournalError::io("read", &self.path))?;
        if follows.is_empty() {
            return Ok(Step::Sealed);
        }
        Err(self.damage(self.offset(), self.tree().size(), Flaw::AfterSeal).into())
    }

    fn end(&mut self, broken_at: u64) -> Result<End> {
        // What was read past the last batch may be a write in progress, and a cut end may be written anew.
        self.window.forget();
        let length = self.file().metadata().map_err(JournalError::io("inspect", &self.path))?.len();
        Ok(if length <= self.offset() { End::Clean } else { End::Torn { broken_at, length } })
    }
}

impl Done {
    /// Checks the frame after the draft and takes it up: a record into the draft, a trailer with the draft into what is done.
    fn take(&mut self, frame: &Frame<'_>, draft: &mut Draft) -> std::result::Result<Kind, Flaw> {
        let head = frame.head;
        let next = draft.at + head.frame_bytes() as u64;
        if head.seq != draft.tree.size() {
            return Err(Flaw::Sequence { found: head.seq });
        }
        match head.kind {
            Kind::Record => {
                if next - self.offset > MAX_BATCH_BYTES as u64 {
                    return Err(Flaw::Batch);
                }
                let record = Record { seq: head.seq, time_ns: head.time_ns, body: frame.body().to_vec() };
                draft.tree.push(record.leaf());
                draft.records.push(record);
                draft.at = next;
            }
            Kind::Trailer => {
                self.check_trailer(&Trailer::parse(frame.body())?, draft)?;
                self.last_trailer = frame.hash();
                self.tree = draft.tree.clone();
                self.offset = next;
            }
            Kind::Seal => {
                let records = self.tree.size() - self.first_seq;
                let due = Seal { records, root: self.tree.root(), last_trailer: self.last_trailer };
                if Seal::parse(frame.body())? != due || !draft.records.is_empty() {
                    return Err(Flaw::Seal);
                }
                self.sealed = true;
                self.offset = next;
            }
        }
        Ok(head.kind)
    }

    fn check_trailer(&self, trailer: &Trailer, draft: &Draft) -> std::result::Result<(), Flaw> {
        if trailer.first_seq != self.tree.size() || draft.records.is_empty() {
            return Err(Flaw::Batch);
        }
        if trailer.previous != self.last_trailer {
            return Err(Flaw::Chain);
        }
        if trailer.root != draft.tree.root() {
            return Err(Flaw::Root);
        }
        Ok(())
    }
}

/// Reads a file at any offset through one buffer.
#[derive(Debug)]
struct Window {
    file: File,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn new(file: File) -> Window {
        Window { file, start: 0, bytes: Vec::new() }
    }

    /// The valid frame at this offset, if there is one.
    fn frame(&mut self, offset: u64) -> io::Result<Option<Frame<'_>>> {
        let Some(head) = Head::parse(self.get(offset, HEAD_BYTES)?) else { return Ok(None) };
        Ok(Frame::parse(self.get(offset, head.frame_bytes())?))
    }

    /// `length` bytes at this offset; fewer only where the file ends.
    fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        debug_assert!(length <= HEAD_BYTES + MAX_BODY_BYTES);
        let cached = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = cached.filter(|skip| skip.saturating_add(length) <= self.bytes.len()) {
            return Ok(&self.bytes[skip..skip + length]);
        }
        self.start = offset;
        self.bytes = read_at_most(&self.file, offset, length.max(READ_AHEAD_BYTES))?;
        Ok(&self.bytes[..length.min(self.bytes.len())])
    }

    fn forget(&mut self) {
        self.bytes.clear();
    }
}

/// Reads up to `length` bytes at this offset; fewer only where the file ends.
pub(crate) fn read_at_most(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
