//! Answers that go on: events and the audit log, one JSON document a line (NDJSON). A reader that does not read is
//! dropped from, never waited for by the loop.

use crate::handlers::{Desk, Failure, problem};
use crate::pruning::was_pruned;
use crate::{chain, evidence, millis, now_ms};
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use serde::{Deserialize, Serialize};
use std::io;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use turnout_journal::{JournalError, Reader, Record, first_record};
use turnout_manifest::ModelName;
use turnout_protocol::control::{AuditRecord, SCHEMA, Status, Update};
use turnout_protocol::error::ErrorCode;

/// Lines on their way to one reader.
const LINES_UNDER_WAY: usize = 16;
/// Shortest time between two events.
const EVENT_PAUSE: Duration = Duration::from_millis(100);
/// How long a follower of the log waits before it looks whether its reader is still there.
const FOLLOW_WAIT: Duration = Duration::from_secs(1);

/// An end that is no [`Sender::abort`] says that the answer is whole.
type Lines = Sender<Bytes, io::Error>;

/// Query of `GET /v1/events`.
#[derive(Debug, Deserialize)]
pub struct EventsQuery {
    /// Go on until the reader leaves.
    #[serde(default)]
    follow: bool,
    /// Only this model.
    model: Option<ModelName>,
}

/// `GET /v1/events`.
///
/// # Errors
/// 400 for a query that is none of this resource.
pub async fn events(
    State(desk): State<Desk>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let query = asked(query)?;
    let (lines, response) = feed();
    tokio::spawn(send_events(desk, query, lines));
    Ok(response)
}

async fn send_events(desk: Desk, query: EventsQuery, mut lines: Lines) {
    let mut views = desk.views.clone();
    let mut last: Option<Status> = None;
    loop {
        let mut status = views.borrow_and_update().status(&desk.daemon, desk.intake.concerns());
        if let Some(model) = &query.model {
            status.models.retain(|found| found.model == *model);
            let release =
                status.models.first().and_then(|model| model.release.as_ref()).map(|r| r.release_id);
            status.sets.retain(|set| {
                let shown = set.models.iter().any(|shown| shown.model == *model);
                shown || release.is_some_and(|release| set.releases.contains(&release))
            });
        }
        if last.as_ref() != Some(&status) {
            let update = Update { schema: SCHEMA.to_owned(), time_ms: now_ms(), status: status.clone() };
            if lines.send_data(line(&update)).await.is_err() {
                return;
            }
            last = Some(status);
        }
        if !query.follow {
            return;
        }
        tokio::time::sleep(EVENT_PAUSE).await;
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// Query of `GET /v1/audit/log`.
#[derive(Debug, Deserialize)]
pub struct LogQuery {
    /// First record wanted; the first that is there when absent.
    from: Option<u64>,
    /// Go on until the reader leaves.
    #[serde(default)]
    follow: bool,
}

/// `GET /v1/audit/log`. It is broken off where a record cannot be read: half of the evidence must not look like all of it.
///
/// # Errors
/// 400 for a query that is none of this resource, 404 for a record that was pruned, 500 when the journal cannot be read.
pub async fn audit_log(
    State(desk): State<Desk>,
    query: Result<Query<LogQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    let query = asked(query)?;
    let journal = desk.daemon.config.state.join(evidence::JOURNAL_DIR);
    let unread = |error: JournalError| problem(ErrorCode::HostFailure, chain(&error));
    let from = query.from.map_or_else(|| first_record(&journal), Ok).map_err(unread)?;
    let reader = Reader::open(&journal, from).map_err(|error| match error {
        JournalError::Pruned { seq, .. } => was_pruned(&desk, seq).unwrap_or_else(|| unread(error)),
        error => unread(error),
    })?;
    let (lines, response) = feed();
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || send_records(&desk, (reader, from), (query.follow, lines), &handle));
    Ok(response)
}

fn send_records(
    desk: &Desk,
    (mut reader, mut next): (Reader, u64),
    (follow, mut lines): (bool, Lines),
    handle: &Handle,
) {
    let mut again = false;
    let why = loop {
        // What the file has beyond that may never reach the disk.
        if desk.journal.size() <= next && !follow {
            return;
        }
        // An empty line, which NDJSON readers skip, tells whether the reader is still there.
        while desk.journal.wait_beyond(next, Instant::now() + FOLLOW_WAIT) <= next {
            if handle.block_on(lines.send_data(Bytes::from_static(b"\n"))).is_err() {
                return;
            }
        }
        match reader.next_record() {
            Ok(Some(record)) => {
                (next, again) = (record.seq + 1, false);
                if handle.block_on(lines.send_data(line(&audit_record(&record)))).is_err() {
                    return;
                }
            }
            // Some of it may have been read before it was whole: the second time it is read anew.
            Ok(None) if !again => again = true,
            Ok(None) => break format!("record {next} is not there"),
            Err(error) => break chain(&error),
        }
    };
    tracing::error!("audit log: broken off before record {next}: {why}");
    lines.abort(io::Error::other(why));
}

fn audit_record(record: &Record) -> AuditRecord {
    AuditRecord {
        schema: SCHEMA.to_owned(),
        seq: record.seq,
        time_ms: millis(record.time_ns),
        body: serde_json::from_slice(&record.body).unwrap_or(serde_json::Value::Null),
        leaf: record.leaf().to_string(),
    }
}

fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    let refused = |rejection: QueryRejection| Failure(problem(ErrorCode::BadRequest, rejection.body_text()));
    query.map(|Query(query)| query).map_err(refused)
}

fn feed() -> (Lines, Response) {
    let (lines, body) = Channel::<Bytes, io::Error>::new(LINES_UNDER_WAY);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (lines, (kind, Body::new(body)).into_response())
}

fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).expect("wire types serialize");
    text.push(b'\n');
    text.into()
}
