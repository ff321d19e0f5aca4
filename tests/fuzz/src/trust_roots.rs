//! Whose signatures count, as strangers may write it: trust roots, release orders, exceptions.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::exception::{self, EXCEPTION_TYPE};
use turnout_manifest::key::PrivateKey;
use turnout_manifest::order::{
    self, ORDER_SCHEMA, ORDER_TYPE, OrderOccasion, OrderTarget, ReleaseOrder, Whereabouts,
};
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{ROOT_SCHEMA, ROOT_TYPE, RootKey, TrustRoot};
use turnout_manifest::trust::{Purpose, Verdict};
use turnout_manifest::{Channel, Sha256, SignedRoot, canonical};

/// A root of one key that was thrown away, as it is sent; and in force.
static FIRST: LazyLock<(Vec<u8>, SignedRoot)> = LazyLock::new(|| {
    let key = PrivateKey::generate().expect("the system has random numbers");
    let public_key = key.public_key();
    let key_id = public_key.id();
    let root = TrustRoot {
        keys: vec![RootKey::active("fuzz".to_owned(), public_key)],
        root: Quorum { keys: vec![key_id], threshold: 1 },
        ..nobody()
    };
    let bytes = signed(ROOT_TYPE, root.to_json().expect("a sound root"), &key);
    let accepted = SignedRoot::first(&bytes).into_accepted().expect("signed by its own key");
    (bytes, accepted)
});

/// A root in which nobody may sign anything.
fn nobody() -> TrustRoot {
    TrustRoot {
        schema: ROOT_SCHEMA.to_owned(),
        version: 1,
        created_ms: 1,
        expires_ms: 1 << 50,
        keys: Vec::new(),
        root: Quorum { keys: Vec::new(), threshold: 1 },
        issuers: Vec::new(),
        orders: None,
        exceptions: None,
        deny: Vec::new(),
    }
}

fn signed(kind: &str, payload: Vec<u8>, key: &PrivateKey) -> Vec<u8> {
    let envelope = Envelope::sign(kind, payload, key).expect("a short constant type");
    envelope.to_json().expect("a small document")
}

/// A trust root, a first one from a stranger, and a successor: never in force without the keys before it, and what is
/// read survives being written.
pub fn trust_root(bytes: &[u8]) -> bool {
    let (_, first) = &*FIRST;
    assert!(first.next(bytes).into_accepted().is_none(), "the key was thrown away");
    let Ok(root) = TrustRoot::from_json(bytes) else {
        return SignedRoot::first(bytes).into_accepted().is_some();
    };
    let written = root.to_json().expect("it was sound");
    assert_eq!(TrustRoot::from_json(&written).expect("it was written"), root);
    true
}

/// A root as it is signed, and its payload.
pub fn trust_roots() -> Vec<Vec<u8>> {
    let (bytes, first) = &*FIRST;
    vec![bytes.clone(), first.root().to_json().expect("a sound root")]
}

/// A release order and an exception from a stranger: never valid where nobody may sign any.
pub fn order(bytes: &[u8]) -> bool {
    let root = nobody();
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
    let Ok(order) = canonical::from_canonical::<ReleaseOrder>(bytes) else { return false };
    assert_eq!(canonical::to_canonical(&order).expect("it was canonical"), bytes);
    true
}

/// An order, and what a stranger has signed as an order and as an exception.
pub fn orders() -> Vec<Vec<u8>> {
    let order = ReleaseOrder {
        schema: ORDER_SCHEMA.to_owned(),
        target: OrderTarget::Host("web-1".parse().expect("a name")),
        channel: Channel::default(),
        epoch: 1,
        counter: 7,
        created_ms: 1,
        expires_ms: 1_000,
        model: "fraud".parse().expect("a name"),
        manifest: Sha256::of(b"x"),
    };
    let payload = canonical::to_canonical(&order).expect("an order is canonical");
    let stranger = PrivateKey::generate().expect("the system has random numbers");
    let as_sent = [ORDER_TYPE, EXCEPTION_TYPE].map(|kind| signed(kind, payload.clone(), &stranger));
    as_sent.into_iter().chain([payload]).collect()
}
