//! Any journal, any policy, any moment: what is live, last good, under way, held or mounted never goes, and what goes
//! is only what no rule keeps.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

use proptest::prelude::*;
use std::collections::BTreeSet;
use turnout_engine::advance::{Start, proceed};
use turnout_engine::guard::{snapshot_guards, version_guards};
use turnout_engine::retention::{Found, FoundSnapshot, Policy, holding, snapshots, versions};
use turnout_engine::{
    ArchiveRecord, ArchiveRefusal, ArchiveWish, Event, Kind, Reason, Record, Refusal, Stamp, Step, World,
    decide,
};
use turnout_manifest::{Plan, Sha256, VersionRef};

/// Something that happens on the way.
#[derive(Debug, Clone)]
enum Turn {
    Import(u8),
    /// Releases a version of a model, and stops after so many steps: at the end, or on the way.
    Release(u8, usize),
    Request,
    Hold(usize),
    ReleaseHold(usize),
    Mount(usize),
    Unmount(usize),
    Delete(usize),
    Remove(u8),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        3 => (0..8_u8).prop_map(Turn::Import),
        3 => (0..8_u8, prop_oneof![Just(99_usize), 0..12_usize]).prop_map(|(v, n)| Turn::Release(v, n)),
        2 => Just(Turn::Request),
        1 => (0..20_usize).prop_map(Turn::Hold),
        1 => (0..20_usize).prop_map(Turn::ReleaseHold),
        1 => (0..20_usize).prop_map(Turn::Mount),
        1 => (0..20_usize).prop_map(Turn::Unmount),
        1 => (0..20_usize).prop_map(Turn::Delete),
        1 => (0..8_u8).prop_map(Turn::Remove),
    ]
}

/// Two models with four versions each.
fn named(ordinal: u8) -> VersionRef {
    format!("m{}@{}", ordinal / 4, ordinal % 4).parse().unwrap()
}

fn digest(ordinal: u8) -> Sha256 {
    Sha256([ordinal; 32])
}

#[derive(Default)]
struct Run {
    world: World,
    found: Found,
    seq: u64,
}

impl Run {
    fn write(&mut self, record: Record) {
        // As the journal would give it back.
        let bytes = serde_json::to_vec(&record).unwrap();
        let read: Record = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read, record);
        self.world.apply(&read, Stamp { seq: self.seq, at_ms: self.seq * 1000 });
        self.seq += 1;
    }

    fn wish(&mut self, wish: ArchiveWish) -> Result<(), Refusal> {
        for record in decide(&self.world, &Event::Archive(wish))? {
            self.write(record);
        }
        Ok(())
    }

    fn name(&self, at: usize) -> Option<String> {
        let count = self.found.snapshots.len();
        (count > 0).then(|| self.found.snapshots[at % count].name.clone())
    }

    fn appear(&mut self) -> String {
        let name = format!("{:08}-20261122T135501Z", self.seq);
        let mut shown = Vec::new();
        for (model, state) in &self.world.models {
            let releasing = self.world.current(model).map(|release| release.planned.to.digest);
            shown.extend(state.live.as_ref().map(|live| live.digest).into_iter().chain(releasing));
        }
        let created_ms = self.seq * 1000;
        self.found.snapshots.push(FoundSnapshot {
            name: name.clone(),
            created_ms,
            mounted: false,
            versions: shown,
        });
        name
    }

    fn release(&mut self, ordinal: u8, steps: usize) {
        let version = named(ordinal);
        let start = Start {
            model: version.model.clone(),
            kind: Kind::Release,
            version: version.version.clone(),
            digest: digest(ordinal),
            signed_by: Vec::new(),
            plan: Plan::all_at_once(),
            port: 1,
            salt: 1,
            by: "root".into(),
            order: None,
            audit_context: None,
        };
        let known = self.world.versions.contains_key(&(version.model.clone(), version.version.clone()));
        if known && let Ok(records) = decide(&self.world, &Event::Start(Box::new(start))) {
            records.into_iter().for_each(|record| self.write(record));
        }
        for _ in 0..steps {
            let Some(record) = proceed(&self.world, &version.model).pop() else { return };
            self.write(record.clone());
            let Record::Intent { release, at, step } = record else { continue };
            let detail = if let Step::Snapshot(_) = step { self.appear() } else { String::new() };
            self.write(Record::Done { release, at, step, detail });
        }
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Import(ordinal) => self.write(Record::Imported {
                by: "root".into(),
                version: named(ordinal),
                digest: digest(ordinal),
                bytes: 1,
                signed_by: Vec::new(),
                checks: Vec::new(),
                measured: None,
            }),
            Turn::Release(ordinal, steps) => self.release(ordinal, steps),
            Turn::Request => {
                let snapshot = self.appear();
                let reason = Reason::Request { by: "root".into(), note: String::new() };
                self.write(Record::Archive(ArchiveRecord::SnapshotTaken {
                    snapshot,
                    uuid: "u".into(),
                    reason,
                }));
            }
            Turn::Hold(at) => {
                let Some(snapshot) = self.name(at) else { return };
                let _ = self.wish(ArchiveWish::Hold { snapshot, by: "root".into(), reason: "case".into() });
            }
            Turn::ReleaseHold(at) => {
                let Some(snapshot) = self.name(at) else { return };
                let _ = self.wish(ArchiveWish::ReleaseHold { snapshot, by: "root".into() });
            }
            Turn::Mount(at) => {
                let Some(snapshot) = self.name(at) else { return };
                let wish =
                    ArchiveWish::Mount { snapshot, at: format!("/m{at}"), by: "root".into(), until_ms: 9 };
                let _ = self.wish(wish);
            }
            Turn::Unmount(at) => {
                let at = format!("/m{at}");
                let Some(grant) = self.world.archive.mounts.get(&at) else { return };
                let (snapshot, why, until_ms) = (grant.snapshot.clone(), String::new(), Some(grant.until_ms));
                self.write(Record::Archive(ArchiveRecord::MountEnded { snapshot, at, why, until_ms }));
            }
            Turn::Delete(at) => {
                let Some(snapshot) = self.name(at) else { return };
                self.delete(&snapshot);
            }
            Turn::Remove(ordinal) => self.remove(&named(ordinal)),
        }
    }

    fn delete(&mut self, snapshot: &str) {
        let guards = snapshot_guards(&self.world, snapshot);
        let wish =
            ArchiveWish::DeleteSnapshot { snapshot: snapshot.into(), by: "root".into(), why: String::new() };
        let decided = self.wish(wish);
        assert_eq!(decided.is_ok(), guards.is_empty(), "{decided:?} {guards:?}");
        if decided.is_ok() {
            self.write(Record::Archive(ArchiveRecord::SnapshotDeleted { snapshot: snapshot.into() }));
            self.found.snapshots.retain(|found| found.name != snapshot);
        }
    }

    fn remove(&mut self, version: &VersionRef) {
        let key = (version.model.clone(), version.version.clone());
        let Some(stored) = self.world.versions.get(&key).cloned() else { return };
        let kept_in = holding(&self.found, stored.digest);
        let guards = version_guards(&self.world, version, stored.digest, &kept_in);
        let wish = ArchiveWish::DeleteVersion {
            version: version.clone(),
            by: "root".into(),
            why: String::new(),
            kept_in,
        };
        let decided = self.wish(wish);
        assert_eq!(decided.is_ok(), guards.is_empty(), "{decided:?} {guards:?}");
        if decided.is_ok() {
            assert!(!self.world.versions.contains_key(&key), "it cannot be released any more");
            let (version, digest) = (version.clone(), stored.digest);
            self.write(Record::Archive(ArchiveRecord::VersionDeleted { version, digest }));
        }
    }

    /// Content that traffic meets, may return to, or is being released: worked out without the guards.
    fn needed(&self) -> BTreeSet<Sha256> {
        let mut needed = BTreeSet::new();
        for (name, model) in &self.world.models {
            needed.extend(model.live.iter().chain(&model.previous).map(|target| target.digest));
            if let Some(release) = self.world.current(name) {
                needed.insert(release.planned.to.digest);
                needed.extend(release.planned.from.iter().map(|from| from.digest));
            }
        }
        needed
    }

    /// Releases whose snapshots must stay, worked out without the guards.
    fn telling(&self) -> BTreeSet<String> {
        let mut telling = BTreeSet::new();
        for model in self.world.models.values() {
            let releases = [model.live_release, model.previous_release, model.current];
            for id in releases.into_iter().flatten() {
                let of =
                    |reason: &Reason| matches!(reason, Reason::Release { release, .. } if *release == id);
                let taken = self.world.archive.snapshots.iter().filter(|(_, taken)| of(&taken.reason));
                telling.extend(taken.map(|(name, _)| name.clone()));
            }
        }
        telling
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_that_is_needed_held_or_mounted_ever_goes(
        turns in prop::collection::vec(turn(), 1..40),
        (last, days, keep) in (prop::option::of(1..6_u32), prop::option::of(0..60_u64), prop::option::of(1..3_u32)),
        by_hand in 0..20_usize,
    ) {
        let mut run = Run::default();
        turns.into_iter().for_each(|turn| run.take(turn));
        if let Some(name) = run.name(by_hand) {
            run.found.snapshots.iter_mut().filter(|found| found.name == name).for_each(|found| found.mounted = true);
        }
        let policy = Policy { keep_last: last, keep_within_ms: days.map(|s| s * 1000), keep_versions: keep };
        let now = run.seq * 1000;
        let leaving: Vec<String> =
            snapshots(&policy, now, (&run.world, &run.found)).into_iter().map(|leaving| leaving.what).collect();
        let telling = run.telling();
        let newest: BTreeSet<&String> =
            run.found.snapshots.iter().rev().take(last.unwrap_or(1) as usize).map(|found| &found.name).collect();
        for name in &leaving {
            let found = run.found.snapshots.iter().find(|found| found.name == *name).unwrap();
            prop_assert!(!found.mounted && !run.world.archive.holds.contains_key(name));
            prop_assert!(run.world.archive.mounts.values().all(|grant| grant.snapshot != *name));
            prop_assert!(!telling.contains(name), "{name} tells of what is live or last good");
            prop_assert!(!newest.contains(name));
            prop_assert!(days.is_none_or(|days| now - found.created_ms >= days * 1000));
        }
        if last.is_none() && days.is_none() {
            prop_assert!(leaving.is_empty(), "without a rule nothing goes");
        }
        let needed = run.needed();
        for version in versions(&policy, (&run.world, &run.found)).into_iter().map(|leaving| leaving.what) {
            let stored = &run.world.versions[&(version.model.clone(), version.version.clone())];
            prop_assert!(!needed.contains(&stored.digest), "{version} is needed");
            let held = |found: &&FoundSnapshot| run.world.archive.holds.contains_key(&found.name);
            prop_assert!(run.found.snapshots.iter().filter(held).all(|found| !found.versions.contains(&stored.digest)));
        }
        // What the policy lets go, the loop lets go: they ask the same guards.
        for name in leaving {
            run.delete(&name);
            prop_assert!(run.found.snapshots.iter().all(|found| found.name != name));
        }
    }
}

#[test]
fn the_end_of_a_mount_ends_no_other_at_its_place() {
    let [first, second] = ["00000001-20261122T135501Z", "00000002-20261122T135501Z"].map(str::to_owned);
    let check = |(snapshot, until_ms): (&String, Option<u64>), stays: bool| {
        let mut run = Run::default();
        let at = || "/mnt".to_owned();
        let wish = ArchiveWish::Mount { snapshot: first.clone(), at: at(), by: "root".into(), until_ms: 20 };
        run.wish(wish).unwrap();
        let (snapshot, why) = (snapshot.clone(), String::new());
        run.write(Record::Archive(ArchiveRecord::MountEnded { snapshot, at: at(), why, until_ms }));
        assert_eq!(run.world.archive.mounts.contains_key("/mnt"), stays, "{until_ms:?}");
        assert_eq!(snapshot_guards(&run.world, &first).is_empty(), !stays);
    };
    check((&first, Some(20)), false);
    check((&first, Some(9)), true);
    check((&second, Some(20)), true);
    check((&second, Some(9)), true);
    // Records of older daemons name the place alone.
    check((&first, None), false);
    check((&second, None), false);
}

#[test]
fn what_a_policy_does_not_keep_goes_oldest_first() {
    let mut run = Run::default();
    (0..5).for_each(|_| run.take(Turn::Request));
    let all: Vec<String> = run.found.snapshots.iter().map(|found| found.name.clone()).collect();
    let gone = |policy: Policy| -> Vec<String> {
        snapshots(&policy, 5000, (&run.world, &run.found)).into_iter().map(|leaving| leaving.what).collect()
    };
    let last = Policy { keep_last: Some(2), ..Policy::default() };
    assert_eq!(gone(last), all[..3]);
    assert_eq!(gone(Policy { keep_within_ms: Some(3500), ..Policy::default() }), all[..2]);
    assert_eq!(gone(Policy { keep_within_ms: Some(3500), ..last }), all[..2], "what one rule keeps is kept");
    assert_eq!(gone(Policy { keep_within_ms: Some(0), ..Policy::default() }), all[..4], "the newest stays");
    assert_eq!(gone(Policy::default()), [""; 0]);
}

#[test]
fn a_deleted_label_stays_bound_and_a_failed_deletion_changes_nothing() {
    let mut run = Run::default();
    run.take(Turn::Import(0));
    run.take(Turn::Import(1));
    let (version, key) = (named(1), (named(1).model, named(1).version));
    let wish = |version: &VersionRef| ArchiveWish::DeleteVersion {
        version: version.clone(),
        by: "root".into(),
        why: String::new(),
        kept_in: Vec::new(),
    };
    let stored = run.world.versions[&key].clone();
    run.wish(wish(&version)).unwrap();
    let again = run.wish(wish(&version));
    assert_eq!(again, Err(Refusal::Archive(ArchiveRefusal::NoVersion(version.clone()))));
    run.write(Record::Archive(ArchiveRecord::VersionKept { version: version.clone(), why: "busy".into() }));
    assert_eq!(run.world.versions[&key], stored, "it is as it was");

    run.wish(wish(&version)).unwrap();
    let digest = stored.digest;
    run.write(Record::Archive(ArchiveRecord::VersionDeleted { version: version.clone(), digest }));
    assert_eq!(run.world.archive.removed[&key], stored.digest);
    let start = Start {
        model: version.model.clone(),
        kind: Kind::Release,
        version: version.version.clone(),
        digest,
        signed_by: Vec::new(),
        plan: Plan::all_at_once(),
        port: 1,
        salt: 1,
        by: "root".into(),
        order: None,
        audit_context: None,
    };
    let refused = decide(&run.world, &Event::Start(Box::new(start)));
    assert_eq!(refused, Err(Refusal::Deleted(version.version)));
}

#[test]
fn a_guarded_snapshot_is_refused_with_every_reason() {
    let mut run = Run::default();
    run.take(Turn::Import(0));
    run.take(Turn::Release(0, 99));
    run.take(Turn::Hold(0));
    run.take(Turn::Mount(0));
    let snapshot = run.name(0).unwrap();
    let refused = run.wish(ArchiveWish::DeleteSnapshot { snapshot, by: "root".into(), why: String::new() });
    let Err(Refusal::Archive(ArchiveRefusal::Guarded { why, .. })) = refused else { panic!("{refused:?}") };
    let why: Vec<String> = why.iter().map(ToString::to_string).collect();
    assert_eq!(why.len(), 3, "{why:?}");
    assert!(why[0].ends_with("is held by root: case"), "{why:?}");
    assert_eq!(why[1..], ["it is mounted at `/m0`", "`m0@0` is live"]);
}

#[test]
fn snapshots_of_the_releases_that_made_the_live_and_the_last_good_version_stay() {
    let mut run = Run::default();
    for ordinal in 0..3 {
        run.take(Turn::Import(ordinal));
        run.take(Turn::Release(ordinal, 99));
    }
    let guards: Vec<Vec<String>> = run
        .found
        .snapshots
        .iter()
        .map(|found| snapshot_guards(&run.world, &found.name).iter().map(ToString::to_string).collect())
        .collect();
    let (last, live) = (vec!["a rollback returns to `m0@1`".to_owned()], vec!["`m0@2` is live".to_owned()]);
    assert_eq!(
        guards,
        [vec![], vec![], last.clone(), last, live.clone(), live],
        "before and after each release"
    );
}
