//! One small function per request: check the right, translate, ask the loop or read the view, answer.

use crate::access::{Need, Peer};
use crate::audit::LongReads;
use crate::beginning::{self, Wanted};
use crate::denials::{Denials, RECORDED_MAX};
use crate::driver::{Denial, FULL, Input};
use crate::intake::Intake;
use crate::notary::Notary;
use crate::snapshots::said;
use crate::view::{Daemon, View, release_status};
use crate::way_back;
use crate::{metrics, view};
use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{oneshot, watch};
use turnout_engine::advance::Wish;
use turnout_engine::plan::{self, Over};
use turnout_engine::{Entry, Event, Record, Refusal};
use turnout_host::Host;
use turnout_journal::Journal;
use turnout_manifest::key::PrivateKey;
use turnout_manifest::{AuditContext, ModelName, ReleaseId, VersionRef, deceptive};
use turnout_protocol::control::{
    DryRun, Intervene, ReleaseStatus, Releases, SCHEMA, StartRelease, Status, StoredVersion, Versions,
};
use turnout_protocol::error::{ErrorCode, Problem};
use turnout_protocol::report::Report;

/// Most texts of a refusal that the journal keeps.
const REASONS_MAX: usize = 32;
/// Longest such text, characters.
const REASON_MAX: usize = 500;

/// What handlers work with.
#[derive(Clone)]
pub struct Desk {
    /// The way to the loop.
    pub driver: Sender<Input>,
    /// What the loop has published.
    pub views: watch::Receiver<Arc<View>>,
    /// Facts about this daemon.
    pub daemon: Arc<Daemon>,
    /// Signed things and trust.
    pub intake: Arc<Intake>,
    /// For reading, and for streaming an import in.
    pub host: Arc<dyn Host>,
    /// For reading.
    pub journal: Arc<Journal>,
    /// What is given out is signed with it.
    pub host_key: Arc<PrivateKey>,
    /// Signs the journal's checkpoints.
    pub notary: Arc<Notary>,
    /// How many may read much at one time.
    pub long_reads: LongReads,
    /// Whose denials are recorded.
    pub denials: Arc<Mutex<Denials>>,
    /// Held from the choice of a port until what gets it is on record.
    pub starting: Arc<tokio::sync::Mutex<()>>,
}

/// A problem on its way out.
#[derive(Debug)]
pub struct Failure(pub Problem);

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// A problem without hint.
pub fn problem(code: ErrorCode, message: impl Into<String>) -> Problem {
    Problem::new(code, message)
}

impl Desk {
    /// What the loop has published last.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// Lets the peer pass, or journals the denial as far as [`Denials`] lets it.
    ///
    /// # Errors
    /// 403 when this peer may not do this.
    pub async fn allow(&self, peer: Peer, need: Need, what: &str) -> Result<(), Failure> {
        if peer.may(need) {
            return Ok(());
        }
        let hint = match need {
            Need::Trust => "whose signatures count is decided by root: use `sudo`",
            Need::Evidence => "what is kept, and who sees it, is decided by root: use `sudo`",
            Need::Read | Need::Operate => {
                "this user may only read: it is among `readers` in the configuration"
            }
        };
        let denied = problem(ErrorCode::Denied, format!("{peer} may not {what}")).hint(hint);
        let noted =
            self.denials.lock().unwrap_or_else(PoisonError::into_inner).note(peer.uid, Instant::now());
        if noted.left_out > 0 {
            let why = format!(
                "{} denials were not recorded: only the first {RECORDED_MAX} of a user's minute are",
                noted.left_out
            );
            let (by, what) = (format!("uid {}", peer.uid), "ask again and again".to_owned());
            let _ = self.note(peer.context, Record::Refused { by, what, why: vec![why] }).await;
        }
        Err(if noted.recorded { self.refuse(peer, what, denied).await } else { Failure(denied) })
    }

    /// Journals a refusal in short and gives it back. A journal that cannot be written does not hide the refusal.
    pub async fn refuse(&self, peer: Peer, what: &str, refused: Problem) -> Failure {
        let why = in_short(&refused);
        let refusal = Record::Refused { by: peer.to_string(), what: what.to_owned(), why };
        let _ = self.note(peer.context, refusal).await;
        Failure(refused)
    }

    /// Has the loop write a record under this audit context; without one, under that of what it belongs to.
    ///
    /// # Errors
    /// 503 when the journal cannot be written, 409 when the loop has ended.
    pub async fn note(
        &self,
        context: impl Into<Option<AuditContext>>,
        record: Record,
    ) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let entry = Entry { record, audit_context: context.into() };
        self.send(Input::Note(Box::new(entry), reply))?;
        settle(answer).await
    }

    /// Has the loop decide a wish that was asked for under this audit context.
    ///
    /// # Errors
    /// 409 when the state forbids it, 503 when the journal cannot be written.
    pub async fn ask(&self, context: AuditContext, event: Event) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Ask(event, Some(context), reply))?;
        settle(answer).await
    }

    fn send(&self, input: Input) -> Result<(), Failure> {
        self.driver.send(input).map_err(|_| Failure(stopping()))
    }

    fn last_release(&self, model: &ModelName) -> Option<ReleaseStatus> {
        let view = self.view();
        let id = view.world.models.get(model)?.last?;
        view.world.releases.get(&id).map(|release| release_status(release))
    }
}

/// The texts of a refusal for the journal, which whoever is refused does not fill: few, short, a line each.
fn in_short(refused: &Problem) -> Vec<String> {
    let line = |text: &String| -> String {
        text.chars().take(REASON_MAX).map(|c| if deceptive(c) { ' ' } else { c }).collect()
    };
    let mut texts: Vec<String> = vec![line(&refused.message)];
    texts.extend(refused.details.iter().take(REASONS_MAX).map(line));
    match refused.details.len().saturating_sub(REASONS_MAX) {
        0 => {}
        more => texts.push(format!("and {more} more")),
    }
    texts
}

async fn settle(answer: oneshot::Receiver<Result<(), Denial>>) -> Result<(), Failure> {
    match answer.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(denial)) => Err(Failure(denied(denial))),
        Err(_) => Err(Failure(stopping())),
    }
}

pub(crate) fn stopping() -> Problem {
    problem(ErrorCode::Conflict, "the daemon is stopping").hint("try again once it is back")
}

pub(crate) fn denied(denial: Denial) -> Problem {
    match denial {
        Denial::ReadOnly(why) => {
            let refused = problem(ErrorCode::JournalUnavailable, format!("changes are refused: {why}"));
            refused.hint(if why == FULL {
                "traffic is served all the same; make room where the state directory lies, nothing has to be restarted"
            } else {
                "traffic is served all the same; repair the journal's disk and restart turnoutd"
            })
        }
        Denial::TooLong(why) => problem(ErrorCode::Limit, format!("the journal cannot record that: {why}"))
            .hint("ask for it with shorter texts"),
        Denial::Refusal(Refusal::Archive(refusal)) => crate::keeping::refused(&refusal),
        Denial::Refusal(refusal) => {
            let code = match &refusal {
                // No state would allow it.
                Refusal::Twice(_) | Refusal::Members(_) => ErrorCode::Refused,
                _ => ErrorCode::Conflict,
            };
            problem(code, refusal.to_string()).hint(remedy(&refusal))
        }
    }
}

/// What to do about a wish that the state does not allow.
fn remedy(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Busy(id) => format!("`turnoutctl release show {id}`; `turnoutctl rollback` ends it"),
        Refusal::Stuck(_) => "`turnoutctl rollback MODEL` tries the undo again".to_owned(),
        Refusal::AlreadyLive(_) => "nothing to do".to_owned(),
        Refusal::AllLive(_) => {
            "a set changes with a release: name a version that is not live for one of its models".to_owned()
        }
        Refusal::Nothing(_) => "`turnoutctl status` shows what is live".to_owned(),
        Refusal::Deleted(_) => "`turnoutctl model import DIR` brings it back in".to_owned(),
        Refusal::Order(_) => {
            "`turnoutctl trust show` tells the last order of each channel; have a later one signed".to_owned()
        }
        Refusal::SetBusy(_, id) => {
            format!("wait until it is over: `turnoutctl release show {id}`; `turnoutctl rollback` ends it")
        }
        Refusal::Twice(_) => "name one version of each model".to_owned(),
        Refusal::Members(_) => {
            "release a single version without `--set`, and more than these in several sets".to_owned()
        }
        Refusal::Sets(_) => {
            "give it the name of a set that is no longer needed: `turnoutctl status`".to_owned()
        }
        Refusal::OfMember(_, refusal) => remedy(refusal),
        // Answered with every reason of its own.
        Refusal::Archive(_) => String::new(),
        Refusal::TooLate(id) | Refusal::NotWaiting(id) => format!("`turnoutctl release show {id}`"),
    }
}

/// A request's body, whatever its Content-Type says: `curl -d` must be enough.
pub(crate) type Sent = Result<Bytes, BytesRejection>;

/// Reads the body as JSON; no body at all is an empty object.
pub(crate) fn body<T: DeserializeOwned>(sent: Sent) -> Result<T, Failure> {
    let hint = "the API is described in `openapi.yaml`";
    let bytes = sent.map_err(|rejection| {
        let too_large = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
        let code = if too_large { ErrorCode::Limit } else { ErrorCode::BadRequest };
        Failure(problem(code, rejection.body_text()).hint(hint))
    })?;
    let json: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    let refused = |error| Failure(problem(ErrorCode::BadRequest, format!("the body: {error}")).hint(hint));
    serde_json::from_slice(json).map_err(refused)
}

/// What a request's path, a Unicode text once decoded, names.
pub(crate) type Named<T> = Result<Path<T>, PathRejection>;

pub(crate) fn named<T>(path: Named<T>) -> Result<T, Failure> {
    let refused = |rejection: PathRejection| Failure(problem(ErrorCode::BadRequest, rejection.body_text()));
    path.map(|Path(name)| name).map_err(refused)
}

pub(crate) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: T::Err| Failure(problem(ErrorCode::BadRequest, error.to_string())))
}

/// `GET /v1/status`.
pub async fn status(State(desk): State<Desk>) -> Json<Status> {
    Json(desk.view().status(&desk.daemon, desk.intake.concerns()))
}

/// `GET /v1/metrics`.
pub async fn metrics(State(desk): State<Desk>) -> Response {
    let text = metrics::text(&desk.view(), &desk.daemon, desk.intake.concerns());
    ([(header::CONTENT_TYPE, metrics::TEXT)], text).into_response()
}

/// `GET /v1/versions`.
pub async fn versions(State(desk): State<Desk>) -> Json<Versions> {
    let view = desk.view();
    let live = |model: &ModelName, digest| {
        view.world.models.get(model).and_then(|m| m.live.as_ref()).is_some_and(|live| live.digest == digest)
    };
    let versions = view.world.versions.iter().map(|((model, version), stored)| StoredVersion {
        version: VersionRef { model: model.clone(), version: version.clone() },
        digest: stored.digest,
        bytes: stored.bytes,
        imported_ms: stored.at_ms,
        signed_by: stored.signed_by.clone(),
        live: live(model, stored.digest),
    });
    Json(Versions { schema: SCHEMA.to_owned(), versions: versions.collect() })
}

/// `GET /v1/releases`.
pub async fn releases(State(desk): State<Desk>) -> Json<Releases> {
    let releases = desk.view().world.releases.values().map(|release| release_status(release)).collect();
    Json(Releases { schema: SCHEMA.to_owned(), releases })
}

/// `GET /v1/releases/{id}`.
///
/// # Errors
/// 404 for a release that is not in memory.
pub async fn release(State(desk): State<Desk>, id: Named<String>) -> Result<Json<ReleaseStatus>, Failure> {
    let view = desk.view();
    let id: ReleaseId = parsed(&named(id)?)?;
    let found = view.world.releases.get(&id).map(|release| release_status(release));
    found.map(Json).ok_or_else(|| Failure(no_release(&desk, id)))
}

/// `GET /v1/releases/{id}/report`.
///
/// # Errors
/// 404 for a release that is not in memory.
pub async fn report(State(desk): State<Desk>, id: Named<String>) -> Result<Json<Report>, Failure> {
    let view = desk.view();
    let id: ReleaseId = parsed(&named(id)?)?;
    let found = view.world.releases.get(&id).map(|release| view::report(release, &view.world));
    found.map(Json).ok_or_else(|| Failure(no_release(&desk, id)))
}

fn no_release(desk: &Desk, id: ReleaseId) -> Problem {
    let older = match desk.view().world.archive.log.minimum_index() {
        0 => "older ones are in `turnoutctl audit log`".to_owned(),
        first => format!(
            "older ones are in `turnoutctl audit log`, but for those in the records before {first}, which were pruned"
        ),
    };
    problem(ErrorCode::NotFound, format!("no release `{id}` among those kept in memory"))
        .hint(format!("`turnoutctl release list` shows them; {older}"))
}

/// `POST /v1/releases`.
///
/// # Errors
/// 404 for a version that is not in the store, 422 for a plan or port that cannot be, 409 when the state forbids it.
pub async fn start_release(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Response, Failure> {
    let StartRelease { version, plan, dry_run, order } = body(request)?;
    desk.allow(peer, Need::Operate, "start a release").await?;
    let start = beginning::prepare(&desk, peer, Wanted { version: &version, plan, order }).await?;
    if dry_run {
        let view = desk.view();
        let over = Over::of(view.world.models.get(&version.model));
        let steps = plan::steps(&start.plan, over, view.world.next_generation());
        let steps = steps.list.iter().map(ToString::to_string).collect();
        let strategy = start.plan.strategy;
        return Ok(Json(DryRun { schema: SCHEMA.to_owned(), strategy, steps }).into_response());
    }
    let event = |mut starts: Vec<_>| Event::Start(Box::new(starts.swap_remove(0)));
    beginning::begin(&desk, peer, vec![start], event).await?;
    let made = desk.last_release(&version.model).ok_or_else(|| Failure(stopping()))?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// `POST /v1/models/{model}/{wish}`.
///
/// # Errors
/// 404 for an unknown model or wish, 409 when the state forbids it.
pub async fn intervene(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    path: Named<(String, String)>,
    request: Sent,
) -> Result<Json<ReleaseStatus>, Failure> {
    let (model, wish) = named(path)?;
    let model: ModelName = parsed(&model)?;
    let reason = said("reason", body::<Intervene>(request)?.reason.unwrap_or_default())?;
    let wish = match wish.as_str() {
        "rollback" => Wish::Rollback,
        "cancel" => Wish::Cancel,
        "promote" => Wish::Promote,
        "pause" => Wish::Pause,
        "resume" => Wish::Resume,
        other => {
            return Err(problem(ErrorCode::NotFound, format!("a model cannot be asked to `{other}`")).into());
        }
    };
    desk.allow(peer, Need::Operate, "intervene in a release").await?;
    if desk.last_release(&model).is_none() {
        let unknown = problem(ErrorCode::NotFound, format!("no model `{model}` was ever released here"));
        return Err(unknown.hint("`turnoutctl status` shows the models").into());
    }
    if wish == Wish::Rollback {
        way_back::roll_back(&desk, &model, peer, &reason).await?;
    } else {
        let event = Event::Operator { model: model.clone(), wish, by: peer.to_string(), reason };
        desk.ask(peer.context, event).await?;
    }
    desk.last_release(&model).map(Json).ok_or_else(|| Failure(stopping()))
}
