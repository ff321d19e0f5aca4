//! What each kind of record is in the systemd journal: its `MESSAGE_ID`, its priority, its sentence. The ids never
//! change; `systemd/turnout.catalog` explains each, and a test holds the two together.

mod archive;
mod log;
mod trust;

use serde_json::Value;

/// Priorities of syslog(3).
const ERROR: u8 = 3;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFO: u8 = 6;
const DEBUG: u8 = 7;

/// One kind of record.
pub struct Kind {
    /// Its name in the record.
    pub event: &'static str,
    /// Its `MESSAGE_ID`.
    pub id: &'static str,
    priority: fn(&Value) -> u8,
    sentence: fn(&Value) -> String,
}

impl Kind {
    /// How urgent this record is.
    pub fn priority(&self, body: &Value) -> u8 {
        (self.priority)(body)
    }

    /// The record in one sentence.
    pub fn sentence(&self, body: &Value) -> String {
        (self.sentence)(body)
    }
}

/// The kind of a record; one that this program does not know yet is told all the same.
pub fn kind(body: &Value) -> &'static Kind {
    let event = word(body, "event");
    kinds().find(|kind| kind.event == event).unwrap_or(&OTHER)
}

fn kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().chain(&archive::KINDS).chain(&trust::KINDS).chain(&log::KINDS)
}

/// A record of a kind that is younger than this program.
pub const OTHER: Kind = Kind {
    event: "other",
    id: "73354858a368471a9e465d5d205e28b5",
    priority: |_| NOTICE,
    sentence: |body| format!("{} {}", word(body, "event"), word(body, "release")).trim_end().to_owned(),
};

/// Every kind but those of [`archive`], [`log`] and [`trust`].
const KINDS: [Kind; 21] = [
    Kind {
        event: "daemon-started",
        id: "bd690b97a9364bc4968f9307c3bdad24",
        priority: |_| INFO,
        sentence: |body| format!("turnoutd {} began to run on this journal", word(body, "version")),
    },
    Kind {
        event: "examined",
        id: "979f97e68feb4b96bd0969b8a8db9726",
        priority: |body| if listed(body, "degraded").is_empty() { INFO } else { WARNING },
        sentence: |body| match listed(body, "degraded") {
            all if all.is_empty() => "this host meets every requirement".to_owned(),
            lines => format!("this host does not fully meet: {lines}"),
        },
    },
    Kind {
        event: "refused",
        id: "3bbe0cbb143841a784aae1b351b09ccb",
        priority: |_| WARNING,
        sentence: |body| {
            format!("refused {}: {}: {}", word(body, "by"), word(body, "what"), listed(body, "why"))
        },
    },
    Kind {
        event: "trust-added",
        id: "c46ac4c00cbc49d989f380fd31239971",
        priority: |_| NOTICE,
        sentence: |body| {
            let [by, issuer, key] = ["by", "issuer", "key_id"].map(|name| word(body, name));
            format!("{by} trusts {key} of {issuer} for {}", listed(body, "models"))
        },
    },
    Kind {
        event: "trust-removed",
        id: "33a28f5d74de4e4d95f428c13de059fc",
        priority: |_| NOTICE,
        sentence: |body| format!("{} no longer trusts {}", word(body, "by"), word(body, "key_id")),
    },
    Kind {
        event: "importing",
        id: "e81ee126beb5442ebf4d3270d27a50fe",
        priority: |_| DEBUG,
        sentence: |body| format!("{} sends {}", word(body, "by"), word(body, "version")),
    },
    Kind {
        event: "imported",
        id: "a4f7b58d6816415fa3f45a6c36883abf",
        priority: |_| NOTICE,
        sentence: |body| {
            let (by, what, signed_by) = (word(body, "by"), word(body, "version"), listed(body, "signed_by"));
            format!("{by} imported {what}, signed by {signed_by}")
        },
    },
    Kind {
        event: "planned",
        id: "3ffe00189077494eb9db33cae2945297",
        priority: |_| NOTICE,
        sentence: |body| {
            let from = body["from"]["version"].as_str().unwrap_or("nothing");
            let to = body["to"]["version"].as_str().unwrap_or_default();
            let [release, model, by] = ["release", "model", "by"].map(|name| word(body, name));
            format!("{release} {model}: {} of {to} after {from}, asked for by {by}", word(body, "kind"))
        },
    },
    Kind {
        event: "intent",
        id: "913b7ecd5c144798b6eb9e99b053f640",
        priority: |_| DEBUG,
        sentence: |body| format!("{} begins: {}", word(body, "release"), step(body)),
    },
    Kind {
        event: "done",
        id: "38265abe5133421984fce77cded4eb6a",
        priority: |_| INFO,
        sentence: |body| match word(body, "detail") {
            "" => format!("{} {}: done", word(body, "release"), step(body)),
            detail => format!("{} {}: {detail}", word(body, "release"), step(body)),
        },
    },
    Kind {
        event: "failed",
        id: "eeca8c91beaf4754ae5b2f62f2135ee2",
        priority: |_| ERROR,
        sentence: |body| format!("{} {} failed: {}", word(body, "release"), step(body), word(body, "why")),
    },
    Kind {
        event: "observed",
        id: "1565dc2741284a2b99632667a0391959",
        priority: |body| if verdict(body) == "missed" { WARNING } else { INFO },
        sentence: |body| {
            let why = body["verdict"]["why"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
            let seen = &body["window"]["candidate"]["requests"];
            format!("{} window of {seen} requests {}{why}", word(body, "release"), verdict(body))
        },
    },
    Kind {
        event: "held",
        id: "ec409120e78f44abb0ba877edcb4c3a2",
        priority: |_| WARNING,
        sentence: |body| format!("{} is held: {}", word(body, "release"), word(body, "why")),
    },
    Kind {
        event: "resumed",
        id: "7e88111256ed4c91960b0a49b12efb40",
        priority: |_| NOTICE,
        sentence: |body| format!("{} goes on, by {}", word(body, "release"), word(body, "by")),
    },
    Kind {
        event: "interrupted",
        id: "39174ecaada3424c97429ab0762cabf8",
        priority: |_| WARNING,
        sentence: |body| format!("{} will be undone: {}", word(body, "release"), cause(body)),
    },
    Kind {
        event: "rolling-back",
        id: "aff7f416a03d433493c76bac683840ef",
        priority: |_| WARNING,
        sentence: |body| format!("{} is rolled back: {}", word(body, "release"), cause(body)),
    },
    Kind {
        event: "promoted",
        id: "65e7a7b6392e4672a73fa00cc12ba6dd",
        priority: |_| NOTICE,
        sentence: |body| format!("{} is promoted", word(body, "release")),
    },
    Kind {
        event: "ended",
        id: "b4dfcb728e254c9b92085683fdff7e01",
        priority: |body| match word(body, "state") {
            "stuck" => ERROR,
            "promoted" => NOTICE,
            _ => WARNING,
        },
        sentence: |body| {
            let state = word(body, "state").replace('_', " ");
            match listed(body, "causes") {
                none if none.is_empty() => format!("{} ended {state}", word(body, "release")),
                causes => format!("{} ended {state}: {causes}", word(body, "release")),
            }
        },
    },
    Kind {
        event: "worker-died",
        id: "75d94d9e68164216baec38de01c40890",
        priority: |_| ERROR,
        sentence: |body| format!("a worker of {} died: {}", word(body, "model"), word(body, "why")),
    },
    Kind {
        event: "worker-silenced",
        id: "2de2d30f49d44483b49d978170ad323b",
        priority: |_| WARNING,
        sentence: |body| {
            let [model, why] = ["model", "why"].map(|name| word(body, name));
            format!("a worker of {model} broke the rules of its link and is not heard any more: {why}")
        },
    },
    Kind {
        event: "port-moved",
        id: "29fe8ac3df41486286357f1d4a945b0a",
        priority: |_| WARNING,
        sentence: |body| {
            format!("{} moves from port {} to {}", word(body, "model"), body["from"], body["to"])
        },
    },
];

/// A text of the record, or nothing.
pub fn word<'a>(body: &'a Value, name: &str) -> &'a str {
    body[name].as_str().unwrap_or_default()
}

/// Why it happened, in the record's words.
pub fn why(body: &Value) -> String {
    let said = ["why", "reason"].map(|name| word(body, name).to_owned());
    let verdict = body["verdict"]["why"].as_str().unwrap_or_default().to_owned();
    let told = [listed(body, "why"), listed(body, "causes"), cause(body), verdict];
    said.into_iter().chain(told).find(|text| !text.is_empty()).unwrap_or_default()
}

/// The verdict on a window, or nothing.
pub fn verdict(body: &Value) -> &str {
    body["verdict"]["verdict"].as_str().unwrap_or_default()
}

/// A step in words: what it does, and to what.
pub fn step(body: &Value) -> String {
    let does = body["step"]["do"].as_str().unwrap_or_default();
    match (does, &body["step"]["of"]) {
        (_, Value::Null) => does.replace('-', " "),
        ("shift" | "observe", Value::Number(share)) => {
            let does = if does == "shift" { "shift to" } else { "observe at" };
            let thousandths = share.as_u64().unwrap_or_default();
            let share = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            format!("{does} {} %", share.trim_end_matches('0').trim_end_matches('.'))
        }
        (_, Value::String(moment)) => format!("{does} {moment}"),
        (_, of) => format!("{} g{of}", does.replace('-', " ")),
    }
}

fn listed(body: &Value, name: &str) -> String {
    let texts = body[name].as_array().map(Vec::as_slice).unwrap_or_default();
    texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
}

fn cause(body: &Value) -> String {
    let cause = &body["cause"];
    let [kind, by, why] = ["kind", "by", "why"].map(|name| cause[name].as_str().unwrap_or_default());
    let reason = cause["reason"].as_str().filter(|reason| !reason.is_empty());
    match kind {
        "operator" | "cancelled" => match reason {
            Some(reason) => format!("asked for by {by}: {reason}"),
            None => format!("asked for by {by}"),
        },
        "crashed" => format!("the new version's worker died: {why}"),
        "silenced" => format!("the new version's worker broke the rules of its link: {why}"),
        "member" => format!("`{}`, of the same set: {why}", cause["model"].as_str().unwrap_or_default()),
        "router-died" => format!("the router died: {why}"),
        "stable-died" => format!("the old version's worker died: {why}"),
        "step-failed" => format!("{} failed: {why}", cause["step"].as_str().unwrap_or_default()),
        _ => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink;
    use crate::subjects::Subjects;
    use serde::Deserialize;
    use serde::de::{Error, value::MapDeserializer};
    use serde_json::json;
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::fmt;
    use std::path::Path;
    use turnout_journal::Record;

    /// The records of `told.txt`: priority, sentence, record.
    fn told() -> Vec<(u8, String, Value)> {
        let digest = format!("sha256:{}", "a".repeat(64));
        let text = include_str!("events/told.txt").replace("DIGEST", &digest);
        let parts = |line: &str| {
            let [priority, sentence, body] = line.splitn(3, " | ").collect::<Vec<_>>().try_into().unwrap();
            (priority.parse().unwrap(), sentence.to_owned(), serde_json::from_str(body).unwrap())
        };
        text.lines().filter(|line| !line.starts_with('#')).map(parts).collect()
    }

    #[test]
    fn each_kind_is_told_in_words_from_the_fields_that_the_engine_writes() {
        let mut seen = BTreeSet::new();
        for (priority, sentence, body) in told() {
            let written: turnout_engine::Record = serde_json::from_value(body.clone()).unwrap();
            assert_eq!(serde_json::to_value(&written).unwrap(), body, "as the engine writes it");
            let kind = kind(&body);
            assert_eq!((kind.priority(&body), kind.sentence(&body)), (priority, sentence));
            seen.insert(kind.event);
        }
        assert_eq!(seen, kinds().map(|kind| kind.event).collect());
    }

    /// The fields that a catalog's text takes from an entry.
    fn fields(text: &str) -> BTreeSet<&str> {
        text.split('@').filter(|part| part.starts_with("TURNOUT_")).collect()
    }

    #[test]
    fn the_catalog_names_no_field_that_a_kind_does_not_have() {
        let texts = CATALOG.split("\n-- ").skip(1).map(|text| text.split_once('\n').unwrap());
        let texts: BTreeMap<_, _> = texts.collect();
        let mut subjects = Subjects::new(Path::new("/nowhere"), 0);
        let mut had: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (seq, (.., body)) in (0..).zip(told()) {
            let record = Record { seq, time_ns: 1, body: body.to_string().into_bytes() };
            let event = sink::event(&record);
            let entry = sink::entry(&event, &subjects.of(&record, &body).unwrap());
            let names = entry.lines().map(|line| line.split_once('=').unwrap().0.to_owned());
            had.entry(kind(&body).id).or_default().extend(names);
        }
        for (id, had) in had {
            let wanted = fields(texts[id]);
            assert!(wanted.iter().all(|field| had.contains(*field)), "{id}: {wanted:?} of {had:?}");
        }
    }

    const CATALOG: &str = include_str!("../../../systemd/turnout.catalog");

    thread_local! {
        static EXPECTED: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// An error that notes which names an enum would have taken. The error that serde returns for an enum with an
    /// untagged variant no longer says them, but each of the enums that were tried has made one that does.
    #[derive(Debug)]
    struct Unknown;

    impl fmt::Display for Unknown {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("not a record")
        }
    }

    impl std::error::Error for Unknown {}

    impl Error for Unknown {
        fn custom<T: fmt::Display>(_: T) -> Self {
            Self
        }

        fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
            EXPECTED.with_borrow_mut(|all| all.extend(expected));
            Self
        }
    }

    #[test]
    fn every_kind_of_record_has_an_entry_of_its_own() {
        let unknown = MapDeserializer::<_, Unknown>::new([("event", "?")].into_iter());
        turnout_engine::Record::deserialize(unknown).unwrap_err();
        assert_eq!(EXPECTED.take(), kinds().map(|kind| kind.event).collect());
        let entries = KINDS.len() + archive::KINDS.len() + log::KINDS.len() + trust::KINDS.len() + 1;
        let ids: BTreeSet<_> = kinds().chain([&OTHER]).map(|kind| kind.id).collect();
        assert_eq!(ids.len(), entries);
        assert!(ids.iter().all(|id| id.len() == 32 && u128::from_str_radix(id, 16).is_ok()));
    }

    #[test]
    fn the_catalog_explains_every_id_and_no_other() {
        let explained: Vec<_> = CATALOG.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        let ids: Vec<_> = kinds().chain([&OTHER]).map(|kind| kind.id).collect();
        assert_eq!(explained, ids, "in the same order");
    }

    #[test]
    fn the_documentation_names_every_id() {
        let documented = include_str!("../../../docs/monitoring.md");
        for kind in kinds().chain([&OTHER]) {
            let row = format!("| `{}` | `{}` |", kind.event, kind.id);
            assert!(documented.contains(&row), "{row} is not in docs/monitoring.md");
        }
    }

    #[test]
    fn causes_and_records_of_tomorrow_are_told_in_words() {
        for (body, priority, sentence) in [
            (
                json!({"event": "rolling-back", "release": "r-2", "cause": {"kind": "silenced", "why": "a flood"}}),
                WARNING,
                "r-2 is rolled back: the new version's worker broke the rules of its link: a flood",
            ),
            (
                json!({"event": "rolling-back", "release": "r-2", "cause": {"kind": "member", "model": "a", "why": "b"}}),
                WARNING,
                "r-2 is rolled back: `a`, of the same set: b",
            ),
            (json!({"event": "of-tomorrow", "release": "r-9"}), NOTICE, "of-tomorrow r-9"),
            (json!(null), NOTICE, ""),
        ] {
            let kind = kind(&body);
            assert_eq!((kind.priority(&body), kind.sentence(&body).as_str()), (priority, sentence));
        }
    }
}
