//! Signed checkpoints and proofs at the door, and a journal that is not what was signed.

use crate::door::{Door, Reply};
use crate::stage::{Stage, bundle, open_journal};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use turnout_engine::log::{ClockReason, SignedLog};
use turnout_engine::{LogRecord, Record};
use turnout_host::clock::Reading;
use turnout_journal::{
    Checkpoint, Journal, JournalError, Note, NoteKey, OpenOptions, ProofFile, Reader, verify_consistency,
};
use turnout_manifest::key::PrivateKey;
use turnoutd::checkpoints::holds;
use turnoutd::config::Config;
use turnoutd::new_log::{self, NewLogError};
use turnoutd::notary::{self, Notary};

fn text<'a>(reply: &'a Reply, name: &str) -> &'a str {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body[name].as_str().unwrap()
}

fn signed(reply: &Reply) -> Checkpoint {
    let key: NoteKey = text(reply, "key").parse().unwrap();
    Checkpoint::of(&Note::parse(text(reply, "checkpoint").as_bytes()).unwrap(), &[key], &holds).unwrap()
}

#[test]
fn a_checkpoint_proves_each_record_and_that_the_journal_went_on() {
    let door = Door::with(&["1"]);
    let first = door.get("/v1/audit/checkpoint");
    let old = signed(&first);
    assert!(old.head.size > 0);
    assert_eq!(door.get("/v1/audit/checkpoint").body, first.body, "nothing was written: the same bytes");
    for seq in 0..old.head.size {
        let made = door.get(&format!("/v1/audit/proofs/{seq}"));
        let key: NoteKey = text(&made, "key").parse().unwrap();
        let proven =
            ProofFile::parse(text(&made, "proof").as_bytes()).unwrap().check(&[key], &holds).unwrap();
        assert_eq!(proven.record.seq, seq);
    }
    assert_eq!(door.import(&bundle("2")).status, 200);
    assert_eq!(door.release_and_wait("2")["state"], json!("promoted"));
    let went_on = door.get(&format!("/v1/audit/consistency?from={}", old.head.size));
    let new = signed(&went_on);
    let hashes = went_on.body["hashes"].as_array().unwrap().iter();
    let hashes: Vec<_> = hashes.map(|hash| hash.as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(text(&went_on, "root"), old.head.root.to_string());
    assert!(verify_consistency(old.head, new.head, &hashes) && new.head.size > old.head.size);
    let verified = door.json("POST /v1/audit/verify", "");
    assert_eq!(verified.body["checkpoints"], verified.body["checkpoints_signed"]);
    assert_eq!(verified.body["signed_size"], json!(new.head.size));
}

#[test]
fn what_cannot_be_proven_is_refused_with_the_reason() {
    let door = Door::with(&["1"]);
    let size = signed(&door.get("/v1/audit/checkpoint")).head.size;
    for (path, status) in [
        (format!("/v1/audit/proofs/{size}"), 404),
        ("/v1/audit/proofs/x".to_owned(), 400),
        ("/v1/audit/proofs/-1".to_owned(), 400),
        ("/v1/audit/consistency".to_owned(), 400),
        ("/v1/audit/consistency?from=0".to_owned(), 404),
        (format!("/v1/audit/consistency?from={}", size + 1), 404),
    ] {
        assert_eq!(door.get(&path).status, status, "{path}");
    }
    let keep =
        |note: &str| door.json("POST /v1/audit/cosignatures", &json!({ "checkpoint": note }).to_string());
    let note = text(&door.get("/v1/audit/checkpoint"), "checkpoint").to_owned();
    let witness = "\u{2014} witness.example AAAAAQIDBAUGBwgJ\n";
    assert_eq!(keep("x").status, 422);
    assert_eq!(
        keep(&note.replace(&format!("\n{size}\n"), "\n1\n")).status,
        422,
        "its own signature is false"
    );
    let kept = keep(&format!("{note}{witness}"));
    assert!(text(&kept, "checkpoint").ends_with(witness));
    assert_eq!(door.get("/v1/audit/checkpoint").body["checkpoint"], kept.body["checkpoint"]);
    assert_eq!(door.import(&bundle("2")).status, 200);
    assert_eq!(door.release_and_wait("2")["state"], json!("promoted"));
    door.get("/v1/audit/checkpoint");
    assert_eq!(keep(&format!("{note}{witness}")).status, 409, "a newer one was signed");
    let body = json!({ "checkpoint": note }).to_string();
    assert_eq!(door.json_as_nobody("POST", "/v1/audit/cosignatures", &body).status, 403);
    assert_eq!(door.json_as_nobody("GET", "/v1/audit/checkpoint", "").status, 200);
}

#[test]
fn the_journal_is_signed_where_a_release_begins_is_promoted_and_ends() {
    let mut stage = Stage::fresh();
    let rung = Arc::new(AtomicU32::new(0));
    let bell = Arc::clone(&rung);
    stage.turning_point = Arc::new(move || {
        bell.fetch_add(1, Ordering::Relaxed);
    });
    stage.open();
    assert_eq!(rung.load(Ordering::Relaxed), 0);
    stage.ask(Stage::start("1", turnout_manifest::Plan::all_at_once())).unwrap();
    stage.settle();
    assert_eq!(rung.load(Ordering::Relaxed), 3);
}

#[test]
fn the_audit_log_ends_where_the_journal_is_durable_whatever_the_file_has_beyond() {
    let door = Door::with(&["1"]);
    let journal = door.stage.folder.path().join("journal");
    let ahead = tempfile::tempdir().unwrap();
    for file in fs::read_dir(&journal).unwrap().flatten().filter(|file| file.path().is_file()) {
        fs::copy(file.path(), ahead.path().join(file.file_name())).unwrap();
    }
    let size = door.desk.journal.size();
    assert!(size > 0);
    let (other, _) = Journal::open(ahead.path(), OpenOptions::default()).unwrap();
    assert_eq!(other.append(br#"{"event":"reserve-restored"}"#).unwrap().seq, size);
    // A write that came as far as the file, and whose sync failed.
    let segment = "000000000000.seg";
    fs::write(journal.join(segment), fs::read(ahead.path().join(segment)).unwrap()).unwrap();
    assert_eq!(Reader::open(&journal, size).unwrap().count(), 1);
    let log = door.get("/v1/audit/log").body.as_str().unwrap().to_owned();
    assert_eq!(log.lines().filter(|line| line.starts_with('{')).count() as u64, size);
    assert_eq!(door.get(&format!("/v1/audit/log?from={size}")).status, 200);
}

/// The notary by a clock that jumps.
#[test]
fn a_clock_that_jumps_forward_and_back_is_in_the_journal_by_how_much() {
    let door = Door::open();
    let looks = AtomicU32::new(0);
    // An hour ahead at the third look, back at the fifth, and then right.
    let read = || {
        let look = looks.fetch_add(1, Ordering::Relaxed);
        let ahead = if (2..4).contains(&look) { 3600 } else { 0 };
        Some(Reading {
            boot: "b".to_owned(),
            since_boot: Duration::from_secs(u64::from(look)),
            shown: Duration::from_secs(1_790_000_000 + u64::from(look) + ahead),
            synchronized: true,
            error_us: 9,
        })
    };
    let folder = door.stage.folder.path().join("journal");
    let notary = Arc::clone(&door.desk.notary);
    std::thread::scope(|scope| {
        let (notary, looks) = (&notary, &looks);
        scope.spawn(move || {
            while looks.load(Ordering::Relaxed) < 6 {
                notary.ring();
                std::thread::yield_now();
            }
            notary.stop();
        });
        let write = |record| door.block_on(door.desk.note(None, Record::Log(record))).unwrap();
        notary.run(&folder, read, write);
    });
    let stepped = door.journaled().into_iter().filter_map(|record| match record {
        Record::Log(LogRecord::ClockRead { reason, stepped_ms, .. }) => Some((reason, stepped_ms)),
        _ => None,
    });
    let wanted =
        [(ClockReason::Start, 0), (ClockReason::Stepped, 3_600_000), (ClockReason::Stepped, -3_600_000)];
    assert_eq!(stepped.collect::<Vec<_>>(), wanted);
}

/// A state directory with a journal of so many records, signed.
fn state_of(records: u64) -> (tempfile::TempDir, Config) {
    let state = tempfile::tempdir().unwrap();
    write(state.path(), records);
    sign(state.path()).unwrap();
    let config = Config::parse(&format!("state = {:?}\n", state.path())).unwrap();
    (state, config)
}

fn open(state: &Path) -> Journal {
    open_journal(&state.join("journal"))
}

/// Calls what opens a journal until no process that another test starts has its lock, which is from its fork until its
/// exec.
fn unlocked<T, E>(open: impl Fn() -> Result<T, E>, is_locked: impl Fn(&E) -> bool) -> Result<T, E> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match open() {
            Err(error) if is_locked(&error) && Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn open_new_log(config: &Config, reason: &str) -> Result<(), NewLogError> {
    let is_locked = |error: &NewLogError| matches!(error, NewLogError::Journal(JournalError::Locked { .. }));
    unlocked(|| new_log::open(config, reason), is_locked)
}

fn write(state: &Path, records: u64) {
    let journal = open(state);
    for _ in 0..records {
        journal.append(br#"{"event":"reserve-restored"}"#).unwrap();
    }
}

fn sign(state: &Path) -> Result<Note, JournalError> {
    let key = Arc::new(PrivateKey::generate().unwrap());
    Notary::open(state, Arc::new(open(state)), key)?.sign()
}

#[test]
fn an_operator_opens_a_new_log_where_the_old_one_is_shorter_than_what_was_signed() {
    let (state, config) = state_of(4);
    let journal = state.path().join("journal");
    let copy = state.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(&journal).unwrap().flatten() {
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let whole = open_new_log(&config, "nothing is wrong");
    assert!(matches!(whole, Err(NewLogError::Whole)), "{whole:?}");
    write(state.path(), 3);
    sign(state.path()).unwrap();
    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&copy, &journal).unwrap();
    let refused = notary::check(state.path()).unwrap_err();
    let said = refused.to_string();
    assert_eq!(
        said,
        "the journal has 4 records, but its checkpoint of 7 records was signed: its end is missing"
    );
    for reason in ["", "  ", "two\nlines"] {
        assert!(matches!(new_log::open(&config, reason), Err(NewLogError::Reason)));
    }
    open_new_log(&config, "the disk was restored from monday").unwrap();
    notary::check(state.path()).unwrap();
    let records: Vec<_> = Reader::open(&journal, 0).unwrap().map(Result::unwrap).collect();
    assert_eq!(records.len(), 5);
    let Record::Log(LogRecord::LogOpened { by, reason, taken, signed, damage, .. }) =
        serde_json::from_slice(&records[4].body).unwrap()
    else {
        panic!("{:?}", records[4])
    };
    assert_eq!((by.as_str(), reason.as_str()), ("uid 0", "the disk was restored from monday"));
    assert!(matches!(signed, Some(SignedLog { size: 7, .. })) && taken == 4 && damage.is_none());
    assert!(state.path().join("journal.before-1").is_dir());
    sign(state.path()).unwrap();
}

#[test]
fn a_deleted_segment_is_told_by_name_and_what_is_before_it_can_be_taken_over() {
    let (state, config) = state_of(4);
    let journal = state.path().join("journal");
    // The records lie in the first segment; a second one is what is missing before the third.
    fs::copy(journal.join("000000000000.seg"), journal.join("000000000009.seg")).unwrap();
    let is_locked = |error: &JournalError| matches!(error, JournalError::Locked { .. });
    let refused =
        unlocked(|| Journal::open(&journal, OpenOptions::default()), is_locked).map(drop).unwrap_err();
    assert!(matches!(refused, JournalError::Damaged(_)), "{refused}");
    open_new_log(&config, "a file was copied by mistake").unwrap();
    assert_eq!(open(state.path()).size(), 5);
    fs::remove_file(journal.join("000000000000.seg")).unwrap();
    let refused = notary::check(state.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Gone { .. }), "{refused}");
}
