//! Requests about the journal's signed checkpoints and the proofs under them.

use crate::access::{Need, Peer};
use crate::audit::blocking;
use crate::handlers::{Desk, Failure, Named, Sent, body, named, parsed, problem};
use crate::pruning::was_pruned;
use crate::{chain, evidence};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use serde::Deserialize;
use std::sync::Arc;
use turnout_journal::{Checkpoint, JournalError, Note, NoteKey, prove, prove_consistency};
use turnout_manifest::key::PublicKey;
use turnout_protocol::checkpoint::{Consistency, KeepCosigned, RecordProof, SignedCheckpoint};
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::{ErrorCode, Problem};

/// `GET /v1/audit/checkpoint`: of everything that is in the journal now.
///
/// # Errors
/// 503 when it cannot be written down, without which nothing is signed.
pub async fn checkpoint(State(desk): State<Desk>) -> Result<Json<SignedCheckpoint>, Failure> {
    let notary = Arc::clone(&desk.notary);
    let note = blocking(move || notary.sign()).await?.map_err(|error| unsigned(&error))?;
    Ok(Json(reply(&desk, &note)))
}

fn reply(desk: &Desk, note: &Note) -> SignedCheckpoint {
    let size = Checkpoint::unverified(note).map_or(0, |checkpoint| checkpoint.head.size);
    SignedCheckpoint {
        schema: SCHEMA.to_owned(),
        size,
        checkpoint: note.to_string(),
        key: desk.notary.key().to_string(),
    }
}

/// `GET /v1/audit/proofs/{seq}`.
///
/// # Errors
/// 404 for a record that is not there yet or not any more, 422 when the journal is not what was signed.
pub async fn proof(State(desk): State<Desk>, seq: Named<String>) -> Result<Json<RecordProof>, Failure> {
    let seq: u64 = parsed(&named(seq)?)?;
    let records = desk.journal.size();
    if seq >= records {
        let missing =
            problem(ErrorCode::NotFound, format!("there is no record {seq}: the journal has {records}"));
        return Err(missing.hint("`turnoutctl audit log` shows the numbers").into());
    }
    if let Some(pruned) = was_pruned(&desk, seq) {
        return Err(pruned.into());
    }
    let (notary, journal) = (Arc::clone(&desk.notary), desk.daemon.config.state.join(evidence::JOURNAL_DIR));
    let made = blocking(move || prove(&journal, seq, &notary.covering(seq + 1)?)).await?;
    let proof = made.map_err(|error| unsigned(&error))?.to_string();
    Ok(Json(RecordProof { schema: SCHEMA.to_owned(), seq, proof, key: desk.notary.key().to_string() }))
}

/// The query of `GET /v1/audit/consistency`.
#[derive(Debug, Deserialize)]
pub struct From {
    /// Size of the older tree.
    from: u64,
}

/// `GET /v1/audit/consistency?from=SIZE`: from then to now.
///
/// # Errors
/// 400 for a query that is none, 404 for a size that the journal never had, 422 when the journal is not what was signed.
pub async fn consistency(
    State(desk): State<Desk>,
    query: Result<Query<From>, QueryRejection>,
) -> Result<Json<Consistency>, Failure> {
    let bad = |rejection: QueryRejection| problem(ErrorCode::BadRequest, rejection.body_text());
    let Query(From { from }) = query.map_err(bad)?;
    let records = desk.journal.size();
    if from == 0 || from > records {
        let missing = problem(
            ErrorCode::NotFound,
            format!("no checkpoint of {from} records: the journal has {records}"),
        );
        return Err(missing
            .hint("a journal that was longer once was cut, or an older copy was put back")
            .into());
    }
    let (notary, journal) = (Arc::clone(&desk.notary), desk.daemon.config.state.join(evidence::JOURNAL_DIR));
    let made = blocking(move || {
        let note = notary.sign()?;
        let head = Checkpoint::unverified(&note).map_err(|cause| JournalError::Checkpoint { cause })?.head;
        prove_consistency(&journal, from, head).map(|(root, hashes)| (note, root, hashes))
    });
    let (note, root, hashes) = made.await?.map_err(|error| unsigned(&error))?;
    Ok(Json(Consistency {
        schema: SCHEMA.to_owned(),
        from,
        root: root.to_string(),
        hashes: hashes.iter().map(ToString::to_string).collect(),
        checkpoint: note.to_string(),
        key: desk.notary.key().to_string(),
    }))
}

/// `POST /v1/audit/cosignatures`: keeps the newest checkpoint as witnesses have signed it too. Whoever sends it has
/// checked their signatures: the daemon knows no witness.
///
/// # Errors
/// 403 for who is not root, 409 when a newer checkpoint was signed meanwhile, 422 for what is no such note.
pub async fn keep(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<SignedCheckpoint>, Failure> {
    let KeepCosigned { checkpoint } = body(request)?;
    desk.allow(peer, Need::Evidence, "keep cosignatures").await?;
    let refused = |why: String| problem(ErrorCode::Refused, format!("not a cosigned checkpoint: {why}"));
    let note = Note::parse(checkpoint.as_bytes()).map_err(|error| refused(chain(&error)))?;
    let keys = [desk.notary.key().clone()];
    note.verify(&keys, &holds).map_err(|error| refused(chain(&error)))?;
    let (notary, kept) = (Arc::clone(&desk.notary), note.clone());
    blocking(move || notary.keep_cosigned(&kept)).await?.map_err(|error| match error {
        JournalError::Disagrees { .. } => {
            problem(ErrorCode::Conflict, "a newer checkpoint was signed meanwhile")
                .hint("ask the witness again")
        }
        error => unsigned(&error),
    })?;
    Ok(Json(reply(&desk, &note)))
}

/// Whether a host's key has made a signature on a note.
pub fn holds(key: &NoteKey, message: &[u8], signature: &[u8]) -> bool {
    PublicKey::from_der(key.public()).is_ok_and(|key| key.verifies(message, signature))
}

fn unsigned(error: &JournalError) -> Problem {
    let said = chain(error);
    match error {
        JournalError::Io { .. } | JournalError::Poisoned { .. } => {
            problem(ErrorCode::JournalUnavailable, said)
                .hint("see the journal's disk: nothing is signed unless it is kept")
        }
        _ => problem(ErrorCode::Refused, said).hint("`turnoutctl audit verify` reads everything again"),
    }
}
