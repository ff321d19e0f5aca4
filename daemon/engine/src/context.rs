//! Which audit context a record belongs to. What answers a request has that request's; what follows later, also after a
//! restart of the daemon, has the context of what it belongs to: its release, its mount, its deletion.

use crate::archive::ArchiveRecord;
use crate::record::{Entry, Kind, Record};
use crate::world::{Stamp, World};
use std::collections::BTreeMap;
use std::sync::Arc;
use turnout_manifest::{AuditContext, ModelName, ReleaseId, VersionRef};

/// Contexts of one release kept in memory, the first ones; every record has its own in the journal.
const CONTEXTS_KEPT: usize = 64;

/// The audit contexts of what is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contexts {
    pub(crate) releases: BTreeMap<ReleaseId, Vec<AuditContext>>,
    pub(crate) live: BTreeMap<ModelName, AuditContext>,
    pub(crate) open: BTreeMap<String, AuditContext>,
}

impl Contexts {
    /// Those of a release: its own, then those of who changed its course, oldest first. None for a release of a version
    /// of the daemon that had no contexts.
    pub fn of_release(&self, release: ReleaseId) -> &[AuditContext] {
        self.releases.get(&release).map(Vec::as_slice).unwrap_or_default()
    }
}

impl World {
    /// Takes in one entry of the journal.
    pub fn take(&mut self, entry: &Entry, stamp: Stamp) {
        self.apply(&entry.record, stamp);
        match &entry.record {
            Record::Planned(planned) => {
                let contexts = Arc::make_mut(&mut self.contexts);
                contexts.releases.retain(|id, _| self.releases.contains_key(id));
                contexts.releases.insert(planned.release, entry.audit_context.into_iter().collect());
            }
            Record::Archive(record) => self.note_kept(record, entry.audit_context),
            record => {
                if let (Some(release), Some(context)) = (record.release(), entry.audit_context) {
                    self.note_course(release, context);
                }
            }
        }
        if let Record::Promoted { release } = &entry.record {
            // One record stands for the whole set.
            let others = self.releases.get(release).map(Arc::clone).into_iter().flat_map(|release| {
                self.others(&release).map(|(member, _)| member.release).collect::<Vec<_>>()
            });
            let promoted: Vec<ReleaseId> = others.chain([*release]).collect();
            promoted.into_iter().for_each(|release| self.note_live(release));
        }
    }

    /// The context of a record that answers no request.
    pub fn context_of(&self, record: &Record) -> Option<AuditContext> {
        match record {
            // A live version keeps the context that made it live, however often its worker is started.
            Record::Planned(planned) if planned.kind == Kind::Restart => {
                self.contexts.live.get(&planned.model).copied()
            }
            // Of another grant than the one that stands at its place.
            Record::Archive(record @ ArchiveRecord::MountEnded { .. })
                if !self.archive.ends_grant(record) =>
            {
                None
            }
            Record::Archive(record) => self.contexts.open.get(&subject(record)?.0).copied(),
            record => self.contexts.of_release(record.release()?).first().copied(),
        }
    }

    fn note_course(&mut self, release: ReleaseId, context: AuditContext) {
        let known = self.contexts.of_release(release);
        if known.len() >= CONTEXTS_KEPT || known.contains(&context) || !self.releases.contains_key(&release) {
            return;
        }
        Arc::make_mut(&mut self.contexts).releases.entry(release).or_default().push(context);
    }

    fn note_live(&mut self, id: ReleaseId) {
        let Some(release) = self.releases.get(&id) else { return };
        let context = self.contexts.of_release(id).first().copied();
        let contexts = Arc::make_mut(&mut self.contexts);
        let model = release.planned.model.clone();
        match context {
            Some(context) => drop(contexts.live.insert(model, context)),
            None => drop(contexts.live.remove(&model)),
        }
    }

    fn note_kept(&mut self, record: &ArchiveRecord, context: Option<AuditContext>) {
        if let ArchiveRecord::MountEnded { at, .. } = record
            && self.archive.mounts.contains_key(at)
        {
            return;
        }
        match (subject(record), context) {
            (Some((subject, Stage::Announced)), Some(context)) => {
                Arc::make_mut(&mut self.contexts).open.insert(subject, context);
            }
            (Some((subject, Stage::Over)), _) if self.contexts.open.contains_key(&subject) => {
                Arc::make_mut(&mut self.contexts).open.remove(&subject);
            }
            _ => {}
        }
    }
}

/// Whether a record announces something or ends it.
enum Stage {
    Announced,
    Over,
}

/// What a record about what is kept is about, where another one ends it. A place begins with `/`, a version holds an
/// `@`, a snapshot's name neither: they cannot be confused.
fn subject(record: &ArchiveRecord) -> Option<(String, Stage)> {
    use ArchiveRecord as R;
    let version = |version: &VersionRef, stage| Some((version.to_string(), stage));
    match record {
        R::MountGranted { at, .. } => Some((at.clone(), Stage::Announced)),
        R::MountEnded { at, .. } => Some((at.clone(), Stage::Over)),
        R::SnapshotDeleting { snapshot, .. } => Some((snapshot.clone(), Stage::Announced)),
        R::SnapshotDeleted { snapshot } | R::SnapshotKept { snapshot, .. } => {
            Some((snapshot.clone(), Stage::Over))
        }
        R::VersionDeleting { version: going, .. } => version(going, Stage::Announced),
        R::VersionDeleted { version: gone, .. } | R::VersionKept { version: gone, .. } => {
            version(gone, Stage::Over)
        }
        _ => None,
    }
}
