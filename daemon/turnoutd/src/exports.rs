//! What leaves this host: a snapshot as a `btrfs send` stream, the signed list of its files, and the public key that
//! the signature is checked with.

use crate::access::{Need, Peer};
use crate::audit::blocking;
use crate::chain;
use crate::handlers::{Desk, Failure, Named, named, problem};
use crate::snapshots::{find, on_host};
use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use std::io::{self, Read};
use tokio::runtime::Handle;
use turnout_engine::ArchiveRecord;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::{Sha256, canonical};
use turnout_protocol::archive::{DIGESTS_SCHEMA, DIGESTS_TYPE, Digests, HostKey, SignedDigests, Snapshot};
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::ErrorCode;

/// Bytes of one piece of the stream.
const PIECE: usize = 256 << 10;
/// Pieces on their way to one reader.
const PIECES_UNDER_WAY: usize = 4;

/// `GET /v1/audit/key`.
pub async fn key(State(desk): State<Desk>) -> Json<HostKey> {
    let public = desk.host_key.public_key();
    Json(HostKey { schema: SCHEMA.to_owned(), key_id: public.id().to_string(), public_key: public.to_pem() })
}

/// `GET /v1/audit/snapshots/{name}/digests`: reads every file, signs the list, and writes down who gets it.
///
/// # Errors
/// 403 for who is not root, 404 for an unknown snapshot, 500 when a file cannot be read.
pub async fn digests(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    name: Named<String>,
) -> Result<Json<SignedDigests>, Failure> {
    let name = named(name)?;
    desk.allow(peer, Need::Evidence, "export a snapshot").await?;
    let snapshot = find(&desk, &name).await?;
    let (host, wanted) = (desk.host.clone(), name.clone());
    let files = on_host(move || host.files(&wanted)).await?;
    let failed = |error: &dyn std::error::Error| problem(ErrorCode::HostFailure, chain(error));
    let list = canonical::to_canonical(&listed(snapshot, files)).map_err(|error| failed(&error))?;
    let digest = Sha256::of(&list);
    let key = desk.host_key.clone();
    let signed = blocking(move || Envelope::sign(DIGESTS_TYPE, list, &key).and_then(|made| made.to_json()));
    let envelope = signed.await?.map_err(|error| failed(&error))?;
    let by = peer.to_string();
    let exported = ArchiveRecord::SnapshotExported { snapshot: name, by, list: Some(digest) };
    desk.keep(peer.context, exported).await?;
    let envelope = String::from_utf8_lossy(&envelope).into_owned();
    Ok(Json(SignedDigests { schema: SCHEMA.to_owned(), envelope }))
}

fn listed(snapshot: Snapshot, files: Vec<turnout_manifest::manifest::FileEntry>) -> Digests {
    Digests {
        schema: DIGESTS_SCHEMA.to_owned(),
        snapshot: snapshot.name,
        uuid: snapshot.uuid,
        created_ms: snapshot.created_ms,
        files,
    }
}

/// `GET /v1/audit/snapshots/{name}/stream`: `btrfs send`, as it comes. It is broken off when the sender fails. Who gets
/// it is written down before the first byte.
///
/// # Errors
/// 403 for who is not root, 404 for an unknown snapshot, 422 without btrfs-progs, 503 when the journal cannot be written.
pub async fn stream(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    name: Named<String>,
) -> Result<Response, Failure> {
    let name = named(name)?;
    desk.allow(peer, Need::Evidence, "export a snapshot").await?;
    find(&desk, &name).await?;
    let (host, wanted) = (desk.host.clone(), name.clone());
    let sent = on_host(move || host.send(&wanted)).await?;
    let exported = ArchiveRecord::SnapshotExported { snapshot: name, by: peer.to_string(), list: None };
    desk.keep(peer.context, exported).await?;
    let (pieces, body) = Channel::<Bytes, io::Error>::new(PIECES_UNDER_WAY);
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || pass_on(sent, pieces, &handle));
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::new(body)).into_response())
}

fn pass_on(mut from: Box<dyn Read + Send>, mut to: Sender<Bytes, io::Error>, handle: &Handle) {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                let bytes = Bytes::copy_from_slice(&piece[..count]);
                if handle.block_on(to.send_data(bytes)).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!("export: {error}");
                return to.abort(error);
            }
        }
    }
}
