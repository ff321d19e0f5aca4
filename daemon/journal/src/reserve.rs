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
    /// Makes the reserve, or finds it; without room for it, it counts as spent. None is kept where `bytes` is 0.
    pub(crate) fn open(dir: &Path, bytes: u64) -> Result<Reserve> {
        let reserve = Reserve { dir: dir.to_owned(), bytes, full: Mutex::new(false) };
        reserve.restore()?;
        Ok(reserve)
    }

    /// Whether the space is used up, or on its way to be.
    pub(crate) fn is_spent(&self) -> bool {
        self.bytes > 0 && !*self.state()
    }

    /// Gives the space up; false when there is none to give.
    pub(crate) fn spend(&self) -> bool {
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
        let file = open_for_writing(&path)?;
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
