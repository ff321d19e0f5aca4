//! Where an export goes on: the number of the next record, in a file that is whole after any crash.
//!
//! A receiver such as journald has a record long before its disk has. The file therefore holds two numbers and the boot
//! they are of: while the machine runs, the next run goes on at the first; after a power cut, at the second, which the
//! receiver has had for long enough to be safe; so it does where nobody can tell which boot this is. Records in between
//! are given again, never missed. So are they where the journal lost its end while the machine ran, as after a failed
//! sync: the leaf of the last record given tells.

use std::collections::VecDeque;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use turnout_journal::{CURSOR_MAX, Hash, ReaderPlace};

/// After this time a receiver has a record on disk: journald syncs every five minutes (journald.conf(5)).
const SETTLED: Duration = Duration::from_secs(600);
/// Shortest time between two files on disk, as long as records come.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Most numbers that wait to be safe; one is added with each file.
const WAITING_MAX: usize = 1024;
/// What the file has for a boot that nobody could tell: it is never the same as another.
const UNKNOWN: &str = "unknown";

/// Where the next run goes on.
pub struct Cursor {
    file: Option<PathBuf>,
    /// This boot, where it is known.
    boot: Option<String>,
    next: u64,
    safe: u64,
    /// Leaf of the record before the next.
    leaf: Option<Hash>,
    waiting: VecDeque<(Instant, u64)>,
    saved: Option<Instant>,
}

/// Why a cursor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// Its file cannot be read or replaced.
    #[error("`{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// Its file holds something else than a place in a journal.
    #[error("`{0}` holds no record number; remove it to begin at the first record")]
    Content(PathBuf),
}

impl Cursor {
    /// Reads the file, if there is one; otherwise the first record is next.
    ///
    /// # Errors
    /// [`CursorError`].
    pub fn open(file: Option<&Path>) -> Result<Self, CursorError> {
        Self::open_in(file, boot_id())
    }

    fn open_in(file: Option<&Path>, boot: Option<String>) -> Result<Self, CursorError> {
        let (next, safe, leaf) = match file {
            Some(path) => place(path, boot.as_deref())?,
            None => (0, 0, None),
        };
        let (file, waiting) = (file.map(Path::to_owned), VecDeque::new());
        Ok(Self { file, boot, next, safe, leaf, waiting, saved: None })
    }

    /// The next record's number.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Goes on at this record where the ones before it were pruned; gives how many are not given for that.
    pub fn skip_to(&mut self, first: u64) -> u64 {
        let missed = first.saturating_sub(self.next);
        if missed > 0 {
            (self.next, self.leaf) = (first, None);
        }
        missed
    }

    /// The last record that was given, by its number and leaf, where that is known.
    pub fn last(&self) -> Option<(u64, Hash)> {
        self.next.checked_sub(1).zip(self.leaf)
    }

    /// Goes on where everything before is safe: what was given after that is not what the journal has.
    pub fn go_back(&mut self) {
        (self.next, self.leaf) = (self.safe.min(self.next), None);
    }

    /// Notes that this record, with this leaf, and everything before it were given. The file follows at once, or within a
    /// second while records come fast.
    ///
    /// # Errors
    /// [`CursorError::File`].
    pub fn advance(&mut self, given: u64, leaf: Hash) -> Result<(), CursorError> {
        (self.next, self.leaf) = (given + 1, Some(leaf));
        match self.saved {
            Some(saved) if saved.elapsed() < SAVE_EVERY => Ok(()),
            _ => self.save(),
        }
    }

    /// Writes the file, if it does not hold the present place.
    ///
    /// # Errors
    /// [`CursorError::File`].
    pub fn save(&mut self) -> Result<(), CursorError> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        if self.waiting.back().is_some_and(|(_, saved)| *saved == self.next) {
            return Ok(());
        }
        self.settle(Instant::now());
        let leaf = self.leaf.map(|leaf| format!(" {leaf}")).unwrap_or_default();
        let boot = self.boot.as_deref().unwrap_or(UNKNOWN);
        let text = format!("{} {} {boot}{leaf}\n", self.next, self.safe);
        replace(&path, &text).map_err(|source| CursorError::File { path, source })?;
        self.saved = Some(Instant::now());
        Ok(())
    }

    /// What was given long enough ago is safe.
    fn settle(&mut self, now: Instant) {
        while let Some((_, safe)) =
            self.waiting.pop_front_if(|(given, _)| now.saturating_duration_since(*given) >= SETTLED)
        {
            self.safe = safe;
        }
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((now, self.next));
        } else if let Some(newest) = self.waiting.back_mut() {
            *newest = (now, self.next);
        }
    }
}

/// The record that comes next by a file, while its machine runs; none where there is no file.
///
/// # Errors
/// [`CursorError`].
pub fn noted(path: &Path) -> Result<Option<u64>, CursorError> {
    Ok(read(path)?.map(|place| place.next))
}

/// What a file says in this boot: the next record, the one that is safe, and the leaf before the next.
fn place(path: &Path, boot: Option<&str>) -> Result<(u64, u64, Option<Hash>), CursorError> {
    let Some(ReaderPlace { next, safe, boot: of, leaf }) = read(path)? else { return Ok((0, 0, None)) };
    match of.as_deref() {
        // Written by a version that kept no boot.
        None => Ok((next, safe, leaf)),
        Some(of) if of != UNKNOWN && boot == Some(of) => Ok((next, safe, leaf)),
        Some(_) => Ok((safe, safe, None)),
    }
}

fn read(path: &Path) -> Result<Option<ReaderPlace>, CursorError> {
    let failed = |source| CursorError::File { path: path.to_owned(), source };
    let foreign = || CursorError::Content(path.to_owned());
    match fs::metadata(path).map(|found| found.len()) {
        Ok(length) if length > CURSOR_MAX => return Err(foreign()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    text.parse().map(Some).map_err(|_| foreign())
}

/// The id of this boot; without one, no cursor is of this boot, and only what is safe counts.
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Permissions of the file: whoever prunes the journal may read how far its reader is.
const READABLE: u32 = 0o644;

/// rename(2) leaves the old text or the new one, and after a power cut never an empty file: the new one is on disk first.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.set_permissions(Permissions::from_mode(READABLE))?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> Hash {
        Hash::of(b"leaf")
    }

    #[test]
    fn a_cursor_survives_and_a_foreign_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let mut cursor = Cursor::open(Some(&path)).unwrap();
        assert_eq!(cursor.next(), 0);
        cursor.advance(41, leaf()).unwrap();
        let cursor = Cursor::open(Some(&path)).unwrap();
        assert_eq!((cursor.next(), cursor.last()), (42, Some((41, leaf()))));
        for foreign in ["x", "", "-1", "1 2", "1 x b", "1 2 3 4", "99999999999999999999999999"] {
            fs::write(&path, foreign).unwrap();
            assert!(matches!(Cursor::open(Some(&path)), Err(CursorError::Content(_))), "{foreign:?}");
        }
    }

    #[test]
    fn after_another_boot_only_what_the_receiver_has_had_for_long_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let open = |boot: &str| Cursor::open_in(Some(&path), Some(boot.to_owned())).unwrap();
        let mut cursor = open("first");
        let began = Instant::now();
        for (seconds, next) in [(0, 10), (300, 20), (601, 30)] {
            cursor.next = next;
            cursor.settle(began + Duration::from_secs(seconds));
        }
        cursor.waiting.clear();
        cursor.save().unwrap();
        assert_eq!((open("first").next(), open("second").next()), (30, 10));
    }

    #[test]
    fn a_boot_that_is_not_known_is_no_boot_to_go_on_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let next = |boot: Option<&str>| Cursor::open_in(Some(&path), boot.map(str::to_owned)).unwrap().next();
        let mut cursor = Cursor::open_in(Some(&path), None).unwrap();
        (cursor.next, cursor.safe) = (30, 10);
        cursor.save().unwrap();
        assert_eq!([next(None), next(Some("first")), next(Some(UNKNOWN))], [10, 10, 10]);
        assert_eq!(noted(&path).unwrap(), Some(30), "what is told of it is what it holds");
        fs::write(&path, "30 10 first\n").unwrap();
        assert_eq!([next(Some("first")), next(None)], [30, 10]);
    }

    #[test]
    fn a_place_before_what_was_pruned_goes_on_after_it_and_the_file_can_be_read_by_who_prunes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let mut cursor = Cursor::open(Some(&path)).unwrap();
        assert_eq!((cursor.skip_to(7), cursor.skip_to(3), cursor.next()), (7, 0, 7));
        cursor.advance(7, leaf()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, READABLE);
        let place: ReaderPlace = fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!((place.next, place.safe), (8, 0));
    }

    #[test]
    fn the_file_holds_the_last_place_once_it_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let mut cursor = Cursor::open(Some(&path)).unwrap();
        for given in 0..100 {
            cursor.advance(given, leaf()).unwrap();
        }
        cursor.save().unwrap();
        assert_eq!(Cursor::open(Some(&path)).unwrap().next(), 100);
    }
}
