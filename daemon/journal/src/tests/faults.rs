//! Fails or stops every change to the disk, at every point: what was acknowledged is there after opening again.

use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{cell::Cell, io};

use super::*;
use crate::disk::{Disk, Point, SystemDisk};

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// The call fails and changes nothing.
    Refused(i32),
    /// A write stops after this many bytes; other calls are refused.
    Short(usize),
    /// The call does its work, and then fails: the machine stops, or a sync reports an error too late.
    Done(i32),
}

impl Fault {
    fn is_full(self) -> bool {
        matches!(self, Fault::Refused(ENOSPC) | Fault::Short(_))
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Works until a given call at a given point, fails there, and refuses everything after it.
pub(super) struct FaultyDisk {
    point: Point,
    fault: Fault,
    /// Calls at the point that still succeed; below zero once it has failed.
    left: Mutex<i64>,
    calls_after: Mutex<u32>,
}

impl FaultyDisk {
    pub(super) fn new(point: Point, nth: i64, fault: Fault) -> Arc<FaultyDisk> {
        Arc::new(FaultyDisk { point, fault, left: Mutex::new(nth), calls_after: Mutex::new(0) })
    }

    pub(super) fn failed(&self) -> bool {
        *self.left.lock().unwrap() < 0
    }

    /// The fault for this call, if it is the one.
    fn due(&self, point: Point) -> io::Result<Option<Fault>> {
        if self.failed() {
            *self.calls_after.lock().unwrap() += 1;
            return Err(io::Error::from_raw_os_error(EIO));
        }
        if point != self.point {
            return Ok(None);
        }
        let mut left = self.left.lock().unwrap();
        *left -= 1;
        Ok((*left < 0).then_some(self.fault))
    }

    fn call(&self, point: Point, work: &dyn Fn(Option<usize>) -> io::Result<()>) -> io::Result<()> {
        match self.due(point)? {
            None => work(None),
            Some(Fault::Refused(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short(bytes)) => work(Some(bytes)).and(Err(io::Error::from_raw_os_error(ENOSPC))),
            Some(Fault::Done(errno)) => work(None).and(Err(io::Error::from_raw_os_error(errno))),
        }
    }
}

impl Disk for FaultyDisk {
    fn overwrites(&self, _: &File) -> bool {
        true
    }

    fn create(&self, point: Point, path: &Path) -> io::Result<File> {
        self.call(point, &|short| {
            if short.is_some() { Ok(()) } else { SystemDisk.create(point, path).map(drop) }
        })
        .and_then(|()| SystemDisk.create(point, path))
    }

    fn write(&self, point: Point, file: &File, (offset, bytes): (u64, &[u8])) -> io::Result<()> {
        self.call(point, &|short| {
            let length = short.unwrap_or(bytes.len()).min(bytes.len());
            SystemDisk.write(point, file, (offset, &bytes[..length]))
        })
    }

    fn sync(&self, point: Point, file: &File) -> io::Result<()> {
        self.call(point, &|short| if short.is_some() { Ok(()) } else { SystemDisk.sync(point, file) })
    }

    fn rename(&self, point: Point, from: &Path, to: &Path) -> io::Result<()> {
        self.call(point, &|short| if short.is_some() { Ok(()) } else { SystemDisk.rename(point, from, to) })
    }

    fn truncate(&self, point: Point, file: &File, length: u64) -> io::Result<()> {
        self.call(point, &|short| {
            if short.is_some() { Ok(()) } else { SystemDisk.truncate(point, file, length) }
        })
    }

    fn remove(&self, point: Point, path: &Path) -> io::Result<()> {
        self.call(point, &|short| if short.is_some() { Ok(()) } else { SystemDisk.remove(point, path) })
    }
}

const POINTS: [Point; 20] = [
    Point::FillWrite,
    Point::BatchWrite,
    Point::BatchSync,
    Point::FillTruncate,
    Point::FillTruncateSync,
    Point::SealWrite,
    Point::SealSync,
    Point::SegmentCreate,
    Point::SegmentWrite,
    Point::SegmentSync,
    Point::SegmentRename,
    Point::SegmentDirectorySync,
    Point::RecoverySync,
    Point::RecoveryDirectorySync,
    Point::TornCreate,
    Point::TornWrite,
    Point::TornSync,
    Point::TornDirectorySync,
    Point::CutTruncate,
    Point::CutSync,
];

pub(super) const FAULTS: [Fault; 6] = [
    Fault::Refused(EIO),
    Fault::Refused(ENOSPC),
    Fault::Short(0),
    Fault::Short(1),
    Fault::Short(61),
    Fault::Done(EIO),
];

/// Writes until something fails or ten records are in; the number that were acknowledged in all.
fn write_until_failure(disk: Arc<FaultyDisk>, dir: &Path, acknowledged: &Cell<u64>) {
    let Ok((journal, recovered)) = Journal::open_on(Arc::clone(&disk) as Arc<dyn Disk>, dir, small()) else {
        return;
    };
    assert!(recovered.records >= acknowledged.get());
    while journal.size() < 10 {
        match journal.append(&body(journal.size())) {
            Ok(receipt) => acknowledged.set(receipt.seq + 1),
            Err(error) => {
                assert!(matches!(error, JournalError::Poisoned { .. }), "{error}");
                return check_poisoned(&journal, &disk);
            }
        }
    }
}

fn check_poisoned(journal: &Journal, disk: &FaultyDisk) {
    let head = journal.head();
    // Where there is no room for zeros ahead, the batch itself is tried.
    let calls = *disk.calls_after.lock().unwrap();
    assert!(calls == u32::from(disk.point == Point::FillWrite && disk.fault.is_full()));
    for _ in 0..3 {
        assert!(matches!(journal.append(b"{}"), Err(JournalError::Poisoned { .. })));
    }
    assert_eq!(*disk.calls_after.lock().unwrap(), calls, "a poisoned journal touches the disk");
    assert_eq!(journal.head(), head);
}

/// A journal with four records and a torn end.
fn torn_journal() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_records(dir.path(), 4);
    let last = dir.path().join(segments(dir.path()).last().unwrap());
    fs::write(&last, [fs::read(&last).unwrap(), vec![0x55; 70]].concat()).unwrap();
    dir
}

#[test]
fn after_a_fault_at_any_point_every_acknowledged_record_is_there_and_writing_goes_on() {
    for point in POINTS {
        let mut failures = 0;
        for fault in FAULTS {
            for (nth, start) in [(0, tempfile::tempdir().unwrap()), (0, torn_journal()), (1, torn_journal())]
            {
                let dir = start.path();
                let before = if segments(dir).is_empty() { 0 } else { 4 };
                let acknowledged = Cell::new(before);
                let disk = FaultyDisk::new(point, nth, fault);
                write_until_failure(Arc::clone(&disk), dir, &acknowledged);
                failures += u32::from(disk.failed());
                let (journal, recovered) = open(dir);
                let known = acknowledged.get();
                let case = format!("{point:?} {fault:?} call {nth}: {recovered:?} of {known}");
                assert!((known..=known + 1).contains(&recovered.records), "{case}");
                for number in journal.size()..12 {
                    journal.append(&body(number)).unwrap();
                }
                drop(journal);
                assert_eq!(check_whole(dir).size, 12, "{case}");
                assert_eq!(check_whole(dir).torn_bytes, 0, "{case}");
            }
        }
        assert!(failures >= 6, "{point:?} was reached {failures} times");
    }
}

#[test]
fn a_batch_is_written_in_two_parts_and_is_there_whole_or_not_at_all() {
    let bodies = [(); 3].map(|()| vec![b'x'; 100 << 10]);
    let batch = bodies.each_ref().map(Vec::as_slice);
    for fault in FAULTS {
        for nth in 0..=2 {
            let dir = tempfile::tempdir().unwrap();
            let disk = FaultyDisk::new(Point::BatchWrite, nth, fault);
            let disk_of_journal = Arc::clone(&disk) as Arc<dyn Disk>;
            let (journal, _) = Journal::open_on(disk_of_journal, dir.path(), OpenOptions::default()).unwrap();
            let acknowledged = journal.append_all(&batch).is_ok();
            assert_eq!((acknowledged, disk.failed()), (nth == 2, nth < 2), "records and a trailer");
            drop(journal);
            let (journal, recovered) = Journal::open(dir.path(), OpenOptions::default()).unwrap();
            // The trailer had arrived, and only the answer was lost.
            let arrived = acknowledged || (nth == 1 && matches!(fault, Fault::Done(_)));
            assert_eq!(recovered.records, if arrived { 3 } else { 0 }, "{fault:?} at part {nth}");
            assert_eq!(journal.append_all(&batch).unwrap()[2].seq, recovered.records + 2);
            drop(journal);
            assert_eq!(verify(dir.path()).unwrap().size, recovered.records + 3);
        }
    }
}

/// A disk on which writing a batch panics.
struct PanickingDisk;

impl Disk for PanickingDisk {
    fn write(&self, point: Point, file: &File, at: (u64, &[u8])) -> io::Result<()> {
        assert_ne!(point, Point::BatchWrite, "the disk panics, as asked");
        SystemDisk.write(point, file, at)
    }
}

#[test]
fn a_writer_that_panics_leaves_a_poisoned_journal_not_a_hanging_one() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open_on(Arc::new(PanickingDisk), dir.path(), OpenOptions::default()).unwrap();
    let clone = journal.clone();
    assert!(std::thread::spawn(move || clone.append(b"{}").map(drop)).join().is_err());
    let Err(JournalError::Poisoned { cause }) = journal.append(b"{}") else { panic!("accepted a record") };
    assert!(matches!(*cause, JournalError::WriterDied));
}

/// A disk that has no room for a while: what needs room fails from a given call on, until the reserve is gone.
struct FullDisk {
    dir: std::path::PathBuf,
    calls_left: Mutex<i64>,
    overwrites: bool,
    /// How long it takes to say that there is no room.
    takes: Duration,
}

impl FullDisk {
    fn find_room(&self) -> io::Result<()> {
        let mut left = self.calls_left.lock().unwrap();
        *left -= 1;
        if *left >= 0 || !self.dir.join(crate::RESERVE).exists() {
            return Ok(());
        }
        std::thread::sleep(self.takes);
        Err(io::Error::from_raw_os_error(ENOSPC))
    }

    fn after(calls: i64, dir: &Path) -> FullDisk {
        let takes = Duration::ZERO;
        FullDisk { dir: dir.to_owned(), calls_left: Mutex::new(calls), overwrites: true, takes }
    }
}

impl Disk for FullDisk {
    fn overwrites(&self, _: &File) -> bool {
        self.overwrites
    }

    fn write(&self, point: Point, file: &File, at: (u64, &[u8])) -> io::Result<()> {
        self.find_room().or_else(|full| {
            // As a real one does: some of the bytes arrive.
            SystemDisk.write(point, file, (at.0, &at.1[..at.1.len() / 2])).and(Err(full))
        })?;
        SystemDisk.write(point, file, at)
    }

    fn create(&self, point: Point, path: &Path) -> io::Result<File> {
        self.find_room()?;
        SystemDisk.create(point, path)
    }

    fn rename(&self, point: Point, from: &Path, to: &Path) -> io::Result<()> {
        self.find_room()?;
        SystemDisk.rename(point, from, to)
    }

    // Where the file system copies what it changes, a shorter file needs room too.
    fn truncate(&self, point: Point, file: &File, length: u64) -> io::Result<()> {
        self.find_room()?;
        SystemDisk.truncate(point, file, length)
    }
}

#[test]
fn a_full_disk_costs_the_reserve_and_no_record_whatever_is_being_done() {
    for calls in 1..60 {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(FullDisk::after(calls, dir.path()));
        let options = OpenOptions { reserve_bytes: 4096, ..small() };
        let (journal, _) = Journal::open_on(disk, dir.path(), options).unwrap();
        assert!(!journal.is_on_reserve());
        for number in 0..20 {
            assert_eq!(journal.append(&body(number)).unwrap().seq, number, "after {calls} calls");
        }
        assert_eq!(journal.is_on_reserve(), !dir.path().join(crate::RESERVE).exists());
        assert!(journal.is_on_reserve() || calls > 40);
        assert!(journal.restore_reserve().unwrap() && !journal.is_on_reserve());
        drop(journal);
        assert_eq!(check_whole(dir.path()).size, 20, "after {calls} calls");
        let (journal, recovered) = open(dir.path());
        assert_eq!(recovered.cut, None, "after {calls} calls");
        drop(journal);
    }
}

#[test]
fn a_journal_with_a_torn_or_sealed_end_is_opened_on_a_full_disk_with_the_reserve() {
    let sealed = || {
        let dir = tempfile::tempdir().unwrap();
        write_records(dir.path(), 9);
        fs::remove_file(dir.path().join(segments(dir.path()).pop().unwrap())).unwrap();
        dir
    };
    // What is torn is created, written and cut; a segment is created, emptied, written and named.
    for (made, calls) in [(torn_journal as fn() -> tempfile::TempDir, 3), (sealed, 4)] {
        for calls in 0..calls {
            let dir = made();
            let records = verify(dir.path()).unwrap().size;
            fs::write(dir.path().join(crate::RESERVE), [0; 4096]).unwrap();
            let disk = Arc::new(FullDisk::after(calls, dir.path()));
            let options = OpenOptions { reserve_bytes: 4096, ..small() };
            let (journal, recovered) = Journal::open_on(disk, dir.path(), options).unwrap();
            assert_eq!((recovered.records, recovered.cut.is_some()), (records, records == 4));
            journal.append(&body(records)).unwrap();
            drop(journal);
            assert_eq!(check_whole(dir.path()).size, records + 1, "after {calls} calls");
        }
    }
}

#[test]
fn a_segment_that_becomes_old_while_a_batch_finds_no_room_is_sealed_at_its_last_batch() {
    // With zeros ahead there are none for so long a batch.
    for (overwrites, bytes) in [(false, 300), (true, 50 << 10), (true, 300)] {
        let dir = tempfile::tempdir().unwrap();
        let age = Duration::from_millis(500);
        // A new segment takes four calls, a record with its trailer two.
        let calls = 6 + i64::from(overwrites);
        let full = FullDisk { overwrites, takes: age, ..FullDisk::after(calls, dir.path()) };
        let options = OpenOptions { reserve_bytes: 4096, segment_age: age, ..OpenOptions::default() };
        let (journal, _) = Journal::open_on(Arc::new(full), dir.path(), options).unwrap();
        journal.append(&body(0)).unwrap();
        journal.append(&vec![b'x'; bytes]).unwrap();
        assert_eq!((journal.is_on_reserve(), segments(dir.path()).len()), (true, 2));
        drop(journal);
        assert_eq!(Journal::open(dir.path(), OpenOptions::default()).unwrap().1.records, 2);
        assert_eq!(verify(dir.path()).unwrap().size, 2, "{bytes} bytes");
    }
}

#[test]
fn no_tile_is_made_of_records_that_did_not_become_durable() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(Point::BatchSync, 1, Fault::Refused(EIO));
    let options = OpenOptions::default();
    let (journal, _) = Journal::open_on(disk, dir.path(), options.clone()).unwrap();
    let bodies: Vec<Vec<u8>> = (0..255).map(body).collect();
    journal.append_all(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    assert!(journal.append(&body(255)).is_err());
    assert_eq!(read_all(dir.path()).len(), 256, "the record is in the file");
    let mut tiles = crate::Tiles::open(dir.path()).unwrap();
    assert!(tiles.extend(journal.size()).unwrap());
    assert_eq!(crate::tiled(dir.path()), 0);
    drop(journal);
    let (journal, _) = Journal::open(dir.path(), options).unwrap();
    assert!(tiles.extend(journal.size()).unwrap());
    assert_eq!((journal.size(), crate::tiled(dir.path())), (256, 256));
}
