//! State x event -> records: the only place that decides what happens to a release. Promote, rollback, a missed
//! objective, a crash and an operator are events on this one path. [`decide`] answers an event, [`proceed`] says what
//! comes next when nothing is open; the driver writes the records, applies them, and executes each intent.

mod losses;

use crate::guard::{self, ArchiveRefusal, ArchiveWish};
use crate::plan::{restart_steps, steps};
use crate::record::{Cause, End, Kind, Planned, Record, Target};
use crate::rollback::undo;
use crate::slo::{Decision, Verdict, Window, decide as weigh, judge};
use crate::step::Step;
use crate::world::{Progress, Release, World};
use losses::{died, router_died, silenced};
use std::sync::Arc;
use turnout_manifest::plan::OnBreach;
use turnout_manifest::{AuditContextId, Generation, ModelName, Plan, ReleaseId, Sha256, Version};

/// A fact or a wish that reaches the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a version live.
    Start(Box<Start>),
    /// The live version's worker died a while ago: bring it up again.
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
    /// A worker's process ended without being told to.
    Died {
        /// Which start.
        generation: Generation,
        /// How it ended.
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
        Event::Start(start) => start_release(world, start).map(|record| vec![record]),
        Event::Restart { model, salt } => Ok(restart(world, model, *salt).into_iter().collect()),
        Event::Finished { release, at, outcome } => Ok(finished(world, *release, *at, outcome)),
        Event::Ready { generation, outcome } => Ok(ready(world, *generation, outcome)),
        Event::Died { generation, why } => Ok(died(world, *generation, why)),
        Event::Silenced { generation, why } => Ok(silenced(world, *generation, why)),
        Event::RouterDied { why } => Ok(router_died(world, why)),
        Event::Measured { release, window } => Ok(measured(world, *release, window)),
        Event::Operator { model, wish, by, reason } => operator(world, model, *wish, &Voice { by, reason }),
        Event::Archive(wish) => Ok(vec![Record::Archive(guard::decide(world, wish)?)]),
    }
}

/// What comes next on a model when no step is open: the next intent, the commit, or the end. `None` while a step is
/// open, a release is held before a shift, or nothing is under way.
pub fn proceed(world: &World, model: &ModelName) -> Option<Record> {
    let release = world.current(model)?;
    let id = release.planned.release;
    if release.open || matches!(release.progress, Progress::Ended(_)) {
        return None;
    }
    if release.progress == Progress::Forward && release.cursor == release.commit() {
        return Some(Record::Promoted { release: id });
    }
    let step = release.step().filter(|_| !homeless(release));
    let Some(step) = step else { return Some(end(release)) };
    let moves = matches!(step, Step::Shift(_) | Step::Point);
    if release.progress == Progress::Forward && release.held.is_some() && moves {
        return None;
    }
    Some(Record::Intent { release: id, at: position(release), step })
}

/// Traffic could not go home: the rest of the undo would take down the only version that serves.
fn homeless(release: &Release) -> bool {
    release.progress == Progress::Backward && release.failures.iter().any(|(step, _)| *step == Step::Home)
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

fn start_release(world: &World, start: &Start) -> Result<Record, Refusal> {
    let model = world.models.get(&start.model);
    if let Some(release) = world.current(&start.model) {
        let id = release.planned.release;
        let stuck = release.progress == Progress::Ended(End::Stuck);
        return Err(if stuck { Refusal::Stuck(id) } else { Refusal::Busy(id) });
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
    let to = Target {
        version: start.version.clone(),
        digest: start.digest,
        signed_by: start.signed_by.clone(),
        generation: world.next_generation(),
        audit_context: start.audit_context,
    };
    let steps = steps(&start.plan, from.as_ref().map(|live| live.generation), to.generation);
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
    })))
}

fn restart(world: &World, name: &ModelName, salt: u64) -> Option<Record> {
    let model = world.models.get(name)?;
    let dead = model.live.clone().filter(|_| model.live_died && model.current.is_none())?;
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
    let tolerated = is_evidence(step) && release.planned.kind == Kind::Return;
    let failure = outcome.as_ref().err().filter(|_| !tolerated);
    let failure = failure.map(|why| Cause::StepFailed { step: step.to_string(), why: why.clone() });
    let due = release.interrupted.clone().or(failure).filter(|_| release.progress == Progress::Forward);
    std::iter::once(record).chain(due.map(|cause| rolling_back(world, release, cause))).collect()
}

fn rolling_back(world: &World, release: &Release, cause: Cause) -> Record {
    let stable_died = world.models.get(&release.planned.model).is_some_and(|model| model.live_died)
        || matches!(cause, Cause::StableDied { .. });
    let dead = release.home().filter(|_| stable_died);
    let restart = dead.map(|_| world.next_generation());
    let mut undo = undo(&release.touched, restart);
    if let Some(dead) = dead {
        undo.extend([Step::Dismiss(dead), Step::KillWorker(dead), Step::DestroyCell(dead)]);
    }
    Record::RollingBack { release: release.planned.release, cause, undo, restart }
}

/// Undoes a release now if it only waits, or as soon as the open step has its outcome.
fn interrupt(world: &World, release: &Release, cause: Cause) -> Vec<Record> {
    let id = release.planned.release;
    match release.step() {
        Some(step) if release.open && step.waits() => {
            let done = Record::Done {
                release: id,
                at: position(release),
                step,
                detail: format!("ended early: {cause}"),
            };
            vec![done, rolling_back(world, release, cause)]
        }
        _ if release.open => vec![Record::Interrupted { release: id, cause }],
        _ => vec![rolling_back(world, release, cause)],
    }
}

fn under_way(world: &World) -> impl Iterator<Item = &Release> {
    world.models.values().filter_map(|model| world.releases.get(&model.current?).map(Arc::as_ref))
}

fn ready(world: &World, generation: Generation, outcome: &Result<String, String>) -> Vec<Record> {
    let awaits = |release: &&Release| release.open && release.step() == Some(Step::AwaitReady(generation));
    match under_way(world).find(awaits) {
        Some(release) => outcome_of(world, release, Step::AwaitReady(generation), outcome),
        None => Vec::new(),
    }
}

fn measured(world: &World, id: ReleaseId, window: &Window) -> Vec<Record> {
    let Some(release) = world.releases.get(&id) else { return Vec::new() };
    let Some(step @ Step::Observe(_)) = release.step().filter(|_| release.open) else { return Vec::new() };
    if release.progress != Progress::Forward {
        return Vec::new();
    }
    let plan = release.plan();
    let verdict = judge(window, plan);
    if release.held.is_some() && matches!(verdict, Verdict::Insufficient(_)) {
        // Nobody waits for it, and a release may be held for weeks.
        return Vec::new();
    }
    let mut verdicts = release.verdicts.clone();
    verdicts.push(verdict.clone());
    let mut records = vec![Record::Observed { release: id, window: Box::new(window.clone()), verdict }];
    match weigh(&verdicts, plan.windows) {
        Decision::Breach(why) => match plan.on_breach {
            OnBreach::Rollback => {
                let first_missed_ms = first_missed(release, window, &verdicts);
                records.extend(interrupt(world, release, Cause::Breach { why, first_missed_ms }));
            }
            OnBreach::Pause if release.held.is_none() => records.push(Record::Held { release: id, why }),
            OnBreach::Pause => {}
        },
        Decision::Advance if release.held.is_none() => {
            let detail =
                format!("met in {} of the last {} windows", plan.windows.consecutive, plan.windows.look_back);
            records.push(Record::Done { release: id, at: position(release), step, detail });
        }
        Decision::Advance => {}
        Decision::Wait => records.extend(out_of_patience(release, &verdicts)),
    }
    records
}

/// When the first missed window among those that made the breach ended.
fn first_missed(release: &Release, newest: &Window, verdicts: &[Verdict]) -> u64 {
    let look_back = release.plan().windows.look_back as usize;
    let recent = &verdicts[verdicts.len().saturating_sub(look_back)..];
    let first = recent.iter().position(|verdict| matches!(verdict, Verdict::Missed(_))).unwrap_or(0);
    let windows_after = recent.len() - 1 - first;
    let earlier = release.windows.len().checked_sub(windows_after).and_then(|at| release.windows.get(at));
    earlier.map_or(newest.at_ms, |judged| judged.window.at_ms)
}

fn out_of_patience(release: &Release, verdicts: &[Verdict]) -> Option<Record> {
    let plan = release.plan();
    let waited = plan.window_ms.saturating_mul(verdicts.len() as u64);
    if release.held.is_some() || waited < plan.patience_ms {
        return None;
    }
    let last = match verdicts.last() {
        Some(Verdict::Missed(why) | Verdict::Insufficient(why)) => why.as_str(),
        _ => "verdicts disagree",
    };
    let why = format!("no decision within the patience of {} s: {last}", plan.patience_ms.div_ceil(1000));
    Some(Record::Held { release: release.planned.release, why })
}

/// Who speaks, and why.
struct Voice<'a> {
    by: &'a str,
    reason: &'a str,
}

fn operator(world: &World, model: &ModelName, wish: Wish, voice: &Voice<'_>) -> Result<Vec<Record>, Refusal> {
    let release = world.current(model).ok_or_else(|| Refusal::Nothing(model.clone()))?;
    let id = release.planned.release;
    let (by, reason) = (voice.by.to_owned(), voice.reason.to_owned());
    match (release.progress, wish) {
        (Progress::Forward, Wish::Rollback) => {
            Ok(interrupt_once(world, release, Cause::Operator { by, reason }))
        }
        (Progress::Forward, Wish::Cancel) => {
            Ok(interrupt_once(world, release, Cause::Cancelled { by, reason }))
        }
        (Progress::Forward, Wish::Promote) => promote_now(release, &by),
        (Progress::Forward, Wish::Pause) => {
            let why = if reason.is_empty() {
                format!("paused by {by}")
            } else {
                format!("paused by {by}: {reason}")
            };
            Ok(if release.held.is_some() { Vec::new() } else { vec![Record::Held { release: id, why }] })
        }
        (Progress::Forward, Wish::Resume) => {
            Ok(if release.held.is_some() { vec![Record::Resumed { release: id, by }] } else { Vec::new() })
        }
        (Progress::Backward, Wish::Rollback | Wish::Cancel) => Ok(Vec::new()),
        (Progress::Ended(End::Stuck), Wish::Rollback | Wish::Cancel) => Ok(vec![try_again(world, release)]),
        (Progress::Ended(End::Stuck), _) => Err(Refusal::Stuck(id)),
        (Progress::Backward | Progress::Tidying | Progress::Ended(_), _) => Err(Refusal::TooLate(id)),
    }
}

fn interrupt_once(world: &World, release: &Release, cause: Cause) -> Vec<Record> {
    if release.interrupted.is_some() { Vec::new() } else { interrupt(world, release, cause) }
}

fn promote_now(release: &Release, by: &str) -> Result<Vec<Record>, Refusal> {
    let id = release.planned.release;
    let mut records = Vec::new();
    if release.held.is_some() {
        records.push(Record::Resumed { release: id, by: by.to_owned() });
    }
    match release.step() {
        Some(step @ Step::Observe(_)) if release.open => {
            let detail = format!("promoted by {by}");
            records.push(Record::Done { release: id, at: position(release), step, detail });
            Ok(records)
        }
        _ if !records.is_empty() => Ok(records),
        _ => Err(Refusal::NotWaiting(id)),
    }
}

/// The whole undo once more: every undo can run when it was done already.
fn try_again(world: &World, release: &Release) -> Record {
    let cause =
        release.cause.clone().unwrap_or(Cause::Cancelled { by: "turnoutd".into(), reason: String::new() });
    rolling_back(world, release, cause)
}
