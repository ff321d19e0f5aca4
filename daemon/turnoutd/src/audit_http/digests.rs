//! Digests of whole files: few at one time, so that the threads that every answer needs stay free; broken off when
//! nobody waits any more; and remembered, because what lies in a snapshot does not change.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, oneshot};
use turnout_manifest::Sha256;
use turnout_manifest::digest::Hasher;

/// Most files that are hashed at one time: fewer than there are threads.
const HASHED_MAX: usize = 2;
/// Most digests that are remembered.
const REMEMBERED_MAX: usize = 1024;
/// Bytes that are hashed between two looks at whether somebody still waits.
const PIECE: usize = 1 << 20;

/// A file's content, as far as the kernel tells it from another without reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// The other time can be set back.
    changed: (i64, i64),
}

impl Content {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Makes digests and remembers the newest. Clones are the same.
#[derive(Debug, Clone)]
pub struct Digests {
    places: Arc<Semaphore>,
    remembered: Arc<Mutex<VecDeque<(Content, Sha256)>>>,
}

impl Default for Digests {
    /// With nothing remembered.
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(HASHED_MAX)), remembered: Arc::default() }
    }
}

impl Digests {
    /// The digest of a file, `None` when it cannot be read. Waits until a place is free; the work ends with the waiting.
    pub async fn of(&self, file: Arc<File>) -> Option<Sha256> {
        let content = Content::of(&file).ok()?;
        if let Some(digest) = self.known(content) {
            return Some(digest);
        }
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        // Who had the place may have been asked for the same file.
        if let Some(digest) = self.known(content) {
            return Some(digest);
        }
        let (told, digest) = oneshot::channel();
        let digests = self.clone();
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let made = hash(&file, || !told.is_closed()).ok().flatten();
            if let Some(digest) = made.filter(|_| Content::of(&file).is_ok_and(|now| now == content)) {
                digests.remember(content, digest);
            }
            let _ = told.send(made);
        });
        digest.await.ok().flatten()
    }

    fn known(&self, wanted: Content) -> Option<Sha256> {
        self.remembered().iter().find(|(content, _)| *content == wanted).map(|(_, digest)| *digest)
    }

    fn remember(&self, content: Content, digest: Sha256) {
        let mut remembered = self.remembered();
        if remembered.len() == REMEMBERED_MAX {
            remembered.pop_front();
        }
        remembered.push_back((content, digest));
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<(Content, Sha256)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The digest of a file, `None` when it is not wanted any more.
fn hash(file: &File, is_wanted: impl Fn() -> bool) -> io::Result<Option<Sha256>> {
    let (mut hasher, mut piece, mut at) = (Hasher::default(), vec![0; PIECE], 0);
    while is_wanted() {
        match file.read_at(&mut piece, at) {
            Ok(0) => return Ok(Some(hasher.finish())),
            Ok(count) => {
                hasher.update(&piece[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::time::{Duration, SystemTime};
    use tokio::time::timeout;

    /// Long enough for what is to happen, too short for what is not.
    const MOMENT: Duration = Duration::from_millis(100);
    const DEADLINE: Duration = Duration::from_secs(20);

    fn file_of(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    /// A file that takes minutes to read, and no room.
    fn endless() -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn two_files_are_hashed_at_a_time_and_a_third_waits_for_its_place() {
        let digests = Digests::default();
        let under_way = digests.places.acquire_many(2).await.unwrap();
        let third = digests.of(file_of(b"third"));
        tokio::pin!(third);
        assert!(timeout(MOMENT, &mut third).await.is_err());
        drop(under_way);
        assert_eq!(timeout(DEADLINE, third).await.unwrap(), Some(Sha256::of(b"third")));
        assert!(timeout(DEADLINE, digests.places.acquire_many(2)).await.is_ok(), "a place is kept");
    }

    #[tokio::test]
    async fn the_work_ends_when_nobody_waits_for_it() {
        let digests = Digests::default();
        for _ in 0..3 {
            let two = async { tokio::join!(digests.of(endless()), digests.of(endless())) };
            assert!(timeout(MOMENT, two).await.is_err());
        }
        let free = timeout(DEADLINE, digests.places.acquire_many(2)).await;
        assert!(free.is_ok(), "what nobody waits for is still hashed");
        assert!(digests.remembered().is_empty());
    }

    #[test]
    fn whether_it_is_wanted_is_asked_every_mebibyte() {
        let asked = Cell::new(0);
        let wanted = || asked.replace(asked.get() + 1) < 5;
        assert_eq!(hash(&endless(), wanted).unwrap(), None);
        assert_eq!(asked.get(), 6);
        let long = vec![7; 3 * PIECE + 1];
        assert_eq!(hash(&file_of(&long), || true).unwrap(), Some(Sha256::of(&long)));
    }

    #[tokio::test]
    async fn a_file_is_hashed_once_as_long_as_it_stays_the_same() {
        let (digests, place) = (Digests::default(), tempfile::NamedTempFile::new().unwrap());
        let open = || Arc::new(OpenOptions::new().read(true).write(true).open(place.path()).unwrap());
        open().write_at(b"one", 0).unwrap();
        assert_eq!(digests.of(open()).await, Some(Sha256::of(b"one")));
        // Another digest in its place shows that it was not made anew.
        digests.remembered()[0].1 = Sha256::of(b"kept");
        assert_eq!(digests.of(open()).await, Some(Sha256::of(b"kept")));
        open().write_at(b"two", 0).unwrap();
        open().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(digests.of(open()).await, Some(Sha256::of(b"two")));
    }

    #[test]
    fn the_oldest_digest_is_forgotten_for_one_too_many() {
        let digests = Digests::default();
        let content = |inode| Content { device: 1, inode, size: 0, modified: (0, 0), changed: (0, 0) };
        let most = REMEMBERED_MAX as u64;
        (0..=most).for_each(|inode| digests.remember(content(inode), Sha256([7; 32])));
        assert_eq!(digests.remembered().len(), REMEMBERED_MAX);
        let known = [0, 1, most].map(|inode| digests.known(content(inode)).is_some());
        assert_eq!(known, [false, true, true]);
    }
}
