//! One request, taken to its version and its answer brought back. It is sent a second time only when it surely was not
//! sent the first time: the connection was refused, or had closed before a byte went out.

use crate::pool::{Lease, Pool};
use crate::stats::{Counters, Outcome};
use crate::table::{Table, Way};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;
use turnout_protocol::router::Arm;

/// How long a version may take to begin its answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(120);
/// How long a version may be silent within its answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Connections tried for one request: idle ones that turn out to be closed, then a new one.
const ATTEMPTS: usize = 4;
/// Headers that speak of one connection, and `Expect`, which the router answers itself.
const OF_ONE_CONNECTION: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const VIA: HeaderValue = HeaderValue::from_static("1.1 turnout");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What is needed for each request.
pub struct Forwarder {
    /// The routes in force.
    pub table: Arc<Table>,
    /// This thread's connections.
    pub pool: Rc<Pool>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// Why the router answers itself.
struct Refusal {
    status: StatusCode,
    message: &'static str,
    outcome: Outcome,
}

const fn refused(status: StatusCode, message: &'static str) -> Refusal {
    Refusal { status, message, outcome: Outcome::Refused }
}

const fn unanswered(status: StatusCode, message: &'static str) -> Refusal {
    Refusal { status, message, outcome: Outcome::Unanswered }
}

impl Forwarder {
    /// Answers a request that came in through this public port.
    pub async fn answer(&self, port: u16, request: Request<Incoming>) -> Response<AnswerBody> {
        let Some(route) = self.table.route(port) else {
            let refusal = refused(StatusCode::SERVICE_UNAVAILABLE, "no route for this port");
            return self.own_answer(&refusal);
        };
        let answered = match prepared(request) {
            Ok(request) => {
                let (head, body) = request.into_parts();
                let way = route.way(&head);
                self.forward(way, Request::from_parts(head, body)).await
            }
            Err(refusal) => Err(refusal),
        };
        let mut response = answered.unwrap_or_else(|refusal| self.own_answer(&refusal));
        if route.is_over() {
            response.headers_mut().insert(header::CONNECTION, CLOSE);
        }
        response
    }

    async fn forward(
        &self,
        way: Way<'_>,
        request: Request<Incoming>,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let mut request = request;
        let mut lease = self.pool.idle(way.arm);
        for _ in 0..ATTEMPTS {
            let (mut taken, outcome) = match lease.take() {
                Some(lease) => (lease, outcome(way)),
                None => self.connect(way).await?,
            };
            let sent = tokio::time::timeout(ANSWER_DEADLINE, taken.sender.try_send_request(request)).await;
            let Ok(sent) = sent else {
                return Err(unanswered(StatusCode::GATEWAY_TIMEOUT, "the version did not answer in time"));
            };
            match sent {
                Ok(response) => {
                    self.counters.count(outcome);
                    return Ok(brought_back(response, taken));
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => break,
                },
            }
        }
        Err(unanswered(StatusCode::BAD_GATEWAY, "the version ended the connection without an answer"))
    }

    /// A new connection to the version, or to the one that stands in.
    async fn connect(&self, way: Way<'_>) -> Result<(Lease, Outcome), Refusal> {
        if let Ok(lease) = self.pool.connect(way.arm).await {
            return Ok((lease, outcome(way)));
        }
        let nobody = || unanswered(StatusCode::BAD_GATEWAY, "no version takes the connection");
        let spare: &Arm = way.spare.ok_or_else(nobody)?;
        let lease = match self.pool.idle(spare) {
            Some(lease) => lease,
            None => self.pool.connect(spare).await.map_err(|_| nobody())?,
        };
        Ok((lease, Outcome::StoodIn))
    }

    fn own_answer(&self, refusal: &Refusal) -> Response<AnswerBody> {
        self.counters.count(refusal.outcome);
        let body = format!("{{\"error\":\"router: {}\"}}", refusal.message);
        let mut response = Response::new(AnswerBody::Own(Full::new(body.into())));
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // The rest of a body that nobody reads is not worth keeping the connection for.
        headers.insert(header::CONNECTION, CLOSE);
        response
    }
}

/// Only the candidate has a stand-in.
fn outcome(way: Way<'_>) -> Outcome {
    if way.spare.is_some() { Outcome::ToCandidate } else { Outcome::ToStable }
}

/// The request as the version gets it: framed anew, in origin form, without what belonged to the client's connection.
fn prepared(request: Request<Incoming>) -> Result<Request<Incoming>, Refusal> {
    let (mut head, body) = request.into_parts();
    check(&head)?;
    strip(&mut head.headers);
    head.headers.remove(header::EXPECT);
    head.headers.append(header::VIA, VIA);
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str());
        head.headers.insert(header::HOST, host.map_err(|_| refused(StatusCode::BAD_REQUEST, "bad target"))?);
        let origin = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = origin.parse().map_err(|_| refused(StatusCode::BAD_REQUEST, "bad target"))?;
    }
    head.version = Version::HTTP_11;
    Ok(Request::from_parts(head, body))
}

/// What two servers could read differently is refused. A length beside a transfer coding is the library's to handle: the
/// coding counts, the connection closes, and the version gets one framing, which is new.
fn check(head: &Parts) -> Result<(), Refusal> {
    let headers = &head.headers;
    if headers.get_all(header::HOST).iter().count() > 1 {
        return Err(refused(StatusCode::BAD_REQUEST, "more than one Host"));
    }
    if headers.get_all(header::TRANSFER_ENCODING).iter().any(|coding| coding != "chunked") {
        return Err(refused(StatusCode::NOT_IMPLEMENTED, "no transfer coding but chunked"));
    }
    if head.method == Method::CONNECT {
        return Err(refused(StatusCode::NOT_IMPLEMENTED, "no tunnels"));
    }
    let asterisk = head.uri == Uri::from_static("*");
    if asterisk && head.method != Method::OPTIONS {
        return Err(refused(StatusCode::BAD_REQUEST, "bad target"));
    }
    Ok(())
}

/// Takes away what speaks of one connection: the headers of that kind, and those that `Connection` names.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // They frame the message, whatever a client says of them.
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    for name in named.into_iter().chain(OF_ONE_CONNECTION).chain([KEEP_ALIVE, PROXY_CONNECTION]) {
        headers.remove(name);
    }
}

fn brought_back(response: Response<Incoming>, lease: Lease) -> Response<AnswerBody> {
    let (mut head, body) = response.into_parts();
    strip(&mut head.headers);
    head.version = Version::HTTP_11;
    // It is ready again only once the answer was read to its end; one that is not, closes the connection.
    lease.give_back();
    Response::from_parts(head, AnswerBody::Borrowed(Borrowed { body, silence: None }))
}

/// An answer on its way to the client.
pub enum AnswerBody {
    /// The router's own.
    Own(Full<Bytes>),
    /// A version's.
    Borrowed(Borrowed),
}

/// A version's answer, with the time that it has been silent.
pub struct Borrowed {
    body: Incoming,
    silence: Option<Pin<Box<Sleep>>>,
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The version's connection broke.
    #[error("the version's answer broke off")]
    Broken(#[source] hyper::Error),
    /// The version says nothing more.
    #[error("the version was silent for {} s", SILENCE_MAX.as_secs())]
    Silent,
}

impl Borrowed {
    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)));
        }
        let silence = self.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(SILENCE_MAX)));
        ready!(silence.as_mut().poll(context));
        Poll::Ready(Some(Err(BodyError::Silent)))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Borrowed(borrowed) => borrowed.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Borrowed(borrowed) => borrowed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Borrowed(borrowed) => borrowed.body.size_hint(),
        }
    }
}
