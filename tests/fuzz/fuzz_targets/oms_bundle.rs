//! A bundle in the OpenSSF Model Signing format from a stranger, and its statement as if the signature had held: never a
//! panic, and never valid without a trusted key.
#![no_main]

use std::collections::BTreeSet;
use turnout_manifest::oms::{Bundle, Signers, Statement, verify};
use turnout_manifest::trust::Verdict;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let allowed = BTreeSet::new();
    assert_ne!(verify(bytes, &Signers::Keys(Vec::new()), &allowed).verdict, Verdict::Valid);
    let _ = Statement::parse(bytes, &allowed);
    if let Ok(bundle) = Bundle::parse(bytes) {
        let _ = Statement::parse(&bundle.payload, &allowed);
    }
});
