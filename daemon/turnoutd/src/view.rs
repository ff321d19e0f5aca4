//! The read-only copy of everything that readers see, and how it looks on the wire. Reading never waits for writing.

mod sets;

use crate::condition::Condition;
use crate::config::Config;
use crate::tenants;
use crate::totals::Totals;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use turnout_engine::record::{Cause, End, Kind, Target};
use turnout_engine::world::{Judged, Model};
use turnout_engine::{Figures, Progress, Release, Step, Verdict, World};
use turnout_manifest::{Generation, ModelName, Percent};
use turnout_protocol::control::{
    CellStatus, JournalHead, LiveVersion, ModelStatus, ReleaseKind, ReleaseState, ReleaseStatus, Role,
    SCHEMA, Seen, Status, Timings, WindowStatus,
};
use turnout_protocol::report::{Report, StepReport};
use turnout_protocol::router::Stats;

/// Windows of the step under way that a release status carries.
const WINDOWS_SHOWN: usize = 8;

/// What one version was last seen doing, and over how long.
pub type SeenByGeneration = BTreeMap<Generation, (Duration, Figures)>;

/// Running totals of each version's worker.
pub type TotalsByGeneration = BTreeMap<Generation, Arc<Totals>>;

/// Everything readers may see, at one moment.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// State of all releases.
    pub world: World,
    /// Why changes are refused, if they are.
    pub read_only: Option<String>,
    /// Records in the journal.
    pub journal_size: u64,
    /// RFC 6962 root over them, hex.
    pub journal_root: String,
    /// Bytes of its files.
    pub journal_bytes: u64,
    /// When records were last made durable, milliseconds since the epoch.
    pub journal_synced_ms: u64,
    /// What each version was last seen doing outside of windows.
    pub seen: SeenByGeneration,
    /// What the router says it did, if one runs.
    pub router: Option<Stats>,
    /// What was counted of each version's worker.
    pub totals: TotalsByGeneration,
}

/// The writing end of the view.
#[derive(Clone)]
pub struct Publisher {
    sender: watch::Sender<Arc<View>>,
    seen: Arc<Mutex<SeenByGeneration>>,
}

impl Publisher {
    /// A publisher and the reading end.
    pub fn new() -> (Self, watch::Receiver<Arc<View>>) {
        let (sender, receiver) = watch::channel(Arc::default());
        (Self { sender, seen: Arc::default() }, receiver)
    }

    /// Shows this from now on.
    pub fn publish(&self, view: View) {
        self.sender.send_replace(Arc::new(view));
    }

    /// Notes what a version was seen doing.
    pub fn saw(&self, generation: Generation, over: Duration, figures: Figures) {
        self.seen().insert(generation, (over, figures));
    }

    /// Keeps only what these were seen doing.
    pub fn keep(&self, generations: &[Generation]) {
        self.seen().retain(|generation, _| generations.contains(generation));
    }

    /// What versions were last seen doing.
    pub fn seen(&self) -> MutexGuard<'_, SeenByGeneration> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every generation that belongs to a live version or to a release under way.
    pub fn generations(&self, world: &World) -> Vec<Generation> {
        let mut all = Vec::new();
        for (name, model) in &world.models {
            let release = world.current(name).map(|release| &release.planned);
            let targets =
                model.live.iter().chain(release.into_iter().flat_map(|p| p.from.iter().chain([&p.to])));
            for target in targets {
                if !all.contains(&target.generation) {
                    all.push(target.generation);
                }
            }
        }
        all
    }

    /// Of these, the ones that the kernel counts for. Before a version is admitted its slot has the counts of who had it
    /// before, and to ask about one that has no cell is to ask the launcher.
    pub fn counted(&self, world: &World) -> Vec<Generation> {
        let uncounted = |generation: &Generation| {
            world.models.keys().filter_map(|name| world.current(name)).any(|r| !is_counted(r, *generation))
        };
        self.generations(world).into_iter().filter(|generation| !uncounted(generation)).collect()
    }
}

/// Whether this release leaves a generation as it was, or has admitted it, and has not taken it down.
fn is_counted(release: &Release, generation: Generation) -> bool {
    let begun = release.list.iter().take(release.cursor + usize::from(release.open));
    let begun = || release.touched.iter().chain(begun.clone());
    let has = |step: Step| begun().any(|begun| *begun == step);
    let made = Step::CreateCell(generation);
    let is_its_own = release.list.contains(&made) || release.touched.contains(&made);
    !has(Step::DestroyCell(generation)) && (!is_its_own || has(Step::Admit(generation)))
}

/// Facts about this daemon that do not change while it runs, and how its host is.
#[derive(Debug)]
pub struct Daemon {
    /// When it started, milliseconds since the epoch.
    pub started_ms: u64,
    /// What this host cannot do or enforce, and its store: looked at now and then.
    pub condition: Condition,
    /// What its start found that somebody should look at.
    pub torn: Option<&'static str>,
    /// Users that may only read.
    pub readers: Vec<u32>,
    /// Its configuration.
    pub config: Arc<Config>,
}

impl View {
    /// `GET /v1/status`. `trust` is what the intake has to say at this moment: a date passes without any record.
    pub fn status(&self, daemon: &Daemon, trust: Option<String>) -> Status {
        let models = self.world.models.iter().map(|(name, model)| self.model_status(name, model, daemon));
        Status {
            schema: SCHEMA.to_owned(),
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_ms: daemon.started_ms,
            read_only: self.read_only.clone(),
            degraded: daemon.condition.degraded(),
            concerns: self.concerns(daemon, trust),
            journal: JournalHead {
                size: self.journal_size,
                first: self.world.archive.log.minimum_index(),
                root: self.journal_root.clone(),
            },
            router: self.router,
            models: models.collect(),
            tenants: daemon.config.tenants.iter().map(|tenant| tenants::status(self, tenant)).collect(),
            sets: self.sets(daemon),
        }
    }

    /// What somebody should look at: trust, and what is wrong with the store.
    fn concerns(&self, daemon: &Daemon, trust: Option<String>) -> Vec<String> {
        let mut lines: Vec<String> = trust.into_iter().chain(daemon.torn.map(str::to_owned)).collect();
        lines.extend(daemon.condition.concerns());
        if let Some((found, _)) = self.world.archive.scrubbed.filter(|(found, _)| found.uncorrectable > 0) {
            lines.push(format!("store: the last scrub found {} blocks that are lost", found.uncorrectable));
        }
        lines
    }

    fn model_status(&self, name: &ModelName, model: &Model, daemon: &Daemon) -> ModelStatus {
        let release = model.last.and_then(|id| self.world.releases.get(&id));
        ModelStatus {
            model: name.clone(),
            tenant: daemon.config.tenants.of(name).map(|tenant| tenant.name.clone()),
            endpoints: daemon.config.addresses(model.port).iter().map(ToString::to_string).collect(),
            versions: self.versions(name, model),
            release: release.map(|release| release_status(release)),
            next: next(&self.world, model, release.map(Arc::as_ref)),
        }
    }

    fn versions(&self, name: &ModelName, model: &Model) -> Vec<LiveVersion> {
        let current = self.world.current(name).filter(|r| !matches!(r.progress, Progress::Tidying));
        let share = current.map_or(Percent::NONE, |release| release.asked);
        let mut versions = Vec::new();
        if let Some(live) = &model.live {
            let (asked, why) = match current {
                Some(release) if release.home() == Some(live.generation) => {
                    // A share of 0 % can be a step: then only what the strategy picks has moved.
                    let moves = |step: &Step| matches!(step, Step::Shift(_) | Step::SwitchModel(_));
                    let moved = release.touched.iter().any(moves);
                    let why = if moved {
                        format!("the rest of release {}", release.planned.release)
                    } else {
                        format!("live; release {} has moved nothing yet", release.planned.release)
                    };
                    (share.rest(), why)
                }
                _ => (Percent::ALL, format!("live{}", since(self.world.releases.values(), live))),
            };
            let worker = if model.live_died { "dead" } else { "ready" };
            versions.push(self.live_version(live, Role::Stable, (asked, why, worker)));
        }
        if let Some(release) = current {
            let worker = worker_word(release);
            let why = format!("release {}: {}", release.planned.release, step_text(release));
            versions.push(self.live_version(&release.planned.to, Role::Candidate, (share, why, worker)));
        }
        idle_in_shared_worker(&mut versions);
        share_out(&mut versions);
        versions
    }

    fn live_version(
        &self,
        target: &Target,
        role: Role,
        (asked, why, worker): (Percent, String, &str),
    ) -> LiveVersion {
        let seen = self.seen.get(&target.generation);
        LiveVersion {
            version: target.version.clone(),
            digest: target.digest,
            signed_by: target.signed_by.clone(),
            generation: target.generation.0,
            audit_context: target.audit_context,
            role,
            worker: worker.to_owned(),
            asked,
            why,
            cell: self.cell(target.generation),
            seen: seen.map(|(over, figures)| seen_of(figures, over.as_millis(), 0)).unwrap_or_default(),
        }
    }
}

impl View {
    /// What was asked for the cell of a start, and what holds it, as the journal has it; `None` when the release that
    /// made it is not in memory any more.
    fn cell(&self, generation: Generation) -> Option<CellStatus> {
        let logged = || self.world.releases.values().rev().flat_map(|release| &release.log);
        let detail = |step: Step| {
            let done = logged().find(|logged| logged.step == step && !logged.undo)?;
            done.outcome.as_ref()?.as_ref().ok()
        };
        let asked = detail(Step::CreateCell(generation))?.clone();
        let started = detail(Step::StartWorker(generation)).and_then(|detail| detail.split_once("; "));
        Some(CellStatus { asked, enforced: started.map(|(_, enforced)| enforced.to_owned()) })
    }
}

/// How long a live version has been what it is, in the words of the release that made it so.
fn since<'a>(releases: impl DoubleEndedIterator<Item = &'a Arc<Release>>, live: &Target) -> String {
    let made = releases.rev().find(|release| {
        let to = &release.planned.to;
        (to.generation, to.digest) == (live.generation, live.digest)
    });
    made.map(|release| format!(" since release {}", release.planned.release)).unwrap_or_default()
}

fn worker_word(release: &Release) -> &'static str {
    let generation = release.planned.to.generation;
    match release.progress {
        Progress::Backward => "draining",
        Progress::Ended(_) => "ready",
        _ if release.touched.contains(&Step::Admit(generation)) => "ready",
        _ if release.touched.contains(&Step::SwitchModel(generation)) => "ready",
        _ => "starting",
    }
}

/// What was seen of a worker that has two versions loaded is the doing of the one that answers.
fn idle_in_shared_worker(versions: &mut [LiveVersion]) {
    if let [one, other] = versions
        && one.generation == other.generation
    {
        let idle = if one.asked == Percent::NONE { one } else { other };
        idle.seen = Seen::default();
    }
}

fn share_out(versions: &mut [LiveVersion]) {
    let total: u64 = versions.iter().map(|version| version.seen.requests).sum();
    for version in versions {
        version.seen.share_thousandths = share(version.seen.requests, total);
    }
}

fn share(of: u64, total: u64) -> u32 {
    u32::try_from((of * 100_000 + total / 2).checked_div(total).unwrap_or(0)).unwrap_or(100_000)
}

fn seen_of(figures: &Figures, over_ms: u128, total: u64) -> Seen {
    Seen {
        window_ms: u64::try_from(over_ms).unwrap_or(u64::MAX),
        connections: figures.connections,
        requests: figures.requests,
        errors: figures.errors,
        assertion_failures: figures.assertion_failures,
        share_thousandths: share(figures.requests, total),
        p50_us: figures.p50_us,
        p95_us: figures.p95_us,
        p99_us: figures.p99_us,
    }
}

fn step_text(release: &Release) -> String {
    match (release.progress, &release.held) {
        (Progress::Ended(_), _) => "over".to_owned(),
        (Progress::Forward, Some(why)) => format!("held: {why}"),
        // Only a set leaves a release here for longer than a moment.
        (Progress::Forward, None) if release.cursor == release.commit() => {
            "wait for the set to be promoted".to_owned()
        }
        _ => release.step().map_or_else(|| "ending".to_owned(), |step| step.to_string()),
    }
}

/// What happens next, for people.
fn next(world: &World, model: &Model, release: Option<&Release>) -> String {
    let Some(release) = release.filter(|release| model.current == Some(release.planned.release)) else {
        return match (&model.live, model.live_died) {
            (Some(_), true) => "the live version's worker is brought up again".to_owned(),
            (Some(_), false) => "nothing: it serves until somebody starts a release".to_owned(),
            (None, _) => "nothing: no version is live".to_owned(),
        };
    };
    match release.progress {
        Progress::Ended(_) if model.live_died => "the undo is tried again, for nothing serves".to_owned(),
        Progress::Ended(_) => "an operator must look; `rollback` tries the undo again".to_owned(),
        Progress::Backward => "the undo goes on until the old version has everything".to_owned(),
        Progress::Tidying => "the old version is retired".to_owned(),
        Progress::Forward if release.held.is_some() => {
            "a person decides: `release resume`, `release promote` or `rollback`".to_owned()
        }
        Progress::Forward if release.cursor == release.commit() => "its set is promoted".to_owned(),
        Progress::Forward => match (release.step(), release.list.get(release.cursor + 1)) {
            (Some(Step::AwaitSet), Some(then)) => {
                let away = world.waits_for(release).iter().map(ToString::to_string).collect::<Vec<_>>();
                format!("{then}, once the rest of its set has got so far: {}", away.join(", "))
            }
            (Some(Step::Observe(_)), Some(then)) => format!(
                "{then}, once {} of the last {} windows are met",
                release.planned.plan.windows.consecutive, release.planned.plan.windows.look_back
            ),
            (_, Some(then)) => then.to_string(),
            (_, None) => "it ends".to_owned(),
        },
    }
}

/// One release as sent.
pub fn release_status(release: &Release) -> ReleaseStatus {
    let planned = &release.planned;
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let shown = release.windows.len().saturating_sub(WINDOWS_SHOWN);
    let cause = release.cause.as_ref().or(release.interrupted.as_ref()).map(Cause::to_string);
    ReleaseStatus {
        schema: SCHEMA.to_owned(),
        release_id: planned.release,
        kind: match planned.kind {
            Kind::Release => ReleaseKind::Release,
            Kind::Return => ReleaseKind::Return,
            Kind::Restart => ReleaseKind::Restart,
        },
        model: planned.model.clone(),
        from: planned.from.as_ref().map(|from| from.version.clone()),
        to: planned.to.version.clone(),
        strategy: planned.plan.strategy.clone(),
        state: state(release),
        step: step_text(release),
        step_number: count((release.cursor + 1).min(release.list.len())),
        step_count: count(release.list.len()),
        asked: release.asked,
        windows: release.windows[shown..].iter().map(window_status).collect(),
        cause: cause.or_else(|| release.held.clone()),
        causes: release.causes.clone(),
        asked_by: planned.by.clone(),
        audit_context: planned.to.audit_context,
        set: sets::release_set(release),
        timings: timings(release),
    }
}

fn state(release: &Release) -> ReleaseState {
    match release.progress {
        Progress::Forward if release.held.is_some() => ReleaseState::Paused,
        Progress::Forward | Progress::Tidying => ReleaseState::Running,
        Progress::Backward => ReleaseState::RollingBack,
        Progress::Ended(End::Promoted) => ReleaseState::Promoted,
        Progress::Ended(End::RolledBack) => ReleaseState::RolledBack,
        Progress::Ended(End::Cancelled) => ReleaseState::Cancelled,
        Progress::Ended(End::Stuck) => ReleaseState::Stuck,
    }
}

fn window_status(judged: &Judged) -> WindowStatus {
    let window = &judged.window;
    let total = window.candidate.requests + window.stable.as_ref().map_or(0, |stable| stable.requests);
    let length = u128::from(window.length_ms);
    let (verdict, why) = match &judged.verdict {
        Verdict::Met => ("met", None),
        Verdict::Missed(why) => ("missed", Some(why.clone())),
        Verdict::Insufficient(why) => ("insufficient", Some(why.clone())),
    };
    WindowStatus {
        at_ms: window.at_ms,
        asked: window.asked,
        verdict: verdict.to_owned(),
        why,
        candidate: seen_of(&window.candidate, length, total),
        stable: window.stable.as_ref().map(|stable| seen_of(stable, length, total)),
    }
}

fn timings(release: &Release) -> Timings {
    let ended = |wanted: fn(&Step) -> bool| {
        release.log.iter().rev().find(|logged| wanted(&logged.step)).and_then(|logged| logged.ended_ms)
    };
    let first_missed = match &release.cause {
        Some(Cause::Breach { first_missed_ms, .. }) => Some(*first_missed_ms),
        _ => None,
    };
    let after_breach = |at: Option<u64>| Some(at?.saturating_sub(first_missed?));
    Timings {
        asked_at_ms: release.begun_ms,
        ended_at_ms: release.ended_ms,
        ready_ms: ended(|step| matches!(step, Step::AwaitReady(_) | Step::LoadModel(_)))
            .map(|at| at.saturating_sub(release.begun_ms)),
        breach_to_home_ms: after_breach(ended(|step| matches!(step, Step::Home | Step::SwitchHome(_)))),
        breach_to_last_connection_ms: after_breach(last_connection(release)),
    }
}

/// When the kernel saw the last connection of a version that was thrown out close; at the latest its worker's end.
fn last_connection(release: &Release) -> Option<u64> {
    let undone =
        |wanted: fn(&Step) -> bool| release.log.iter().find(|logged| logged.undo && wanted(&logged.step));
    let drained = undone(|step| matches!(step, Step::Drain(_)))?;
    let closed_after = |detail: &str| -> Option<u64> {
        detail.strip_prefix("last connection closed after ")?.split(' ').next()?.parse().ok()
    };
    match drained.outcome.as_ref()?.as_ref().ok().and_then(|detail| closed_after(detail)) {
        Some(after) => Some(drained.begun_ms + after),
        None => undone(|step| matches!(step, Step::KillWorker(_)))?.ended_ms,
    }
}

/// The report of one release, from what its records left in the state: also those that were pruned.
pub fn report(release: &Release, world: &World) -> Report {
    let planned = &release.planned;
    let snapshots = release.log.iter().filter(|logged| matches!(logged.step, Step::Snapshot(_)));
    Report {
        schema: SCHEMA.to_owned(),
        release: release_status(release),
        plan: planned.plan.clone(),
        to_digest: planned.to.digest,
        from_digest: planned.from.as_ref().map(|from| from.digest),
        signed_by: planned.to.signed_by.clone(),
        audit_contexts: world.contexts.of_release(planned.release).to_vec(),
        steps: release.log.iter().map(step_report).collect(),
        windows: release.windows.iter().map(window_status).collect(),
        snapshots: snapshots.filter_map(|logged| logged.outcome.clone()?.ok()).collect(),
        journal_range: (release.first_seq, release.last_seq),
        pruned: world.archive.log.pruning_of(release.first_seq).map(crate::pruning::told),
    }
}

fn step_report(logged: &turnout_engine::world::Logged) -> StepReport {
    let (outcome, detail) = match &logged.outcome {
        None => (None, None),
        Some(Ok(detail)) => (Some("done"), Some(detail).filter(|detail| !detail.is_empty())),
        Some(Err(why)) => (Some("failed"), Some(why)),
    };
    StepReport {
        step: logged.step.to_string(),
        undo: logged.undo,
        started_ms: logged.begun_ms,
        took_ms: logged.ended_ms.map(|ended| ended.saturating_sub(logged.begun_ms)),
        outcome: outcome.map(str::to_owned),
        detail: detail.cloned(),
    }
}
