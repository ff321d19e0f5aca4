//! Space that is kept for the last records: a file of a fixed size beside the segments, which goes when the disk is full.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FallocateFlags, fallocate, syncfs};

use crate::active::open_for_writing;
use crate::error::{JournalError, Result};

/// Its name, in the journal's folder.
pub const RESERVE: &str = "reserve";

/// The reserve of one journal.
pub(crate) struct Reserve {
    dir: PathBuf,
    bytes: u64,
    /// Whether it is there.
    full: Mutex<bool>,
}

impl Reserve {
    /// Looks whether the reserve is there, and changes nothing. None is kept where `bytes` is 0.
    pub(crate) fn find(dir: &Path, bytes: u64) -> Reserve {
        let full = bytes > 0 && dir.join(RESERVE).exists();
        Reserve { dir: dir.to_owned(), bytes, full: Mutex::new(full) }
    }

    /// Makes the reserve, or makes it as long as it is to be; without room for that, it counts as spent.
    pub(crate) fn fill(&self) -> Result<()> {
        *self.state() = false;
        self.restore().map(drop)
    }

    /// Whether the space is used up, or on its way to be.
    pub(crate) fn is_spent(&self) -> bool {
        self.bytes > 0 && !*self.state()
    }

    /// Does this, and once more with the space given up where there was no room for it.
    pub(crate) fn with_room<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        work().or_else(|error| if found_no_room(&error) && self.spend() { work() } else { Err(error) })
    }

    /// Gives the space up; false when there is none to give.
    fn spend(&self) -> bool {
        let mut full = self.state();
        if !*full {
            return false;
        }
        *full = false;
        let path = self.dir.join(RESERVE);
        // A file system may keep the space until it has committed the removal.
        let given = fs::remove_file(&path).and_then(|()| Ok(syncfs(File::open(&self.dir)?)?));
        given.is_ok()
    }

    /// Takes the space again; false when there is no room.
    pub(crate) fn restore(&self) -> Result<bool> {
        let mut full = self.state();
        if *full || self.bytes == 0 {
            return Ok(true);
        }
        let path = self.dir.join(RESERVE);
        let file = match open_for_writing(&path) {
            Err(error) if found_no_room(&error) => return Ok(false),
            opened => opened?,
        };
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes).map_err(io::Error::from) {
            Ok(()) => *full = true,
            Err(error) if is_full(&error) => drop(fs::remove_file(&path)),
            // A file system without the call has no reserve, and says so by being full at once.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => *full = true,
            Err(error) => return Err(JournalError::io("reserve", &path)(error)),
        }
        Ok(*full)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, bool> {
        self.full.lock().expect("no thread panics while it holds the reserve")
    }
}

/// Whether there was no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What the journal does to a file that can be done again after it found no room: nothing of it counts then. After a
/// failed sync that is never so.
const REPEATABLE: [&str; 5] = ["open", "empty", "write", "rename", "cut"];

/// Whether something failed for want of room and can be done again.
pub(crate) fn found_no_room(error: &JournalError) -> bool {
    matches!(error, JournalError::Io { action, source, .. } if REPEATABLE.contains(action) && is_full(source))
}
