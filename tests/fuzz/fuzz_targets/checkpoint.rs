//! A signed note from a stranger, and the checkpoint in it: never a panic, never one that a key has signed which has not,
//! and what is read is written back byte for byte.
#![no_main]

use turnout_journal::{Checkpoint, Note, NoteKey};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(note) = Note::parse(bytes) {
        assert_eq!(note.to_string().as_bytes(), bytes);
        let _ = Checkpoint::unverified(&note);
        let key = NoteKey::new("log", turnout_journal::ECDSA, b"key".to_vec()).expect("a legal name");
        assert!(Checkpoint::of(&note, &[key], &|_, _, _| false).is_err());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(key) = text.parse::<NoteKey>() {
            assert_eq!(key.to_string(), text);
        }
    }
});
