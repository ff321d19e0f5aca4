//! The way back that an operator asks for, from whatever state: a release under way turns round; after a promotion the
//! version that was live before is released at once.

use crate::access::Peer;
use crate::handlers::{Desk, Failure, problem};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use turnout_engine::advance::{Start, StartSet, Wish};
use turnout_engine::record::{End, Kind};
use turnout_engine::set::Set;
use turnout_engine::{Event, Progress, Release, World};
use turnout_manifest::{ModelName, Plan, SetName};
use turnout_protocol::error::ErrorCode;

/// Longest wait for what must end first: the client waits for an answer a little longer.
const PATIENCE: Duration = Duration::from_secs(25);

/// What a rollback meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// A release that can turn round, does so already, or is stuck on its way back.
    Release,
    /// The version before has all the traffic again; what is left is to retire the one after it.
    Back,
    /// What must end first: the version before is being retired, or a way back that failed is undone.
    Ending,
    /// The live version's worker died, and is being brought up again.
    Restart,
    /// None under way.
    Nothing,
}

/// Whether a release turned back or a promoted version was left again, this returns as soon as the way home is on record.
///
/// # Errors
/// 409 where there is no version to go back to, or where what must end first does not; 503 when the journal cannot be
/// written.
pub(crate) async fn roll_back(
    desk: &Desk,
    name: &ModelName,
    peer: Peer,
    reason: &str,
) -> Result<(), Failure> {
    let (mut views, deadline) = (desk.views.clone(), Instant::now() + PATIENCE);
    let turn_round = || {
        let (by, reason) = (peer.to_string(), reason.to_owned());
        desk.ask(peer.context, Event::Operator { model: name.clone(), wish: Wish::Rollback, by, reason })
    };
    loop {
        let view = views.borrow_and_update().clone();
        let world = &view.world;
        let met = met(world, name);
        let asked = match met {
            Met::Back => return Ok(()),
            Met::Release => turn_round().await,
            Met::Nothing => match way_back(world, name, peer)? {
                Some(event) => desk.ask(peer.context, event).await,
                None => return Ok(()),
            },
            Met::Ending | Met::Restart => {
                if way_back(world, name, peer)?.is_none() {
                    return Ok(());
                }
                if met == Met::Restart {
                    // The version that is left is not brought up first. It may be up by now.
                    match turn_round().await {
                        Err(failure) if failure.0.code != ErrorCode::Conflict => return Err(failure),
                        _ => {}
                    }
                }
                if !matches!(timeout_at(deadline, views.changed()).await, Ok(Ok(()))) {
                    return Err(not_yet(world, name));
                }
                continue;
            }
        };
        // Something else may have come between the look and the question.
        match asked {
            Err(failure) if self::met(&desk.view().world, name) == met || Instant::now() > deadline => {
                return Err(failure);
            }
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

fn met(world: &World, name: &ModelName) -> Met {
    let Some(release) = world.current(name) else {
        return if is_set_ending(world, name) { Met::Ending } else { Met::Nothing };
    };
    match (release.planned.kind, release.progress) {
        (_, Progress::Ended(_)) => Met::Release,
        (Kind::Restart, _) => Met::Restart,
        (Kind::Return, Progress::Forward | Progress::Tidying) => Met::Back,
        (Kind::Return, Progress::Backward) | (Kind::Release, Progress::Tidying) => Met::Ending,
        (Kind::Release, Progress::Forward | Progress::Backward) => Met::Release,
    }
}

/// What was promoted together goes back together: not before the last of them has ended.
fn is_set_ending(world: &World, name: &ModelName) -> bool {
    let set = last_that_counts(world, name).and_then(|release| release.planned.set.as_ref());
    let members = set.into_iter().flat_map(|set| &set.members);
    let current = members.filter_map(|member| world.current(&member.model));
    let mut last = current.filter(|release| release.planned.set.as_ref() == set);
    last.any(|release| release.progress == Progress::Tidying)
}

fn not_yet(world: &World, name: &ModelName) -> Failure {
    let (what, look) = match world.current(name) {
        Some(release) => {
            let id = release.planned.release;
            (format!("release {id} of `{name}`"), format!("`turnoutctl release show {id}`"))
        }
        None => (format!("the set of `{name}`"), "`turnoutctl release list`".to_owned()),
    };
    let busy = problem(ErrorCode::Conflict, format!("{what} has not ended within {} s", PATIENCE.as_secs()));
    busy.hint(format!("{look} says what it does; ask again once it has ended")).into()
}

/// What takes the version that was live before live again; `None` where the traffic has it already. What was promoted as a
/// set goes back as a set.
fn way_back(world: &World, name: &ModelName, peer: Peer) -> Result<Option<Event>, Failure> {
    let last = last_that_counts(world, name);
    let undone = last.is_some_and(|release| {
        let promoted = matches!(release.progress, Progress::Tidying | Progress::Ended(End::Promoted));
        !promoted || release.planned.kind == Kind::Return
    });
    if undone {
        return Ok(None);
    }
    let Some(start) = start_back(world, name, peer) else {
        let nothing =
            problem(ErrorCode::Conflict, format!("no version of `{name}` was live before this one"));
        return Err(nothing.hint("`turnoutctl release start` takes another version live").into());
    };
    Ok(Some(match last.and_then(|release| release.planned.set.as_ref()) {
        None => Event::Start(Box::new(start)),
        Some(set) => Event::StartSet(Box::new(set_back(world, set, peer))),
    }))
}

/// The newest release that says where the traffic is. A worker that was brought up again is none that anybody asked for,
/// and a way back that failed has left everything as it was.
fn last_that_counts<'a>(world: &'a World, name: &ModelName) -> Option<&'a Release> {
    let counts = |release: &&Release| match release.planned.kind {
        Kind::Restart => false,
        Kind::Return => matches!(release.progress, Progress::Tidying | Progress::Ended(End::Promoted)),
        Kind::Release => true,
    };
    let releases = world.releases.values().rev().map(AsRef::as_ref);
    releases.filter(|release| release.planned.model == *name).find(counts)
}

/// The way back of every model that still has what the set brought, and had a version before it. One that was released
/// since stays as it is.
fn set_back(world: &World, set: &Set, peer: Peer) -> StartSet {
    let brought = set.members.iter().filter(|member| {
        world.models.get(&member.model).and_then(|model| model.live_release) == Some(member.release)
    });
    let starts = brought.filter_map(|member| start_back(world, &member.model, peer));
    let name: SetName = set.name.clone();
    StartSet { name, starts: starts.collect() }
}

fn start_back(world: &World, name: &ModelName, peer: Peer) -> Option<Start> {
    let model = world.models.get(name)?;
    let previous = model.previous.as_ref()?;
    Some(Start {
        model: name.clone(),
        kind: Kind::Return,
        version: previous.version.clone(),
        digest: previous.digest,
        signed_by: previous.signed_by.clone(),
        plan: Plan::all_at_once(),
        port: model.port,
        salt: crate::salt(),
        by: peer.to_string(),
        audit_context: Some(peer.context.id()),
        // The way back needs no order, whatever the trust root demands of new work.
        order: None,
    })
}
