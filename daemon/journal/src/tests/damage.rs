//! Every alteration of what was written is found, and none makes the journal panic.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::Flaw;
use crate::frame::{Head, Kind, SEAL_BYTES, Seal, TRAILER_BYTES, Trailer, encode};
use crate::segment::Header;

fn damage_of(dir: &Path) -> crate::Damage {
    match verify(dir) {
        Err(JournalError::Damaged(damage)) => damage,
        other => panic!("{other:?}"),
    }
}

/// A journal in several segments whose last one holds records.
fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_records(dir.path(), 11);
    dir
}

/// Verifies after an alteration: damage, or, where the end looks torn, less of the very same records.
fn check_found_or_torn(dir: &Path, original: &[Record]) {
    match verify(dir) {
        Err(JournalError::Damaged(_)) => {}
        Ok(verified) => {
            assert!(verified.torn_bytes > 0, "an altered journal passed as whole: {verified:?}");
            let records = read_all(dir);
            assert_eq!(records[..], original[..records.len()]);
            assert!(records.len() < original.len());
        }
        Err(other) => panic!("{other}"),
    }
    // Opening reads less, but must not fail in any other way either.
    match Journal::open(dir, OpenOptions::default()) {
        Ok(_) | Err(JournalError::Damaged(_)) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn an_alteration_of_any_single_byte_is_found() {
    let original = written();
    let records = read_all(original.path());
    for name in segments(original.path()) {
        let bytes = fs::read(original.path().join(&name)).unwrap();
        for at in (0..bytes.len()).step_by(3) {
            let dir = tempfile::tempdir().unwrap();
            copy(original.path(), dir.path());
            let mut bytes = bytes.clone();
            bytes[at] = bytes[at].wrapping_add(1);
            fs::write(dir.path().join(&name), bytes).unwrap();
            check_found_or_torn(dir.path(), &records);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn overwritten_inserted_or_removed_bytes_are_found(
        segment: prop::sample::Index, at: prop::sample::Index, removed in 0_usize..200,
        inserted in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = written();
        let records = read_all(dir.path());
        let path = dir.path().join(segment.get(&segments(dir.path())));
        let bytes = fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        let altered = [&bytes[..at], &inserted, bytes.get(at + removed..).unwrap_or_default()].concat();
        // A cut exactly behind a batch of the last segment leaves a shorter but valid log: only a kept root shows it.
        prop_assume!(altered != bytes && !bytes.starts_with(&altered));
        fs::write(&path, altered).unwrap();
        check_found_or_torn(dir.path(), &records);
    }

    #[test]
    fn arbitrary_bytes_in_place_of_a_segment_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("000000000000.seg"), bytes).unwrap();
        prop_assert_eq!(damage_of(dir.path()).what, Flaw::Header);
        prop_assert!(matches!(Journal::open(dir.path(), OpenOptions::default()), Err(JournalError::Damaged(_))));
    }
}

/// Something done to the files of a journal.
enum Alteration<'a> {
    Remove(&'a str),
    Rename(&'a str, &'a str),
    Swap(&'a str, &'a str),
    Extend(&'a str),
    Unseal(&'a str),
    TakeFromAnotherLog(&'a str),
}

fn alter(dir: &Path, alteration: &Alteration<'_>) {
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    match *alteration {
        Alteration::Remove(name) => fs::remove_file(dir.join(name)).unwrap(),
        Alteration::Rename(from, to) => fs::rename(dir.join(from), dir.join(to)).unwrap(),
        Alteration::Swap(a, b) => {
            let (bytes_a, bytes_b) = (read(a), read(b));
            write(a, &bytes_b);
            write(b, &bytes_a);
        }
        Alteration::Extend(name) => write(name, &[read(name), vec![1; 3]].concat()),
        Alteration::Unseal(name) => {
            let bytes = read(name);
            write(name, &bytes[..bytes.len() - SEAL_BYTES]);
        }
        Alteration::TakeFromAnotherLog(name) => write(name, &fs::read(written().path().join(name)).unwrap()),
    }
}

#[test]
fn removed_swapped_and_foreign_segments_are_found_by_verifying_and_by_opening() {
    let names = segments(written().path());
    let (first, second, third, last) = (&names[0], &names[1], &names[2], names.last().unwrap());
    let far = "000000009999.seg";
    let cases = [
        (Alteration::Remove(first), second, Flaw::NoBase),
        (Alteration::Remove(second), first, Flaw::SegmentMissing),
        (Alteration::Rename(last, far), &names[names.len() - 2], Flaw::SegmentMissing),
        (Alteration::Swap(second, third), second, Flaw::Name),
        (Alteration::Extend(first), first, Flaw::AfterSeal),
        (Alteration::Unseal(first), first, Flaw::NotSealed),
        (Alteration::TakeFromAnotherLog(last), last, Flaw::ForeignLog),
    ];
    for (alteration, segment, flaw) in cases {
        let dir = written();
        alter(dir.path(), &alteration);
        let damage = damage_of(dir.path());
        assert_eq!((&damage.segment, damage.what), (segment, flaw), "{damage}");
        let opened = Journal::open(dir.path(), OpenOptions::default());
        assert!(matches!(opened, Err(JournalError::Damaged(_))), "opened in spite of: {damage}");
    }
}

/// Batches written again with valid checksums, as somebody would who knows the format.
#[test]
fn altered_removed_and_reordered_batches_with_valid_checksums_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Journal::open(dir.path(), OpenOptions::default()).unwrap().0;
    drop(open());
    let path = dir.path().join("000000000000.seg");
    let mut ends = vec![fs::read(&path).unwrap().len()];
    for number in 0..4 {
        open().append(&body(number)).unwrap();
        ends.push(fs::read(&path).unwrap().len());
    }
    let bytes = fs::read(&path).unwrap();
    let batch = |number: usize| bytes[ends[number]..ends[number + 1]].to_vec();
    let header = bytes[..ends[0]].to_vec();
    let altered = {
        let mut batch = batch(1);
        let record = Head::parse(&batch).unwrap();
        let mut frame = Vec::new();
        encode(Kind::Record, (1, record.time_ns), &body(7), &mut frame);
        batch.splice(..record.frame_bytes(), frame);
        batch
    };
    let cases = [
        ("altered", vec![batch(0), altered, batch(2), batch(3)], Flaw::Root),
        ("removed", vec![batch(0), batch(2), batch(3)], Flaw::Sequence { found: 2 }),
        ("reordered", vec![batch(0), batch(2), batch(1), batch(3)], Flaw::Sequence { found: 2 }),
        ("repeated", vec![batch(0), batch(1), batch(1)], Flaw::Sequence { found: 1 }),
    ];
    for (what, batches, flaw) in cases {
        fs::write(&path, [vec![header.clone()], batches].concat().concat()).unwrap();
        assert_eq!(damage_of(dir.path()).what, flaw, "{what}");
        assert!(matches!(
            Journal::open(dir.path(), OpenOptions::default()),
            Err(JournalError::Damaged(damage)) if damage.what == flaw
        ));
    }
}

/// Puts a body made from the old one into the frame at this offset, with a valid checksum.
fn forge(bytes: &mut Vec<u8>, at: usize, change: &dyn Fn(&[u8]) -> Vec<u8>) {
    let frame = crate::frame::Frame::parse(&bytes[at..]).unwrap();
    let (head, body) = (frame.head, change(frame.body()));
    let mut forged = Vec::new();
    encode(head.kind, (head.seq, head.time_ns), &body, &mut forged);
    bytes.splice(at..at + head.frame_bytes(), forged);
}

/// Checks that verifying finds `flaw` and opening refuses, once `change` is made to this segment.
fn check_forged(segment: usize, flaw: Flaw, change: &dyn Fn(&mut Vec<u8>)) {
    let dir = written();
    let path = dir.path().join(&segments(dir.path())[segment]);
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    assert_eq!(damage_of(dir.path()).what, flaw);
    let opened = Journal::open(dir.path(), OpenOptions::default());
    // Opening does not read sealed batches again; their seal and the next header still have to agree.
    let in_sealed_batch = matches!(flaw, Flaw::Chain | Flaw::Batch);
    assert_eq!(matches!(opened, Err(JournalError::Damaged(_))), !in_sealed_batch, "{flaw}");
}

fn with_trailer(body: &[u8], change: &dyn Fn(Trailer) -> Trailer) -> Vec<u8> {
    change(Trailer::parse(body).unwrap()).to_body()
}

#[test]
fn forged_trailers_seals_and_headers_with_valid_checksums_are_found() {
    let other = crate::Hash::of(b"other");
    let last_trailer = |bytes: &[u8]| bytes.len() - SEAL_BYTES - TRAILER_BYTES;
    let trailer = |change: fn(Trailer) -> Trailer| {
        move |bytes: &mut Vec<u8>| forge(bytes, last_trailer(bytes), &|body| with_trailer(body, &change))
    };
    check_forged(0, Flaw::Chain, &trailer(|old| Trailer { previous: old.root, ..old }));
    check_forged(0, Flaw::Batch, &trailer(|old| Trailer { first_seq: old.first_seq + 1, ..old }));
    let seal = |change: fn(Seal) -> Seal| {
        move |bytes: &mut Vec<u8>| {
            forge(bytes, bytes.len() - SEAL_BYTES, &|body| change(Seal::parse(body).unwrap()).to_body());
        }
    };
    check_forged(0, Flaw::Seal, &seal(|old| Seal { records: old.records + 1, ..old }));
    check_forged(0, Flaw::Seal, &seal(|old| Seal { root: old.last_trailer, ..old }));
    for segment in [0, 1] {
        check_forged(segment, Flaw::Link, &|bytes| {
            let (header, length) = Header::parse(bytes).unwrap();
            bytes.splice(..length, Header { last_trailer: other, ..header }.encode());
        });
    }
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    for place in ["a segment", "the checkpoints"] {
        let dir = written();
        let path = match place {
            "a segment" => dir.path().join(segments(dir.path()).pop().unwrap()),
            _ => dir.path().join(crate::CHECKPOINTS),
        };
        let _ = fs::remove_file(&path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let (verified, newest) = (verify(dir.path()), crate::newest(dir.path()));
        assert!(matches!(verified, Err(JournalError::Io { action: "open", .. })), "{place}: {verified:?}");
        assert_eq!(newest.is_ok(), place == "a segment");
        if place == "a segment" {
            assert!(Journal::open(dir.path(), OpenOptions::default()).is_err());
        }
    }
}
