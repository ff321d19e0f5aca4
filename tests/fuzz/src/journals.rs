//! The journal from an untrusted copy: verification ends with a verdict.

use std::fs;
use std::path::Path;
use turnout_engine::{Base, Stamp, World};
use turnout_journal::{Journal, OpenOptions, ReaderPlace};

/// The first segment of a journal.
const FIRST_SEGMENT: &str = "000000000000.seg";

/// A segment, alone in its journal.
pub fn segment(bytes: &[u8]) -> bool {
    let folder = folder();
    fs::write(folder.path().join(FIRST_SEGMENT), bytes).expect("a file in memory");
    turnout_journal::verify(folder.path()).is_ok()
}

/// A journal of some records; and one whose last batch, over zeros, has a sector that was never written.
pub fn segments() -> Vec<Vec<u8>> {
    let folder = folder();
    let bytes = || fs::read(folder.path().join(FIRST_SEGMENT)).expect("the segment that was written");
    drop(journal_in(&folder));
    let whole = bytes();
    let (journal, _) = Journal::open(folder.path(), OpenOptions::default()).expect("it was closed");
    journal.append_all(&[&[b'x'; 300][..]; 9]).expect("a journal in memory takes records");
    drop(journal);
    let mut torn = [bytes(), vec![0; 700]].concat();
    let sector = (whole.len() / 512 + 2) * 512;
    torn[sector..sector + 512].fill(0);
    vec![whole, torn]
}

/// What stands for the records that were pruned: what is read of it is all that is in it.
pub fn base(bytes: &[u8]) -> bool {
    let Ok(base) = Base::parse(bytes) else { return false };
    assert_eq!(base.to_bytes().expect("what was read can be written"), bytes, "more was read, or less");
    true
}

/// The base of nothing, and of a journal with a release, a snapshot under a hold, and a pruning.
pub fn bases() -> Vec<Vec<u8>> {
    let mut world = World::default();
    let records = [
        r#"{"event":"daemon-started","version":"1"}"#,
        r#"{"event":"snapshot-taken","reason":{"by":"a","for":"request","note":""},"snapshot":"1-a","uuid":"u"}"#,
        r#"{"event":"snapshot-held","by":"a","reason":"r","snapshot":"1-a"}"#,
        r#"{"event":"version-deleted","digest":"DIGEST","version":"m@1"}"#,
        r#"{"event":"log-pruned","base":"DIGEST","by":"a","minimum_index":2,"why":"old"}"#,
        r#"{"event":"root-accepted","by":"a","checks":[],"digest":"DIGEST","root":1}"#,
    ];
    let empty = Base { world: world.clone(), ..Base::default() };
    for (seq, record) in (0..).zip(records) {
        let record = record.replace("DIGEST", &format!("sha256:{}", "a".repeat(64)));
        let record = serde_json::from_str(&record).expect("a record");
        world.take(&record, Stamp { seq, at_ms: seq });
    }
    let base = Base { minimum_index: 6, root: "ab".repeat(32), world };
    [empty, base].map(|base| base.to_bytes().expect("small numbers")).to_vec()
}

/// Where a reader of the journal is.
pub fn cursor(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<ReaderPlace>().is_ok())
}

/// Places as this version and an earlier one write them.
pub fn cursors() -> Vec<Vec<u8>> {
    vec![b"42\n".to_vec(), b"42 7 0f8fad5b-d9cb-469f-a165-70867728950e\n".to_vec()]
}

/// A journal of six records.
pub fn journal_in(folder: &tempfile::TempDir) -> Journal {
    let (journal, _) = Journal::open(folder.path(), OpenOptions::default()).expect("a journal in memory");
    for body in [&b"{\"event\":\"daemon-started\"}"[..], b"", &[0xff; 300]] {
        journal.append_all(&[body, b"{}"]).expect("a journal in memory takes records");
    }
    journal
}

pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("turnout-fuzz-").tempdir_in(place).expect("a folder in memory")
}
