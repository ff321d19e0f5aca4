//! Which roots follow, and which are refused for their form or their signers.

use crate::ground::*;
use turnout_manifest::canonical::to_canonical;
use turnout_manifest::order::ORDER_TYPE;
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{Denied, KeyState, ROOT_TYPE, RevocationReason, SignerRole, TrustRoot};
use turnout_manifest::trust::Verdict;
use turnout_manifest::{Sha256, SignedRoot};

#[test]
fn a_root_follows_only_when_old_and_new_keys_have_signed_the_next_version() {
    use Verdict::{Rejected, Untrusted, Valid};
    let head = first();
    let next = root(2);
    // A root whose own keys are others: the old and the new ones must sign.
    let mut replaced = root(2);
    replaced.keys.push(known(SPARE));
    replaced.root = Quorum { keys: vec![id(SPARE)], threshold: 1 };
    let mut denies = root(2);
    denies.deny = vec![Denied { manifest: Sha256::of(b"x"), reason: "wrong data".to_owned() }];
    for (what, bytes, verdict, check) in [
        ("the next, by both", signed_root(&next, &ROOT), Valid, "-"),
        ("and by a stranger", signed_root(&next, &[STRANGER, 0, 1]), Valid, "-"),
        ("one of two", signed_root(&next, &[0]), Untrusted, "old-threshold"),
        ("by an issuer's key", signed_root(&next, &[BUILDER]), Untrusted, "old-threshold"),
        ("by the order key", signed_root(&next, &[ORDERS]), Untrusted, "old-threshold"),
        ("by strangers alone", signed_root(&next, &[STRANGER]), Rejected, "old-threshold"),
        ("a version skipped", signed_root(&root(3), &ROOT), Rejected, "version"),
        (
            "the same version with other content",
            signed_root(&TrustRoot { version: 1, ..denies }, &ROOT),
            Rejected,
            "version",
        ),
        ("new keys, by the new alone", signed_root(&replaced, &[SPARE]), Rejected, "old-threshold"),
        ("new keys, by the old alone", signed_root(&replaced, &ROOT), Untrusted, "new-threshold"),
        ("new keys, by both", signed_root(&replaced, &[0, 1, SPARE]), Valid, "-"),
        ("another type", sealed(ORDER_TYPE, to_canonical(&next).unwrap(), &ROOT), Rejected, "payload-type"),
        ("no root", sealed(ROOT_TYPE, b"{}".to_vec(), &ROOT), Rejected, "document"),
        (
            "not canonical",
            sealed(ROOT_TYPE, serde_json::to_vec_pretty(&next).unwrap(), &ROOT),
            Rejected,
            "canonical",
        ),
        ("nothing", Vec::new(), Rejected, "envelope"),
    ] {
        is(found(&head.next(&bytes)), verdict, check, what);
    }
}

#[test]
fn a_root_with_a_threshold_that_nobody_or_everybody_meets_is_rejected() {
    let head = first();
    let change = |change: &dyn Fn(&mut TrustRoot)| {
        let mut changed = root(2);
        change(&mut changed);
        signed_root(&changed, &ROOT)
    };
    for (what, bytes) in [
        ("none", change(&|root| root.root.threshold = 0)),
        ("more than keys", change(&|root| root.root.threshold = 3)),
        ("one key twice", change(&|root| root.root.keys = vec![id(0), id(0)])),
        ("an issuer's none", change(&|root| root.issuers[0].threshold = 0)),
        ("an issuer's more than keys", change(&|root| root.issuers[0].threshold = 3)),
        (
            "an issuer's key twice",
            change(&|root| {
                let again = root.issuers[0].keys[0].clone();
                root.issuers[0].keys.push(again);
            }),
        ),
        (
            "roles that one key alone could fill",
            change(&|root| {
                root.issuers[0].keys[0].roles = vec![SignerRole::Builder, SignerRole::Approver];
                root.issuers[0].keys[1].roles.clear();
            }),
        ),
        ("a key that is not listed", change(&|root| root.root.keys[0] = id(STRANGER))),
        ("too few active", change(&|root| root.keys[0].state = KeyState::Retired { since_ms: NOW })),
        ("orders by nobody", change(&|root| root.orders.as_mut().unwrap().signers.threshold = 0)),
        ("a lifetime that ends before it begins", change(&|root| root.expires_ms = root.created_ms)),
        ("a listed key twice", change(&|root| root.keys.push(known(0)))),
    ] {
        is(found(&head.next(&bytes)), Verdict::Rejected, "document", what);
    }
}

#[test]
fn a_key_counts_once_however_often_it_appears() {
    let head = first();
    // The same signature under the id of the other key, and the same key twice in the envelope.
    let good = String::from_utf8(signed_root(&root(2), &[0])).unwrap();
    let one = good[good.find("[{").unwrap() + 1..good.rfind(']').unwrap()].to_owned();
    let twice = good.replace(&one, &format!("{one},{one}"));
    is(found(&head.next(twice.as_bytes())), Verdict::Rejected, "envelope", "one key twice");
    let renamed = one.replace(&id(0).to_string(), &id(1).to_string());
    let claimed = good.replace(&one, &format!("{one},{renamed}"));
    is(found(&head.next(claimed.as_bytes())), Verdict::Rejected, "signature", "under another's id");
}

#[test]
fn what_was_compromised_stays_so_and_epochs_do_not_go_back() {
    let mut compromised = root(1);
    let reason = RevocationReason::Compromise;
    compromised.keys[BUILDER].state = KeyState::Revoked { since_ms: NOW, reason };
    compromised.orders.as_mut().unwrap().epoch = 5;
    let head = SignedRoot::first(&signed_root(&compromised, &ROOT)).into_accepted().unwrap();
    let mut again = root(2);
    again.orders.as_mut().unwrap().epoch = 5;
    is(found(&head.next(&signed_root(&again, &ROOT))), Verdict::Rejected, "successor", "active again");
    let mut earlier = compromised.clone();
    (earlier.version, earlier.orders.as_mut().unwrap().epoch) = (2, 4);
    is(found(&head.next(&signed_root(&earlier, &ROOT))), Verdict::Rejected, "successor", "epoch goes back");
    (earlier.version, earlier.orders.as_mut().unwrap().epoch) = (2, 6);
    is(found(&head.next(&signed_root(&earlier, &ROOT))), Verdict::Valid, "-", "epoch goes on");
}

#[test]
fn the_first_root_must_be_version_one_and_signed_by_itself() {
    for (what, bytes, verdict, check) in [
        ("by both", signed_root(&root(1), &ROOT), Verdict::Valid, "-"),
        ("by one", signed_root(&root(1), &[0]), Verdict::Untrusted, "new-threshold"),
        ("by a stranger", signed_root(&root(1), &[STRANGER]), Verdict::Untrusted, "new-threshold"),
        ("version 2", signed_root(&root(2), &ROOT), Verdict::Rejected, "version"),
    ] {
        is(found(&SignedRoot::first(&bytes)), verdict, check, what);
    }
}
