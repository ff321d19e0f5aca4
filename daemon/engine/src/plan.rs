//! A release as a full list of steps, made once, before anything happens. Also what `--dry-run` prints.

use crate::step::{Moment, Step};
use crate::world::Model;
use turnout_manifest::plan::{Objectives, Strategy};
use turnout_manifest::{Generation, Percent, Plan};

/// The steps of a release, and where its point of no return lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// All of them, in order.
    pub list: Vec<Step>,
    /// Number of steps before the commit: once they are done the release is promoted, what follows only tidies up.
    pub commit: usize,
}

/// What a new version goes live over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing: it is the first of its model.
    Nothing,
    /// A version whose worker serves.
    Serving(Generation),
    /// A version whose worker has died: there is nothing to split with.
    Dead(Generation),
}

impl Over {
    /// What is live of a model.
    pub fn of(model: Option<&Model>) -> Self {
        match model.and_then(|model| Some((model.live.as_ref()?.generation, model.live_died))) {
            None => Self::Nothing,
            Some((live, false)) => Self::Serving(live),
            Some((live, true)) => Self::Dead(live),
        }
    }
}

/// Lists the steps that take `to` live over what is live now. In place the new version has the old one's worker, and `to`
/// is not needed; without one to load it, it is started as any other.
pub fn steps(plan: &Plan, over: Over, to: Generation) -> Steps {
    if let (Strategy::InPlace, Over::Serving(worker)) = (&plan.strategy, over) {
        return in_place_steps(plan, worker);
    }
    let mut list = vec![
        Step::Snapshot(Moment::Before),
        Step::VerifyFiles,
        Step::CreateCell(to),
        Step::StartWorker(to),
        Step::AwaitReady(to),
        Step::Admit(to),
    ];
    match over {
        Over::Nothing | Over::Dead(_) => list.push(Step::Shift(Percent::ALL)),
        Over::Serving(_) => {
            list.extend(splits_by_request(plan).then_some(Step::StartRouter));
            list.extend(shifts(plan));
        }
    }
    list.push(Step::Point);
    let commit = list.len();
    match over {
        Over::Nothing => {}
        Over::Serving(old) => list.extend(retire(old)),
        Over::Dead(dead) => list.extend(remove(dead)),
    }
    list.push(Step::Snapshot(Moment::After));
    Steps { list, commit }
}

/// What a release does for its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It swaps the pointers, for all.
    Lead,
    /// It leaves the pointers to the first one.
    Follow,
}

/// The steps of a release that is promoted together with others. It waits for them where it would go on to its last
/// share, or, where that is watched too, after it; so they all go on to it, and to the commit, at one time.
pub fn steps_in_set(plan: &Plan, over: Over, to: Generation, part: Part) -> Steps {
    let Steps { mut list, commit } = steps(plan, over, to);
    let point = commit - 1;
    let watched = matches!(list[point - 1], Step::Observe(_));
    let before = list.len();
    match part {
        Part::Lead => list[point] = Step::PointSet,
        Part::Follow => drop(list.remove(point)),
    }
    list.insert(if watched { point } else { point - 1 }, Step::AwaitSet);
    Steps { commit: commit + list.len() - before, list }
}

/// The steps that take a new version live in the worker of the old one, which stays loaded until the end.
fn in_place_steps(plan: &Plan, worker: Generation) -> Steps {
    let mut list = vec![
        Step::Snapshot(Moment::Before),
        Step::VerifyFiles,
        Step::SwapModel(worker),
        Step::LoadModel(worker),
        Step::SwitchModel(worker),
    ];
    if plan.objectives != Objectives::default() {
        list.push(Step::Observe(Percent::ALL));
    }
    list.push(Step::Point);
    let commit = list.len();
    list.extend([Step::UnloadModel(worker), Step::Snapshot(Moment::After)]);
    Steps { list, commit }
}

/// The steps that put a new generation of the live version in the place of one that died.
pub fn restart_steps(to: Generation, dead: Generation) -> Steps {
    let mut list = vec![
        Step::VerifyFiles,
        Step::CreateCell(to),
        Step::StartWorker(to),
        Step::AwaitReady(to),
        Step::Admit(to),
        Step::Shift(Percent::ALL),
    ];
    let commit = list.len();
    list.extend(remove(dead));
    Steps { list, commit }
}

/// Takes a generation down without losing a request: no new connection, then the last answers, then the end.
pub fn retire(generation: Generation) -> [Step; 4] {
    [
        Step::Dismiss(generation),
        Step::Drain(generation),
        Step::KillWorker(generation),
        Step::DestroyCell(generation),
    ]
}

/// Takes away what is left of a generation whose worker has ended.
pub fn remove(generation: Generation) -> [Step; 3] {
    [Step::Dismiss(generation), Step::KillWorker(generation), Step::DestroyCell(generation)]
}

/// Whether any step needs the router: at 100 % there is nothing to choose.
fn splits_by_request(plan: &Plan) -> bool {
    plan.strategy.needs_router() && plan.steps.iter().any(|percent| *percent != Percent::ALL)
}

/// Each share with the windows that follow it. The last share, 100 %, has none of its own unless it is the only one
/// and something is to be judged: the windows lie between the shares.
fn shifts(plan: &Plan) -> Vec<Step> {
    let mut list = Vec::new();
    for &percent in &plan.steps {
        list.push(Step::Shift(percent));
        let only = plan.steps.len() == 1 && plan.objectives != Objectives::default();
        if percent != Percent::ALL || only {
            list.push(Step::Observe(percent));
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::tests_support;

    const OLD: Over = Over::Serving(Generation(1));
    const NEW: Generation = Generation(2);

    /// The steps around the wait, and the commit.
    fn around(plan: &Plan, over: Over, part: Part) -> (Vec<Step>, Step) {
        let Steps { list, commit } = steps_in_set(plan, over, NEW, part);
        let wait = list.iter().position(|step| *step == Step::AwaitSet).unwrap();
        (list[wait - 1..commit].to_vec(), list[commit])
    }

    #[test]
    fn the_releases_of_a_set_wait_before_the_last_share_and_one_swaps_the_pointers() {
        let canary = tests_support::plan();
        let five = canary.steps[0];
        let lead = vec![Step::Observe(five), Step::AwaitSet, Step::Shift(Percent::ALL), Step::PointSet];
        assert_eq!(around(&canary, OLD, Part::Lead), (lead.clone(), Step::Dismiss(Generation(1))));
        assert_eq!(around(&canary, OLD, Part::Follow), (lead[..3].to_vec(), Step::Dismiss(Generation(1))));
    }

    #[test]
    fn a_last_share_that_is_watched_comes_before_the_wait() {
        let at_once = Plan { steps: vec![Percent::ALL], ..tests_support::plan() };
        let follow = vec![Step::Observe(Percent::ALL), Step::AwaitSet];
        assert_eq!(around(&at_once, OLD, Part::Follow).0, follow);
        let in_place = Plan { strategy: Strategy::InPlace, ..at_once };
        assert_eq!(around(&in_place, OLD, Part::Follow).0, follow);
        let worker = Generation(1);
        let unwatched = Plan { objectives: Objectives::default(), ..in_place };
        let lead = vec![Step::LoadModel(worker), Step::AwaitSet, Step::SwitchModel(worker), Step::PointSet];
        assert_eq!(around(&unwatched, OLD, Part::Lead).0, lead);
    }

    #[test]
    fn a_first_version_waits_before_it_serves() {
        let lead = vec![Step::Admit(NEW), Step::AwaitSet, Step::Shift(Percent::ALL), Step::PointSet];
        let found = around(&Plan::all_at_once(), Over::Nothing, Part::Lead);
        assert_eq!(found, (lead, Step::Snapshot(Moment::After)));
    }
    #[test]
    fn over_a_dead_worker_every_plan_goes_straight_to_all_and_waits_for_nothing_of_it() {
        let canary = tests_support::plan();
        let in_place = Plan { strategy: Strategy::InPlace, steps: vec![Percent::ALL], ..canary.clone() };
        let by_header = Strategy::UserHash { header: "x-user-id".parse().unwrap() };
        let dead = Generation(1);
        for plan in [Plan { strategy: by_header, ..canary.clone() }, canary, in_place] {
            let Steps { list, commit } = steps(&plan, Over::Dead(dead), NEW);
            let before = steps(&plan, Over::Nothing, NEW);
            assert_eq!(list[..commit], before.list[..before.commit]);
            let after = [&remove(dead)[..], &[Step::Snapshot(Moment::After)]].concat();
            assert_eq!(list[commit..], after);
        }
    }
}
