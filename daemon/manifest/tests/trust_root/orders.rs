//! Release orders: for one host, version and channel, and never backwards.

use crate::ground::*;
use turnout_manifest::Sha256;
use turnout_manifest::canonical::{INTEGER_MAX, to_canonical};
use turnout_manifest::order::{
    self, ORDER_SCHEMA, ORDER_TYPE, OrderOccasion, OrderTarget, ReleaseOrder, UsedOrder, VerifiedOrder,
    Whereabouts,
};
use turnout_manifest::quorum::Examined;
use turnout_manifest::root::{KeyState, ROOT_TYPE, RevocationReason, TrustRoot};
use turnout_manifest::trust::Verdict;

pub fn order(change: &dyn Fn(&mut ReleaseOrder)) -> ReleaseOrder {
    let mut order = ReleaseOrder {
        schema: ORDER_SCHEMA.to_owned(),
        target: OrderTarget::Host("web-1".parse().unwrap()),
        channel: channel("prod"),
        epoch: 1,
        counter: 20,
        created_ms: NOW - DAY,
        expires_ms: NOW + DAY,
        model: "fraud".parse().unwrap(),
        manifest: digest("prod"),
    };
    change(&mut order);
    order
}

pub fn ordered(bytes: &[u8], root: &TrustRoot, used: Option<UsedOrder>) -> (Verdict, String) {
    found(&examined(bytes, root, used))
}

pub fn examined(bytes: &[u8], root: &TrustRoot, used: Option<UsedOrder>) -> Examined<VerifiedOrder> {
    let here = Whereabouts { host: "web-1".parse().unwrap(), groups: vec!["web".parse().unwrap()] };
    let used = used.map(|used| (channel("prod"), used)).into_iter().collect();
    let occasion = OrderOccasion {
        now_ms: NOW,
        here: &here,
        version: &"fraud@1.4.0".parse().unwrap(),
        manifest: digest("prod"),
        channel: &channel("prod"),
        used: &used,
    };
    order::verify(bytes, root, &occasion)
}

pub fn signed_order(order: &ReleaseOrder, keys: &[usize]) -> Vec<u8> {
    sealed(ORDER_TYPE, to_canonical(order).unwrap(), keys)
}

#[test]
fn an_order_holds_for_its_host_version_and_channel_and_by_its_own_keys() {
    use Verdict::{Rejected, Untrusted, Valid};
    let by = [ORDERS];
    let group = |name: &str| OrderTarget::Group(name.parse().unwrap());
    for (what, bytes, verdict, check) in [
        ("good", signed_order(&order(&|_| {}), &by), Valid, "-"),
        ("for our group", signed_order(&order(&|it| it.target = group("web")), &by), Valid, "-"),
        ("for another group", signed_order(&order(&|it| it.target = group("db")), &by), Rejected, "target"),
        (
            "for another host",
            signed_order(&order(&|it| it.target = OrderTarget::Host("web-2".parse().unwrap())), &by),
            Rejected,
            "target",
        ),
        (
            "for a group of our host's name",
            signed_order(&order(&|it| it.target = group("web-1")), &by),
            Rejected,
            "target",
        ),
        (
            "for another model",
            signed_order(&order(&|it| it.model = "aml".parse().unwrap()), &by),
            Rejected,
            "manifest",
        ),
        (
            "for another version",
            signed_order(&order(&|it| it.manifest = Sha256::of(b"x")), &by),
            Rejected,
            "manifest",
        ),
        (
            "for another channel",
            signed_order(&order(&|it| it.channel = channel("staging")), &by),
            Rejected,
            "manifest",
        ),
        ("by the builder", signed_order(&order(&|_| {}), &[BUILDER]), Untrusted, "threshold"),
        ("by the root's keys", signed_order(&order(&|_| {}), &ROOT), Untrusted, "threshold"),
        ("by a stranger", signed_order(&order(&|_| {}), &[STRANGER]), Untrusted, "threshold"),
        ("over", signed_order(&order(&|it| it.expires_ms = NOW), &by), Untrusted, "expiry"),
        (
            "a root in an order's clothes",
            sealed(ORDER_TYPE, to_canonical(&root(1)).unwrap(), &by),
            Rejected,
            "document",
        ),
        (
            "an order in a root's clothes",
            sealed(ROOT_TYPE, to_canonical(&order(&|_| {})).unwrap(), &by),
            Rejected,
            "payload-type",
        ),
    ] {
        is(ordered(&bytes, &root(1), None), verdict, check, what);
    }
    let mut expired = root(1);
    expired.expires_ms = NOW - 1;
    is(ordered(&signed_order(&order(&|_| {}), &by), &expired, None), Untrusted, "expiry", "an expired root");
}

#[test]
fn what_a_compromised_key_dates_back_is_rejected_and_a_superseded_one_counts_no_more() {
    let old = |it: &mut ReleaseOrder| it.created_ms = NOW - 5 * DAY;
    let bytes = signed_order(&order(&old), &[ORDERS]);
    is(ordered(&bytes, &root(1), None), Verdict::Valid, "-", "before the key was revoked");
    for (reason, verdict, check) in [
        (RevocationReason::Compromise, Verdict::Rejected, "signature"),
        (RevocationReason::Superseded, Verdict::Untrusted, "threshold"),
    ] {
        let mut revoked = root(1);
        revoked.keys[ORDERS].state = KeyState::Revoked { since_ms: NOW - DAY, reason };
        is(ordered(&bytes, &revoked, None), verdict, check, "created before");
    }
}

#[test]
fn an_order_that_is_replayed_behind_or_far_ahead_is_rejected() {
    use Verdict::{Rejected, Valid};
    let of = |counter: u64, epoch: u64| order(&|it| (it.counter, it.epoch) = (counter, epoch));
    let signed = |counter, epoch| signed_order(&of(counter, epoch), &[ORDERS]);
    let digest_of = |order: &ReleaseOrder| Sha256::of(&to_canonical(order).unwrap());
    let used = |counter: u64, epoch: u64, digest: Sha256| Some(UsedOrder { epoch, counter, digest });
    let other = Sha256::of(b"another order");
    let last = INTEGER_MAX.unsigned_abs();
    for (what, bytes, used, verdict) in [
        ("the first", signed(10, 1), None, Valid),
        ("below the floor", signed(9, 1), None, Rejected),
        ("the next", signed(21, 1), used(20, 1, other), Valid),
        ("an older one", signed(19, 1), used(20, 1, other), Rejected),
        ("the same counter for another order", signed(20, 1), used(20, 1, other), Rejected),
        ("the very same order again", signed(20, 1), used(20, 1, digest_of(&of(20, 1))), Valid),
        ("of a later epoch than the root's", signed(20, 2), None, Rejected),
        ("of an earlier epoch than the root's", signed(20, 0), None, Rejected),
        ("the last counter there is", signed(last, 1), None, Rejected),
        ("a new epoch after a stolen key counted far ahead", signed(10, 1), used(last - 1, 0, other), Valid),
    ] {
        let check = if verdict == Valid { "-" } else { "counter" };
        is(ordered(&bytes, &root(1), used), verdict, check, what);
    }
}
