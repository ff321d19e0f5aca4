//! Where records go: standard output as NDJSON, or the systemd journal by its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use serde::Serialize;
use serde_json::Value;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use turnout_journal::Record;

const JOURNALD: &str = "/run/systemd/journal/socket";
/// Marks every exported record: `journalctl MESSAGE_ID=…`.
const MESSAGE_ID: &str = "5d2c1c0b6f6b4c1f9f5e7a3f7c0e2d11";
/// Largest body sent to journald in one datagram, bytes; a larger one stays in the journal and is named.
const BODY_MAX: usize = 128 * 1024;

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

    /// Gives one record, and returns once the sink has it.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn give(&mut self, event: &Event) -> Result<(), SinkError> {
        match self {
            Self::Stdout(out) => {
                let mut line = serde_json::to_vec(event).expect("an event serializes");
                line.push(b'\n');
                out.write_all(&line).and_then(|()| out.flush()).map_err(SinkError::Stdout)
            }
            Self::Journald(socket) => socket.send(&entry(event)).map(drop).map_err(SinkError::Journald),
        }
    }
}

/// One journal entry; no value has a newline, because JSON text has none.
fn entry(event: &Event) -> Vec<u8> {
    let word = |key: &str| {
        let text = event.body[key].as_str().unwrap_or_default();
        text.replace(char::is_control, " ")
    };
    let (kind, release) = (word("event"), word("release"));
    let body = event.body.to_string();
    let body = if body.len() > BODY_MAX { "too large: see the journal" } else { &body };
    format!(
        "MESSAGE=turnout record {seq}: {kind} {release}\nMESSAGE_ID={MESSAGE_ID}\nPRIORITY=6\n\
         SYSLOG_IDENTIFIER=turnout-export\nTURNOUT_EVENT_ID={id}\nTURNOUT_SEQ={seq}\nTURNOUT_EVENT={kind}\n\
         TURNOUT_RELEASE={release}\nTURNOUT_LEAF={leaf}\nTURNOUT_BODY={body}\n",
        seq = event.seq,
        id = event.event_id,
        leaf = event.leaf,
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_one_field_a_line_whatever_the_record_says() {
        let body = serde_json::json!({ "event": "refused\nMESSAGE=forged", "why": "a\nMESSAGE=forged" });
        let event = Event { event_id: "7/ab".into(), seq: 7, time_ns: 1, leaf: "ab".into(), body };
        let text = String::from_utf8(entry(&event)).unwrap();
        let fields: Vec<&str> = text.lines().map(|line| line.split('=').next().unwrap()).collect();
        assert_eq!(fields.iter().filter(|field| **field == "MESSAGE").count(), 1, "{text}");
        assert_eq!(fields.len(), 10, "{text}");
    }
}
