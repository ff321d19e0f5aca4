//! What a window that was measured changes: the release goes on, is held or is undone, or waits for the next one.

use super::position;
use super::retreat::interrupt;
use crate::record::{Cause, Record};
use crate::slo::{Decision, Verdict, Window, decide, judge};
use crate::step::Step;
use crate::world::{Progress, Release, World};
use turnout_manifest::plan::OnBreach;
use turnout_manifest::{Percent, ReleaseId};

pub(super) fn measured(world: &World, id: ReleaseId, window: &Window) -> Vec<Record> {
    let Some(release) = world.releases.get(&id) else { return Vec::new() };
    // What waits for its set with a share in force is still watched, but goes on when the others do.
    let decides = |step: &Step| match step {
        Step::Observe(_) => true,
        Step::AwaitSet => release.asked != Percent::NONE,
        _ => false,
    };
    let Some(step) = release.step().filter(decides).filter(|_| release.open) else { return Vec::new() };
    if release.progress != Progress::Forward {
        return Vec::new();
    }
    let (plan, waits) = (release.plan(), release.held.is_some() || step == Step::AwaitSet);
    let verdict = judge(window, plan);
    if waits && matches!(verdict, Verdict::Insufficient(_)) {
        // Nobody waits for it, and a release may be held for weeks.
        return Vec::new();
    }
    let mut verdicts = release.verdicts.clone();
    verdicts.push(verdict.clone());
    let mut records = vec![Record::Observed { release: id, window: Box::new(window.clone()), verdict }];
    match decide(&verdicts, plan.windows) {
        Decision::Breach(why) => match plan.on_breach {
            OnBreach::Rollback => {
                let first_missed_ms = first_missed(release, window, &verdicts);
                records.extend(interrupt(world, release, Cause::Breach { why, first_missed_ms }));
            }
            OnBreach::Pause if release.held.is_none() => records.push(Record::Held { release: id, why }),
            OnBreach::Pause => {}
        },
        Decision::Advance if !waits => {
            let detail =
                format!("met in {} of the last {} windows", plan.windows.consecutive, plan.windows.look_back);
            records.push(Record::Done { release: id, at: position(release), step, detail });
        }
        Decision::Wait if !waits => records.extend(out_of_patience(release, verdicts.last())),
        Decision::Advance | Decision::Wait => {}
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

fn out_of_patience(release: &Release, newest: Option<&Verdict>) -> Option<Record> {
    let plan = release.plan();
    let waited = plan.window_ms.saturating_mul(release.windows_judged() + 1);
    if waited < plan.patience_ms {
        return None;
    }
    let last = match newest {
        Some(Verdict::Missed(why) | Verdict::Insufficient(why)) => why.as_str(),
        _ => "verdicts disagree",
    };
    let why = format!("no decision within the patience of {} s: {last}", plan.patience_ms.div_ceil(1000));
    Some(Record::Held { release: release.planned.release, why })
}
