//! Versions that only a bundle vouches for: the manifest beside it may say nothing that is not signed.

use crate::making::{KEY, OTHER, bundle_over, outcome_of, plain, sharded, statement};
use serde_json::{Value, json};
use turnout_manifest::key::PublicKey;
use turnout_manifest::oms::Evidence;
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{Issuer, Member, ROOT_SCHEMA, RootKey};
use turnout_manifest::trust::{Authority, Occasion, TrustedKey, Verdict, verify, verify_by};
use turnout_manifest::{Manifest, Sha256, TrustRoot, TrustStore, canonical};

fn store(models: &str) -> TrustStore {
    let mut store = TrustStore::default();
    store.add(TrustedKey::new("modellers", KEY.public_key(), &[models.to_owned()]).unwrap()).unwrap();
    store
}

fn manifest(files: &[(&str, &str)]) -> Manifest {
    let files: Vec<Value> = files
        .iter()
        .map(|(path, content)| json!({"path": path, "size": content.len(), "sha256": Sha256::of(content.as_bytes())}))
        .collect();
    let tensor = json!([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]);
    let value = json!({
        "schema": "turnout.manifest/v1", "model": "fraud", "version": "1.0.0", "files": files,
        "runtime": {"model_file": "model.onnx", "threads": 1, "memory_bytes": 536_870_912},
        "contract": {"inputs": tensor, "outputs": tensor},
    });
    Manifest::from_canonical(&canonical::to_canonical(&value).unwrap()).unwrap()
}

fn signed(files: &[(&str, &str)]) -> String {
    let resources = files
        .iter()
        .map(|(name, content)| json!({"name": name, "algorithm": "sha256", "digest": Sha256::of(content.as_bytes()).hex()}));
    bundle_over(statement(resources.collect(), plain()).to_string().as_bytes()).to_string()
}

fn evidence(signed_files: &[(&str, &str)], stated: &[(&str, &str)]) -> Vec<u8> {
    let evidence = Evidence { bundle: signed(signed_files), allowed: Vec::new(), manifest: manifest(stated) };
    evidence.to_json().unwrap()
}

const FILES: [(&str, &str); 2] = [("model.onnx", "weights"), ("words.txt", "a")];

#[test]
fn a_version_is_what_its_bundle_signs_and_its_manifest_states() {
    let bytes = evidence(&FILES, &FILES);
    let verification = verify(&bytes, &store("fraud"));
    assert_eq!(outcome_of(verification.verdict, &verification.checks), (Verdict::Valid, String::new()));
    let manifest = manifest(&FILES);
    let verified = verification.into_verified().unwrap();
    assert_eq!(verified.manifest(), &manifest);
    assert_eq!(verified.digest(), Sha256::of(&manifest.to_canonical().unwrap()));
    assert_eq!(
        (verified.signed_by(), verified.key_ids()),
        (&["modellers".to_owned()][..], &[KEY.public_key().id()][..])
    );

    // Files about the version are no part of it, whether or not they are signed.
    let about = [FILES[0], FILES[1], ("turnout.yaml", "model: fraud"), ("turnout.dsse.json", "{}")];
    assert_eq!(verify(&evidence(&about, &FILES), &store("fraud")).verdict, Verdict::Valid);
}

#[test]
fn a_manifest_that_says_more_or_other_than_is_signed_is_rejected() {
    for (stated, told) in [
        (&[FILES[0]][..], "`words.txt` is signed, and the manifest leaves it out"),
        (&[FILES[0], FILES[1], ("zz", "")], "`zz` is in the manifest, and is not signed"),
        (&[FILES[0], ("words.txt", "b")], "`words.txt` has another digest"),
    ] {
        let verification = verify(&evidence(&FILES, stated), &store("fraud"));
        let (verdict, found) = outcome_of(verification.verdict, &verification.checks);
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {found}");
        assert!(verification.into_verified().is_none());
    }
}

#[test]
fn a_signed_root_judges_it_as_it_does_every_version() {
    let (key, root_key) = (KEY.public_key(), OTHER.public_key());
    let known = |owner: &str, key: &PublicKey| RootKey::active(owner.to_owned(), key.clone());
    let root = |threshold: u32, channel: &str| TrustRoot {
        schema: ROOT_SCHEMA.to_owned(),
        version: 1,
        created_ms: 1,
        expires_ms: 2,
        keys: vec![known("modellers", &key), known("alice", &root_key)],
        root: Quorum { keys: vec![root_key.id()], threshold: 1 },
        issuers: vec![Issuer {
            name: "vendor".to_owned(),
            keys: [&key, &root_key].map(|key| Member { key_id: key.id(), roles: Vec::new() }).to_vec(),
            threshold,
            models: vec!["fraud".parse().unwrap()],
            channels: vec![channel.parse().unwrap()],
            require: Vec::new(),
        }],
        orders: None,
        exceptions: None,
        deny: Vec::new(),
    };
    let bytes = evidence(&FILES, &FILES);
    for (root, verdict, told) in [
        (root(1, "prod"), Verdict::Valid, ""),
        // A bundle has one signature: it never meets a threshold of two.
        (root(2, "prod"), Verdict::Untrusted, "1 of 2 needed"),
        (root(1, "staging"), Verdict::Untrusted, "for channel `prod`"),
    ] {
        root.check().unwrap();
        let verification = verify_by(&bytes, Authority::Root(&root), &Occasion::plain());
        let (found, words) = outcome_of(verification.verdict, &verification.checks);
        assert!(found == verdict && words.contains(told), "{told}: {words}");
        assert_eq!(verification.into_verified().is_some(), verdict == Verdict::Valid);
    }
}

#[test]
fn the_signer_must_be_known_and_may_sign_the_stated_model() {
    let bytes = evidence(&FILES, &FILES);
    let mut strangers = TrustStore::default();
    strangers.add(TrustedKey::new("others", OTHER.public_key(), &["*".to_owned()]).unwrap()).unwrap();
    for (store, told) in [
        (store("aml*"), "no signer may sign model `fraud`"),
        (store("aml*"), "`turnoutctl trust remove KEY_ID`, then `turnoutctl trust add`"),
        (strangers, "not trusted here"),
        (TrustStore::default(), "not trusted"),
    ] {
        let verification = verify(&bytes, &store);
        let (verdict, found) = outcome_of(verification.verdict, &verification.checks);
        assert!(verdict == Verdict::Untrusted && found.contains(told), "{told}: {found}");
        assert!(verification.into_verified().is_none());
    }
}

#[test]
fn an_evidence_that_is_not_in_its_one_form_is_rejected() {
    let good = String::from_utf8(evidence(&FILES, &FILES)).unwrap();
    for (bad, told) in [
        (good.replace("turnout.oms-evidence/v1", "turnout.oms-evidence/v2"), "schema"),
        (good.replace("\"ignored\":[]", "\"ignored\":[1]"), "no text"),
        (good.replace("\"ignored\":[]", "\"ignored\":[ ]"), "canonical"),
        (good.replace("\"ignored\":[],", ""), "ignored"),
        (good.clone() + "\n", "canonical"),
        (good[..good.len() - 1].to_owned(), "expected"),
        (good.replace("\"model\":\"fraud\"", "\"model\":\"fr/ud\""), "model"),
    ] {
        let verification = verify(bad.as_bytes(), &store("*"));
        let (verdict, found) = outcome_of(verification.verdict, &verification.checks);
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {verdict} {found}");
    }
}

#[test]
fn a_version_needs_whole_files() {
    let bundle = bundle_over(sharded(&[("a.txt", 0, 5)], json!(1000)).to_string().as_bytes()).to_string();
    let evidence = Evidence { bundle, allowed: Vec::new(), manifest: manifest(&FILES) };
    let verification = verify(&evidence.to_json().unwrap(), &store("*"));
    let (verdict, found) = outcome_of(verification.verdict, &verification.checks);
    assert!(verdict == Verdict::Rejected && found.contains("shards"), "{found}");
}

/// A bundle is not the envelope of a manifest, and an envelope is no bundle: neither passes for the other.
#[test]
fn one_kind_of_signature_never_passes_for_another() {
    let bundle = signed(&FILES);
    assert_eq!(verify(bundle.as_bytes(), &store("*")).verdict, Verdict::Rejected);
    let envelope = turnout_manifest::envelope::Envelope::sign(
        turnout_manifest::envelope::MANIFEST_TYPE,
        manifest(&FILES).to_canonical().unwrap(),
        &KEY,
    );
    let envelope = envelope.unwrap().to_json().unwrap();
    assert_eq!(verify(&envelope, &store("*")).verdict, Verdict::Valid);
    assert_eq!(crate::making::judge(&envelope).verdict, Verdict::Rejected);
}
