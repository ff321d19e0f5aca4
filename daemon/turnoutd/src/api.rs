//! The door: accepts on the control socket with limits, learns who is there, and hands each request to its handler.

use crate::access::{Caller, Peer};
use crate::handlers::{self, Desk, Failure, problem};
use crate::idle_body;
use crate::places::{Places, Refusals};
use crate::{audit, checkpoints, diff, exports, feeds, keeping, pruning, snapshots, storage, trust};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{delete, get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use turnout_host::peers::login_uid;
use turnout_manifest::audit_context::AUDIT_CONTEXT_HEADER;
use turnout_protocol::error::ErrorCode;

/// How long a request's head may take to arrive.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may send nothing of a body that it owes.
const BODY_IDLE: Duration = Duration::from_secs(30);
/// How long nobody is let in after the kernel could not: out of descriptors or memory, only others' leaving helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Largest JSON request, bytes. Bundles are streamed and have their own limits.
const JSON_MAX: usize = 1024 * 1024;

/// What every answer says is there: whoever speaks a newer language sees why it is not understood.
pub(crate) const SERVER: &str = concat!("turnoutd/", env!("CARGO_PKG_VERSION"));

/// Below this path snapshots are given out.
const SNAPSHOTS: &str = "/v1/audit/snapshots/";

/// Makes the control socket: mode 0660, owned by root and the group. A socket file that nobody listens on is replaced.
///
/// # Errors
/// The OS's own; [`io::ErrorKind::AddrInUse`] when another daemon listens there.
pub fn bind(path: &Path, group: Option<u32>) -> io::Result<StdListener> {
    if StdListener::bind(path).is_err() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        std::fs::remove_file(path)?;
    } else {
        std::fs::remove_file(path)?;
    }
    let listener = StdListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    chown(path, None, group)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until told to stop; requests under way are not waited for.
pub async fn serve(listener: UnixListener, desk: Desk, stop: watch::Receiver<bool>) {
    serve_patiently(listener, desk, stop, BODY_IDLE).await;
}

/// The same for clients that may send nothing of a body for this long.
pub async fn serve_patiently(
    listener: UnixListener,
    desk: Desk,
    mut stop: watch::Receiver<bool>,
    body_idle: Duration,
) {
    let readers: Arc<[u32]> = desk.daemon.readers.as_slice().into();
    let entrance = Entrance { router: router(desk), readers, body_idle };
    let (places, mut refusals) = (Places::default(), Refusals::default());
    // Nothing here may wait for a connection to end: who holds them all would keep everybody out, and the stop too.
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(credentials) = stream.peer_cred() else { continue };
                match places.take(credentials.uid()) {
                    Ok(place) => {
                        let entrance = entrance.clone();
                        tokio::spawn(async move {
                            entrance.connection(stream, credentials).await;
                            drop(place);
                        });
                    }
                    Err(full) => refusals.refuse(stream, full),
                }
            }
            Err(error) => {
                tracing::error!("control socket: {error}");
                if tokio::time::timeout(ACCEPT_PAUSE, stop.wait_for(|stop| *stop)).await.is_ok() {
                    break;
                }
            }
        }
    }
}

/// What each connection is served with.
#[derive(Clone)]
struct Entrance {
    router: Router,
    readers: Arc<[u32]>,
    body_idle: Duration,
}

impl Entrance {
    async fn connection(self, stream: UnixStream, credentials: UCred) {
        let Self { router, readers, body_idle } = self;
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid().unwrap_or(0));
        let caller = Caller { uid, gid, pid, login_uid: login_uid(stream.as_fd(), pid) };
        let asks = middleware::from_fn(move |request: Request, next| {
            let request = request.map(|body| idle_body::within(body_idle, body));
            under_context(caller, Arc::clone(&readers), request, next)
        });
        let service = TowerToHyperService::new(router.layer(asks));
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!("control connection of pid {pid}: {error}");
        }
    }
}

/// Makes the audit context of a request, and names it in the answer where records can follow from it. The answer also
/// names who gives it.
async fn under_context(caller: Caller, readers: Arc<[u32]>, mut request: Request, next: Next) -> Response {
    let peer = Peer::asking(caller, &readers);
    // Reading leaves no record, but who is given a snapshot is written down.
    let recorded = request.method() != Method::GET || request.uri().path().starts_with(SNAPSHOTS);
    request.extensions_mut().insert(peer);
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::SERVER, HeaderValue::from_static(SERVER));
    if recorded && let Ok(id) = HeaderValue::from_str(&peer.context.id().to_string()) {
        response.headers_mut().insert(AUDIT_CONTEXT_HEADER, id);
    }
    response
}

fn router(desk: Desk) -> Router {
    Router::new()
        .route("/v1/status", get(handlers::status))
        .route("/v1/metrics", get(handlers::metrics))
        .route("/v1/events", get(feeds::events))
        .route("/v1/doctor", get(audit::doctor))
        .route("/v1/versions", get(handlers::versions))
        .route("/v1/bundles", post(crate::bundle::receive))
        .route("/v1/releases", get(handlers::releases).post(handlers::start_release))
        .route("/v1/sets", post(crate::beginning::start_set))
        .route("/v1/releases/{id}", get(handlers::release))
        .route("/v1/releases/{id}/report", get(handlers::report))
        .route("/v1/models/{model}/{wish}", post(handlers::intervene))
        .route("/v1/trust", get(trust::list).post(trust::add))
        .route("/v1/trust/{key_id}", delete(trust::remove))
        .route("/v1/trust/root", get(trust::state).post(trust::apply_root))
        .route("/v1/trust/root/history", get(trust::history))
        .route("/v1/trust/exceptions", post(trust::apply_exception))
        .route("/v1/audit/log", get(feeds::audit_log))
        .route("/v1/audit/verify", post(audit::verify))
        .route("/v1/audit/checkpoint", get(checkpoints::checkpoint))
        .route("/v1/audit/proofs/{seq}", get(checkpoints::proof))
        .route("/v1/audit/consistency", get(checkpoints::consistency))
        .route("/v1/audit/cosignatures", post(checkpoints::keep))
        .route("/v1/versions/{version}", delete(keeping::remove_version))
        .route("/v1/audit/snapshots", get(snapshots::list).post(snapshots::take))
        .route("/v1/audit/snapshots/{name}/hold", post(snapshots::hold).delete(snapshots::release_hold))
        .route("/v1/audit/snapshots/{name}/mount", post(snapshots::mount))
        .route("/v1/audit/snapshots/{name}/digests", get(exports::digests))
        .route("/v1/audit/snapshots/{name}/stream", get(exports::stream))
        .route("/v1/audit/unmount", post(snapshots::unmount))
        .route("/v1/audit/diff", get(diff::handle))
        .route("/v1/audit/key", get(exports::key))
        .route("/v1/audit/prune", post(keeping::prune))
        .route("/v1/audit/journal", get(pruning::show))
        .route("/v1/audit/journal/hold", post(pruning::hold).delete(pruning::release_hold))
        .route("/v1/store", get(storage::show))
        .route("/v1/store/grow", post(storage::grow))
        .route("/v1/store/scrub", post(storage::scrub))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(JSON_MAX))
        .with_state(desk)
}

async fn unknown(uri: Uri) -> Failure {
    let missing = problem(ErrorCode::NotFound, format!("no such resource `{}`", uri.path()));
    missing.hint("the API is described in `openapi.yaml`").into()
}

async fn wrong_method(method: Method, uri: Uri) -> Failure {
    let refused = problem(ErrorCode::BadRequest, format!("`{}` does not take {method}", uri.path()));
    refused.hint("the API is described in `openapi.yaml`").into()
}
