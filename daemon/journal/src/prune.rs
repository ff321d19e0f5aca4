//! Pruning: the oldest segments go, their hashes and the checkpoints stay, so that every proof about newer records holds.
//! Two steps, so that the caller's record of it stands between them: the base is written, then segments are removed. A
//! pruning that is interrupted leaves a journal that reads as before it, or as after it, and can be repeated.

use std::fs;
use std::path::Path;

use crate::active::{Place, open_for_writing};
use crate::begin::{self, base_name};
use crate::disk::Point;
use crate::error::{JournalError, Result};
use crate::segment;
use crate::tiles;
use crate::tree::Hash;
use crate::writer::Journal;

/// A base before it gets its name.
const NEW_BASE: &str = "base.new";

/// What a pruning removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number of segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Journal {
    /// Writes the base of a journal that begins with record `first`, and makes it and the hashes of everything before that
    /// durable. Nothing is removed yet. The answer is the SHA-256 of the base.
    ///
    /// # Errors
    ///
    /// `NotPrunable` when `first` does not begin a segment that another one follows; `TilesDiffer`, `TileMissing` when the
    /// hashes of the records are not kept yet; `BaseTooLarge`, `Poisoned`, `Io`.
    pub fn write_base(&self, first: u64, bytes: &[u8]) -> Result<Hash> {
        if bytes.len() as u64 > begin::BASE_MAX {
            return Err(JournalError::BaseTooLarge { bytes: bytes.len() as u64 });
        }
        let place = self.place()?;
        check_place(&place.dir, first)?;
        tiles::complete(&place.dir, first)?;
        tiles::check(&place.dir, first)?;
        let io = JournalError::io;
        place.disk.sync(Point::TilesSync, &place.directory).map_err(io("sync", &place.dir))?;
        let new = place.dir.join(NEW_BASE);
        // A disk that is full gets back what was written in vain.
        name_base(place, &new, (first, bytes)).inspect_err(|_| drop(fs::remove_file(&new)))?;
        Ok(Hash::of(bytes))
    }

    /// Removes the segments before the one that begins with record `first`, oldest first, and bases of other beginnings.
    /// Nothing is removed unless the base there has this SHA-256. It can be repeated.
    ///
    /// # Errors
    ///
    /// `BaseDiffers`, and as [`Journal::write_base`]: nothing was removed then, unless the file system refused in between.
    pub fn prune(&self, first: u64, base: Hash) -> Result<Pruned> {
        let place = self.place()?;
        check_place(&place.dir, first)?;
        let found = Hash::of(&begin::read_base(&place.dir, first)?);
        if found != base {
            return Err(JournalError::BaseDiffers { first, written: base, found });
        }
        tiles::check(&place.dir, first)?;
        let mut pruned = Pruned::default();
        let io = JournalError::io;
        for old in segment::list(&place.dir)?.into_iter().filter(|old| *old < first) {
            let path = place.dir.join(segment::file_name(old));
            let bytes = fs::metadata(&path).map_err(io("inspect", &path))?.len();
            place.disk.remove(Point::SegmentRemove, &path).map_err(io("remove", &path))?;
            // One after the other also on disk: what is left has no hole whenever the machine stops.
            let synced = place.disk.sync(Point::SegmentRemoveSync, &place.directory);
            synced.map_err(io("sync", &place.dir))?;
            pruned.segments += 1;
            pruned.bytes += bytes;
        }
        for other in begin::bases(&place.dir)?.into_iter().filter(|other| *other != first) {
            let path = place.dir.join(base_name(other));
            place.disk.remove(Point::BaseRemove, &path).map_err(io("remove", &path))?;
        }
        Ok(pruned)
    }
}

/// Writes the base under a temporary name, and gives it its own once it is durable.
fn name_base(place: &Place, new: &Path, (first, bytes): (u64, &[u8])) -> Result<()> {
    let (disk, path, io) = (&place.disk, place.dir.join(base_name(first)), JournalError::io);
    let file = open_for_writing(new)?;
    disk.truncate(Point::BaseWrite, &file, 0).map_err(io("empty", new))?;
    disk.write(Point::BaseWrite, &file, (0, bytes)).map_err(io("write", new))?;
    disk.sync(Point::BaseSync, &file).map_err(io("sync", new))?;
    disk.rename(Point::BaseRename, new, &path).map_err(io("rename", new))?;
    disk.sync(Point::BaseDirectorySync, &place.directory).map_err(io("sync", &place.dir))
}

/// Checks that a journal can begin with this record: another segment follows the one that it begins.
fn check_place(dir: &Path, first: u64) -> Result<()> {
    let segments = begin::segments(dir)?;
    let sealed = segments.split_last().map(|(_, sealed)| sealed).unwrap_or_default();
    if first == 0 || !sealed.contains(&first) {
        return Err(JournalError::NotPrunable { first });
    }
    Ok(())
}
