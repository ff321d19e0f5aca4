//! Keys that count for a time: before it, at its edges, within and after it, for each kind of document.

use crate::exceptions::excepted;
use crate::ground::*;
use crate::orders::{examined, order, ordered, signed_order};
use turnout_manifest::SignedRoot;
use turnout_manifest::exception;
use turnout_manifest::root::{EmptyWindow, KeyState, KeyWindow, ROOT_TYPE, RevocationReason, TrustRoot};
use turnout_manifest::trust::{CheckResult, Purpose, Verdict};

fn window(not_before_ms: impl Into<Option<u64>>, not_after_ms: impl Into<Option<u64>>) -> KeyWindow {
    KeyWindow::new(not_before_ms.into(), not_after_ms.into()).unwrap()
}

/// The root with a window for each of these keys.
fn with(windows: &[(usize, KeyWindow)]) -> TrustRoot {
    let mut root = root(1);
    for (key, window) in windows {
        root.keys[*key].window = *window;
    }
    root.check().unwrap();
    root
}

/// Windows seen from now, and whether the key counts.
fn around_now() -> [(&'static str, KeyWindow, bool); 9] {
    [
        ("a day before it begins", window(NOW + DAY, NOW + 2 * DAY), false),
        ("just before it begins", window(NOW + 1, None), false),
        ("as it begins", window(NOW, None), true),
        ("within", window(NOW - DAY, NOW + DAY), true),
        ("the only moment of it", window(NOW, NOW + 1), true),
        ("just before it ends", window(None, NOW + 1), true),
        ("as it ends", window(None, NOW), false),
        ("a day after it ended", window(NOW - 2 * DAY, NOW - DAY), false),
        ("without one", KeyWindow::default(), true),
    ]
}

/// What a check found.
fn told(checks: &[CheckResult], name: &str) -> String {
    checks.iter().find(|check| check.name == name).unwrap().detail.clone()
}

#[test]
fn a_new_manifest_needs_keys_that_count_now() {
    let both = signed_manifest("prod", &[BUILDER, APPROVER]);
    for (what, window, counts) in around_now() {
        let found = judged(&both, &with(&[(BUILDER, window)]), &Known::default());
        let (verdict, failed) =
            if counts { (Verdict::Valid, "-") } else { (Verdict::Untrusted, "threshold") };
        is(outcome(&found), verdict, failed, what);
        assert_eq!(found.into_verified().is_some(), counts, "{what}");
        let neither = judged(&both, &with(&[(BUILDER, window), (APPROVER, window)]), &Known::default());
        let failed = if counts { "-" } else { "key-state" };
        is(outcome(&neither), verdict, failed, what);
    }
}

#[test]
fn what_this_host_has_seen_is_asked_about_that_time() {
    use Verdict::{Untrusted, Valid};
    let both = signed_manifest("prod", &[BUILDER, APPROVER]);
    let week = window(NOW - 8 * DAY, NOW - DAY);
    for (what, window, seen, verdict, failed) in [
        ("never seen, now over", week, None, Untrusted, "threshold"),
        ("seen before it began", week, Some(NOW - 8 * DAY - 1), Untrusted, "threshold"),
        ("seen as it began", week, Some(NOW - 8 * DAY), Valid, "-"),
        ("seen within, now over", week, Some(NOW - 4 * DAY), Valid, "-"),
        ("seen just before it ended", week, Some(NOW - DAY - 1), Valid, "-"),
        ("seen as it ended", week, Some(NOW - DAY), Untrusted, "threshold"),
        (
            "seen before it began, now within",
            window(NOW - DAY, None),
            Some(NOW - 2 * DAY),
            Untrusted,
            "threshold",
        ),
        ("seen within, and within now", window(NOW - DAY, None), Some(NOW - 1), Valid, "-"),
    ] {
        for purpose in [Purpose::NewWork, Purpose::KeepRunning] {
            let known = Known { first_seen_ms: seen, exception: None };
            let found = judged_at(&both, &with(&[(BUILDER, window)]), (&known, NOW, purpose));
            is(outcome(&found), verdict, failed, what);
        }
    }
}

#[test]
fn a_window_takes_nothing_back_from_the_state_of_a_key() {
    use Verdict::{Rejected, Untrusted, Valid};
    let both = signed_manifest("prod", &[BUILDER, APPROVER]);
    let (within, over) = (window(NOW - 8 * DAY, None), window(None, NOW - 4 * DAY));
    let retired = KeyState::Retired { since_ms: NOW - DAY };
    let revoked = |reason| KeyState::Revoked { since_ms: NOW - DAY, reason };
    let compromise = revoked(RevocationReason::Compromise);
    for (what, state, window, seen, verdict, failed) in [
        ("retired, seen before within", retired, within, Some(NOW - 2 * DAY), Valid, "-"),
        ("retired, seen before and too late", retired, over, Some(NOW - 2 * DAY), Untrusted, "threshold"),
        ("retired, never seen, within", retired, within, None, Untrusted, "threshold"),
        ("superseded, within", revoked(RevocationReason::Superseded), within, None, Untrusted, "threshold"),
        ("compromised, within", compromise, within, None, Rejected, "key-state"),
        ("compromised, too late", compromise, over, None, Rejected, "key-state"),
    ] {
        let mut root = with(&[(BUILDER, window)]);
        root.keys[BUILDER].state = state;
        let found = judged(&both, &root, &Known { first_seen_ms: seen, exception: None });
        is(outcome(&found), verdict, failed, what);
    }
}

#[test]
fn a_threshold_that_others_meet_is_met_and_the_key_is_told() {
    let mut root = with(&[(BUILDER, window(NOW + DAY, None))]);
    (root.issuers[0].threshold, root.issuers[0].require) = (1, Vec::new());
    let found = judged(&signed_manifest("prod", &[BUILDER, APPROVER]), &root, &Known::default());
    is(outcome(&found), Verdict::Valid, "-", "one of one");
    let told = told(&found.checks, "key-state");
    assert!(told.contains("owner-2 is not yet valid"), "{told}");
    assert_eq!(found.into_verified().unwrap().key_ids(), [id(APPROVER)]);
}

#[test]
fn a_check_names_the_owner_the_time_and_the_remedy() {
    let both = signed_manifest("prod", &[BUILDER, APPROVER]);
    let remedy = "; have another key sign, or change its window with `turnoutctl trust window`";
    for (window, seen, words) in [
        (
            window(NOW + DAY, None),
            None,
            format!("owner-2 is not yet valid: counts from 2027-01-16 08:00:00 UTC on{remedy}"),
        ),
        (
            window(None, NOW - DAY),
            None,
            format!("owner-2 is no longer valid: counted until 2027-01-14 08:00:00 UTC{remedy}"),
        ),
        (
            window(NOW - DAY, None),
            Some(NOW - 2 * DAY),
            format!(
                "owner-2 is not yet valid for what was first seen 2027-01-13 08:00:00 UTC: counts from \
                 2027-01-14 08:00:00 UTC on{remedy}"
            ),
        ),
        (
            window(None, NOW),
            Some(NOW - DAY),
            "owner-2 is no longer valid, but this was seen within its window".to_owned(),
        ),
        (window(None, NOW + 1), None, "every signer's key is active".to_owned()),
        // Later than any calendar.
        (
            window(1 << 52, None),
            None,
            format!("owner-2 is not yet valid: counts from 4503599627370496 ms on{remedy}"),
        ),
    ] {
        let known = Known { first_seen_ms: seen, exception: None };
        let found = judged(&both, &with(&[(BUILDER, window)]), &known);
        assert_eq!(told(&found.checks, "key-state"), words);
    }
}

#[test]
fn orders_and_exceptions_need_keys_that_count_now() {
    let order = signed_order(&order(&|_| {}), &[ORDERS]);
    let exception = excepted("staging", &|_| {}, &[EXCEPTIONS]);
    for (what, window, counts) in around_now() {
        let root = with(&[(ORDERS, window), (EXCEPTIONS, window)]);
        let (verdict, failed) =
            if counts { (Verdict::Valid, "-") } else { (Verdict::Untrusted, "threshold") };
        is(ordered(&order, &root, None), verdict, failed, what);
        is(found(&exception::verify(&exception, &root, (NOW, Purpose::NewWork))), verdict, failed, what);
        // What was let in by it goes on, as when the exception itself has expired.
        let running = exception::verify(&exception, &root, (NOW, Purpose::KeepRunning));
        is(found(&running), Verdict::Valid, "-", what);
    }
    let root = with(&[(ORDERS, window(None, NOW)), (EXCEPTIONS, window(NOW + DAY, None))]);
    let found = examined(&order, &root, None);
    let words = "0 of 1 needed: no key that counts; owner-4 is no longer valid: counted until 2027-01-15 08:00:00 UTC; \
                 have another key sign, or change its window with `turnoutctl trust window`";
    assert_eq!(told(&found.checks, "threshold"), words);
    let found = exception::verify(&exception, &root, (NOW, Purpose::NewWork));
    assert!(told(&found.checks, "threshold").contains("owner-5 is not yet valid: counts from 2027-01-16"));
}

#[test]
fn one_of_two_order_keys_out_of_its_window_leaves_the_threshold_short() {
    let two = |threshold| {
        let mut root = with(&[(ORDERS, window(None, NOW))]);
        let signers = &mut root.orders.as_mut().unwrap().signers;
        (signers.keys, signers.threshold) = (vec![id(ORDERS), id(SPARE)], threshold);
        root.keys.push(known(SPARE));
        root
    };
    let order = signed_order(&order(&|_| {}), &[ORDERS, SPARE]);
    is(ordered(&order, &two(2), None), Verdict::Untrusted, "threshold", "one of two");
    is(ordered(&order, &two(1), None), Verdict::Valid, "-", "one of one");
    let checks = examined(&order, &two(1), None).checks;
    assert!(told(&checks, "threshold").contains("owner-4 is no longer valid"), "{checks:?}");
}

#[test]
fn whoever_may_change_the_root_has_no_window() {
    let head = first();
    for window in [window(NOW, None), window(None, NOW), window(NOW - DAY, NOW + DAY)] {
        let mut root = root(2);
        root.keys[ROOT[1]].window = window;
        let error = root.check().unwrap_err().to_string();
        assert!(error.contains("owner-1") && error.contains("take the window away"), "{error}");
        assert!(root.to_json().is_err());
        let next = head.next(&signed_root(&root, &ROOT));
        is(found(&next), Verdict::Rejected, "document", "a key of the root with a window");
        assert!(told(&next.checks, "document").contains("the expiry alone bounds"), "{:?}", next.checks);
        // The same key outside of the root's quorum may have one.
        root.root.keys = vec![id(ROOT[0]), id(SPARE)];
        root.keys.push(known(SPARE));
        let next = head.next(&signed_root(&root, &[ROOT[0], ROOT[1], SPARE]));
        is(found(&next), Verdict::Valid, "-", "no key of the root any more");
    }
}

#[test]
fn a_root_without_windows_is_written_as_before_and_one_with_them_survives_its_json() {
    let text = |root: &TrustRoot| String::from_utf8(root.to_json().unwrap()).unwrap();
    let plain = text(&root(1));
    let as_before = format!(
        r#"{{"key_id":"{}","owner":"owner-2","public_key":{},"state":"active"}}"#,
        id(BUILDER),
        serde_json::to_string(&KEYS[BUILDER].public_key()).unwrap()
    );
    assert!(plain.contains(&as_before), "{plain}");
    for (window, written) in [
        (window(5, None), r#""not_before_ms":5,"#),
        (window(None, 7), r#""not_after_ms":7,"#),
        (window(5, 7), r#""not_after_ms":7,"not_before_ms":5,"#),
    ] {
        let root = with(&[(BUILDER, window)]);
        let changed = plain.replace(r#""owner":"owner-2""#, &format!(r#"{written}"owner":"owner-2""#));
        assert_eq!(text(&root), changed);
        assert_eq!(TrustRoot::from_json(changed.as_bytes()).unwrap(), root);
    }
}

#[test]
fn a_window_that_is_empty_or_of_another_form_is_refused() {
    for (begin, end) in [(Some(5), Some(5)), (Some(5), Some(4)), (None, Some(0)), (Some(0), Some(0))] {
        assert_eq!(KeyWindow::new(begin, end), Err(EmptyWindow), "{begin:?} {end:?}");
    }
    let plain = String::from_utf8(root(1).to_json().unwrap()).unwrap();
    for (written, words) in [
        (r#""not_after_ms":5,"not_before_ms":5,"#, "`owner-2`: its window is empty"),
        (r#""not_after_ms":4,"not_before_ms":5,"#, "`owner-2`: its window is empty"),
        (r#""not_after_ms":0,"#, "`owner-2`: its window is empty"),
        (r#""not_before_ms":-1,"#, "invalid value"),
        (r#""not_before_ms":"5","#, "invalid type"),
        (r#""not_ever_ms":5,"#, "unknown field"),
    ] {
        let bad = plain.replace(r#""owner":"owner-2""#, &format!(r#"{written}"owner":"owner-2""#));
        assert_ne!(bad, plain);
        let error = TrustRoot::from_json(bad.as_bytes()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(words), "{written}: {cause}");
        let sealed = sealed(ROOT_TYPE, bad.into_bytes(), &ROOT);
        is(found(&SignedRoot::first(&sealed)), Verdict::Rejected, "document", written);
    }
}
