//! A proof from a stranger: never a panic, and no proof without a signature.
#![no_main]

use turnout_journal::{NoteKey, ProofFile};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(proof) = ProofFile::parse(bytes) {
        let again = proof.to_string();
        assert_eq!(ProofFile::parse(again.as_bytes()).as_ref(), Ok(&proof));
        let key = NoteKey::new("log", turnout_journal::ECDSA, b"key".to_vec()).expect("a legal name");
        assert!(proof.check(&[key], &|_, _, _| false).is_err());
        // As if every signature held: still no panic on what follows.
        let name = proof.signed().signatures()[0].name.clone();
        if let Ok(key) = NoteKey::new(&name, turnout_journal::ECDSA, b"key".to_vec()) {
            let _ = proof.check(&[key], &|_, _, _| true);
        }
    }
});
