//! Where signed things come in: signature over the raw bytes first, then the parse, then trust. Also the keeper of the
//! trust store and of the signed trust roots. Nothing passes for verified that did not go through here.

use crate::chain;
use crate::config::{Config, TrustPlace};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use turnout_engine::TrustLog;
use turnout_host::Host;
use turnout_host::store::StoredName;
use turnout_manifest::order::{self, OrderOccasion, VerifiedOrder};
use turnout_manifest::quorum::Examined;
use turnout_manifest::trust::{Authority, Occasion, Purpose, TrustError, Verdict, Verification, verify_by};
use turnout_manifest::{Manifest, Sha256, SignedRoot, TrustRoot, TrustStore, VersionRef};

mod root_folder;

pub use root_folder::RootChain;
use root_folder::RootFolder;

/// Name of the trust store's file in the state directory.
pub const STORE_FILE: &str = "trust.json";
/// Name of the folder of signed trust roots in the state directory.
pub const ROOT_FOLDER: &str = "trust-root";

/// How long before a root expires it is told.
const EXPIRES_SOON_MS: u64 = 30 * 86_400_000;

/// The intake.
pub struct Intake {
    host: Arc<dyn Host>,
    file: PathBuf,
    folder: RootFolder,
    place: TrustPlace,
    held: RwLock<Arc<Held>>,
    /// What the journal says, as the loop has told last.
    log: RwLock<Arc<TrustLog>>,
    /// One change at a time: from the look at what is in force to the file that replaces it.
    pub changes: tokio::sync::Mutex<()>,
}

/// Whose signatures count at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Single keys.
    Store(TrustStore),
    /// A signed root.
    Root(RootChain),
    /// A root was in force that is not there any more: nothing new is trusted; what runs goes on by the last one there is.
    Lost {
        /// What is missing, for people.
        why: String,
        /// The roots that are there.
        last: Option<RootChain>,
    },
}

/// Why the trust store or the trust roots could not be read, changed or kept.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// A file could not be read or written.
    #[error("trust store `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// It is no trust store, or the change makes it none.
    #[error("trust store `{path}`")]
    Store {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TrustError,
    },
}

impl Intake {
    /// Reads the trust store, empty when there is none yet, and the signed roots, which take its place where there are any.
    ///
    /// # Errors
    /// [`IntakeError`]. A chain of roots that is short is no error: see [`Held::Lost`].
    pub fn open(host: Arc<dyn Host>, config: &Config, log: Arc<TrustLog>) -> Result<Self, IntakeError> {
        let (state, place) = (&config.state, config.trust.clone());
        let file = state.join(STORE_FILE);
        let folder = RootFolder::new(state.join(ROOT_FOLDER));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| IntakeError::File { path, source }
        };
        let found = folder.read(log.root).map_err(failed(&state.join(ROOT_FOLDER)))?;
        let held = match (found.lost, found.chain) {
            (Some(why), last) => {
                tracing::error!("{why}: nothing new is trusted until it is put back, and turnoutd restarted");
                Held::Lost { why, last }
            }
            (None, Some(chain)) => Held::Root(chain),
            (None, None) => Held::Store(read_store(&file)?),
        };
        let (held, log) = (RwLock::new(Arc::new(held)), RwLock::new(log));
        Ok(Self { host, file, folder, place, held, log, changes: tokio::sync::Mutex::default() })
    }

    /// Whose signatures count at present.
    pub fn held(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the journal says of trust.
    pub fn log(&self) -> Arc<TrustLog> {
        self.log.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes in what the journal says by now.
    pub fn learn(&self, log: Arc<TrustLog>) {
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = log;
    }

    /// What this host is called in orders, and which channels it serves.
    pub fn place(&self) -> &TrustPlace {
        &self.place
    }

    /// The keys that count one by one; none where a signed root says whose do.
    pub fn trust(&self) -> TrustStore {
        match &*self.held() {
            Held::Store(store) => store.clone(),
            Held::Root(_) | Held::Lost { .. } => TrustStore::default(),
        }
    }

    /// Replaces the trust store, on disk before in memory. Nothing changes where a signed root has taken its place.
    ///
    /// # Errors
    /// [`IntakeError`]; the old one then stays.
    pub fn set_trust(&self, store: TrustStore) -> Result<(), IntakeError> {
        let none = |source| IntakeError::Store { path: self.file.clone(), source };
        let bytes = store.to_json().map_err(none)?;
        let failed = |source| IntakeError::File { path: self.file.clone(), source };
        replace_file(&self.file, &bytes).map_err(failed)?;
        if matches!(&*self.held(), Held::Store(_)) {
            self.hold(Held::Store(store));
        }
        Ok(())
    }

    /// Puts a root beside the others on disk, before the journal says that it is in force.
    ///
    /// # Errors
    /// [`IntakeError::File`].
    pub fn stage_root(&self, root: &SignedRoot) -> Result<(), IntakeError> {
        self.folder
            .stage(root)
            .map_err(|source| IntakeError::File { path: self.file.with_file_name(ROOT_FOLDER), source })
    }

    /// Puts a staged root in force, once the journal says so. Single keys count no more, not even for an older daemon.
    ///
    /// # Errors
    /// [`IntakeError`]. It is in force all the same, and the next start ends what this one began.
    pub fn set_root(&self, root: SignedRoot) -> Result<(), IntakeError> {
        let version = root.root().version;
        let before = match &*self.held() {
            Held::Store(_) => None,
            Held::Root(chain) => Some(chain.clone()),
            Held::Lost { last, .. } => last.clone(),
        };
        let chain = RootChain::with(before.as_ref(), root);
        let known = self.log().root.map_or(0, |known| known.version);
        self.hold(if version < known {
            let why = format!("trust root {known} was accepted, and {version} only is there");
            Held::Lost { why, last: Some(chain) }
        } else {
            Held::Root(chain)
        });
        let failed = |source| IntakeError::File { path: self.file.with_file_name(ROOT_FOLDER), source };
        self.folder.commit(version).map_err(failed)?;
        self.set_trust(TrustStore::default())
    }

    /// What an operator should look at: roots that are missing, or one that expires soon.
    pub fn concerns(&self) -> Option<String> {
        match &*self.held() {
            Held::Store(_) => None,
            Held::Lost { why, .. } => Some(format!("trust: {why}")),
            Held::Root(chain) => {
                let root = chain.head.root();
                let soon = root.expires_ms.saturating_sub(crate::now_ms()) < EXPIRES_SOON_MS;
                let version = root.version;
                soon.then(|| {
                    format!(
                        "trust: trust root {version} has expired or does within 30 days, apply the next one"
                    )
                })
            }
        }
    }

    fn hold(&self, held: Held) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
    }

    /// The verdict on a signed manifest, with every check.
    pub fn verify(&self, envelope: &[u8], purpose: Purpose) -> Verification {
        let (held, log) = (self.held(), self.log());
        let authority = match (&*held, purpose) {
            (Held::Store(store), _) => Authority::Store(store),
            (Held::Root(chain), _) => Authority::Root(chain.head.root()),
            (Held::Lost { last: Some(chain), .. }, Purpose::KeepRunning) => {
                Authority::Root(chain.head.root())
            }
            (Held::Lost { why, .. }, _) => return Verification::without_authority(why.clone()),
        };
        let channels = match purpose {
            Purpose::NewWork => Some(self.place.channels.as_slice()),
            Purpose::KeepRunning => None,
        };
        verify_by(
            envelope,
            authority,
            &Occasion { now_ms: crate::now_ms(), purpose, channels, history: &*log },
        )
    }

    /// The root in force, for new work.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub fn root(&self) -> Result<TrustRoot, String> {
        match &*self.held() {
            Held::Root(chain) => Ok(chain.head.root().clone()),
            Held::Store(_) => Err("this host has no signed trust root: single keys count here".to_owned()),
            Held::Lost { why, .. } => Err(why.clone()),
        }
    }

    /// The verdict on a signed order to release a version, with every check.
    ///
    /// # Errors
    /// Why no order can be verified here, for people.
    pub fn verify_order(
        &self,
        bytes: &[u8],
        (version, digest): (&VersionRef, Sha256),
        manifest: &Manifest,
    ) -> Result<(Examined<VerifiedOrder>, u64), String> {
        let (root, log) = (self.root()?, self.log());
        let occasion = OrderOccasion {
            now_ms: crate::now_ms(),
            here: &self.place.here,
            version,
            manifest: digest,
            channel: &manifest.channel,
            used: &log.orders,
        };
        Ok((order::verify(bytes, &root, &occasion), root.version))
    }

    /// The verdict on a stored version, as something to begin with.
    ///
    /// # Errors
    /// Why it cannot be read, for people.
    pub fn verify_stored(&self, name: &StoredName) -> Result<Verification, String> {
        let envelope = self.host.envelope(name).map_err(|error| chain(&error))?;
        Ok(self.verify(&envelope, Purpose::NewWork))
    }

    /// The manifest of a stored version, its signature verified against what counts at this moment. Dates that have passed
    /// and the channel were asked for when the release began: a step of it, or a way back, does not fail for them.
    ///
    /// # Errors
    /// Why it does not count, for people.
    pub fn stored_manifest(&self, name: &StoredName) -> Result<Manifest, String> {
        let envelope = self.host.envelope(name).map_err(|error| chain(&error))?;
        let verification = self.verify(&envelope, Purpose::KeepRunning);
        let (verdict, failed) = (verification.verdict, failures(&verification.checks).join("; "));
        match verification.into_verified() {
            Some(verified) if verified.digest() == name.digest => Ok(verified.manifest().clone()),
            Some(_) => Err("the stored manifest is another one than was imported".to_owned()),
            None => Err(format!("its manifest is {verdict} now: {failed}")),
        }
    }
}

/// What to do about a manifest that does not count.
pub fn remedy(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid | Verdict::Untrusted => {
            "`turnoutctl manifest verify DIR` lists every check; `turnoutctl trust list` and `trust show` say whose keys count"
        }
        Verdict::Rejected => {
            "`turnoutctl manifest verify DIR` lists every check; nobody can override a rejection"
        }
    }
}

fn read_store(file: &Path) -> Result<TrustStore, IntakeError> {
    match fs::read(file) {
        Ok(bytes) => TrustStore::from_json(&bytes)
            .map_err(|source| IntakeError::Store { path: file.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(TrustStore::default()),
        Err(source) => Err(IntakeError::File { path: file.to_owned(), source }),
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
