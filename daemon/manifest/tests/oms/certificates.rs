//! Signers named by certificates: chains built here, DER byte by byte, each wrong in one place.

use crate::making::{bundle_over, outcome, plain, resource, statement};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::collections::BTreeSet;
use turnout_manifest::envelope::pre_authentication_encoding;
use turnout_manifest::key::PrivateKey;
use turnout_manifest::oms::{Authorities, PAYLOAD_TYPE, Signers, verify};
use turnout_manifest::trust::Verdict;

/// 1 January 2026.
const NOW: u64 = 1_767_225_600;
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut bytes = vec![tag];
    match length {
        0..0x80 => bytes.push(length as u8),
        0x80..0x100 => bytes.extend([0x81, length as u8]),
        _ => bytes.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    bytes.extend_from_slice(content);
    bytes
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn name(text: &str) -> Vec<u8> {
    sequence(&[tlv(0x31, &sequence(&[tlv(6, &[0x55, 4, 3]), tlv(0x0c, text.as_bytes())]))])
}

#[derive(Clone, Copy, PartialEq)]
enum Critical {
    Yes,
    No,
}

fn extension(oid: &[u8], critical: Critical, value: &[u8]) -> Vec<u8> {
    let flag = if critical == Critical::Yes { tlv(1, &[0xff]) } else { Vec::new() };
    sequence(&[tlv(6, oid), flag, tlv(4, value)])
}

fn basic(authority: Option<Option<u8>>) -> Vec<u8> {
    let content = match authority {
        None => Vec::new(),
        Some(None) => tlv(1, &[0xff]),
        Some(Some(length)) => [tlv(1, &[0xff]), tlv(2, &[length])].concat(),
    };
    extension(&[0x55, 0x1d, 19], Critical::Yes, &tlv(0x30, &content))
}

/// Key usage: bit 0 is digitalSignature, bit 5 keyCertSign.
fn usage(bits: u8, unused: u8) -> Vec<u8> {
    extension(&[0x55, 0x1d, 15], Critical::Yes, &tlv(3, &[unused, bits]))
}

fn purpose(last: u8) -> Vec<u8> {
    let oid = tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, last]);
    extension(&[0x55, 0x1d, 37], Critical::No, &sequence(&[oid]))
}

/// A certificate to be, whose parts can be bent before it is signed.
#[derive(Clone)]
struct Plan {
    subject: &'static str,
    issuer: &'static str,
    validity: (&'static str, &'static str),
    algorithm: &'static [u8],
    extensions: Vec<Vec<u8>>,
}

impl Plan {
    fn authority(subject: &'static str, issuer: &'static str) -> Self {
        let extensions = vec![basic(Some(None)), usage(0x04, 2)];
        Self {
            subject,
            issuer,
            validity: ("250101000000Z", "350101000000Z"),
            algorithm: ECDSA_SHA256,
            extensions,
        }
    }

    fn leaf(issuer: &'static str) -> Self {
        let extensions = vec![basic(None), usage(0x80, 7), purpose(3)];
        Self { extensions, ..Self::authority("signer", issuer) }
    }

    fn sign(&self, key: &PrivateKey, by: &PrivateKey) -> Vec<u8> {
        let algorithm = sequence(&[tlv(6, self.algorithm)]);
        let time = |text: &str| tlv(0x17, text.as_bytes());
        let body = sequence(&[
            tlv(0xa0, &tlv(2, &[2])),
            tlv(2, &[1]),
            algorithm.clone(),
            name(self.issuer),
            sequence(&[time(self.validity.0), time(self.validity.1)]),
            name(self.subject),
            key.public_key().to_der(),
            tlv(0xa3, &sequence(&self.extensions)),
        ]);
        let signature = tlv(3, &[&[0][..], &by.sign(&body)].concat());
        sequence(&[body, algorithm, signature])
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

struct Keys {
    root: PrivateKey,
    middle: PrivateKey,
    leaf: PrivateKey,
}

impl Keys {
    fn new() -> Self {
        let key = || PrivateKey::generate().unwrap();
        Self { root: key(), middle: key(), leaf: key() }
    }

    fn root(&self) -> Vec<u8> {
        Plan::authority("root", "root").sign(&self.root, &self.root)
    }

    fn direct(&self, plan: &Plan) -> Vec<u8> {
        plan.sign(&self.leaf, &self.root)
    }

    fn judge(&self, chain: &[Vec<u8>]) -> (Verdict, String) {
        self.judge_by(chain, Authorities::from_pem(&pem(&self.root()), NOW).unwrap())
    }

    fn judge_by(&self, chain: &[Vec<u8>], authorities: Authorities) -> (Verdict, String) {
        let payload = statement(json!([resource("a")]), plain()).to_string();
        let mut bundle = bundle_over(payload.as_bytes());
        let certificates: Vec<_> =
            chain.iter().map(|der| json!({"rawBytes": STANDARD.encode(der)})).collect();
        bundle["verificationMaterial"] = json!({"x509CertificateChain": {"certificates": certificates}});
        let signature = self.leaf.sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload.as_bytes()));
        bundle["dsseEnvelope"]["signatures"][0]["sig"] = STANDARD.encode(signature).into();
        let signers = Signers::Authorities(authorities);
        outcome(&verify(bundle.to_string().as_bytes(), &signers, &BTreeSet::new()))
    }
}

#[test]
fn a_chain_to_a_given_root_is_valid_with_or_without_those_between() {
    let keys = Keys::new();
    let middle = Plan::authority("middle", "root").sign(&keys.middle, &keys.root);
    let below = Plan::leaf("middle").sign(&keys.leaf, &keys.middle);
    let direct = keys.direct(&Plan::leaf("root"));
    for chain in [
        vec![direct.clone()],
        vec![direct.clone(), keys.root()],
        vec![below.clone(), middle.clone()],
        vec![below, middle, keys.root()],
    ] {
        assert_eq!(keys.judge(&chain), (Verdict::Valid, String::new()));
    }
    let pinned = |subject: &str| {
        let authorities = Authorities::from_pem(&pem(&keys.root()), NOW).unwrap();
        keys.judge_by(std::slice::from_ref(&direct), authorities.only(Some(subject.to_owned()))).0
    };
    assert_eq!((pinned("CN=signer"), pinned("CN=other")), (Verdict::Valid, Verdict::Untrusted));
}

#[test]
fn a_leaf_that_may_not_sign_models_is_rejected() {
    let keys = Keys::new();
    let with = |extensions: Vec<Vec<u8>>| Plan { extensions, ..Plan::leaf("root") };
    let at = |from, to| Plan { validity: (from, to), ..Plan::leaf("root") };
    let custom = |critical| extension(&[0x2a, 3, 4], critical, &tlv(5, &[]));
    let (leaf, signs, codes) = (basic(None), usage(0x80, 7), purpose(3));
    for (plan, told) in [
        (at("240101000000Z", "250601000000Z"), "expired"),
        (at("270101000000Z", "350101000000Z"), "not yet valid"),
        (with(vec![leaf.clone(), signs.clone(), purpose(1)]), "codeSigning"),
        (with(vec![leaf.clone(), signs.clone()]), "codeSigning"),
        (with(vec![leaf.clone(), usage(0x20, 5), codes.clone()]), "digitalSignature"),
        (with(vec![leaf.clone(), codes.clone()]), "digitalSignature"),
        (with(vec![basic(Some(None)), signs.clone(), codes.clone()]), "authority's"),
        (with(vec![leaf.clone(), signs.clone(), codes.clone(), custom(Critical::Yes)]), "not understood"),
        (with(vec![leaf.clone(), signs.clone(), codes.clone(), codes.clone()]), "well-formed"),
        (Plan { algorithm: ECDSA_SHA1, ..Plan::leaf("root") }, "another algorithm"),
    ] {
        let (verdict, found) = keys.judge(&[keys.direct(&plan)]);
        assert!(verdict == Verdict::Rejected && found.contains(told), "{told}: {verdict} {found}");
    }
    let harmless = with(vec![leaf, signs, codes, custom(Critical::No)]);
    assert_eq!(keys.judge(&[keys.direct(&harmless)]).0, Verdict::Valid);
}

#[test]
fn a_chain_that_does_not_hold_together_is_rejected_and_one_to_a_strange_root_untrusted() {
    let keys = Keys::new();
    let middle = |extensions: Vec<Vec<u8>>| {
        Plan { extensions, ..Plan::authority("middle", "root") }.sign(&keys.middle, &keys.root)
    };
    let below = Plan::leaf("middle").sign(&keys.leaf, &keys.middle);
    let stranger = PrivateKey::generate().unwrap();
    let strange_root = Plan::authority("root", "root").sign(&stranger, &stranger);
    let strange = Plan::leaf("root").sign(&keys.leaf, &stranger);
    let constraints = extension(&[0x55, 0x1d, 30], Critical::No, &sequence(&[]));
    let (authority, signs) = (basic(Some(None)), usage(0x04, 2));
    let good = middle(vec![authority.clone(), signs.clone()]);
    let own = Plan::authority("middle", "middle").sign(&keys.middle, &keys.middle);
    for (chain, verdict, told) in [
        (vec![strange.clone()], Verdict::Untrusted, "none of the given roots"),
        (vec![strange, strange_root], Verdict::Untrusted, "none of the given roots"),
        (vec![below.clone()], Verdict::Untrusted, "none of the given roots"),
        (vec![Plan::leaf("elsewhere").sign(&keys.leaf, &keys.root)], Verdict::Untrusted, "none of the given"),
        (vec![below.clone(), middle(vec![basic(None), signs.clone()])], Verdict::Rejected, "no authority's"),
        (vec![below.clone(), middle(vec![authority.clone()])], Verdict::Rejected, "keyCertSign"),
        (
            vec![below.clone(), middle(vec![authority, signs, constraints])],
            Verdict::Rejected,
            "not understood",
        ),
        (vec![below.clone(), keys.root()], Verdict::Rejected, "not signed by the next"),
        (vec![below.clone(), own.clone(), own], Verdict::Rejected, "not signed by the next"),
        (vec![below.clone(), good.clone(), good.clone()], Verdict::Rejected, "not signed by the next"),
        (vec![good.clone(), below.clone()], Verdict::Rejected, "authority's"),
        (vec![below[..below.len() - 1].to_vec()], Verdict::Rejected, "well-formed"),
        (vec![[&below[..], &[0]].concat()], Verdict::Rejected, "well-formed"),
    ] {
        let (found, detail) = keys.judge(&chain);
        assert!(found == verdict && detail.contains(told), "{told}: {found} {detail}");
    }
    // The chain is right, and its key is not the one that signed.
    let other = PrivateKey::generate().unwrap();
    let (verdict, told) = keys.judge(&[Plan::leaf("root").sign(&other, &keys.root)]);
    assert!(verdict == Verdict::Rejected && told.starts_with("signature:"), "{told}");
}

#[test]
fn a_chain_longer_than_its_authority_allows_is_rejected() {
    let keys = Keys::new();
    let lowest = PrivateKey::generate().unwrap();
    let lower = Plan::authority("lower", "middle").sign(&lowest, &keys.middle);
    let below = Plan::leaf("lower").sign(&keys.leaf, &lowest);
    for (most, verdict) in [(0, Verdict::Rejected), (1, Verdict::Valid)] {
        let extensions = vec![basic(Some(Some(most))), usage(0x04, 2)];
        let plan = Plan { extensions, ..Plan::authority("middle", "root") };
        let middle = plan.sign(&keys.middle, &keys.root);
        assert_eq!(keys.judge(&[below.clone(), lower.clone(), middle]).0, verdict, "{most}");
    }
}

#[test]
fn texts_that_hold_no_authority_are_refused() {
    let keys = Keys::new();
    let good = pem(&keys.root());
    let leaf = pem(&keys.direct(&Plan::leaf("root")));
    for bad in [
        String::new(),
        "hello".to_owned(),
        format!("hello\n{good}"),
        keys.leaf.public_key().to_pem(),
        leaf,
        good.repeat(17),
        good[..good.len() - 30].to_owned(),
        good.replace("CERTIFICATE", "PUBLIC KEY"),
    ] {
        assert!(Authorities::from_pem(&bad, NOW).is_err(), "{bad}");
    }
    assert!(Authorities::from_pem(&(good.clone() + &good), NOW).is_ok());
}
