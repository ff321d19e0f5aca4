//! Which snapshots and versions a policy lets go. What [`crate::guard`] keeps, and what the kernel has mounted, never
//! goes, whatever the policy says; each deletion is decided once more by the loop.

use crate::guard::{snapshot_guards, version_guards};
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use turnout_manifest::{ModelName, Sha256, VersionRef};

/// How long things are kept. What one rule keeps is kept; without any rule, everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// The newest so many snapshots, at least one.
    pub keep_last: Option<u32>,
    /// Snapshots younger than this, milliseconds.
    pub keep_within_ms: Option<u64>,
    /// The newest so many versions of each model, beside those that are guarded.
    pub keep_versions: Option<u32>,
}

/// What is there, as the host tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Every snapshot, oldest first.
    pub snapshots: Vec<FoundSnapshot>,
    /// Content that is mounted somewhere, of whatever model.
    pub versions_mounted: BTreeSet<Sha256>,
}

/// One snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// Its name.
    pub name: String,
    /// When it was made, milliseconds since the epoch.
    pub created_ms: u64,
    /// The kernel has it mounted somewhere.
    pub mounted: bool,
    /// Content of the versions in it.
    pub versions: Vec<Sha256>,
}

/// Something that may go, and the rule that lets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving<What> {
    /// What.
    pub what: What,
    /// Why.
    pub why: String,
}

/// Snapshots that the policy lets go now, oldest first.
pub fn snapshots(policy: &Policy, now_ms: u64, (world, found): (&World, &Found)) -> Vec<Leaving<String>> {
    if policy.keep_last.is_none() && policy.keep_within_ms.is_none() {
        return Vec::new();
    }
    // The newest one stays even where only an age is set.
    let last = policy.keep_last.unwrap_or(1).max(1) as usize;
    let young = |made: u64| policy.keep_within_ms.is_some_and(|age| now_ms.saturating_sub(made) < age);
    let beyond = found.snapshots.len().saturating_sub(last);
    let old = found.snapshots[..beyond].iter().filter(|snapshot| !young(snapshot.created_ms));
    let free = old.filter(|snapshot| !snapshot.mounted && snapshot_guards(world, &snapshot.name).is_empty());
    free.map(|snapshot| Leaving { what: snapshot.name.clone(), why: rule(policy) }).collect()
}

fn rule(policy: &Policy) -> String {
    let last = policy.keep_last.map(|last| format!("it is not among the newest {last}"));
    let age = policy.keep_within_ms.map(|age| format!("it is older than {} days", age / 86_400_000));
    last.into_iter().chain(age).collect::<Vec<_>>().join(", and ")
}

/// Versions that the policy lets go now, the oldest of each model first.
pub fn versions(policy: &Policy, (world, found): (&World, &Found)) -> Vec<Leaving<VersionRef>> {
    let Some(keep) = policy.keep_versions else { return Vec::new() };
    let mut by_model: BTreeMap<&ModelName, Vec<_>> = BTreeMap::new();
    for ((model, version), stored) in &world.versions {
        by_model.entry(model).or_default().push((stored.at_ms, version, stored.digest));
    }
    let mut leaving = Vec::new();
    for (model, mut stored) in by_model {
        stored.sort();
        let beyond = stored.len().saturating_sub(keep as usize);
        for (_, version, digest) in stored.into_iter().take(beyond) {
            let what = VersionRef { model: model.clone(), version: version.clone() };
            let kept_in = holding(found, digest);
            let mounted = found.versions_mounted.contains(&digest);
            if !mounted && version_guards(world, &what, digest, &kept_in).is_empty() {
                let why = format!("it is not among the newest {keep} of `{model}`");
                leaving.push(Leaving { what, why });
            }
        }
    }
    leaving
}

/// Names of the snapshots that hold this content.
pub fn holding(found: &Found, digest: Sha256) -> Vec<String> {
    let with = found.snapshots.iter().filter(|snapshot| snapshot.versions.contains(&digest));
    with.map(|snapshot| snapshot.name.clone()).collect()
}
