//! Releases on a machine that does what it is told: what traffic meets, in which order, and what is told of it.

use crate::stage::{GOOD, Load, PORT, Stage, V1, V2, model, plan, stored};
use crate::workers::Answer;
use std::time::Duration;
use turnout_engine::record::End;
use turnout_engine::{Progress, Release, Step, Verdict};
use turnout_host::cells::WorkerState;
use turnout_host::fake::{Fault, When};
use turnout_host::traffic::Sample;
use turnout_manifest::plan::{Objectives, OnBreach};
use turnout_manifest::{Percent, Plan};
use turnout_protocol::worker::Counts;
use turnoutd::view::release_status;

fn half() -> Percent {
    Percent::from_thousandths(50_000).unwrap()
}

/// The splits that the kernel was told, from the given call on.
fn splits(stage: &Stage, from: usize) -> Vec<String> {
    let trace = stage.host.trace();
    trace[from..].iter().filter(|call| call.method == "set_route").map(|call| call.object.clone()).collect()
}

#[test]
fn the_first_version_goes_straight_to_all() {
    let mut stage = Stage::fresh();
    stage.open();
    stage.ask(Stage::start("1", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(splits(&stage, 0), ["g1 100 %"]);
    assert_eq!(stage.host.current(&model()), Some(stored("1")));
    assert_eq!(stage.arms(), [(V1, Percent::ALL)]);
    let release = stage.release();
    assert!(release.list.iter().all(|step| !matches!(step, Step::Observe(_))), "nothing to compare with");
}

#[test]
fn a_first_version_that_does_not_come_up_leaves_nothing() {
    let mut stage = Stage::fresh();
    stage.open();
    stage.workers.answer(Answer::Failed);
    stage.ask(Stage::start("1", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.release().causes, ["await ready g1 failed: the model has no input `x`"]);
    assert_eq!((stage.host.worker(V1), stage.host.route_of(PORT)), (None, None));
    assert_eq!(stage.host.current(&model()), None);
}

#[test]
fn a_good_canary_is_promoted_share_by_share() {
    let mut stage = Stage::live();
    let begin = stage.host.trace().len();
    let shares = [5, 25, 50, 100].map(|whole| Percent::from_thousandths(whole * 1000).unwrap());
    stage.ask(Stage::start("2", Plan { steps: shares.to_vec(), ..plan() })).unwrap();
    stage.until(|_, _, release| (release?.asked == half()).then_some(()));
    assert!(
        stage.workers.life(V1).is_some() && stage.workers.life(V2).is_some(),
        "connections follow the split"
    );
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(
        splits(&stage, begin),
        ["g2 5 %, g1 95 %", "g2 25 %, g1 75 %", "g2 50 %, g1 50 %", "g2 100 %"]
    );
    assert_eq!(stage.workers.life(V2), None, "no bound once nothing is split");
    let release = stage.release();
    let asked: Vec<Percent> = release.windows.iter().map(|judged| judged.window.asked).collect();
    for share in &shares[..3] {
        assert!(asked.contains(share), "{share} was watched");
    }
    let met = release.windows.iter().find(|judged| judged.verdict == Verdict::Met).unwrap();
    assert!(met.window.candidate.requests >= 20 && met.window.stable.as_ref().unwrap().requests >= 20);
    assert!(met.window.candidate.p95_us.unwrap() >= 1000);
    assert_eq!((stage.host.worker(V1), stage.host.worker(V2)), (None, Some(WorkerState::Running)));
    assert_eq!(stage.host.current(&model()), Some(stored("2")));
    let known = stage.known();
    assert_eq!(known.live.unwrap().generation, V2);
    assert_eq!(known.previous.unwrap().generation, V1);
}

#[test]
fn a_bad_canary_is_rolled_back_traffic_first_and_the_status_says_why() {
    for (load, why) in [
        (Load { errors: 4, ..GOOD }, "error rate 20 % exceeds 1 %"),
        (Load { latency: Duration::from_millis(30), ..GOOD }, "p95 31.4"),
    ] {
        let mut stage = Stage::live();
        stage.loads.insert(V2, load);
        stage.ask(Stage::start("2", plan())).unwrap();
        stage.until(|_, _, release| (release?.asked == half()).then_some(()));
        let begin = stage.host.trace().len();
        assert_eq!(stage.settle(), End::RolledBack);
        let changes = ["set_route", "dismiss", "kill_worker", "destroy_cell", "snapshot"];
        let trace = stage.host.trace();
        let made: Vec<&str> =
            trace[begin..].iter().map(|call| call.method).filter(|name| changes.contains(name)).collect();
        assert_eq!(made, changes, "traffic home first, evidence last");
        assert_eq!(stage.arms(), [(V1, Percent::ALL)]);
        let status = release_status(&stage.release());
        assert!(status.cause.as_ref().unwrap().starts_with(why), "{:?}", status.cause);
        assert_eq!(status.causes.len(), 1);
        let timings = status.timings;
        assert!(timings.breach_to_home_ms.unwrap() <= timings.breach_to_last_connection_ms.unwrap());
        assert!(timings.ready_ms.is_some() && timings.ended_at_ms.unwrap() >= timings.asked_at_ms);
    }
}

#[test]
fn a_breach_that_a_person_judges_holds_the_split() {
    let mut stage = Stage::live();
    stage.loads.insert(V2, Load { errors: 20, ..GOOD });
    stage.ask(Stage::start("2", Plan { on_breach: OnBreach::Pause, ..plan() })).unwrap();
    let why = stage.until(|_, _, release| release?.held.clone());
    assert!(why.starts_with("error rate 100 %"), "{why}");
    for _ in 0..5 {
        stage.turn();
    }
    assert_eq!(stage.arms(), [(V2, half()), (V1, half())]);
    stage.ask(Stage::wish(turnout_engine::advance::Wish::Rollback)).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
}

#[test]
fn too_little_traffic_neither_promotes_nor_rolls_back_and_is_held_at_the_end_of_patience() {
    let mut stage = Stage::live();
    stage.loads.insert(V2, Load { requests: 0, errors: 0, ..GOOD });
    stage.ask(Stage::start("2", Plan { patience_ms: 8, ..plan() })).unwrap();
    let why = stage.until(|_, _, release| release?.held.clone());
    assert!(why.contains("of at least 10 requests in the window"), "{why}");
    let release = stage.release();
    assert_eq!(release.progress, Progress::Forward);
    assert!(release.windows.iter().all(|judged| matches!(judged.verdict, Verdict::Insufficient(_))));
    assert_eq!(stage.arms(), [(V2, half()), (V1, half())]);
}

#[test]
fn what_failed_while_no_daemon_looked_is_of_no_window() {
    let mut stage = Stage::live();
    stage.loads.insert(V2, Load { requests: 0, errors: 0, ..GOOD });
    let objectives = Objectives { assertion_failures_ppm: Some(1_000), ..plan().objectives };
    stage.ask(Stage::start("2", Plan { objectives, ..plan() })).unwrap();
    stage.until(|_, _, release| release?.windows.first().map(|_| ()));
    stage.close();
    stage.loads.insert(V2, GOOD);
    stage.open();
    // The first thing that the new daemon reads was said when the other one ended.
    stage.workers.counted(V2, Counts { assertion_failures: 500, ..Counts::default() });
    assert_eq!(stage.settle(), End::Promoted, "{:?}", stage.release().causes);
}

/// Somebody takes the public port while no daemon keeps it.
fn lose_the_port(stage: &mut Stage) {
    stage.close();
    stage.host.occupy(([127, 0, 0, 1], PORT).into());
    stage.open();
}

#[test]
fn what_cannot_be_started_meets_no_traffic() {
    type Spoil = fn(&mut Stage);
    let spoils: [(&str, Spoil, &str); 6] = [
        (
            "damaged",
            |stage| stage.host.damage(&stored("2"), "model.onnx"),
            "verify files failed: `model.onnx` differs",
        ),
        (
            "not trusted",
            |stage| stage.running().intake.set_trust(Default::default()).unwrap(),
            "verify files failed: its manifest is",
        ),
        (
            "failed",
            |stage| stage.workers.answer(Answer::Failed),
            "await ready g2 failed: the model has no input",
        ),
        (
            "silent",
            |stage| stage.workers.answer(Answer::Silent),
            "await ready g2 failed: worker was not ready within 1 s",
        ),
        (
            "no cell",
            |stage| stage.host.fail(When::Every("create_cell"), Fault::Refused),
            "create cell g2 failed",
        ),
        (
            "no port",
            lose_the_port,
            "shift to 50 % failed: address 127.0.0.1:8700 is in use by another process",
        ),
    ];
    for (name, spoil, why) in spoils {
        let mut stage = Stage::live();
        let begin = stage.host.trace().len();
        spoil(&mut stage);
        stage.ask(Stage::start("2", plan())).unwrap();
        assert_eq!(stage.settle(), End::RolledBack, "{name}: {:?}", stage.release().causes);
        let causes = stage.release().causes;
        assert!(causes.len() == 1 && causes[0].starts_with(why), "{name}: {causes:?}");
        assert!(splits(&stage, begin).iter().all(|split| !split.contains("g2")), "{name}");
        assert_eq!(stage.arms(), [(V1, Percent::ALL)], "{name}");
    }
}

#[test]
fn a_version_that_comes_up_has_no_figures_of_the_one_before_it_in_its_slot() {
    let mut stage = Stage::live();
    stage.workers.answer(Answer::Silent);
    stage.ask(Stage::start("2", plan())).unwrap();
    let is_awaited = |release: &Release| release.step() == Some(Step::AwaitReady(V2)) && release.open;
    stage.until(|_, _, release| is_awaited(release?).then_some(()));
    let of_another = Sample { requests: 99, ..stage.host.seen(V1).unwrap() };
    stage.host.set_sample(V2, of_another);
    for _ in 0..2 {
        stage.running().driver.look();
    }
    stage.turn();
    let view = stage.running().views.borrow().clone();
    assert!(view.seen.contains_key(&V1) && !view.seen.contains_key(&V2), "{:?}", view.seen);
    assert!(view.totals.contains_key(&V1) && !view.totals.contains_key(&V2));
}
