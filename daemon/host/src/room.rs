//! Room in the store: what imports leave free, and what those under way have still to write. What to do about a full store
//! is left to who asked.

use crate::HostError;
use crate::volume::Volume;
use rustix::fs::{StatVfs, statvfs, syncfs};
use std::fs::File;

/// Smallest part of the volume that imports leave free, bytes: snapshots and deletions need it.
const RESERVE_MIN: u64 = 64 << 20;
/// The same as a share of the volume: one part in this many.
const RESERVE_SHARE: u64 = 10;
/// The greatest: a store on a large disk of the host's own shares it with others.
const RESERVE_MAX: u64 = 8 << 30;

/// The imports under way.
#[derive(Debug, Default)]
pub(crate) struct UnderWay {
    imports: usize,
    /// What they have still to write, bytes.
    unwritten: u64,
}

/// The room of one import: as much as it has still to write. The rest is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    volume: &'a Volume,
    unwritten: u64,
}

impl Room<'_> {
    /// Leaves what was written to the file system's own count.
    pub(crate) fn written(&mut self, bytes: usize) {
        let written = self.unwritten.min(bytes as u64);
        self.unwritten -= written;
        self.volume.under_way().unwritten -= written;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let mut under_way = self.volume.under_way();
        under_way.imports -= 1;
        under_way.unwritten -= self.unwritten;
    }
}

impl Volume {
    /// Gives an import its room. Refuses what would eat into the reserve, or into the room of others.
    pub(crate) fn take_room(&self, bytes: u64) -> Result<Room<'_>, HostError> {
        // Held throughout: nobody else is given the same room, and no import goes on to write.
        let mut under_way = self.under_way();
        if under_way.imports > 0 {
            // A file system does not count what only its cache has.
            let synced = File::open(self.root()).and_then(|root| Ok(syncfs(&root)?));
            synced.map_err(HostError::os("syncfs", self.root().display()))?;
        }
        let (free_bytes, needed_bytes) = self.room(bytes)?;
        let free_bytes = free_bytes.saturating_sub(under_way.unwritten);
        if free_bytes < needed_bytes {
            return Err(HostError::NoSpace { free_bytes, needed_bytes });
        }
        under_way.imports += 1;
        under_way.unwritten += bytes;
        Ok(Room { volume: self, unwritten: bytes })
    }

    /// A full disk, met half-way, is told like one that was full from the start; so is one that failed.
    pub(crate) fn explain_full(&self, bytes: u64, error: HostError) -> HostError {
        let full = |code| code == libc::ENOSPC || code == libc::EDQUOT;
        if self.is_read_only().unwrap_or(false) {
            return HostError::ReadOnlyStore;
        }
        match &error {
            HostError::Os { source, .. } if source.raw_os_error().is_some_and(full) => match self.room(bytes)
            {
                Ok((free_bytes, needed_bytes)) => HostError::NoSpace { free_bytes, needed_bytes },
                Err(_) => error,
            },
            _ => error,
        }
    }

    fn room(&self, bytes: u64) -> Result<(u64, u64), HostError> {
        let room = statvfs(self.root()).map_err(HostError::os("statvfs", self.root().display()))?;
        Ok((room.f_bavail * room.f_frsize, bytes.saturating_add(self.reserve(&room))))
    }

    /// What imports leave free.
    pub(crate) fn reserve(&self, room: &StatVfs) -> u64 {
        (room.f_blocks * room.f_frsize / RESERVE_SHARE).clamp(RESERVE_MIN, RESERVE_MAX)
    }
}
