//! What people and strangers write about versions: manifests, plans, trust, bundles.

use crate::{fixture, fixtures};
use std::borrow::Cow;
use std::collections::BTreeSet;
use turnout_manifest::canonical::{parse, parse_canonical};
use turnout_manifest::envelope::{Envelope, MANIFEST_TYPE};
use turnout_manifest::expression::{EXPRESSION_MAX, Expression, Subject};
use turnout_manifest::key::PrivateKey;
use turnout_manifest::oms::{self, Bundle, Signers, Statement};
use turnout_manifest::trust::{TrustStore, TrustedKey, Verdict, verify};
use turnout_manifest::{Description, Manifest, Plan};

/// Where the manifest's own tests keep their documents.
const VALID: &str = "daemon/manifest/tests/cases/valid";
/// The same for bundles in the OpenSSF Model Signing format.
const BUNDLES: &str = "daemon/manifest/tests/oms/bundles";
/// Bundles that a search starts from: those of one signer are much alike.
const BUNDLES_TAKEN: usize = 24;

/// Strict JSON: what is accepted has one canonical form, and that form is accepted as itself.
pub fn canonical_json(bytes: &[u8]) -> bool {
    let Ok(value) = parse(bytes) else { return false };
    let canonical = value.to_bytes();
    let again = parse_canonical(&canonical).expect("the canonical form is canonical");
    assert_eq!(again.to_bytes(), canonical);
    true
}

/// The payload of a signed manifest: what is accepted writes itself back to the same bytes.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(manifest) = Manifest::from_canonical(bytes) else { return false };
    assert_eq!(manifest.to_canonical().expect("a manifest serializes"), bytes);
    true
}

/// Manifests in their canonical form.
pub fn documents() -> Vec<Vec<u8>> {
    let canonical = |bytes: Vec<u8>| parse(&bytes).map(|value| value.to_bytes()).unwrap_or(bytes);
    fixtures(VALID, ".manifest.json").into_iter().map(canonical).collect()
}

/// `turnout.yaml` as people write it.
pub fn description(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| Description::from_yaml(text).is_ok())
}

/// The descriptions of the manifest's tests.
pub fn descriptions() -> Vec<Vec<u8>> {
    fixtures(VALID, ".description.yaml")
}

/// A plan as people write it: what is accepted has no problem left.
pub fn plan(bytes: &[u8]) -> bool {
    let Some(plan) = std::str::from_utf8(bytes).ok().and_then(|text| Plan::from_yaml(text).ok()) else {
        return false;
    };
    assert!(plan.problems().is_empty());
    true
}

/// The plans of the manifest's tests.
pub fn plans() -> Vec<Vec<u8>> {
    fixtures(VALID, ".plan.yaml")
}

/// A signed manifest from a stranger: never valid without a trusted key. Accepted is one whose form holds.
pub fn envelope(bytes: &[u8]) -> bool {
    assert_ne!(verify(bytes, &TrustStore::default()).verdict, Verdict::Valid);
    Envelope::parse(bytes).is_ok()
}

/// Signed manifests, each with a key that is thrown away.
pub fn envelopes() -> Vec<Vec<u8>> {
    let sign = |payload: Vec<u8>| {
        let key = PrivateKey::generate().expect("the kernel gives random bytes");
        Envelope::sign(MANIFEST_TYPE, payload, &key)
            .and_then(|made| made.to_json())
            .expect("it can be signed")
    };
    documents().into_iter().map(sign).collect()
}

/// A request whose every part is the fuzzer's.
struct Request<'a>(&'a str);

impl Subject for Request<'_> {
    fn method(&self) -> &str {
        self.0
    }

    fn path(&self) -> &str {
        self.0
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.0.contains(name).then_some(self.0)
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.contains(name).then_some(Cow::Borrowed(self.0))
    }
}

/// An expression of a plan, and behind a line end a request: what is accepted says yes or no of any request, within its
/// limits, and writes itself so that it is read as the same.
pub fn expression(bytes: &[u8]) -> bool {
    let Ok(input) = std::str::from_utf8(bytes) else { return false };
    let (text, request) = input.split_once('\n').unwrap_or((input, ""));
    let Ok(expression) = text.parse::<Expression>() else { return false };
    assert!(text.len() <= EXPRESSION_MAX);
    let _ = expression.matches(&Request(request));
    assert_eq!(expression.to_string().parse::<Expression>().as_ref(), Ok(&expression));
    true
}

/// Expressions as the guide shows them.
pub fn expressions() -> Vec<Vec<u8>> {
    let texts = [
        r#"headers["x-region"] in ["eu", "uk"] && path.endsWith("/infer")"#,
        "method == 'POST' || !(\"x-user\" in headers) && query['a'] != 'b'\nx-user",
        "path.startsWith('/v2') && (path.contains('a') || 'a' in query)\na",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The trust store's file: what is accepted is read back as what it was.
pub fn trust_store(bytes: &[u8]) -> bool {
    let Ok(store) = TrustStore::from_json(bytes) else { return false };
    let written = store.to_json().expect("a trust store serializes");
    let again = TrustStore::from_json(&written).expect("what was written reads back");
    assert_eq!(again.to_json().expect("a trust store serializes"), written);
    true
}

/// An empty store, and one with two keys.
pub fn trust_stores() -> Vec<Vec<u8>> {
    let mut store = TrustStore::default();
    let mut written = vec![store.to_json().expect("a trust store serializes")];
    for issuer in ["risk-models", "ci"] {
        let key = PrivateKey::generate().expect("the kernel gives random bytes").public_key();
        let models = ["fraud*".to_owned(), "digits".to_owned()];
        let trusted = TrustedKey::new(issuer, key, &models).expect("these are globs");
        store.add(trusted).expect("the key is new");
    }
    written.push(store.to_json().expect("a trust store serializes"));
    written
}

/// A bundle in the OpenSSF Model Signing format from a stranger, and its statement as if the signature had held: never
/// valid without a trusted key.
pub fn oms_bundle(bytes: &[u8]) -> bool {
    let allowed = BTreeSet::new();
    assert_ne!(oms::verify(bytes, &Signers::Keys(Vec::new()), &allowed).verdict, Verdict::Valid);
    let _ = Statement::parse(bytes, &allowed);
    let Ok(bundle) = Bundle::parse(bytes) else { return false };
    let _ = Statement::parse(&bundle.payload, &allowed);
    true
}

/// Some of the bundles that the reference implementation wrote, and of those that it should have refused.
pub fn oms_bundles() -> Vec<Vec<u8>> {
    let all = fixtures(BUNDLES, "");
    let every = (all.len() / BUNDLES_TAKEN).max(1);
    all.into_iter().step_by(every).collect()
}

/// What stands in place of a signed manifest for a version that only a bundle vouches for. Accepted is what is JSON.
pub fn oms_evidence(bytes: &[u8]) -> bool {
    assert_ne!(verify(bytes, &TrustStore::default()).verdict, Verdict::Valid);
    parse_canonical(bytes).is_ok()
}

/// Evidence whose parts do not belong together.
pub fn oms_evidences() -> Vec<Vec<u8>> {
    let manifest = fixture(&format!("{VALID}/small.manifest.json"));
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("it is JSON");
    let evidence = |bundle: Vec<u8>| {
        let value = serde_json::json!({
            "bundle": String::from_utf8_lossy(&bundle), "ignored": [".git"], "manifest": manifest,
            "schema": "turnout.oms-evidence/v1",
        });
        turnout_manifest::canonical::to_canonical(&value).expect("it is plain data")
    };
    oms_bundles().into_iter().take(4).map(evidence).collect()
}
