//! The only place where the journal changes files, one call per named step, so that tests can fail each step or stop there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, FsWord, OFlags, fadvise, fstatfs};

/// Mode of every file: root writes, the group may read.
const FILE_MODE: u32 = 0o640;
/// ext2 to ext4, and XFS, as `linux/magic.h` numbers them. What copies on write has a new place for every block.
const OVERWRITING: [FsWord; 2] = [0xef53, 0x5846_5342];

/// Every change to the disk by name. After each of them the machine may stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// Fill the file with zeros ahead of small batches.
    FillWrite,
    /// Append the records of a batch, and then its trailer.
    BatchWrite,
    /// Make it durable: what is before this was never acknowledged.
    BatchSync,
    /// Cut off the zeros that no batch has filled.
    FillTruncate,
    /// Make that durable: a seal is the end of its file.
    FillTruncateSync,
    /// Append the seal of a full segment.
    SealWrite,
    /// Make the seal durable.
    SealSync,
    /// Create a new segment under a temporary name.
    SegmentCreate,
    /// Empty it, and write its header.
    SegmentWrite,
    /// Make it durable.
    SegmentSync,
    /// Give the new segment its name.
    SegmentRename,
    /// Make the name durable.
    SegmentDirectorySync,
    /// Flush what an ended process may have left in memory.
    RecoverySync,
    /// Make the names it may have left durable.
    RecoveryDirectorySync,
    /// Create the side file of a torn end.
    TornCreate,
    /// Copy the torn end to it.
    TornWrite,
    /// Make the copy durable.
    TornSync,
    /// Make its name durable.
    TornDirectorySync,
    /// Cut the torn end off.
    CutTruncate,
    /// Make the cut durable.
    CutSync,
    /// Make the hashes of what is to be pruned durable.
    TilesSync,
    /// Write a base under a temporary name.
    BaseWrite,
    /// Make it durable.
    BaseSync,
    /// Give it its name.
    BaseRename,
    /// Make the name durable.
    BaseDirectorySync,
    /// Remove a pruned segment.
    SegmentRemove,
    /// Make that durable before the next one goes.
    SegmentRemoveSync,
    /// Remove the base of an earlier beginning.
    BaseRemove,
}

/// Changes files. What an implementation does not say is done as [`SystemDisk`] does it.
pub(crate) trait Disk: Send + Sync {
    /// Opens a file for writing, creating it where it is missing.
    fn create(&self, _: Point, path: &Path) -> io::Result<File> {
        open_for_writing(path)
    }

    /// Writes all these bytes at this offset.
    fn write(&self, _: Point, file: &File, (offset, bytes): (u64, &[u8])) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Whether writing over what a file has already changes nothing else on this file system: what a batch writes over zeros
    /// is durable without the metadata that a longer file needs.
    fn overwrites(&self, directory: &File) -> bool {
        fstatfs(directory).is_ok_and(|system| OVERWRITING.contains(&system.f_type))
    }

    /// Lets the kernel begin to write these bytes of the file, and does not wait for it: a sync that follows has less to do.
    fn begin_writing(&self, file: &File, bytes: Range<u64>) {
        // mm/fadvise.c: dirty pages are queued for writing; those that were clean already are given up. Only a hint.
        let length = NonZeroU64::new(bytes.end.saturating_sub(bytes.start));
        let _ = fadvise(file, bytes.start, length, Advice::DontNeed);
    }

    /// Makes a file or directory durable.
    fn sync(&self, point: Point, file: &File) -> io::Result<()> {
        match point {
            // Data and length are all that an append changes.
            Point::BatchSync | Point::SealSync => file.sync_data(),
            // Tiles lie in many folders, each with a name that must last.
            Point::TilesSync => Ok(rustix::fs::syncfs(file)?),
            _ => file.sync_all(),
        }
    }

    /// Renames within one directory.
    fn rename(&self, _: Point, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Cuts a file to this length.
    fn truncate(&self, _: Point, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }

    /// Removes a file.
    fn remove(&self, _: Point, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// The real one.
#[derive(Debug)]
pub(crate) struct SystemDisk;

impl Disk for SystemDisk {}

/// Opens a file of the journal for reading. One that is none is refused, and not waited for: the folder may be a copy from
/// elsewhere.
pub(crate) fn open_for_reading(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

/// Opens a file of the journal for writing, creating it where it is missing.
pub(crate) fn open_for_writing(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    options.open(path)
}
