//! Imports at the same time: together they take no more than there is, and each counts once.

use crate::sample::Sample;
use crate::with_volume;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};
use turnout_host::HostError;
use turnout_host::archive::Archive;
use turnout_host::store::{ImportOutcome, Store};
use turnout_host::volume::Volume;

const MIB: u64 = 1 << 20;
/// What imports may take in these tests.
const ROOM: u64 = 24 * MIB;

fn mib(count: u64) -> usize {
    usize::try_from(count * MIB).unwrap()
}

fn room(volume: &Volume) -> u64 {
    let state = volume.store_state().unwrap();
    state.free_bytes.saturating_sub(state.reserve_bytes)
}

/// Takes all but [`ROOM`], as other files of the same file system would. A file system that gives its own metadata more
/// room meanwhile leaves less than was asked for: then some is given back.
fn leave_little(root: &Path, volume: &Volume) {
    let hog = File::create(root.join("hog")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut taken = room(volume) - ROOM;
    loop {
        hog.set_len(taken).unwrap();
        fallocate(&hog, FallocateFlags::empty(), 0, taken).unwrap();
        btrfsutil::sync::sync(root).unwrap();
        let left = room(volume);
        if left.abs_diff(ROOM) < MIB {
            return;
        }
        assert!(Instant::now() < deadline, "{left} bytes are left");
        taken = taken + left - ROOM;
    }
}

/// Deleted space comes back with a later commit.
fn wait_for_room(root: &Path, volume: &Volume) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while room(volume) < ROOM - MIB {
        assert!(Instant::now() < deadline, "the room does not come back");
        btrfsutil::sync::sync(root).unwrap();
    }
}

/// Does something between two bytes of a stream.
struct Meanwhile<'a>(Option<Box<dyn FnOnce() + 'a>>);

impl Read for Meanwhile<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        if let Some(act) = self.0.take() {
            act();
        }
        Ok(0)
    }
}

fn meanwhile<'a>(act: impl FnOnce() + 'a) -> Meanwhile<'a> {
    Meanwhile(Some(Box::new(act)))
}

fn refused_unread(volume: &Volume, sample: &Sample) {
    let mut stream = meanwhile(|| panic!("a byte was asked for")).chain(sample.stream.as_slice());
    let refused = sample.import_from(volume, &mut stream);
    assert!(matches!(refused, Err(HostError::NoSpace { .. })), "{refused:?}");
}

#[test]
fn what_imports_under_way_have_still_to_write_is_given_to_nobody_else() {
    with_volume(|place, volume| {
        let root = place.path("store");
        leave_little(&root, &volume);
        let first = Sample::new(1, &[("a", mib(10)), ("b", mib(6))]);
        let (same, small) = (Sample::new(2, &[("a", mib(16))]), Sample::new(3, &[("a", mib(6))]));
        let at_first = meanwhile(|| refused_unread(&volume, &same));
        // 12 MiB are written, on disk or not, and 4 MiB have still to come: 8 MiB are free.
        let later = meanwhile(|| {
            refused_unread(&volume, &Sample::new(4, &[("a", mib(10))]));
            assert_eq!(small.import(&volume).unwrap(), ImportOutcome::Stored);
        });
        let (begin, end) = first.stream.split_at(mib(12));
        let mut stream = at_first.chain(begin).chain(later).chain(end);
        assert_eq!(first.import_from(&volume, &mut stream).unwrap(), ImportOutcome::Stored);
        for sample in [&first, &small] {
            volume.verify(&sample.name, &sample.files).unwrap();
        }
    });
}

#[test]
fn an_import_alone_may_take_all_that_is_left_and_gives_it_back_when_it_fails() {
    with_volume(|place, volume| {
        let root = place.path("store");
        leave_little(&root, &volume);
        let all = Sample::new(1, &[("a", mib(ROOM / MIB - 2))]);
        let broken = all.import_from(&volume, &mut &all.stream[..mib(12)]);
        assert!(matches!(broken, Err(HostError::Content { .. })), "{broken:?}");
        wait_for_room(&root, &volume);
        let meanwhile = meanwhile(|| refused_unread(&volume, &Sample::new(2, &[("a", mib(4))])));
        let mut stream = all.stream.as_slice().chain(meanwhile);
        assert_eq!(all.import_from(&volume, &mut stream).unwrap(), ImportOutcome::Stored);
    });
}
