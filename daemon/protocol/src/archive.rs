//! Snapshots, what is kept and the store below them, as the control API speaks of them; held against `openapi.yaml`
//! as the types in [`crate::control`] are.

use serde::{Deserialize, Serialize};
use turnout_manifest::{ModelName, ReleaseId, Sha256, Version, VersionRef};

/// Type of the payload in the signed list of an export's files (DSSE).
pub const DIGESTS_TYPE: &str = "application/vnd.turnout.snapshot-digests.v1+json";
/// Schema of that payload.
pub const DIGESTS_SCHEMA: &str = "turnout.snapshot-digests/v1";

/// Reply to `GET /v1/audit/snapshots`, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshots {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// Every audit snapshot that was asked for.
    pub snapshots: Vec<Snapshot>,
}

/// One audit snapshot: what it shows is read from it, the rest from the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name: `<journal size>-<time>`.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// When it was made.
    pub created_ms: u64,
    /// Its Btrfs UUID.
    pub uuid: String,
    /// Why: `release`, `import`, `request`, or `unknown` where neither journal nor snapshot tells.
    pub reason: String,
    /// The release, for `release`.
    pub release: Option<ReleaseId>,
    /// In words: `before r-3`, `import of fraud@1.3.7`, the note of who asked.
    pub note: String,
    /// Records of the journal that it holds at least.
    pub journal_size: u64,
    /// RFC 6962 root over them, hex; absent in snapshots of earlier versions.
    pub journal_root: Option<String>,
    /// Versions in it.
    pub versions: Vec<SnapshotVersion>,
    /// Why it must not be deleted, one line each; empty when a policy may delete it.
    pub kept_by: Vec<String>,
}

/// One version in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotVersion {
    /// Its model.
    pub model: ModelName,
    /// Its label.
    pub version: Version,
    /// Digest of its manifest.
    pub digest: Sha256,
    /// It was what traffic went to; otherwise it was being released.
    pub live: bool,
}

/// `POST /v1/audit/snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// What for, kept in the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `POST /v1/audit/snapshots/{name}/hold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldSnapshot {
    /// Why, kept in the journal.
    pub reason: String,
}

/// `POST /v1/audit/snapshots/{name}/mount`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSnapshot {
    /// An existing folder, absolute.
    pub dir: String,
    /// How long, milliseconds.
    pub for_ms: u64,
}

/// Reply to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mounted {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// Which snapshot.
    pub snapshot: String,
    /// Where.
    pub mounted_at: String,
    /// When the daemon takes it away.
    pub until_ms: u64,
}

/// `POST /v1/audit/unmount`: the reply is [`Unmounted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnmountSnapshot {
    /// Where it is mounted, absolute.
    pub dir: String,
}

/// Reply to `POST /v1/audit/unmount`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unmounted {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// What was mounted there.
    pub snapshot: String,
    /// Where.
    pub unmounted: String,
}

/// Reply to `GET /v1/audit/diff`: what changed from one snapshot to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotDiff {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// The earlier one, or the one named first.
    pub from: String,
    /// The other.
    pub to: String,
    /// Records that the journal grew by; negative when `to` is the older one.
    pub journal_records: i64,
    /// What was live, for each model where it changed.
    pub live: Vec<LiveChange>,
    /// What changed in what versions say and hold, for each model whose live version changed.
    pub versions: Vec<VersionChange>,
    /// Keys that came to count, and keys that no longer do.
    pub trust: Vec<Change>,
    /// Lines of the daemon's configuration.
    pub configuration: Vec<Change>,
    /// Files, as they lie in the snapshots.
    pub files: Vec<Change>,
}

/// One model whose live version changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveChange {
    /// The model.
    pub model: ModelName,
    /// What was live in the first snapshot.
    pub from: Option<SnapshotVersion>,
    /// What was live in the second.
    pub to: Option<SnapshotVersion>,
}

/// How the live versions of one model differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionChange {
    /// The model.
    pub model: ModelName,
    /// Keys of the manifest, but for the files: `runtime.threads`, `contract.inputs`.
    pub manifest: Vec<Change>,
    /// The model file: its digests.
    pub weights: Vec<Change>,
    /// The other files.
    pub files: Vec<Change>,
}

/// One thing that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `added`, `removed` or `changed`.
    pub change: String,
    /// What.
    pub what: String,
    /// How it was; absent for what was added.
    pub from: Option<String>,
    /// How it is; absent for what was removed.
    pub to: Option<String>,
}

/// The payload of the signed list beside an export ([`DIGESTS_TYPE`]), canonical JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// [`DIGESTS_SCHEMA`].
    pub schema: String,
    /// The snapshot.
    pub snapshot: String,
    /// Its Btrfs UUID: `Received UUID` of what `btrfs receive` makes of the stream.
    pub uuid: String,
    /// When it was made.
    pub created_ms: u64,
    /// Every file, sorted by path.
    pub files: Vec<turnout_manifest::manifest::FileEntry>,
}

/// Reply to `GET /v1/audit/snapshots/{name}/digests`: a signed envelope (DSSE) around [`Digests`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignedDigests {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// The envelope, as it is to be kept: canonical JSON.
    pub envelope: String,
}

/// Reply to `GET /v1/audit/key`: the key with which this host signs what it gives out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostKey {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// Its fingerprint, as envelopes name it.
    pub key_id: String,
    /// PEM of the public key (SubjectPublicKeyInfo, P-256).
    pub public_key: String,
}

/// `POST /v1/audit/prune`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
    /// Delete, of the journal alone, records from before this time that the configuration does not keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<u64>,
}

/// Reply to `POST /v1/audit/prune`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pruned {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// Nothing was deleted.
    pub dry_run: bool,
    /// What went, or would.
    pub gone: Vec<Gone>,
    /// What should have gone and did not, with why.
    pub failed: Vec<Gone>,
    /// What a rule would let go of the journal, and what keeps it.
    pub kept: Vec<Gone>,
}

/// One thing that went, or would.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gone {
    /// A snapshot's name, `model@version`, or the journal's records.
    pub what: String,
    /// The rule that lets it go, or what kept it.
    pub why: String,
}

/// `DELETE /v1/versions/{version}`: the reply is [`Removed`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// What was deleted.
    pub version: VersionRef,
    /// Digest of its manifest: the label stays bound to it.
    pub digest: Sha256,
    /// Snapshots that still hold it.
    pub kept_in: Vec<String>,
}

/// Reply to `GET /v1/store`, and to what changes the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Store {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// `btrfs`, `btrfs-image` for Btrfs in an image of its own, or `folder` for a plain folder.
    pub kind: String,
    /// Where it is.
    pub path: String,
    /// The image behind it, if it has one.
    pub image: Option<String>,
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes that imports leave free.
    pub reserve_bytes: u64,
    /// The kernel takes no writes, for instance after an I/O error.
    pub read_only: bool,
    /// Number of versions in it.
    pub versions: u64,
    /// Number of snapshots in it.
    pub snapshots: u64,
    /// The last scrub, if there was one.
    pub scrub: Option<Scrub>,
    /// When the next one is due, if they are made.
    pub next_scrub_ms: Option<u64>,
    /// The retention policy, one rule a line; empty when everything is kept.
    pub retention: Vec<String>,
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scrub {
    /// When it ended.
    pub at_ms: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that differ from their checksum, or could not be read.
    pub errors: u64,
    /// Of these, mended from a second copy.
    pub corrected: u64,
    /// Of these, lost.
    pub uncorrectable: u64,
    /// How long it took.
    pub took_ms: u64,
}

/// `POST /v1/store/grow`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowStore {
    /// Bytes that the image is to have.
    pub bytes: u64,
}
