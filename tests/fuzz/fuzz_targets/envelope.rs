//! A signed manifest from a stranger: never a panic, and never valid without a trusted key.
#![no_main]

use turnout_manifest::trust::{TrustStore, Verdict, verify};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let verification = verify(bytes, &TrustStore::default());
    assert_ne!(verification.verdict, Verdict::Valid);
});
