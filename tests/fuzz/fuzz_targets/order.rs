//! A release order and an exception from a stranger: never a panic, and never valid where nobody may sign any.
#![no_main]

use std::collections::BTreeMap;
use turnout_manifest::exception;
use turnout_manifest::order::{self, OrderOccasion, ReleaseOrder, Whereabouts};
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{ROOT_SCHEMA, TrustRoot};
use turnout_manifest::trust::{Purpose, Verdict};
use turnout_manifest::{Channel, Sha256, canonical};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let root = TrustRoot {
        schema: ROOT_SCHEMA.to_owned(),
        version: 1,
        created_ms: 1,
        expires_ms: u64::MAX,
        keys: Vec::new(),
        root: Quorum { keys: Vec::new(), threshold: 1 },
        issuers: Vec::new(),
        orders: None,
        exceptions: None,
        deny: Vec::new(),
    };
    let here = Whereabouts { host: "web-1".parse().expect("a name"), groups: Vec::new() };
    let occasion = OrderOccasion {
        now_ms: 1,
        here: &here,
        version: &"fraud@1.4.0".parse().expect("a reference"),
        manifest: Sha256::of(b"x"),
        channel: &Channel::default(),
        used: &BTreeMap::new(),
    };
    assert_ne!(order::verify(bytes, &root, &occasion).verdict, Verdict::Valid);
    assert_ne!(exception::verify(bytes, &root, (1, Purpose::NewWork)).verdict, Verdict::Valid);
    if let Ok(order) = canonical::from_canonical::<ReleaseOrder>(bytes) {
        let written = canonical::to_canonical(&order).expect("it was canonical");
        assert_eq!(written, bytes);
    }
});
