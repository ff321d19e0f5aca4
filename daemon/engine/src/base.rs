//! The base of a pruned journal: the state that the records before it came to, as lines of canonical JSON. A fold of the
//! base and the records after it is the fold of all records. One line is one part, so that none is large.

use crate::archive::{Archive, Grant, Hold, Scrubbed, Taken};
use crate::context::Contexts;
use crate::pruning::{LogHold, LogState, Pruned};
use crate::tally::{ModelTally, Tally};
use crate::trust::{KnownException, KnownRoot, TrustLog};
use crate::world::{Model, Release, Stored, World};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use turnout_manifest::canonical::{self, CanonicalError};
use turnout_manifest::order::UsedOrder;
use turnout_manifest::{AuditContext, Channel, ModelName, ReleaseId, SetName, Sha256, Version};

/// Name and version of the form.
pub const SCHEMA: &str = "turnout.base/v1";

/// The state of a journal before its first record that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    /// That record's number.
    pub minimum_index: u64,
    /// RFC 6962 root over the records before it, hex.
    pub root: String,
    /// What they came to.
    pub world: World,
}

/// Why bytes are no base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The first line is not the one that says what this is.
    #[error("the base does not begin as `{SCHEMA}`: it is of another version, or none")]
    Head,
    /// A line is no part of a state.
    #[error("line {line} of the base")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: CanonicalError,
    },
    /// Its parts are not those that this version would write.
    #[error("the base has parts twice, in another order, or with members that this version does not know")]
    Parts,
}

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "kebab-case")]
enum Part {
    Head { schema: String, minimum_index: u64, root: String },
    Numbers { generation: u32, release: u32, starts: u64, refusals: u64 },
    Model { model: ModelName, state: Box<Model> },
    Tally { model: ModelName, tally: ModelTally },
    Version { model: ModelName, version: Version, stored: Stored },
    Release { state: Box<Release> },
    Set { set: SetName, models: Vec<ModelName> },
    Snapshot { snapshot: String, taken: Taken },
    SnapshotHold { snapshot: String, hold: Hold },
    Mount { at: String, grant: Grant },
    SnapshotDeleting { snapshot: String },
    VersionDeleting { model: ModelName, version: Version, stored: Stored },
    VersionDeleted { model: ModelName, version: Version, digest: Sha256 },
    Scrub { found: Scrubbed, at_ms: u64 },
    HostKey { key_id: String },
    Since { at_ms: u64 },
    LogHold { hold: LogHold },
    LogPruned { pruned: Pruned },
    TrustRoot { root: KnownRoot },
    Order { channel: Channel, order: UsedOrder },
    Exception { manifest: Sha256, exception: Box<KnownException> },
    FirstSeen { manifest: Sha256, at_ms: u64 },
    ReleaseContexts { release: ReleaseId, contexts: Vec<AuditContext> },
    LiveContext { model: ModelName, context: AuditContext },
    OpenContext { subject: String, context: AuditContext },
}

impl Base {
    /// The base as it is written.
    ///
    /// # Errors
    /// [`CanonicalError`] for a state with a number beyond 2^53 or a part that is too large.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CanonicalError> {
        let mut bytes = Vec::new();
        for part in self.parts() {
            bytes.extend(canonical::to_canonical(&part)?);
            bytes.push(b'\n');
        }
        Ok(bytes)
    }

    /// Reads a base. What is read is all that is written in it, or it is refused.
    ///
    /// # Errors
    /// [`BaseError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BaseError> {
        let mut base = Self::default();
        for (at, text) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let text = text.strip_suffix(b"\n").ok_or(BaseError::Parts)?;
            let refused = |source| BaseError::Line { line: at + 1, source };
            match (canonical::from_canonical::<Part>(text).map_err(refused)?, at) {
                (Part::Head { schema, minimum_index, root }, 0) if schema == SCHEMA => {
                    (base.minimum_index, base.root) = (minimum_index, root);
                }
                (_, 0) => return Err(BaseError::Head),
                (part, _) => base.world.put(part),
            }
        }
        if bytes.is_empty() {
            return Err(BaseError::Head);
        }
        let written = base.to_bytes().map_err(|_| BaseError::Parts)?;
        if written == bytes { Ok(base) } else { Err(BaseError::Parts) }
    }

    fn parts(&self) -> Vec<Part> {
        let (minimum_index, root) = (self.minimum_index, self.root.clone());
        let mut parts = vec![Part::Head { schema: SCHEMA.to_owned(), minimum_index, root }];
        let World {
            models,
            releases,
            versions,
            tally: Tally { starts, refusals, models: tallies },
            archive,
            trust,
            contexts,
            sets,
            last_generation,
            last_release,
        } = &self.world;
        let (generation, release) = (*last_generation, *last_release);
        parts.push(Part::Numbers { generation, release, starts: *starts, refusals: *refusals });
        let model = |(model, state): (&ModelName, &Model)| Part::Model {
            model: model.clone(),
            state: Box::new(state.clone()),
        };
        parts.extend(models.iter().map(model));
        parts
            .extend(tallies.iter().map(|(model, tally)| Part::Tally { model: model.clone(), tally: *tally }));
        parts.extend(versions.iter().map(|((model, version), stored)| Part::Version {
            model: model.clone(),
            version: version.clone(),
            stored: stored.clone(),
        }));
        parts.extend(releases.values().map(|state| Part::Release { state: Box::new((**state).clone()) }));
        parts.extend(sets.iter().map(|(set, models)| Part::Set { set: set.clone(), models: models.clone() }));
        archive_parts(archive, &mut parts);
        trust_parts(trust, &mut parts);
        context_parts(contexts, &mut parts);
        parts
    }
}

fn archive_parts(archive: &Archive, parts: &mut Vec<Part>) {
    let Archive { snapshots, holds, mounts, deleting, removing, removed, scrubbed, host_key, since_ms, log } =
        archive;
    let LogState { hold, pruned } = log;
    parts.extend(
        snapshots
            .iter()
            .map(|(snapshot, taken)| Part::Snapshot { snapshot: snapshot.clone(), taken: taken.clone() }),
    );
    parts.extend(
        holds
            .iter()
            .map(|(snapshot, hold)| Part::SnapshotHold { snapshot: snapshot.clone(), hold: hold.clone() }),
    );
    parts.extend(mounts.iter().map(|(at, grant)| Part::Mount { at: at.clone(), grant: grant.clone() }));
    parts.extend(deleting.iter().map(|snapshot| Part::SnapshotDeleting { snapshot: snapshot.clone() }));
    parts.extend(removing.iter().map(|((model, version), stored)| Part::VersionDeleting {
        model: model.clone(),
        version: version.clone(),
        stored: stored.clone(),
    }));
    parts.extend(removed.iter().map(|((model, version), digest)| Part::VersionDeleted {
        model: model.clone(),
        version: version.clone(),
        digest: *digest,
    }));
    parts.extend(scrubbed.map(|(found, at_ms)| Part::Scrub { found, at_ms }));
    parts.extend(host_key.iter().map(|key_id| Part::HostKey { key_id: key_id.clone() }));
    parts.extend(since_ms.map(|at_ms| Part::Since { at_ms }));
    parts.extend(hold.iter().map(|hold| Part::LogHold { hold: hold.clone() }));
    parts.extend(pruned.iter().map(|pruned| Part::LogPruned { pruned: pruned.clone() }));
}

fn trust_parts(trust: &TrustLog, parts: &mut Vec<Part>) {
    let TrustLog { root, orders, exceptions, first_seen } = trust;
    parts.extend(root.map(|root| Part::TrustRoot { root }));
    parts.extend(
        orders.iter().map(|(channel, order)| Part::Order { channel: channel.clone(), order: *order }),
    );
    parts.extend(exceptions.iter().map(|(manifest, exception)| Part::Exception {
        manifest: *manifest,
        exception: Box::new(exception.clone()),
    }));
    parts.extend(
        first_seen.iter().map(|(manifest, at_ms)| Part::FirstSeen { manifest: *manifest, at_ms: *at_ms }),
    );
}

fn context_parts(contexts: &Contexts, parts: &mut Vec<Part>) {
    let Contexts { releases, live, open } = contexts;
    parts.extend(
        releases.iter().map(|(release, contexts)| Part::ReleaseContexts {
            release: *release,
            contexts: contexts.clone(),
        }),
    );
    parts.extend(
        live.iter().map(|(model, context)| Part::LiveContext { model: model.clone(), context: *context }),
    );
    parts.extend(
        open.iter()
            .map(|(subject, context)| Part::OpenContext { subject: subject.clone(), context: *context }),
    );
}

impl World {
    /// Takes in one part of a state. A second head is written nowhere, and so found by comparing.
    fn put(&mut self, part: Part) {
        match part {
            Part::Head { .. } => {}
            Part::Numbers { generation, release, starts, refusals } => {
                (self.last_generation, self.last_release) = (generation, release);
                (self.tally.starts, self.tally.refusals) = (starts, refusals);
            }
            Part::Model { model, state } => drop(self.models.insert(model, *state)),
            Part::Tally { model, tally } => drop(self.tally.models.insert(model, tally)),
            Part::Version { model, version, stored } => drop(self.versions.insert((model, version), stored)),
            Part::Release { state } => drop(self.releases.insert(state.planned.release, Arc::from(state))),
            Part::Set { set, models } => drop(self.sets.insert(set, models)),
            Part::TrustRoot { .. } | Part::Order { .. } | Part::Exception { .. } | Part::FirstSeen { .. } => {
                put_trust(Arc::make_mut(&mut self.trust), part);
            }
            Part::ReleaseContexts { .. } | Part::LiveContext { .. } | Part::OpenContext { .. } => {
                put_context(Arc::make_mut(&mut self.contexts), part);
            }
            part => put_kept(Arc::make_mut(&mut self.archive), part),
        }
    }
}

fn put_kept(archive: &mut Archive, part: Part) {
    match part {
        Part::Snapshot { snapshot, taken } => drop(archive.snapshots.insert(snapshot, taken)),
        Part::SnapshotHold { snapshot, hold } => drop(archive.holds.insert(snapshot, hold)),
        Part::Mount { at, grant } => drop(archive.mounts.insert(at, grant)),
        Part::SnapshotDeleting { snapshot } => drop(archive.deleting.insert(snapshot)),
        Part::VersionDeleting { model, version, stored } => {
            archive.removing.insert((model, version), stored);
        }
        Part::VersionDeleted { model, version, digest } => {
            archive.removed.insert((model, version), digest);
        }
        Part::Scrub { found, at_ms } => archive.scrubbed = Some((found, at_ms)),
        Part::HostKey { key_id } => archive.host_key = Some(key_id),
        Part::Since { at_ms } => archive.since_ms = Some(at_ms),
        Part::LogHold { hold } => archive.log.hold = Some(hold),
        Part::LogPruned { pruned } => archive.log.pruned.push(pruned),
        _ => {}
    }
}

fn put_trust(trust: &mut TrustLog, part: Part) {
    match part {
        Part::TrustRoot { root } => trust.root = Some(root),
        Part::Order { channel, order } => drop(trust.orders.insert(channel, order)),
        Part::Exception { manifest, exception } => drop(trust.exceptions.insert(manifest, *exception)),
        Part::FirstSeen { manifest, at_ms } => drop(trust.first_seen.insert(manifest, at_ms)),
        _ => {}
    }
}

fn put_context(known: &mut Contexts, part: Part) {
    match part {
        Part::ReleaseContexts { release, contexts } => drop(known.releases.insert(release, contexts)),
        Part::LiveContext { model, context } => drop(known.live.insert(model, context)),
        Part::OpenContext { subject, context } => drop(known.open.insert(subject, context)),
        _ => {}
    }
}
