//! `kill -9` of the daemon at every journal record of a release, before and after what the record announces, once and
//! twice: a new daemon on the same machine and journal ends the release, and traffic never stops.

use crate::power::Moment;
use crate::stage::{GOOD, Load, Stage, V1, V2, asked, in_place, model, plan, stored};
use crate::workers::Models;
use std::ops::Range;
use std::path::Path;
use turnout_engine::record::{End, Kind};
use turnout_engine::{Entry, Progress};
use turnout_host::cells::{Cells, WorkerState};
use turnout_journal::Reader;
use turnout_manifest::Percent;

pub const MOMENTS: [Moment; 2] = [Moment::OnDisk, Moment::Done];
/// Records of the second daemon at which the power goes again.
const AGAIN: Range<u64> = 0..5;

/// What happens until the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// A release of a version that keeps its objectives.
    Good,
    /// One of a version that does not.
    Bad,
    /// One during which the stable version's worker dies.
    StableDies,
    /// No release: the live worker dies and is brought up again.
    LiveDies,
    /// A release in place of a version that keeps its objectives.
    InPlace,
    /// One of a version that does not.
    InPlaceBad,
    /// One of a version that the worker does not change back from.
    InPlaceStays,
}

impl Run {
    fn stage(self) -> Stage {
        let mut stage = Stage::live();
        match self {
            Self::Bad => _ = stage.loads.insert(V2, Load { errors: 10, ..GOOD }),
            Self::InPlaceBad | Self::InPlaceStays => {
                stage.loads.insert(V1, Load { errors: 10, ..GOOD });
            }
            Self::Good | Self::StableDies | Self::LiveDies | Self::InPlace => {}
        }
        if self == Self::InPlaceStays {
            stage.workers.shun(stored("1").digest);
            // The old version's new start is not admitted at once; until then the lost worker answers.
            stage.mourning = true;
        }
        stage
    }

    fn is_in_place(self) -> bool {
        matches!(self, Self::InPlace | Self::InPlaceBad | Self::InPlaceStays)
    }

    fn perform(self, stage: &mut Stage) {
        if self != Self::LiveDies {
            let plan = if self.is_in_place() { in_place() } else { plan() };
            stage.ask(Stage::start("2", plan)).unwrap();
        }
        if self == Self::StableDies {
            stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
        }
        if matches!(self, Self::StableDies | Self::LiveDies) {
            stage.mourning = true;
            stage.host.end_worker(V1, WorkerState::Killed(9));
            stage.until(|_, model, release| (model.live_died || release?.cause.is_some()).then_some(()));
        }
        stage.settle();
    }

    /// The records of the whole run.
    fn records(self) -> Range<u64> {
        let mut stage = self.stage();
        let first = stage.records();
        self.perform(&mut stage);
        first..stage.records()
    }

    /// The power goes before what makes the run special.
    fn is_cut_short(self, stage: &Stage) -> bool {
        matches!(self, Self::StableDies | Self::LiveDies) && !stage.mourning
    }

    /// The end of the newest release may be this.
    fn may_end(self, end: End) -> bool {
        match self {
            Self::Good | Self::InPlace => matches!(end, End::Promoted | End::RolledBack),
            Self::Bad | Self::StableDies | Self::InPlaceBad | Self::InPlaceStays => end == End::RolledBack,
            Self::LiveDies => end == End::Promoted,
        }
    }
}

/// Starts the daemon again and holds what was under way to its end: one version serves, nothing else is left.
fn come_back(stage: &mut Stage, run: Run, context: &str) {
    stage.check();
    stage.open();
    let end = stage.settle();
    let causes = stage.release().causes;
    // A stable version that is found dead after the release is over is brought up by a release of its own.
    let restarted =
        matches!(run, Run::StableDies | Run::InPlaceStays) && stage.release().planned.kind == Kind::Restart;
    assert!(run.may_end(end) || restarted, "{context}: {end:?} {causes:?}");
    stage.mourning = false;
    stage.check();
    let live = stage.known().live.unwrap();
    assert_eq!(
        live.version.as_str(),
        if end == End::Promoted && matches!(run, Run::Good | Run::InPlace) { "2" } else { "1" },
        "{context}"
    );
    assert_eq!(stage.arms(), [(live.generation, Percent::ALL)], "{context}");
    let cells = stage.host.cells().unwrap();
    assert_eq!(cells, [(live.generation, WorkerState::Running)], "{context}: {causes:?}");
    assert_eq!(stage.host.current(&model()).map(|name| name.digest), Some(live.digest), "{context}");
    assert_eq!(stage.host.mounted(live.generation).map(|name| name.digest), Some(live.digest), "{context}");
    if run.is_in_place() {
        let alone = Models { answers: live.digest, beside: None };
        assert_eq!(stage.workers.models(live.generation), alone, "{context}");
    }
    let journal = stage.folder.path().join("journal");
    turnout_journal::verify(&journal).unwrap();
    assert_eq!(turnoutd::recover::replay(&journal).unwrap(), *stage.running().driver.world(), "{context}");
    check_contexts(&journal, context);
    assert_eq!(live.audit_context, Some(asked().id()), "{context}");
}

/// Every record of every release has the context of who asked, whichever daemon wrote it.
fn check_contexts(journal: &Path, context: &str) {
    let mut reader = Reader::open(journal, 0).unwrap();
    while let Some(record) = reader.next_record().unwrap() {
        let entry: Entry = serde_json::from_slice(&record.body).unwrap();
        let expected = entry.record.release().map(|_| asked());
        assert_eq!(entry.audit_context, expected, "{context}: {:?}", entry.record);
    }
}

/// What is lost with the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// Nothing: cells, routes and mounts stay.
    Daemon,
    /// All but the disk.
    Machine,
}

fn crash_at_every_record(run: Run, lost: Lost) {
    let records = run.records();
    let mut crashed = 0;
    for seq in records.clone() {
        for moment in MOMENTS {
            let mut stage = run.stage();
            if stage.cut_at((seq, moment), |stage| run.perform(stage)) && !run.is_cut_short(&stage) {
                crashed += 1;
                let context = format!("{run:?} {lost:?} cut at {seq} {moment:?}");
                match lost {
                    Lost::Daemon => {
                        come_back(&mut stage, run, &context);
                        let retired =
                            run == Run::Good && stage.release().progress == Progress::Ended(End::Promoted);
                        assert!(!retired || stage.workers.was_told_to_leave(V1), "{context}: it was cut off");
                    }
                    Lost::Machine => boot_again(&mut stage, run, &context),
                }
            }
        }
    }
    assert!(crashed > 20, "{crashed} times in {records:?}");
}

/// Starts machine and daemon again: the version that was live when the power went answers first, and whatever was under way
/// ends with one version that serves.
fn boot_again(stage: &mut Stage, run: Run, context: &str) {
    stage.mourning = true;
    stage.host.reboot();
    stage.open();
    stage.settle();
    // What is found dead once the release is over is brought up by one of its own, after a pause.
    stage.until(|_, model, _| (!model.live_died && model.current.is_none()).then_some(()));
    let (live, release) = (stage.known().live.unwrap(), stage.release());
    let end = release.progress;
    assert!(!matches!(end, Progress::Ended(End::Stuck)), "{context}: {:?}", release.causes);
    let promoted = live.version.as_str() == "2";
    assert!(!promoted || matches!(run, Run::Good | Run::InPlace), "{context}: {end:?} {:?}", release.causes);
    assert_eq!(stage.arms(), [(live.generation, Percent::ALL)], "{context}");
    assert_eq!(stage.host.cells().unwrap(), [(live.generation, WorkerState::Running)], "{context}");
    assert_eq!(stage.host.current(&model()).map(|name| name.digest), Some(live.digest), "{context}");
}

#[test]
fn a_good_release_survives_a_crash_at_every_record() {
    crash_at_every_record(Run::Good, Lost::Daemon);
}

#[test]
fn a_bad_release_is_rolled_back_across_a_crash_at_every_record() {
    crash_at_every_record(Run::Bad, Lost::Daemon);
}

#[test]
fn a_release_in_place_survives_a_crash_at_every_record() {
    crash_at_every_record(Run::InPlace, Lost::Daemon);
}

#[test]
fn a_bad_release_in_place_is_switched_back_across_a_crash_at_every_record() {
    crash_at_every_record(Run::InPlaceBad, Lost::Daemon);
}

#[test]
fn a_worker_that_stays_with_the_new_version_is_replaced_across_a_crash_at_every_record() {
    crash_at_every_record(Run::InPlaceStays, Lost::Daemon);
}

#[test]
fn a_stable_version_that_dies_is_back_after_a_crash_at_every_record() {
    crash_at_every_record(Run::StableDies, Lost::Daemon);
}

#[test]
fn a_live_version_that_dies_is_back_after_a_crash_at_every_record() {
    crash_at_every_record(Run::LiveDies, Lost::Daemon);
}

#[test]
fn a_version_serves_after_the_power_goes_at_every_record_of_a_good_release() {
    crash_at_every_record(Run::Good, Lost::Machine);
}

#[test]
fn a_version_serves_after_the_power_goes_at_every_record_of_a_bad_release() {
    crash_at_every_record(Run::Bad, Lost::Machine);
}

#[test]
fn a_version_serves_after_the_power_goes_at_every_record_of_a_release_in_place() {
    crash_at_every_record(Run::InPlace, Lost::Machine);
    crash_at_every_record(Run::InPlaceBad, Lost::Machine);
    crash_at_every_record(Run::InPlaceStays, Lost::Machine);
}

#[test]
fn a_version_serves_after_the_power_goes_at_every_record_of_a_restart() {
    crash_at_every_record(Run::LiveDies, Lost::Machine);
    crash_at_every_record(Run::StableDies, Lost::Machine);
}

#[test]
fn a_crash_of_the_daemon_that_recovers_changes_nothing_of_that() {
    let mut twice = 0;
    let all = [Run::Good, Run::Bad, Run::StableDies, Run::LiveDies];
    for run in all.into_iter().chain([Run::InPlace, Run::InPlaceBad, Run::InPlaceStays]) {
        for (turn, seq) in run.records().enumerate() {
            // A worker that died is brought up after a pause, so of those runs there are few.
            let apart = if matches!(run, Run::StableDies | Run::LiveDies) { AGAIN.end } else { 2 };
            for again in AGAIN.filter(|again| again % apart == turn as u64 % apart) {
                let (one, other) = (MOMENTS[turn % 2], MOMENTS[again as usize % 2]);
                let mut stage = run.stage();
                if !stage.cut_at((seq, one), |stage| run.perform(stage)) || run.is_cut_short(&stage) {
                    continue;
                }
                let size = turnout_journal::verify(&stage.folder.path().join("journal")).unwrap().size;
                let recover = |stage: &mut Stage| {
                    stage.open();
                    stage.settle();
                };
                if stage.cut_at((size + again, other), recover) {
                    twice += 1;
                    come_back(&mut stage, run, &format!("{run:?} cut at {seq} {one:?}, {again} {other:?}"));
                }
            }
        }
    }
    assert!(twice > 60, "{twice}");
}
