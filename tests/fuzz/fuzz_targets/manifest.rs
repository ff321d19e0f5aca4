//! The payload of a signed manifest: what is accepted writes itself back to the same bytes.
#![no_main]

use turnout_manifest::Manifest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_canonical(bytes) {
        assert_eq!(manifest.to_canonical().expect("a manifest serializes"), bytes);
    }
});
