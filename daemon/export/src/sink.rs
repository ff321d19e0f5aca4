//! Where records go: standard output as NDJSON, or the systemd journal by its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use crate::events::{self, kind, word};
use crate::subjects::Subject;
use serde::Serialize;
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use turnout_journal::Record;

const JOURNALD: &str = "/run/systemd/journal/socket";
/// Largest body sent to journald in one datagram, bytes; a larger one stays in the journal and is named.
const BODY_MAX: usize = 128 * 1024;
/// Longest value of another field, bytes: reasons come from whoever asked.
const VALUE_MAX: usize = 4096;

/// A record as a receiver sees it.
#[derive(Debug, Serialize)]
pub struct Event {
    /// Stable name of the record: what a receiver knows duplicates by.
    pub event_id: String,
    /// Its number in the journal.
    pub seq: u64,
    /// When it was written, nanoseconds since the epoch.
    pub time_ns: i64,
    /// Its RFC 6962 leaf hash, hex.
    pub leaf: String,
    /// Its own words.
    pub body: Value,
}

/// A record on its way out.
pub fn event(record: &Record) -> Event {
    let leaf = record.leaf().to_string();
    Event {
        event_id: format!("{}/{}", record.seq, &leaf[..16]),
        seq: record.seq,
        time_ns: record.time_ns,
        body: serde_json::from_slice(&record.body).unwrap_or(Value::Null),
        leaf,
    }
}

/// Where records go.
pub enum Sink {
    /// One JSON document a line.
    Stdout(io::Stdout),
    /// The systemd journal.
    Journald(UnixDatagram),
}

/// Why a sink did not take a record.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Standard output failed.
    #[error("standard output")]
    Stdout(#[source] io::Error),
    /// journald does not listen or does not take it.
    #[error("journald at `{JOURNALD}`")]
    Journald(#[source] io::Error),
}

impl SinkError {
    /// The reader of a pipe has seen enough: no failure of ours.
    pub fn receiver_left(&self) -> bool {
        matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Sink {
    /// One JSON document a line on standard output.
    pub fn stdout() -> Self {
        Self::Stdout(io::stdout())
    }

    /// The systemd journal of this host.
    ///
    /// # Errors
    /// [`SinkError::Journald`] where none listens.
    pub fn journald() -> Result<Self, SinkError> {
        let socket = UnixDatagram::unbound().map_err(SinkError::Journald)?;
        socket.connect(JOURNALD).map_err(SinkError::Journald)?;
        Ok(Self::Journald(socket))
    }

    /// Gives one record, and returns once the sink has it. A journald whose queue is full is waited for.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn give(&mut self, event: &Event, subject: &Subject) -> Result<(), SinkError> {
        match self {
            Self::Stdout(out) => {
                let mut line = serde_json::to_vec(event).expect("an event serializes");
                line.push(b'\n');
                out.write_all(&line).and_then(|()| out.flush()).map_err(SinkError::Stdout)
            }
            Self::Journald(socket) => {
                socket.send(entry(event, subject).as_bytes()).map(drop).map_err(SinkError::Journald)
            }
        }
    }
}

/// One journal entry: `FIELD=value` lines, no value with a control character, so that none can begin a field.
pub fn entry(event: &Event, subject: &Subject) -> String {
    let body = &event.body;
    let kind = kind(body);
    let whole = body.to_string();
    let whole = if whole.len() > BODY_MAX { "too large: see the journal".to_owned() } else { whole };
    let fields = [
        ("MESSAGE", kind.sentence(body)),
        ("MESSAGE_ID", kind.id.to_owned()),
        ("PRIORITY", kind.priority(body).to_string()),
        ("SYSLOG_IDENTIFIER", "turnout".to_owned()),
        ("TURNOUT_EVENT", word(body, "event").to_owned()),
        ("TURNOUT_EVENT_ID", event.event_id.clone()),
        ("TURNOUT_SEQ", event.seq.to_string()),
        ("TURNOUT_TIME_NS", event.time_ns.to_string()),
        ("TURNOUT_LEAF", event.leaf.clone()),
        ("TURNOUT_MODEL", subject.model.clone()),
        ("TURNOUT_VERSION", subject.version.clone()),
        ("TURNOUT_RELEASE", word(body, "release").to_owned()),
        ("TURNOUT_SNAPSHOT", word(body, "snapshot").to_owned()),
        ("TURNOUT_BY", word(body, "by").to_owned()),
        ("TURNOUT_AUDIT_CONTEXT", word(&body["audit_context"], "id").to_owned()),
        ("TURNOUT_STEP", events::step(body)),
        ("TURNOUT_VERDICT", events::verdict(body).to_owned()),
        ("TURNOUT_STATE", word(body, "state").to_owned()),
        ("TURNOUT_WHY", events::why(body)),
    ];
    let said = fields.into_iter().filter(|(_, value)| !value.is_empty());
    let lines = said.map(|(name, value)| format!("{name}={}\n", plain(&value)));
    lines.chain([format!("TURNOUT_BODY={}\n", whole.replace(char::is_control, " "))]).collect()
}

fn plain(value: &str) -> String {
    let end = value.floor_char_boundary(VALUE_MAX);
    value[..end].replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(body: Value) -> Vec<(String, String)> {
        let event = Event { event_id: "7/ab".into(), seq: 7, time_ns: 1, leaf: "ab".into(), body };
        let subject = Subject { model: "digits".into(), version: "1".into() };
        let text = entry(&event, &subject);
        text.lines().map(|line| line.split_once('=').unwrap()).map(|(n, v)| (n.into(), v.into())).collect()
    }

    #[test]
    fn an_entry_has_one_field_a_line_whatever_the_record_says() {
        let why = format!("a\nMESSAGE=forged\u{85}{}", "x".repeat(9000));
        let told =
            fields(json!({ "event": "held\nMESSAGE=forged", "release": "r-1\nPRIORITY=0", "why": why }));
        let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "MESSAGE",
                "MESSAGE_ID",
                "PRIORITY",
                "SYSLOG_IDENTIFIER",
                "TURNOUT_EVENT",
                "TURNOUT_EVENT_ID",
                "TURNOUT_SEQ",
                "TURNOUT_TIME_NS",
                "TURNOUT_LEAF",
                "TURNOUT_MODEL",
                "TURNOUT_VERSION",
                "TURNOUT_RELEASE",
                "TURNOUT_WHY",
                "TURNOUT_BODY",
            ]
        );
        assert!(told.iter().all(|(name, value)| name == "TURNOUT_BODY" || value.len() <= VALUE_MAX + 2));
    }

    #[test]
    fn what_a_record_says_can_be_searched_for() {
        let step = json!({ "do": "observe", "of": 10_000 });
        let context = json!({ "id": "01a0c4f0-9f00-7a0b-8c0d-0e0f10111213", "began_ms": 1 });
        let told = fields(json!({
            "event": "failed", "release": "r-2", "step": step, "why": "late", "audit_context": context,
        }));
        for wanted in [
            ("MESSAGE_ID", "eeca8c91beaf4754ae5b2f62f2135ee2"),
            ("PRIORITY", "3"),
            ("TURNOUT_MODEL", "digits"),
            ("TURNOUT_RELEASE", "r-2"),
            ("TURNOUT_STEP", "observe at 10 %"),
            ("TURNOUT_WHY", "late"),
            ("TURNOUT_SEQ", "7"),
            ("TURNOUT_AUDIT_CONTEXT", "01a0c4f0-9f00-7a0b-8c0d-0e0f10111213"),
        ] {
            assert!(
                told.iter().any(|(name, value)| (name.as_str(), value.as_str()) == wanted),
                "{wanted:?}: {told:?}"
            );
        }
    }
}
