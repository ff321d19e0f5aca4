//! Requests of the auditor and of who sets a host up: verify the journal, examine the host.

use crate::handlers::{Desk, Failure, problem};
use crate::{chain, checkpoints, evidence, examine, millis};
use axum::Json;
use axum::extract::State;
use std::error::Error;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use turnout_journal::{Holds, JournalError, NoteKey, beside_pruning, origin, verify_each};
use turnout_manifest::Sha256;
use turnout_protocol::control::{AuditVerified, Doctor, SCHEMA};
use turnout_protocol::error::{ErrorCode, Problem};
use turnout_protocol::journal::Prunings;

/// Most requests at one time that read the whole journal, or all that two snapshots tell.
const LONG_READS_MAX: usize = 2;

/// Places for requests that read much, which everybody at the control socket may ask for.
#[derive(Debug, Clone)]
pub struct LongReads(Arc<Semaphore>);

impl Default for LongReads {
    /// With every place free.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LONG_READS_MAX)))
    }
}

impl LongReads {
    /// Takes a place. It goes along with the work itself, which outlives a caller that leaves.
    ///
    /// # Errors
    /// 413 when none is free.
    pub fn begin(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0).try_acquire_owned().map_err(|_| {
            let message = format!("{LONG_READS_MAX} requests read the journal or snapshots already");
            problem(ErrorCode::Limit, message).hint("try again once one of them is answered")
        })
    }
}

/// `POST /v1/audit/verify`: reads every record again.
///
/// # Errors
/// 422 naming the first damage, 413 while two other requests read as much.
pub async fn verify(State(desk): State<Desk>) -> Result<Json<AuditVerified>, Failure> {
    let journal = desk.daemon.config.state.join(evidence::JOURNAL_DIR);
    let (notary, place) = (Arc::clone(&desk.notary), desk.long_reads.begin()?);
    let read = blocking(move || {
        let _place = place;
        // A journal that came from another host was signed by that one's key: from here on it is this one's.
        match notary.sign() {
            Ok(_) | Err(JournalError::Io { .. }) => {}
            Err(error) => return Err(error),
        }
        let keys = [notary.key().clone()];
        let trusted: (&[NoteKey], Holds<'_>) = (&keys, &checkpoints::holds);
        beside_pruning(&journal, || {
            let mut prunings = Prunings::default();
            let verified = verify_each(&journal, Some(trusted), &mut |record| {
                prunings.see((record.seq, millis(record.time_ns)), &record.body);
            })?;
            Ok((verified, prunings))
        })
    });
    let damaged = |error: &dyn Error| {
        let damaged = problem(ErrorCode::Refused, format!("the journal does not verify: {}", chain(error)));
        damaged.hint("compare with the last audit snapshot: `turnoutctl audit snapshots`")
    };
    let (verified, prunings) = read.await?.map_err(|error| damaged(&error))?;
    let base = verified.base.map(|base| Sha256(*base.as_bytes()));
    let pruned = base.map(|base| prunings.vouch((verified.first, base), verified.signed_size)).transpose();
    let pruned = pruned.map_err(|error| damaged(&error))?;
    Ok(Json(AuditVerified {
        schema: SCHEMA.to_owned(),
        size: verified.size,
        root: verified.root.to_string(),
        segments: verified.segments,
        first: verified.first,
        pruned,
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
