//! Where a test has its volume, and how it takes that away again.

use crate::IMAGE_BYTES;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use turnout_host::HostError;
use turnout_host::volume::{StoreKind, Volume, VolumeConfig, unmount_at};

/// How long a process of another test may keep a volume busy.
const BUSY_MAX: Duration = Duration::from_secs(60);

/// A folder named after the test, so that the next run removes what a killed one left.
pub struct Place {
    folder: PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Place {
    pub fn new() -> Self {
        // Below the build folder: a temporary folder may lie in memory.
        let built = fs::canonicalize(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let folder = built.join(std::thread::current().name().unwrap());
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn config(&self) -> VolumeConfig {
        VolumeConfig {
            kind: StoreKind::Btrfs,
            root: self.path("store"),
            image: self.path("store.img"),
            image_bytes: Some(IMAGE_BYTES),
        }
    }
}

/// Unmounts a volume, and returns when its image has no device any more.
pub fn close(volume: Volume, config: &VolumeConfig) {
    unmount(volume, config);
    until("its device is free", || devices_of(&config.image) == 0);
}

/// Unmounts a volume. All tests share one process, and what another test starts has copies of all its descriptors: until
/// execve(2), and until it ends of those that libbtrfsutil opens, which are not close-on-exec. So it may be busy a while.
pub fn unmount(volume: Volume, config: &VolumeConfig) {
    drop(volume);
    until("it is unmounted", || match unmount_at(config) {
        Err(HostError::Os { source, .. }) if source.kind() == ErrorKind::ResourceBusy => false,
        done => {
            done.unwrap();
            true
        }
    });
}

/// How many loop devices are bound to an image.
pub fn devices_of(image: &Path) -> usize {
    let is_bound = |entry: &fs::DirEntry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file"));
        file.is_ok_and(|file| Path::new(file.trim_end()) == image)
    };
    fs::read_dir("/sys/block").unwrap().map(Result::unwrap).filter(is_bound).count()
}

pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + BUSY_MAX;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {BUSY_MAX:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
