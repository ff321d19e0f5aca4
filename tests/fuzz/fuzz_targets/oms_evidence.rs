//! What stands in place of a signed manifest for a version that only a bundle vouches for.
#![no_main]

use turnout_manifest::trust::{TrustStore, Verdict, verify};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let evidence = [&b"{\"bundle\":"[..], bytes].concat();
    assert_ne!(verify(&evidence, &TrustStore::default()).verdict, Verdict::Valid);
});
