//! The index of snapshots: a table that is made anew at each question, from what lies in each snapshot and from the
//! journal's records. It is kept nowhere, so it cannot disagree with either.

use crate::evidence::STATE_FILE;
use crate::view::View;
use serde::Deserialize;
use turnout_engine::archive::is_snapshot_name;
use turnout_engine::guard::{Guard, snapshot_guards};
use turnout_engine::record::Target;
use turnout_engine::{Moment, Reason};
use turnout_host::archive::{Inside, Reference};
use turnout_host::store::SnapshotInfo;
use turnout_host::{Host, HostError};
use turnout_manifest::{ModelName, Version};
use turnout_protocol::archive::{Snapshot, SnapshotVersion};

/// `state.json` as far as the index needs it. What earlier versions did not write is absent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct State {
    /// Why the snapshot was made.
    pub taken: Option<Reason>,
    /// Where the journal stood.
    pub journal: Option<StateJournal>,
    /// Every model.
    pub models: Vec<StateModel>,
}

/// Where the journal stood.
#[derive(Debug, Deserialize)]
pub struct StateJournal {
    /// Number of records.
    pub size: u64,
    /// RFC 6962 root over them, hex.
    pub root: String,
}

/// One model's state.
#[derive(Debug, Deserialize)]
pub struct StateModel {
    /// Its name.
    pub model: ModelName,
    /// What traffic went to.
    pub live: Option<Target>,
    /// What was being released.
    #[serde(default)]
    pub releasing: Option<Target>,
}

impl State {
    /// Reads the state out of a snapshot; one that is damaged or absent tells nothing.
    pub fn of(inside: &Inside) -> Self {
        let document = inside.documents.get(STATE_FILE).map(Vec::as_slice).unwrap_or_default();
        serde_json::from_slice(document).unwrap_or_default()
    }

    /// Live versions and those being released.
    pub fn versions(&self) -> Vec<SnapshotVersion> {
        let mut versions = Vec::new();
        for model in &self.models {
            let live = model.live.iter().map(|target| (target, true));
            // A release that is past its point of no return is of what is live.
            let is_live =
                |target: &Target| model.live.as_ref().is_some_and(|live| live.digest == target.digest);
            let releasing =
                model.releasing.iter().filter(|target| !is_live(target)).map(|target| (target, false));
            for (target, live) in live.chain(releasing) {
                versions.push(SnapshotVersion {
                    model: model.model.clone(),
                    version: target.version.clone(),
                    digest: target.digest,
                    live,
                });
            }
        }
        versions
    }
}

/// Which snapshots are wanted.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    model: Option<ModelName>,
    version: Option<Version>,
    since_ms: Option<u64>,
}

impl Filter {
    /// A snapshot shows a version when it was live in it, being released, or what it was made for.
    pub fn wants(&self, snapshot: &Snapshot) -> bool {
        let fits = |version: &SnapshotVersion| {
            self.model.as_ref().is_none_or(|model| *model == version.model)
                && self.version.as_ref().is_none_or(|label| *label == version.version)
        };
        let any = self.model.is_none() && self.version.is_none();
        self.since_ms.is_none_or(|since| snapshot.created_ms >= since)
            && (any || snapshot.versions.iter().any(fits))
    }
}

/// Every snapshot that is wanted, oldest first.
///
/// # Errors
/// The file system's own.
pub fn snapshots(host: &dyn Host, view: &View, filter: &Filter) -> Result<Vec<Snapshot>, HostError> {
    let references = host.references()?;
    let mut rows = Vec::new();
    for info in host.snapshots()? {
        match host.inside(&info.name) {
            Ok(inside) => rows.push(row(info, &inside, (view, &references))),
            // Deleted meanwhile.
            Err(HostError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    rows.retain(|snapshot| filter.wants(snapshot));
    Ok(rows)
}

/// One snapshot, and what lies in it; `None` when there is none of this name. No other one is opened.
///
/// # Errors
/// The file system's own.
pub fn snapshot(host: &dyn Host, view: &View, name: &str) -> Result<Option<(Snapshot, Inside)>, HostError> {
    if !is_snapshot_name(name) {
        return Ok(None);
    }
    let all = host.snapshots()?;
    let Some(info) = all.into_iter().find(|info| info.name == name) else { return Ok(None) };
    match host.inside(name) {
        Ok(inside) => Ok(Some((row(info, &inside, (view, &host.references()?)), inside))),
        // Deleted meanwhile.
        Err(HostError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn row(info: SnapshotInfo, inside: &Inside, (view, references): (&View, &[Reference])) -> Snapshot {
    let state = State::of(inside);
    let known = view.world.archive.snapshots.get(&info.name).map(|taken| taken.reason.clone());
    let reason = known.or_else(|| state.taken.clone());
    let mut versions = state.versions();
    if let Some(Reason::Import { version, digest }) = &reason {
        let (model, label, digest) = (version.model.clone(), version.version.clone(), *digest);
        versions.push(SnapshotVersion { model, version: label, digest, live: false });
        versions.dedup_by(|a, b| a.digest == b.digest);
    }
    let (word, release, note) = told(reason.as_ref());
    let by_name = || info.name.split('-').next().and_then(|size| size.parse().ok()).unwrap_or(0);
    Snapshot {
        kept_by: kept_by(&info.name, (view, references)),
        journal_size: state.journal.as_ref().map_or_else(by_name, |journal| journal.size),
        journal_root: state.journal.map(|journal| journal.root),
        path: info.path.display().to_string(),
        created_ms: info.created_ms,
        uuid: info.uuid,
        name: info.name,
        reason: word.to_owned(),
        release,
        note,
        versions,
    }
}

fn told(reason: Option<&Reason>) -> (&'static str, Option<turnout_manifest::ReleaseId>, String) {
    match reason {
        Some(Reason::Release { release, moment: Moment::Before }) => {
            ("release", Some(*release), format!("before {release}"))
        }
        Some(Reason::Release { release, moment: Moment::After }) => {
            ("release", Some(*release), format!("after {release}"))
        }
        Some(Reason::Import { version, .. }) => ("import", None, format!("import of {version}")),
        Some(Reason::Request { by, note }) if note.is_empty() => {
            ("request", None, format!("asked for by {by}"))
        }
        Some(Reason::Request { note, .. }) => ("request", None, note.clone()),
        None => ("unknown", None, String::new()),
    }
}

/// What keeps a snapshot: what the journal says, and mounts that were made without the daemon.
fn kept_by(name: &str, (view, references): (&View, &[Reference])) -> Vec<String> {
    let guards = snapshot_guards(&view.world, name);
    let known = |at: &str| guards.iter().any(|guard| matches!(guard, Guard::Mounted(place) if place == at));
    let own = format!("audit/{name}");
    let mounts = references.iter().filter(|reference| reference.of == own);
    let others = mounts.map(|reference| reference.at.display().to_string()).filter(|at| !known(at));
    let others: Vec<Guard> = others.map(Guard::Mounted).collect();
    guards.iter().chain(&others).map(ToString::to_string).collect()
}
