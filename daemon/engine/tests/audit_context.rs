//! Every record that follows from a request carries the audit context of that request, also when the state is read back
//! from the journal in between; records of versions that had no contexts are read on.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

use proptest::prelude::*;
use turnout_engine::advance::{Start, Wish, proceed};
use turnout_engine::archive::ArchiveRecord;
use turnout_engine::{ArchiveWish, Entry, Event, Kind, Record, Stamp, Step, World, decide};
use turnout_manifest::{AuditContext, Generation, ModelName, Operator, Plan, Sha256};

fn context(number: u8) -> AuditContext {
    let operator = Operator::Peer { uid: u32::from(number), gid: 1, pid: 2, login_uid: Some(3) };
    AuditContext::begin(operator, 1_790_000_000_000 + u64::from(number), [number; 10])
}

fn model() -> ModelName {
    "fraud".parse().unwrap()
}

/// A journal, and the state that it is.
#[derive(Default)]
struct Run {
    world: World,
    journal: Vec<Vec<u8>>,
}

impl Run {
    fn stamp(&self) -> Stamp {
        Stamp { seq: self.journal.len() as u64, at_ms: self.journal.len() as u64 }
    }

    /// As the daemon's loop writes: what answers a request has its context, anything else the one it belongs to.
    fn write(&mut self, records: Vec<Record>, asked: Option<AuditContext>) {
        for record in records {
            let audit_context = asked.or_else(|| self.world.context_of(&record));
            let entry = Entry { record, audit_context };
            let stamp = self.stamp();
            let bytes = serde_json::to_vec(&entry).unwrap();
            let read: Entry = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(read, entry);
            self.world.take(&read, stamp);
            self.journal.push(bytes);
        }
    }

    fn tell(&mut self, event: &Event, asked: Option<AuditContext>) {
        let records = decide(&self.world, event).unwrap_or_default();
        self.write(records, asked);
    }

    fn start(&mut self, version: &str, asked: AuditContext) {
        let start = Start {
            model: model(),
            kind: Kind::Release,
            version: version.parse().unwrap(),
            digest: Sha256::of(version.as_bytes()),
            signed_by: vec!["risk".into()],
            plan: Plan::all_at_once(),
            port: 8700,
            salt: 1,
            by: "test".into(),
            audit_context: Some(asked.id()),
            order: None,
        };
        self.tell(&Event::Start(Box::new(start)), Some(asked));
    }

    /// One record or outcome on.
    fn go_on(&mut self) {
        let due = proceed(&self.world, &model());
        if !due.is_empty() {
            return self.write(due, None);
        }
        let Some(release) = self.world.current(&model()).filter(|release| release.open) else { return };
        let event = match release.step() {
            Some(Step::AwaitReady(generation)) => Event::Ready { generation, outcome: Ok(String::new()) },
            Some(_) => Event::Finished {
                release: release.planned.release,
                at: u32::try_from(release.cursor).unwrap(),
                outcome: Ok(String::new()),
            },
            None => return,
        };
        self.tell(&event, None);
    }

    fn daemon_restarts(&mut self) {
        let mut replayed = World::default();
        for (at, bytes) in self.journal.iter().enumerate() {
            let stamp = Stamp { seq: at as u64, at_ms: at as u64 };
            replayed.take(&serde_json::from_slice(bytes).unwrap(), stamp);
        }
        assert_eq!(replayed, self.world);
        self.world = replayed;
    }

    fn entries(&self) -> Vec<Entry> {
        self.journal.iter().map(|bytes| serde_json::from_slice(bytes).unwrap()).collect()
    }

    fn live(&self) -> Option<Generation> {
        self.world.models.get(&model())?.live.as_ref().map(|live| live.generation)
    }
}

proptest! {
    #[test]
    fn a_release_keeps_its_context_whatever_happens_in_between(
        turns in prop::collection::vec(0_u8..6, 1..60),
    ) {
        let mut run = Run::default();
        run.start("1", context(1));
        let mut asked = 1;
        for turn in turns {
            match turn {
                0 => run.daemon_restarts(),
                1 => {
                    asked += 1;
                    let wish = if asked % 2 == 0 { Wish::Rollback } else { Wish::Cancel };
                    let by = "ops".to_owned();
                    let event = Event::Operator { model: model(), wish, by, reason: String::new() };
                    run.tell(&event, Some(context(asked)));
                }
                2 => {
                    asked += 1;
                    run.start(&asked.to_string(), context(asked));
                }
                _ => run.go_on(),
            }
        }
        let mut own = std::collections::BTreeMap::new();
        for entry in run.entries() {
            let release = entry.record.release().unwrap();
            let found = entry.audit_context.unwrap();
            let own = *own.entry(release).or_insert(found);
            // Only the answer to another request has another context.
            let answers = matches!(
                entry.record,
                Record::Interrupted { .. } | Record::RollingBack { .. } | Record::Done { .. }
            );
            prop_assert!(found == own || answers, "{:?}", entry.record);
        }
        for (release, own) in own {
            if let Some(known) = run.world.releases.get(&release) {
                prop_assert_eq!(run.world.contexts.of_release(release)[0], own);
                prop_assert_eq!(known.planned.to.audit_context, Some(own.id()));
            }
        }
    }
}

#[test]
fn a_worker_that_is_brought_up_again_serves_under_the_context_that_made_its_version_live() {
    let mut run = Run::default();
    run.start("1", context(1));
    (0..40).for_each(|_| run.go_on());
    let generation = run.live().unwrap();
    run.tell(&Event::Died { generation, why: "killed".into() }, None);
    run.daemon_restarts();
    run.tell(&Event::Restart { model: model(), salt: 2 }, None);
    (0..40).for_each(|_| run.go_on());
    assert_ne!(run.live(), Some(generation));
    let restart = run.world.releases.values().last().unwrap();
    assert_eq!(
        (restart.planned.kind, restart.planned.to.audit_context),
        (Kind::Restart, Some(context(1).id()))
    );
    assert_eq!(run.world.contexts.of_release(restart.planned.release), [context(1)]);
}

#[test]
fn a_rollback_adds_the_context_of_who_asked_for_it() {
    let mut run = Run::default();
    run.start("1", context(1));
    (0..3).for_each(|_| run.go_on());
    let release = run.world.current(&model()).unwrap().planned.release;
    let by = "ops".to_owned();
    let event = Event::Operator { model: model(), wish: Wish::Rollback, by, reason: String::new() };
    run.tell(&event, Some(context(2)));
    (0..40).for_each(|_| run.go_on());
    assert_eq!(run.world.contexts.of_release(release), [context(1), context(2)]);
    let last = run.entries().pop().unwrap();
    assert!(matches!(last.record, Record::Ended { .. }));
    assert_eq!(last.audit_context, Some(context(1)));
}

#[test]
fn a_mount_ends_under_the_context_that_granted_it() {
    let mut run = Run::default();
    let (snapshot, at) = ("00000001-x".to_owned(), "/mnt".to_owned());
    let wish =
        ArchiveWish::Mount { snapshot: snapshot.clone(), at: at.clone(), by: "root".into(), until_ms: 9 };
    run.tell(&Event::Archive(wish), Some(context(4)));
    run.daemon_restarts();
    let why = "its time was over".to_owned();
    let ended = Record::Archive(ArchiveRecord::MountEnded { snapshot, at, why, until_ms: Some(9) });
    run.write(vec![ended.clone()], None);
    assert_eq!(run.entries().pop().unwrap().audit_context, Some(context(4)));
    assert_eq!(run.world.context_of(&ended), None, "nothing is kept of what is over");
}

#[test]
fn an_end_that_comes_late_takes_nothing_from_the_mount_granted_since() {
    let mut run = Run::default();
    let (snapshot, at) = ("00000001-x".to_owned(), "/mnt".to_owned());
    let ended = |until_ms| {
        let (snapshot, at) = (snapshot.clone(), at.clone());
        Record::Archive(ArchiveRecord::MountEnded {
            snapshot,
            at,
            why: String::new(),
            until_ms: Some(until_ms),
        })
    };
    for until_ms in [9, 20] {
        let by = "root".to_owned();
        let wish = ArchiveWish::Mount { snapshot: snapshot.clone(), at: at.clone(), by, until_ms };
        run.tell(&Event::Archive(wish), Some(context(u8::try_from(until_ms).unwrap())));
        // An operator ended the first one; then the expiry that had begun is written too, while the second is there.
        run.write(vec![ended(9)], (until_ms == 9).then(|| context(1)));
    }
    assert_eq!(run.entries().pop().unwrap().audit_context, None, "what it belonged to was over");
    run.daemon_restarts();
    run.write(vec![ended(20)], None);
    assert_eq!(run.entries().pop().unwrap().audit_context, Some(context(20)));
    assert!(run.world.archive.mounts.is_empty());
}

#[test]
fn records_without_a_context_are_read_on() {
    let mut run = Run::default();
    for line in [
        r#"{"event":"daemon-started","version":"0.1.0"}"#,
        r#"{"event":"imported","by":"root (pid 1)","bytes":1,"checks":[],"digest":"sha256:abababababababababababababababababababababababababababababababab","signed_by":["ci"],"version":"fraud@1"}"#,
        r#"{"event":"mount-granted","at":"/mnt","by":"root","snapshot":"1-x","until_ms":9}"#,
        r#"{"event":"mount-ended","at":"/elsewhere","snapshot":"1-x","why":"its time was over"}"#,
        r#"{"event":"worker-died","generation":1,"model":"fraud","why":"killed"}"#,
    ] {
        let entry: Entry = serde_json::from_str(line).unwrap();
        assert_eq!(entry.audit_context, None);
        assert_eq!(
            serde_json::to_value(&entry).unwrap(),
            serde_json::from_str::<serde_json::Value>(line).unwrap()
        );
        run.world.take(&entry, Stamp { seq: 0, at_ms: 0 });
    }
    assert_eq!(run.world.versions.len(), 1);
    assert_eq!(run.world.archive.mounts.len(), 1);
}
