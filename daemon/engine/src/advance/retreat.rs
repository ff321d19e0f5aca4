//! What makes a release turn back, and with which undo.

use super::{is_home_down, position};
use crate::plan::{remove, retire};
use crate::record::{Cause, Record};
use crate::rollback::undo;
use crate::step::Step;
use crate::world::{Progress, Release, World};
use turnout_manifest::Generation;

/// Begins the undo of a release. Where the old version's worker has died, a new start of it comes first; but where it was dead
/// already and no traffic was sent away from it, it is brought up as it would have been, by a release of its own.
pub(super) fn rolling_back(world: &World, release: &Release, cause: Cause) -> Record {
    let moved = release.touched.iter().any(|step| matches!(step, Step::Shift(_)));
    let left_dead = moved && is_live_dead(world, release);
    if left_dead || matches!(cause, Cause::StableDied { .. }) || is_lost(release, &cause) {
        return with_new_start(world, release, cause);
    }
    if !shares_worker(release) && release.is_in_place() {
        return beside_lost_worker(release, cause);
    }
    let undo = with_what_was_left(release, undo(&release.touched, None));
    Record::RollingBack { release: release.planned.release, cause, undo, restart: None }
}

/// In place, both versions are in one worker. One that has died, that cannot be heard once it answers by the new version,
/// or that does not go home, is lost for both.
fn is_lost(release: &Release, cause: &Cause) -> bool {
    let stays = release.failures.iter().any(|(step, _)| matches!(step, Step::SwitchHome(_)));
    let switched = release.touched.iter().any(|step| matches!(step, Step::SwitchModel(_)));
    let lost = match cause {
        Cause::Crashed { .. } => true,
        Cause::Silenced { .. } => switched,
        _ => stays,
    };
    release.is_in_place() && shares_worker(release) && lost
}

/// The old version has not been given another worker by an earlier undo.
fn shares_worker(release: &Release) -> bool {
    release.home() == Some(release.planned.to.generation)
}

/// Whether this step of an undo, which failed, shows that the old version needs another worker: the one that answers by the
/// new version does not go home, or the one that traffic was to go home to has died.
pub(super) fn needs_new_start(world: &World, release: &Release, step: Step) -> bool {
    let started = |home| release.list.contains(&Step::AwaitReady(home));
    match step {
        Step::SwitchHome(_) => true,
        Step::Home => is_live_dead(world, release) && release.home().is_some_and(|home| !started(home)),
        _ => false,
    }
}

/// Whether the worker of the model's live version has died.
pub(super) fn is_live_dead(world: &World, release: &Release) -> bool {
    world.models.get(&release.planned.model).is_some_and(|model| model.live_died)
}

/// Begins the undo anew with another worker for the old version.
pub(super) fn replaced(world: &World, release: &Release) -> Record {
    with_new_start(world, release, cause_of(release))
}

fn with_new_start(world: &World, release: &Release, cause: Cause) -> Record {
    let Some(dead) = release.home() else {
        let undo = undo(&release.touched, None);
        return Record::RollingBack { release: release.planned.release, cause, undo, restart: None };
    };
    let new = world.next_generation();
    let mut rest = undo(&apart_from_worker(release), Some(new));
    rest.extend(lost_worker(release));
    if !release.is_in_place() || !shares_worker(release) {
        rest.extend(remove(dead));
    }
    // A start that failed goes first: attempt after attempt would use up the cells that there may be.
    let mut undo: Vec<Step> = if is_home_down(release) { remove(dead).to_vec() } else { Vec::new() };
    rest.retain(|step| !undo.contains(step));
    undo.extend(rest);
    let undo = with_what_was_left(release, undo);
    Record::RollingBack { release: release.planned.release, cause, undo, restart: Some(new) }
}

/// An undo, and what an earlier one has left, which may have had other workers to take away.
fn with_what_was_left(release: &Release, mut undo: Vec<Step>) -> Vec<Step> {
    if release.progress == Progress::Forward {
        return undo;
    }
    let takes_away =
        |step: &&Step| matches!(step, Step::Dismiss(_) | Step::KillWorker(_) | Step::DestroyCell(_));
    let failed = release.failures.iter().map(|(step, _)| step);
    for step in failed.chain(release.list.iter().skip(release.cursor)).filter(takes_away) {
        if !undo.contains(step) {
            undo.push(*step);
        }
    }
    undo
}

/// The undo once more, after one that gave the old version another worker.
fn beside_lost_worker(release: &Release, cause: Cause) -> Record {
    let mut list = vec![Step::Home];
    list.extend(undo(&apart_from_worker(release), None));
    list.extend(lost_worker(release));
    Record::RollingBack { release: release.planned.release, cause, undo: list, restart: None }
}

/// What was done, but for what a worker that is lost takes with it.
fn apart_from_worker(release: &Release) -> Vec<Step> {
    release.touched.iter().copied().filter(|step| !step.is_in_place()).collect()
}

/// The worker of a release in place may still answer: it is let go of as any version that is thrown out.
fn lost_worker(release: &Release) -> Vec<Step> {
    let lost: Option<Generation> = release.is_in_place().then_some(release.planned.to.generation);
    lost.into_iter().flat_map(retire).collect()
}

/// Undoes a release now if it only waits, or as soon as the open step has its outcome.
pub(super) fn interrupt(world: &World, release: &Release, cause: Cause) -> Vec<Record> {
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

pub(super) fn interrupt_once(world: &World, release: &Release, cause: Cause) -> Vec<Record> {
    if release.interrupted.is_some() { Vec::new() } else { interrupt(world, release, cause) }
}

/// The whole undo once more: every undo can run when it was done already.
pub(super) fn try_again(world: &World, release: &Release) -> Record {
    rolling_back(world, release, cause_of(release))
}

fn cause_of(release: &Release) -> Cause {
    release.cause.clone().unwrap_or(Cause::Cancelled { by: "turnoutd".into(), reason: String::new() })
}
