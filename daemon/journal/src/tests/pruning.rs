//! Journals whose oldest records were pruned: what is left reads, verifies and proves, and no interruption or alteration
//! makes it something else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::faults::{FAULTS, FaultyDisk};
use super::signing::Place;
use super::*;
use crate::disk::{Disk, Point};
use crate::note::tests::holds;
use crate::{
    Checkpoint, Flaw, Hash, Tiles, base, beside_pruning, first_record, prove, prove_consistency, succeed,
    verify_consistency, verify_each,
};

const BASE: &[u8] = b"what came before";
const POINTS: [Point; 8] = [
    Point::TilesSync,
    Point::BaseWrite,
    Point::BaseSync,
    Point::BaseRename,
    Point::BaseDirectorySync,
    Point::SegmentRemove,
    Point::SegmentRemoveSync,
    Point::BaseRemove,
];

/// The number in a segment's name.
fn first_of(name: &str) -> u64 {
    name.strip_suffix(".seg").unwrap().parse().unwrap()
}

/// The first record of the last sealed segment that begins at or before this one.
fn border(dir: &Path, before: u64) -> u64 {
    let names = segments(dir);
    let sealed = names[..names.len() - 1].iter().map(|name| first_of(name));
    sealed.take_while(|first| *first <= before).last().unwrap()
}

fn tile(dir: &Path) {
    while !Tiles::open(dir).unwrap().extend(u64::MAX).unwrap() {}
}

fn prune(dir: &Path, first: u64) -> Result<crate::Pruned, JournalError> {
    let (journal, _) = open(dir);
    let sha256 = journal.write_base(first, BASE)?;
    journal.prune(first, sha256)
}

/// The files of a place by their paths in it.
type Files = Vec<(PathBuf, Vec<u8>)>;

/// 600 records, signed on the way, with the tiles that they fill.
static WHOLE: LazyLock<Files> = LazyLock::new(|| {
    let place = Place::signed_at(&[3, 100, 256, 300, 520, 600]);
    tile(&place.journal());
    files(&place)
});

fn files(place: &Place) -> Files {
    fn collect(root: &Path, below: &Path, files: &mut Files) {
        for entry in fs::read_dir(root.join(below)).unwrap().map(Result::unwrap) {
            let path = below.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                collect(root, &path, files);
            } else {
                files.push((path.clone(), fs::read(root.join(path)).unwrap()));
            }
        }
    }
    let mut files = Files::new();
    collect(place.mark().parent().unwrap(), Path::new(""), &mut files);
    files
}

/// A place with these files.
fn place_of(files: &Files) -> Place {
    let place = Place::new();
    for (path, bytes) in files {
        let path = place.mark().with_file_name(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    place
}

#[test]
fn what_is_verified_while_it_is_pruned_verifies_in_the_end_and_what_is_damaged_does_not() {
    let place = place_of(&WHOLE);
    let dir = place.journal();
    let (mut reads, mut pruned) = (0, false);
    let verified = beside_pruning(&dir, || {
        reads += 1;
        verify_each(&dir, None, &mut |_| {
            if !std::mem::replace(&mut pruned, true) {
                prune(&dir, border(&dir, 300)).unwrap();
            }
        })
    });
    let first = first_record(&dir).unwrap();
    assert_eq!((verified.unwrap().first, reads), (first, 2));
    assert!(first > 256);
    fs::remove_file(dir.join(&segments(&dir)[1])).unwrap();
    reads = 0;
    let damaged = beside_pruning(&dir, || {
        reads += 1;
        verify(&dir)
    });
    assert!(matches!(damaged, Err(JournalError::Damaged(_))), "{damaged:?}");
    assert_eq!(reads, 1);
}

/// 600 records, of which the ones before the answer were pruned.
fn pruned_before(most: u64) -> (Place, u64) {
    let place = place_of(&WHOLE);
    let first = border(&place.journal(), most);
    let gone = prune(&place.journal(), first).unwrap();
    assert!(gone.segments > 1 && gone.bytes > 0);
    (place, first)
}

#[test]
fn what_is_left_verifies_and_proves_and_goes_on() {
    for most in [40, 256, 400, 520] {
        let (place, first) = pruned_before(most);
        let dir = place.journal();
        let check = |size: u64, checkpoints: u64| {
            let verified = place.verify().unwrap();
            assert_eq!((verified.size, verified.first, verified.checkpoints), (size, first, checkpoints));
            assert_eq!((verified.signed, verified.base), (checkpoints, Some(Hash::of(BASE))));
        };
        check(600, 6);
        place.check().unwrap();
        assert_eq!(first_record(&dir).unwrap(), first);
        assert_eq!(base(&dir).unwrap().unwrap().bytes, BASE);
        assert!(matches!(
            Reader::open(&dir, first - 1),
            Err(JournalError::Pruned { seq, first: there }) if (seq, there) == (first - 1, first)
        ));
        place.write(200);
        let newest = place.sign().unwrap();
        check(800, 7);
        tile(&dir);
        check_proofs(&place, first, &newest);
        // The same from the leaves alone.
        for level in [1, 2] {
            let _ = fs::remove_dir_all(dir.join(format!("tile/{level}")));
        }
        check_proofs(&place, first, &newest);
    }
}

fn check_proofs(place: &Place, first: u64, newest: &crate::Note) {
    let (dir, head) = (place.journal(), Checkpoint::unverified(newest).unwrap().head);
    for seq in (first..head.size).step_by(37) {
        let proven = prove(&dir, seq, newest).unwrap().check(&[place.key()], &holds).unwrap();
        assert_eq!(proven.record.body, body(seq));
    }
    assert!(matches!(prove(&dir, first - 1, newest), Err(JournalError::Pruned { .. })));
    let mut notes = crate::signed::Notes::open(&dir).unwrap();
    let mut olds = 0;
    while let Some((_, old)) = notes.next().unwrap() {
        let (root, path) = prove_consistency(&dir, old.head.size, head).unwrap();
        assert_eq!(root, old.head.root);
        assert!(verify_consistency(old.head, head, &path));
        olds += 1;
    }
    assert_eq!(olds, 7);
    for old in [1, 3, 100, 256, 257, first, head.size] {
        let (root, path) = prove_consistency(&dir, old, head).unwrap();
        assert!(verify_consistency(crate::TreeHead { size: old, root }, head, &path), "{old}");
    }
}

#[test]
fn a_journal_is_pruned_again_and_again() {
    let (place, first) = pruned_before(40);
    let dir = place.journal();
    for most in [60, 290, 500] {
        let next = border(&dir, most);
        assert!(next > first);
        prune(&dir, next).unwrap();
        assert_eq!(place.verify().unwrap().first, next);
        let bases = crate::begin::bases(&dir).unwrap();
        assert_eq!(bases, [next], "the base of the beginning before is gone");
    }
}

#[test]
fn only_whole_sealed_segments_that_another_one_follows_go() {
    let place = place_of(&WHOLE);
    let (journal, _) = open(&place.journal());
    let names = segments(&place.journal());
    let last = first_of(names.last().unwrap());
    for none in [0, 1, first_of(&names[1]) + 1, last, 600, 1000] {
        let refused = journal.write_base(none, BASE);
        assert!(matches!(refused, Err(JournalError::NotPrunable { first }) if first == none), "{none}");
    }
    assert!(journal.write_base(first_of(&names[names.len() - 2]), BASE).is_ok());
    assert_eq!(segments(&place.journal()), names, "a base removes nothing");
    assert_eq!(place.verify().unwrap().first, 0);
}

#[test]
fn nothing_goes_whose_hashes_are_not_kept() {
    let place = place_of(&WHOLE);
    let dir = place.journal();
    fs::remove_dir_all(dir.join("tile")).unwrap();
    let first = border(&dir, 400);
    assert!(matches!(prune(&dir, first), Err(JournalError::TileMissing { .. })));
    tile(&dir);
    let path = dir.join("tile/0/000");
    let whole = fs::read(&path).unwrap();
    let mut altered = whole.clone();
    altered[5] ^= 1;
    fs::write(&path, altered).unwrap();
    assert!(matches!(prune(&dir, first), Err(JournalError::TilesDiffer { .. })));
    assert_eq!(first_record(&dir).unwrap(), 0);
    fs::write(&path, whole).unwrap();
    prune(&dir, first).unwrap();
}

#[test]
fn a_base_that_is_not_the_one_that_was_written_removes_nothing() {
    let place = place_of(&WHOLE);
    let dir = place.journal();
    let first = border(&dir, 400);
    let (journal, _) = open(&dir);
    let sha256 = journal.write_base(first, BASE).unwrap();
    fs::write(dir.join(crate::begin::base_name(first)), b"forged").unwrap();
    assert!(matches!(journal.prune(first, sha256), Err(JournalError::BaseDiffers { .. })));
    assert_eq!(first_record(&dir).unwrap(), 0);
}

#[test]
fn what_is_altered_or_taken_away_of_the_pruned_part_is_found() {
    type Alter = fn(&Path, u64);
    let alterations: [(&str, Alter); 4] = [
        ("a hash", |dir, _| {
            let mut tile = fs::read(dir.join("tile/0/000")).unwrap();
            tile[9] ^= 1;
            fs::write(dir.join("tile/0/000"), tile).unwrap();
        }),
        ("a tile", |dir, _| fs::remove_file(dir.join("tile/0/000")).unwrap()),
        ("the base", |dir, first| fs::remove_file(dir.join(crate::begin::base_name(first))).unwrap()),
        ("the first segment", |dir, _| fs::remove_file(dir.join(&segments(dir)[0])).unwrap()),
    ];
    for (what, alter) in alterations {
        let (place, first) = pruned_before(400);
        alter(&place.journal(), first);
        let found = place.verify().unwrap_err();
        let named = match what {
            "a hash" => matches!(found, JournalError::TilesDiffer { .. } | JournalError::Rewritten { .. }),
            "a tile" => matches!(found, JournalError::TileMissing { .. }),
            _ => matches!(&found, JournalError::Damaged(damage) if damage.what == Flaw::NoBase),
        };
        assert!(named, "{what}: {found}");
    }
}

/// Prunes on this disk until something fails.
fn prune_until_failure(disk: &Arc<FaultyDisk>, dir: &Path, first: u64) {
    let Ok((journal, _)) = Journal::open_on(Arc::clone(disk) as Arc<dyn Disk>, dir, small()) else { return };
    let Ok(sha256) = journal.write_base(first, BASE) else { return };
    let _ = journal.prune(first, sha256);
}

#[test]
fn a_pruning_that_stops_anywhere_reads_whole_and_is_ended_by_the_next_one() {
    let template = Place::signed_at(&[9, 80]);
    let begun = border(&template.journal(), 20);
    prune(&template.journal(), begun).unwrap();
    let template = files(&template);
    for point in POINTS {
        let mut failures = 0;
        for fault in FAULTS {
            for nth in 0..3 {
                let place = place_of(&template);
                let dir = place.journal();
                let first = border(&dir, 50);
                let disk = FaultyDisk::new(point, nth, fault);
                prune_until_failure(&disk, &dir, first);
                failures += u32::from(disk.failed());
                let case = format!("{point:?} {fault:?} call {nth}");
                let found = place.verify().unwrap_or_else(|error| panic!("{case}: {error}")).first;
                assert!((begun..=first).contains(&found), "{case}: {found}");
                let read: Vec<u64> = Reader::open(&dir, found).unwrap().map(|r| r.unwrap().seq).collect();
                assert_eq!(read, (found..80).collect::<Vec<_>>(), "{case}");
                place.check().unwrap();
                prune(&dir, first).unwrap();
                assert_eq!(place.verify().unwrap().first, first, "{case}");
            }
        }
        assert!(failures >= 6, "{point:?} was reached {failures} times");
    }
}

#[test]
fn a_reader_that_falls_behind_a_pruning_is_told_so() {
    let place = place_of(&WHOLE);
    let dir = place.journal();
    let mut reader = Reader::open(&dir, 0).unwrap();
    reader.next_record().unwrap();
    prune(&dir, border(&dir, 500)).unwrap();
    let ended = reader.find_map(Result::err).unwrap();
    assert!(matches!(ended, JournalError::Pruned { .. }), "{ended}");
}

#[test]
fn a_new_log_takes_over_what_a_pruned_one_has_left() {
    let (place, first) = pruned_before(400);
    let dir = place.journal();
    let records: Vec<Record> = Reader::open(&dir, first).unwrap().map(Result::unwrap).collect();
    let made = succeed(&dir, &place.mark(), |before| {
        assert_eq!((before.taken.size, before.base), (600, Some((first, Hash::of(BASE)))));
        b"{}".to_vec()
    })
    .unwrap();
    assert_eq!(made.before.broken, None);
    place.check().unwrap();
    let now: Vec<Record> = Reader::open(&dir, first).unwrap().map(Result::unwrap).collect();
    assert_eq!(now[..records.len()], records[..]);
    let (journal, _) = open(&dir);
    for number in 601..1100 {
        journal.append(&body(number)).unwrap();
    }
    drop(journal);
    place.sign().unwrap();
    tile(&dir);
    let verified = place.verify().unwrap();
    assert_eq!((verified.first, verified.size), (first, 1100));
    assert_eq!(crate::tiled(&dir), 1024, "tiles go on, also the one in which the pruned records end");
}

#[test]
fn a_segment_ends_with_its_age_so_that_it_can_be_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions { segment_age: Duration::ZERO, ..OpenOptions::default() };
    let (journal, _) = Journal::open(dir.path(), options).unwrap();
    for number in 0..4 {
        journal.append(&body(number)).unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 4);
    drop(journal);
    let (journal, _) = Journal::open(dir.path(), OpenOptions::default()).unwrap();
    for number in 4..9 {
        journal.append(&body(number)).unwrap();
    }
    assert_eq!(segments(dir.path()).len(), 4, "a young one goes on");
    assert_eq!(check_whole(dir.path()).size, 9);
}
