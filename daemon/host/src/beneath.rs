//! Files below a folder, by relative paths that can never leave it (openat2(2)): made, opened and listed.
//! The paths come from verified manifests; they are refused here all the same when they are not canonical.

use crate::HostError;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, statat};
use rustix::io::Errno;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// An open folder, the root of the paths.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl From<OwnedFd> for Folder {
    /// A folder that is open already.
    fn from(folder: OwnedFd) -> Self {
        Self(folder)
    }
}

/// What lies under a path.
#[derive(Debug)]
pub enum Opened {
    /// A folder.
    Folder(Folder),
    /// A regular file, open for reading.
    File(File),
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its length, for a regular file.
    pub size: Option<u64>,
}

/// What [`walk`] came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder; what is in it follows.
    Folder,
    /// A regular file.
    File,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// The file system's own.
    pub fn open(path: &Path) -> Result<Self, HostError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).map(Self).map_err(HostError::os("open", path.display()))
    }

    /// Makes a new file, and the folders above it.
    ///
    /// # Errors
    /// [`HostError::Content`] for a path that is not canonical or is there already, or the file system's own.
    pub fn create(&self, path: &str) -> Result<File, HostError> {
        let refused = |what: &str| HostError::Content { path: path.to_owned(), what: what.to_owned() };
        if !is_canonical(path) {
            return Err(refused("its path is not canonical"));
        }
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut made: Option<OwnedFd> = None;
        for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
            let at = made.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            match mkdirat(at, folder, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(HostError::os("mkdir", path)(error)),
            }
            let next = resolve(at, folder, OFlags::PATH | OFlags::DIRECTORY);
            made = Some(next.map_err(HostError::os("open", path))?);
        }
        let at = made.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
        match resolve(at, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL) {
            Ok(file) => Ok(File::from(file)),
            Err(Errno::EXIST) => Err(refused("it comes twice")),
            Err(error) => Err(HostError::os("create", path)(error)),
        }
    }

    /// Opens a regular file for reading, `None` when there is none.
    ///
    /// # Errors
    /// [`HostError::Content`] for a path that is not canonical or is no regular file, or the file system's own.
    pub fn read(&self, path: &str) -> Result<Option<File>, HostError> {
        let refused = |what: &str| HostError::Content { path: path.to_owned(), what: what.to_owned() };
        if !is_canonical(path) {
            return Err(refused("its path is not canonical"));
        }
        // Without NONBLOCK a named pipe would hold the open until somebody writes.
        let file = match resolve(self.0.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => return Err(refused("it is a link or a mount")),
            Err(error) => return Err(HostError::os("open", path)(error)),
        };
        let metadata = file.metadata().map_err(HostError::os("stat", path))?;
        if metadata.is_file() { Ok(Some(file)) } else { Err(refused("it is no regular file")) }
    }

    /// Opens whatever is under a path, the empty one for the folder itself; `None` for nothing, and for what is neither
    /// file nor folder.
    ///
    /// # Errors
    /// [`HostError::Content`] for a path that is not canonical, or the file system's own.
    pub fn open_below(&self, path: &str) -> Result<Option<Opened>, HostError> {
        if !path.is_empty() && !is_canonical(path) {
            return Err(HostError::Content {
                path: path.to_owned(),
                what: "its path is not canonical".to_owned(),
            });
        }
        let path = if path.is_empty() { "." } else { path };
        let opened = match resolve(self.0.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(opened) => File::from(opened),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
            Err(error) => return Err(HostError::os("open", path)(error)),
        };
        let kind = opened.metadata().map_err(HostError::os("stat", path))?.file_type();
        Ok(match (kind.is_dir(), kind.is_file()) {
            (true, _) => Some(Opened::Folder(Self(opened.into()))),
            (_, true) => Some(Opened::File(opened)),
            _ => None,
        })
    }

    /// Files and folders in this folder, which must be open for reading, by name; at most so many.
    ///
    /// # Errors
    /// The file system's own.
    pub fn entries(&self, most: usize) -> Result<Vec<Entry>, HostError> {
        let failed = || HostError::os("readdir", "folder");
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.0).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let Ok(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name == "." || name == ".." || entries.len() == most {
                continue;
            }
            let stat = statat(&self.0, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW).map_err(failed())?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => entries.push(Entry { name, size: None }),
                FileType::RegularFile => {
                    entries.push(Entry { name, size: u64::try_from(stat.st_size).ok() });
                }
                _ => {}
            }
        }
        entries.sort();
        Ok(entries)
    }
}

/// Whether a path is relative and spelt in its one way: no empty, `.` or `..` component, no NUL.
pub fn is_canonical(path: &str) -> bool {
    let legal = |component: &str| !matches!(component, "" | "." | "..");
    !path.contains('\0') && path.split('/').all(legal)
}

/// Calls `visit` for everything below a folder, a folder before its content, with the path relative to it.
///
/// # Errors
/// [`HostError::Content`] for anything that is neither file nor folder, what `visit` returns, or the file system's own.
pub fn walk(
    root: &Path,
    visit: &mut dyn FnMut(&str, Kind) -> Result<(), HostError>,
) -> Result<(), HostError> {
    walk_below(root, "", visit)
}

fn walk_below(
    root: &Path,
    below: &str,
    visit: &mut dyn FnMut(&str, Kind) -> Result<(), HostError>,
) -> Result<(), HostError> {
    let folder = root.join(below);
    let failed = || HostError::os("readdir", folder.display());
    for entry in fs::read_dir(&folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        let path = match name.to_str() {
            Some(name) if below.is_empty() => name.to_owned(),
            Some(name) => format!("{below}/{name}"),
            None => return Err(foreign(&format!("{below}/{}", name.display()), "its name is no UTF-8")),
        };
        let kind = entry.file_type().map_err(failed())?;
        if kind.is_dir() {
            visit(&path, Kind::Folder)?;
            walk_below(root, &path, visit)?;
        } else if kind.is_file() {
            visit(&path, Kind::File)?;
        } else {
            return Err(foreign(&path, "it is neither file nor folder"));
        }
    }
    Ok(())
}

fn foreign(path: &str, what: &str) -> HostError {
    HostError::Content { path: path.to_owned(), what: what.to_owned() }
}

fn resolve(at: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o444) } else { Mode::empty() };
    openat2(at, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_canonical_relative_paths_are_taken() {
        for bad in ["", "/a", "a/", "a//b", ".", "a/./b", "..", "../a", "a/../b", "a\0b"] {
            assert!(!is_canonical(bad), "{bad:?}");
        }
        for good in ["a", "a/b.onnx", "..a", "a../.b", "ü/ n"] {
            assert!(is_canonical(good), "{good:?}");
        }
    }

    #[test]
    fn a_link_planted_on_the_way_leads_nowhere() {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "x").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(outside.join("secret"), inside.join("file")).unwrap();
        symlink(".", inside.join("here")).unwrap();
        fs::write(inside.join("plain"), "x").unwrap();
        let folder = Folder::open(&inside).unwrap();
        assert!(folder.read("plain").unwrap().is_some());
        assert!(matches!(folder.read("here/plain"), Err(HostError::Content { .. })));
        assert!(folder.create("here/new").is_err());
        assert!(folder.create("link/new").is_err());
        assert!(matches!(folder.read("link/secret"), Err(HostError::Content { .. })));
        assert!(matches!(folder.read("file"), Err(HostError::Content { .. })));
        assert!(walk(&inside, &mut |_, _| Ok(())).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
