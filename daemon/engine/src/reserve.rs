//! What may still be written when the journal's disk is full and its reserve is used up: what ends, undoes or replaces
//! something, and the outcome of what was begun. Nothing new, so that the reserve lasts to the end of it.

use crate::advance::{Event, Wish};
use crate::archive::ArchiveRecord;
use crate::log::LogRecord;
use crate::record::{Kind, Record};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
