//! Where signed things come in: signature over the raw bytes first, then the parse, then trust. Also the keeper of the
//! trust store. Nothing passes for verified that did not go through here.

use crate::chain;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use turnout_host::Host;
use turnout_host::store::StoredName;
use turnout_manifest::trust::{TrustError, Verification, verify};
use turnout_manifest::{Manifest, TrustStore};

/// The intake.
pub struct Intake {
    host: Arc<dyn Host>,
    file: PathBuf,
    trust: RwLock<TrustStore>,
}

/// Why the trust store could not be read, changed or kept.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Its file could not be read or written.
    #[error("trust store `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// It is no trust store, or the change makes it none.
    #[error("trust store")]
    Store(#[source] TrustError),
}

impl Intake {
    /// Reads the trust store, empty when there is none yet.
    ///
    /// # Errors
    /// [`IntakeError`].
    pub fn open(host: Arc<dyn Host>, file: PathBuf) -> Result<Self, IntakeError> {
        let trust = match fs::read(&file) {
            Ok(bytes) => TrustStore::from_json(&bytes).map_err(IntakeError::Store)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => TrustStore::default(),
            Err(source) => return Err(IntakeError::File { path: file, source }),
        };
        Ok(Self { host, file, trust: RwLock::new(trust) })
    }

    /// The trust store as it is now.
    pub fn trust(&self) -> TrustStore {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the trust store, on disk before in memory.
    ///
    /// # Errors
    /// [`IntakeError`]; the old one then stays.
    pub fn set_trust(&self, store: TrustStore) -> Result<(), IntakeError> {
        let bytes = store.to_json().map_err(IntakeError::Store)?;
        let failed = |source| IntakeError::File { path: self.file.clone(), source };
        replace_file(&self.file, &bytes).map_err(failed)?;
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = store;
        Ok(())
    }

    /// The verdict on a signed manifest, with every check.
    pub fn verify(&self, envelope: &[u8]) -> Verification {
        verify(envelope, &self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The manifest of a stored version, its signature verified against the trust store of this moment.
    ///
    /// # Errors
    /// Why it does not count, for people.
    pub fn stored_manifest(&self, name: &StoredName) -> Result<Manifest, String> {
        let envelope = self.host.envelope(name).map_err(|error| chain(&error))?;
        let verification = self.verify(&envelope);
        let (verdict, failed) = (verification.verdict, failures(&verification.checks).join("; "));
        match verification.into_verified() {
            Some(verified) if verified.digest() == name.digest => Ok(verified.manifest().clone()),
            Some(_) => Err("the stored manifest is another one than was imported".to_owned()),
            None => Err(format!("its manifest is {verdict} now: {failed}")),
        }
    }
}

/// The checks that did not pass, for people.
pub fn failures(checks: &[turnout_manifest::CheckResult]) -> Vec<String> {
    let failed = checks.iter().filter(|check| check.result == turnout_manifest::trust::Outcome::Fail);
    failed.map(|check| format!("{}: {}", check.name, check.detail)).collect()
}

/// Writes a file so that after a crash it is the old one or the new one, whole (rename(2), fsync(2)).
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)?.sync_all()
}
