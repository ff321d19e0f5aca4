//! The records about the journal itself and its clock.

use super::{DEBUG, ERROR, INFO, Kind, NOTICE, WARNING, word};
use serde_json::Value;

/// Every kind of record about the journal and its clock.
pub const KINDS: [Kind; 5] = [
    Kind {
        event: "clock-read",
        id: "df68f53b200045e990f0080ed94776d3",
        priority: |body| match word(body, "reason") {
            "stepped" => WARNING,
            "idle" => DEBUG,
            _ if body["synchronized"] == false => NOTICE,
            _ => INFO,
        },
        sentence: clock,
    },
    Kind {
        event: "log-opened",
        id: "07c88f6035164998bea4e6cedfa2ea9b",
        priority: |_| ERROR,
        sentence: |body| {
            let [by, reason, before] = ["by", "reason", "before"].map(|name| word(body, name));
            let before = if before.is_empty() { "no log" } else { before };
            let signed = match &body["signed"]["size"] {
                Value::Null => String::new(),
                size => format!(", {size} were signed"),
            };
            let taken = &body["taken"];
            format!("{by} opened a new log, {taken} records of {before} were taken over{signed}: {reason}")
        },
    },
    Kind {
        event: "reserve-spent",
        id: "5b010cf082964cd5b5ac0ace87357f8d",
        priority: |_| ERROR,
        sentence: |_| "the journal's disk is full: its reserve is given up, nothing new is begun".to_owned(),
    },
    Kind {
        event: "reserve-restored",
        id: "54bd235b8cdd4120aa3b35bdaa0fc46e",
        priority: |_| NOTICE,
        sentence: |_| "the journal's disk has room again".to_owned(),
    },
    Kind {
        event: "log-recovered",
        id: "0329968f77e24ab7bf6b4a4bcb130c16",
        priority: |_| WARNING,
        sentence: |body| {
            let (bytes, kept_in) = (&body["bytes"], word(body, "kept_in"));
            format!("{bytes} bytes of an interrupted write were cut off the journal and kept in {kept_in}")
        },
    },
];

fn clock(body: &Value) -> String {
    let kept = match body["synchronized"] == true {
        true => format!("synchronized within {} us", body["error_us"]),
        false => "not synchronized".to_owned(),
    };
    match (word(body, "reason"), body["stepped_ms"].as_i64().unwrap_or_default()) {
        ("stepped", by) => format!("the clock was set by {by} ms; it is {kept}"),
        ("idle", _) => format!("nothing was written for an hour; the clock is {kept}"),
        _ => format!("the clock is {kept}"),
    }
}
