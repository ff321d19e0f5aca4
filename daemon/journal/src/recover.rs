//! Opens the journal for writing: takes the lock, checks how sealed segments hang together, verifies the unsealed end and
//! cuts off what an interrupted write left. Sealed segments are not read through; that is `verify.rs`.

use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{Advice, fadvise};

use crate::active::{Active, Place, now_ns, open_for_writing};
use crate::begin;
use crate::disk::Point;
use crate::error::{Flaw, JournalError, Result};
use crate::frame::{Frame, Kind, SEAL_BYTES, Seal};
use crate::replay::{End, Replay, Step, read_at_most};
use crate::segment::{self, Header};
use crate::tail::{self, Tail};
use crate::tree::{Hash, Tree};

const DIRECTORY_MODE: u32 = 0o750;
const LOCK: &str = "lock";

/// In what state the journal was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Number of committed records.
    pub records: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
    /// What an interrupted write had left at the end, now cut off and kept aside. Unless the disk itself lost bytes, no
    /// record in it was acknowledged.
    pub cut: Option<Cut>,
}

/// A torn end that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Its length, zeros at its end not counted.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Hash,
    /// The side file that holds it.
    pub kept_in: PathBuf,
}

/// Keeps writers away from a journal in whatever state it is, as long as the value lives.
#[derive(Debug)]
pub struct JournalLock {
    _file: File,
}

impl JournalLock {
    /// Takes the lock and looks at nothing else; `None` where no journal ever was. Creates nothing.
    ///
    /// # Errors
    ///
    /// `Locked` while another process has the journal open, `Io`.
    pub fn take(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(LOCK);
        match File::open(&path) {
            Ok(file) => take(&file, dir).map(|()| Some(Self { _file: file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JournalError::io("open", &path)(error)),
        }
    }
}

/// Creates the directory where it is missing and takes its lock, which is held as long as the file is open.
pub(crate) fn lock(dir: &Path) -> Result<File> {
    let created = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(dir);
    created.map_err(JournalError::io("create", dir))?;
    let file = open_for_writing(&dir.join(LOCK))?;
    take(&file, dir).map(|()| file)
}

fn take(file: &File, dir: &Path) -> Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(JournalError::Locked { dir: dir.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(JournalError::io("lock", &dir.join(LOCK))(error)),
    }
}

/// Finds the end of the journal, or creates the first segment. The caller holds the lock.
pub(crate) fn recover(place: Place) -> Result<(Active, Recovered)> {
    let segments = begin::segments(&place.dir)?;
    let Some(last) = segments.last().copied() else { return create_log(place) };
    let file = flush(&place, last)?;
    check_sealed(&place.dir, &segments)?;
    let mut segment = open_listed(&place.dir, last)?;
    let tail = loop {
        match segment.step()? {
            Step::Batch(_) => {}
            Step::Sealed | Step::End(End::Clean) => break Tail::default(),
            Step::End(End::Torn { broken_at, .. }) => break tail::examine(&segment, broken_at)?,
        }
    };
    let cut = cut_off(&place, &file, (&segment, &tail))?;
    let recovered = Recovered { records: segment.tree().size(), root: segment.tree().root(), cut };
    let active = if segment.is_sealed() {
        Active::create(place, Header { created_ns: now_ns(), ..segment.successor() })?
    } else {
        let head = Header { created_ns: segment.created_ns(), ..segment.successor() };
        Active::resume(place, file, (last, segment.offset()), head)
    };
    Ok((active, recovered))
}

fn create_log(place: Place) -> Result<(Active, Recovered)> {
    let log_id = random_id().map_err(JournalError::io("read", Path::new("/dev/urandom")))?;
    let tree = Tree::empty();
    let recovered = Recovered { records: 0, root: tree.root(), cut: None };
    let header = Header { log_id, created_ns: now_ns(), tree, last_trailer: Hash::ZERO };
    Ok((Active::create(place, header)?, recovered))
}

/// An id for a new log.
pub(crate) fn random_id() -> io::Result<Hash> {
    let mut id = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut id)?;
    Ok(Hash::from(id))
}

/// Makes durable what an ended process may have left in memory: what is found now will be built upon.
fn flush(place: &Place, last: u64) -> Result<File> {
    let path = place.dir.join(segment::file_name(last));
    let file = open_for_writing(&path)?;
    place.disk.sync(Point::RecoverySync, &file).map_err(JournalError::io("sync", &path))?;
    // After a failed sync the kernel may keep pages that never reached the disk and call them clean: read the disk, not those.
    fadvise(&file, 0, None, Advice::DontNeed)
        .map_err(|error| JournalError::io("reread", &path)(error.into()))?;
    let synced = place.disk.sync(Point::RecoveryDirectorySync, &place.directory);
    synced.map_err(JournalError::io("sync", &place.dir))?;
    Ok(file)
}

/// Checks that the segments are all there and that each seal is what the next header stands on.
fn check_sealed(dir: &Path, segments: &[u64]) -> Result<()> {
    let mut before = open_listed(dir, segments[0])?;
    for next in &segments[1..] {
        let next = open_listed(dir, *next)?;
        let head = next.successor();
        let (seal_at, seal) = read_seal(&before)?;
        let records = head.first_seq() - before.first_seq();
        let due = Seal { records, root: head.tree.root(), last_trailer: head.last_trailer };
        if seal != Some((head.first_seq(), due)) {
            let what = if seal.is_some() { Flaw::Seal } else { Flaw::NotSealed };
            return Err(before.damage(seal_at, head.first_seq(), what).into());
        }
        if head.log_id != before.successor().log_id {
            return Err(next.damage(0, head.first_seq(), Flaw::ForeignLog).into());
        }
        before = next;
    }
    Ok(())
}

fn open_listed(dir: &Path, first_seq: u64) -> Result<Replay> {
    let gone =
        || JournalError::io("open", &dir.join(segment::file_name(first_seq)))(io::ErrorKind::NotFound.into());
    Replay::open(dir, first_seq)?.ok_or_else(gone)
}

/// The seal at the very end of a segment with the number of records before it, and its offset.
fn read_seal(segment: &Replay) -> Result<(u64, Option<(u64, Seal)>)> {
    let length = segment.file().metadata().map_err(JournalError::io("inspect", segment.path()))?.len();
    let offset = length.saturating_sub(SEAL_BYTES as u64);
    let bytes =
        read_at_most(segment.file(), offset, SEAL_BYTES).map_err(JournalError::io("read", segment.path()))?;
    let frame = Frame::parse(&bytes).filter(|frame| frame.head.kind == Kind::Seal);
    Ok((offset, frame.and_then(|frame| Some((frame.head.seq, Seal::parse(frame.body()).ok()?)))))
}

/// Keeps the torn end in a side file, then cuts it off. Can be interrupted and repeated at any point.
fn cut_off(place: &Place, file: &File, (segment, tail): (&Replay, &Tail)) -> Result<Option<Cut>> {
    if *tail == Tail::default() {
        return Ok(None);
    }
    let cut =
        if tail.torn.is_empty() { None } else { Some(keep_aside(place, segment.tree().size(), &tail.torn)?) };
    let io = JournalError::io;
    let truncated = place.disk.truncate(Point::CutTruncate, file, segment.offset());
    truncated.map_err(io("cut", segment.path()))?;
    place.disk.sync(Point::CutSync, file).map_err(io("sync", segment.path()))?;
    Ok(cut)
}

fn keep_aside(place: &Place, seq: u64, torn: &[u8]) -> Result<Cut> {
    let sha256 = Hash::of(torn);
    // The hash in the name lets a second tear at the same record have a file of its own.
    let path = place.dir.join(format!("torn-{seq}-{:.16}.bin", sha256.to_string()));
    let io = JournalError::io;
    let file = place.disk.create(Point::TornCreate, &path).map_err(io("open", &path))?;
    place.disk.write(Point::TornWrite, &file, (0, torn)).map_err(io("write", &path))?;
    place.disk.sync(Point::TornSync, &file).map_err(io("sync", &path))?;
    place.disk.sync(Point::TornDirectorySync, &place.directory).map_err(io("sync", &place.dir))?;
    Ok(Cut { bytes: torn.len() as u64, sha256, kept_in: path })
}
