//! What a set adds to its releases: they begin in one batch, wait for each other, are promoted in one batch, and when one
//! is undone all are.

use super::retreat::interrupt;
use super::{Refusal, Start, position, start_by_order};
use crate::plan::{Over, Part, steps_in_set};
use crate::record::{Cause, Kind, Record};
use crate::set::{MEMBERS_MAX, MEMBERS_MIN, Member, SETS_MAX, Set};
use crate::step::Step;
use crate::world::{Progress, Release, Stamp, World};
use std::collections::BTreeSet;
use turnout_manifest::{ModelName, SetName};

/// A wish for versions of several models to be live, all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartSet {
    /// The set.
    pub name: SetName,
    /// What is wanted of each model. A model that is live with its version already is shown with the others.
    pub starts: Vec<Start>,
}

/// Plans the releases of a set, or none of them.
pub(super) fn start_set(world: &World, wish: &StartSet) -> Result<Vec<Record>, Refusal> {
    let returns = wish.starts.iter().all(|start| start.kind == Kind::Return);
    let mut named: BTreeSet<&ModelName> = BTreeSet::new();
    if let Some(twice) = wish.starts.iter().find(|start| !named.insert(&start.model)) {
        return Err(Refusal::Twice(twice.model.clone()));
    }
    if !returns && !(MEMBERS_MIN..=MEMBERS_MAX).contains(&named.len()) {
        return Err(Refusal::Members(named.len()));
    }
    if let Some(release) = world.releasing(&wish.name) {
        return Err(Refusal::SetBusy(wish.name.clone(), release.planned.release));
    }
    if !world.sets.contains_key(&wish.name) && world.sets.len() >= SETS_MAX {
        return Err(Refusal::Sets(SETS_MAX));
    }
    let mut starts: Vec<&Start> = wish.starts.iter().collect();
    starts.sort_by(|one, other| one.model.cmp(&other.model));
    let mut records = plan_each(world, &starts)?;
    let showed = world.sets.get(&wish.name).cloned().unwrap_or_default();
    let shows = if returns { showed.clone() } else { named.into_iter().cloned().collect() };
    tie(world, &mut records, (&wish.name, shows, showed));
    if records.is_empty() { Err(Refusal::AllLive(wish.name.clone())) } else { Ok(records) }
}

/// Each release is planned in the state that the ones before it would leave: ids and orders are used up one by one.
fn plan_each(world: &World, starts: &[&Start]) -> Result<Vec<Record>, Refusal> {
    let mut after = world.clone();
    let mut records = Vec::new();
    for start in starts {
        match start_by_order(&after, start) {
            Ok(planned) => {
                planned.iter().for_each(|record| after.apply(record, Stamp { seq: 0, at_ms: 0 }));
                records.extend(planned);
            }
            Err(Refusal::AlreadyLive(_)) => {}
            Err(refusal) => return Err(Refusal::OfMember(start.model.clone(), Box::new(refusal))),
        }
    }
    Ok(records)
}

fn tie(
    world: &World,
    records: &mut [Record],
    (name, shows, showed): (&SetName, Vec<ModelName>, Vec<ModelName>),
) {
    let planned = records.iter().filter_map(|record| match record {
        Record::Planned(planned) => Some(Member {
            model: planned.model.clone(),
            release: planned.release,
            to: planned.to.digest,
            from: planned.from.as_ref().map(|from| from.digest),
        }),
        _ => None,
    });
    let set = Set { name: name.clone(), members: planned.collect(), shows, showed };
    for record in records {
        let Record::Planned(planned) = record else { continue };
        let leads = set.members.first().is_some_and(|member| member.release == planned.release);
        let part = if leads { Part::Lead } else { Part::Follow };
        let over = Over::of(world.models.get(&planned.model));
        let steps = steps_in_set(&planned.plan, over, planned.to.generation, part);
        planned.commit = u32::try_from(steps.commit).unwrap_or(u32::MAX);
        planned.steps = steps.list;
        planned.set = Some(set.clone());
    }
}

/// Ends the wait of a release once every other one of its set has got so far.
pub(super) fn gather(world: &World, release: &Release) -> Option<Record> {
    let waits = release.progress == Progress::Forward && release.step() == Some(Step::AwaitSet);
    if !waits || !world.waits_for(release).is_empty() {
        return None;
    }
    let all = 1 + world.others(release).count();
    let detail = format!("all {all} releases of the set are here");
    Some(Record::Done {
        release: release.planned.release,
        at: position(release),
        step: Step::AwaitSet,
        detail,
    })
}

/// Promotes a release that is done up to its commit, and with it its set; nothing while another of the set is not.
pub(super) fn promote(world: &World, release: &Release) -> Vec<Record> {
    let done = |other: &Release| {
        other.progress == Progress::Forward
            && other.interrupted.is_none()
            && !other.open
            && other.cursor == other.commit()
    };
    if !world.others(release).all(|(_, other)| other.is_some_and(done)) {
        return Vec::new();
    }
    let own = release.planned.release;
    let others = world.others(release).map(|(member, _)| member.release);
    std::iter::once(own).chain(others).map(|release| Record::Promoted { release }).collect()
}

/// Undoes a release when another one of its set is undone, or was never begun. Not after the promotion: that is all of
/// theirs at once.
pub(super) fn follow_back(world: &World, release: &Release) -> Vec<Record> {
    if release.progress != Progress::Forward || release.interrupted.is_some() {
        return Vec::new();
    }
    let causes = world.others(release).filter_map(|(member, other)| {
        let why = match other {
            None => "its release was never begun".to_owned(),
            Some(other) if other.progress == Progress::Forward && other.interrupted.is_none() => return None,
            Some(other) => match other.cause.as_ref().or(other.interrupted.as_ref()) {
                // It followed itself.
                Some(Cause::Member { model, why }) => {
                    return Some(Cause::Member { model: model.clone(), why: why.clone() });
                }
                Some(cause) => cause.to_string(),
                None => "its release is over".to_owned(),
            },
        };
        Some(Cause::Member { model: member.model.clone(), why })
    });
    causes.take(1).flat_map(|cause| interrupt(world, release, cause)).collect()
}
