//! Files that the caller names: read with a limit, written whole or not at all, listed without following links.

use crate::error::{Exit, Failure};
use crate::folder::Folder;
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longest text that is read: a plan, a description, a key, a signed manifest.
pub const TEXT_MAX: u64 = 4 * 1024 * 1024;
/// The text of a file.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?)
        .map_err(|_| Failure::new(Exit::Refused, format!("`{}` is not UTF-8 text", path.display())))
}

/// The bytes of a file of at most [`TEXT_MAX`].
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    read_all(File::open(path), path, TEXT_MAX)
}

/// The bytes of an opened file of at most so many; `path` is what errors call it.
pub fn read_all(opened: io::Result<File>, path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::file("read", path, &error);
    let mut bytes = Vec::new();
    opened.and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(Failure::new(Exit::Refused, format!("`{}` is longer than {most} bytes", path.display())));
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

/// Every file below the folder, relative paths with `/`, sorted. What a signature over them would not hold still is
/// refused: links of both kinds, special files, other mounts.
pub fn list(folder: &Path) -> Result<Vec<String>, Failure> {
    Ok(Folder::whole(folder)?.found().files.into_keys().collect())
}
