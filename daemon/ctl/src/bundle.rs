//! A signed version as a folder: its description, its envelope, its files in the manifest's order. Reading and hashing
//! only; what a manifest says is the manifest's own language.

use crate::error::{Exit, Failure};
use crate::files;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use turnout_manifest::Sha256;
use turnout_manifest::manifest::FileEntry;

/// The description that people write.
pub const DESCRIPTION: &str = "turnout.yaml";
/// The signed manifest.
pub const ENVELOPE: &str = "turnout.dsse.json";

/// Digest and size of every file of the folder but the description and the envelope.
pub fn entries(dir: &Path) -> Result<Vec<FileEntry>, Failure> {
    let paths = files::list(dir)?;
    let own = |path: &String| path != DESCRIPTION && path != ENVELOPE;
    paths.into_iter().filter(own).map(|path| entry(dir, path)).collect()
}

fn entry(dir: &Path, path: String) -> Result<FileEntry, Failure> {
    let full = dir.join(&path);
    let hashed = files::open_regular(&full).and_then(|mut file| Sha256::of_reader(&mut file));
    let (sha256, size) = hashed.map_err(|error| Failure::file("read", &full, &error))?;
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
    files::read(&path)
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
                    .hint("restore the file, or sign the folder again with `turnoutctl manifest sign`"));
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
