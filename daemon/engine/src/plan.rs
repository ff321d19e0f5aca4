//! A release as a full list of steps, made once, before anything happens. Also what `--dry-run` prints.

use crate::step::{Moment, Step};
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

/// Lists the steps that take `to` live over `from`, the generation that is live now. In place the new version has the
/// old one's worker, and `to` is not needed; without one to load it, it is started as any other.
pub fn steps(plan: &Plan, from: Option<Generation>, to: Generation) -> Steps {
    if let (Strategy::InPlace, Some(worker)) = (&plan.strategy, from) {
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
    match from {
        None => list.push(Step::Shift(Percent::ALL)),
        Some(_) => {
            list.extend(splits_by_request(plan).then_some(Step::StartRouter));
            list.extend(shifts(plan));
        }
    }
    list.push(Step::Point);
    let commit = list.len();
    if let Some(old) = from {
        list.extend(retire(old));
    }
    list.push(Step::Snapshot(Moment::After));
    Steps { list, commit }
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
    list.extend([Step::Dismiss(dead), Step::KillWorker(dead), Step::DestroyCell(dead)]);
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
