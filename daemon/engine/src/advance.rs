//! State x event -> records: the only place that decides what happens to a release. Promote, rollback, a missed
//! objective, a crash and an operator are events on this one path. [`decide`] answers an event, [`proceed`] says what
//! comes next when nothing is open; the driver writes the records, applies them, and executes each intent.

mod losses;
mod retreat;
mod together;
mod windows;
mod wishes;

pub use together::StartSet;

use crate::guard::{self, ArchiveRefusal, ArchiveWish};
use crate::plan::{Over, restart_steps, steps};
use crate::record::{Cause, End, Kind, Planned, Record, Target};
use crate::slo::Window;
use crate::step::Step;
use crate::trust::{Order, TrustRecord};
use crate::world::{Progress, Release, World};
use losses::{died, lost, router_died, silenced};
use retreat::{is_live_dead, needs_new_start, replaced, rolling_back};
use std::sync::Arc;
use turnout_manifest::plan::Strategy;
use turnout_manifest::{
    AuditContextId, Generation, ModelName, Plan, ReleaseId, SetName, Sha256, Version, VersionRef,
};
use windows::measured;
use wishes::{Voice, operator};

/// A fact or a wish that reaches the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a version live.
    Start(Box<Start>),
    /// Somebody wants versions of several models live, all or none.
    StartSet(Box<StartSet>),
    /// The live version's worker died a while ago: bring it up again. Where a release is stuck, its undo is tried again for
    /// that.
    Restart {
        /// The model.
        model: ModelName,
        /// Fresh key for the split's hash.
        salt: u64,
    },
    /// A step returned.
    Finished {
        /// Its release.
        release: ReleaseId,
        /// Its position in the list under way.
        at: u32,
        /// What was found, or why it failed.
        outcome: Result<String, String>,
    },
    /// A worker says that it serves, or that it cannot.
    Ready {
        /// Which start.
        generation: Generation,
        /// Time to load, for people; or why it cannot.
        outcome: Result<String, String>,
    },
    /// A worker has loaded a version beside the one that it serves, or could not.
    Loaded {
        /// Which start.
        generation: Generation,
        /// Digest of the version's manifest.
        digest: Sha256,
        /// Time to load, for people; or why it could not.
        outcome: Result<String, String>,
    },
    /// A worker's process ended without being told to.
    Died {
        /// Which start.
        generation: Generation,
        /// How it ended.
        why: String,
    },
    /// A worker was not there when the daemon began, which executes no step yet.
    Lost {
        /// Which start.
        generation: Generation,
        /// What was found instead.
        why: String,
    },
    /// A worker broke the rules of its link and is not listened to any more.
    Silenced {
        /// Which start.
        generation: Generation,
        /// Which rule.
        why: String,
    },
    /// The router's process ended.
    RouterDied {
        /// How it ended.
        why: String,
    },
    /// A window ended.
    Measured {
        /// The release it was measured for.
        release: ReleaseId,
        /// What was measured.
        window: Box<Window>,
    },
    /// Somebody intervenes.
    Operator {
        /// The model.
        model: ModelName,
        /// What is wanted.
        wish: Wish,
        /// Who.
        by: String,
        /// Why, may be empty.
        reason: String,
    },
    /// Somebody wants something of what is kept.
    Archive(ArchiveWish),
}

/// What an operator can want of a release under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Traffic home, new version down.
    Rollback,
    /// The same, and the release counts as cancelled.
    Cancel,
    /// Go on without waiting for more windows.
    Promote,
    /// Stay at this share.
    Pause,
    /// Go on watching.
    Resume,
}

/// A wish for a version to be live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The model.
    pub model: ModelName,
    /// Why.
    pub kind: Kind,
    /// The version.
    pub version: Version,
    /// Digest of its manifest.
    pub digest: Sha256,
    /// Issuers whose signatures counted.
    pub signed_by: Vec<String>,
    /// How.
    pub plan: Plan,
    /// The model's public port.
    pub port: u16,
    /// Fresh key for the split's hash.
    pub salt: u64,
    /// Who asks.
    pub by: String,
    /// The signed order that was brought with it, verified.
    pub order: Option<Order>,
    /// Under which audit context.
    pub audit_context: Option<AuditContextId>,
}

/// Why a wish cannot be granted in this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One release at a time on one model.
    #[error("release {0} is under way on this model")]
    Busy(ReleaseId),
    /// The last release could not be undone.
    #[error("release {0} is stuck: an undo step failed")]
    Stuck(ReleaseId),
    /// It is live already.
    #[error("`{0}` is live already")]
    AlreadyLive(Version),
    /// No release is under way.
    #[error("no release is under way on `{0}`")]
    Nothing(ModelName),
    /// The release is past the point of no return, or being undone.
    #[error("release {0} is past the point where this is possible")]
    TooLate(ReleaseId),
    /// The release does not wait for windows at present.
    #[error("release {0} does not wait for windows at present")]
    NotWaiting(ReleaseId),
    /// The version is being deleted from the store, or was.
    #[error("`{0}` was deleted from the store")]
    Deleted(Version),
    /// The order is older than one that was used, or was used up by another release meanwhile.
    #[error("the order cannot be used: {0}")]
    Order(String),
    /// The set that it was last released in is still being undone, or one by this name is under way.
    #[error("set `{0}` is being released or undone: release {1}")]
    SetBusy(SetName, ReleaseId),
    /// A set has one version of each of its models.
    #[error("`{0}` is named twice")]
    Twice(ModelName),
    /// A set has neither one model nor many.
    #[error("a set names {min} to {max} models, not {0}", min = crate::set::MEMBERS_MIN, max = crate::set::MEMBERS_MAX)]
    Members(usize),
    /// There are as many sets as there may be.
    #[error("there are {0} sets already")]
    Sets(usize),
    /// Nothing of a set is to be released.
    #[error("every version that set `{0}` names is live already")]
    AllLive(SetName),
    /// One model of a set cannot be released.
    #[error("`{0}`: {1}")]
    OfMember(ModelName, Box<Refusal>),
    /// What is kept stays as it is.
    #[error(transparent)]
    Archive(#[from] ArchiveRefusal),
}

/// Decides what an event changes. An event that no longer matters gives no record.
///
/// # Errors
/// [`Refusal`] for a wish that this state does not allow; facts are never refused.
pub fn decide(world: &World, event: &Event) -> Result<Vec<Record>, Refusal> {
    match event {
        Event::Start(start) => start_by_order(world, start),
        Event::StartSet(wish) => together::start_set(world, wish),
        Event::Restart { model, salt } => Ok(restart(world, model, *salt).into_iter().collect()),
        Event::Finished { release, at, outcome } => Ok(finished(world, *release, *at, outcome)),
        Event::Ready { generation, outcome } => Ok(ready(world, *generation, outcome)),
        Event::Loaded { generation, digest, outcome } => Ok(loaded(world, *generation, *digest, outcome)),
        Event::Died { generation, why } => Ok(died(world, *generation, why)),
        Event::Lost { generation, why } => Ok(lost(world, *generation, why)),
        Event::Silenced { generation, why } => Ok(silenced(world, *generation, why)),
        Event::RouterDied { why } => Ok(router_died(world, why)),
        Event::Measured { release, window } => Ok(measured(world, *release, window)),
        Event::Operator { model, wish, by, reason } => operator(world, model, *wish, &Voice { by, reason }),
        Event::Archive(wish) => Ok(vec![Record::Archive(guard::decide(world, wish)?)]),
    }
}

/// What comes next on a model, in one batch: the next intent, the commit, the end, or what another release of its set
/// makes due. Nothing while a step is open, a release is held before a shift or waits for its set, or nothing is under way.
pub fn proceed(world: &World, model: &ModelName) -> Vec<Record> {
    let Some(release) = world.current(model) else { return Vec::new() };
    let back = together::follow_back(world, release);
    if !back.is_empty() {
        return back;
    }
    if release.open {
        let ended_early = together::gather(world, release).or_else(|| drained_enough(world, release));
        return ended_early.into_iter().collect();
    }
    if let Some(cause) = overdue(release) {
        return vec![rolling_back(world, release, cause)];
    }
    match release.progress {
        Progress::Ended(_) => Vec::new(),
        Progress::Forward if release.cursor == release.commit() => together::promote(world, release),
        _ => next_step(release).into_iter().collect(),
    }
}

/// Ends the wait for the old version's last answers where the new one, which is live, has died: nothing serves, and it is
/// brought up again once the release is over.
fn drained_enough(world: &World, release: &Release) -> Option<Record> {
    let step = release.step().filter(|step| matches!(step, Step::Drain(_)))?;
    if release.progress != Progress::Tidying || !is_live_dead(world, release) {
        return None;
    }
    let detail = "ended early: the new version's worker has died, and nothing serves".to_owned();
    Some(Record::Done { release: release.planned.release, at: position(release), step, detail })
}

/// Why a release should be on its way back already: the power went between an outcome and the rollback due with it.
fn overdue(release: &Release) -> Option<Cause> {
    let failure = || {
        let last = release.log.last().filter(|last| !is_tolerated(release, last.step))?;
        let why = last.outcome.as_ref()?.as_ref().err()?;
        Some(Cause::StepFailed { step: last.step.to_string(), why: why.clone() })
    };
    let forward = release.progress == Progress::Forward;
    release.interrupted.clone().or_else(failure).filter(|_| forward)
}

fn next_step(release: &Release) -> Option<Record> {
    let step = release.step().filter(|_| !homeless(release));
    let Some(step) = step else { return Some(end(release)) };
    let moves = matches!(step, Step::Shift(_) | Step::SwitchModel(_) | Step::Point | Step::PointSet);
    if release.progress == Progress::Forward && release.held.is_some() && moves {
        return None;
    }
    Some(Record::Intent { release: release.planned.release, at: position(release), step })
}

/// Traffic could not go home, or must not, because the old version's new start did not come up: the rest of the undo would
/// take down the only version that serves.
fn homeless(release: &Release) -> bool {
    let home = |step: &Step| matches!(step, Step::Home | Step::SwitchHome(_));
    let failed = release.failures.iter().any(|(step, _)| home(step)) || is_home_down(release);
    release.progress == Progress::Backward && failed
}

/// The start of the worker that traffic would go home to has failed: it never had any.
fn is_home_down(release: &Release) -> bool {
    let started = |step: &Step| step.brings_up().is_some_and(|brought| release.home() == Some(brought));
    release.failures.iter().any(|(step, _)| started(step))
}

fn position(release: &Release) -> u32 {
    u32::try_from(release.cursor).unwrap_or(u32::MAX)
}

fn end(release: &Release) -> Record {
    let failures = release.failures.iter().map(|(step, why)| format!("{step} failed: {why}"));
    let causes: Vec<String> = release.cause.iter().map(Cause::to_string).chain(failures).collect();
    let state = match (&release.progress, &release.cause) {
        (Progress::Tidying, _) => End::Promoted,
        (_, _) if release.failures.iter().any(|(step, _)| !is_evidence(*step)) => End::Stuck,
        (_, Some(Cause::Cancelled { .. })) => End::Cancelled,
        _ => End::RolledBack,
    };
    Record::Ended { release: release.planned.release, state, causes }
}

/// Evidence that cannot be made, on a store that has failed for instance, is told with the causes. It leaves nothing to
/// be undone, so it neither holds the model up nor keeps anybody from the version that was live before.
fn is_evidence(step: Step) -> bool {
    matches!(step, Step::Snapshot(_))
}

/// The way back does without evidence that cannot be made.
fn is_tolerated(release: &Release, step: Step) -> bool {
    is_evidence(step) && release.planned.kind == Kind::Return
}

/// An order is used up by the release that it begins, and by nothing else: both records are written at once.
fn start_by_order(world: &World, start: &Start) -> Result<Vec<Record>, Refusal> {
    let planned = start_release(world, start)?;
    let Some(Order { channel, order, root, checks }) = start.order.clone() else { return Ok(vec![planned]) };
    order.may_follow(world.trust.orders.get(&channel)).map_err(Refusal::Order)?;
    let version = VersionRef { model: start.model.clone(), version: start.version.clone() };
    let (by, manifest) = (start.by.clone(), start.digest);
    let used = TrustRecord::OrderUsed { by, version, manifest, channel, order, root, checks };
    Ok(vec![Record::Trust(used), planned])
}

fn start_release(world: &World, start: &Start) -> Result<Record, Refusal> {
    let model = world.models.get(&start.model);
    if let Some(release) = world.current(&start.model) {
        let id = release.planned.release;
        return Err(if release.is_stuck() { Refusal::Stuck(id) } else { Refusal::Busy(id) });
    }
    if let Some((set, release)) = world.being_undone(&start.model) {
        return Err(Refusal::SetBusy(set.clone(), release));
    }
    let label = (start.model.clone(), start.version.clone());
    let deleted = world.archive.removing.contains_key(&label) || world.archive.removed.contains_key(&label);
    if deleted && !world.versions.contains_key(&label) {
        return Err(Refusal::Deleted(start.version.clone()));
    }
    let from = model.and_then(|model| model.live.clone());
    if from.as_ref().is_some_and(|live| live.digest == start.digest && live.version == start.version) {
        return Err(Refusal::AlreadyLive(start.version.clone()));
    }
    let over = Over::of(model);
    let taken_over = match (over, &start.plan.strategy) {
        (Over::Serving(worker), Strategy::InPlace) => Some(worker),
        _ => None,
    };
    let to = Target {
        version: start.version.clone(),
        digest: start.digest,
        signed_by: start.signed_by.clone(),
        generation: taken_over.unwrap_or_else(|| world.next_generation()),
        measured: world.versions.get(&label).and_then(|stored| stored.measured),
        audit_context: start.audit_context,
    };
    let steps = steps(&start.plan, over, to.generation);
    Ok(Record::Planned(Box::new(Planned {
        release: world.next_release(),
        model: start.model.clone(),
        kind: start.kind,
        from,
        to,
        plan: start.plan.clone(),
        commit: u32::try_from(steps.commit).unwrap_or(u32::MAX),
        steps: steps.list,
        port: start.port,
        salt: format!("{:016x}", start.salt),
        by: start.by.clone(),
        set: None,
    })))
}

fn restart(world: &World, name: &ModelName, salt: u64) -> Option<Record> {
    let model = world.models.get(name).filter(|_| world.awaits_restart(name))?;
    if let Some(stuck) = world.current(name) {
        return Some(replaced(world, stuck));
    }
    let dead = model.live.clone()?;
    let to = Target { generation: world.next_generation(), ..dead.clone() };
    let steps = restart_steps(to.generation, dead.generation);
    Some(Record::Planned(Box::new(Planned {
        release: world.next_release(),
        model: name.clone(),
        kind: Kind::Restart,
        from: Some(dead),
        to,
        plan: Plan::all_at_once(),
        commit: u32::try_from(steps.commit).unwrap_or(u32::MAX),
        steps: steps.list,
        port: model.port,
        salt: format!("{salt:016x}"),
        by: "turnoutd".to_owned(),
        set: None,
    })))
}

fn finished(world: &World, id: ReleaseId, at: u32, outcome: &Result<String, String>) -> Vec<Record> {
    let Some(release) = world.releases.get(&id) else { return Vec::new() };
    match release.step() {
        Some(step) if release.open && position(release) == at => outcome_of(world, release, step, outcome),
        _ => Vec::new(),
    }
}

/// The open step's outcome, and the rollback that it or an earlier interruption makes due.
fn outcome_of(world: &World, release: &Release, step: Step, outcome: &Result<String, String>) -> Vec<Record> {
    let (id, at) = (release.planned.release, position(release));
    let record = match outcome {
        Ok(detail) => Record::Done { release: id, at, step, detail: detail.clone() },
        Err(why) => Record::Failed { release: id, at, step, why: why.clone() },
    };
    let failure = outcome.as_ref().err().filter(|_| !is_tolerated(release, step));
    let failure = failure.map(|why| Cause::StepFailed { step: step.to_string(), why: why.clone() });
    if failure.is_some() && needs_new_start(world, release, step) {
        return vec![record, replaced(world, release)];
    }
    let due = release.interrupted.clone().or(failure).filter(|_| release.progress == Progress::Forward);
    std::iter::once(record).chain(due.map(|cause| rolling_back(world, release, cause))).collect()
}

fn under_way(world: &World) -> impl Iterator<Item = &Release> {
    world.models.values().filter_map(|model| world.releases.get(&model.current?).map(Arc::as_ref))
}

fn ready(world: &World, generation: Generation, outcome: &Result<String, String>) -> Vec<Record> {
    // A worker that serves can fail to load another version, but it was ready long ago.
    let awaits = |step| match step {
        Step::AwaitReady(awaited) => awaited == generation,
        Step::LoadModel(awaited) => awaited == generation && outcome.is_err(),
        _ => false,
    };
    let open = under_way(world).filter(|release| release.open);
    let found = open.filter_map(|release| Some((release, release.step()?))).find(|(_, step)| awaits(*step));
    found.map(|(release, step)| outcome_of(world, release, step, outcome)).unwrap_or_default()
}

fn loaded(
    world: &World,
    generation: Generation,
    digest: Sha256,
    outcome: &Result<String, String>,
) -> Vec<Record> {
    let step = Step::LoadModel(generation);
    // An answer to a release that was given up in the meantime is about another version, or comes too late.
    let awaits = |release: &&Release| {
        release.open && release.step() == Some(step) && release.planned.to.digest == digest
    };
    let found = under_way(world).find(awaits);
    found.map(|release| outcome_of(world, release, step, outcome)).unwrap_or_default()
}
