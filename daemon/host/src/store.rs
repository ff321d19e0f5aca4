//! Where versions and evidence lie: Btrfs, native or in a fallocated loop image. One read-only subvolume a version,
//! one read-only snapshot of the evidence before and after each release. No path here comes from a client.

use crate::HostError;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::{ModelName, Sha256};

pub use turnout_manifest::envelope::ENVELOPE_MAX;

/// The content-addressed name of a stored version: folder `versions/<model>@<64 hex digits>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredName {
    /// The model.
    pub model: ModelName,
    /// Digest of the version's canonical manifest.
    pub digest: Sha256,
}

impl StoredName {
    /// The name behind a folder of `versions/`, `None` for a folder that is no version's.
    pub fn from_folder(folder: &str) -> Option<Self> {
        let (model, hex) = folder.split_once('@')?;
        Some(Self { model: model.parse().ok()?, digest: format!("sha256:{hex}").parse().ok()? })
    }
}

impl fmt::Display for StoredName {
    /// The folder's name.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}@{}", self.model, self.digest.hex())
    }
}

/// A version as it comes in: everything but the bytes of its files.
#[derive(Debug, Clone)]
pub struct Incoming<'a> {
    /// What it will be called.
    pub name: StoredName,
    /// Its files in the order in which their bytes follow, with the sizes and digests of a verified manifest.
    pub files: &'a [FileEntry],
    /// The signed manifest, kept beside the files.
    pub envelope: &'a [u8],
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The version is in the store now, read-only.
    Stored,
    /// The same content was there already; the bytes sent were still read and checked.
    AlreadyThere,
}

/// How long a check counts for the start of a worker.
pub const CHECK_HOLDS: Duration = Duration::from_secs(60);

/// What a stored version was held to before it was mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The kernel measures what was recorded at the import, and checks each read against it (fs-verity).
    ByKernel,
    /// Every file was read and compared with the signed manifest.
    ByReading,
}

/// What an audit snapshot holds besides the store's own history.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Directory of the journal's segments, outside the store; new bytes are copied in.
    pub journal: PathBuf,
    /// Documents at the snapshot's root by name: `state.json`, `trust.json`.
    pub documents: Vec<(&'static str, Vec<u8>)>,
    /// Live versions: their files are shared (FICLONE) into the snapshot.
    pub versions: Vec<StoredName>,
}

/// One read-only audit snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// `<journal size>-<time>`, for instance `00000042-20261122T135501Z`.
    pub name: String,
    /// Where it can be read.
    pub path: PathBuf,
    /// When it was made, milliseconds since the epoch.
    pub created_ms: u64,
    /// Btrfs UUID, text form.
    pub uuid: String,
}

/// The store.
pub trait Store {
    /// Takes in a version: reads exactly the declared bytes of each file, hashing on the way, and the stream's end, then
    /// makes the subvolume read-only and gives it its name. All or nothing: after an error nothing of it is left.
    ///
    /// # Errors
    /// [`HostError::Content`] for a wrong digest, a short or a long stream, [`HostError::NoSpace`], or the file system's own.
    fn import(&self, incoming: &Incoming<'_>, content: &mut dyn Read) -> Result<ImportOutcome, HostError>;

    /// Every stored version.
    ///
    /// # Errors
    /// The file system's own.
    fn versions(&self) -> Result<Vec<StoredName>, HostError>;

    /// The signed manifest of a stored version.
    ///
    /// # Errors
    /// [`HostError::Missing`], or the file system's own.
    fn envelope(&self, name: &StoredName) -> Result<Vec<u8>, HostError>;

    /// Reads every file of a stored version again and compares it with the manifest; refuses files too many.
    ///
    /// # Errors
    /// [`HostError::Missing`], [`HostError::Content`], or the file system's own.
    fn verify(&self, name: &StoredName, files: &[FileEntry]) -> Result<(), HostError>;

    /// What the kernel holds the files of a stored version to (fs-verity): one digest over their paths and measures.
    /// `None` where it does not hold them all.
    ///
    /// # Errors
    /// As [`Store::verify`].
    fn measure(&self, name: &StoredName, files: &[FileEntry]) -> Result<Option<Sha256>, HostError>;

    /// Checks a stored version through the very mount that its next worker is given: against what was measured at the
    /// import, else by reading it. A worker is started only after it.
    ///
    /// # Errors
    /// As [`Store::verify`].
    fn check(
        &self,
        name: &StoredName,
        files: &[FileEntry],
        measured: Option<Sha256>,
    ) -> Result<Held, HostError>;

    /// What a version was held to, when it was checked less than [`CHECK_HOLDS`] ago and no worker was started from it
    /// since: one check is enough for the beginning of a release and the start that follows.
    fn checked(&self, name: &StoredName) -> Option<Held>;

    /// Makes the read-only audit snapshot of this name. Repeating it gives the one that is there.
    ///
    /// # Errors
    /// The file system's own.
    fn snapshot(&self, name: &str, evidence: &Evidence) -> Result<SnapshotInfo, HostError>;

    /// Every audit snapshot, oldest first.
    ///
    /// # Errors
    /// The file system's own.
    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, HostError>;
}
