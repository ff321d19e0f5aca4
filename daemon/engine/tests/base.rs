//! A journal that is pruned anywhere folds to the same state: the base of its beginning, and the records after it. And
//! nothing but what was written is a base.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

use proptest::prelude::*;
use turnout_engine::archive::Scrubbed;
use turnout_engine::base::BaseError;
use turnout_engine::record::{End, Planned, Target};
use turnout_engine::set::{Member, Set};
use turnout_engine::trust::TrustRecord;
use turnout_engine::{
    ArchiveRecord, Base, Cause, Entry, Figures, Kind, Moment, Reason, Record, Stamp, Step, Verdict, Window,
    World,
};
use turnout_manifest::order::UsedOrder;
use turnout_manifest::{AuditContext, Generation, Operator, Percent, Plan, ReleaseId, Sha256, VersionRef};

fn version() -> impl Strategy<Value = VersionRef> {
    (0..2_u8, 0..3_u8).prop_map(|(model, label)| format!("m{model}@{label}").parse().unwrap())
}

fn release() -> impl Strategy<Value = ReleaseId> {
    (1..5_u32).prop_map(ReleaseId::new)
}

fn generation() -> impl Strategy<Value = Generation> {
    (1..6_u32).prop_map(Generation)
}

fn digest() -> impl Strategy<Value = Sha256> {
    (0..4_u8).prop_map(|byte| Sha256([byte; 32]))
}

/// Words with what a canonical text has to escape.
fn words() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("p95 \"12\" ms\u{1}\n\\".to_owned()), "[a-z é]{1,9}"]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Snapshot(Moment::Before)),
        Just(Step::Snapshot(Moment::After)),
        Just(Step::VerifyFiles),
        generation().prop_map(Step::StartWorker),
        generation().prop_map(Step::AwaitReady),
        generation().prop_map(Step::SwitchModel),
        Just(Step::Shift(Percent::ALL)),
        Just(Step::Observe(Percent::ALL)),
        Just(Step::Home),
    ]
}

fn target() -> impl Strategy<Value = Target> {
    (version(), digest(), generation(), prop::option::of(digest())).prop_map(
        |(version, digest, generation, measured)| Target {
            version: version.version,
            digest,
            signed_by: vec!["risk".to_owned()],
            generation,
            measured,
            audit_context: None,
        },
    )
}

/// A set of two, of which any release of these tests may be one.
fn set() -> impl Strategy<Value = Set> {
    let member = (version(), release(), digest(), prop::option::of(digest()))
        .prop_map(|(version, release, to, from)| Member { model: version.model, release, to, from });
    let models = || prop::collection::vec(version().prop_map(|version| version.model), 0..3);
    ("[ab]", prop::collection::vec(member, 2..3), models(), models()).prop_map(
        |(name, members, shows, showed)| Set { name: name.parse().unwrap(), members, shows, showed },
    )
}

fn planned() -> impl Strategy<Value = Record> {
    let kind = prop_oneof![Just(Kind::Release), Just(Kind::Return), Just(Kind::Restart)];
    let steps = prop::collection::vec(step(), 0..4);
    let set = prop::option::of(set());
    (release(), version(), kind, prop::option::of(target()), target(), steps, set).prop_map(
        |(release, version, kind, from, to, steps, set)| {
            Record::Planned(Box::new(Planned {
                release,
                model: version.model,
                kind,
                from,
                to,
                plan: Plan::all_at_once(),
                steps,
                commit: 1,
                port: 8700,
                salt: "00ff".to_owned(),
                by: "uid 0".to_owned(),
                set,
            }))
        },
    )
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        words().prop_map(|why| Cause::Breach { why, first_missed_ms: 7 }),
        words().prop_map(|reason| Cause::Operator { by: "ops".to_owned(), reason }),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Met),
        words().prop_map(Verdict::Missed),
        words().prop_map(Verdict::Insufficient)
    ]
}

fn of_release() -> impl Strategy<Value = Record> {
    let window = |p95_us| Window {
        at_ms: 9,
        length_ms: 200,
        asked: Percent::ALL,
        candidate: Figures { p95_us, requests: 3, ..Figures::default() },
        stable: None,
    };
    let end = prop_oneof![Just(End::Promoted), Just(End::RolledBack), Just(End::Cancelled), Just(End::Stuck)];
    prop_oneof![
        planned(),
        (release(), step()).prop_map(|(release, step)| Record::Intent { release, at: 0, step }),
        (release(), step(), prop_oneof![words(), Just("7-x".to_owned())])
            .prop_map(|(release, step, detail)| Record::Done { release, at: 0, step, detail }),
        (release(), step(), words()).prop_map(|(release, step, why)| Record::Failed {
            release,
            at: 0,
            step,
            why
        }),
        (release(), verdict(), prop::option::of(0..9_u64)).prop_map(move |(release, verdict, p95)| {
            Record::Observed { release, window: Box::new(window(p95)), verdict }
        }),
        (release(), words()).prop_map(|(release, why)| Record::Held { release, why }),
        release().prop_map(|release| Record::Resumed { release, by: "ops".to_owned() }),
        (release(), cause()).prop_map(|(release, cause)| Record::Interrupted { release, cause }),
        (release(), cause(), prop::collection::vec(step(), 0..3), prop::option::of(generation())).prop_map(
            |(release, cause, undo, restart)| Record::RollingBack { release, cause, undo, restart }
        ),
        release().prop_map(|release| Record::Promoted { release }),
        (release(), end, words()).prop_map(|(release, state, why)| Record::Ended {
            release,
            state,
            causes: vec![why]
        }),
    ]
}

fn snapshot() -> impl Strategy<Value = String> {
    (0..4_u8).prop_map(|number| format!("{number:08}-20261122T135501Z"))
}

fn kept() -> impl Strategy<Value = Record> {
    let by = || "uid 0".to_owned();
    prop_oneof![
        (snapshot(), words()).prop_map(move |(snapshot, note)| ArchiveRecord::SnapshotTaken {
            snapshot,
            uuid: "u".to_owned(),
            reason: Reason::Request { by: by(), note }
        }),
        (snapshot(), words()).prop_map(move |(snapshot, reason)| ArchiveRecord::SnapshotHeld {
            snapshot,
            by: by(),
            reason
        }),
        snapshot().prop_map(move |snapshot| ArchiveRecord::HoldReleased { snapshot, by: by() }),
        snapshot().prop_map(move |snapshot| ArchiveRecord::MountGranted {
            snapshot,
            at: "/mnt".to_owned(),
            by: by(),
            until_ms: 9
        }),
        (snapshot(), prop::option::of(8..10_u64)).prop_map(|(snapshot, until_ms)| {
            ArchiveRecord::MountEnded { snapshot, at: "/mnt".to_owned(), why: String::new(), until_ms }
        }),
        snapshot().prop_map(move |snapshot| ArchiveRecord::SnapshotDeleting {
            snapshot,
            by: by(),
            why: String::new()
        }),
        snapshot().prop_map(|snapshot| ArchiveRecord::SnapshotDeleted { snapshot }),
        (version(), digest()).prop_map(move |(version, digest)| ArchiveRecord::VersionDeleting {
            version,
            digest,
            by: by(),
            why: String::new()
        }),
        (version(), digest()).prop_map(|(version, digest)| ArchiveRecord::VersionDeleted { version, digest }),
        version().prop_map(|version| ArchiveRecord::VersionKept { version, why: String::new() }),
        Just(ArchiveRecord::Scrubbed { found: Scrubbed { bytes: 5, ..Scrubbed::default() } }),
        words().prop_map(|key_id| ArchiveRecord::HostKeyMade { key_id }),
        (0..9_u64, words()).prop_map(move |(from, reason)| ArchiveRecord::LogHeld { from, by: by(), reason }),
        Just(ArchiveRecord::LogHoldReleased { by: "uid 0".to_owned() }),
        (1..9_u64, digest(), words()).prop_map(move |(minimum_index, base, why)| ArchiveRecord::LogPruned {
            minimum_index,
            base,
            by: by(),
            why,
            held_from: None
        }),
    ]
    .prop_map(Record::Archive)
}

fn trusted() -> impl Strategy<Value = Record> {
    let (by, checks) = (|| "uid 0".to_owned(), Vec::new);
    prop_oneof![
        (1..5_u64, digest()).prop_map(move |(root, digest)| TrustRecord::RootAccepted {
            by: by(),
            root,
            digest,
            checks: checks()
        }),
        (digest(), version(), words(), 0..99_u64).prop_map(move |(manifest, version, reason, expires_ms)| {
            TrustRecord::ExceptionAccepted {
                by: by(),
                manifest,
                model: version.model,
                channel: "prod".parse().unwrap(),
                reason,
                expires_ms,
                envelope: "{}".to_owned(),
                root: 1,
                checks: checks(),
            }
        }),
        (digest(), version(), 0..9_u64).prop_map(move |(manifest, version, counter)| {
            TrustRecord::OrderUsed {
                by: by(),
                version,
                manifest,
                channel: "prod".parse().unwrap(),
                order: UsedOrder { epoch: 1, counter, digest: manifest },
                root: 1,
                checks: checks(),
            }
        }),
    ]
    .prop_map(Record::Trust)
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        8 => of_release(),
        4 => kept(),
        1 => trusted(),
        1 => Just(Record::DaemonStarted { version: "1".to_owned() }),
        1 => Just(Record::Refused { by: String::new(), what: String::new(), why: Vec::new() }),
        1 => (version(), generation()).prop_map(|(version, generation)| Record::WorkerDied {
            model: version.model, generation, why: String::new()
        }),
        2 => (version(), digest()).prop_map(|(version, digest)| Record::Imported {
            by: String::new(),
            version,
            digest,
            bytes: 5,
            signed_by: vec!["risk".to_owned()],
            checks: Vec::new(),
            measured: Some(digest),
        }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let context = (0..3_u8).prop_map(|random| {
        let operator = Operator::Peer { uid: 0, gid: 0, pid: 1, login_uid: None };
        AuditContext::begin(operator, 1_790_000_000_000, [random; 10])
    });
    (record(), prop::option::of(context)).prop_map(|(record, audit_context)| Entry { record, audit_context })
}

fn fold(mut world: World, entries: &[Entry], first: usize) -> World {
    for (at, entry) in (first..).zip(&entries[first..]) {
        world.take(entry, Stamp { seq: at as u64, at_ms: 1000 + at as u64 });
    }
    world
}

fn base_of(entries: &[Entry], first: usize) -> Base {
    let world = fold(World::default(), &entries[..first], 0);
    Base { minimum_index: first as u64, root: "ab".repeat(32), world }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_base_and_the_records_after_it_fold_to_the_state_of_all(
        entries in prop::collection::vec(entry(), 1..150), cut: prop::sample::Index,
    ) {
        let first = cut.index(entries.len() + 1);
        let base = base_of(&entries, first);
        let bytes = base.to_bytes().unwrap();
        let read = Base::parse(&bytes).unwrap();
        prop_assert_eq!(&read, &base);
        let all = fold(World::default(), &entries, 0);
        prop_assert_eq!(fold(read.world, &entries, first), all);
    }

    #[test]
    fn nothing_but_what_was_written_is_that_base(
        entries in prop::collection::vec(entry(), 1..40), at: prop::sample::Index, bit in 0..8_u8,
    ) {
        let base = base_of(&entries, entries.len());
        let mut bytes = base.to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // Another text may be another base, but never this one.
        if let Ok(read) = Base::parse(&bytes) {
            prop_assert_ne!(read, base);
        }
    }
}

#[test]
fn what_is_no_base_is_refused_by_its_kind() {
    let bytes = Base { minimum_index: 5, ..Base::default() }.to_bytes().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.lines().count(), 2);
    let head = text.lines().next().unwrap();
    let refused = |text: &str| Base::parse(text.as_bytes()).unwrap_err();
    assert!(matches!(refused(""), BaseError::Head));
    assert!(matches!(refused(&text.replace("base/v1", "base/v2")), BaseError::Head));
    assert!(matches!(refused(text.trim_end()), BaseError::Parts), "cut off");
    assert!(matches!(refused(&format!("{head}\n")), BaseError::Parts), "without its numbers");
    assert!(matches!(refused(&format!("{text}{head}\n")), BaseError::Parts), "two heads");
    assert!(matches!(refused(&format!("{text}\n")), BaseError::Line { line: 3, .. }));
    assert!(matches!(
        refused(&text.replace("\"starts\":0", "\"starts\":1.5")),
        BaseError::Line { line: 2, .. }
    ));
    assert!(matches!(
        refused(&text.replace(":0,\"starts\"", ":0,\"staging\":1,\"starts\"")),
        BaseError::Parts
    ));
}
