//! A folder of somebody else's, listed and read below one directory descriptor (openat2(2)): no link is followed, no
//! mount is crossed, no pipe holds the open, and a file that changes while it is read is an error.

use crate::error::{Exit, Failure};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat,
};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use turnout_manifest::oms::{Found, RESOURCES_MAX};

/// Most entries below one folder, folders included.
pub const ENTRIES_MAX: usize = 4 * RESOURCES_MAX;
/// Deepest folder below the one named.
pub const DEPTH_MAX: usize = 32;

/// Why a folder is not taken as it is.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system's own.
    #[error("`{path}` cannot be read")]
    Read {
        /// Where.
        path: String,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// Something in it that a signature says nothing about.
    #[error("`{path}` {what}")]
    Foreign {
        /// Where.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Beyond one of the limits.
    #[error("more than {ENTRIES_MAX} entries, or deeper than {DEPTH_MAX} folders, at `{0}`")]
    TooMany(String),
}

/// What must not change between listing a file and its last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            modified: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            changed: (stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
        }
    }
}

/// An open folder and the files that were found in it.
pub struct Folder {
    root: OwnedFd,
    files: BTreeMap<String, Identity>,
    empty_folders: usize,
}

/// What is left out of a listing, unlooked at.
pub struct LeftOut<'a> {
    /// True for paths that are left out with all that is below them.
    pub covers: &'a dyn Fn(&str) -> bool,
    /// A file that is left out wherever it lies: the signature itself.
    pub signature: Option<&'a File>,
}

impl Folder {
    /// Opens the folder and lists it.
    ///
    /// # Errors
    /// [`FolderError`] about the first thing that is neither a plain file nor a folder, or beyond a limit.
    pub fn list(path: &Path, left_out: &LeftOut<'_>) -> Result<Self, FolderError> {
        let root = open_root(path).map_err(failed(&path.display().to_string()))?;
        Self::list_in(root, left_out)
    }

    fn list_in(root: OwnedFd, left_out: &LeftOut<'_>) -> Result<Self, FolderError> {
        let signature = match left_out.signature {
            None => None,
            Some(file) => {
                let stat = fstat(file).map_err(failed("the signature"))?;
                Some((stat.st_dev, stat.st_ino))
            }
        };
        let mut walk = Walk { left_out, signature, entries: 0, files: BTreeMap::new(), empty_folders: 0 };
        walk.below(root.as_fd(), "", 0)?;
        let Walk { files, empty_folders, .. } = walk;
        Ok(Self { root, files, empty_folders })
    }

    /// Lists a version's folder, of which everything counts.
    ///
    /// # Errors
    /// As [`list`](Self::list), with the folder's own path before that in it.
    pub fn whole(path: &Path) -> Result<Self, Failure> {
        let shown = |below: String| path.join(below).display().to_string();
        let root = open_root(path).map_err(|error| Failure::file("read", path, &error.into()))?;
        Self::list_in(root, &LeftOut { covers: &|_| false, signature: None }).map_err(|error| match error {
            FolderError::Read { path: below, source } => Failure::file("read", &path.join(below), &source),
            FolderError::Foreign { path: below, what } => {
                Failure::new(Exit::Refused, format!("`{}` {what}", shown(below)))
            }
            FolderError::TooMany(below) => {
                Failure::new(Exit::Refused, FolderError::TooMany(shown(below)).to_string())
            }
        })
    }

    /// What was found, as it is held against a statement.
    pub fn found(&self) -> Found {
        let files = self.files.iter().map(|(path, identity)| (path.clone(), identity.size)).collect();
        Found { files, empty_folders: self.empty_folders }
    }

    /// Opens a file that was listed. Its reader fails if it is another one by now, or becomes one before its end.
    ///
    /// # Errors
    /// The file system's own.
    pub fn open(&self, path: &str) -> io::Result<Unchanging> {
        let Some(identity) = self.files.get(path) else { return Err(io::ErrorKind::NotFound.into()) };
        let file = File::from(resolve(self.root.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        let reader = Unchanging { file, identity: *identity };
        reader.check()?;
        Ok(reader)
    }
}

/// A file that must stay as it was listed until its last byte.
pub struct Unchanging {
    file: File,
    identity: Identity,
}

impl Unchanging {
    fn check(&self) -> io::Result<()> {
        if Identity::of(&fstat(&self.file)?) == self.identity {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "it was changed since it was listed"))
    }
}

impl Read for Unchanging {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        if count == 0 {
            self.check()?;
        }
        Ok(count)
    }
}

impl Seek for Unchanging {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

struct Walk<'a> {
    left_out: &'a LeftOut<'a>,
    signature: Option<(u64, u64)>,
    entries: usize,
    files: BTreeMap<String, Identity>,
    empty_folders: usize,
}

impl Walk<'_> {
    fn below(&mut self, folder: BorrowedFd<'_>, prefix: &str, depth: usize) -> Result<(), FolderError> {
        let mut entries = Dir::read_from(folder).map_err(failed(prefix))?;
        let mut empty = true;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(failed(prefix))?;
            let raw = entry.file_name();
            if matches!(raw.to_bytes(), b"." | b"..") {
                continue;
            }
            empty = false;
            self.entries += 1;
            if self.entries > ENTRIES_MAX || depth > DEPTH_MAX {
                return Err(FolderError::TooMany(prefix.to_owned()));
            }
            let Ok(name) = raw.to_str() else {
                let path = format!("{prefix}{}", raw.to_string_lossy());
                return Err(FolderError::Foreign { path, what: "has a name that is not UTF-8" });
            };
            let path = format!("{prefix}{name}");
            if !(self.left_out.covers)(&path) {
                self.entry(folder, (name, path), depth)?;
            }
        }
        self.empty_folders += usize::from(empty && depth > 0);
        Ok(())
    }

    fn entry(
        &mut self,
        folder: BorrowedFd<'_>,
        (name, path): (&str, String),
        depth: usize,
    ) -> Result<(), FolderError> {
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&path))?;
        let what = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let opened = resolve(folder, name, OFlags::RDONLY | OFlags::DIRECTORY);
                let opened = match opened {
                    Err(Errno::XDEV) => {
                        return Err(FolderError::Foreign { path, what: "is another file system's" });
                    }
                    opened => opened.map_err(failed(&path))?,
                };
                return self.below(opened.as_fd(), &format!("{path}/"), depth + 1);
            }
            FileType::RegularFile if self.signature == Some((stat.st_dev, stat.st_ino)) => return Ok(()),
            FileType::RegularFile if stat.st_nlink > 1 => {
                "has a second name (hard link), through which it can be changed: copy it"
            }
            FileType::RegularFile => {
                self.files.insert(path, Identity::of(&stat));
                return Ok(());
            }
            FileType::Symlink => "is a symbolic link: put the file itself there",
            FileType::Fifo => "is a named pipe",
            FileType::Socket => "is a socket",
            FileType::BlockDevice | FileType::CharacterDevice => "is a device",
            _ => "is neither a file nor a folder",
        };
        Err(FolderError::Foreign { path, what })
    }
}

fn failed(path: &str) -> impl Fn(Errno) -> FolderError {
    let path = path.to_owned();
    move |error| FolderError::Read { path: path.clone(), source: error.into() }
}

fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn resolve(at: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    openat2(at, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    fn listed(path: &Path) -> Folder {
        Folder::list(path, &LeftOut { covers: &|path| path == ".git", signature: None }).unwrap()
    }

    #[test]
    fn what_is_left_out_is_not_even_looked_at() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("a/empty")).unwrap();
        fs::write(place.path().join("a/b"), "xyz").unwrap();
        symlink("/", place.path().join(".git")).unwrap();
        let found = listed(place.path()).found();
        assert_eq!((found.files, found.empty_folders), (BTreeMap::from([("a/b".to_owned(), 3)]), 1));
    }

    #[test]
    fn a_versions_folder_holds_plain_files_of_one_name_on_one_file_system() {
        let (place, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = place.path().join("a/file");
        fs::create_dir(place.path().join("a")).unwrap();
        fs::write(&file, "one").unwrap();
        assert_eq!(Folder::whole(place.path()).unwrap().found().files.len(), 1);
        let elsewhere = other.path().join("file");
        fs::hard_link(&file, &elsewhere).unwrap();
        let refused = Folder::whole(place.path()).map(drop).unwrap_err();
        let said = format!("`{}` has a second name", file.display());
        assert!(refused.message().starts_with(&said), "{}", refused.message());
        fs::remove_file(&elsewhere).unwrap();

        rustix::fs::mknodat(CWD, file.with_file_name("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let refused = Folder::whole(place.path()).map(drop).unwrap_err();
        assert!(refused.message().ends_with("is a named pipe"), "{}", refused.message());
        let missing = Folder::whole(&place.path().join("none")).map(drop).unwrap_err();
        assert!(!missing.message().contains("none/"), "{}", missing.message());
        // The folder of the system's own processes is a mount wherever it is met.
        let refused =
            Folder::list(Path::new("/"), &LeftOut { covers: &|path| path != "proc", signature: None });
        let Err(FolderError::Foreign { path, what }) = refused else { panic!("/proc is taken for a folder") };
        assert_eq!((path.as_str(), what), ("proc", "is another file system's"));
    }

    #[test]
    fn a_file_that_is_another_one_by_now_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        let (file, other) = (place.path().join("file"), place.path().join("other"));
        let swaps: [fn(&Path, &Path); 4] = [
            |file, other| fs::rename(other, file).unwrap(),
            |file, other| {
                fs::remove_file(file).unwrap();
                symlink(other, file).unwrap();
            },
            |file, _| fs::write(file, "more").unwrap(),
            |file, _| fs::remove_file(file).unwrap(),
        ];
        for swap in swaps {
            let _ = fs::remove_file(&file);
            fs::write(&file, "one").unwrap();
            fs::write(&other, "one").unwrap();
            let folder = listed(place.path());
            assert!(folder.open("file").is_ok());
            swap(&file, &other);
            assert!(folder.open("file").is_err());
        }
    }

    #[test]
    fn a_file_that_changes_before_its_last_byte_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "one").unwrap();
        let folder = listed(place.path());
        let mut reader = folder.open("file").unwrap();
        let mut first = [0; 1];
        reader.read_exact(&mut first).unwrap();
        fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"more").unwrap();
        let mut rest = Vec::new();
        let error = reader.read_to_end(&mut rest).unwrap_err().to_string();
        assert!(error.contains("changed since it was listed"), "{error}");
    }
}
