//! The only place where the journal changes files, one call per named step, so that tests can fail each step or stop there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Every change to the disk by name. After each of them the machine may stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// Append a batch with its trailer.
    BatchWrite,
    /// Make it durable: what is before this was never acknowledged.
    BatchSync,
    /// Append the seal of a full segment.
    SealWrite,
    /// Make the seal durable.
    SealSync,
    /// Write a new segment's header under a temporary name.
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
    /// Copy a torn end to its side file.
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
    /// Writes all these bytes at this offset.
    fn write(&self, _: Point, file: &File, (offset, bytes): (u64, &[u8])) -> io::Result<()> {
        file.write_all_at(bytes, offset)
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
