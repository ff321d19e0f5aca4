//! What an operator can want of a release under way. It goes for the whole set that the release is of.

use super::retreat::{interrupt_once, try_again};
use super::{Refusal, Wish, position};
use crate::record::{Cause, End, Record};
use crate::step::Step;
use crate::world::{Progress, Release, World};
use turnout_manifest::ModelName;

/// Who speaks, and why.
pub(super) struct Voice<'a> {
    pub(super) by: &'a str,
    pub(super) reason: &'a str,
}

/// What is possible for one release of a set is done for it; only what is possible for none is refused.
pub(super) fn operator(
    world: &World,
    model: &ModelName,
    wish: Wish,
    voice: &Voice<'_>,
) -> Result<Vec<Record>, Refusal> {
    let release = world.current(model).ok_or_else(|| Refusal::Nothing(model.clone()))?;
    let own = wish_of(world, release, wish, voice);
    if release.progress != Progress::Forward {
        return own;
    }
    let others = world.others(release).filter_map(|(_, other)| other);
    let forward = others.filter(|other| other.progress == Progress::Forward);
    forward.map(|other| wish_of(world, other, wish, voice)).fold(own, |all, one| match (all, one) {
        (Ok(all), Ok(one)) => Ok([all, one].concat()),
        (Err(_), Ok(one)) if !one.is_empty() => Ok(one),
        (all, _) => all,
    })
}

fn wish_of(world: &World, release: &Release, wish: Wish, voice: &Voice<'_>) -> Result<Vec<Record>, Refusal> {
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
