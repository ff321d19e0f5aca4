//! What may still be written when the journal's disk is full and its reserve is used up: what ends, undoes or replaces
//! something, and the outcome of what was begun. Nothing new, so that the reserve lasts to the end of it.

use crate::advance::{Event, Wish};
use crate::archive::ArchiveRecord;
use crate::log::LogRecord;
use crate::record::{Kind, Record};
use crate::slo::Verdict;
use crate::step::Step;
use crate::world::Release;
use turnout_manifest::plan::OnBreach;

/// Whether this wish may be granted then. Facts, which nobody waits for, always are.
pub fn may_grant(wish: &Event) -> bool {
    match wish {
        Event::Start(start) => start.kind != Kind::Release,
        Event::StartSet(set) => set.starts.iter().all(|start| start.kind != Kind::Release),
        Event::Operator { wish, .. } => match wish {
            Wish::Rollback | Wish::Cancel | Wish::Pause => true,
            Wish::Promote | Wish::Resume => false,
        },
        Event::Archive(_) => false,
        Event::Restart { .. }
        | Event::Finished { .. }
        | Event::Ready { .. }
        | Event::Loaded { .. }
        | Event::Died { .. }
        | Event::Lost { .. }
        | Event::Silenced { .. }
        | Event::RouterDied { .. }
        | Event::Measured { .. } => true,
    }
}

/// Whether this record, which stands for itself, may be written then: the outcome of something that was announced.
pub fn may_note(record: &Record) -> bool {
    use ArchiveRecord as R;
    match record {
        Record::Imported { .. } | Record::Log(LogRecord::ReserveSpent | LogRecord::ReserveRestored) => true,
        Record::Archive(record) => matches!(
            record,
            R::SnapshotTaken { .. }
                | R::MountEnded { .. }
                | R::SnapshotDeleted { .. }
                | R::SnapshotKept { .. }
                | R::VersionDeleted { .. }
                | R::VersionKept { .. }
                | R::Scrubbed { .. }
                | R::StoreGrown { .. }
                | R::ArchiveFailed { .. }
        ),
        _ => false,
    }
}

/// Whether what a window led to is written then. Of a release that waits for a person or its set windows come without end,
/// so one that changes no decision is left out: a met one while no missed one counts, and any while a person is to judge.
pub fn may_observe(release: &Release, led_to: &[Record]) -> bool {
    let [Record::Observed { verdict, .. }] = led_to else { return true };
    let held = release.held.is_some();
    let waits = held || release.step() == Some(Step::AwaitSet);
    let left_to_a_person = held && release.plan().on_breach == OnBreach::Pause;
    let mut counted = release.verdicts.iter().chain([verdict]);
    let changes = !left_to_a_person && counted.any(|verdict| matches!(verdict, Verdict::Missed(_)));
    !waits || changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advance::Start;
    use crate::slo::Window;
    use crate::world::{Stamp, World, tests_support};
    use turnout_manifest::{Percent, Plan, Sha256};

    #[test]
    fn an_operator_can_end_what_is_under_way_and_nobody_can_begin() {
        let asked = |wish| Event::Operator {
            model: "digits".parse().unwrap(),
            wish,
            by: "root".to_owned(),
            reason: String::new(),
        };
        for (wish, granted) in [
            (Wish::Rollback, true),
            (Wish::Cancel, true),
            (Wish::Pause, true),
            (Wish::Promote, false),
            (Wish::Resume, false),
        ] {
            assert_eq!(may_grant(&asked(wish)), granted, "{wish:?}");
        }
    }

    #[test]
    fn outcomes_are_written_and_announcements_and_refusals_are_not() {
        let (by, what, why) = (String::new(), String::new(), String::new());
        assert!(may_note(&Record::Archive(ArchiveRecord::ArchiveFailed { what: what.clone(), why })));
        assert!(!may_note(&Record::Archive(ArchiveRecord::Scrubbing { by: by.clone() })));
        assert!(!may_note(&Record::Refused { by: by.clone(), what, why: Vec::new() }));
        assert!(!may_note(&Record::TrustRemoved { by, key_id: String::new() }));
        assert!(may_note(&Record::Log(LogRecord::ReserveSpent)));
    }
    fn release(on_breach: OnBreach, records: &[Record]) -> Release {
        let start = Start {
            model: "digits".parse().unwrap(),
            kind: Kind::Release,
            version: "1".parse().unwrap(),
            digest: Sha256([1; 32]),
            signed_by: Vec::new(),
            plan: Plan { on_breach, ..tests_support::plan() },
            port: 8700,
            salt: 1,
            by: String::new(),
            order: None,
            audit_context: None,
        };
        let mut world = World::default();
        let planned = crate::decide(&world, &Event::Start(Box::new(start))).unwrap();
        for record in planned.iter().chain(records) {
            world.apply(record, Stamp { seq: 0, at_ms: 0 });
        }
        world.current(&"digits".parse().unwrap()).unwrap().clone()
    }

    #[test]
    fn of_a_release_that_waits_only_windows_that_a_breach_may_come_of_are_written() {
        let id = turnout_manifest::ReleaseId::new(1);
        let observed = |verdict| {
            let window = Window {
                at_ms: 1,
                length_ms: 1,
                asked: Percent::ALL,
                candidate: Default::default(),
                stable: None,
            };
            Record::Observed { release: id, window: Box::new(window), verdict }
        };
        let (met, missed) = (observed(Verdict::Met), observed(Verdict::Missed(String::new())));
        let held = Record::Held { release: id, why: String::new() };
        let (rollback, pause) = (OnBreach::Rollback, OnBreach::Pause);
        for (on_breach, before, led_to, written) in [
            (rollback, vec![], vec![met.clone()], true),
            (rollback, vec![held.clone()], vec![met.clone()], false),
            (rollback, vec![held.clone(), met.clone()], vec![met.clone()], false),
            (rollback, vec![held.clone()], vec![missed.clone()], true),
            (rollback, vec![held.clone(), missed.clone()], vec![met.clone()], true),
            (pause, vec![held.clone()], vec![missed.clone()], false),
            (pause, vec![], vec![missed.clone(), held.clone()], true),
        ] {
            let found = may_observe(&release(on_breach, &before), &led_to);
            assert_eq!(found, written, "{on_breach:?} {before:?} {led_to:?}");
        }
    }
}
