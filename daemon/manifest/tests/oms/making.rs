//! Bundles made for the tests: rightly signed over whatever payload, and what is made of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::sync::LazyLock;
use turnout_manifest::Sha256;
use turnout_manifest::envelope::pre_authentication_encoding;
use turnout_manifest::key::PrivateKey;
use turnout_manifest::oms::{
    Export, Found, MEDIA_TYPE, PAYLOAD_TYPE, Signer, Signers, Verification, compare, verify,
};
use turnout_manifest::trust::{CheckResult, Outcome, Verdict};

pub static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate().unwrap());
pub static OTHER: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate().unwrap());

pub fn known(keys: &[&PrivateKey]) -> Signers {
    let signer = |key: &&PrivateKey| Signer { name: "somebody".into(), key: key.public_key() };
    Signers::Keys(keys.iter().map(signer).collect())
}

pub fn judge(bundle: &[u8]) -> Verification {
    verify(bundle, &known(&[&KEY]), &BTreeSet::new())
}

/// The verdict and the check that failed.
pub fn outcome(verification: &Verification) -> (Verdict, String) {
    outcome_of(verification.verdict, &verification.checks)
}

pub fn outcome_of(verdict: Verdict, checks: &[CheckResult]) -> (Verdict, String) {
    let failed = checks.iter().find(|check| check.result == Outcome::Fail);
    (verdict, failed.map(|check| format!("{}: {}", check.name, check.detail)).unwrap_or_default())
}

pub fn contents() -> BTreeMap<&'static str, &'static [u8]> {
    BTreeMap::from([("a.txt", &b"alpha"[..]), ("a/b.bin", &[7; 2500]), ("empty.bin", b"")])
}

pub fn exported(files: &BTreeMap<&'static str, &'static [u8]>) -> Vec<u8> {
    let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), Sha256::of(bytes))).collect();
    let export = Export { subject: "m", files: &files, ignored: &[".git".to_owned()] };
    let signable = export.signable().unwrap();
    signable.bundle(&KEY.public_key(), &KEY.sign(&signable.signed_bytes()))
}

/// A statement over these resources with a root digest that fits.
pub fn statement(resources: Value, serialization: Value) -> Value {
    let mut digests = Vec::new();
    for resource in resources.as_array().unwrap() {
        let hex = resource["digest"].as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16);
        digests.extend((0..hex.len() / 2).map_while(|at| byte(at * 2).ok()));
    }
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": Sha256::of(&digests).hex()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    })
}

pub fn resource(name: &str) -> Value {
    json!({"name": name, "algorithm": "sha256", "digest": Sha256::of(b"x").hex()})
}

pub fn plain() -> Value {
    json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": []})
}

/// A bundle over these payload bytes, rightly signed.
pub fn bundle_over(payload: &[u8]) -> Value {
    let signature = KEY.sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload));
    json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": KEY.public_key().pem_fingerprint().hex()}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
        },
    })
}

pub fn judge_statement(statement: &Value) -> (Verdict, String) {
    outcome(&judge(bundle_over(statement.to_string().as_bytes()).to_string().as_bytes()))
}

pub fn judge_names(names: &[&str]) -> (Verdict, String) {
    judge_statement(&statement(names.iter().map(|name| resource(name)).collect(), plain()))
}

pub fn found(files: &BTreeMap<&'static str, &'static [u8]>) -> Found {
    let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.len() as u64)).collect();
    Found { files, empty_folders: 0 }
}

pub fn compared(verification: Verification, files: &BTreeMap<&'static str, &'static [u8]>) -> Verification {
    let check = compare(verification.statement().unwrap(), &found(files), &mut |name| {
        Ok(Box::new(Cursor::new(files[name])) as Box<dyn Read>)
    });
    verification.with_files(check)
}

pub fn sharded(shards: &[(&str, u64, u64)], size: Value) -> Value {
    let bytes = contents();
    let resources = shards.iter().map(|(name, start, end)| {
        let range = *start as usize..(*end as usize).min(bytes[name].len());
        let digest = Sha256::of(bytes[name].get(range).unwrap_or_default()).hex();
        json!({"name": format!("{name}:{start}:{end}"), "algorithm": "sha256", "digest": digest})
    });
    let mut serialization = plain();
    serialization["method"] = json!("shards");
    serialization["shard_size"] = size;
    statement(resources.collect(), serialization)
}
