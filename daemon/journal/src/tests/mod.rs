//! Tests of the whole journal on real files; here is what they share.

mod damage;
mod faults;
mod pruning;
mod signing;
mod tears;
mod writing;

use std::fs;
use std::path::Path;

use crate::{Journal, JournalError, OpenOptions, Reader, Record, Recovered, Tree, Verified, verify};

/// Small enough that a few records fill a segment.
const SMALL_SEGMENT: u64 = 700;

fn small() -> OpenOptions {
    OpenOptions { segment_bytes: SMALL_SEGMENT, ..OpenOptions::default() }
}

fn open(dir: &Path) -> (Journal, Recovered) {
    Journal::open(dir, small()).unwrap()
}

fn body(number: u64) -> Vec<u8> {
    format!(r#"{{"number":{number}}}"#).into_bytes()
}

fn write_records(dir: &Path, count: u64) {
    let (journal, _) = open(dir);
    let size = journal.size();
    (size..size + count).for_each(|number| assert_eq!(journal.append(&body(number)).unwrap().seq, number));
}

fn read_all(dir: &Path) -> Vec<Record> {
    Reader::open(dir, 0).unwrap().collect::<Result<_, JournalError>>().unwrap()
}

/// Checks that the journal holds exactly the bodies of the numbers below its size, and verifies.
fn check_whole(dir: &Path) -> Verified {
    let records = read_all(dir);
    let mut tree = Tree::empty();
    for (number, record) in (0_u64..).zip(&records) {
        assert_eq!((record.seq, &record.body), (number, &body(number)));
        tree.push(record.leaf());
    }
    let verified = verify(dir).unwrap();
    assert_eq!((verified.size, verified.root), (tree.size(), tree.root()));
    verified
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            continue;
        }
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// File names of the segments, ascending.
fn segments(dir: &Path) -> Vec<String> {
    crate::segment::list(dir).unwrap().into_iter().map(crate::segment::file_name).collect()
}
