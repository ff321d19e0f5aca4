//! The journal's oldest records go through the door: what keeps them, what is left of them, and what a daemon makes of a
//! pruning that another one left half-way, or of a base that was altered.

use crate::door::{Door, check_problem};
use crate::stage::{Stage, bundle, open_journal};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use turnout_engine::{ArchiveRecord, Record};
use turnout_host::clock::Reading;
use turnout_journal::{JournalError, Reader, first_record, segment_infos};
use turnout_manifest::Sha256;
use turnoutd::pruning::prune_by_policy;
use turnoutd::recover::{RecoverError, replay, state_before};

/// Everything but the newest ten records may go, however young.
const RULES: &str = "[journal]\nkeep_within_days = 0\nkeep_records = 10\n";

/// A daemon with two versions, of which the first was released, replaced and returned to, under these rules.
fn door(rules: &str) -> Door {
    let door = Door::on(Stage::bare().configured(rules).with_short_segments());
    for version in ["1", "2"] {
        assert_eq!(door.import(&bundle(version)).status, 200);
        assert_eq!(door.release_and_wait(version)["state"], "promoted");
    }
    assert_eq!(door.json("POST /v1/models/digits/rollback", "{}").status, 200);
    waits_for("the return is over", || door.get("/v1/releases/r-3").body["state"] == "promoted");
    assert_eq!(door.get("/v1/audit/checkpoint").status, 200);
    door
}

fn journal(stage: &Stage) -> PathBuf {
    stage.folder.path().join("journal")
}

impl Door {
    fn first(&self) -> u64 {
        first_record(&journal(&self.stage)).unwrap()
    }

    fn prune(&self, request: &Value) -> Value {
        let reply = self.json("POST /v1/audit/prune", &request.to_string());
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.body["failed"], json!([]), "{reply:?}");
        reply.body
    }

    /// What is said of what keeps records.
    fn withheld(&self) -> String {
        let kept = self.prune(&json!({"dry_run": true}))["kept"].as_array().unwrap().clone();
        kept.iter().map(|kept| kept["why"].as_str().unwrap()).collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn what_went_is_told_and_everything_else_goes_on() {
    let door = door(RULES);
    let before = door.get("/v1/status").body;
    let old = door.get("/v1/audit/checkpoint").body["size"].as_u64().unwrap();
    let would = door.prune(&json!({"dry_run": true}));
    let next = door.get("/v1/audit/journal").body["next_first"].as_u64().unwrap();
    assert!(
        next > 10 && would["gone"][0]["what"] == json!(format!("records 0 to {} of the journal", next - 1))
    );
    assert_eq!(door.first(), 0, "nothing went yet");
    assert_eq!(door.prune(&json!({}))["gone"], would["gone"]);
    assert_eq!(door.first(), next);

    // In pieces, each after its length.
    let log = door.get("/v1/audit/log").body.as_str().unwrap().to_owned();
    let first = log.lines().find(|line| line.starts_with('{')).unwrap();
    let first: Value = serde_json::from_str(first).unwrap();
    assert_eq!(first["seq"], json!(next));
    for path in ["/v1/audit/log?from=0", "/v1/audit/proofs/0"] {
        let gone = door.get(path);
        check_problem(&gone, 404, "not-found");
        let said = gone.body.to_string();
        assert!(said.contains(&format!("those before {next} were pruned on 20")), "{said}");
        assert!(said.contains(" by root") && said.contains("not among the newest 10"), "{said}");
    }
    assert_eq!(door.get(&format!("/v1/audit/proofs/{next}")).status, 200);
    for from in [1, next - 1, next, old] {
        assert_eq!(door.get(&format!("/v1/audit/consistency?from={from}")).status, 200, "{from}");
    }
    let verified = door.json("POST /v1/audit/verify", "").body;
    assert_eq!((&verified["first"], &verified["pruned"]["minimum_index"]), (&json!(next), &json!(next)));
    let report = door.get("/v1/releases/r-1/report").body;
    assert!(report["journal_range"][0].as_u64().unwrap() < next, "{report}");
    assert_eq!(report["pruned"]["minimum_index"], json!(next));
    let after = door.get("/v1/status").body;
    assert_eq!((&after["journal"]["first"], &after["models"]), (&json!(next), &before["models"]));
    let metrics = door.get("/v1/metrics").body.to_string();
    assert!(metrics.contains(&format!("turnout_journal_first_record {next}")), "{metrics}");

    let door = door.reopened(&[]);
    assert_eq!(door.get("/v1/status").body["models"], before["models"], "another daemon knows as much");
    assert_eq!(door.get("/v1/releases/r-1/report").body["steps"], report["steps"]);
    assert_eq!(door.release_and_wait("2")["release_id"], "r-4", "ids go on");
    let world = replay(&journal(&door.stage)).unwrap();
    assert_eq!(world, door.desk.view().world);
    assert_eq!(door.json("POST /v1/audit/verify", "").status, 200);
}

#[test]
fn a_hold_is_roots_and_keeps_the_records_from_one_on() {
    let door = door(RULES);
    let next = door.get("/v1/audit/journal").body["next_first"].as_u64().unwrap();
    let hold = |body: Value| door.json("POST /v1/audit/journal/hold", &body.to_string());
    check_problem(
        &door.json_as_nobody("POST", "/v1/audit/journal/hold", "{\"reason\":\"x\"}"),
        403,
        "denied",
    );
    for bad in [
        json!({"reason": ""}),
        json!({"reason": "x", "from": 5000}),
        json!({"reason": "x", "from": u64::MAX}),
    ] {
        check_problem(&hold(bad), 400, "bad-request");
    }
    check_problem(&door.json("DELETE /v1/audit/journal/hold", ""), 409, "conflict");
    let held = hold(json!({"reason": "case 17", "from": 1}));
    assert_eq!((held.status, &held.body["hold"]["reason"]), (200, &json!("case 17")));
    check_problem(&hold(json!({"reason": "case 18"})), 409, "conflict");
    assert!(door.withheld().contains("the journal is held from record 1 on by root"), "{}", door.withheld());
    door.prune(&json!({}));
    assert_eq!(door.first(), 0);
    assert_eq!(door.json_as_nobody("DELETE", "/v1/audit/journal/hold", "").status, 403);
    assert_eq!(door.json("DELETE /v1/audit/journal/hold", "").body["hold"], Value::Null);
    door.prune(&json!({}));
    assert!(door.first() >= next);
    let events = door.journaled();
    let archived = |record: &Record| matches!(record, Record::Archive(ArchiveRecord::LogPruned { .. }));
    assert_eq!(events.iter().filter(|record| archived(record)).count(), 1);
}

#[test]
fn a_reader_keeps_what_it_has_not_had_on_disk_for_long_and_one_that_is_named_and_absent_everything() {
    let folder = tempfile::tempdir().unwrap();
    let cursor = folder.path().join("cursor");
    let door = door(&format!("{RULES}cursors = [{cursor:?}]\n"));
    assert!(
        door.withheld().contains("the file is not there, so it has read nothing yet"),
        "{}",
        door.withheld()
    );
    fs::write(&cursor, "what").unwrap();
    assert!(door.withheld().contains("may need every record: no place in a journal"), "{}", door.withheld());
    fs::remove_file(&cursor).unwrap();
    assert!(Command::new("mkfifo").arg(&cursor).status().unwrap().success());
    assert!(door.withheld().contains("it is no regular file"), "{}", door.withheld());
    fs::remove_file(&cursor).unwrap();
    fs::write(&cursor, "900 3 some-boot\n").unwrap();
    assert!(door.withheld().contains("goes on at record 3"), "{}", door.withheld());
    door.prune(&json!({}));
    assert_eq!(door.first(), 0);
    let shown = door.get("/v1/audit/journal").body;
    assert_eq!(shown["readers"][0], json!({"cursor": cursor, "next": 3, "why": null}));
    fs::write(&cursor, "900 900 some-boot\n").unwrap();
    door.prune(&json!({}));
    assert!(door.first() > 10);
}

#[test]
fn without_rules_nothing_goes_and_who_asks_for_a_time_gets_nothing_of_half_a_year() {
    let door = door("");
    assert_eq!(door.get("/v1/audit/journal").body["retention"], json!([]));
    for request in [json!({}), json!({"before_ms": 4_000_000_000_000_u64})] {
        assert_eq!(door.prune(&request)["gone"], json!([]));
        assert_eq!(door.first(), 0);
    }
    let young = door.closed();
    let door = Door::on(young.configured("[journal]\nkeep_within_days = 0\n").with_short_segments());
    assert_eq!(door.prune(&json!({"before_ms": 5}))["gone"], json!([]));
    door.prune(&json!({"before_ms": 4_000_000_000_000_u64}));
    assert!(door.first() > 0);
}

#[test]
fn the_timer_prunes_by_a_clock_that_something_keeps_right_and_by_no_other() {
    let door = door(RULES);
    let reading = |synchronized| Reading {
        boot: "b".to_owned(),
        since_boot: Duration::from_secs(1),
        shown: Duration::from_secs(1),
        synchronized,
        error_us: 1,
    };
    let mut told = Vec::new();
    door.block_on(prune_by_policy(&door.desk, Some(&reading(false)), &mut told));
    assert!(told[0].contains("the clock is not synchronized") && told.len() == 1, "{told:?}");
    assert_eq!(door.first(), 0);
    door.block_on(prune_by_policy(&door.desk, Some(&reading(true)), &mut told));
    assert_eq!((told.len(), door.first() > 10), (0, true), "{told:?}");
    let by = door.get("/v1/audit/journal").body["pruned"][0]["by"].clone();
    assert_eq!(by, "the retention policy");
}

/// The record that a daemon writes once the base is on disk.
fn pruned(minimum_index: u64, base: Sha256) -> ArchiveRecord {
    let (by, why) = ("uid 0".to_owned(), "old".to_owned());
    ArchiveRecord::LogPruned { minimum_index, base, by, why, held_from: None }
}

fn waits_for(what: &str, mut there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !there() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A machine whose daemon is gone, a record that its journal can begin with, and the base of that.
fn prepared() -> (Stage, u64, Vec<u8>) {
    let stage = door(RULES).closed();
    let segments = segment_infos(&journal(&stage)).unwrap();
    let first = segments[segments.len() - 3].first;
    let base = state_before(&journal(&stage), first).unwrap().to_bytes().unwrap();
    (stage, first, base)
}

#[test]
fn a_base_that_no_record_announced_prunes_nothing() {
    let (stage, first, base) = prepared();
    open_journal(&journal(&stage)).write_base(first, &base).unwrap();
    let door = Door::on(stage);
    assert_eq!(door.json("POST /v1/audit/verify", "").body["first"], 0);
    door.prune(&json!({}));
    assert!(door.first() > 0);
}

#[test]
fn what_a_dead_daemon_announced_is_ended_by_the_next_one_wherever_it_stopped() {
    // The segments that are gone already; the base is on disk in all cases but the last.
    for gone in [Some(0), Some(1), Some(2), None] {
        let (stage, first, base) = prepared();
        let dir = journal(&stage);
        assert!(segment_infos(&dir).unwrap()[2].first < first, "more would go than is gone");
        if gone.is_some() {
            open_journal(&dir).write_base(first, &base).unwrap();
        }
        let world = replay(&dir).unwrap();
        for segment in &segment_infos(&dir).unwrap()[..gone.unwrap_or(0)] {
            fs::remove_file(dir.join(format!("{:012}.seg", segment.first))).unwrap();
        }
        append(&dir, &pruned(first, Sha256::of(&base)));
        let door = Door::on(stage);
        waits_for("the pruning is ended", || oldest_on_disk(&dir) == format!("{first:012}.seg"));
        assert_eq!(door.first(), first, "{gone:?}");
        assert_eq!(door.json("POST /v1/audit/verify", "").body["first"], json!(first), "{gone:?}");
        assert_eq!(replay(&dir).unwrap().models, world.models, "{gone:?}");
    }
}

fn append(dir: &Path, record: &ArchiveRecord) {
    let body = turnout_manifest::canonical::to_canonical(&Record::Archive(record.clone())).unwrap();
    open_journal(dir).append(&body).unwrap();
}

/// The oldest segment's file, those that do not count among them.
fn oldest_on_disk(dir: &Path) -> String {
    let names = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".seg")).min().unwrap()
}

#[test]
fn a_base_that_is_not_what_was_written_is_refused_and_named() {
    let (stage, first, base) = prepared();
    let dir = journal(&stage);
    let state = String::from_utf8(base.clone()).unwrap();
    let journal = open_journal(&dir);
    let written = journal.write_base(first, &base).unwrap();
    drop(journal);
    append(&dir, &pruned(first, Sha256::of(&base)));
    open_journal(&dir).prune(first, written).unwrap();
    let whole = replay(&dir).unwrap();
    assert!(state.contains("\"port\":"));
    let file = dir.join(format!("{first:012}.base"));
    let refusal = |text: &str| {
        fs::write(&file, text).unwrap();
        let refused = replay(&dir).unwrap_err();
        (matches!(refused, RecoverError::Unvouched(_)), turnoutd::chain(&refused))
    };
    let forged = state.replacen("\"starts\":1", "\"starts\":2", 1);
    assert_ne!(forged, state);
    let (unvouched, says) = refusal(&forged);
    assert!(unvouched && says.contains("was altered") && says.contains(".base"), "{says}");
    let (_, says) = refusal("{}\n");
    assert!(says.contains("which stands for the records before"), "{says}");
    let (_, says) = refusal(&state.replacen(&format!("\"minimum_index\":{first}"), "\"minimum_index\":1", 1));
    assert!(says.contains("of another journal, or of another place in it"), "{says}");
    fs::remove_file(&file).unwrap();
    let says = turnoutd::chain(&replay(&dir).unwrap_err());
    assert!(says.contains("no `.base` file says that they were pruned"), "{says}");
    assert!(matches!(Reader::open(&dir, first), Err(JournalError::Damaged(_))));
    fs::write(&file, &base).unwrap();
    assert_eq!(replay(&dir).unwrap(), whole);
}

#[test]
fn a_pruning_that_no_record_tells_of_is_refused() {
    let (stage, first, base) = prepared();
    let dir = journal(&stage);
    let journal = open_journal(&dir);
    let written = journal.write_base(first, &base).unwrap();
    journal.prune(first, written).unwrap();
    drop(journal);
    let says = turnoutd::chain(&replay(&dir).unwrap_err());
    assert!(says.contains("no record says that they were pruned"), "{says}");
}
