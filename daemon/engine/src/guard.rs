//! What keeps a snapshot or a stored version from being deleted, and the wishes about them that the loop decides on.
//! A deletion is decided where releases are: nothing can begin between the look and the record.

use crate::archive::{Archive, ArchiveRecord, Reason};
use crate::pruning;
use crate::record::Target;
use crate::world::World;
use std::fmt;
use turnout_manifest::{ModelName, ReleaseId, Sha256, Version, VersionRef};

/// A wish about what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveWish {
    /// Keep this snapshot, whatever the policy says.
    Hold {
        /// Which.
        snapshot: String,
        /// Who asks.
        by: String,
        /// Why.
        reason: String,
    },
    /// End the hold.
    ReleaseHold {
        /// Which.
        snapshot: String,
        /// Who asks.
        by: String,
    },
    /// Mount it for a reader.
    Mount {
        /// Which.
        snapshot: String,
        /// Where.
        at: String,
        /// Who asks.
        by: String,
        /// When it is to be taken away, milliseconds since the epoch.
        until_ms: u64,
    },
    /// Delete it.
    DeleteSnapshot {
        /// Which.
        snapshot: String,
        /// Who asks.
        by: String,
        /// Why.
        why: String,
    },
    /// Delete a version from the store.
    DeleteVersion {
        /// Which.
        version: VersionRef,
        /// Who asks.
        by: String,
        /// Why.
        why: String,
        /// Snapshots that hold it.
        kept_in: Vec<String>,
    },
    /// Keep the journal's records from this one on, whatever the policy says.
    HoldLog {
        /// The first one.
        from: u64,
        /// Who asks.
        by: String,
        /// Why.
        reason: String,
    },
    /// End that hold.
    ReleaseLogHold {
        /// Who asks.
        by: String,
    },
    /// Delete the journal's records before this one, whose base is written.
    PruneLog {
        /// The first one that stays.
        minimum_index: u64,
        /// SHA-256 of the base.
        base: Sha256,
        /// Who asks.
        by: String,
        /// Why.
        why: String,
    },
}

/// One reason why something stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// A legal hold, on it or on a snapshot that shows it.
    Held {
        /// The snapshot.
        snapshot: String,
        /// Who placed it.
        by: String,
        /// Why.
        reason: String,
    },
    /// It is mounted here.
    Mounted(String),
    /// This version is live, or the snapshot shows how it became so.
    Live(VersionRef),
    /// This version is what a rollback returns to, or the snapshot shows how it became live.
    LastGood(VersionRef),
    /// A release under way needs it.
    Release(ReleaseId),
    /// A legal hold on the journal.
    LogHeld {
        /// From which record on.
        from: u64,
        /// Who placed it.
        by: String,
        /// Why.
        reason: String,
    },
    /// A reader of the journal may still have to read it.
    Reader {
        /// The file with its place.
        cursor: String,
        /// From which record on, or why that cannot be told.
        next: Result<u64, String>,
    },
    /// Only the first so many records are under a signed checkpoint.
    Unsigned(u64),
    /// Only the first so many records have their hashes kept apart from them.
    Unhashed(u64),
}

impl fmt::Display for Guard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { snapshot, by, reason } => {
                write!(out, "`{snapshot}` is held by {by}: {reason}")
            }
            Self::Mounted(at) => write!(out, "it is mounted at `{at}`"),
            Self::Live(version) => write!(out, "`{version}` is live"),
            Self::LastGood(version) => write!(out, "a rollback returns to `{version}`"),
            Self::Release(release) => write!(out, "release {release} is under way"),
            Self::LogHeld { from, by, reason } => {
                write!(out, "the journal is held from record {from} on by {by}: {reason}")
            }
            Self::Reader { cursor, next: Ok(next) } => {
                write!(out, "the reader with the cursor `{cursor}` goes on at record {next}")
            }
            Self::Reader { cursor, next: Err(why) } => {
                write!(out, "the reader with the cursor `{cursor}` may need every record: {why}")
            }
            Self::Unsigned(size) => write!(out, "only {size} records are under a signed checkpoint"),
            Self::Unhashed(size) => write!(out, "only {size} records have their hashes in tiles"),
        }
    }
}

/// Why a wish about what is kept cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveRefusal {
    /// It must stay.
    #[error("`{what}` must stay: {}", .why.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Guarded {
        /// What was to be deleted.
        what: String,
        /// Every reason.
        why: Vec<Guard>,
    },
    /// It is being deleted.
    #[error("`{0}` is being deleted")]
    Going(String),
    /// Nobody holds it.
    #[error("snapshot `{0}` is not held")]
    NotHeld(String),
    /// Somebody else has a snapshot there.
    #[error("snapshot `{snapshot}` is mounted at `{at}` already")]
    PlaceTaken {
        /// Where.
        at: String,
        /// What is there.
        snapshot: String,
    },
    /// No such version.
    #[error("`{0}` is not in the store")]
    NoVersion(VersionRef),
    /// The journal is held already.
    #[error("the journal is held from record {from} on by {by}: {reason}")]
    LogHeld {
        /// From which record on.
        from: u64,
        /// Who placed it.
        by: String,
        /// Why.
        reason: String,
    },
    /// Nobody holds the journal.
    #[error("the journal is not held")]
    LogNotHeld,
    /// Somebody else was faster.
    #[error("the records before {0} were pruned already")]
    LogPruned(u64),
}

/// Decides a wish about what is kept.
///
/// # Errors
/// [`ArchiveRefusal`] with every reason.
pub fn decide(world: &World, wish: &ArchiveWish) -> Result<ArchiveRecord, ArchiveRefusal> {
    let archive: &Archive = &world.archive;
    match wish {
        ArchiveWish::Hold { snapshot, by, reason } => {
            not_going(archive, snapshot)?;
            let (snapshot, by, reason) = (snapshot.clone(), by.clone(), reason.clone());
            Ok(ArchiveRecord::SnapshotHeld { snapshot, by, reason })
        }
        ArchiveWish::ReleaseHold { snapshot, by } => {
            if !archive.holds.contains_key(snapshot) {
                return Err(ArchiveRefusal::NotHeld(snapshot.clone()));
            }
            Ok(ArchiveRecord::HoldReleased { snapshot: snapshot.clone(), by: by.clone() })
        }
        ArchiveWish::Mount { snapshot, at, by, until_ms } => {
            not_going(archive, snapshot)?;
            if let Some(grant) = archive.mounts.get(at) {
                let (at, snapshot) = (at.clone(), grant.snapshot.clone());
                return Err(ArchiveRefusal::PlaceTaken { at, snapshot });
            }
            let (snapshot, at, by) = (snapshot.clone(), at.clone(), by.clone());
            Ok(ArchiveRecord::MountGranted { snapshot, at, by, until_ms: *until_ms })
        }
        ArchiveWish::DeleteSnapshot { snapshot, by, why } => {
            not_going(archive, snapshot)?;
            unguarded(snapshot, snapshot_guards(world, snapshot))?;
            let (snapshot, by, why) = (snapshot.clone(), by.clone(), why.clone());
            Ok(ArchiveRecord::SnapshotDeleting { snapshot, by, why })
        }
        ArchiveWish::DeleteVersion { version, by, why, kept_in } => {
            let key = (version.model.clone(), version.version.clone());
            let stored =
                world.versions.get(&key).ok_or_else(|| ArchiveRefusal::NoVersion(version.clone()))?;
            unguarded(&version.to_string(), version_guards(world, version, stored.digest, kept_in))?;
            let (version, digest) = (version.clone(), stored.digest);
            Ok(ArchiveRecord::VersionDeleting { version, digest, by: by.clone(), why: why.clone() })
        }
        ArchiveWish::HoldLog { from, by, reason } => pruning::hold(archive, (*from, by, reason)),
        ArchiveWish::ReleaseLogHold { by } => pruning::release_hold(archive, by),
        ArchiveWish::PruneLog { minimum_index, base, by, why } => {
            pruning::prune(archive, (*minimum_index, *base), (by, why))
        }
    }
}

fn not_going(archive: &Archive, snapshot: &str) -> Result<(), ArchiveRefusal> {
    if archive.deleting.contains(snapshot) {
        return Err(ArchiveRefusal::Going(snapshot.to_owned()));
    }
    Ok(())
}

fn unguarded(what: &str, why: Vec<Guard>) -> Result<(), ArchiveRefusal> {
    if why.is_empty() { Ok(()) } else { Err(ArchiveRefusal::Guarded { what: what.to_owned(), why }) }
}

/// Everything that keeps a snapshot: holds, mounts, and the releases that made the live and the last good versions.
pub fn snapshot_guards(world: &World, snapshot: &str) -> Vec<Guard> {
    let mut guards: Vec<Guard> = held(world, snapshot).into_iter().collect();
    let mounts = world.archive.mounts.iter().filter(|(_, grant)| grant.snapshot == snapshot);
    guards.extend(mounts.map(|(at, _)| Guard::Mounted(at.clone())));
    let Some(taken) = world.archive.snapshots.get(snapshot) else { return guards };
    let Reason::Release { release, .. } = &taken.reason else { return guards };
    for (name, model) in &world.models {
        if model.live_release == Some(*release) {
            guards.extend(model.live.as_ref().map(|live| Guard::Live(reference(name, &live.version))));
        }
        if model.previous_release == Some(*release) {
            let previous = model.previous.as_ref();
            guards.extend(previous.map(|version| Guard::LastGood(reference(name, &version.version))));
        }
        guards.extend(model.current.filter(|current| current == release).map(Guard::Release));
    }
    guards
}

/// Everything that keeps a version in the store.
pub fn version_guards(world: &World, version: &VersionRef, digest: Sha256, kept_in: &[String]) -> Vec<Guard> {
    let mut guards: Vec<Guard> = kept_in.iter().filter_map(|snapshot| held(world, snapshot)).collect();
    let Some(model) = world.models.get(&version.model) else { return guards };
    let same = |target: &&Target| target.digest == digest;
    let named = |target: &Target| reference(&version.model, &target.version);
    guards.extend(model.live.as_ref().filter(same).map(|live| Guard::Live(named(live))));
    guards.extend(model.previous.as_ref().filter(same).map(|previous| Guard::LastGood(named(previous))));
    if let Some(release) = world.current(&version.model) {
        let needed = release.planned.from.iter().chain([&release.planned.to]).any(|target| same(&target));
        guards.extend(needed.then_some(Guard::Release(release.planned.release)));
    }
    guards
}

fn held(world: &World, snapshot: &str) -> Option<Guard> {
    let hold = world.archive.holds.get(snapshot)?;
    let (by, reason) = (hold.by.clone(), hold.reason.clone());
    Some(Guard::Held { snapshot: snapshot.to_owned(), by, reason })
}

fn reference(model: &ModelName, version: &Version) -> VersionRef {
    VersionRef { model: model.clone(), version: version.clone() }
}
