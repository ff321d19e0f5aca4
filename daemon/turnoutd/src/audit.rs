//! Requests of the auditor and of who sets a host up: verify the journal, examine the host.

use crate::handlers::{Desk, Failure, problem};
use crate::{chain, checkpoints, evidence, examine, millis};
use axum::Json;
use axum::extract::State;
use std::sync::Arc;
use turnout_journal::{JournalError, origin, verify_signed};
use turnout_protocol::control::{AuditVerified, Doctor, SCHEMA};
use turnout_protocol::error::{ErrorCode, Problem};

/// `POST /v1/audit/verify`: reads every record again.
///
/// # Errors
/// 422 naming the first damage.
pub async fn verify(State(desk): State<Desk>) -> Result<Json<AuditVerified>, Failure> {
    let journal = desk.daemon.config.state.join(evidence::JOURNAL_DIR);
    let notary = Arc::clone(&desk.notary);
    let read = blocking(move || {
        // A journal that came from another host was signed by that one's key: from here on it is this one's.
        match notary.sign() {
            Ok(_) | Err(JournalError::Io { .. }) => {}
            Err(error) => return Err(error),
        }
        verify_signed(&journal, &[notary.key().clone()], &checkpoints::holds)
    });
    let verified = read.await?.map_err(|error| {
        let damaged = problem(ErrorCode::Refused, format!("the journal does not verify: {}", chain(&error)));
        damaged.hint("compare with the last audit snapshot: `turnoutctl audit snapshots`")
    })?;
    Ok(Json(AuditVerified {
        schema: SCHEMA.to_owned(),
        size: verified.size,
        root: verified.root.to_string(),
        segments: verified.segments,
        first_ms: verified.first_time_ns.map(millis),
        last_ms: verified.last_time_ns.map(millis),
        origin: origin(verified.log_id),
        checkpoints: verified.checkpoints,
        checkpoints_signed: verified.signed,
        signed_size: verified.signed_size,
    }))
}

/// `GET /v1/doctor`.
///
/// # Errors
/// 500 when the examination itself fails.
pub async fn doctor(State(desk): State<Desk>) -> Result<Json<Doctor>, Failure> {
    let config = desk.daemon.config.clone();
    let requirements = blocking(move || examine::requirements(&config)).await?;
    Ok(Json(Doctor { schema: SCHEMA.to_owned(), requirements }))
}

/// Runs work that blocks beside the requests.
///
/// # Errors
/// 500 when it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    let failed = |_| problem(ErrorCode::HostFailure, "the work was broken off");
    tokio::task::spawn_blocking(work).await.map_err(failed)
}
