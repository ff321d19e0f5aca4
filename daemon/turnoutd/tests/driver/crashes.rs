//! `kill -9` of the daemon at every journal record of a release, before and after what the record announces, once and
//! twice: a new daemon on the same machine and journal ends the release, and traffic never stops.

use crate::power::Moment;
use crate::stage::{GOOD, Load, Stage, V1, V2, asked, model, plan};
use std::ops::Range;
use std::path::Path;
use turnout_engine::Entry;
use turnout_engine::record::{End, Kind};
use turnout_host::cells::{Cells, WorkerState};
use turnout_journal::Reader;
use turnout_manifest::Percent;

const MOMENTS: [Moment; 2] = [Moment::OnDisk, Moment::Done];
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
}

impl Run {
    fn stage(self) -> Stage {
        let mut stage = Stage::live();
        if self == Self::Bad {
            stage.loads.insert(V2, Load { errors: 10, ..GOOD });
        }
        stage
    }

    fn perform(self, stage: &mut Stage) {
        if self != Self::LiveDies {
            stage.ask(Stage::start("2", plan())).unwrap();
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
            Self::Good => matches!(end, End::Promoted | End::RolledBack),
            Self::Bad | Self::StableDies => end == End::RolledBack,
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
    let restarted = run == Run::StableDies && stage.release().planned.kind == Kind::Restart;
    assert!(run.may_end(end) || restarted, "{context}: {end:?} {causes:?}");
    stage.mourning = false;
    stage.check();
    let live = stage.known().live.unwrap();
    assert_eq!(
        live.version.as_str(),
        if end == End::Promoted && run == Run::Good { "2" } else { "1" },
        "{context}"
    );
    assert_eq!(stage.arms(), [(live.generation, Percent::ALL)], "{context}");
    let cells = stage.host.cells().unwrap();
    assert_eq!(cells, [(live.generation, WorkerState::Running)], "{context}: {causes:?}");
    assert_eq!(stage.host.current(&model()).map(|name| name.digest), Some(live.digest), "{context}");
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

fn crash_at_every_record(run: Run) {
    let records = run.records();
    let mut crashed = 0;
    for seq in records.clone() {
        for moment in MOMENTS {
            let mut stage = run.stage();
            if stage.cut_at((seq, moment), |stage| run.perform(stage)) && !run.is_cut_short(&stage) {
                crashed += 1;
                come_back(&mut stage, run, &format!("{run:?} cut at {seq} {moment:?}"));
            }
        }
    }
    assert!(crashed > 20, "{crashed} times in {records:?}");
}

#[test]
fn a_good_release_survives_a_crash_at_every_record() {
    crash_at_every_record(Run::Good);
}

#[test]
fn a_bad_release_is_rolled_back_across_a_crash_at_every_record() {
    crash_at_every_record(Run::Bad);
}

#[test]
fn a_stable_version_that_dies_is_back_after_a_crash_at_every_record() {
    crash_at_every_record(Run::StableDies);
}

#[test]
fn a_live_version_that_dies_is_back_after_a_crash_at_every_record() {
    crash_at_every_record(Run::LiveDies);
}

#[test]
fn a_crash_of_the_daemon_that_recovers_changes_nothing_of_that() {
    let mut twice = 0;
    for run in [Run::Good, Run::Bad, Run::StableDies, Run::LiveDies] {
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
