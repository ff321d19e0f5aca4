//! Any journal, any policy, any clock: what a rule, a hold or a reader keeps is never pruned, nor what is not signed, nor the
//! last segments; and the loop has the last word on a hold.

use proptest::prelude::*;
use turnout_engine::pruning::{FoundLog, FoundReader, FoundSegment, LogHold, LogPolicy, LogState, plan};
use turnout_engine::{
    ArchiveRecord, ArchiveRefusal, ArchiveWish, Event, Record, Refusal, Stamp, World, decide,
};
use turnout_manifest::Sha256;

const DAY: u64 = 86_400_000;

/// Ten segments of 100 records and 1000 bytes, begun day by day; everything is signed and hashed.
fn found() -> FoundLog {
    let segment = |at: u64| FoundSegment { first: at * 100, bytes: 1000, begun_ms: at * DAY };
    let segments = (0..10).map(segment).collect();
    FoundLog { segments, size: 950, signed: 950, hashed: 768, readers: Vec::new() }
}

fn reader(next: Result<u64, String>) -> Vec<FoundReader> {
    vec![FoundReader { cursor: "/var/lib/turnout-export/cursor".to_owned(), next }]
}

fn days(days: u64) -> LogPolicy {
    LogPolicy { keep_within_ms: Some(days * DAY), ..LogPolicy::default() }
}

fn held(from: u64) -> LogState {
    let hold = LogHold { from, by: "uid 0".to_owned(), reason: "case 17".to_owned(), at_ms: 1 };
    LogState { hold: Some(hold), ..LogState::default() }
}

/// The first record that stays after ten days, and what keeps more.
fn planned(policy: &LogPolicy, log: &LogState, found: &FoundLog) -> (Option<u64>, Vec<String>) {
    let plan = plan(policy, (10 * DAY, None), (log, found));
    (plan.prune.map(|(first, _)| first), plan.kept.iter().map(ToString::to_string).collect())
}

#[test]
fn without_a_rule_everything_stays_and_a_rule_takes_whole_segments() {
    let free = LogState::default();
    let rows = [
        (LogPolicy::default(), None),
        (days(4), Some(600)),
        (days(9), Some(100)),
        (days(10), None),
        (days(0), Some(800)),
        (LogPolicy { keep_records: Some(500), ..LogPolicy::default() }, Some(400)),
        (LogPolicy { keep_bytes: Some(7000), ..LogPolicy::default() }, Some(300)),
        (LogPolicy { keep_bytes: Some(7001), ..LogPolicy::default() }, Some(200)),
        (LogPolicy { keep_records: Some(500), ..days(8) }, Some(200)),
    ];
    for (policy, wanted) in rows {
        let (first, kept) = planned(&policy, &free, &FoundLog { hashed: 900, ..found() });
        assert_eq!((first, kept.len()), (wanted, 0), "{policy:?}");
    }
    let asked = plan(&days(2), (10 * DAY, Some(3 * DAY + 5)), (&free, &found()));
    let why = "they are from before the time that was asked for, and they are older than 2 days";
    assert_eq!(asked.prune, Some((300, why.to_owned())));
}

#[test]
fn each_guard_keeps_what_it_guards_and_is_named() {
    let (free, behind) = (LogState::default(), "`/var/lib/turnout-export/cursor`");
    let rows: [(LogState, FoundLog, Option<u64>, String); 7] = [
        (
            held(450),
            found(),
            Some(400),
            "the journal is held from record 450 on by uid 0: case 17".to_owned(),
        ),
        (held(0), found(), None, "the journal is held from record 0 on by uid 0: case 17".to_owned()),
        (
            free.clone(),
            FoundLog { readers: reader(Ok(399)), ..found() },
            Some(300),
            format!("the reader with the cursor {behind} goes on at record 399"),
        ),
        (
            free.clone(),
            FoundLog { readers: reader(Err("not there".to_owned())), ..found() },
            None,
            format!("the reader with the cursor {behind} may need every record: not there"),
        ),
        (
            free.clone(),
            FoundLog { signed: 250, ..found() },
            Some(200),
            "only 250 records are under a signed checkpoint".to_owned(),
        ),
        (
            free.clone(),
            FoundLog { hashed: 256, ..found() },
            Some(200),
            "only 256 records have their hashes in tiles".to_owned(),
        ),
        (free, FoundLog { readers: reader(Ok(600)), ..found() }, Some(600), String::new()),
    ];
    for (log, found, wanted, says) in rows {
        let (first, kept) = planned(&days(4), &log, &found);
        assert_eq!((first, kept.join("; ")), (wanted, says));
    }
}

#[test]
fn the_loop_refuses_what_is_held_meanwhile_and_what_was_pruned_already() {
    let mut world = World::default();
    let mut seq = 0;
    let mut wish = |wish: ArchiveWish| -> Result<(), ArchiveRefusal> {
        let records = decide(&world, &Event::Archive(wish)).map_err(|refusal| match refusal {
            Refusal::Archive(refusal) => refusal,
            other => panic!("{other}"),
        })?;
        for record in records {
            seq += 1;
            world.apply(&record, Stamp { seq, at_ms: seq });
        }
        Ok(())
    };
    let hold = |from| ArchiveWish::HoldLog { from, by: "uid 0".into(), reason: "case 17".into() };
    let prune = |minimum_index| ArchiveWish::PruneLog {
        minimum_index,
        base: Sha256::of(b"base"),
        by: "uid 0".into(),
        why: "old".into(),
    };
    let release = || ArchiveWish::ReleaseLogHold { by: "uid 0".into() };
    assert_eq!(wish(release()), Err(ArchiveRefusal::LogNotHeld));
    wish(hold(300)).unwrap();
    assert!(matches!(wish(hold(0)), Err(ArchiveRefusal::LogHeld { from: 300, .. })));
    assert!(matches!(wish(prune(301)), Err(ArchiveRefusal::Guarded { .. })));
    wish(prune(300)).unwrap();
    assert_eq!(wish(prune(300)), Err(ArchiveRefusal::LogPruned(300)));
    wish(release()).unwrap();
    wish(prune(400)).unwrap();
    assert_eq!(world.archive.log.minimum_index(), 400);
    let by_number = |seq| world.archive.log.pruning_of(seq).map(|pruned| pruned.minimum_index);
    assert_eq!([299, 300, 399, 400].map(by_number), [Some(300), Some(400), Some(400), None]);
    let last = Record::Archive(ArchiveRecord::LogHoldReleased { by: String::new() });
    assert_eq!(serde_json::to_value(&last).unwrap()["event"], "log-hold-released");
}

fn some_found() -> impl Strategy<Value = FoundLog> {
    let segment = (1..50_u64, 0..5000_u64, 0..40 * DAY);
    let next = prop_oneof![(0..900_u64).prop_map(Ok), Just(Err("unreadable".to_owned()))];
    let readers = prop::collection::vec(next, 0..3);
    (0..9_u64, prop::collection::vec(segment, 0..12), 0..900_u64, 0..900_u64, readers).prop_map(
        |(first, parts, signed, hashed, nexts)| {
            let mut size = first;
            let mut segments = Vec::new();
            for (records, bytes, begun_ms) in parts {
                segments.push(FoundSegment { first: size, bytes, begun_ms });
                size += records;
            }
            let readers = nexts.into_iter().map(|next| FoundReader { cursor: String::new(), next }).collect();
            FoundLog { segments, size, signed, hashed, readers }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_kept_is_ever_pruned(
        found in some_found(),
        age in prop::option::of(0..30 * DAY),
        records in prop::option::of(0..400_u64),
        bytes in prop::option::of(0..20_000_u64),
        before in prop::option::of(0..40 * DAY),
        hold in prop::option::of(0..900_u64),
        now in 0..60 * DAY,
    ) {
        let policy = LogPolicy { keep_within_ms: age, keep_records: records, keep_bytes: bytes };
        let log = hold.map(held).unwrap_or_default();
        let plan = plan(&policy, (now, before), (&log, &found));
        let Some((first, why)) = plan.prune else { return Ok(()) };
        prop_assert!(policy.is_set() && !why.is_empty());
        let at = found.segments.iter().position(|segment| segment.first == first).unwrap();
        prop_assert!(at > 0 && at + 2 <= found.segments.len());
        prop_assert!(hold.is_none_or(|from| first <= from));
        prop_assert!(first <= found.signed && first <= found.hashed);
        for reader in &found.readers {
            prop_assert!(reader.next.as_ref().is_ok_and(|next| first <= *next));
        }
        for segment in &found.segments[..=at] {
            prop_assert!(age.is_none_or(|age| segment.begun_ms + age <= now));
            prop_assert!(before.is_none_or(|before| segment.begun_ms <= before));
        }
        prop_assert!(records.is_none_or(|count| found.size - first >= count));
        let left: u64 = found.segments[at..].iter().map(|segment| segment.bytes).sum();
        prop_assert!(bytes.is_none_or(|bytes| left >= bytes));
    }
}
