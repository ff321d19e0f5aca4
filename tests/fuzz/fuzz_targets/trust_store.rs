//! The trust store's file.
#![no_main]

use turnout_manifest::TrustStore;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = TrustStore::from_json(bytes);
});
