//! Workers that die, also both at once, and while a release is stuck.

use super::{Fate, First, Incident, Run};
use std::collections::BTreeSet;
use turnout_engine::advance::proceed;
use turnout_engine::record::End;
use turnout_engine::{Event, Progress, Release, Step};
use turnout_manifest::plan::Strategy as Splitting;
use turnout_manifest::{Generation, Percent};

impl Run {
    /// Version 1 is live, and version 2 is being released.
    fn releasing() -> Self {
        let mut run = Self::new();
        run.start("1", Splitting::Weight);
        run.finish(&[]);
        run.start("2", Splitting::Weight);
        run
    }
}

#[test]
fn both_versions_dying_at_any_step_in_either_order_end_with_the_old_one_serving() {
    for at in 0..40 {
        for first in [First::Candidate, First::Stable] {
            for after in 0..8 {
                let mut run = Run::releasing();
                let id = run.world.models[&run.model].current.unwrap();
                let mut script = vec![(Fate::Works, Incident::Nothing, true); at + 1];
                script[at].1 = Incident::BothDie(first, after);
                if run.finish(&script) == End::Promoted {
                    continue;
                }
                run.live_dies();
                assert_eq!(run.ended(id), End::RolledBack, "{at} {first:?} {after}");
                run.check_home();
            }
        }
    }
}

#[test]
fn a_death_of_the_live_worker_is_answered_while_its_release_is_stuck() {
    let mut run = Run::releasing();
    let id = run.world.models[&run.model].current.unwrap();
    let mut script = vec![(Fate::Works, Incident::Nothing, true); 13];
    script.extend(vec![(Fate::FailsHalfDone, Incident::Nothing, true); 2]);
    script.extend(vec![(Fate::FailsClean, Incident::Nothing, true); 2]);
    assert_eq!(run.finish(&script), End::Stuck);
    run.live_dies();
    assert_eq!(run.ended(id), End::RolledBack);
    run.check_home();
}

#[test]
fn a_stuck_release_whose_old_version_does_not_come_up_counts_its_attempts_and_keeps_no_cell_of_them() {
    let mut run = Run::releasing();
    let mut script = vec![(Fate::Works, Incident::Nothing, true); 16];
    script.push((Fate::Works, Incident::BothDie(First::Stable, 1), true));
    script.extend(vec![(Fate::FailsClean, Incident::Nothing, true); 8]);
    assert_eq!(run.finish(&script), End::Stuck, "{:#?}", run.journal);
    for attempts in 1..=20 {
        let model = run.model.clone();
        run.tell(&Event::Restart { model, salt: 3 });
        // Each attempt waits for a worker that does not become ready.
        while run.release().is_some() {
            let loads = matches!(run.release().and_then(Release::step), Some(Step::AwaitReady(_)));
            run.turn(if loads { Fate::FailsClean } else { Fate::Works }, true);
        }
        assert_eq!(run.world.models[&run.model].restarts, attempts);
        assert!(run.machine.cells.len() <= 3, "{:?}", run.machine.cells);
    }
    run.live_dies();
    run.check_home();
}

#[test]
fn a_restart_whose_undo_failed_is_answered_too_and_counts_its_attempts() {
    let mut run = with_live_dead();
    let model = run.model.clone();
    for attempts in 1..=5 {
        run.tell(&Event::Restart { model: model.clone(), salt: 2 });
        // The worker does not become ready, and no undo works.
        while let Some(release) = run.release() {
            let loads = matches!(release.step(), Some(Step::AwaitReady(_)));
            let works = release.progress == Progress::Forward && !loads;
            run.turn(if works { Fate::Works } else { Fate::FailsHalfDone }, true);
        }
        assert_eq!(run.world.current(&model).map(Release::is_stuck), Some(true), "{:#?}", run.journal);
        assert_eq!(run.world.models[&model].restarts, attempts);
    }
    run.live_dies();
    run.check_home();
}

#[test]
fn a_dead_live_worker_is_brought_up_again() {
    let mut run = Run::new();
    run.start("1", Splitting::Weight);
    run.finish(&[]);
    let live = run.world.models[&run.model].live.clone().unwrap();
    run.kill(Some(live.generation));
    let model = run.model.clone();
    run.tell(&Event::Restart { model, salt: 2 });
    assert_eq!(run.finish(&[]), End::Promoted);
    let again = run.world.models[&run.model].live.clone().unwrap();
    assert_eq!(again.version, live.version);
    assert_eq!(run.machine.route, [(again.generation, Percent::ALL)]);
    assert!(!run.machine.cells.contains(&live.generation));
}

/// Version 1 is live, and its worker has died.
fn with_live_dead() -> Run {
    let mut run = Run::new();
    run.start("1", Splitting::Weight);
    run.finish(&[]);
    run.kill(run.world.models[&run.model].live.as_ref().map(|live| live.generation));
    run
}

#[test]
fn a_version_released_while_the_live_worker_is_dead_goes_live_by_any_strategy() {
    let by_user = Splitting::UserHash { header: "x-user-id".parse().unwrap() };
    for strategy in [Splitting::Weight, by_user, Splitting::InPlace] {
        let mut run = with_live_dead();
        run.start("2", strategy);
        assert_eq!(run.finish(&[]), End::Promoted, "{:#?}", run.journal);
        let live = run.world.models[&run.model].live.clone().unwrap();
        assert_eq!((live.version.as_str(), run.machine.route[0]), ("2", (live.generation, Percent::ALL)));
        assert_eq!(run.machine.cells, BTreeSet::from([live.generation]));
    }
}

#[test]
fn a_version_that_fails_over_a_dead_worker_leaves_that_to_be_brought_up_again() {
    let mut run = with_live_dead();
    run.start("2", Splitting::Weight);
    let id = run.world.models[&run.model].current.unwrap();
    let mut script = vec![(Fate::Works, Incident::Nothing, true); 9];
    script.push((Fate::FailsClean, Incident::Nothing, true));
    assert_eq!(run.finish(&script), End::RolledBack, "{:#?}", run.journal);
    let started =
        run.world.releases[&id].log.iter().filter(|logged| logged.undo && logged.step.brings_up().is_some());
    assert_eq!(started.count(), 0, "the one that had died is not what the release goes back to");
    run.live_dies();
    run.check_home();
}

#[test]
fn a_death_after_ten_minutes_of_serving_is_the_first_of_a_row_again() {
    let mut run = Run::new();
    run.start("1", Splitting::Weight);
    run.finish(&[]);
    let mut restarts = Vec::new();
    let minute = 60_000;
    for pause_ms in [0, minute, minute, 9 * minute, 11 * minute, minute] {
        run.later_ms += pause_ms;
        run.live_dies();
        restarts.push(run.world.models[&run.model].restarts);
    }
    assert_eq!(restarts, [1, 2, 3, 4, 1, 2]);
    run.daemon_restarts();
}

#[test]
fn the_old_versions_last_answers_are_not_waited_for_when_the_new_version_dies_before_or_meanwhile() {
    for (until, step) in [("before", Step::Dismiss(Generation(1))), ("meanwhile", Step::Drain(Generation(1)))]
    {
        let mut run = Run::releasing();
        let open = |run: &Run| run.release().filter(|release| release.open).and_then(Release::step);
        while open(&run) != Some(step) {
            run.turn(Fate::Works, true);
        }
        run.kill(Some(Generation(2)));
        while open(&run) != Some(Step::KillWorker(Generation(1))) {
            let waits = matches!(open(&run), Some(Step::Drain(_)));
            let due = proceed(&run.world, &run.model);
            assert!(!waits || !due.is_empty(), "{until}: it waits for the drain");
            run.turn(Fate::Works, true);
        }
        run.finish(&[]);
        run.live_dies();
        let live = run.world.models[&run.model].live.clone().unwrap();
        assert_eq!((live.version.as_str(), run.machine.route[0]), ("2", (live.generation, Percent::ALL)));
    }
}
