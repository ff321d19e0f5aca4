//! Releases in the worker of the live version: what is loaded, what answers, and what is left of either.

use crate::door::{Door, check_problem};
use crate::stage::{GOOD, Load, Stage, V1, V2, bundle, in_place, model, stored};
use crate::workers::{Answer, Models};
use serde_json::json;
use turnout_engine::record::End;
use turnout_engine::{Event, Step};
use turnout_host::cells::{Cells, WorkerState};
use turnout_host::fake::{Fault, When};
use turnout_manifest::{Generation, Percent, Plan};

fn alone(version: &str) -> Models {
    Models { answers: stored(version).digest, beside: None }
}

/// One worker serves this version alone, and readers of the pointer see it.
fn serves(stage: &Stage, generation: Generation, version: &str) {
    let live = stage.known().live.unwrap();
    assert_eq!((live.generation, live.digest), (generation, stored(version).digest));
    assert_eq!(stage.arms(), [(generation, Percent::ALL)]);
    assert_eq!(stage.host.cells().unwrap(), [(generation, WorkerState::Running)]);
    assert_eq!(stage.host.mounted(generation), Some(stored(version)));
    assert_eq!(stage.host.current(&model()), Some(stored(version)));
    assert_eq!(stage.workers.models(generation), alone(version));
}

#[test]
fn a_version_released_in_place_has_the_worker_and_the_old_one_goes_at_the_end() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", in_place())).unwrap();
    stage.until(|stage, _, release| {
        let observing = matches!(release?.step(), Some(Step::Observe(_)));
        let both = Models { answers: stored("2").digest, beside: Some(stored("1").digest) };
        observing.then(|| assert_eq!(stage.workers.models(V1), both))
    });
    assert_eq!(stage.settle(), End::Promoted);
    serves(&stage, V1, "2");
    assert_eq!(stage.known().previous.unwrap().digest, stored("1").digest);
    // And on, and a worker that dies then is brought up with what it served.
    stage.ask(Stage::start("3", in_place())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    stage.mourning = true;
    stage.host.end_worker(V1, WorkerState::Killed(9));
    stage.until(|_, model, _| model.live_died.then_some(()));
    assert_eq!(stage.settle(), End::Promoted);
    serves(&stage, V2, "3");
}

#[test]
fn a_version_that_does_not_load_leaves_the_old_one_as_it_was() {
    let mut stage = Stage::live();
    for answer in [Answer::Failed, Answer::Silent] {
        stage.workers.answer(answer);
        stage.ask(Stage::start("2", in_place())).unwrap();
        assert_eq!(stage.settle(), End::RolledBack);
        let why = match answer {
            Answer::Failed => "load the new model in g1 failed: the model has no input `x`",
            _ => "load the new model in g1 failed: worker was not ready within 1 s",
        };
        assert_eq!(stage.release().causes, [why]);
        serves(&stage, V1, "1");
    }
}

#[test]
fn a_breach_after_the_switch_is_switched_back_before_all_else() {
    let mut stage = Stage::live();
    stage.loads.insert(V1, Load { errors: 10, ..GOOD });
    stage.ask(Stage::start("2", in_place())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    serves(&stage, V1, "1");
    let release = stage.release();
    assert_eq!(release.list[0], Step::SwitchHome(V1));
    assert!(release.causes[0].starts_with("error rate"), "{:?}", release.causes);
    assert!(release.windows.iter().all(|judged| judged.window.stable.is_none()), "one worker, one version");
}

#[test]
fn a_worker_that_dies_with_the_new_version_comes_back_with_the_old_one() {
    let mut stage = Stage::live();
    // Too few to judge by: the release waits.
    stage.loads.insert(V1, Load { requests: 1, ..GOOD });
    stage.ask(Stage::start("2", in_place())).unwrap();
    stage.until(|_, _, release| (release?.asked == Percent::ALL).then_some(()));
    stage.mourning = true;
    stage.host.end_worker(V1, WorkerState::Killed(11));
    stage.loads.clear();
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.release().causes, ["the new version's worker died: killed by SIGKILL"]);
    serves(&stage, V2, "1");
}

#[test]
fn a_worker_that_does_not_change_back_is_replaced() {
    let mut stage = Stage::live();
    stage.loads.insert(V1, Load { errors: 10, ..GOOD });
    stage.workers.shun(stored("1").digest);
    // The old version's new start is not admitted at once; until then the lost worker answers.
    stage.mourning = true;
    stage.ask(Stage::start("2", in_place())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    serves(&stage, V2, "1");
}

#[test]
fn a_worker_that_is_heard_no_more_is_replaced_once_it_answers_by_the_new_version() {
    let mut stage = Stage::live();
    stage.loads.insert(V1, Load { requests: 1, ..GOOD });
    stage.ask(Stage::start("2", in_place())).unwrap();
    stage.until(|_, _, release| (release?.asked == Percent::ALL).then_some(()));
    stage.mourning = true;
    let why = "a flood".to_owned();
    let silenced = Event::Silenced { generation: V1, why };
    stage.running().sender.send(turnoutd::driver::Input::Event(silenced)).unwrap();
    stage.until(|_, _, release| release?.cause.is_some().then_some(()));
    assert_eq!(stage.settle(), End::RolledBack);
    serves(&stage, V2, "1");
}

#[test]
fn any_call_that_fails_leaves_one_whole_version() {
    let calls = {
        let mut stage = Stage::live();
        let first = stage.host.trace().len();
        stage.ask(Stage::start("2", in_place())).unwrap();
        assert_eq!(stage.settle(), End::Promoted);
        first..stage.host.trace().len()
    };
    let mut ends = Vec::new();
    for call in calls {
        for fault in [Fault::Refused, Fault::HalfDone] {
            let mut stage = Stage::live();
            stage.host.fail(When::Call(call), fault);
            stage.ask(Stage::start("2", in_place())).unwrap();
            let end = stage.settle();
            serves(&stage, V1, if end == End::Promoted { "2" } else { "1" });
            if !ends.contains(&end) {
                ends.push(end);
            }
        }
    }
    ends.sort_by_key(|end| format!("{end:?}"));
    assert_eq!(ends, [End::Promoted, End::RolledBack]);
}

#[test]
fn what_cannot_be_in_place_is_refused_with_every_reason() {
    let door = Door::open();
    let start = |version: &str, plan: serde_json::Value| {
        door.json(
            "POST /v1/releases",
            &json!({"version": format!("digits@{version}"), "plan": plan}).to_string(),
        )
    };
    let plan = serde_json::to_value(Plan { window_ms: 200, ..in_place() }).unwrap();
    for version in ["1", "guaranteed"] {
        assert_eq!(door.import(&bundle(version)).status, 200);
    }
    let first = start("1", plan.clone());
    check_problem(&first, 422, "refused");
    assert!(first.body["details"][0].as_str().unwrap().starts_with("no version of `digits` is live"));
    assert_eq!(door.release_and_wait("1")["state"], "promoted");
    let other = start("guaranteed", plan.clone());
    check_problem(&other, 422, "refused");
    assert_eq!(other.body["details"], json!(["`class` is guaranteed, the cell is burstable"]));
    let mut shares = plan;
    shares["steps"] = json!([5000, 100_000]);
    let shares = start("guaranteed", shares);
    check_problem(&shares, 422, "refused");
    let why = shares.body["details"][0].as_str().unwrap();
    assert!(why.contains("`in-place` takes all requests at once"), "{why}");
}
