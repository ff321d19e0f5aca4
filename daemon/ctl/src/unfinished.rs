//! A file that is written piece by piece and is there only once it is whole: it has no name before, so that nothing is
//! left of it however the command ends.

use crate::error::{Exit, Failure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What the models are made of is not for everybody.
const MODE: u32 = 0o600;

/// Whether a file that is there may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays.
    Keep,
    /// It is replaced, in one step.
    Replace,
}

impl Existing {
    /// Refuses a name that is taken.
    pub fn allows(self, path: &Path) -> Result<(), Failure> {
        match self {
            Self::Keep if path.symlink_metadata().is_ok() => Err(is_there(path)),
            _ => Ok(()),
        }
    }
}

fn is_there(path: &Path) -> Failure {
    Failure::new(Exit::Failed, format!("`{}` is there already", path.display()))
        .hint("choose another name; `--force` replaces it")
}

/// A file on its way.
pub struct Unfinished {
    name: PathBuf,
    file: File,
    /// Its name meanwhile, where the file system has no files without one.
    part: Option<PathBuf>,
}

impl Unfinished {
    /// Begins a file that is to have this name.
    pub fn create(name: &Path) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::file("create", name, &error);
        let folder = name.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(CWD, folder, flags, Mode::from_raw_mode(MODE)) {
            Ok(file) => Ok(Self { name: name.to_owned(), file: file.into(), part: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let part = beside(name, ".part");
                let made = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&part);
                Ok(Self { name: name.to_owned(), file: made.map_err(failed)?, part: Some(part) })
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Adds to it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| Failure::file("write", &self.name, &error))
    }

    /// Gives it its name, once it is on disk.
    pub fn keep(mut self, there: Existing) -> Result<(), Failure> {
        self.named(there).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => is_there(&self.name),
            _ => Failure::file("write", &self.name, &error),
        })
    }

    fn named(&mut self, there: Existing) -> io::Result<()> {
        self.file.sync_all()?;
        if self.part.is_none() {
            let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let link = |name: &Path| linkat(CWD, &unnamed, CWD, name, AtFlags::SYMLINK_FOLLOW);
            if there == Existing::Keep {
                return Ok(link(&self.name)?);
            }
            // A link does not replace: what has a name can be renamed.
            let aside = beside(&self.name, &format!(".{}.new", std::process::id()));
            link(&aside)?;
            self.part = Some(aside);
        }
        if let Some(part) = &self.part {
            fs::rename(part, &self.name)?;
        }
        self.part = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            // Best effort: what went wrong has been said.
            let _ = fs::remove_file(part);
        }
    }
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_when_it_is_whole_and_replaces_only_when_told() {
        let place = tempfile::tempdir().unwrap();
        let name = place.path().join("case.btrfs");
        let write = |text: &str| {
            let mut file = Unfinished::create(&name).unwrap();
            file.write(text.as_bytes()).unwrap();
            file
        };
        let file = write("one");
        assert!(fs::read_dir(place.path()).unwrap().next().is_none(), "it has a name before it is whole");
        file.keep(Existing::Keep).unwrap();
        assert!(write("two").keep(Existing::Keep).is_err());
        assert_eq!(fs::read_to_string(&name).unwrap(), "one");
        write("three").keep(Existing::Replace).unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "three");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
