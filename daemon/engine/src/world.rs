//! Records -> state. `apply` is a fold: it never decides, never fails, and given the same records it gives the same
//! state, whether they come one by one from the driver or all at once at recovery.

mod keep;
mod release;

pub use release::{Judged, Logged, Progress, Release};

use crate::archive::Archive;
use crate::context::Contexts;
use crate::record::{Cause, End, Kind, Planned, Record, Target};
use crate::step::Step;
use crate::tally::Tally;
use crate::trust::TrustLog;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use turnout_manifest::{Generation, ModelName, ReleaseId, SetName, Sha256, Version};

/// How long a worker that was started again must have run for its death to be the first one of a row.
const STEADY_MS: u64 = 10 * 60 * 1000;
/// Ended releases kept in memory; older ones are in the journal.
const ENDED_KEPT: usize = 64;

/// Where and when a record was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Position in the journal, from 0.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
}

/// A version known to be in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Digest of its manifest.
    pub digest: Sha256,
    /// Bytes of its files.
    pub bytes: u64,
    /// Issuers whose signatures counted.
    pub signed_by: Vec<String>,
    /// What the kernel holds its files to (fs-verity).
    pub measured: Option<Sha256>,
    /// When it was imported, milliseconds since the epoch.
    pub at_ms: u64,
}

/// One model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its public port.
    pub port: u16,
    /// What traffic goes to.
    pub live: Option<Target>,
    /// The live version's worker has died and is not replaced yet.
    pub live_died: bool,
    /// The release that made it so, restarts of its worker aside.
    pub live_release: Option<ReleaseId>,
    /// What was live before the last promotion.
    pub previous: Option<Target>,
    /// The release that had made it so.
    pub previous_release: Option<ReleaseId>,
    /// The release under way, or stuck.
    pub current: Option<ReleaseId>,
    /// The newest release.
    pub last: Option<ReleaseId>,
    /// Restarts in a row, and attempts of an undo that was stuck with it dead. A promotion by other means ends the row, and
    /// so does a worker that runs for ten minutes.
    pub restarts: u32,
    /// When its worker was last started again, milliseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarted_ms: Option<u64>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// Models that were ever released.
    pub models: BTreeMap<ModelName, Model>,
    /// Releases under way and the newest ended ones; shared, so that readers take a copy of the state for little.
    pub releases: BTreeMap<ReleaseId, Arc<Release>>,
    /// The models that each set shows, in order.
    pub sets: BTreeMap<SetName, Vec<ModelName>>,
    /// Versions in the store.
    pub versions: BTreeMap<(ModelName, Version), Stored>,
    /// Running totals.
    pub tally: Tally,
    /// Snapshots, holds, mounts and deletions; shared, as the releases are.
    pub archive: Arc<Archive>,
    /// Root, orders, exceptions and first sights; shared, as the releases are.
    pub trust: Arc<TrustLog>,
    /// Audit contexts of what is remembered; shared, as the releases are.
    pub contexts: Arc<Contexts>,
    pub(crate) last_generation: u32,
    pub(crate) last_release: u32,
}

impl World {
    /// The generation to give next.
    pub fn next_generation(&self) -> Generation {
        Generation(self.last_generation + 1)
    }

    /// The release id to give next.
    pub fn next_release(&self) -> ReleaseId {
        ReleaseId::new(self.last_release + 1)
    }

    /// The release under way on a model, or stuck.
    pub fn current(&self, model: &ModelName) -> Option<&Release> {
        self.releases.get(&self.models.get(model)?.current?).map(Arc::as_ref)
    }

    /// Whether the live version's worker has died and nothing that is under way brings it up again.
    pub fn awaits_restart(&self, model: &ModelName) -> bool {
        let died = self.models.get(model).is_some_and(|model| model.live_died);
        died && self.current(model).is_none_or(Release::is_stuck)
    }

    /// Takes in one record.
    pub fn apply(&mut self, record: &Record, stamp: Stamp) {
        let at_ms = stamp.at_ms;
        self.count(record);
        self.fold(record, at_ms);
        self.keep(record, stamp);
        if let Some(release) = record.release().and_then(|id| self.releases.get_mut(&id)).map(Arc::make_mut) {
            release.first_seq = release.first_seq.min(stamp.seq);
            release.last_seq = stamp.seq;
        }
    }

    fn count(&mut self, record: &Record) {
        let release = record.release().and_then(|id| self.releases.get(&id));
        let released = release.map(|release| (&release.planned.model, release.planned.kind));
        self.tally.count(record, released);
    }

    fn fold(&mut self, record: &Record, at_ms: u64) {
        match record {
            Record::Imported { version, digest, bytes, signed_by, measured, .. } => {
                let (digest, bytes, measured) = (*digest, *bytes, *measured);
                let stored = Stored { digest, bytes, signed_by: signed_by.clone(), measured, at_ms };
                // A label means one content for ever, also when two imports of it raced.
                self.versions.entry((version.model.clone(), version.version.clone())).or_insert(stored);
            }
            Record::Planned(planned) => self.plan(planned, at_ms),
            Record::PortMoved { model, to, .. } => {
                if let Some(model) = self.models.get_mut(model) {
                    model.port = *to;
                }
            }
            Record::WorkerDied { model, generation, .. } => {
                if let Some(model) = self.models.get_mut(model)
                    && model.live.as_ref().is_some_and(|live| live.generation == *generation)
                {
                    model.lose_live(at_ms);
                }
            }
            Record::Promoted { release } => self.promote(*release),
            Record::RollingBack { release, cause, undo, restart } => {
                self.roll_back(*release, cause, undo);
                self.replace_stable(*release, *restart, at_ms);
            }
            Record::Ended { release, .. } => self.end(*release, record, at_ms),
            Record::DaemonStarted { .. }
            | Record::Archive(_)
            | Record::Trust(_)
            | Record::Log(_)
            | Record::Examined { .. }
            | Record::Importing { .. }
            | Record::Refused { .. }
            | Record::TrustAdded { .. }
            | Record::TrustRemoved { .. }
            | Record::WorkerSilenced { .. } => {}
            Record::Intent { release, .. }
            | Record::Done { release, .. }
            | Record::Failed { release, .. }
            | Record::Observed { release, .. }
            | Record::Held { release, .. }
            | Record::Resumed { release, .. }
            | Record::Interrupted { release, .. } => {
                if let Record::Failed { step, .. } = record {
                    self.note_failed_start(*release, *step);
                }
                if let Some(release) = self.releases.get_mut(release) {
                    Arc::make_mut(release).apply(record, at_ms);
                }
            }
        }
    }

    fn plan(&mut self, planned: &Planned, at_ms: u64) {
        self.last_generation = self.last_generation.max(planned.to.generation.0);
        self.last_release = self.last_release.max(planned.release.ordinal());
        let model = self.models.entry(planned.model.clone()).or_default();
        model.port = planned.port;
        model.current = Some(planned.release);
        model.last = Some(planned.release);
        if planned.kind == Kind::Restart {
            model.restarts += 1;
            model.restarted_ms = Some(at_ms);
        }
        self.releases.insert(planned.release, Arc::new(Release::new(planned.clone(), at_ms)));
        self.forget_oldest();
    }

    fn forget_oldest(&mut self) {
        let ended =
            |release: &&Arc<Release>| matches!(release.progress, Progress::Ended(end) if end != End::Stuck);
        let ids: Vec<ReleaseId> = self.releases.values().filter(ended).map(|r| r.planned.release).collect();
        for id in ids.iter().take(ids.len().saturating_sub(ENDED_KEPT)) {
            self.releases.remove(id);
        }
    }

    /// The first record of a promotion is the whole set's: should the power take those of the others, nothing differs.
    fn promote(&mut self, id: ReleaseId) {
        let Some(release) = self.releases.get(&id).map(Arc::clone) else { return };
        let others: Vec<ReleaseId> =
            self.others(&release).filter_map(|(_, other)| Some(other?.planned.release)).collect();
        if let Some(set) = &release.planned.set {
            self.sets.insert(set.name.clone(), set.shows.clone());
        }
        std::iter::once(id).chain(others).for_each(|id| self.promote_one(id));
    }

    fn promote_one(&mut self, id: ReleaseId) {
        let forward = |release: &&mut Arc<Release>| release.progress == Progress::Forward;
        let Some(release) = self.releases.get_mut(&id).filter(forward).map(Arc::make_mut) else { return };
        release.progress = Progress::Tidying;
        let Some(model) = self.models.get_mut(&release.planned.model) else { return };
        if release.planned.kind != Kind::Restart {
            model.previous = model.live.take();
            model.previous_release = model.live_release.replace(id);
            model.restarts = 0;
        }
        model.live = Some(release.planned.to.clone());
        model.live_died = false;
    }

    fn roll_back(&mut self, id: ReleaseId, cause: &Cause, undo: &[Step]) {
        let Some(release) = self.releases.get_mut(&id).map(Arc::make_mut) else { return };
        let again = release.is_stuck();
        release.progress = Progress::Backward;
        release.cause.get_or_insert_with(|| cause.clone());
        release.interrupted = None;
        release.held = None;
        release.failures.clear();
        release.list = undo.to_vec();
        release.cursor = 0;
        release.open = false;
        if let Some(model) = self.models.get_mut(&release.planned.model) {
            model.current = Some(id);
            model.restarts += u32::from(again && model.live_died);
        }
    }

    fn replace_stable(&mut self, id: ReleaseId, restart: Option<Generation>, at_ms: u64) {
        let Some(generation) = restart else { return };
        self.last_generation = self.last_generation.max(generation.0);
        let Some(release) = self.releases.get_mut(&id).map(Arc::make_mut) else { return };
        let Some(model) = self.models.get_mut(&release.planned.model) else { return };
        for stable in [release.planned.from.as_mut(), model.live.as_mut()].into_iter().flatten() {
            stable.generation = generation;
        }
        model.live_died = false;
        model.restarted_ms = Some(at_ms);
    }

    fn end(&mut self, id: ReleaseId, record: &Record, at_ms: u64) {
        let Record::Ended { state, causes, .. } = record else { return };
        let Some(release) = self.releases.get_mut(&id).map(Arc::make_mut) else { return };
        release.progress = Progress::Ended(*state);
        release.ended_ms = Some(at_ms);
        release.causes.clone_from(causes);
        if let Some(model) = self.models.get_mut(&release.planned.model)
            && *state != End::Stuck
        {
            model.current = None;
        }
    }

    /// A new start of the live version that did not come up leaves the model without a live worker.
    fn note_failed_start(&mut self, id: ReleaseId, step: Step) {
        let Some(generation) = step.brings_up() else { return };
        let Some(release) = self.releases.get(&id) else { return };
        if let Some(model) = self.models.get_mut(&release.planned.model)
            && model.live.as_ref().is_some_and(|live| live.generation == generation)
        {
            model.live_died = true;
        }
    }
}

impl Model {
    /// The live version, where its worker runs and no release of the model is under way or stuck.
    pub fn undisturbed(&self) -> Option<&Target> {
        self.live.as_ref().filter(|_| !self.live_died && self.current.is_none())
    }

    /// The live version's worker has died.
    fn lose_live(&mut self, at_ms: u64) {
        let steady = self.restarted_ms.is_none_or(|began_ms| at_ms.saturating_sub(began_ms) > STEADY_MS);
        if !self.live_died && steady {
            self.restarts = 0;
        }
        self.live_died = true;
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    use turnout_manifest::plan::{Objectives, OnBreach, Strategy, Windows};
    use turnout_manifest::{Percent, Plan};

    /// 5 % and 100 %, three of the last five windows, p95 10 ms, errors 1 %, assertions 0.1 %.
    pub(crate) fn plan() -> Plan {
        Plan {
            strategy: Strategy::Weight,
            steps: vec![Percent::from_thousandths(5000).unwrap(), Percent::ALL],
            window_ms: 200,
            windows: Windows { look_back: 5, consecutive: 3 },
            objectives: Objectives {
                p95_us: Some(10_000),
                error_rate_ppm: Some(10_000),
                assertion_failures_ppm: Some(1_000),
                ..Objectives::default()
            },
            minimum_requests: 10,
            patience_ms: 2_000,
            on_breach: OnBreach::Rollback,
        }
    }
}
