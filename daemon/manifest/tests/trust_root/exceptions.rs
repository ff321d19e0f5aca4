//! Exceptions: for a time, for one version, and never for what is rejected.

use crate::ground::*;
use turnout_manifest::Sha256;
use turnout_manifest::canonical::to_canonical;
use turnout_manifest::exception::{self, EXCEPTION_SCHEMA, EXCEPTION_TYPE, TrustException};
use turnout_manifest::root::{Denied, KeyState, RevocationReason, TrustRoot};
use turnout_manifest::trust::{Purpose, Verdict};

pub fn excepted(of: &str, change: &dyn Fn(&mut TrustException), keys: &[usize]) -> Vec<u8> {
    let mut exception = TrustException {
        schema: EXCEPTION_SCHEMA.to_owned(),
        manifest: digest(of),
        model: "fraud".parse().unwrap(),
        channel: channel(of),
        reason: "the approver is away".to_owned(),
        created_ms: NOW - DAY,
        expires_ms: NOW + DAY,
    };
    change(&mut exception);
    sealed(EXCEPTION_TYPE, to_canonical(&exception).unwrap(), keys)
}

#[test]
fn an_exception_admits_an_untrusted_version_for_a_time_and_never_on_prod_by_default() {
    let admitted = |of: &str, keys: &[usize], exception: Vec<u8>, now_ms: u64| {
        let known = Known { first_seen_ms: None, exception: String::from_utf8(exception).ok() };
        let bytes = signed_manifest(of, keys);
        let found = judged_at(&bytes, &root(1), (&known, now_ms, Purpose::NewWork));
        assert_ne!(found.verdict, Verdict::Valid, "an exception makes nothing valid");
        found.into_verified().is_some()
    };
    let by = [EXCEPTIONS];
    let same = |_: &mut TrustException| {};
    assert!(admitted("staging", &[BUILDER], excepted("staging", &same, &by), NOW), "one of two signers");
    assert!(admitted("staging", &[STRANGER], excepted("staging", &same, &by), NOW), "a signer unknown here");
    assert!(!admitted("prod", &[BUILDER], excepted("prod", &same, &by), NOW), "not on prod");
    assert!(!admitted("staging", &[BUILDER], excepted("staging", &same, &by), NOW + 2 * DAY), "over");
    for signer in [BUILDER, ORDERS, STRANGER, ROOT[0]] {
        let other = excepted("staging", &same, &[signer]);
        assert!(!admitted("staging", &[BUILDER], other, NOW), "signed by {signer}");
    }
    let other = excepted("staging", &|it| it.manifest = Sha256::of(b"other"), &by);
    assert!(!admitted("staging", &[BUILDER], other, NOW), "for another manifest");
    let other = excepted("staging", &|it| it.model = "aml".parse().unwrap(), &by);
    assert!(!admitted("staging", &[BUILDER], other, NOW), "for another model");
}

#[test]
fn an_exception_never_admits_what_is_rejected() {
    let exception = excepted("staging", &|_| {}, &[EXCEPTIONS]);
    let known = Known { first_seen_ms: None, exception: String::from_utf8(exception).ok() };
    let mut denies = root(1);
    denies.deny = vec![Denied { manifest: digest("staging"), reason: "bad data".to_owned() }];
    let mut compromised = root(1);
    let reason = RevocationReason::Compromise;
    compromised.keys[BUILDER].state = KeyState::Revoked { since_ms: NOW - DAY, reason };
    for root in [denies, compromised] {
        let found = judged(&signed_manifest("staging", &[BUILDER]), &root, &known);
        assert_eq!(found.verdict, Verdict::Rejected);
        assert!(found.into_verified().is_none());
    }
}

#[test]
fn exceptions_are_refused_for_their_form_and_their_signers() {
    use Verdict::{Rejected, Untrusted, Valid};
    for (what, bytes, verdict, check) in [
        ("good", excepted("staging", &|_| {}, &[EXCEPTIONS]), Valid, "-"),
        ("by the order key", excepted("staging", &|_| {}, &[ORDERS]), Untrusted, "threshold"),
        (
            "for years",
            excepted("staging", &|it| it.expires_ms += 365 * DAY, &[EXCEPTIONS]),
            Rejected,
            "document",
        ),
        (
            "for no time",
            excepted("staging", &|it| it.expires_ms = it.created_ms, &[EXCEPTIONS]),
            Rejected,
            "document",
        ),
        ("without reason", excepted("staging", &|it| it.reason.clear(), &[EXCEPTIONS]), Rejected, "document"),
        (
            "with a terminal's escape",
            excepted("staging", &|it| it.reason = "\u{1b}[2J".into(), &[EXCEPTIONS]),
            Rejected,
            "document",
        ),
        ("on prod", excepted("prod", &|_| {}, &[EXCEPTIONS]), Untrusted, "channel"),
        ("over", excepted("staging", &|it| it.expires_ms = NOW - 1, &[EXCEPTIONS]), Untrusted, "expiry"),
    ] {
        is(found(&exception::verify(&bytes, &root(1), (NOW, Purpose::NewWork))), verdict, check, what);
    }
    let nobody = TrustRoot { exceptions: None, ..root(1) };
    let good = excepted("staging", &|_| {}, &[EXCEPTIONS]);
    is(
        found(&exception::verify(&good, &nobody, (NOW, Purpose::NewWork))),
        Untrusted,
        "threshold",
        "nobody may",
    );
}
