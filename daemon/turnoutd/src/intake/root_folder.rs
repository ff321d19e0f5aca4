//! The signed trust roots on disk: one file for each version, from the first to the one in force, so that anybody can
//! replay the chain. A new one is staged, then named in the journal, then put in place; a start ends what was begun.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use turnout_engine::trust::KnownRoot;
use turnout_manifest::root_chain::{ROOT_FILE_SUFFIX, SIGNED_ROOT_MAX};
use turnout_manifest::trust::Outcome;
use turnout_manifest::{Sha256, SignedRoot, envelope::Envelope};

/// What is appended to the name of a root that is not in force yet.
const STAGED: &str = ".new";

/// The roots from the first to the one in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootChain {
    /// The one in force.
    pub head: SignedRoot,
    /// All of them as they came, in order.
    pub all: Vec<Arc<[u8]>>,
}

impl RootChain {
    /// The chain with one more root, which must be the head's successor or the first.
    pub fn with(before: Option<&Self>, head: SignedRoot) -> Self {
        let mut all = before.map(|chain| chain.all.clone()).unwrap_or_default();
        all.push(head.bytes().into());
        Self { head, all }
    }
}

/// What lies in the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// The roots that follow from each other, from the first on.
    pub chain: Option<RootChain>,
    /// Why this is not all that the journal knows of, for people.
    pub lost: Option<String>,
}

/// The folder.
#[derive(Debug)]
pub struct RootFolder {
    path: PathBuf,
}

impl RootFolder {
    /// The folder at this place; it need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads all roots, puts one in place that the journal has accepted, and forgets one that it has not.
    ///
    /// # Errors
    /// The OS's own. What the files say is no error, but [`Found::lost`].
    pub fn read(&self, known: Option<KnownRoot>) -> io::Result<Found> {
        self.settle(known)?;
        let mut files: Vec<Vec<u8>> = Vec::new();
        while let Some(bytes) = read_file(&self.file(files.len() as u64 + 1))? {
            files.push(bytes);
        }
        let stray = self.versions()?.into_iter().find(|version| *version > files.len() as u64);
        let mut found = Found::default();
        for (version, bytes) in (1..).zip(files) {
            let head = found.chain.as_ref().map(|chain| &chain.head);
            let examined = head.map_or_else(|| SignedRoot::first(&bytes), |head| head.next(&bytes));
            let failed = examined.checks.iter().find(|check| check.result == Outcome::Fail).cloned();
            let Some(next) = examined.into_accepted() else {
                let why = failed.map(|check| format!("{}: {}", check.name, check.detail)).unwrap_or_default();
                found.lost =
                    Some(format!("trust root {version} in `{}` does not follow: {why}", self.path.display()));
                break;
            };
            if known.is_some_and(|known| known.version == version && known.digest != next.digest()) {
                found.lost = Some(format!(
                    "trust root {version} in `{}` is another one than was accepted",
                    self.path.display()
                ));
                break;
            }
            found.chain = Some(RootChain::with(found.chain.as_ref(), next));
        }
        let there = found.chain.as_ref().map_or(0, |chain| chain.head.root().version);
        if found.lost.is_none()
            && let Some(missing) =
                stray.into_iter().chain(known.map(|known| known.version)).find(|v| *v > there)
        {
            found.lost = Some(format!(
                "trust root {missing} was accepted, and `{}` holds {there} only",
                self.path.display()
            ));
        }
        Ok(found)
    }

    /// Puts a root beside the others, on disk when this returns. It counts for nothing yet.
    ///
    /// # Errors
    /// The OS's own.
    pub fn stage(&self, root: &SignedRoot) -> io::Result<()> {
        fs::create_dir_all(&self.path)?;
        let mut file = File::create(self.staged(root.root().version))?;
        file.write_all(root.bytes())?;
        file.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        self.path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    }

    /// Puts a staged root in place (rename(2), fsync(2)).
    ///
    /// # Errors
    /// The OS's own.
    pub fn commit(&self, version: u64) -> io::Result<()> {
        fs::rename(self.staged(version), self.file(version))?;
        File::open(&self.path)?.sync_all()
    }

    /// Ends what a daemon that was killed had begun.
    fn settle(&self, known: Option<KnownRoot>) -> io::Result<()> {
        let accepted = known.filter(|known| {
            let bytes = read_file(&self.staged(known.version)).ok().flatten();
            let envelope = bytes.and_then(|bytes| Envelope::parse(&bytes).ok());
            envelope.is_some_and(|envelope| Sha256::of(envelope.payload()) == known.digest)
        });
        if let Some(known) = accepted {
            self.commit(known.version)?;
        }
        for name in self.names()?.into_iter().filter(|name| name.ends_with(STAGED)) {
            fs::remove_file(self.path.join(name))?;
        }
        Ok(())
    }

    fn versions(&self) -> io::Result<Vec<u64>> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(ROOT_FILE_SUFFIX)?.parse().ok()).collect())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn file(&self, version: u64) -> PathBuf {
        self.path.join(format!("{version:08}{ROOT_FILE_SUFFIX}"))
    }

    fn staged(&self, version: u64) -> PathBuf {
        self.path.join(format!("{version:08}{ROOT_FILE_SUFFIX}{STAGED}"))
    }
}

/// A file of at most what a root can have, `None` where there is none. A larger one is cut: it is no root then.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(SIGNED_ROOT_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
