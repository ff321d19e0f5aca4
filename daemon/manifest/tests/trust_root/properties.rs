//! What no sequence of documents may do, and what no damage to one may achieve.

use crate::ground::*;
use crate::orders::ordered;
use proptest::prelude::*;
use turnout_manifest::canonical::INTEGER_MAX;
use turnout_manifest::exception;
use turnout_manifest::order::UsedOrder;
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{KeyState, KeyWindow, Member, RootKey, TrustRoot};
use turnout_manifest::trust::{Purpose, Verdict};
use turnout_manifest::{Sha256, SignedRoot};

#[test]
fn documents_survive_their_json_and_large_ones_are_refused_before_they_are_read() {
    let root = root(1);
    assert_eq!(TrustRoot::from_json(&root.to_json().unwrap()).unwrap(), root);
    let huge = vec![b' '; 1 << 20];
    is(found(&SignedRoot::first(&huge)), Verdict::Rejected, "envelope", "a root of 1 MiB");
    is(ordered(&huge, &root, None), Verdict::Rejected, "envelope", "an order of 1 MiB");
    let found_huge = exception::verify(&huge, &root, (NOW, Purpose::NewWork));
    is(found(&found_huge), Verdict::Rejected, "envelope", "an exception of 1 MiB");
    let text = String::from_utf8(root.to_json().unwrap()).unwrap();
    for (bad, what) in [
        (text.replace("\"state\":\"active\"", "\"state\":\"retired\""), "retired without a date"),
        (text.replace("\"state\":\"active\"", "\"since_ms\":1,\"state\":\"active\""), "active with a date"),
        (text.replacen(&id(0).to_string(), &id(STRANGER).to_string(), 1), "a key under another's id"),
        (text.replace("turnout.trust-root/v1", "turnout.trust-root/v2"), "another schema"),
        (text.replace("\"version\":1", "\"version\":0"), "version 0"),
        (text.replacen('{', "{\"critical\":1,", 1), "an unknown member"),
    ] {
        assert_ne!(bad, text, "{what}");
        assert!(TrustRoot::from_json(bad.as_bytes()).is_err(), "{what}");
    }
}

/// Windows around a moment, and the lack of one.
fn windows_around(at_ms: u64) -> impl Strategy<Value = KeyWindow> {
    let bound = || prop::option::of(at_ms - 2..at_ms + 3);
    let bounds = (bound(), bound());
    bounds.prop_filter_map("an empty window", |(begin, end)| KeyWindow::new(begin, end).ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever roots are offered in whatever order, by whomever they are signed: the head grows by one at a time, and
    /// only with both of its keys.
    #[test]
    fn no_order_of_updates_skips_a_version_or_lacks_a_signer(
        offers in prop::collection::vec((0u64..6, prop::collection::vec(0usize..7, 1..4)), 1..12)
    ) {
        let mut head = first();
        let mut chain = vec![head.bytes().to_vec()];
        for (version, mut signers) in offers {
            signers.sort_unstable();
            signers.dedup();
            let before = head.root().version;
            let offered = signed_root(&root(version.max(1)), &signers);
            let whole = ROOT.iter().all(|key| signers.contains(key));
            let due = whole && version.max(1) == before + 1;
            match head.next(&offered).into_accepted() {
                Some(next) => {
                    prop_assert!(due);
                    prop_assert_eq!(next.root().version, before + 1);
                    chain.push(offered);
                    head = next;
                }
                None => prop_assert!(!due),
            }
        }
        let replayed = chain[1..].iter().fold(first(), |head, bytes| head.next(bytes).into_accepted().unwrap());
        prop_assert_eq!(replayed, head);
    }

    /// A threshold counts distinct active keys of its own within their windows, whatever else has signed.
    #[test]
    fn a_threshold_counts_distinct_keys(
        signers in prop::collection::btree_set(0usize..7, 1..7),
        threshold in 1u32..=4,
        retired in prop::collection::btree_set(0usize..4, 0..3),
        windows in prop::collection::vec(windows_around(NOW), 4),
    ) {
        let mut of = root(1);
        of.issuers[0].keys = (0..4).map(|key| Member { key_id: id(key), roles: Vec::new() }).collect();
        (of.issuers[0].threshold, of.issuers[0].require) = (threshold, Vec::new());
        of.root = Quorum { keys: vec![id(ORDERS)], threshold: 1 };
        for key in &retired {
            of.keys[*key].state = KeyState::Retired { since_ms: 1 };
        }
        for (key, window) in of.keys.iter_mut().zip(&windows) {
            key.window = *window;
        }
        prop_assert!(of.check().is_ok());
        let keys: Vec<usize> = signers.iter().copied().collect();
        let found = judged(&signed_manifest("prod", &keys), &of, &Known::default());
        let within = |key: usize| {
            windows[key].not_before_ms().is_none_or(|begin| begin <= NOW)
                && windows[key].not_after_ms().is_none_or(|end| NOW < end)
        };
        let counting = signers.iter().filter(|key| **key < 4 && !retired.contains(key) && within(**key)).count();
        prop_assert_eq!(found.verdict == Verdict::Valid, counting >= threshold as usize);
    }

    /// Whatever windows its keys have, a root survives its JSON, and its chain follows as without them.
    #[test]
    fn windows_survive_the_wire_and_leave_the_chain_alone(
        windows in prop::collection::vec(windows_around(NOW), 4),
        early in windows_around(2),
        late in windows_around(INTEGER_MAX.unsigned_abs() - 2),
    ) {
        let mut next = root(2);
        // The keys that change the root come first, and have none.
        for (key, window) in next.keys[ROOT.len()..].iter_mut().zip(&windows) {
            key.window = *window;
        }
        for window in [early, late] {
            next.keys.truncate(6);
            next.keys.push(RootKey { window, ..known(SPARE) });
            prop_assert_eq!(&TrustRoot::from_json(&next.to_json().unwrap()).unwrap(), &next);
            let followed = first().next(&signed_root(&next, &ROOT)).into_accepted();
            prop_assert_eq!(followed.as_ref().map(SignedRoot::root), Some(&next));
        }
    }

    /// Orders that were used never go back, in whatever order they are brought.
    #[test]
    fn counters_only_grow(brought in prop::collection::vec((0u64..3, 0u64..6, 0u8..2), 1..20)) {
        let mut last: Option<UsedOrder> = None;
        for (epoch, counter, content) in brought {
            let next = UsedOrder { epoch, counter, digest: Sha256::of(&[content]) };
            if next.may_follow(last.as_ref()).is_ok() {
                if let Some(last) = last {
                    prop_assert!(next == last || (next.epoch, next.counter) > (last.epoch, last.counter));
                }
                last = Some(next);
            }
        }
    }

    /// Bytes that are cut or changed anywhere are never taken.
    #[test]
    fn a_damaged_root_is_never_accepted(at in any::<prop::sample::Index>(), flip in 1u8..=255, cut in any::<bool>()) {
        let good = signed_root(&root(2), &ROOT);
        let at = at.index(good.len());
        let mut bad = good.clone();
        if cut { bad.truncate(at) } else { bad[at] ^= flip }
        prop_assert!(first().next(&bad).into_accepted().is_none_or(|next| next.root() == &root(2)));
    }
}
