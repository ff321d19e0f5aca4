//! The kinds of records about trust: signed roots, exceptions, orders.

use super::{Kind, NOTICE, WARNING, word};

/// Every kind, in the engine's order.
pub const KINDS: [Kind; 3] = [
    Kind {
        event: "root-accepted",
        id: "63bb06b0a9a7495f81b5a0d7ac5b6536",
        priority: |_| NOTICE,
        sentence: |body| format!("{} put trust root {} in force", word(body, "by"), body["root"]),
    },
    Kind {
        event: "exception-accepted",
        id: "40bdcdbc5ce24986b9c5daa925ba3b38",
        priority: |_| WARNING,
        sentence: |body| {
            let [by, model, manifest, reason] =
                ["by", "model", "manifest", "reason"].map(|name| word(body, name));
            format!("{by} excepts {model} {manifest} for a time: {reason}")
        },
    },
    Kind {
        event: "order-used",
        id: "9375e3e95bd247469696a50a0b21b5c4",
        priority: |_| NOTICE,
        sentence: |body| {
            let [by, version, channel] = ["by", "version", "channel"].map(|name| word(body, name));
            format!("{by} releases {version} by order {} on channel {channel}", body["order"]["counter"])
        },
    },
];
