//! Client of the control API over its Unix socket, for `turnoutctl` and tests: typed calls, one connection each.
//! What a call means, how it is printed and who may make it are left to others.

use crate::control::{
    AuditRecord, AuditVerified, Doctor, DryRun, Imported, Intervene, ReleaseStatus, Releases, StartRelease,
    Status, Update, Versions,
};
use crate::error::Problem;
use crate::report::Report;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use turnout_manifest::{ModelName, ReleaseId};

mod archive;
mod checkpoint;
mod lines;
mod sets;
mod trust;
mod upload;
mod version;

pub use archive::{Download, SnapshotFilter};
pub use lines::Lines;
pub use upload::Bundle;
use upload::Upload;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/turnout/control.sock";
/// Content type of [`Bundle`] uploads.
pub const BUNDLE_TYPE: &str = "application/vnd.turnout.bundle.v1";
/// Largest reply, bytes; the report of a release of many windows is the largest.
pub const REPLY_MAX: usize = 64 * 1024 * 1024;
/// Largest line of a stream, bytes.
pub const LINE_MAX: usize = 4 * 1024 * 1024;
/// How long the daemon may take to begin its answer to a call that has no work of its own to do.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Why a call did not give its reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing answers at the socket.
    #[error("cannot reach the daemon at `{}`", socket.display())]
    Unreachable {
        /// Where it was looked for.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The socket's permissions keep the caller out.
    #[error("not allowed to use the socket `{}`", socket.display())]
    Denied {
        /// The socket.
        socket: PathBuf,
        /// The kernel's words.
        #[source]
        source: io::Error,
    },
    /// The daemon said no, and why.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// The daemon does not know what was asked, and it is of another version than this client.
    #[error("turnoutd is {daemon}, turnoutctl {}", env!("CARGO_PKG_VERSION"))]
    OtherVersion {
        /// The daemon's version.
        daemon: String,
        /// What it answered.
        #[source]
        problem: Problem,
    },
    /// The connection broke before the reply was whole.
    #[error("the connection to the daemon broke during `{call}`")]
    Broken {
        /// Method and path.
        call: String,
        /// What broke.
        #[source]
        source: hyper::Error,
    },
    /// The daemon did not begin to answer in time.
    #[error("the daemon did not answer `{call}` within {} s", within.as_secs())]
    Late {
        /// Method and path.
        call: String,
        /// How long it was waited for.
        within: Duration,
    },
    /// A reply that is not of this API: another version, or not Turnout.
    #[error("the reply to `{call}` (status {status}) is not of this API")]
    Language {
        /// Method and path.
        call: String,
        /// The reply's HTTP status.
        status: u16,
        /// Where it departs.
        #[source]
        source: serde_json::Error,
    },
    /// A reply, or a line of one, beyond [`REPLY_MAX`] or [`LINE_MAX`].
    #[error("the reply to `{call}` exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Method and path.
        call: String,
        /// The limit, bytes.
        limit: usize,
    },
    /// A request that cannot be put into HTTP, or an envelope beyond 4 GiB.
    #[error("cannot make the request `{0}`")]
    Request(String),
}

impl ClientError {
    /// True where no daemon is there to answer: nothing listens, nobody answers at a socket that is held open for it, or
    /// the connection broke. It may be starting, or have been ended.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Late { .. } | Self::Broken { .. })
    }
}

/// What an operator can do to a model's release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intervention {
    /// Traffic home, at once.
    Rollback,
    /// On to the next step, without more windows at this one.
    Promote,
    /// Hold the weights.
    Pause,
    /// Go on.
    Resume,
    /// As a rollback, but the release counts as cancelled.
    Cancel,
}

impl Intervention {
    fn verb(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
        }
    }
}

/// Whether a log ends at its present end or goes on as it grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// What is there now.
    Stop,
    /// And what comes.
    Follow,
}

/// The daemon, seen through its socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// A client of the daemon at this socket. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), patience: ANSWER_DEADLINE }
    }

    /// The same client, which waits no longer than this for the daemon to begin an answer, nor longer than
    /// [`ANSWER_DEADLINE`]. Calls without a deadline stay without one.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience: patience.min(ANSWER_DEADLINE), ..self }
    }

    /// The socket it calls.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call(Call::get("/v1/status")).await
    }

    /// `GET /v1/metrics`: the text format of Prometheus as it came.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn metrics(&self) -> Result<Bytes, ClientError> {
        let call = Call::get("/v1/metrics");
        let name = call.name();
        collect(self.send(call).await?, &name).await
    }

    /// `POST /v1/releases`: starts a release, whatever `dry_run` says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_release(&self, request: &StartRelease) -> Result<ReleaseStatus, ClientError> {
        let request = StartRelease { dry_run: false, ..request.clone() };
        self.call(Call::post("/v1/releases").json(&request)).await
    }

    /// `POST /v1/releases` with `dry_run`: only the steps it would take, whatever `dry_run` says.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn plan_release(&self, request: &StartRelease) -> Result<DryRun, ClientError> {
        let request = StartRelease { dry_run: true, ..request.clone() };
        self.call(Call::post("/v1/releases").json(&request)).await
    }

    /// `GET /v1/releases`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn releases(&self) -> Result<Releases, ClientError> {
        self.call(Call::get("/v1/releases")).await
    }

    /// `GET /v1/releases/{id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn release(&self, id: ReleaseId) -> Result<ReleaseStatus, ClientError> {
        self.call(Call::get(format!("/v1/releases/{id}"))).await
    }

    /// `GET /v1/releases/{id}/report`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn report(&self, id: ReleaseId) -> Result<Report, ClientError> {
        self.call(Call::get(format!("/v1/releases/{id}/report"))).await
    }

    /// `POST /v1/models/{model}/{rollback|promote|pause|resume}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn intervene(
        &self,
        model: &ModelName,
        intervention: Intervention,
        request: &Intervene,
    ) -> Result<ReleaseStatus, ClientError> {
        self.call(Call::post(format!("/v1/models/{model}/{}", intervention.verb())).json(request)).await
    }

    /// `GET /v1/versions`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn versions(&self) -> Result<Versions, ClientError> {
        self.call(Call::get("/v1/versions")).await
    }

    /// `POST /v1/bundles`: sends a version as it is read, without a deadline.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Broken`] also when `content` fails or gives another length.
    pub async fn import<Content>(&self, bundle: Bundle<Content>) -> Result<Imported, ClientError>
    where
        Content: Read + Send + 'static,
    {
        let call = Call::post("/v1/bundles");
        let name = call.name();
        let length = u32::try_from(bundle.envelope.len()).map_err(|_| ClientError::Request(name.clone()))?;
        let upload = Upload::start(length, bundle);
        self.call(Call { body: Some((BUNDLE_TYPE, Either::Right(upload))), deadline: None, ..call }).await
    }

    /// `GET /v1/events?follow=true`, of one model or of all.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(&self, model: Option<&ModelName>) -> Result<Lines<Update>, ClientError> {
        let only = model.map(|model| format!("&model={model}")).unwrap_or_default();
        self.stream(Call::get(format!("/v1/events?follow=true{only}"))).await
    }

    /// `GET /v1/audit/log?[from=SEQ&]follow=BOOL`; without `from`, from the first record that is there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn audit_log(&self, from: Option<u64>, tail: Tail) -> Result<Lines<AuditRecord>, ClientError> {
        let from = from.map(|from| format!("from={from}&")).unwrap_or_default();
        let follow = tail == Tail::Follow;
        self.stream(Call::get(format!("/v1/audit/log?{from}follow={follow}"))).await
    }

    /// `POST /v1/audit/verify`, without a deadline: it reads the whole journal.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn audit_verify(&self) -> Result<AuditVerified, ClientError> {
        self.call(Call { deadline: None, ..Call::post("/v1/audit/verify") }).await
    }

    /// `GET /v1/doctor`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn doctor(&self) -> Result<Doctor, ClientError> {
        self.call(Call::get("/v1/doctor")).await
    }

    async fn call<Reply: DeserializeOwned>(&self, call: Call) -> Result<Reply, ClientError> {
        let name = call.name();
        let response = self.send(call).await?;
        let status = response.status().as_u16();
        let bytes = collect(response, &name).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Language { call: name, status, source })
    }

    async fn stream<Line: DeserializeOwned>(&self, call: Call) -> Result<Lines<Line>, ClientError> {
        let name = call.name();
        let response = self.send(call).await?;
        Ok(Lines::new(name, response.into_body()))
    }

    /// Sends the request on a connection of its own; gives the head of a reply that is no problem.
    async fn send(&self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let name = call.name();
        let deadline = call.deadline.map(|usual| usual.min(self.patience));
        let stream = self.connect().await?;
        let broken = |source| ClientError::Broken { call: name.clone(), source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends by itself with the reply; its errors also reach the reply.
        tokio::spawn(connection);
        let reply = sender.send_request(call.into_request()?);
        let reply = match deadline {
            Some(deadline) => tokio::time::timeout(deadline, reply)
                .await
                .map_err(|_| ClientError::Late { call: name.clone(), within: deadline })?,
            None => reply.await,
        };
        let response = reply.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, daemon) = (response.status().as_u16(), version::of(response.headers()));
        let bytes = collect(response, &name).await?;
        let problem: Problem = serde_json::from_slice(&bytes).map_err(|source| ClientError::Language {
            call: name,
            status,
            source,
        })?;
        Err(version::told(problem, daemon))
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let socket = self.socket.clone();
        UnixStream::connect(&self.socket).await.map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket, source },
            _ => ClientError::Unreachable { socket, source },
        })
    }
}

/// One request before it is sent.
struct Call {
    method: Method,
    path: String,
    body: Option<(&'static str, Either<Full<Bytes>, Upload>)>,
    deadline: Option<Duration>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, deadline: Some(ANSWER_DEADLINE) }
    }

    fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    fn json(mut self, value: &impl Serialize) -> Self {
        let bytes =
            serde_json::to_vec(value).expect("the request types have string keys and no failing serializer");
        self.body = Some(("application/json", Either::Left(Full::new(bytes.into()))));
        self
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn into_request(self) -> Result<Request<Either<Full<Bytes>, Upload>>, ClientError> {
        let name = self.name();
        let mut request = Request::builder().method(self.method).uri(self.path).header("host", "turnout");
        let body = match self.body {
            Some((content_type, body)) => {
                request = request.header("content-type", content_type);
                body
            }
            None => Either::Left(Full::default()),
        };
        request.body(body).map_err(|_| ClientError::Request(name))
    }
}

async fn collect(response: Response<Incoming>, call: &str) -> Result<Bytes, ClientError> {
    let mut body = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ClientError::Broken { call: call.to_owned(), source })?;
        bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        if bytes.len() > REPLY_MAX {
            return Err(ClientError::TooLarge { call: call.to_owned(), limit: REPLY_MAX });
        }
    }
    Ok(bytes.freeze())
}

/// Escapes what may not stand in a path segment (RFC 3986), so that a key id cannot name another path.
fn path_segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
