//! A signed version as a folder: its description, its envelope, its files in the manifest's order. Reading and hashing
//! only; what a manifest says is the manifest's own language.

use crate::error::{Exit, Failure};
use crate::files;
use crate::folder::Folder;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use turnout_manifest::Sha256;
use turnout_manifest::envelope::ENVELOPE_MAX;
use turnout_manifest::manifest::FileEntry;

/// The description that people write.
pub const DESCRIPTION: &str = "turnout.yaml";
/// The signed manifest.
pub const ENVELOPE: &str = "turnout.dsse.json";

/// Digest and size of every file of the folder but the description and the envelope.
pub fn entries(dir: &Path) -> Result<Vec<FileEntry>, Failure> {
    let folder = Folder::whole(dir)?;
    let paths = folder.found().files.into_keys();
    let own = |path: &String| path != DESCRIPTION && path != ENVELOPE;
    paths.filter(own).map(|path| entry(dir, &folder, path)).collect()
}

fn entry(dir: &Path, folder: &Folder, path: String) -> Result<FileEntry, Failure> {
    let hashed = folder.open(&path).and_then(|mut file| Sha256::of_reader(&mut file));
    let (sha256, size) = hashed.map_err(|error| Failure::file("read", &dir.join(&path), &error))?;
    Ok(FileEntry { path, size, sha256 })
}

/// The signed manifest of the folder, as bytes.
pub fn envelope(dir: &Path) -> Result<Vec<u8>, Failure> {
    let path = dir.join(ENVELOPE);
    if dir.is_dir() && !path.exists() {
        return Err(Failure::new(
            Exit::Refused,
            format!("`{}` is not signed: it holds no `{ENVELOPE}`", dir.display()),
        )
        .hint(format!("sign it with `turnoutctl manifest sign {} --key PEM`", dir.display())));
    }
    // Whoever made the folder chose what lies there.
    files::read_all(files::open_regular(&path), &path, ENVELOPE_MAX)
}

/// The bytes of all files, one after the other, each opened when its turn comes.
pub struct Content {
    waiting: VecDeque<PathBuf>,
    open: Option<File>,
}

impl Content {
    /// The files of the folder in the manifest's order, and how many bytes they have together. A file whose size is
    /// not the manifest's is refused before anything is sent.
    pub fn open(dir: &Path, entries: &[FileEntry]) -> Result<(Self, u64), Failure> {
        let mut length = 0_u64;
        for entry in entries {
            let path = dir.join(&entry.path);
            let metadata = path.symlink_metadata().map_err(|error| Failure::file("read", &path, &error))?;
            if !metadata.is_file() || metadata.len() != entry.size {
                let found = if metadata.is_file() {
                    format!("has {} bytes", metadata.len())
                } else {
                    "is no file".into()
                };
                let message =
                    format!("`{}` {found}, the signed manifest says {}", path.display(), entry.size);
                return Err(Failure::new(Exit::Refused, message)
                    .hint("restore the file, or sign the folder again with `turnoutctl manifest sign DIR --key PEM`"));
            }
            length = length.saturating_add(entry.size);
        }
        let waiting = entries.iter().map(|entry| dir.join(&entry.path)).collect();
        Ok((Self { waiting, open: None }, length))
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(file) = &mut self.open {
                match file.read(buffer)? {
                    0 => self.open = None,
                    count => return Ok(count),
                }
            }
            match self.waiting.pop_front() {
                Some(path) => self.open = Some(files::open_regular(&path)?),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    #[test]
    fn an_envelope_is_read_to_the_length_that_the_daemon_takes() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(ENVELOPE);
        let length = usize::try_from(ENVELOPE_MAX).unwrap();
        std::fs::write(&path, vec![b' '; length]).unwrap();
        assert_eq!(envelope(place.path()).unwrap().len(), length);
        std::fs::write(&path, vec![b' '; length + 1]).unwrap();
        assert_eq!(envelope(place.path()).unwrap_err().exit, Exit::Refused);
    }

    #[test]
    fn an_envelope_that_is_a_pipe_or_leads_to_a_device_does_not_hold_its_reader() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(ENVELOPE);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let refused = envelope(place.path()).unwrap_err();
        assert!(refused.message().contains("not a regular file"), "{}", refused.message());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(envelope(place.path()).is_err());
    }
}
