//! Files that the caller names: read with a limit, written whole or not at all, listed without following links.

use crate::error::{Exit, Failure};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest text that is read: a plan, a description, a key, a signed manifest.
pub const TEXT_MAX: u64 = 4 * 1024 * 1024;
/// Most files below one folder.
pub const FILES_MAX: usize = 10_000;
/// Deepest folder below the one named.
pub const DEPTH_MAX: usize = 16;

/// The text of a file.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?)
        .map_err(|_| Failure::new(Exit::Refused, format!("`{}` is not UTF-8 text", path.display())))
}

/// The bytes of a file of at most [`TEXT_MAX`].
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::file("read", path, &error);
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(TEXT_MAX + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > TEXT_MAX {
        return Err(Failure::new(
            Exit::Refused,
            format!("`{}` is longer than {TEXT_MAX} bytes", path.display()),
        ));
    }
    Ok(bytes)
}

/// Opens a regular file for reading; a symbolic link is refused.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Creates a file that is not there yet, on disk when this returns.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    create(path, bytes, mode).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Failed, format!("`{}` is there already", path.display()))
        }
        _ => Failure::file("write", path, &error),
    })
}

/// Puts a file in place in one step: readers see the old content or the new one.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let aside = path.with_file_name(name);
    create(&aside, bytes, mode).and_then(|()| fs::rename(&aside, path)).map_err(|error| {
        // Best effort: the error that counts is the first one.
        let _ = fs::remove_file(&aside);
        Failure::file("write", path, &error)
    })
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Every file below the folder, relative paths with `/`, sorted. Links and special files are refused: a signature
/// over them would not say what is served.
pub fn list(folder: &Path) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    collect(folder, &PathBuf::new(), 0, &mut found)?;
    found.sort();
    Ok(found)
}

fn collect(root: &Path, below: &Path, depth: usize, found: &mut Vec<String>) -> Result<(), Failure> {
    let folder = root.join(below);
    let refused = |what: String| Err(Failure::new(Exit::Refused, what));
    if depth > DEPTH_MAX {
        return refused(format!("`{}` lies deeper than {DEPTH_MAX} folders", folder.display()));
    }
    let failed = |error| Failure::file("read", &folder, &error);
    for entry in fs::read_dir(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        let path = below.join(entry.file_name());
        let shown = root.join(&path).display().to_string();
        if kind.is_dir() {
            collect(root, &path, depth + 1, found)?;
        } else if kind.is_symlink() {
            return refused(format!("`{shown}` is a symbolic link: put the file itself there"));
        } else if !kind.is_file() {
            return refused(format!("`{shown}` is neither a file nor a folder"));
        } else if let Some(path) = path.to_str() {
            found.push(path.to_owned());
        } else {
            return refused(format!("the name of `{shown}` is not UTF-8"));
        }
        if found.len() > FILES_MAX {
            return refused(format!("`{}` holds more than {FILES_MAX} files", root.display()));
        }
    }
    Ok(())
}
