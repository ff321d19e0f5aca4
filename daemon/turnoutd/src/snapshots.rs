//! Requests about snapshots: list, take, hold, mount, unmount. Each change is a record before it is an effect.

use crate::access::{Need, Peer};
use crate::audit::blocking;
use crate::catalog::{self, Filter};
use crate::evidence::{self, Moment, Position};
use crate::handlers::{Desk, Failure, Named, Sent, body, named, problem};
use crate::{chain, now_ms};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use std::path::Path;
use turnout_engine::{ArchiveRecord, ArchiveWish, Event, Reason, Record};
use turnout_host::HostError;
use turnout_host::archive::{MountPlace, Unmount};
use turnout_host::store::SnapshotInfo;
use turnout_host::volume::StoreKind;
use turnout_manifest::AuditContext;
use turnout_protocol::archive::{
    HoldSnapshot, MountSnapshot, Mounted, Snapshot, Snapshots, TakeSnapshot, UnmountSnapshot, Unmounted,
};
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::{ErrorCode, Problem};

/// Longest note and reason, characters.
const NOTE_MAX: usize = 500;
/// Longest path of a mount point, bytes.
const PATH_MAX: usize = 1024;
/// Shortest and longest time that a snapshot is mounted, milliseconds: a second, thirty days.
const MOUNTED_MS: std::ops::RangeInclusive<u64> = 1_000..=30 * 86_400_000;
/// Most snapshots that are mounted at one time.
const MOUNTS_MAX: usize = 64;

/// `GET /v1/audit/snapshots`.
///
/// # Errors
/// 400 for a query that is none of this resource, 500 when the store cannot be read.
pub async fn list(
    State(desk): State<Desk>,
    query: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Snapshots>, Failure> {
    let Query(filter) = query.map_err(|rejection| problem(ErrorCode::BadRequest, rejection.body_text()))?;
    let (host, view) = (desk.host.clone(), desk.view());
    let snapshots = on_host(move || catalog::snapshots(host.as_ref(), &view, &filter)).await?;
    Ok(Json(Snapshots { schema: SCHEMA.to_owned(), snapshots }))
}

/// `POST /v1/audit/snapshots`.
///
/// # Errors
/// 503 when the journal cannot be written, 500 when the store cannot take it.
pub async fn take(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<(StatusCode, Json<Snapshot>), Failure> {
    let note = said("note", body::<TakeSnapshot>(request)?.note.unwrap_or_default())?;
    desk.allow(peer, Need::Operate, "take a snapshot").await?;
    if desk.daemon.config.keep.store == StoreKind::Folder {
        let none = problem(ErrorCode::Refused, "a store in a plain folder keeps no snapshots");
        return Err(none
            .hint("put the state on Btrfs, or leave `store.kind` out of the configuration")
            .into());
    }
    let by = peer.to_string();
    let requested = ArchiveRecord::SnapshotRequested { by: by.clone(), note: note.clone() };
    desk.keep(peer.context, requested).await?;
    let made = make(&desk, peer.context, Reason::Request { by, note }).await?;
    Ok((StatusCode::CREATED, Json(find(&desk, &made.name).await?)))
}

/// Makes a snapshot outside of a release, and says so in the journal, also when it failed.
///
/// # Errors
/// 500 when the store cannot take it.
pub async fn make(desk: &Desk, context: AuditContext, reason: Reason) -> Result<SnapshotInfo, Failure> {
    let head = desk.journal.head();
    let position = Position { size: head.size, root: head.root.to_string() };
    let moment = Moment::of(&desk.view().world, &position, &reason);
    let (host, intake, config) = (desk.host.clone(), desk.intake.clone(), desk.daemon.config.clone());
    let name = evidence::snapshot_name(head.size);
    match on_host(move || host.snapshot(&name, &moment.evidence(&intake, &config))).await {
        Ok(made) => {
            let (snapshot, uuid) = (made.name.clone(), made.uuid.clone());
            desk.keep(context, ArchiveRecord::SnapshotTaken { snapshot, uuid, reason }).await?;
            Ok(made)
        }
        Err(failed) => {
            let why = failed.0.message.clone();
            let failure = ArchiveRecord::ArchiveFailed { what: "take a snapshot".to_owned(), why };
            desk.keep(context, failure).await?;
            Err(failed)
        }
    }
}

/// `POST /v1/audit/snapshots/{name}/hold`.
///
/// # Errors
/// 403 for who is not root, 404 for an unknown snapshot, 409 while it is being deleted.
pub async fn hold(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    name: Named<String>,
    request: Sent,
) -> Result<Json<Snapshot>, Failure> {
    let snapshot = named(name)?;
    let reason = said("reason", body::<HoldSnapshot>(request)?.reason)?;
    if reason.is_empty() {
        return Err(problem(ErrorCode::BadRequest, "a hold needs a reason").into());
    }
    desk.allow(peer, Need::Evidence, "hold a snapshot").await?;
    find(&desk, &snapshot).await?;
    let by = peer.to_string();
    let wish = ArchiveWish::Hold { snapshot: snapshot.clone(), by, reason };
    desk.ask(peer.context, Event::Archive(wish)).await?;
    find(&desk, &snapshot).await.map(Json)
}

/// `DELETE /v1/audit/snapshots/{name}/hold`.
///
/// # Errors
/// 403 for who is not root, 404 for an unknown snapshot, 409 when nobody holds it.
pub async fn release_hold(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    name: Named<String>,
) -> Result<Json<Snapshot>, Failure> {
    let snapshot = named(name)?;
    desk.allow(peer, Need::Evidence, "release a hold").await?;
    find(&desk, &snapshot).await?;
    let by = peer.to_string();
    let wish = ArchiveWish::ReleaseHold { snapshot: snapshot.clone(), by };
    desk.ask(peer.context, Event::Archive(wish)).await?;
    find(&desk, &snapshot).await.map(Json)
}

/// `POST /v1/audit/snapshots/{name}/mount`.
///
/// # Errors
/// 403 for who is not root, 404 for an unknown snapshot, 409 where something is mounted, 422 for a place or a time that
/// cannot be.
pub async fn mount(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    name: Named<String>,
    request: Sent,
) -> Result<Json<Mounted>, Failure> {
    let snapshot = named(name)?;
    let MountSnapshot { dir, for_ms } = body(request)?;
    desk.allow(peer, Need::Evidence, "mount a snapshot").await?;
    check_place(&desk, &dir)?;
    if !MOUNTED_MS.contains(&for_ms) {
        return Err(problem(ErrorCode::Refused, "a snapshot is mounted for one second to thirty days").into());
    }
    find(&desk, &snapshot).await?;
    let until_ms = now_ms() + for_ms;
    let (at, by) = (dir.clone(), peer.to_string());
    let wish = ArchiveWish::Mount { snapshot: snapshot.clone(), at, by, until_ms };
    desk.ask(peer.context, Event::Archive(wish)).await?;
    let (host, wanted) = (desk.host.clone(), snapshot.clone());
    let place = MountPlace { at: dir.clone().into(), pid: peer.pid };
    if let Err(failed) = on_host(move || host.mount_snapshot(&wanted, &place)).await {
        let why = failed.0.message.clone();
        let until_ms = Some(until_ms);
        desk.keep(peer.context, ArchiveRecord::MountEnded { snapshot, at: dir, why, until_ms }).await?;
        return Err(failed);
    }
    Ok(Json(Mounted { schema: SCHEMA.to_owned(), snapshot, mounted_at: dir, until_ms }))
}

fn check_place(desk: &Desk, dir: &str) -> Result<(), Problem> {
    let refused = |message: String| problem(ErrorCode::Refused, message);
    let path = Path::new(dir);
    if !path.is_absolute() || dir.len() > PATH_MAX || dir.contains(char::is_control) {
        return Err(refused(format!("a mount point is an absolute path of at most {PATH_MAX} bytes")));
    }
    let config = &desk.daemon.config;
    if let Some(own) = [&config.state, &config.runtime].into_iter().find(|own| path.starts_with(own)) {
        return Err(refused(format!("`{dir}` lies in `{}`, which is the daemon's own", own.display()))
            .hint("choose a folder of yours"));
    }
    if desk.view().world.archive.mounts.len() >= MOUNTS_MAX {
        return Err(problem(ErrorCode::Limit, format!("{MOUNTS_MAX} snapshots are mounted already"))
            .hint("`turnoutctl audit unmount DIR` takes one away"));
    }
    Ok(())
}

/// `POST /v1/audit/unmount`.
///
/// # Errors
/// 403 for who is not root, 404 where the daemon mounted nothing, 409 while something in it is open.
pub async fn unmount(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<Unmounted>, Failure> {
    let UnmountSnapshot { dir } = body(request)?;
    desk.allow(peer, Need::Evidence, "unmount a snapshot").await?;
    let Some(grant) = desk.view().world.archive.mounts.get(&dir).cloned() else {
        let unknown = problem(ErrorCode::NotFound, format!("no snapshot was mounted at `{dir}`"));
        return Err(unknown.hint("`turnoutctl audit snapshots` shows what is mounted where").into());
    };
    let (host, at, until_ms) = (desk.host.clone(), dir.clone(), Some(grant.until_ms));
    let snapshot = grant.snapshot.clone();
    let there =
        on_host(move || host.unmount_snapshot(&grant.snapshot, Path::new(&at), Unmount::WhenIdle)).await?;
    let why = if there { format!("unmounted by {peer}") } else { "it was not there any more".to_owned() };
    let ended = ArchiveRecord::MountEnded { snapshot: snapshot.clone(), at: dir.clone(), why, until_ms };
    desk.keep(peer.context, ended).await?;
    Ok(Json(Unmounted { schema: SCHEMA.to_owned(), snapshot, unmounted: dir }))
}

impl Desk {
    /// Has the loop write a record about what is kept, as [`Desk::note`] does.
    ///
    /// # Errors
    /// 503 when the journal cannot be written.
    pub async fn keep(
        &self,
        context: impl Into<Option<AuditContext>>,
        record: ArchiveRecord,
    ) -> Result<(), Failure> {
        self.note(context, Record::Archive(record)).await
    }
}

/// A snapshot that is there.
///
/// # Errors
/// 404 when it is not.
pub async fn find(desk: &Desk, name: &str) -> Result<Snapshot, Failure> {
    let (host, view, wanted) = (desk.host.clone(), desk.view(), name.to_owned());
    let found = on_host(move || catalog::snapshot(host.as_ref(), &view, &wanted)).await?;
    found.map(|(snapshot, _)| snapshot).ok_or_else(|| unknown(name).into())
}

/// What is said of a snapshot that is not there.
pub(crate) fn unknown(name: &str) -> Problem {
    let shown: String = name.chars().take(64).collect();
    problem(ErrorCode::NotFound, format!("no snapshot is named `{}`", shown.escape_default()))
        .hint("`turnoutctl audit snapshots` lists them")
}

/// Text for the journal: short, and on one line.
pub(crate) fn said(what: &str, text: String) -> Result<String, Problem> {
    if text.chars().count() > NOTE_MAX || text.contains(char::is_control) {
        let message = format!("a {what} is one line of at most {NOTE_MAX} characters");
        return Err(problem(ErrorCode::BadRequest, message));
    }
    Ok(text)
}

/// Does something on the host beside the requests, and says what went wrong as the caller needs it.
///
/// # Errors
/// The host's own, by their kinds.
pub async fn on_host<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HostError> + Send + 'static,
) -> Result<T, Failure> {
    Ok(blocking(work).await?.map_err(|error| host_problem(&error))?)
}

fn host_problem(error: &HostError) -> Problem {
    let (code, hint) = match error {
        HostError::InUse { .. } => (ErrorCode::Conflict, "end what uses it, then try again"),
        HostError::Missing { .. } => {
            (ErrorCode::NotFound, "`turnoutctl audit snapshots` lists what is there")
        }
        HostError::Unsupported { .. } => (ErrorCode::Refused, ""),
        HostError::NoSpace { .. } => {
            (ErrorCode::Limit, "`turnoutctl model remove` makes room, `turnoutctl store grow` adds some")
        }
        HostError::ReadOnlyStore => (
            ErrorCode::HostFailure,
            "traffic goes on; look for the cause with `dmesg`, mend the disk, then restart turnoutd",
        ),
        _ => (ErrorCode::HostFailure, "`turnoutctl doctor` examines the store"),
    };
    let told = problem(code, chain(error));
    if hint.is_empty() { told } else { told.hint(hint) }
}
