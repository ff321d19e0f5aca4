//! A canary on a machine on which calls fail or half-fail, once and twice, at every call.

use crate::stage::{Stage, V1, V2, plan};
use turnout_engine::Event;
use turnout_engine::advance::Wish;
use turnout_engine::record::End;
use turnout_engine::record::Kind;
use turnout_host::cells::WorkerState;
use turnout_host::fake::{Fault, When};
use turnout_manifest::{Percent, Plan};

const FAULTS: [Fault; 2] = [Fault::Refused, Fault::HalfDone];
/// How far behind the first failure the second one comes.
const APART: [usize; 6] = [1, 2, 3, 5, 8, 12];

/// Every way in which two calls can fail.
fn pairs() -> impl Iterator<Item = (usize, Fault, Fault)> {
    APART
        .into_iter()
        .flat_map(|apart| FAULTS.into_iter().flat_map(move |one| FAULTS.map(|other| (apart, one, other))))
}

/// Number of the first call of a canary, and of the first one after it.
fn calls_of_a_canary() -> std::ops::Range<usize> {
    let mut stage = Stage::live();
    let first = stage.host.trace().len();
    stage.ask(Stage::start("2", plan())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    first..stage.host.trace().len()
}

/// Runs a canary with these calls failing. The stage asserts after every turn that no route points at what does not
/// serve and that the live version does; here it is held to its end.
fn run(faults: &[(usize, Fault)]) -> (Stage, End) {
    let mut stage = Stage::live();
    for (call, fault) in faults {
        stage.host.fail(When::Call(*call), *fault);
    }
    stage.ask(Stage::start("2", plan())).unwrap();
    let end = stage.settle();
    let (release, context) = (stage.release(), format!("{faults:?} ended {end:?}"));
    let live = if end == End::Promoted { V2 } else { V1 };
    assert_eq!(stage.known().live.unwrap().generation, live, "{context}");
    match end {
        End::Promoted | End::RolledBack => assert_eq!(stage.arms(), [(live, Percent::ALL)], "{context}"),
        End::Stuck => assert!(release.causes.len() >= 2, "{context}: both causes, not {:?}", release.causes),
        End::Cancelled => panic!("{context}: nobody cancelled"),
    }
    (stage, end)
}

/// After a stuck release an operator repairs and asks for the undo again; then nothing of it is left.
fn repair(stage: &mut Stage) {
    stage.host.heal();
    stage.ask(Stage::wish(Wish::Rollback)).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.arms(), [(V1, Percent::ALL)]);
    assert_eq!(stage.host.worker(V2), None);
}

#[test]
fn one_failure_at_every_call_ends_promoted_or_rolled_back() {
    let mut ends = Vec::new();
    for call in calls_of_a_canary() {
        for fault in FAULTS {
            let (mut stage, end) = run(&[(call, fault)]);
            assert_ne!(end, End::Stuck, "call {call} {fault:?}: {:?}", stage.release().causes);
            // What a failed retirement left behind goes at the next start.
            stage.close();
            stage.open();
            let (live, gone) = if end == End::Promoted { (V2, V1) } else { (V1, V2) };
            assert_eq!(stage.host.worker(live), Some(WorkerState::Running));
            assert_eq!(stage.host.worker(gone), None, "call {call} {fault:?}");
            ends.push(end);
        }
    }
    assert!(ends.contains(&End::Promoted) && ends.contains(&End::RolledBack));
}

#[test]
fn two_failures_at_every_call_end_promoted_rolled_back_or_stuck_with_both_causes() {
    let mut stuck = 0;
    for call in calls_of_a_canary() {
        for (apart, one, other) in pairs() {
            let (mut stage, end) = run(&[(call, one), (call + apart, other)]);
            if end == End::Stuck {
                stuck += 1;
                repair(&mut stage);
            }
        }
    }
    assert!(stuck > 0, "some undo must have failed");
}

#[test]
fn an_undo_that_always_fails_is_stuck_until_it_is_repaired() {
    for undo in ["dismiss", "kill_worker", "destroy_cell", "set_route"] {
        let mut stage = Stage::live();
        stage.ask(Stage::start("2", plan())).unwrap();
        stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
        stage.host.fail(When::Every(undo), Fault::Refused);
        stage.ask(Stage::wish(Wish::Rollback)).unwrap();
        assert_eq!(stage.settle(), End::Stuck, "{undo}");
        let causes = stage.release().causes;
        assert!(causes[0].starts_with("rolled back by root") && causes[1].contains("failed"), "{causes:?}");
        if undo == "set_route" {
            assert_eq!(stage.host.worker(V2), Some(WorkerState::Running), "it still has half of the traffic");
        }
        stage.ask(Stage::wish(Wish::Rollback)).unwrap();
        assert_eq!(stage.settle(), End::Stuck, "{undo}: not repaired yet");
        repair(&mut stage);
    }
}

#[test]
fn a_store_that_takes_no_snapshots_holds_up_no_rollback_and_no_return() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    stage.host.fail(When::Every("snapshot"), Fault::Refused);
    // A new release does not begin without its evidence, and leaves no stuck model.
    stage.ask(Stage::start("3", plan())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    let causes = stage.release().causes;
    assert!(causes.len() == 2 && causes.iter().all(|cause| cause.contains("snapshot")), "{causes:?}");
    assert_eq!(stage.known().live.unwrap().version.as_str(), "2");
    // The way back to the last good version is open all the same, and says what is missing.
    let Event::Start(mut start) = Stage::start("1", Plan::all_at_once()) else { unreachable!() };
    start.kind = Kind::Return;
    stage.ask(Event::Start(start)).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(stage.known().live.unwrap().version.as_str(), "1");
    let missing = stage.release().log.iter().filter(|logged| matches!(&logged.outcome, Some(Err(_)))).count();
    assert_eq!(missing, 2, "both snapshots are missing in the log");
}
