//! Bundles of the OpenSSF Model Signing format, made here and bent in one place each: what a strict verifier says.
//! The table of bundles made by others is run through `turnoutctl` (`daemon/ctl/tests/oms.rs`).

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

mod certificates;
mod evidence;
mod making;
mod statements;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use making::{
    KEY, OTHER, bundle_over, compared, contents, exported, found, judge, judge_statement, known, outcome,
    plain, resource, statement,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use turnout_manifest::Sha256;
use turnout_manifest::envelope::pre_authentication_encoding;
use turnout_manifest::key::PrivateKey;
use turnout_manifest::oms::{BUNDLE_MAX, Export, PAYLOAD_TYPE, RESOURCES_MAX, compare, verify};
use turnout_manifest::trust::{Outcome, Verdict};

#[test]
fn an_exported_bundle_verifies_and_names_what_differs() {
    let bundle = exported(&contents());
    assert_eq!(outcome(&compared(judge(&bundle), &contents())), (Verdict::Valid, String::new()));
    let mut changed = contents();
    changed.insert("a.txt", b"alphA");
    let mut more = contents();
    more.insert("extra.bin", b"");
    let mut fewer = contents();
    fewer.remove("a/b.bin");
    let mut swapped = contents();
    swapped.insert("a.txt", contents()["a/b.bin"]);
    swapped.insert("a/b.bin", contents()["a.txt"]);
    for (files, named) in [
        (changed, "`a.txt` has digest"),
        (more, "`extra.bin` is not"),
        (fewer, "`a/b.bin` is missing"),
        (swapped, "`a.txt` has"),
    ] {
        let (verdict, told) = outcome(&compared(judge(&bundle), &files));
        assert!(verdict == Verdict::Rejected && told.contains(named), "{named}: {told}");
    }
}

#[test]
fn a_file_that_grows_while_it_is_read_is_told_as_such() {
    let verification = judge(&exported(&contents()));
    let mut early = found(&contents());
    early.files.insert("a.txt".into(), 2);
    let check = compare(verification.statement().unwrap(), &early, &mut |name| {
        Ok(Box::new(Cursor::new(contents()[name])) as Box<dyn Read>)
    });
    assert!(check.result == Outcome::Fail && check.detail.contains("changed while"), "{}", check.detail);
}

#[test]
fn who_signed_decides_between_untrusted_and_rejected() {
    let bundle = exported(&contents());
    let with =
        |signers: &[&PrivateKey], bundle: &[u8]| outcome(&verify(bundle, &known(signers), &BTreeSet::new()));
    assert_eq!(with(&[&OTHER, &KEY], &bundle).0, Verdict::Valid);
    assert_eq!(with(&[&OTHER], &bundle).0, Verdict::Untrusted);
    assert_eq!(with(&[], &bundle).0, Verdict::Untrusted);
    let hint = |hint: String| {
        let mut bent: Value = serde_json::from_slice(&bundle).unwrap();
        bent["verificationMaterial"]["publicKey"]["hint"] = hint.into();
        bent.to_string().into_bytes()
    };
    let right = KEY.public_key().pem_fingerprint().hex();
    for (text, signers, verdict) in [
        (OTHER.public_key().pem_fingerprint().hex(), &[&*OTHER, &*KEY][..], Verdict::Rejected),
        (OTHER.public_key().pem_fingerprint().hex(), &[&*KEY], Verdict::Untrusted),
        (Sha256::of(&KEY.public_key().to_der()).hex(), &[&*KEY], Verdict::Valid),
        (String::new(), &[&*OTHER, &*KEY], Verdict::Valid),
        (String::new(), &[&*OTHER], Verdict::Untrusted),
        // No prefix of a key's fingerprint names it.
        (right[..8].to_owned() + &"0".repeat(56), &[&*KEY], Verdict::Untrusted),
        (right.to_uppercase(), &[&*KEY], Verdict::Untrusted),
    ] {
        assert_eq!(with(signers, &hint(text.clone())).0, verdict, "{text}");
    }
}

#[test]
fn a_bundle_that_is_not_in_the_one_form_is_rejected() {
    let good = bundle_over(statement(json!([resource("a")]), plain()).to_string().as_bytes());
    assert_eq!(judge(good.to_string().as_bytes()).verdict, Verdict::Valid);
    let bend = |path: &str, value: Value| {
        let mut bent = good.clone();
        *bent.pointer_mut(path).unwrap() = value;
        bent
    };
    let grow = |path: &str, name: &str, value: Value| {
        let mut bent = good.clone();
        bent.pointer_mut(path).unwrap()[name] = value;
        bent
    };
    let signature = good["dsseEnvelope"]["signatures"][0].clone();
    let sig = signature["sig"].as_str().unwrap();
    let payload = good["dsseEnvelope"]["payload"].as_str().unwrap();
    let (signatures, sig_at, payload_at) =
        ("/dsseEnvelope/signatures", "/dsseEnvelope/signatures/0/sig", "/dsseEnvelope/payload");
    let wrapped = payload[..60].to_owned() + "\n" + &payload[60..];
    for (bent, told) in [
        (bend("/mediaType", json!("application/vnd.dev.sigstore.bundle+json;version=0.3")), "mediaType"),
        (bend("/dsseEnvelope/payloadType", json!("application/json")), "payload-type"),
        (bend(signatures, json!([])), "0 signatures"),
        (bend(signatures, json!([signature, signature])), "2 signatures"),
        (bend(signatures, json!([{"keyid": ""}])), "sig` is missing"),
        (bend(sig_at, json!("")), "strict DER"),
        (bend(sig_at, json!(sig.to_owned() + "=")), "base64"),
        (bend(sig_at, json!(STANDARD.encode(vec![0x30; 1000]))), "strict DER"),
        (bend(payload_at, json!(wrapped)), "base64"),
        (bend(payload_at, json!(payload.to_owned() + "=")), "base64"),
        (grow("", "messageSignature", json!({})), "messageSignature"),
        (grow("", "extra", json!(1)), "extra"),
        (grow("/dsseEnvelope", "extra", json!(1)), "extra"),
        (grow("/verificationMaterial", "certificate", json!({"rawBytes": ""})), "keyless"),
        (grow("/verificationMaterial", "x509CertificateChain", json!({"certificates": []})), "both"),
        (
            grow("/verificationMaterial/publicKey", "keyDetails", json!("PKIX_ECDSA_P384_SHA_384")),
            "keyDetails",
        ),
        (bend("/verificationMaterial", json!({"tlogEntries": []})), "neither"),
    ] {
        let (verdict, found) = outcome(&judge(bent.to_string().as_bytes()));
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {verdict} {found}");
    }
    for bytes in
        [&b""[..], b" \n", b"{} {}", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\xc0\x80", b"[]", b"nul"]
    {
        assert_eq!(judge(bytes).verdict, Verdict::Rejected, "{bytes:?}");
    }
    let twice = good.to_string().replacen('{', "{\"mediaType\":\"x\",", 1);
    assert!(outcome(&judge(twice.as_bytes())).1.contains("twice"));
    let escaped = good.to_string().replacen('{', "{\"\\u006dediaType\":\"x\",", 1);
    assert!(outcome(&judge(escaped.as_bytes())).1.contains("twice"));
}

#[test]
fn only_the_dsse_encoding_with_sha256_is_what_a_signature_can_be_over() {
    let payload = statement(json!([resource("a")]), plain()).to_string();
    let (text, length) = (payload.as_str(), payload.len());
    for message in [
        text.to_owned(),
        format!("DSSEV1 28 b'{PAYLOAD_TYPE}' {length} b'{text}'"),
        format!("DSSEv1 28 {PAYLOAD_TYPE} {} {text}", length + 1),
        format!("DSSEv1 28 {PAYLOAD_TYPE}  {length} {text}"),
    ] {
        let mut bundle = bundle_over(payload.as_bytes());
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = STANDARD.encode(KEY.sign(message.as_bytes())).into();
        let (verdict, told) = outcome(&judge(bundle.to_string().as_bytes()));
        assert!(verdict == Verdict::Rejected && told.starts_with("signature:"), "{told}");
    }
}

#[test]
fn types_and_payloads_cannot_be_split_in_two_ways() {
    let pairs = [
        ("a", "b"),
        ("a 1", "b"),
        ("a 1 b", ""),
        ("", "a 1 b"),
        ("a", "1 b"),
        ("a 1 b 0 ", ""),
        ("a 1", " b"),
    ];
    let encoded: BTreeSet<Vec<u8>> =
        pairs.iter().map(|(kind, payload)| pre_authentication_encoding(kind, payload.as_bytes())).collect();
    assert_eq!(encoded.len(), pairs.len());
}

#[test]
fn what_is_beyond_the_limits_is_rejected() {
    assert_eq!(judge(&vec![b' '; BUNDLE_MAX + 1]).verdict, Verdict::Rejected);
    let names: Vec<String> = (0..=RESOURCES_MAX).map(|at| format!("f{at}")).collect();
    let resources: Value = names.iter().map(|name| resource(name)).collect();
    assert!(judge_statement(&statement(resources, plain())).1.contains("at most"));
    let signatures = vec![json!({"sig": "", "keyid": ""}); 10_000];
    let mut many = bundle_over(b"{}");
    many["dsseEnvelope"]["signatures"] = json!(signatures);
    assert!(outcome(&judge(many.to_string().as_bytes())).1.contains("10000 signatures"));
    let deep = "[".repeat(100_000);
    assert_eq!(judge(deep.as_bytes()).verdict, Verdict::Rejected);
}

#[test]
fn what_would_be_rejected_is_not_exported() {
    for names in [&["a", "a/b"][..], &["A", "a"], &["../a"], &[]] {
        let files = names.iter().map(|name| ((*name).to_owned(), Sha256::of(b""))).collect();
        assert!(Export { subject: "m", files: &files, ignored: &[] }.signable().is_err(), "{names:?}");
    }
}

#[test]
fn a_bundle_cut_anywhere_is_rejected() {
    let bundle = exported(&contents());
    for length in 0..bundle.len() {
        assert_eq!(judge(&bundle[..length]).verdict, Verdict::Rejected, "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_changed_byte_never_leaves_a_bundle_valid_over_other_content(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let bundle = exported(&contents());
        let mut bent = bundle.clone();
        let at = at.index(bent.len());
        bent[at] = byte;
        let verification = judge(&bent);
        if verification.verdict == Verdict::Valid {
            prop_assert_eq!(verification.digest, judge(&bundle).digest);
        }
    }

    #[test]
    fn arbitrary_bytes_and_payloads_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_ne!(judge(&bytes).verdict, Verdict::Valid);
        let signed = bundle_over(&bytes).to_string();
        prop_assert_eq!(judge(signed.as_bytes()).verdict, Verdict::Rejected);
    }
}
