//! What an interrupted write can leave at the end, and that opening goes on from there.

use std::fs;
use std::path::Path;

use super::*;
use crate::frame::TRAILER_BYTES;
use crate::{Flaw, Hash};

/// A journal in one segment with `before` records and then a batch of three; gives the segment's bytes and where that batch starts.
fn journal_with_last_batch(dir: &Path, before: u64) -> (Vec<u8>, usize) {
    let (journal, _) = Journal::open(dir, OpenOptions::default()).unwrap();
    for number in 0..before {
        journal.append(&body(number)).unwrap();
    }
    let path = dir.join(&segments(dir)[0]);
    let start = fs::read(&path).unwrap().len();
    let bodies: Vec<Vec<u8>> = (before..before + 3).map(body).collect();
    journal.append_all(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    (fs::read(&path).unwrap(), start)
}

/// Puts these bytes in place of the only segment, opens, and checks that the end was cut and writing goes on.
fn check_recovers(dir: &Path, bytes: &[u8], committed: (usize, u64)) {
    let (length, records) = committed;
    let path = dir.join(&segments(dir)[0]);
    fs::write(&path, bytes).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1).max(length);
    let torn = &bytes[length..used];
    assert_eq!(check_whole(dir).torn_bytes, torn.len() as u64);
    let (journal, recovered) = Journal::open(dir, OpenOptions::default()).unwrap();
    assert_eq!(recovered.records, records);
    assert_eq!(recovered.root, verify(dir).unwrap().root);
    match recovered.cut {
        None => assert!(torn.is_empty()),
        Some(cut) => {
            assert_eq!((cut.bytes, cut.sha256), (torn.len() as u64, Hash::of(torn)));
            assert_eq!(fs::read(&cut.kept_in).unwrap(), torn);
            fs::remove_file(cut.kept_in).unwrap();
        }
    }
    assert_eq!(fs::read(&path).unwrap(), bytes[..length]);
    journal.append(&body(records)).unwrap();
    drop(journal);
    assert_eq!(check_whole(dir).size, records + 1);
}

#[test]
fn a_batch_torn_at_any_byte_is_cut_off_and_kept_aside() {
    for before in [0, 2] {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, start) = journal_with_last_batch(dir.path(), before);
        for end in start..bytes.len() {
            check_recovers(dir.path(), &bytes[..end], (start, before));
            let zero_filled = [&bytes[..end], &[0; 300]].concat();
            // Where only zeros are missing, zeros complete the batch.
            let completed = bytes[end..].iter().all(|byte| *byte == 0);
            let committed = if completed { (bytes.len(), before + 3) } else { (start, before) };
            check_recovers(dir.path(), &zero_filled, committed);
        }
    }
}

#[test]
fn zeros_after_the_last_batch_are_dropped_without_a_side_file() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = journal_with_last_batch(dir.path(), 1);
    let preallocated = [&bytes[..], &vec![0; 100_000]].concat();
    check_recovers(dir.path(), &preallocated, (bytes.len(), 4));
}

#[test]
fn a_whole_frame_after_a_broken_one_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, start) = journal_with_last_batch(dir.path(), 2);
    let path = dir.path().join(&segments(dir.path())[0]);
    for broken in start..bytes.len() - TRAILER_BYTES {
        let mut bytes = bytes.clone();
        bytes[broken] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        let error = Journal::open(dir.path(), OpenOptions::default()).err().unwrap();
        let JournalError::Damaged(damage) = error else { panic!("byte {broken}: {error}") };
        assert!(matches!(damage.what, Flaw::FrameAfterTear { .. }), "byte {broken}: {damage}");
        assert!(damage.offset <= broken as u64);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn an_end_longer_than_any_batch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = journal_with_last_batch(dir.path(), 1);
    let path = dir.path().join(&segments(dir.path())[0]);
    fs::write(&path, [&bytes[..], &vec![0xaa; 9 << 20]].concat()).unwrap();
    let error = Journal::open(dir.path(), OpenOptions::default()).err().unwrap();
    assert!(matches!(&error, JournalError::Damaged(damage) if damage.what == Flaw::NotATear), "{error}");
}

#[test]
fn a_log_sealed_but_not_continued_goes_on_in_a_new_segment() {
    let dir = tempfile::tempdir().unwrap();
    write_records(dir.path(), 9);
    let last = segments(dir.path()).pop().unwrap();
    let records: u64 = last.trim_end_matches(".seg").parse().unwrap();
    fs::remove_file(dir.path().join(&last)).unwrap();
    assert_eq!(check_whole(dir.path()).size, records);
    let (journal, recovered) = open(dir.path());
    assert_eq!((recovered.records, recovered.cut), (records, None));
    journal.append(&body(records)).unwrap();
    assert_eq!(segments(dir.path()).pop().unwrap(), last);
    assert_eq!(check_whole(dir.path()).size, records + 1);
}
