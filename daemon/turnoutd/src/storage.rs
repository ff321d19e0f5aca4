//! Requests about the store below everything: show, grow, scrub; and the scrub on a timer.

use crate::access::{self, Need, Peer};
use crate::handlers::{Desk, Failure, Sent, body, problem};
use crate::now_ms;
use crate::snapshots::on_host;
use axum::Json;
use axum::extract::{Extension, State};
use std::time::{Duration, Instant};
use turnout_engine::archive::Scrubbed;
use turnout_engine::{Archive, ArchiveRecord};
use turnout_host::archive::StoreState;
use turnout_manifest::AuditContext;
use turnout_protocol::archive::{GrowStore, Scrub, Store};
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::ErrorCode;

/// Greatest store that can be asked for, bytes: 1 PiB.
const STORE_MAX: u64 = 1 << 50;
/// Who scrubs on a timer, in the journal.
const TIMER: &str = "the timer";

/// `GET /v1/store`.
///
/// # Errors
/// 500 when the store cannot be asked.
pub async fn show(State(desk): State<Desk>) -> Result<Json<Store>, Failure> {
    described(&desk).await.map(Json)
}

async fn described(desk: &Desk) -> Result<Store, Failure> {
    let host = desk.host.clone();
    // A store that has failed may not be listed any more, and is shown all the same.
    let (state, there) = on_host(move || Ok((host.store_state()?, host.snapshots().ok()))).await?;
    let view = desk.view();
    let known = view.world.archive.snapshots.len();
    let snapshots = there.map_or(known, |snapshots| snapshots.len()) as u64;
    let versions = view.world.versions.len() as u64;
    let keep = &desk.daemon.config.keep;
    let next_scrub = keep.scrub_every(state.image.is_some()).map(|every| due_ms(&view.world.archive, every));
    Ok(Store {
        schema: SCHEMA.to_owned(),
        path: state.path.display().to_string(),
        image: state.image.map(|image| image.display().to_string()),
        kind: state.kind,
        total_bytes: state.total_bytes,
        free_bytes: state.free_bytes,
        reserve_bytes: state.reserve_bytes,
        read_only: state.read_only,
        versions,
        snapshots,
        scrub: view.world.archive.scrubbed.map(|(found, at_ms)| scrub_reply(found, at_ms)),
        next_scrub_ms: next_scrub,
        retention: keep.rules(),
    })
}

/// `POST /v1/store/grow`.
///
/// # Errors
/// 403 for who is not root, 422 for a size that cannot be, 500 when the host fails.
pub async fn grow(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<Store>, Failure> {
    let GrowStore { bytes } = body(request)?;
    desk.allow(peer, Need::Evidence, "make the store larger").await?;
    if bytes > STORE_MAX {
        return Err(problem(ErrorCode::Refused, format!("a store has at most {STORE_MAX} bytes")).into());
    }
    desk.keep(peer.context, ArchiveRecord::StoreGrowing { by: peer.to_string(), bytes }).await?;
    let host = desk.host.clone();
    if let Err(failed) = on_host(move || host.grow(bytes)).await {
        let why = failed.0.message.clone();
        let failure = ArchiveRecord::ArchiveFailed { what: "make the store larger".to_owned(), why };
        desk.keep(peer.context, failure).await?;
        return Err(failed);
    }
    desk.keep(peer.context, ArchiveRecord::StoreGrown { bytes }).await?;
    described(&desk).await.map(Json)
}

/// `POST /v1/store/scrub`: answers when it is over.
///
/// # Errors
/// 500 when the kernel cannot, for instance because another scrub runs.
pub async fn scrub(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Scrub>, Failure> {
    desk.allow(peer, Need::Operate, "scrub the store").await?;
    let found = scrub_now(&desk, peer.context, peer.to_string()).await?;
    Ok(Json(scrub_reply(found, now_ms())))
}

/// Looks how the store is, for the status and the metrics. One that cannot be asked is as it was.
pub async fn look(desk: &Desk) {
    let host = desk.host.clone();
    if let Ok(state) = on_host(move || host.store_state()).await {
        desk.daemon.condition.saw_store(state);
    }
}

/// The scrub on a timer: counted from the last one in the journal, so a restart of the daemon does not put it off.
pub async fn scrub_when_due(desk: &Desk) {
    let host = desk.host.clone();
    let Ok(StoreState { image, read_only: false, .. }) = on_host(move || host.store_state()).await else {
        return tracing::error!("the store takes no writes or cannot be asked: it is not scrubbed");
    };
    let every = desk.daemon.config.keep.scrub_every(image.is_some());
    if every.is_some_and(|every| due_ms(&desk.view().world.archive, every) <= now_ms())
        && let Err(failed) = scrub_now(desk, access::internal_context(), TIMER.to_owned()).await
    {
        tracing::error!("scrub: {}", failed.0);
    }
}

fn due_ms(archive: &Archive, every: Duration) -> u64 {
    let last = archive.scrubbed.map(|(_, at_ms)| at_ms).or(archive.since_ms);
    last.unwrap_or_else(now_ms) + u64::try_from(every.as_millis()).unwrap_or(u64::MAX)
}

async fn scrub_now(desk: &Desk, context: AuditContext, by: String) -> Result<Scrubbed, Failure> {
    desk.keep(context, ArchiveRecord::Scrubbing { by }).await?;
    let (host, begun) = (desk.host.clone(), Instant::now());
    match on_host(move || host.scrub()).await {
        Ok(seen) => {
            let found = Scrubbed {
                bytes: seen.bytes,
                errors: seen.errors,
                corrected: seen.corrected,
                uncorrectable: seen.uncorrectable,
                took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            };
            desk.keep(context, ArchiveRecord::Scrubbed { found }).await?;
            Ok(found)
        }
        Err(failed) => {
            let why = failed.0.message.clone();
            let failure = ArchiveRecord::ArchiveFailed { what: "scrub the store".to_owned(), why };
            desk.keep(context, failure).await?;
            Err(failed)
        }
    }
}

fn scrub_reply(found: Scrubbed, at_ms: u64) -> Scrub {
    Scrub {
        at_ms,
        bytes: found.bytes,
        errors: found.errors,
        corrected: found.corrected,
        uncorrectable: found.uncorrectable,
        took_ms: found.took_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_is_due_after_the_last_one_or_after_the_first_start() {
        let day = Duration::from_secs(86_400);
        let mut archive = Archive { since_ms: Some(5_000), ..Archive::default() };
        assert_eq!(due_ms(&archive, day), 86_405_000, "restarts do not put it off");
        archive.scrubbed = Some((Scrubbed::default(), 100_000_000));
        assert_eq!(due_ms(&archive, day), 186_400_000);
        assert!(due_ms(&Archive::default(), day) >= now_ms(), "not at once on a new journal");
    }
}
