//! What is kept: audit snapshots and stored versions, who holds them, where they are mounted, and what is being
//! deleted. Its records, and their fold. What may go is decided in [`crate::guard`] and [`crate::retention`].

use crate::pruning::LogState;
use crate::step::Moment;
use crate::world::{Stamp, Stored};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use turnout_manifest::{ModelName, ReleaseId, Sha256, Version, VersionRef};

/// Why a snapshot was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "kebab-case")]
pub enum Reason {
    /// A release is about to begin, or is over.
    Release {
        /// The release.
        release: ReleaseId,
        /// Which of the two.
        moment: Moment,
    },
    /// A version came into the store.
    Import {
        /// Which.
        version: VersionRef,
        /// Digest of its manifest.
        digest: Sha256,
    },
    /// Somebody asked.
    Request {
        /// Who.
        by: String,
        /// What for, in their words; may be empty.
        note: String,
    },
}

/// What a scrub found: every block of the file system was read and compared with its checksum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that differ from their checksum, or could not be read.
    pub errors: u64,
    /// Of these, mended from a second copy.
    pub corrected: u64,
    /// Of these, lost.
    pub uncorrectable: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// A record about what is kept. On the wire it stands among the others, by its own `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ArchiveRecord {
    /// A snapshot is about to be made because somebody asked.
    SnapshotRequested {
        /// Who.
        by: String,
        /// What for, in their words; may be empty.
        note: String,
    },
    /// A snapshot was made outside of a release.
    SnapshotTaken {
        /// Its name.
        snapshot: String,
        /// Its Btrfs UUID.
        uuid: String,
        /// Why.
        reason: Reason,
    },
    /// A snapshot must not be deleted from now on, whatever the policy says.
    SnapshotHeld {
        /// Which.
        snapshot: String,
        /// Who says so.
        by: String,
        /// Why.
        reason: String,
    },
    /// The hold is over.
    HoldReleased {
        /// Which.
        snapshot: String,
        /// Who says so.
        by: String,
    },
    /// A snapshot is about to be mounted for a reader.
    MountGranted {
        /// Which.
        snapshot: String,
        /// Where.
        at: String,
        /// For whom.
        by: String,
        /// When it will be taken away, milliseconds since the epoch.
        until_ms: u64,
    },
    /// It is not mounted there any more.
    MountEnded {
        /// Which.
        snapshot: String,
        /// Where.
        at: String,
        /// Why, or by whom.
        why: String,
        /// Until when it was granted, milliseconds since the epoch: which of the grants at this place it was. Absent in
        /// records of older daemons.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<u64>,
    },
    /// A snapshot's content was given out, or the signed list of its files.
    SnapshotExported {
        /// Which.
        snapshot: String,
        /// To whom.
        by: String,
        /// Digest of the list, where it was that; absent for the content.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        list: Option<Sha256>,
    },
    /// A snapshot is about to be deleted.
    SnapshotDeleting {
        /// Which.
        snapshot: String,
        /// Who, or what rule.
        by: String,
        /// Why.
        why: String,
    },
    /// It is gone.
    SnapshotDeleted {
        /// Which.
        snapshot: String,
    },
    /// It could not be deleted and stays.
    SnapshotKept {
        /// Which.
        snapshot: String,
        /// Why.
        why: String,
    },
    /// A version is about to be deleted; it cannot be released any more.
    VersionDeleting {
        /// Which.
        version: VersionRef,
        /// Digest of its manifest.
        digest: Sha256,
        /// Who, or what rule.
        by: String,
        /// Why.
        why: String,
    },
    /// It is gone from the store. Snapshots that hold it keep it.
    VersionDeleted {
        /// Which.
        version: VersionRef,
        /// Digest of its manifest.
        digest: Sha256,
    },
    /// It could not be deleted and stays.
    VersionKept {
        /// Which.
        version: VersionRef,
        /// Why.
        why: String,
    },
    /// Every block of the store is about to be read.
    Scrubbing {
        /// Who, or what rule.
        by: String,
    },
    /// It was.
    Scrubbed {
        /// What was found.
        found: Scrubbed,
    },
    /// The store is about to be made larger.
    StoreGrowing {
        /// Who.
        by: String,
        /// Bytes it will have.
        bytes: u64,
    },
    /// It is.
    StoreGrown {
        /// Bytes it has.
        bytes: u64,
    },
    /// Something announced by another record of this kind did not happen.
    ArchiveFailed {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// Records of the journal must not be pruned from now on, whatever the policy says.
    LogHeld {
        /// The first record that is held; all after it are held too.
        from: u64,
        /// Who says so.
        by: String,
        /// Why.
        reason: String,
    },
    /// That hold is over.
    LogHoldReleased {
        /// Who says so.
        by: String,
    },
    /// The oldest records of the journal are about to be deleted. Their hashes stay, and what they came to.
    LogPruned {
        /// The first record that stays.
        minimum_index: u64,
        /// SHA-256 of what the records before it came to: the file `<minimum_index>.base` beside the segments.
        base: Sha256,
        /// Who, or what rule.
        by: String,
        /// Why.
        why: String,
        /// The first record that a legal hold keeps; absent where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        held_from: Option<u64>,
    },
    /// The host signs with this key from now on.
    HostKeyMade {
        /// `sha256:` of its SubjectPublicKeyInfo.
        key_id: String,
    },
}

/// A snapshot that the journal knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Why it was made.
    pub reason: Reason,
    /// Which record says so, and when.
    pub stamp: Stamp,
}

/// A legal hold on a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who placed it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

/// A snapshot mounted for a reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which.
    pub snapshot: String,
    /// For whom.
    pub by: String,
    /// When it will be taken away, milliseconds since the epoch.
    pub until_ms: u64,
}

/// What is kept, as the journal tells it. What exists is asked of the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Taken>,
    /// Holds by snapshot.
    pub holds: BTreeMap<String, Hold>,
    /// Mounts by place.
    pub mounts: BTreeMap<String, Grant>,
    /// Snapshots whose deletion was announced and has no outcome yet.
    pub deleting: BTreeSet<String>,
    /// The same for versions.
    pub removing: BTreeMap<(ModelName, Version), Stored>,
    /// Labels of versions that were deleted: a label means one content for ever.
    pub removed: BTreeMap<(ModelName, Version), Sha256>,
    /// The last scrub, and when it ended, milliseconds since the epoch.
    pub scrubbed: Option<(Scrubbed, u64)>,
    /// The id of the host's own key, as it was last recorded.
    pub host_key: Option<String>,
    /// When the daemon first ran on this journal, milliseconds since the epoch.
    pub since_ms: Option<u64>,
    /// Holds and prunings of the journal itself.
    pub log: LogState,
}

impl Archive {
    /// Takes in a record.
    pub fn apply(&mut self, record: &ArchiveRecord, stamp: Stamp) {
        use ArchiveRecord as R;
        match record {
            R::SnapshotTaken { snapshot, reason, .. } => self.take(snapshot, reason.clone(), stamp),
            R::SnapshotHeld { snapshot, by, reason } => {
                let hold = Hold { by: by.clone(), reason: reason.clone(), at_ms: stamp.at_ms };
                self.holds.insert(snapshot.clone(), hold);
            }
            R::HoldReleased { snapshot, .. } => drop(self.holds.remove(snapshot)),
            R::MountGranted { snapshot, at, by, until_ms } => {
                let grant = Grant { snapshot: snapshot.clone(), by: by.clone(), until_ms: *until_ms };
                self.mounts.insert(at.clone(), grant);
            }
            R::MountEnded { at, .. } if self.ends_grant(record) => drop(self.mounts.remove(at)),
            // Another one was granted at its place before this was written.
            R::MountEnded { .. } => {}
            R::SnapshotDeleting { snapshot, .. } => drop(self.deleting.insert(snapshot.clone())),
            R::SnapshotDeleted { snapshot } => {
                self.deleting.remove(snapshot);
                self.snapshots.remove(snapshot);
            }
            R::SnapshotKept { snapshot, .. } => drop(self.deleting.remove(snapshot)),
            R::VersionDeleted { version, digest } => {
                self.removing.remove(&key(version));
                self.removed.insert(key(version), *digest);
            }
            R::Scrubbed { found } => self.scrubbed = Some((*found, stamp.at_ms)),
            // What becomes of the version itself is folded where the versions are.
            R::VersionDeleting { .. } => {}
            R::VersionKept { version, .. } => drop(self.removing.remove(&key(version))),
            R::LogHeld { .. } | R::LogHoldReleased { .. } | R::LogPruned { .. } => {
                self.log.apply(record, stamp)
            }
            R::HostKeyMade { key_id } => self.host_key = Some(key_id.clone()),
            R::SnapshotRequested { .. }
            | R::SnapshotExported { .. }
            | R::Scrubbing { .. }
            | R::StoreGrowing { .. }
            | R::StoreGrown { .. }
            | R::ArchiveFailed { .. } => {}
        }
    }

    /// Whether this record ends the grant that stands at its place. One of an older daemon ends whichever stands there.
    pub(crate) fn ends_grant(&self, record: &ArchiveRecord) -> bool {
        let ArchiveRecord::MountEnded { snapshot, at, until_ms, .. } = record else { return false };
        self.mounts.get(at).is_some_and(|grant| {
            until_ms.is_none_or(|until_ms| (&grant.snapshot, grant.until_ms) == (snapshot, until_ms))
        })
    }

    /// Notes a snapshot that was made.
    pub fn take(&mut self, snapshot: &str, reason: Reason, stamp: Stamp) {
        // A host whose store keeps no snapshots ends the step with words instead of a name.
        if is_snapshot_name(snapshot) {
            self.snapshots.entry(snapshot.to_owned()).or_insert(Taken { reason, stamp });
        }
    }
}

fn key(version: &VersionRef) -> (ModelName, Version) {
    (version.model.clone(), version.version.clone())
}

/// Whether this is the name of a snapshot: letters, digits and dashes with a digit at its beginning.
pub fn is_snapshot_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
