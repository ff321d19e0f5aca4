//! The end of the journal's oldest records: by the policy on a timer, or because somebody asks. What they came to is
//! written first, then the loop decides and writes it down, then segments go. What a dead daemon left open is finished.

use crate::access::{Need, Peer};
use crate::audit::blocking;
use crate::config::Config;
use crate::handlers::{Desk, Failure, Sent, body, problem};
use crate::recover::{RecoverError, state_before};
use crate::snapshots::said;
use crate::{access, chain, evidence, millis, now_ms};
use axum::Json;
use axum::extract::{Extension, State};
use rustix::fs::OFlags;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::sync::Mutex;
use turnout_engine::guard::Guard;
use turnout_engine::pruning::{self, FoundLog, FoundReader, FoundSegment, LogPlan, LogPolicy, Pruned};
use turnout_engine::{ArchiveRecord, ArchiveWish, Event};
use turnout_host::clock::Reading;
use turnout_journal::{
    CURSOR_MAX, Hash, Journal, JournalError, ReaderPlace, first_record, hashed, oldest_file, segment_infos,
};
use turnout_manifest::canonical::CanonicalError;
use turnout_manifest::{AuditContext, Sha256};
use turnout_protocol::archive::Gone;
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::{ErrorCode, Problem};
use turnout_protocol::journal::{HoldJournal, JournalHold, JournalReader, JournalState, PrunedLog};

/// Who prunes by policy, in the journal.
const POLICY: &str = "the retention policy";
/// Held by who prunes: one at a time in this process, which has one journal.
static ALONE: Mutex<()> = Mutex::const_new(());
/// What may go, in replies.
const RECORDS: &str = "records of the journal";

/// Why the base of a pruning was not made.
#[derive(Debug, thiserror::Error)]
enum BaseError {
    #[error("the records cannot be read")]
    Recover(#[source] RecoverError),
    #[error("the state cannot be written as a base")]
    Write(#[source] CanonicalError),
    #[error("the base cannot be kept")]
    Journal(#[source] JournalError),
}

/// Who asks for a pruning, and for what.
pub struct Asked {
    /// Who.
    pub by: String,
    /// Of the records, those from before this time, milliseconds since the epoch; by the policy when absent.
    pub before_ms: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What a pruning did, or would.
#[derive(Default)]
pub struct Outcome {
    /// What went, or would.
    pub gone: Vec<Gone>,
    /// What should have gone and did not.
    pub failed: Vec<Gone>,
    /// What a rule would let go, and what keeps it.
    pub kept: Vec<Gone>,
}

/// Prunes the journal as far as rules and guards let it.
///
/// # Errors
/// 409 when the loop refuses, 500 when the journal cannot be read, 503 when it cannot be written.
pub async fn prune(desk: &Desk, context: AuditContext, asked: Asked) -> Result<Outcome, Failure> {
    let _alone = ALONE.lock().await;
    let mut outcome = Outcome::default();
    if !asked.dry_run
        && let Err(failed) = remove_decided(desk).await
    {
        outcome.failed.push(gone(RECORDS.to_owned(), failed.0.message));
        return Ok(outcome);
    }
    let plan = planned(desk, asked.before_ms).await?;
    outcome.kept = plan.kept.iter().map(|guard| gone(RECORDS.to_owned(), guard.to_string())).collect();
    let Some((first, why)) = plan.prune else { return Ok(outcome) };
    let state = desk.daemon.config.state.clone();
    let oldest = blocking(move || first_record(&state.join(evidence::JOURNAL_DIR))).await?.unwrap_or(0);
    let going = gone(format!("records {oldest} to {} of the journal", first - 1), why.clone());
    if asked.dry_run {
        outcome.gone.push(going);
        return Ok(outcome);
    }
    let (config, journal) = (desk.daemon.config.clone(), desk.journal.clone());
    let base = blocking(move || write_base(&config, &journal, first)).await?;
    let base = base.map_err(|error| problem(ErrorCode::HostFailure, chain(&error)))?;
    let wish = ArchiveWish::PruneLog { minimum_index: first, base, by: asked.by, why };
    desk.ask(context, Event::Archive(wish)).await?;
    match remove_decided(desk).await {
        Ok(()) => outcome.gone.push(going),
        Err(failed) => outcome.failed.push(gone(going.what, failed.0.message)),
    }
    Ok(outcome)
}

fn gone(what: String, why: String) -> Gone {
    Gone { what, why }
}

/// The round on a timer, by this reading of the clock. `told` is what was said last of what keeps records: it is said once.
pub async fn prune_by_policy(desk: &Desk, clock: Option<&Reading>, told: &mut Vec<String>) {
    if !desk.daemon.config.journal.policy.is_set() {
        return;
    }
    let asked = |dry_run| Asked { by: POLICY.to_owned(), before_ms: None, dry_run };
    // Ages are told by the clock: by one that nothing keeps right, only a person deletes.
    let trusted = clock.is_some_and(|reading| reading.synchronized);
    let kept: Vec<String> = match prune(desk, access::internal_context(), asked(!trusted)).await {
        Ok(Outcome { gone, failed, kept }) => {
            for failed in failed {
                tracing::error!("{}: {}", failed.what, failed.why);
            }
            let withheld = gone.into_iter().filter(|_| !trusted).map(|gone| {
                format!(
                    "{} stay: the clock is not synchronized, see `timedatectl`; `turnoutctl audit prune` deletes them",
                    gone.what
                )
            });
            kept.into_iter().map(|kept| format!("{} stay: {}", kept.what, kept.why)).chain(withheld).collect()
        }
        Err(failed) => vec![format!("retention of the journal: {}", failed.0)],
    };
    if *told != kept {
        kept.iter().for_each(|line| tracing::warn!("{line}"));
        *told = kept;
    }
}

async fn planned(desk: &Desk, before_ms: Option<u64>) -> Result<LogPlan, Failure> {
    let keep = &desk.daemon.config.journal;
    let policy = if before_ms.is_some() { keep.policy_for_request() } else { keep.policy };
    let found = found(desk).await?;
    Ok(plan(&policy, before_ms, (desk, &found)))
}

fn plan(policy: &LogPolicy, before_ms: Option<u64>, (desk, found): (&Desk, &FoundLog)) -> LogPlan {
    pruning::plan(policy, (now_ms(), before_ms), (&desk.view().world.archive.log, found))
}

/// What there is of the journal.
async fn found(desk: &Desk) -> Result<FoundLog, Failure> {
    let (config, signed, size) = (desk.daemon.config.clone(), desk.notary.covers(), desk.journal.size());
    let found = blocking(move || look(&config, (signed, size))).await?;
    Ok(found.map_err(|error| problem(ErrorCode::HostFailure, chain(&error)))?)
}

fn look(config: &Config, (signed, size): (u64, u64)) -> Result<FoundLog, JournalError> {
    let dir = config.state.join(evidence::JOURNAL_DIR);
    let segments = segment_infos(&dir)?.into_iter().map(|segment| FoundSegment {
        first: segment.first,
        bytes: segment.bytes,
        begun_ms: millis(segment.created_ns),
    });
    let hashed = hashed(&dir).min(size);
    let there = |cursor: &&crate::config::CursorFile| cursor.expected || cursor.path.exists();
    let readers =
        config.journal.cursors.iter().filter(there).map(|cursor| FoundReader {
            cursor: cursor.path.display().to_string(),
            next: place(&cursor.path),
        });
    Ok(FoundLog { segments: segments.collect(), size, signed, hashed, readers: readers.collect() })
}

/// The first record that a reader may still have to read: after a power cut it goes on where its receiver's disk is.
fn place(path: &Path) -> Result<u64, String> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => "the file is not there, so it has read nothing yet".to_owned(),
        _ => error.to_string(),
    };
    // Its folder is the reader's own: what lies there may be anything, and must not be waited for.
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let file =
        File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(told)?;
    if !file.metadata().map_err(told)?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let mut text = String::new();
    file.take(CURSOR_MAX + 1).read_to_string(&mut text).map_err(told)?;
    text.parse::<ReaderPlace>().map(|place| place.safe).map_err(|error| error.to_string())
}

/// Folds the records before this one, and writes what they came to beside the segment that it begins.
fn write_base(config: &Config, journal: &Journal, first: u64) -> Result<Sha256, BaseError> {
    let dir = config.state.join(evidence::JOURNAL_DIR);
    let base = state_before(&dir, first).map_err(BaseError::Recover)?;
    let bytes = base.to_bytes().map_err(BaseError::Write)?;
    let hash = journal.write_base(first, &bytes).map_err(BaseError::Journal)?;
    Ok(Sha256(*hash.as_bytes()))
}

/// Ends the pruning that a daemon before this one left half-way, if there is one. What cannot be ended is in the journal,
/// and tried again at each round.
pub async fn finish(desk: &Desk) {
    let _alone = ALONE.lock().await;
    let _ = remove_decided(desk).await;
}

/// Removes what the last pruning in the journal decided, if it is still there.
async fn remove_decided(desk: &Desk) -> Result<(), Failure> {
    let Some(last) = desk.view().world.archive.log.pruned.last().cloned() else { return Ok(()) };
    let (config, journal) = (desk.daemon.config.clone(), desk.journal.clone());
    let done = blocking(move || remove(&config, &journal, &last)).await?;
    if let Err(error) = done {
        let why = chain(&error);
        let failure = ArchiveRecord::ArchiveFailed { what: "prune the journal".to_owned(), why: why.clone() };
        desk.keep(access::internal_context(), failure).await?;
        return Err(problem(ErrorCode::HostFailure, why).hint("it is tried again within the hour").into());
    }
    Ok(())
}

/// Removes the records that a pruning decided on, if they are still there.
fn remove(config: &Config, journal: &Journal, pruned: &Pruned) -> Result<(), JournalError> {
    let dir = config.state.join(evidence::JOURNAL_DIR);
    let Pruned { minimum_index: first, base, .. } = pruned;
    if oldest_file(&dir)?.is_none_or(|oldest| oldest >= *first) {
        return Ok(());
    }
    let gone = match journal.prune(*first, Hash::from(base.0)) {
        // The base is not there, or not what was written, and all that it is made of is.
        Err(error @ (JournalError::Io { .. } | JournalError::BaseDiffers { .. })) => {
            match write_base(config, journal, *first) {
                Ok(again) if again == *base => journal.prune(*first, Hash::from(base.0))?,
                _ => return Err(error),
            }
        }
        done => done?,
    };
    tracing::info!(segments = gone.segments, bytes = gone.bytes, "records before {first} were pruned");
    Ok(())
}

/// `GET /v1/audit/journal`.
///
/// # Errors
/// 500 when the journal's folder cannot be read.
pub async fn show(State(desk): State<Desk>) -> Result<Json<JournalState>, Failure> {
    described(&desk).await.map(Json)
}

async fn described(desk: &Desk) -> Result<JournalState, Failure> {
    let found = found(desk).await?;
    let keep = &desk.daemon.config.journal;
    let plan = plan(&keep.policy, None, (desk, &found));
    let log = &desk.view().world.archive.log;
    let reader = |reader: FoundReader| {
        let (next, why) = match reader.next {
            Ok(next) => (Some(next), None),
            Err(why) => (None, Some(why)),
        };
        JournalReader { cursor: reader.cursor, next, why }
    };
    Ok(JournalState {
        schema: SCHEMA.to_owned(),
        size: found.size,
        first: found.segments.first().map_or(0, |segment| segment.first),
        segments: found.segments.len() as u64,
        bytes: found.segments.iter().map(|segment| segment.bytes).sum(),
        since_ms: found.segments.first().map(|segment| segment.begun_ms),
        retention: keep.rules(),
        next_first: plan.prune.map(|(first, _)| first),
        kept_by: plan.kept.iter().map(Guard::to_string).collect(),
        readers: found.readers.into_iter().map(reader).collect(),
        hold: log.hold.as_ref().map(|hold| JournalHold {
            from: hold.from,
            by: hold.by.clone(),
            reason: hold.reason.clone(),
            at_ms: hold.at_ms,
        }),
        pruned: log.pruned.iter().map(told).collect(),
    })
}

/// A pruning as it is sent.
pub fn told(pruned: &Pruned) -> PrunedLog {
    PrunedLog {
        minimum_index: pruned.minimum_index,
        at_ms: pruned.at_ms,
        by: pruned.by.clone(),
        why: pruned.why.clone(),
        base: pruned.base,
    }
}

/// That a record was pruned, by whom and when; nothing where it was not.
pub fn was_pruned(desk: &Desk, seq: u64) -> Option<Problem> {
    let view = desk.view();
    let pruned = view.world.archive.log.pruning_of(seq)?;
    let at = jiff::Timestamp::from_millisecond(i64::try_from(pruned.at_ms).unwrap_or(i64::MAX));
    let at = at.map(|at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default();
    let (first, by, why) = (pruned.minimum_index, &pruned.by, &pruned.why);
    let said =
        format!("record {seq} is not here any more: those before {first} were pruned on {at} by {by}: {why}");
    let hint = "an older audit snapshot may have it: `turnoutctl audit snapshots`; `turnoutctl audit journal` shows what is here";
    Some(problem(ErrorCode::NotFound, said).hint(hint))
}

/// `POST /v1/audit/journal/hold`.
///
/// # Errors
/// 400 for a record that is not there, 403 for who is not root, 409 while it is held.
pub async fn hold(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<JournalState>, Failure> {
    let HoldJournal { reason, from } = body(request)?;
    let reason = said("reason", reason)?;
    if reason.is_empty() {
        return Err(problem(ErrorCode::BadRequest, "a hold needs a reason").into());
    }
    desk.allow(peer, Need::Evidence, "hold the journal").await?;
    let (from, size) = (from.unwrap_or(0), desk.journal.size());
    if from > size {
        let beyond =
            problem(ErrorCode::BadRequest, format!("there is no record {from}: the journal has {size}"));
        return Err(beyond.hint("without `from`, every record is held").into());
    }
    let wish = ArchiveWish::HoldLog { from, by: peer.to_string(), reason };
    desk.ask(peer.context, Event::Archive(wish)).await?;
    described(&desk).await.map(Json)
}

/// `DELETE /v1/audit/journal/hold`.
///
/// # Errors
/// 403 for who is not root, 409 when nobody holds it.
pub async fn release_hold(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<JournalState>, Failure> {
    desk.allow(peer, Need::Evidence, "release the hold on the journal").await?;
    desk.ask(peer.context, Event::Archive(ArchiveWish::ReleaseLogHold { by: peer.to_string() })).await?;
    described(&desk).await.map(Json)
}
