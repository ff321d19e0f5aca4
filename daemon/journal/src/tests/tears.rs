//! What an interrupted write can leave at the end, and that opening goes on from there.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::disk::{Disk, SystemDisk};
use crate::frame::{HEAD_BYTES, TRAILER_BYTES};
use crate::segment::HEADER_BYTES;
use crate::{Flaw, Hash};

/// Bytes that a disk writes at once.
const SECTOR: usize = 512;

/// A journal in one segment with `before` records and then a batch of three; gives the segment's bytes and where that batch starts.
fn journal_with_last_batch(dir: &Path, before: u64) -> (Vec<u8>, usize) {
    journal_with_batch_of(3, dir, before)
}

fn journal_with_batch_of(count: u64, dir: &Path, before: u64) -> (Vec<u8>, usize) {
    let open = || Journal::open(dir, OpenOptions::default()).unwrap().0;
    let journal = open();
    for number in 0..before {
        journal.append(&body(number)).unwrap();
    }
    drop(journal);
    let path = dir.join(&segments(dir)[0]);
    let start = fs::read(&path).unwrap().len();
    let bodies: Vec<Vec<u8>> = (before..before + count).map(body).collect();
    open().append_all(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Each sector is written up to some byte, or whole.
    #[test]
    fn whichever_parts_of_a_batch_over_zeros_are_missing_it_is_cut_off_as_one(
        before in 0_u64..12, count in 1_u64..60,
        written in prop::collection::vec(prop_oneof![Just(SECTOR), Just(0), 0..SECTOR - 32], 9),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, start) = journal_with_batch_of(count, dir.path(), before);
        let mut found = [&bytes[..], &[0; 4 * SECTOR]].concat();
        for (sector, written) in (start / SECTOR..).zip(written) {
            let end = (sector + 1) * SECTOR;
            found.get_mut((sector * SECTOR + written).max(start)..end).unwrap_or_default().fill(0);
        }
        let whole = found.starts_with(&bytes);
        let committed = if whole { (bytes.len(), before + count) } else { (start, before) };
        check_recovers(dir.path(), &found, committed);
    }
}

/// A disk that says it overwrites.
struct Overwriting;

impl Disk for Overwriting {
    fn overwrites(&self, _: &File) -> bool {
        true
    }
}

#[test]
fn small_batches_are_written_over_zeros_that_go_with_the_seal_and_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { segment_bytes: 100_000, ..OpenOptions::default() };
    let open = || Journal::open_on(Arc::new(Overwriting), dir.path(), options.clone()).unwrap().0;
    let lengths =
        || segments(dir.path()).into_iter().map(|name| fs::metadata(dir.path().join(name)).unwrap().len());
    let journal = open();
    journal.append(&body(0)).unwrap();
    let filled = lengths().next().unwrap();
    journal.append(&body(1)).unwrap();
    assert_eq!(lengths().next().unwrap(), filled, "the second record has made the file longer");
    assert_eq!(check_whole(dir.path()).size, 2);
    // Killed: nothing is closed, and the next one goes on where the records end.
    let before = [&fs::read(dir.path().join(&segments(dir.path())[0])).unwrap()[..], &[0; 100]].concat();
    drop(journal);
    fs::write(dir.path().join(&segments(dir.path())[0]), before).unwrap();
    let journal = open();
    (2..1500).for_each(|number| assert_eq!(journal.append(&body(number)).unwrap().seq, number));
    let sealed = lengths().next().unwrap();
    assert!(sealed < options.segment_bytes && lengths().count() > 1, "{sealed}");
    drop(journal);
    let last = fs::read(dir.path().join(segments(dir.path()).pop().unwrap())).unwrap();
    assert_ne!(last[last.len() - 32..], [0; 32], "zeros are left at the end of a closed journal");
    assert_eq!(check_whole(dir.path()).size, 1500);
    assert!(!SystemDisk.overwrites(&File::open("/proc").unwrap()), "zeros are written wherever it is");
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
        for zeros in [0, 700] {
            let mut bytes = [&bytes[..], &vec![0; zeros]].concat();
            bytes[broken] ^= 0x40;
            fs::write(&path, &bytes).unwrap();
            let error = Journal::open(dir.path(), OpenOptions::default()).err().unwrap();
            let JournalError::Damaged(damage) = error else { panic!("byte {broken}: {error}") };
            assert!(matches!(damage.what, Flaw::FrameAfterTear { .. }), "byte {broken}: {damage}");
            assert!(damage.offset <= broken as u64);
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
}

/// A journal whose last batch, of three records with so many bytes, begins this far into a sector; also where it begins.
fn journal_with_batch_at(offset: usize, bytes: usize) -> (tempfile::TempDir, usize) {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), OpenOptions::default()).unwrap();
    let before = HEADER_BYTES + HEAD_BYTES + TRAILER_BYTES;
    let padding = 1 + (offset + 4 * SECTOR - before - 1) % SECTOR;
    journal.append(&vec![b'x'; padding]).unwrap();
    journal.append_all(&[&vec![b'x'; bytes][..]; 3]).unwrap();
    (dir, before + padding)
}

#[test]
fn wherever_in_a_sector_a_batch_begins_an_altered_byte_is_no_tear_and_a_lost_beginning_is_one() {
    let longer = (SECTOR - 3..SECTOR).map(|offset| (offset, 70_000));
    for (offset, bytes) in (0..SECTOR).map(|offset| (offset, 300)).chain(longer) {
        let (dir, start) = journal_with_batch_at(offset, bytes);
        let path = dir.path().join(&segments(dir.path())[0]);
        let written = fs::read(&path).unwrap();
        for altered in [3, 4, HEAD_BYTES, HEAD_BYTES + bytes - 1] {
            let mut found = written.clone();
            found[start + altered] ^= 0x40;
            fs::write(&path, found).unwrap();
            let verified = verify(dir.path());
            let Err(JournalError::Damaged(damage)) = verified else { panic!("{offset}, {altered}") };
            assert!(matches!(damage.what, Flaw::FrameAfterTear { .. }), "{offset}, {altered}: {damage}");
        }
        let mut found = written.clone();
        found[start..start + SECTOR - offset].fill(0);
        fs::write(&path, &found).unwrap();
        let whole = if found == written { 4 } else { 1 };
        assert_eq!(verify(dir.path()).unwrap().size, whole, "{bytes} bytes at {offset}");
    }
}

#[test]
fn a_part_of_zeros_where_a_second_batch_follows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, start) = journal_with_batch_of(40, dir.path(), 2);
    assert_eq!(
        Journal::open(dir.path(), OpenOptions::default()).unwrap().0.append(&body(42)).unwrap().seq,
        42
    );
    let path = dir.path().join(&segments(dir.path())[0]);
    let mut longer = fs::read(&path).unwrap();
    assert!(longer.starts_with(&bytes) && bytes.len() - start > 3 * SECTOR);
    let sector = (start / SECTOR + 1) * SECTOR;
    longer[sector..sector + SECTOR].fill(0);
    fs::write(&path, &longer).unwrap();
    let error = Journal::open(dir.path(), OpenOptions::default()).err().unwrap();
    let JournalError::Damaged(damage) = error else { panic!("{error}") };
    assert!(matches!(damage.what, Flaw::FrameAfterTear { .. }), "{damage}");
    assert_eq!(fs::read(&path).unwrap(), longer);
}

#[test]
fn an_end_longer_than_any_batch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (bytes, _) = journal_with_last_batch(dir.path(), 1);
    let path = dir.path().join(&segments(dir.path())[0]);
    // Zeros without end take no room, and would take hours to read.
    for (after, length) in [(vec![0xaa; 9 << 20], 9 << 20), (Vec::new(), 1 << 36)] {
        let length = bytes.len() as u64 + length;
        fs::write(&path, [&bytes[..], &after].concat()).unwrap();
        File::options().append(true).open(&path).unwrap().set_len(length).unwrap();
        let error = Journal::open(dir.path(), OpenOptions::default()).err().unwrap();
        assert!(matches!(&error, JournalError::Damaged(damage) if damage.what == Flaw::NotATear), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
    }
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
