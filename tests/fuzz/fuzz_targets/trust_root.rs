//! A trust root, a first one from a stranger, and a successor: never a panic, never in force without the keys before it,
//! and what is read survives being written.
#![no_main]

use std::sync::LazyLock;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::key::PrivateKey;
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{KeyState, ROOT_SCHEMA, ROOT_TYPE, RootKey, TrustRoot};
use turnout_manifest::SignedRoot;

static FIRST: LazyLock<SignedRoot> = LazyLock::new(|| {
    let key = PrivateKey::generate().expect("the system has random numbers");
    let public_key = key.public_key();
    let key_id = public_key.id();
    let root = TrustRoot {
        schema: ROOT_SCHEMA.to_owned(),
        version: 1,
        created_ms: 1,
        expires_ms: 2,
        keys: vec![RootKey { owner: "fuzz".to_owned(), key_id, public_key, state: KeyState::Active }],
        root: Quorum { keys: vec![key_id], threshold: 1 },
        issuers: Vec::new(),
        orders: None,
        exceptions: None,
        deny: Vec::new(),
    };
    let payload = root.to_json().expect("a sound root");
    let signed = Envelope::sign(ROOT_TYPE, payload, &key).expect("a short constant type");
    let bytes = signed.to_json().expect("a small document");
    SignedRoot::first(&bytes).into_accepted().expect("signed by its own key")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(root) = TrustRoot::from_json(bytes) {
        assert_eq!(TrustRoot::from_json(&root.to_json().expect("it was sound")).expect("it was written"), root);
    }
    let _ = SignedRoot::first(bytes);
    // The key was thrown away: nothing that a stranger makes follows.
    assert!(FIRST.next(bytes).into_accepted().is_none());
});
