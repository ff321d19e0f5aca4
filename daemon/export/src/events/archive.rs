//! The kinds of records about what is kept: snapshots, stored versions, the store itself.

use super::{DEBUG, ERROR, INFO, Kind, NOTICE, WARNING, word};
use serde_json::Value;

/// Every kind, in the engine's order.
pub const KINDS: [Kind; 22] = [
    Kind {
        event: "snapshot-requested",
        id: "aac15b49b41b4469b23e0789c7970e35",
        priority: |_| DEBUG,
        sentence: |body| format!("{} asks for a snapshot{}", word(body, "by"), because(body, "note")),
    },
    Kind {
        event: "snapshot-taken",
        id: "f8eb0affdab746e096237cbaa63cd469",
        priority: |_| INFO,
        sentence: |body| format!("snapshot {} was taken {}", word(body, "snapshot"), occasion(body)),
    },
    Kind {
        event: "snapshot-held",
        id: "dee79bb9fb8f4e7a9bff6ceb14503946",
        priority: |_| NOTICE,
        sentence: |body| {
            format!("{} holds {}{}", word(body, "by"), word(body, "snapshot"), because(body, "reason"))
        },
    },
    Kind {
        event: "hold-released",
        id: "0c87c090e9b74867a7fbe312488fde53",
        priority: |_| NOTICE,
        sentence: |body| format!("{} no longer holds {}", word(body, "by"), word(body, "snapshot")),
    },
    Kind {
        event: "mount-granted",
        id: "73a614f0cb734940bcbcc833d6a62d95",
        priority: |_| NOTICE,
        sentence: |body| {
            let [by, snapshot, at] = ["by", "snapshot", "at"].map(|name| word(body, name));
            format!("{by} has {snapshot} mounted at {at}")
        },
    },
    Kind {
        event: "mount-ended",
        id: "5c0e4587e715481fb0d7e55b2ff0b2f2",
        priority: |_| INFO,
        sentence: |body| {
            let [snapshot, at] = ["snapshot", "at"].map(|name| word(body, name));
            format!("{snapshot} is not mounted at {at}{}", because(body, "why"))
        },
    },
    Kind {
        event: "snapshot-exported",
        id: "cefefa24d8a04624b3a40738510d06c1",
        priority: |_| NOTICE,
        sentence: |body| {
            let what = if body["list"].is_null() { "" } else { "the list of files of " };
            format!("{} exported {what}{}", word(body, "by"), word(body, "snapshot"))
        },
    },
    Kind {
        event: "snapshot-deleting",
        id: "093e0de1118e4255964cf744fec634a0",
        priority: |_| NOTICE,
        sentence: |body| {
            format!("{} deletes {}{}", word(body, "by"), word(body, "snapshot"), because(body, "why"))
        },
    },
    Kind {
        event: "snapshot-deleted",
        id: "5138afc786ff4f608cef112fcfc31f6f",
        priority: |_| INFO,
        sentence: |body| format!("{} is deleted", word(body, "snapshot")),
    },
    Kind {
        event: "snapshot-kept",
        id: "4d3f5a65058b4391a98a2f305a7f5e28",
        priority: |_| WARNING,
        sentence: |body| format!("{} could not be deleted{}", word(body, "snapshot"), because(body, "why")),
    },
    Kind {
        event: "version-deleting",
        id: "f14ed3078e004f9fbfed6be91ff6201f",
        priority: |_| NOTICE,
        sentence: |body| {
            format!("{} deletes {}{}", word(body, "by"), word(body, "version"), because(body, "why"))
        },
    },
    Kind {
        event: "version-deleted",
        id: "eaf90df32afb4ac1857cbfa818a406e1",
        priority: |_| INFO,
        sentence: |body| format!("{} is deleted", word(body, "version")),
    },
    Kind {
        event: "version-kept",
        id: "28c8106c4ca14d30b4800741e9075362",
        priority: |_| WARNING,
        sentence: |body| format!("{} could not be deleted{}", word(body, "version"), because(body, "why")),
    },
    Kind {
        event: "scrubbing",
        id: "062549c166eb4afba7a7f98e26d11fe6",
        priority: |_| DEBUG,
        sentence: |body| format!("{} scrubs the store", word(body, "by")),
    },
    Kind {
        event: "scrubbed",
        id: "c4c17af5b4f9451c907fddf3e4f57340",
        priority: |body| scrub(body).0,
        sentence: |body| scrub(body).1,
    },
    Kind {
        event: "store-growing",
        id: "094815e36679421781b5e05f335e9d3c",
        priority: |_| DEBUG,
        sentence: |body| format!("{} makes the store larger: {} bytes", word(body, "by"), body["bytes"]),
    },
    Kind {
        event: "store-grown",
        id: "2b308a830b124844a6a911b55826a35f",
        priority: |_| NOTICE,
        sentence: |body| format!("the store has {} bytes", body["bytes"]),
    },
    Kind {
        event: "archive-failed",
        id: "8f1841c629ec4facb8beb0eac464313a",
        priority: |_| ERROR,
        sentence: |body| format!("could not {}{}", word(body, "what"), because(body, "why")),
    },
    Kind {
        event: "log-held",
        id: "81ad0def537442518a6037c244eaf1d5",
        priority: |_| NOTICE,
        sentence: |body| {
            let (by, from) = (word(body, "by"), &body["from"]);
            format!("{by} holds the journal from record {from} on{}", because(body, "reason"))
        },
    },
    Kind {
        event: "log-hold-released",
        id: "c5d6d550b87644f5a125ac004e18f971",
        priority: |_| NOTICE,
        sentence: |body| format!("{} no longer holds the journal", word(body, "by")),
    },
    Kind {
        event: "log-pruned",
        id: "07605e2e75324577bf25a32ed413d266",
        priority: |_| NOTICE,
        sentence: |body| {
            let (by, first) = (word(body, "by"), &body["minimum_index"]);
            let held = match &body["held_from"] {
                Value::Null => String::new(),
                from => format!("; it is held from record {from} on"),
            };
            let why = because(body, "why");
            format!("{by} prunes the journal, record {first} is the first that stays{held}{why}")
        },
    },
    Kind {
        event: "host-key-made",
        id: "b1dd5e7f8eb549ac855c23b3ec3e46ae",
        priority: |_| NOTICE,
        sentence: |body| format!("this host signs with the key {} from now on", word(body, "key_id")),
    },
];

/// A reason that is to follow a sentence; most may be left out.
fn because(body: &Value, name: &str) -> String {
    match word(body, name) {
        "" => String::new(),
        why => format!(": {why}"),
    }
}

/// What a snapshot was taken for.
fn occasion(body: &Value) -> String {
    let reason = &body["reason"];
    match word(reason, "for") {
        "release" => format!("{} {}", word(reason, "moment"), word(reason, "release")),
        "import" => format!("when {} was imported", word(reason, "version")),
        _ => format!("for {}{}", word(reason, "by"), because(reason, "note")),
    }
}

/// How urgent the outcome of a scrub is, and the outcome.
fn scrub(body: &Value) -> (u8, String) {
    let found = &body["found"];
    let [errors, corrected, lost] =
        ["errors", "corrected", "uncorrectable"].map(|name| found[name].as_u64().unwrap_or_default());
    let read = format!("the store was scrubbed, {} bytes", found["bytes"]);
    match (errors, lost) {
        (0, 0) => (INFO, format!("{read}: no damage")),
        (_, 0) => (WARNING, format!("{read}: {errors} damaged blocks, {corrected} mended")),
        _ => (ERROR, format!("{read}: {errors} damaged blocks, {corrected} mended, {lost} lost")),
    }
}
