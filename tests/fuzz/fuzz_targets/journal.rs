//! A journal segment from an untrusted copy: verification ends with a verdict, never with a panic.
#![no_main]

use std::fs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    fs::write(folder.path().join("000000000000.seg"), bytes).expect("a file in memory");
    let _ = turnout_journal::verify(folder.path());
});
