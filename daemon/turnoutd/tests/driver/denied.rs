//! What refusals leave behind: whoever is refused neither fills the journal nor ends the loop.

use crate::door::{Door, NOBODY, READER, Reply, TRUST, check_problem, parse};
use crate::stage::bundle;
use serde_json::json;
use std::time::{Duration, Instant};
use turnout_engine::Record;

#[test]
fn what_a_hostile_envelope_says_neither_fills_the_journal_nor_ends_the_loop() {
    let door = Door::open();
    // Canonical JSON of another shape: whoever reports it quotes it, and its characters grow when they are escaped.
    let many = (0..40_000).map(|at| format!("\"k{at:05}\":1")).collect::<Vec<_>>().join(",");
    for envelope in [
        format!(r#"{{"payload":"","payloadType":"","signatures":"{}"}}"#, "\u{7f}".repeat(2_600_000)),
        format!(r#"{{"{}":1}}"#, "A\u{7f}".repeat(500_000)),
        format!("{{{many}}}"),
    ] {
        let before = door.journaled().len();
        let length = u32::try_from(envelope.len()).unwrap().to_be_bytes();
        let reply = door.import(&[&length[..], envelope.as_bytes()].concat());
        assert_eq!((reply.status, &reply.body["code"]), (422, &json!("refused")), "{reply:?}");
        let records = door.journaled();
        assert_eq!(records.len(), before + 1, "the refusal is on record");
        let Some(Record::Refused { why, .. }) = records.last() else { panic!("{:?}", records.last()) };
        assert!(
            why.iter().map(String::len).sum::<usize>() < 4096 && !why.concat().contains('\u{7f}'),
            "{why:?}"
        );
    }
    assert_eq!(door.import(&bundle("1")).status, 200, "the loop goes on");
}

#[test]
fn a_flood_of_denials_is_answered_as_ever_and_recorded_in_part() {
    let door = Door::open();
    let denied = || parse(&door.said_to(READER, ("POST", "/v1/models/digits/rollback"), "{}"));
    let recorded = |door: &Door| -> Vec<(String, String)> {
        let refused = |record| match record {
            Record::Refused { by, why, .. } => Some((by, why.join("; "))),
            _ => None,
        };
        door.journaled().into_iter().filter_map(refused).collect()
    };
    let first = denied();
    check_problem(&first, 403, "denied");
    (0..18).for_each(|_| check_problem(&denied(), 403, "denied"));
    // A minute ago there were more than were recorded.
    let ago = Instant::now().checked_sub(Duration::from_secs(61)).unwrap();
    for _ in 0..25 {
        door.desk.denials.lock().unwrap().note(NOBODY, ago);
    }
    for _ in 0..6 {
        let last = denied();
        check_problem(&last, 403, "denied");
        let text = |reply: &Reply| reply.body.to_string().split("(pid").next().map(str::to_owned);
        assert_eq!(text(&last), text(&first), "the answer does not tell what is recorded");
    }
    assert_eq!(recorded(&door).len(), 20, "of the reader");
    check_problem(&door.json_as_nobody("POST", "/v1/trust", TRUST), 403, "denied");
    let others = recorded(&door).split_off(20);
    let told = "5 denials were not recorded: only the first 20 of a user's minute are";
    assert_eq!(others.len(), 2, "{others:?}");
    assert_eq!(others[0], ("uid 65534".to_owned(), told.to_owned()));
    assert!(others[1].1.contains("may not add a trusted key"), "{others:?}");
}
