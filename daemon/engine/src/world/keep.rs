//! The part of the fold that is about what is kept and what is trusted, and not about releases.

use super::{Stamp, World};
use crate::archive::{ArchiveRecord, Reason};
use crate::record::Record;
use crate::step::Step;
use std::sync::Arc;

impl World {
    /// Takes in what a record says of snapshots, stored versions and trust.
    pub(super) fn keep(&mut self, record: &Record, stamp: Stamp) {
        match record {
            Record::DaemonStarted { .. } => {
                Arc::make_mut(&mut self.archive).since_ms.get_or_insert(stamp.at_ms);
            }
            Record::Done { release, step: Step::Snapshot(moment), detail, .. } => {
                let reason = Reason::Release { release: *release, moment: *moment };
                Arc::make_mut(&mut self.archive).take(detail, reason, stamp);
            }
            Record::Imported { digest, .. } => Arc::make_mut(&mut self.trust).saw(*digest, stamp),
            Record::Trust(record) => Arc::make_mut(&mut self.trust).apply(record),
            Record::Archive(record) => {
                let archive = Arc::make_mut(&mut self.archive);
                if let ArchiveRecord::VersionDeleting { version, .. } = record {
                    let key = (version.model.clone(), version.version.clone());
                    archive.removing.extend(self.versions.remove_entry(&key));
                }
                if let ArchiveRecord::VersionKept { version, .. } = record {
                    let key = (version.model.clone(), version.version.clone());
                    self.versions.extend(archive.removing.remove_entry(&key));
                }
                archive.apply(record, stamp);
            }
            _ => {}
        }
    }
}
