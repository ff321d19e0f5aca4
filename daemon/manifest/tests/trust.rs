//! Verdicts over signed manifests: what is valid, and that nothing near it is.

#![expect(clippy::unwrap_used, reason = "a test stops where its ground is missing")]

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io;
use std::sync::LazyLock;
use turnout_manifest::envelope::{Envelope, MANIFEST_TYPE};
use turnout_manifest::key::PrivateKey;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::trust::{Outcome, TrustStore, TrustedKey, Verdict, Verification, check_files, verify};
use turnout_manifest::{Description, Manifest, Sha256};

static KEYS: LazyLock<[PrivateKey; 3]> = LazyLock::new(|| [(); 3].map(|()| PrivateKey::generate().unwrap()));

fn manifest() -> Manifest {
    let description =
        Description::template("fraud".parse().unwrap(), "1.4.0".parse().unwrap(), "m.onnx".to_owned());
    let file = |path: &str| FileEntry { path: path.to_owned(), size: 3, sha256: Sha256::of(b"abc") };
    description.into_manifest(vec![file("notes.txt"), file("m.onnx")]).unwrap()
}

fn signed(payload: Vec<u8>, keys: &[&PrivateKey]) -> Vec<u8> {
    let mut envelope = Envelope::sign(MANIFEST_TYPE, payload, keys[0]).unwrap();
    for key in &keys[1..] {
        envelope.add_signature(key).unwrap();
    }
    envelope.to_json().unwrap()
}

fn store(entries: &[(&str, &PrivateKey, &str)]) -> TrustStore {
    let mut store = TrustStore::default();
    for (issuer, key, glob) in entries {
        store.add(TrustedKey::new(issuer, key.public_key(), &[(*glob).to_owned()]).unwrap()).unwrap();
    }
    store
}

/// The verdict and the first check that did not pass.
fn outcome(verification: &Verification) -> (Verdict, &str) {
    let names: Vec<&str> = verification.checks.iter().map(|check| check.name.as_str()).collect();
    let all = ["envelope", "payload-type", "signature", "canonical", "manifest", "trust", "files"];
    assert_eq!(names, all, "every check is accounted for");
    let first = verification.checks.iter().find(|check| check.result != Outcome::Pass).unwrap();
    (verification.verdict, &first.name)
}

#[test]
fn verdicts_follow_the_signers_and_the_form() {
    let [a, b, c] = &*KEYS;
    let good = manifest().to_canonical().unwrap();
    let pretty = serde_json::to_vec_pretty(&manifest()).unwrap();
    let wrong = Manifest { files: Vec::new(), ..manifest() }.to_canonical().unwrap();
    let only_a = store(&[("risk", a, "fraud*")]);
    let other_type = Envelope::sign("application/vnd.turnout.order.v1+json", good.clone(), a).unwrap();
    // The signature of `a` over other bytes, under the name of `a`.
    let stolen = String::from_utf8(signed(good.clone(), &[a])).unwrap();
    let sig = |text: &str| text[text.find("\"sig\":\"").unwrap() + 7..text.rfind("\"}").unwrap()].to_owned();
    let foreign = String::from_utf8(signed(b"{}".to_vec(), &[a])).unwrap();
    let stolen = stolen.replace(&sig(&stolen), &sig(&foreign)).into_bytes();

    for (name, bytes, trust, expected) in [
        ("signed", signed(good.clone(), &[a]), &only_a, (Verdict::Valid, "files")),
        ("and by a stranger", signed(good.clone(), &[b, a]), &only_a, (Verdict::Valid, "files")),
        ("by a stranger", signed(good.clone(), &[b, c]), &only_a, (Verdict::Untrusted, "signature")),
        (
            "empty store",
            signed(good.clone(), &[a]),
            &TrustStore::default(),
            (Verdict::Untrusted, "signature"),
        ),
        (
            "another's model",
            signed(good.clone(), &[a]),
            &store(&[("risk", a, "aml*")]),
            (Verdict::Untrusted, "trust"),
        ),
        (
            "one of two may",
            signed(good.clone(), &[a, b]),
            &store(&[("risk", a, "aml"), ("fraud-team", b, "fraud")]),
            (Verdict::Valid, "files"),
        ),
        ("no envelope", good.clone(), &only_a, (Verdict::Rejected, "envelope")),
        ("nothing", Vec::new(), &only_a, (Verdict::Rejected, "envelope")),
        ("another type", other_type.to_json().unwrap(), &only_a, (Verdict::Rejected, "payload-type")),
        ("stolen signature", stolen, &only_a, (Verdict::Rejected, "signature")),
        ("not canonical", signed(pretty, &[a]), &only_a, (Verdict::Rejected, "canonical")),
        ("no files", signed(wrong.clone(), &[a]), &only_a, (Verdict::Rejected, "manifest")),
        ("no files, by a stranger", signed(wrong, &[b]), &only_a, (Verdict::Untrusted, "signature")),
    ] {
        let verification = verify(&bytes, trust);
        assert_eq!(outcome(&verification), expected, "{name}: {:#?}", verification.checks);
        let valid = verification.verdict == Verdict::Valid;
        assert_eq!(verification.into_verified().is_some(), valid, "{name}");
    }
}

#[test]
fn a_bad_signature_of_a_known_key_outweighs_a_good_one() {
    let [a, b, _] = &*KEYS;
    let both = store(&[("risk", a, "*"), ("fraud-team", b, "*")]);
    let good = String::from_utf8(signed(manifest().to_canonical().unwrap(), &[a, b])).unwrap();
    assert_eq!(verify(good.as_bytes(), &both).verdict, Verdict::Valid);
    let other = String::from_utf8(signed(b"{}".to_vec(), &[a, b])).unwrap();
    let last = |text: &str| text[text.rfind("\"sig\":\"").unwrap()..].to_owned();
    let mixed = good.replace(&last(&good), &last(&other));
    assert_eq!(outcome(&verify(mixed.as_bytes(), &both)), (Verdict::Rejected, "signature"));
    assert_eq!(
        verify(mixed.as_bytes(), &store(&[("risk", a, "*")])).verdict,
        Verdict::Valid,
        "a stranger's does not"
    );
}

#[test]
fn what_was_verified_names_digest_and_counted_signers() {
    let [a, b, c] = &*KEYS;
    let payload = manifest().to_canonical().unwrap();
    let trust = store(&[("zeta", a, "*"), ("alpha", b, "fraud"), ("other", c, "aml")]);
    let verification = verify(&signed(payload.clone(), &[a, b, c]), &trust);
    assert_eq!(verification.signed_by, ["alpha", "other", "zeta"]);
    let verified = verification.into_verified().unwrap();
    assert_eq!(verified.manifest(), &manifest());
    assert_eq!(verified.digest(), Sha256::of(&payload));
    assert_eq!(verified.signed_by(), ["alpha", "zeta"]);
    assert_eq!(verified.key_ids(), [a.public_key().id(), b.public_key().id()]);
}

#[test]
fn files_must_be_those_of_the_manifest_and_no_others() {
    let verification =
        verify(&signed(manifest().to_canonical().unwrap(), &[&KEYS[0]]), &store(&[("a", &KEYS[0], "*")]));
    for (present, bytes, expected) in [
        ("m.onnx notes.txt", &b"abc"[..], "2 files are as signed"),
        ("m.onnx", b"abc", "`notes.txt` is missing"),
        ("m.onnx notes.txt x", b"abc", "`x` is not in the manifest"),
        (
            "m.onnx notes.txt",
            b"abcd",
            "`m.onnx` has 4 bytes in place of 3; `notes.txt` has 4 bytes in place of 3",
        ),
        ("m.onnx notes.txt", b"abd", "has digest"),
        ("m.onnx notes.txt", b"", "cannot be read: gone"),
    ] {
        let present: BTreeSet<String> = present.split(' ').map(str::to_owned).collect();
        let mut read = |_: &FileEntry| match bytes {
            [] => Err(io::Error::other("gone")),
            bytes => Ok((Sha256::of(bytes), bytes.len() as u64)),
        };
        let files = check_files(verification.manifest().unwrap(), &present, &mut read);
        assert!(files.detail.contains(expected), "{}", files.detail);
        let good = expected.contains("as signed");
        let whole = verification.clone().with_files(files);
        assert_eq!(whole.verdict, if good { Verdict::Valid } else { Verdict::Rejected });
        assert_eq!(whole.checks.len(), 7);
        assert_eq!(whole.into_verified().is_some(), good);
    }
}

#[test]
fn no_flipped_bit_leaves_an_envelope_valid() {
    let bytes = signed(manifest().to_canonical().unwrap(), &[&KEYS[0]]);
    let trust = store(&[("a", &KEYS[0], "*")]);
    assert_eq!(verify(&bytes, &trust).verdict, Verdict::Valid);
    // Every byte, one of its bits in turn: a signature check costs too much for all eight in a debug build.
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1 << (at % 7);
        assert_ne!(verify(&altered, &trust).verdict, Verdict::Valid, "bit {} of byte {at}", at % 7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_edit_of_an_envelope_leaves_it_valid(at in any::<prop::sample::Index>(), byte in any::<u8>(), kind in 0..3u8) {
        let bytes = signed(manifest().to_canonical().unwrap(), &[&KEYS[0]]);
        let mut altered = bytes.clone();
        let at = at.index(bytes.len());
        match kind {
            0 => altered[at] = byte,
            1 => altered.insert(at, byte),
            _ => { altered.remove(at); }
        }
        let verdict = verify(&altered, &store(&[("a", &KEYS[0], "*")])).verdict;
        prop_assert_eq!(verdict == Verdict::Valid, altered == bytes);
    }

    #[test]
    fn arbitrary_payloads_are_never_valid_and_never_panic(payload in "[\\[\\]{}\",:0-9a-z]{0,60}") {
        let bytes = signed(payload.into_bytes(), &[&KEYS[0]]);
        let verification = verify(&bytes, &store(&[("a", &KEYS[0], "*")]));
        prop_assert_eq!(verification.verdict, Verdict::Rejected);
    }
}
