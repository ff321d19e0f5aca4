//! The journal from an untrusted copy: verification ends with a verdict.

use std::fs;
use std::path::Path;
use turnout_journal::{Journal, OpenOptions};

/// The first segment of a journal.
const FIRST_SEGMENT: &str = "000000000000.seg";

/// A segment, alone in its journal.
pub fn segment(bytes: &[u8]) -> bool {
    let folder = folder();
    fs::write(folder.path().join(FIRST_SEGMENT), bytes).expect("a file in memory");
    turnout_journal::verify(folder.path()).is_ok()
}

/// A journal of some records.
pub fn segments() -> Vec<Vec<u8>> {
    let folder = folder();
    drop(journal_in(&folder));
    vec![fs::read(folder.path().join(FIRST_SEGMENT)).expect("the segment that was written")]
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
