//! What the tests of trust roots stand on: keys, a root, and documents signed by whomever.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use turnout_manifest::canonical::to_canonical;
use turnout_manifest::envelope::{Envelope, MANIFEST_TYPE};
use turnout_manifest::key::{KeyId, PrivateKey};
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::quorum::{Examined, Quorum};
use turnout_manifest::root::{
    ExceptionPolicy, Issuer, Member, OrderPolicy, ROOT_SCHEMA, ROOT_TYPE, RootKey, SignerRole, TrustRoot,
};
use turnout_manifest::trust::{
    Authority, History, Occasion, Outcome, Purpose, Verdict, Verification, verify_by,
};
use turnout_manifest::{Channel, Description, Manifest, Sha256, SignedRoot};

/// Six keys: two of the root, two of the issuer, one for orders, one for exceptions.
pub static KEYS: LazyLock<Vec<PrivateKey>> =
    LazyLock::new(|| (0..8).map(|_| PrivateKey::generate().unwrap()).collect());
pub const ROOT: [usize; 2] = [0, 1];
pub const BUILDER: usize = 2;
pub const APPROVER: usize = 3;
pub const ORDERS: usize = 4;
pub const EXCEPTIONS: usize = 5;
pub const STRANGER: usize = 6;
pub const SPARE: usize = 7;

pub const NOW: u64 = 1_800_000_000_000;
pub const DAY: u64 = 86_400_000;

pub fn id(key: usize) -> KeyId {
    KEYS[key].public_key().id()
}

pub fn known(key: usize) -> RootKey {
    RootKey::active(format!("owner-{key}"), KEYS[key].public_key())
}

pub fn channel(name: &str) -> Channel {
    name.parse().unwrap()
}

/// A root with two of two, an issuer with builder and approver, orders and exceptions.
pub fn root(version: u64) -> TrustRoot {
    let member = |key: usize, role| Member { key_id: id(key), roles: vec![role] };
    TrustRoot {
        schema: ROOT_SCHEMA.to_owned(),
        version,
        created_ms: NOW - 10 * DAY,
        expires_ms: NOW + 100 * DAY,
        keys: (0..6).map(known).collect(),
        root: Quorum { keys: ROOT.map(id).to_vec(), threshold: 2 },
        issuers: vec![Issuer {
            name: "risk-models".to_owned(),
            keys: vec![member(BUILDER, SignerRole::Builder), member(APPROVER, SignerRole::Approver)],
            threshold: 2,
            models: vec!["fraud*".parse().unwrap()],
            channels: vec![channel("prod"), channel("staging")],
            require: vec![SignerRole::Builder, SignerRole::Approver],
        }],
        orders: Some(OrderPolicy {
            signers: Quorum { keys: vec![id(ORDERS)], threshold: 1 },
            epoch: 1,
            floors: BTreeMap::from([(channel("prod"), 10)]),
            required: vec![channel("prod")],
        }),
        exceptions: Some(ExceptionPolicy {
            signers: Quorum { keys: vec![id(EXCEPTIONS)], threshold: 1 },
            channels: vec![channel("staging")],
        }),
        deny: Vec::new(),
    }
}

/// The payload under this type, signed by these keys in turn.
pub fn sealed(payload_type: &str, payload: Vec<u8>, keys: &[usize]) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(payload_type, payload).unwrap();
    for key in keys {
        let signature = KEYS[*key].sign(&envelope.signed_bytes());
        envelope.attach(&KEYS[*key].public_key(), signature).unwrap();
    }
    envelope.to_json().unwrap()
}

pub fn signed_root(root: &TrustRoot, keys: &[usize]) -> Vec<u8> {
    sealed(ROOT_TYPE, to_canonical(root).unwrap(), keys)
}

pub fn first() -> SignedRoot {
    SignedRoot::first(&signed_root(&root(1), &ROOT)).into_accepted().unwrap()
}

/// The verdict and the check that failed, `-` when none did.
pub fn found<T>(examined: &Examined<T>) -> (Verdict, String) {
    let failed = examined.checks.iter().find(|check| check.result == Outcome::Fail);
    (examined.verdict, failed.map_or("-".to_owned(), |check| check.name.clone()))
}

pub fn manifest(of: &str) -> Manifest {
    let mut description =
        Description::template("fraud".parse().unwrap(), "1.4.0".parse().unwrap(), "m.onnx".to_owned());
    description.channel = channel(of);
    let file = FileEntry { path: "m.onnx".to_owned(), size: 3, sha256: Sha256::of(b"abc") };
    description.into_manifest(vec![file]).unwrap()
}

pub fn digest(of: &str) -> Sha256 {
    Sha256::of(&manifest(of).to_canonical().unwrap())
}

pub fn signed_manifest(of: &str, keys: &[usize]) -> Vec<u8> {
    sealed(MANIFEST_TYPE, manifest(of).to_canonical().unwrap(), keys)
}

/// What a host knows.
#[derive(Default)]
pub struct Known {
    pub first_seen_ms: Option<u64>,
    pub exception: Option<String>,
}

impl History for Known {
    fn first_seen_ms(&self, _: Sha256) -> Option<u64> {
        self.first_seen_ms
    }

    fn exception(&self, _: Sha256) -> Option<&str> {
        self.exception.as_deref()
    }
}

pub fn judged(bytes: &[u8], root: &TrustRoot, known: &Known) -> Verification {
    judged_at(bytes, root, (known, NOW, Purpose::NewWork))
}

pub fn judged_at(
    bytes: &[u8],
    root: &TrustRoot,
    (known, now_ms, purpose): (&Known, u64, Purpose),
) -> Verification {
    let channels = [channel("prod"), channel("staging")];
    let occasion = Occasion { now_ms, purpose, channels: Some(&channels), history: known };
    verify_by(bytes, Authority::Root(root), &occasion)
}

pub fn outcome(verification: &Verification) -> (Verdict, String) {
    let failed = verification.checks.iter().find(|check| check.result == Outcome::Fail);
    (verification.verdict, failed.map_or("-".to_owned(), |check| check.name.clone()))
}

pub fn is(found: (Verdict, String), verdict: Verdict, check: &str, what: &str) {
    assert_eq!(found, (verdict, check.to_owned()), "{what}");
}
