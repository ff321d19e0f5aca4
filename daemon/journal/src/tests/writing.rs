//! Appending, reading, waiting, locking.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use super::*;
use crate::disk::{Disk, Point, SystemDisk};
use crate::{JournalLock, MAX_BATCH_BYTES, MAX_BODY_BYTES};

#[test]
fn records_survive_reopening_over_many_segments_and_read_from_any_number() {
    let dir = tempfile::tempdir().unwrap();
    write_records(dir.path(), 10);
    write_records(dir.path(), 7);
    let verified = check_whole(dir.path());
    assert_eq!(verified.size, 17);
    assert!(verified.segments > 3, "{verified:?}");
    assert_eq!(verified.segments, segments(dir.path()).len() as u64);
    assert_eq!(verified.torn_bytes, 0);
    for from in 0..=18 {
        let read = Reader::open(dir.path(), from).unwrap().map(|record| record.unwrap().seq);
        assert_eq!(read.collect::<Vec<_>>(), (from..17).collect::<Vec<_>>());
    }
}

#[test]
fn an_empty_journal_verifies_and_gives_no_records() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, recovered) = open(dir.path());
    assert_eq!((recovered.records, recovered.cut), (0, None));
    assert_eq!(journal.append_all(&[]).unwrap(), []);
    assert_eq!(check_whole(dir.path()).first_time_ns, None);
    assert!(matches!(Reader::open(&dir.path().join("none"), 0), Err(JournalError::Io { .. })));
    let bare = tempfile::tempdir().unwrap();
    assert!(matches!(verify(bare.path()), Err(JournalError::NoJournal { .. })));
}

#[test]
fn records_given_together_are_one_batch_and_get_one_time() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let bodies: Vec<Vec<u8>> = (0..20).map(body).collect();
    let receipts = journal.append_all(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    assert_eq!(receipts.iter().map(|receipt| receipt.seq).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    let records = read_all(dir.path());
    assert!(records.iter().all(|record| record.time_ns == receipts[0].time_ns));
    assert_eq!(
        segments(dir.path()).len(),
        1,
        "a batch is never split, even when it is longer than a segment"
    );
    check_whole(dir.path());
}

#[test]
fn the_longest_body_is_accepted_and_longer_ones_and_batches_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let longest = vec![b'x'; MAX_BODY_BYTES];
    journal.append(&longest).unwrap();
    let longer = vec![b'x'; MAX_BODY_BYTES + 1];
    assert!(matches!(journal.append(&longer), Err(JournalError::BodyTooLarge { .. })));
    let many = vec![longest.as_slice(); MAX_BATCH_BYTES / MAX_BODY_BYTES];
    assert!(matches!(journal.append_all(&many), Err(JournalError::BatchTooLarge { .. })));
    journal.append_all(&many[1..]).unwrap();
    assert_eq!(verify(dir.path()).unwrap().size, 8);
    assert_eq!(Reader::open(dir.path(), 7).unwrap().next_record().unwrap().unwrap().body, longest);
}

#[test]
fn a_second_writer_is_refused_until_the_last_clone_of_the_first_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let clone = journal.clone();
    drop(journal);
    let second = Journal::open(dir.path(), OpenOptions::default());
    assert!(matches!(second, Err(JournalError::Locked { .. })));
    drop(clone);
    open(dir.path());
}

#[test]
fn a_lock_keeps_writers_away_from_a_damaged_journal_too_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(JournalLock::take(dir.path()).unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let (journal, _) = open(dir.path());
    assert!(matches!(JournalLock::take(dir.path()), Err(JournalError::Locked { .. })));
    drop(journal);
    fs::write(dir.path().join("000000000000.seg"), "damaged").unwrap();
    let lock = JournalLock::take(dir.path()).unwrap().unwrap();
    let writer = Journal::open(dir.path(), OpenOptions::default());
    assert!(matches!(writer, Err(JournalError::Locked { .. })));
    drop(lock);
    let writer = Journal::open(dir.path(), OpenOptions::default());
    assert!(matches!(writer, Err(JournalError::Damaged { .. })));
}

#[test]
fn a_reader_beside_the_writer_sees_each_record_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let count = 300;
    thread::scope(|scope| {
        scope.spawn(|| (0..count).for_each(|number| assert!(journal.append(&body(number)).is_ok())));
        let mut reader = Reader::open(dir.path(), 0).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut next = 0;
        while next < count {
            assert!(journal.wait_beyond(next, deadline) > next, "only {next} records before the deadline");
            while let Some(record) = reader.next_record().unwrap() {
                assert_eq!((record.seq, record.body), (next, body(next)));
                next += 1;
            }
        }
        assert_eq!(reader.next_record().unwrap(), None);
    });
    check_whole(dir.path());
}

#[test]
fn waiting_ends_at_the_deadline_when_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    journal.append(b"{}").unwrap();
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(journal.wait_beyond(1, deadline), 1);
    assert!(Instant::now() >= deadline);
    assert_eq!(journal.wait_beyond(0, deadline), 1);
}

#[test]
fn verifying_and_reading_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write_records(dir.path(), 8);
    let last = dir.path().join(segments(dir.path()).last().unwrap());
    let torn = [fs::read(&last).unwrap(), vec![7; 5]].concat();
    fs::write(&last, &torn).unwrap();
    let listed = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(check_whole(dir.path()).torn_bytes, 5);
    assert_eq!(fs::read(&last).unwrap(), torn);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), listed);
}

/// Holds the first batch back until it is let go, and counts syncs of batches.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, u32)>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.opened.notify_all();
    }
}

impl Disk for Gate {
    fn sync(&self, point: Point, file: &fs::File) -> io::Result<()> {
        if point == Point::BatchSync {
            let mut state = self.opened.wait_while(self.state.lock().unwrap(), |state| !state.0).unwrap();
            state.1 += 1;
        }
        SystemDisk.sync(point, file)
    }
}

#[test]
fn callers_that_wait_during_a_sync_share_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let (journal, _) =
        Journal::open_on(Arc::clone(&gate) as Arc<dyn Disk>, dir.path(), OpenOptions::default()).unwrap();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..16).map(|_| scope.spawn(|| journal.append(b"{}").unwrap().seq)).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        // One caller's record is in the batch held at the gate.
        while journal.queued() < 15 {
            assert!(Instant::now() < deadline, "{} callers queued", journal.queued());
            thread::yield_now();
        }
        assert_eq!(journal.size(), 0, "nothing counts as written before its sync");
        gate.open();
        let mut given: Vec<u64> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
        given.sort_unstable();
        assert_eq!(given, (0..16).collect::<Vec<_>>());
    });
    assert_eq!(gate.state.lock().unwrap().1, 2);
    assert_eq!(verify(dir.path()).unwrap().size, 16);
}
