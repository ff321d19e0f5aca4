//! The real program on a real journal: every record once, in order, and again after a crash before the cursor moved.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use turnout_journal::{Journal, JournalError, OpenOptions};

/// Opens a journal, also again: a process that another test starts has the lock too, from its fork until its exec.
fn open(dir: &Path) -> Journal {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Journal::open(dir, OpenOptions::default()) {
            Err(JournalError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.unwrap().0,
        }
    }
}

fn export(journal: &Path, cursor: &Path) -> Vec<u64> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_turnout-export"));
    let output = program.arg("--journal").arg(journal).arg("--cursor").arg(cursor).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn each_record_is_given_once_and_again_when_the_cursor_did_not_move() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, cursor) = (folder.path().join("journal"), folder.path().join("cursor"));
    let journal = open(&dir);
    for number in 0..5 {
        journal.append(format!("{{\"event\":\"test\",\"number\":{number}}}").as_bytes()).unwrap();
    }
    assert_eq!(export(&dir, &cursor), [0, 1, 2, 3, 4]);
    assert_eq!(export(&dir, &cursor), [] as [u64; 0]);
    journal.append(b"{\"event\":\"test\",\"number\":5}").unwrap();
    fs::write(&cursor, "4\n").unwrap();
    assert_eq!(export(&dir, &cursor), [4, 5], "a crash between giving and noting gives a record again");
}

#[test]
fn where_the_journal_lost_the_last_record_that_was_given_those_that_may_be_lost_are_given_again() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, cursor) = (folder.path().join("journal"), folder.path().join("cursor"));
    let append = |body: &[u8]| open(&dir).append(body).unwrap();
    append(b"{\"event\":\"test\",\"number\":0}");
    let segment = dir.join("000000000000.seg");
    let before = fs::read(&segment).unwrap();
    append(b"{\"event\":\"test\",\"number\":1}");
    assert_eq!(export(&dir, &cursor), [0, 1]);
    fs::write(&segment, before).unwrap();
    assert_eq!(export(&dir, &cursor), [0], "a shorter journal");
    append(b"{\"event\":\"test\",\"number\":1}");
    assert_eq!(export(&dir, &cursor), [1]);
    let before = fs::read(&segment).unwrap();
    append(b"{\"event\":\"test\",\"number\":2}");
    assert_eq!(export(&dir, &cursor), [2]);
    fs::write(&segment, before).unwrap();
    append(b"{\"event\":\"test\",\"number\":3}");
    append(b"{\"event\":\"test\",\"number\":4}");
    assert_eq!(export(&dir, &cursor), [0, 1, 2, 3], "another record in its place");
}
