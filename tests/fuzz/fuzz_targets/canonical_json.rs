//! Strict JSON: what is accepted has one canonical form, and that form is accepted as itself.
#![no_main]

use turnout_manifest::canonical::{parse, parse_canonical};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(value) = parse(bytes) {
        let canonical = value.to_bytes();
        let again = parse_canonical(&canonical).expect("the canonical form is canonical");
        assert_eq!(again.to_bytes(), canonical);
    }
});
