//! One request, one answer: a listing, a file or a part of it, a digest, or why not. Files are opened below the folder's
//! descriptor without following links (openat2(2)).

use super::digests::Digests;
use super::request::{Wanted, path, range};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use turnout_host::HostError;
use turnout_host::beneath::{Folder, Opened};
use turnout_protocol::control::SCHEMA;

/// Bytes of one piece of a file.
const PIECE: usize = 256 << 10;
/// Pieces on their way to one reader.
const PIECES_UNDER_WAY: usize = 2;
/// How long a reader may take to take one piece.
const PIECE_DEADLINE: Duration = Duration::from_secs(30);
/// Most entries of a folder that are listed.
const ENTRIES_MAX: usize = 10_000;
/// What a digest is asked for with.
const WANT_DIGEST: &str = "want-repr-digest";

type Body = BoxBody<Bytes, io::Error>;

/// Answers one request.
///
/// # Errors
/// None: what went wrong is an answer.
pub async fn answer(
    (folder, digests): (Arc<Folder>, Digests),
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => read(folder, &digests, &request).await,
        _ => refused(StatusCode::METHOD_NOT_ALLOWED, "snapshots can only be read"),
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    Ok(response)
}

async fn read(folder: Arc<Folder>, digests: &Digests, request: &Request<Incoming>) -> Response<Body> {
    let Some((below, slash)) = path(request.uri().path()) else {
        return refused(StatusCode::BAD_REQUEST, "a path is names and slashes, each in its one spelling");
    };
    let name = below.clone();
    let opened = tokio::task::spawn_blocking(move || folder.open_below(&name)).await;
    match opened {
        Ok(Ok(Some(Opened::Folder(inside)))) if slash => list(inside, &below).await,
        Ok(Ok(Some(Opened::Folder(_)))) => moved(request.uri().path()),
        Ok(Ok(Some(Opened::File(file)))) if !slash => give(file, digests, request).await,
        Ok(Err(HostError::Os { source, .. })) if source.kind() == io::ErrorKind::PermissionDenied => refused(
            StatusCode::FORBIDDEN,
            "this snapshot was made by an earlier version: mount it with `turnoutctl audit mount`",
        ),
        // A name that is too long is none that is there.
        Ok(Ok(_) | Err(HostError::Content { .. })) => refused(StatusCode::NOT_FOUND, "no such file"),
        Ok(Err(HostError::Os { source, .. })) if source.kind() == io::ErrorKind::InvalidFilename => {
            refused(StatusCode::NOT_FOUND, "no such file")
        }
        _ => refused(StatusCode::INTERNAL_SERVER_ERROR, "the snapshot cannot be read: is its disk well?"),
    }
}

async fn list(folder: Folder, below: &str) -> Response<Body> {
    let listed = tokio::task::spawn_blocking(move || folder.entries(ENTRIES_MAX)).await;
    let Ok(Ok(entries)) = listed else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "the folder cannot be listed");
    };
    let more = entries.len() == ENTRIES_MAX;
    let entries: Vec<Value> = entries
        .into_iter()
        .map(|entry| match entry.size {
            Some(size) => json!({ "name": entry.name, "kind": "file", "bytes": size }),
            None => json!({ "name": entry.name + "/", "kind": "folder" }),
        })
        .collect();
    let mut listing = json!({ "schema": SCHEMA, "path": below, "entries": entries });
    if more {
        listing["cut"] = json!(true);
    }
    document(StatusCode::OK, &listing)
}

async fn give(file: File, digests: &Digests, request: &Request<Incoming>) -> Response<Body> {
    let Ok(length) = file.metadata().map(|metadata| metadata.len()) else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read");
    };
    let file = Arc::new(file);
    let asked = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let digest = match asked(WANT_DIGEST).is_some_and(|wanted| wanted.contains("sha-256")) {
        true => digests.of(Arc::clone(&file)).await,
        false => None,
    };
    let wanted = range(asked(header::RANGE.as_str()), length);
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes");
    if let Some(digest) = digest {
        let encoded = BASE64_STANDARD.encode(digest.as_bytes());
        response = response.header("repr-digest", format!("sha-256=:{encoded}:"));
    }
    let (first, end) = match wanted {
        Wanted::Whole => (0, length),
        Wanted::Part(first, end) => {
            let part = format!("bytes {first}-{}/{length}", end - 1);
            response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, part);
            (first, end)
        }
        Wanted::Nothing => {
            let refusal = refused(StatusCode::RANGE_NOT_SATISFIABLE, "the file has no such part");
            let (mut head, body) = refusal.into_parts();
            head.headers.extend(
                HeaderValue::try_from(format!("bytes */{length}")).map(|v| (header::CONTENT_RANGE, v)),
            );
            return Response::from_parts(head, body);
        }
    };
    response = response.header(header::CONTENT_LENGTH, end - first);
    let body = if request.method() == Method::HEAD { empty() } else { content(file, (first, end)) };
    response
        .body(body)
        .unwrap_or_else(|_| refused(StatusCode::INTERNAL_SERVER_ERROR, "no answer can be made"))
}

/// The bytes, read as the reader takes them.
fn content(file: Arc<File>, (first, end): (u64, u64)) -> Body {
    let (pieces, body) = Channel::<Bytes, io::Error>::new(PIECES_UNDER_WAY);
    tokio::spawn(send(file, (first, end), pieces));
    body.boxed()
}

async fn send(file: Arc<File>, (mut at, end): (u64, u64), mut pieces: Sender<Bytes, io::Error>) {
    while at < end {
        let most = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
        let reading = Arc::clone(&file);
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; most];
            reading.read_exact_at(&mut piece, at).map(|()| piece)
        });
        let piece = match read.await {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => return pieces.abort(error),
            Err(_) => return,
        };
        at += piece.len() as u64;
        let sent = tokio::time::timeout(PIECE_DEADLINE, pieces.send_data(piece.into())).await;
        if !matches!(sent, Ok(Ok(()))) {
            return pieces.abort(io::ErrorKind::TimedOut.into());
        }
    }
}

/// A folder's links are relative: its address ends with a slash.
fn moved(raw: &str) -> Response<Body> {
    let mut response =
        document(StatusCode::PERMANENT_REDIRECT, &json!({ "schema": SCHEMA, "moved": format!("{raw}/") }));
    let place = HeaderValue::try_from(format!("{raw}/"));
    response.headers_mut().extend(place.map(|place| (header::LOCATION, place)));
    response
}

fn refused(status: StatusCode, message: &str) -> Response<Body> {
    document(status, &json!({ "schema": SCHEMA, "message": message }))
}

fn document(status: StatusCode, value: &Value) -> Response<Body> {
    let text = value.to_string() + "\n";
    let mut response = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn empty() -> Body {
    Full::default().map_err(|never| match never {}).boxed()
}
