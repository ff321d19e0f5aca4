//! `POST /v1/bundles`: takes a version in as a stream. The envelope comes first, is verified before anything else is
//! read, and its manifest says how many bytes follow for which file. No path here comes from the client.

use crate::access::{Need, Peer};
use crate::chain;
use crate::handlers::{Desk, Failure, problem};
use crate::idle_body::Stalled;
use crate::intake::{self, failures};
use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::{Extension, State};
use futures_util::TryStreamExt;
use futures_util::stream::MapErr;
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio_util::io::{StreamReader, SyncIoBridge};
use turnout_engine::{Reason, Record};
use turnout_host::HostError;
use turnout_host::store::{ENVELOPE_MAX, ImportOutcome, Incoming, StoredName};
use turnout_host::volume::StoreKind;
use turnout_manifest::trust::{Outcome, Purpose};
use turnout_manifest::{AuditContext, VersionRef};
use turnout_manifest::{CheckResult, Sha256, VerifiedManifest};
use turnout_protocol::control::{Imported, SCHEMA};
use turnout_protocol::error::{ErrorCode, Problem};

/// How long the rest of a refused bundle is read and thrown away.
const LINGER: Duration = Duration::from_secs(10);

/// Takes a bundle in: `u32` big-endian length of the envelope, the envelope, the files' bytes in the manifest's order.
///
/// # Errors
/// 422 when a check says no, 409 when the label is taken by other content, 413 for want of room, 400 when the client
/// stops sending.
pub async fn receive(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Json<Imported>, Failure> {
    let mut content = content(body);
    let taken = take_in(&desk, peer, &mut content).await;
    if taken.is_err() {
        // A client that is cut off while it sends never reads why.
        let mut nowhere = tokio::io::sink();
        let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut content, &mut nowhere)).await;
    }
    taken
}

async fn take_in(desk: &Desk, peer: Peer, content: &mut Content) -> Result<Json<Imported>, Failure> {
    desk.allow(peer, Need::Operate, "import a version").await?;
    let envelope = read_envelope(content).await?;
    let verification = desk.intake.verify(&envelope, Purpose::NewWork);
    let mut checks = verification.checks.clone();
    let verdict = verification.verdict;
    let Some(verified) = verification.into_verified() else {
        let mut refused = problem(ErrorCode::Refused, format!("the manifest is {verdict}"));
        refused.details = failures(&checks);
        refused.hint = Some(intake::remedy(verdict).into());
        return Err(desk.refuse(peer, "import a version", refused).await);
    };
    let version = verified.manifest().reference();
    check_label(desk, &version, &verified)?;
    // Held until the version counts as stored.
    let _room = match crate::tenants::room_for(desk, &verified) {
        Ok(room) => room,
        Err(full) => return Err(desk.refuse(peer, &format!("import {version}"), full).await),
    };
    let importing =
        Record::Importing { by: peer.to_string(), version: version.clone(), digest: verified.digest() };
    desk.note(peer.context, importing).await?;
    let (outcome, measured) = match store(desk, verified.clone(), envelope, content).await {
        Ok(stored) => stored,
        Err(error) => {
            let what = format!("import {version}");
            return Err(desk.refuse(peer, &what, import_problem(&version, &error)).await);
        }
    };
    files_checked(&mut checks, verified.manifest().files.len(), measured);
    let bytes = verified.manifest().files.iter().map(|file| file.size).sum();
    let known = desk.view().world.versions.contains_key(&(version.model.clone(), version.version.clone()));
    if !known {
        let imported = Record::Imported {
            by: peer.to_string(),
            version: version.clone(),
            digest: verified.digest(),
            bytes,
            signed_by: verified.signed_by().to_vec(),
            checks: checks.clone(),
            measured,
        };
        desk.note(peer.context, imported).await?;
    }
    let already_there = outcome == ImportOutcome::AlreadyThere;
    let digest = verified.digest();
    let keeps_snapshots = desk.daemon.config.keep.store == StoreKind::Btrfs;
    let snapshot = match already_there || !keeps_snapshots {
        true => None,
        false => snapshot(desk, peer.context, (&version, digest)).await,
    };
    let audit_context = peer.context.id();
    let schema = SCHEMA.to_owned();
    Ok(Json(Imported { schema, version, digest, already_there, checks, snapshot, audit_context }))
}

/// What a bundle's bytes are read from.
type Content = StreamReader<BodyStream, bytes::Bytes>;
/// The body's data with errors as the reader wants them.
type BodyStream = MapErr<BodyDataStream, fn(axum::Error) -> io::Error>;

fn content(body: Body) -> Content {
    let stream: BodyStream = body.into_data_stream().map_err(read_error);
    StreamReader::new(stream)
}

/// The body's error as a reader has it; one that is of that kind already stays what it is.
fn read_error(error: axum::Error) -> io::Error {
    error.into_inner().downcast::<io::Error>().map_or_else(io::Error::other, |error| *error)
}

async fn read_envelope(content: &mut Content) -> Result<Vec<u8>, Problem> {
    let broken =
        |error: io::Error| problem(ErrorCode::BadRequest, format!("the bundle ended early: {error}"));
    let length = u64::from(content.read_u32().await.map_err(broken)?);
    if length == 0 || length > ENVELOPE_MAX {
        let message = format!("a bundle's envelope has 1 to {ENVELOPE_MAX} bytes, not {length}");
        return Err(problem(ErrorCode::Limit, message));
    }
    let mut envelope = Vec::new();
    content.take(length).read_to_end(&mut envelope).await.map_err(broken)?;
    if envelope.len() as u64 != length {
        return Err(problem(ErrorCode::BadRequest, "the bundle ended within its envelope"));
    }
    Ok(envelope)
}

/// The store has compared every file with its digest while it came in.
fn files_checked(checks: &mut [CheckResult], count: usize, measured: Option<Sha256>) {
    let held = measured.map_or("", |_| ", and held so by fs-verity");
    for check in checks.iter_mut().filter(|check| check.name == "files") {
        check.result = Outcome::Pass;
        check.detail = format!("{count} files are as signed{held}");
    }
}

/// A label means one content for ever: the same label with other content is refused.
fn check_label(desk: &Desk, version: &VersionRef, verified: &VerifiedManifest) -> Result<(), Problem> {
    let view = desk.view();
    let key = (version.model.clone(), version.version.clone());
    let archive = &view.world.archive;
    if archive.removing.contains_key(&key) {
        let going = problem(ErrorCode::Conflict, format!("`{version}` is being deleted from the store"));
        return Err(going.hint("try again once it is gone"));
    }
    let stored = view.world.versions.get(&key).map(|stored| stored.digest);
    // A label stays bound to its content when the version was deleted.
    let bound =
        stored.map(|digest| (digest, "is")).or_else(|| archive.removed.get(&key).map(|&was| (was, "was")));
    match bound {
        Some((digest, is)) if digest != verified.digest() => {
            let message = format!("`{version}` {is} in the store with other content ({})", digest.short());
            Err(problem(ErrorCode::Conflict, message)
                .hint("a version label never changes its content: choose a new one"))
        }
        _ => Ok(()),
    }
}

/// Streams the files into the store, on a thread that may block. Gives what the kernel holds them to, where it does.
async fn store(
    desk: &Desk,
    verified: VerifiedManifest,
    envelope: Vec<u8>,
    rest: &mut Content,
) -> Result<(ImportOutcome, Option<Sha256>), HostError> {
    let host = desk.host.clone();
    let mut content = SyncIoBridge::new(std::mem::replace(rest, content(Body::empty())));
    let imported = tokio::task::spawn_blocking(move || {
        let name = StoredName { model: verified.manifest().model.clone(), digest: verified.digest() };
        let files = &verified.manifest().files;
        let incoming = Incoming { name: name.clone(), files, envelope: &envelope };
        let outcome = host.import(&incoming, &mut content).and_then(|outcome| {
            // What an earlier import left is measured only once it is known to be what was signed.
            if outcome == ImportOutcome::AlreadyThere {
                host.verify(&name, files)?;
            }
            Ok((outcome, host.measure(&name, files)?))
        });
        (outcome, content.into_inner())
    });
    match imported.await {
        Ok((outcome, unread)) => {
            *rest = unread;
            outcome
        }
        Err(panicked) => Err(HostError::os("import", "store")(io::Error::other(panicked))),
    }
}

fn import_problem(version: &VersionRef, error: &HostError) -> Problem {
    let (code, hint) = match error {
        HostError::Content { .. } => {
            (ErrorCode::Refused, "a file was changed after it was signed: sign again, or restore the file")
        }
        HostError::NoSpace { .. } => {
            (ErrorCode::Limit, "`turnoutctl model remove` makes room, `turnoutctl store grow` adds some")
        }
        HostError::Os { source, .. } if Stalled::caused(source) => {
            (ErrorCode::BadRequest, "import it again, from where its files can be read without a pause")
        }
        HostError::ReadOnlyStore => (
            ErrorCode::HostFailure,
            "traffic goes on; look for the cause with `dmesg`, mend the disk, then restart turnoutd",
        ),
        _ => (ErrorCode::HostFailure, "`turnoutctl doctor` examines the store"),
    };
    problem(code, format!("`{version}` was not imported: {}", chain(error))).hint(hint)
}

/// The evidence after an import. A snapshot that fails is told in journal and log; the import itself stands.
async fn snapshot(
    desk: &Desk,
    context: AuditContext,
    (version, digest): (&VersionRef, Sha256),
) -> Option<String> {
    let reason = Reason::Import { version: version.clone(), digest };
    let made = crate::snapshots::make(desk, context, reason).await;
    made.inspect_err(|failure| tracing::error!("snapshot after import: {}", failure.0))
        .ok()
        .map(|made| made.name)
}
