//! What a signed root makes of a manifest: thresholds, roles, scope, channel, key states, expiry.

use crate::ground::*;
use turnout_manifest::order::ORDER_TYPE;
use turnout_manifest::root::{Denied, KeyState, RevocationReason, SignerRole, TrustRoot};
use turnout_manifest::trust::{Purpose, Verdict};

/// The root with a change.
fn with(change: &dyn Fn(&mut TrustRoot)) -> TrustRoot {
    let mut changed = root(1);
    change(&mut changed);
    changed
}

/// Judged so, with every check accounted for.
fn check(what: &str, (bytes, root): (&[u8], &TrustRoot), (verdict, failed): (Verdict, &str)) {
    let verification = judged(bytes, root, &Known::default());
    is(outcome(&verification), verdict, failed, what);
    let names: Vec<&str> = verification.checks.iter().map(|check| check.name.as_str()).collect();
    for name in ["deny-list", "key-state", "trust", "channel", "threshold", "roles", "expiry", "files"] {
        assert!(names.contains(&name), "{what}: every check is accounted for: {names:?}");
    }
    assert_eq!(verification.into_verified().is_some(), verdict == Verdict::Valid, "{what}");
}

#[test]
fn a_manifest_needs_a_threshold_of_distinct_keys_in_their_roles() {
    use Verdict::{Untrusted, Valid};
    let any_two = with(&|root| {
        root.issuers[0].threshold = 1;
        root.issuers[0].keys[0].roles = vec![SignerRole::Builder, SignerRole::Approver];
    });
    let strict = root(1);
    for (what, keys, root, verdict, failed) in [
        ("both", &[BUILDER, APPROVER][..], &strict, Valid, "-"),
        ("both and a stranger", &[STRANGER, BUILDER, APPROVER], &strict, Valid, "-"),
        ("one of two", &[BUILDER], &strict, Untrusted, "threshold"),
        ("a stranger", &[STRANGER], &strict, Untrusted, "signature"),
        ("the order key signs a manifest", &[ORDERS], &strict, Untrusted, "trust"),
        ("one key in both roles", &[BUILDER], &any_two, Untrusted, "roles"),
        ("two keys in two roles", &[BUILDER, APPROVER], &any_two, Valid, "-"),
    ] {
        check(what, (&signed_manifest("prod", keys), root), (verdict, failed));
    }
}

#[test]
fn what_a_stranger_signed_is_answered_with_what_a_root_allows() {
    let verification = judged(&signed_manifest("prod", &[STRANGER]), &root(1), &Known::default());
    let check = verification.checks.iter().find(|check| check.name == "signature").unwrap();
    for remedy in ["manifest sign DIR --append", "trust add --draft FILE"] {
        assert!(check.detail.contains(remedy), "no {remedy} in: {}", check.detail);
    }
}

#[test]
fn a_manifest_must_be_in_scope_on_its_channel_and_not_denied() {
    use Verdict::{Rejected, Untrusted};
    let both = [BUILDER, APPROVER];
    let channels = |name: &'static str| with(&|root| root.issuers[0].channels = vec![channel(name)]);
    let other = with(&|root| root.issuers[0].models = vec!["aml*".parse().unwrap()]);
    let denied = Denied { manifest: digest("prod"), reason: "bad data".to_owned() };
    let denies = with(&|root| root.deny = vec![denied.clone()]);
    let prod = signed_manifest("prod", &both);
    let disguised = sealed(ORDER_TYPE, manifest("prod").to_canonical().unwrap(), &both);
    for (what, bytes, root, verdict, failed) in [
        ("another model", &prod, other, Untrusted, "trust"),
        ("a staging issuer signs for prod", &prod, channels("staging"), Untrusted, "trust"),
        (
            "a channel not served here",
            &signed_manifest("test", &both),
            channels("test"),
            Untrusted,
            "channel",
        ),
        ("denied", &prod, denies, Rejected, "deny-list"),
        ("another type", &disguised, root(1), Rejected, "payload-type"),
    ] {
        check(what, (bytes, &root), (verdict, failed));
    }
}

#[test]
fn the_state_of_a_key_is_judged_by_when_this_host_first_saw_the_manifest() {
    use Verdict::{Rejected, Untrusted, Valid};
    let both = signed_manifest("prod", &[BUILDER, APPROVER]);
    let compromise = KeyState::Revoked { since_ms: NOW - DAY, reason: RevocationReason::Compromise };
    let superseded = KeyState::Revoked { since_ms: NOW - DAY, reason: RevocationReason::Superseded };
    let retired = KeyState::Retired { since_ms: NOW - DAY };
    let (before, after) = (Some(NOW - 2 * DAY), Some(NOW));
    for (what, state, first_seen_ms, verdict, check) in [
        ("retired, never seen", retired, None, Untrusted, "threshold"),
        ("retired, seen after", retired, after, Untrusted, "threshold"),
        ("retired, seen before", retired, before, Valid, "-"),
        ("superseded, seen before", superseded, before, Untrusted, "threshold"),
        ("compromised, never seen", compromise, None, Rejected, "key-state"),
        ("compromised, seen after", compromise, after, Rejected, "key-state"),
        ("compromised, seen before", compromise, before, Untrusted, "key-state"),
    ] {
        let mut root = root(1);
        root.keys[BUILDER].state = state;
        let found = judged(&both, &root, &Known { first_seen_ms, exception: None });
        is(outcome(&found), verdict, check, what);
    }
}

#[test]
fn an_expired_root_stops_new_work_and_nothing_that_runs() {
    let both = signed_manifest("prod", &[BUILDER, APPROVER]);
    let (known, late) = (Known::default(), NOW + 101 * DAY);
    for (what, now_ms, purpose, verdict, check) in [
        ("new, in time", NOW, Purpose::NewWork, Verdict::Valid, "-"),
        ("new, too late", late, Purpose::NewWork, Verdict::Untrusted, "expiry"),
        ("runs, too late", late, Purpose::KeepRunning, Verdict::Valid, "-"),
        ("new, with a clock of 1970", 0, Purpose::NewWork, Verdict::Untrusted, "expiry"),
        ("new, with a clock before the root", NOW - 20 * DAY, Purpose::NewWork, Verdict::Untrusted, "expiry"),
        ("runs, with a clock of 1970", 0, Purpose::KeepRunning, Verdict::Valid, "-"),
    ] {
        let found = judged_at(&both, &root(1), (&known, now_ms, purpose));
        is(outcome(&found), verdict, check, what);
    }
    let clock = judged_at(&both, &root(1), (&known, 0, Purpose::NewWork));
    assert!(clock.checks.iter().any(|check| check.detail.contains("clock")), "{:?}", clock.checks);
}
