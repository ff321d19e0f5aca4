//! The paths of the protocol, and that every answer, good or not, has the protocol's form.
//! Content-Type is never asked for: stock clients send none.

use crate::body::{self, JSON_LENGTH};
use crate::contract::TensorRule;
use crate::infer::{Answer, Refusal, Rules};
use crate::loaded::Loaded;
use crate::serve::Activity;
use crate::state::{Outcome, State};
use crate::versions::{Board, InForce};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::borrow::Cow;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use turnout_inference::error::ErrorBody;
use turnout_inference::metadata::{
    Live, ModelMetadata, ModelReady, Models, Ready, ServerMetadata, TensorMetadata,
};
use turnout_manifest::audit_context::AUDIT_CONTEXT_HEADER;
use turnout_protocol::worker::Assignment;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What all threads answer with: who is serving, and the bodies that never change.
pub struct Pages {
    model: String,
    version: String,
    lineage: Vec<(HeaderName, HeaderValue)>,
    server: Bytes,
    live: Bytes,
    ready: Bytes,
    models: Bytes,
    metadata: Bytes,
    model_ready: Bytes,
}

impl Pages {
    /// Writes the bodies that never change.
    ///
    /// # Errors
    /// A digest that cannot stand in a header.
    pub fn new(assignment: &Assignment, rules: &Rules) -> Result<Self, header::InvalidHeaderValue> {
        let (model, version) = (assignment.model.as_str(), assignment.version.as_str());
        let metadata = ModelMetadata {
            name: model,
            versions: &[version],
            platform: "onnxruntime_onnx",
            inputs: rules.contract.inputs.iter().map(tensor_metadata).collect(),
            outputs: rules.contract.outputs.iter().map(tensor_metadata).collect(),
        };
        let digest = HeaderName::from_static("turnout-version-digest");
        let mut lineage = vec![
            (HeaderName::from_static("turnout-model"), HeaderValue::from_str(model)?),
            (HeaderName::from_static("turnout-version"), HeaderValue::from_str(version)?),
            (digest, HeaderValue::from_str(&assignment.digest.to_string())?),
        ];
        if let Some(context) = assignment.audit_context {
            let name = HeaderName::from_static(AUDIT_CONTEXT_HEADER);
            lineage.push((name, HeaderValue::from_str(&context.to_string())?));
        }
        Ok(Self {
            model: model.to_owned(),
            version: version.to_owned(),
            lineage,
            server: page(&ServerMetadata {
                name: "turnout",
                version: env!("CARGO_PKG_VERSION"),
                extensions: &["binary_tensor_data"],
            }),
            live: page(&Live { live: true }),
            ready: page(&Ready { ready: true }),
            models: page(&Models { models: &[model] }),
            metadata: page(&metadata),
            model_ready: page(&ModelReady { name: model, ready: true }),
        })
    }
}

fn tensor_metadata(rule: &TensorRule) -> TensorMetadata<'_> {
    TensorMetadata { name: &rule.name, datatype: rule.datatype, shape: &rule.shape }
}

fn page(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).expect("metadata is plain data").into()
}

/// Answers the requests of one thread.
pub struct Service {
    /// Shared by all threads and the link.
    pub state: Arc<State>,
    thread: usize,
    board: Arc<Board>,
    /// What requests that begin now are answered by.
    #[allow(
        clippy::redundant_allocation,
        reason = "all threads share the inner count: a request counts its own thread's"
    )]
    in_force: RefCell<Rc<Arc<Loaded>>>,
}

/// An answer other than 200.
pub struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    /// A failure with its text for the client.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// A path that exists.
enum Route {
    Server,
    Live,
    Ready,
    Models,
    Metadata,
    ModelReady,
    Infer,
}

impl Service {
    /// Answers by the version in force.
    pub fn new(thread: usize, board: Arc<Board>, state: Arc<State>) -> Self {
        let in_force = RefCell::new(Rc::new(board.in_force().version));
        Self { state, thread, board, in_force }
    }

    /// Answers requests that begin from now on by another version. What is under way keeps the one it began with.
    pub fn switch(&self, to: &InForce) {
        self.in_force.replace(Rc::new(Arc::clone(&to.version)));
        self.board.followed_by(self.thread, to);
    }

    /// Answers one request.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Activity,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        connection.begin();
        let version = Rc::clone(&self.in_force.borrow());
        let result = match route(&version.pages, request.uri().path()) {
            Ok(Route::Infer) if request.method() == Method::POST => self.infer(&version, request).await,
            Ok(Route::Infer) => Err(wrong_method("POST")),
            Ok(_) if !matches!(*request.method(), Method::GET | Method::HEAD) => Err(wrong_method("GET")),
            Ok(route) => self.page(&version.pages, &route),
            Err(failure) => Err(failure),
        };
        let mut response = result.unwrap_or_else(|failure| {
            let body = ErrorBody { error: &failure.message }.to_json();
            respond(failure.status, body.into())
        });
        let headers = response.headers_mut();
        for (name, value) in &version.pages.lineage {
            headers.insert(name, value.clone());
        }
        if self.state.is_last_answer(connection.end()) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    fn page(&self, pages: &Pages, route: &Route) -> Result<Response<Full<Bytes>>, Failure> {
        let body = match route {
            Route::Ready | Route::ModelReady if self.state.is_draining() => {
                return Err(Failure::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "this version is being taken out of service",
                ));
            }
            Route::Server => &pages.server,
            Route::Live => &pages.live,
            Route::Ready => &pages.ready,
            Route::Models => &pages.models,
            Route::ModelReady => &pages.model_ready,
            Route::Metadata | Route::Infer => &pages.metadata,
        };
        Ok(respond(StatusCode::OK, body.clone()))
    }

    async fn infer(
        &self,
        version: &Loaded,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Failure> {
        let result = self.infer_uncounted(version, request).await;
        self.state.count(match &result {
            Ok(_) => Outcome::Answered,
            Err((_, outcome)) => *outcome,
        });
        let answer = result.map_err(|(failure, _)| failure)?;
        let mut response = respond(StatusCode::OK, answer.body.into());
        if let Some(length) = answer.json_length {
            response.headers_mut().insert(header::CONTENT_TYPE, OCTETS);
            response.headers_mut().insert(JSON_LENGTH, length.into());
        }
        Ok(response)
    }

    async fn infer_uncounted(
        &self,
        version: &Loaded,
        request: Request<Incoming>,
    ) -> Result<Answer, (Failure, Outcome)> {
        let refused = |failure| (failure, Outcome::Refused);
        let json_length = body::json_length(request.headers()).map_err(refused)?;
        let body = body::read(request).await.map_err(refused)?;
        version.infer(self.thread, &body, json_length).map_err(|refusal| {
            let status = match refusal {
                Refusal::Request(_) => StatusCode::BAD_REQUEST,
                Refusal::Run(_) | Refusal::Withheld(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (Failure::new(status, refusal.to_string()), refusal.outcome())
        })
    }
}

fn route(pages: &Pages, path: &str) -> Result<Route, Failure> {
    let unknown = || Failure::new(StatusCode::NOT_FOUND, format!("there is no path `{}`", shown(path)));
    let rest = path.strip_prefix("/v2").ok_or_else(unknown)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    match rest {
        "" => return Ok(Route::Server),
        "/health/live" => return Ok(Route::Live),
        "/health/ready" => return Ok(Route::Ready),
        "/models" => return Ok(Route::Models),
        _ => {}
    }
    let mut parts = rest.strip_prefix("/models/").ok_or_else(unknown)?.split('/');
    let model = parts.next().unwrap_or_default();
    if unquoted(model) != pages.model {
        let message = format!("model `{}` is not served here, `{}` is", shown(model), pages.model);
        return Err(Failure::new(StatusCode::NOT_FOUND, message));
    }
    let mut action = parts.next();
    if action == Some("versions") {
        let version = parts.next().unwrap_or_default();
        if unquoted(version) != pages.version {
            let message = format!("version `{}` is not served here, `{}` is", shown(version), pages.version);
            return Err(Failure::new(StatusCode::NOT_FOUND, message));
        }
        action = parts.next();
    }
    match (action, parts.next()) {
        (None, None) => Ok(Route::Metadata),
        (Some("ready"), None) => Ok(Route::ModelReady),
        (Some("infer"), None) => Ok(Route::Infer),
        _ => Err(unknown()),
    }
}

fn respond(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().reserve(6);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn wrong_method(right: &str) -> Failure {
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, format!("method not allowed here, use {right}"))
}

/// A part of a path as text, `%2B` being `+`; clients quote names though none needs it.
fn unquoted(part: &str) -> Cow<'_, str> {
    if !part.contains('%') {
        return Cow::Borrowed(part);
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, after @ ..] = rest {
        let quoted = match (first, after) {
            (b'%', [high, low, ..]) => char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16)),
            _ => None,
        };
        bytes.push(quoted.map_or(*first, |(high, low)| (high * 16 + low) as u8));
        rest = &after[if quoted.is_some() { 2 } else { 0 }..];
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a client named, cut to a printable length.
fn shown(name: &str) -> String {
    name.chars().take(80).collect()
}
