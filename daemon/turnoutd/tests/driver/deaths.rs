//! Workers that die: the candidate, the live one, during a release and outside of one, with and without a daemon.

use crate::power::Moment;
use crate::stage::{PORT, Stage, V1, V2, model, plan, stored};
use crate::workers::Answer;
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnout_engine::advance::Wish;
use turnout_engine::record::{End, Kind};
use turnout_engine::{Progress, Release, Step};
use turnout_host::cells::{Cells, WorkerState};
use turnout_host::fake::{Fault, When};
use turnout_manifest::{Generation, Percent};

const V3: Generation = Generation(3);

impl Stage {
    fn kill(&mut self, generation: Generation) {
        self.mourning = true;
        self.host.end_worker(generation, WorkerState::Killed(9));
    }

    /// The first version has everything, whatever start of its worker that is.
    fn first_version_serves(&mut self) -> Generation {
        self.mourning = false;
        self.check();
        let live = self.known().live.unwrap();
        assert_eq!(live.version.as_str(), "1");
        assert_eq!(self.arms(), [(live.generation, Percent::ALL)]);
        live.generation
    }
}

#[test]
fn the_candidates_death_at_any_step_rolls_back() {
    for asked in [Percent::NONE, Percent::from_thousandths(50_000).unwrap()] {
        let mut stage = Stage::live();
        stage.ask(Stage::start("2", plan())).unwrap();
        stage.until(|stage, _, release| {
            let running = stage.host.worker(V2) == Some(WorkerState::Running);
            (running && release?.asked == asked).then_some(())
        });
        stage.kill(V2);
        assert_eq!(stage.settle(), End::RolledBack);
        assert_eq!(stage.first_version_serves(), V1);
        let release = stage.release();
        assert_eq!(release.causes, ["the new version's worker died: killed by SIGKILL"]);
        let drained = release.log.iter().filter(|logged| logged.step == Step::Drain(V2));
        for said in drained.map(|logged| logged.outcome.clone()) {
            assert_eq!(said, Some(Ok("nothing to do: the worker has ended".to_owned())));
        }
        assert_eq!(stage.host.worker(V2), None);
    }
}

#[test]
fn the_stable_versions_death_in_a_release_brings_it_up_again_and_home() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", plan())).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    stage.kill(V1);
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.first_version_serves(), V3);
    assert_eq!(stage.release().causes, ["the old version's worker died: killed by SIGKILL"]);
    assert_eq!((stage.host.worker(V1), stage.host.worker(V2)), (None, None));
}

/// A release at half of the traffic, of which both workers have died.
fn both_die(first: Generation) -> Stage {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", plan())).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    stage.kill(first);
    stage.workers.notice();
    stage.kill(if first == V1 { V2 } else { V1 });
    stage
}

impl Stage {
    /// Turns until the release is rolled back, also where it was stuck meanwhile.
    fn until_rolled_back(&mut self) {
        let back = |release: &Release| release.progress == Progress::Ended(End::RolledBack);
        self.until(|_, _, release| release.is_some_and(back).then_some(()));
    }
}

#[test]
fn both_versions_deaths_in_either_order_bring_the_old_one_up_again_and_home() {
    for (first, cause) in [(V1, "the old version's worker died"), (V2, "the new version's worker died")] {
        let mut stage = both_die(first);
        assert_eq!(stage.settle(), End::RolledBack, "{first}: never stuck");
        assert_eq!(stage.first_version_serves(), V3);
        let causes = stage.release().causes;
        assert_eq!(causes, [format!("{cause}: killed by SIGKILL")]);
        assert_eq!(stage.host.cells().unwrap(), [(V3, WorkerState::Running)]);
    }
}

#[test]
fn a_release_that_was_stuck_before_the_old_versions_death_was_told_is_rolled_back_too() {
    let mut stage = both_die(V2);
    let stuck = |stage: &Stage| stage.release().progress == Progress::Ended(End::Stuck);
    // The way home fails before anybody tells why.
    while !stuck(&stage) {
        assert!(stage.running().driver.turn(Some(Duration::from_millis(5))));
    }
    stage.until_rolled_back();
    stage.first_version_serves();
}

#[test]
fn a_live_worker_that_dies_while_its_release_is_stuck_is_brought_up_again() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", plan())).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    stage.host.fail(When::Every("destroy_cell"), Fault::Refused);
    stage.ask(Stage::wish(Wish::Rollback)).unwrap();
    assert_eq!(stage.settle(), End::Stuck);
    stage.host.heal();
    stage.kill(V1);
    stage.until_rolled_back();
    assert_eq!(stage.first_version_serves(), V3);
    assert_eq!(stage.host.cells().unwrap(), [(V3, WorkerState::Running)]);
}

#[test]
fn a_stuck_release_whose_old_version_does_not_come_up_is_tried_again_after_pauses_that_grow() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", plan())).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    stage.workers.answer(Answer::Failed);
    stage.kill(V1);
    assert_eq!(stage.settle(), End::Stuck);
    let begun = Instant::now();
    stage.until(|_, model, _| (model.restarts == 3).then_some(()));
    assert!(begun.elapsed() >= Duration::from_millis(100 + 200 + 400), "{:?}", begun.elapsed());
    assert!(stage.host.cells().unwrap().len() <= 3, "attempts leave no cells");
    stage.workers.answer(Answer::Ready);
    stage.until_rolled_back();
    let live = stage.first_version_serves();
    assert_eq!(stage.host.cells().unwrap(), [(live, WorkerState::Running)]);
}

#[test]
fn a_live_worker_that_dies_is_brought_up_again_each_time() {
    let mut stage = Stage::live();
    for restarts in 1..=2 {
        let before = stage.known().live.unwrap().generation;
        stage.kill(before);
        stage.until(|_, model, _| (model.live_died).then_some(()));
        assert_eq!(stage.settle(), End::Promoted);
        let after = stage.first_version_serves();
        assert!(after > before);
        assert_eq!(stage.host.worker(before), None);
        let known = stage.known();
        assert_eq!((known.restarts, known.previous), (restarts, None), "no version was left");
        assert_eq!(stage.release().planned.kind, Kind::Restart);
    }
}

#[test]
fn a_version_released_while_the_live_one_is_dead_goes_live_at_once() {
    let mut stage = Stage::live();
    stage.kill(V1);
    stage.until(|_, model, _| model.live_died.then_some(()));
    stage.ask(Stage::start("2", plan())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    stage.mourning = false;
    stage.check();
    assert_eq!((stage.known().live.unwrap().generation, stage.arms()), (V2, vec![(V2, Percent::ALL)]));
    assert_eq!(stage.host.cells().unwrap(), [(V2, WorkerState::Running)]);
}

#[test]
fn a_version_that_does_not_come_up_over_a_dead_one_leaves_that_to_be_brought_up_again() {
    let mut stage = Stage::live();
    stage.workers.answer(Answer::Failed);
    stage.kill(V1);
    stage.until(|_, model, _| model.live_died.then_some(()));
    stage.ask(Stage::start("2", plan())).unwrap();
    let ended =
        |release: &Release| matches!(release.progress, Progress::Ended(_)).then_some(release.progress);
    let end = stage.until(|_, _, release| {
        release.filter(|release| release.planned.kind == Kind::Release).and_then(ended)
    });
    assert_eq!(end, Progress::Ended(End::RolledBack));
    stage.workers.answer(Answer::Ready);
    assert_eq!(stage.settle(), End::Promoted);
    stage.first_version_serves();
}

#[test]
fn a_new_version_that_dies_while_the_old_one_drains_is_not_kept_waiting_for_its_last_answers() {
    let mut stage = Stage::live();
    stage.freeze();
    stage.ask(Stage::start("2", plan())).unwrap();
    let open = |stage: &Stage| stage.known().current.and(stage.release().step());
    while open(&stage) != Some(Step::Drain(V1)) {
        stage.step();
        stage.turn();
    }
    stage.kill(V2);
    stage.until(|stage, _, _| (open(stage) == Some(Step::KillWorker(V1))).then_some(()));
    // What the wait finds comes late, and changes nothing.
    stage.thaw();
    stage.until(|_, model, _| (model.restarts == 1).then_some(()));
    assert_eq!(stage.settle(), End::Promoted);
    stage.mourning = false;
    stage.check();
    let live = stage.known().live.unwrap();
    assert_eq!((live.version.as_str(), live.generation), ("2", V3));
    assert_eq!(stage.host.cells().unwrap(), [(V3, WorkerState::Running)]);
}

#[test]
fn a_daemon_that_finds_its_live_worker_dead_brings_it_up() {
    let mut stage = Stage::live();
    stage.close();
    stage.kill(V1);
    stage.open();
    assert!(stage.known().live_died);
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(stage.first_version_serves(), V2);
    assert_eq!(stage.host.worker(V1), None);
}

#[test]
fn a_daemon_that_finds_nothing_after_a_reboot_serves_the_last_good_version() {
    let mut stage = Stage::live();
    stage.close();
    stage.mourning = true;
    stage.host.reboot();
    stage.open();
    assert_eq!(stage.settle(), End::Promoted);
    stage.first_version_serves();
    assert_eq!(stage.host.current(&model()).map(|name| name.model), Some(model()), "the pointer is back");
}

#[test]
fn a_reboot_in_the_middle_of_a_release_ends_it_and_serves_the_last_good_version_first() {
    let release = |stage: &mut Stage| {
        stage.ask(Stage::start("2", plan())).unwrap();
        stage.settle();
    };
    let mut whole = Stage::live();
    let first = whole.records();
    release(&mut whole);
    for seq in first..whole.records() {
        let mut stage = Stage::live();
        if !stage.cut_at((seq, Moment::Done), release) {
            continue;
        }
        stage.mourning = true;
        stage.host.reboot();
        stage.open();
        let route = stage.until(|stage, _, _| stage.host.route_of(PORT));
        let last_good = stage.known().live.unwrap().version;
        stage.settle();
        stage.mourning = false;
        stage.check();
        let live = stage.known().live.unwrap();
        assert_eq!(live.version, last_good, "cut at {seq}");
        assert_eq!(route.arms, [(live.generation, Percent::ALL)], "cut at {seq}: nothing served before it");
        let current = stage.host.current(&model()).map(|name| name.digest);
        assert_eq!(current, Some(live.digest), "cut at {seq}: the pointer shows what is live");
    }
}

#[test]
fn a_worker_that_dies_while_no_daemon_runs_ends_its_release() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", plan())).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    stage.close();
    stage.kill(V2);
    stage.open();
    assert_eq!(stage.release().progress, Progress::Backward, "traffic goes home before anything else");
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.first_version_serves(), V1);
}

#[test]
fn a_live_version_that_was_changed_in_the_store_is_not_brought_up_again() {
    let mut stage = Stage::live();
    stage.mourning = true;
    stage.host.damage(&stored("1"), "model.onnx");
    stage.host.end_worker(V1, WorkerState::Killed(9));
    let why = stage.until(|_, _, release| {
        let restart = release.filter(|release| release.planned.kind == Kind::Restart)?;
        restart.log.iter().find_map(|logged| logged.outcome.clone()?.err())
    });
    assert!(why.contains("`model.onnx` differs"), "{why}");
    let started = stage.host.cells().unwrap().into_iter().any(|(_, state)| state == WorkerState::Running);
    assert!(!started, "a worker runs on what nobody signed");
}

#[test]
fn what_a_worker_was_seen_doing_is_not_told_once_it_cannot_be_looked_at() {
    let mut stage = Stage::live();
    let seen_at_a_look = |stage: &mut Stage| {
        stage.running().driver.look();
        stage.turn();
        let view = Arc::clone(&stage.running().views.borrow());
        view.seen.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(seen_at_a_look(&mut stage), [], "nothing to compare the first look with");
    assert_eq!(seen_at_a_look(&mut stage), [V1]);
    stage.host.fail(When::Every("sample"), Fault::Refused);
    assert_eq!(seen_at_a_look(&mut stage), []);
}
