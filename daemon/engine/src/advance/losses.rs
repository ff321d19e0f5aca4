//! What the end of a process changes, or a worker that is no longer heard: the release that needed it is undone.

use super::retreat::{interrupt, replaced};
use super::{outcome_of, under_way};
use crate::record::{Cause, End, Record};
use crate::step::Step;
use crate::world::{Model, Progress, Release, World};
use std::sync::Arc;
use turnout_manifest::{Generation, Percent};

pub(super) fn died(world: &World, generation: Generation, why: &str) -> Vec<Record> {
    let mut records = Vec::new();
    for (name, model) in &world.models {
        let live = model.live.as_ref().is_some_and(|live| live.generation == generation);
        let release = model.current.and_then(|id| world.releases.get(&id)).map(Arc::as_ref);
        let candidate = release.is_some_and(|release| release.planned.to.generation == generation);
        let awaited = release
            .is_some_and(|release| release.open && release.step() == Some(Step::AwaitReady(generation)));
        if !(live || candidate || awaited) {
            continue;
        }
        records.push(Record::WorkerDied { model: name.clone(), generation, why: why.to_owned() });
        let Some(release) = release else { continue };
        let why = why.to_owned();
        if release.progress == Progress::Forward && release.interrupted.is_none() {
            // In place it is the one that answers which is to blame.
            let switched = release.is_in_place() && release.asked == Percent::ALL;
            let stable = live && release.home() == Some(generation) && !switched;
            if stable || candidate {
                let cause = if stable { Cause::StableDied { why } } else { Cause::Crashed { why } };
                records.extend(interrupt(world, release, cause));
            }
        } else if awaited {
            records.extend(outcome_of(world, release, Step::AwaitReady(generation), &Err(why)));
        }
    }
    records
}

/// A release that was on its way back to a worker that is gone as well goes back to a new start of the old version, which
/// comes first. So does one that was stuck: whoever looks into it finds a version that serves.
pub(super) fn lost(world: &World, generation: Generation, why: &str) -> Vec<Record> {
    let is_live = |model: &&Model| model.live.as_ref().is_some_and(|live| live.generation == generation);
    let Some(model) = world.models.values().find(is_live) else { return died(world, generation, why) };
    let homeward = |release: &&Arc<Release>| match release.progress {
        Progress::Backward => !is_home(release),
        Progress::Ended(end) => end == End::Stuck,
        Progress::Forward | Progress::Tidying => false,
    };
    let release = model.current.and_then(|id| world.releases.get(&id));
    let turned = release.filter(homeward).map(|release| replaced(world, release));
    let death = if model.live_died { Vec::new() } else { died(world, generation, why) };
    // Where the list begins anew, what a death says to the step that waits for this worker is of no use.
    let counts = |record: &Record| turned.is_none() || matches!(record, Record::WorkerDied { .. });
    death.into_iter().filter(counts).chain(turned.clone()).collect()
}

/// Whether the undo has brought traffic home.
fn is_home(release: &Release) -> bool {
    let done = release.list.iter().take(release.cursor);
    done.filter(|step| matches!(step, Step::Home | Step::SwitchHome(_)))
        .any(|step| release.failures.iter().all(|(failed, _)| failed != step))
}

/// A new version that breaks the rules of its link is undone as any other failure is, traffic home first. The version
/// that is live goes on serving: what it says is not needed for that.
pub(super) fn silenced(world: &World, generation: Generation, why: &str) -> Vec<Record> {
    let mut records = Vec::new();
    for (name, model) in &world.models {
        let release = world.current(name);
        let candidate = release.filter(|release| release.planned.to.generation == generation);
        if candidate.is_none() && model.live.as_ref().is_none_or(|live| live.generation != generation) {
            continue;
        }
        let why = why.to_owned();
        records.push(Record::WorkerSilenced { model: name.clone(), generation, why: why.clone() });
        let undoable =
            |release: &&Release| release.progress == Progress::Forward && release.interrupted.is_none();
        if let Some(release) = candidate.filter(undoable) {
            records.extend(interrupt(world, release, Cause::Silenced { why }));
        }
    }
    records
}

/// Undoes what it was splitting. Its connections are gone and the kernel sends new ones to the old version: to start
/// another and split again would move users to and fro, and nobody knows why it died.
pub(super) fn router_died(world: &World, why: &str) -> Vec<Record> {
    let splits = |release: &&Release| {
        let shifted = release.touched.iter().rev().find(|step| matches!(step, Step::Shift(_)));
        release.progress == Progress::Forward
            && release.interrupted.is_none()
            && release.touched.contains(&Step::StartRouter)
            && shifted.is_some_and(|step| *step != Step::Shift(Percent::ALL))
    };
    let cause = || Cause::RouterDied { why: why.to_owned() };
    under_way(world).filter(splits).flat_map(|release| interrupt(world, release, cause())).collect()
}
