//! One client connection to a model: opened, asked, found closed. Tells an answer from each way of not getting one;
//! what to make of that is for `load.rs`.

use crate::load::Load;
use crate::tally::Failure;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// The answer's header that names the version.
const VERSION_HEADER: &str = "turnout-version";
/// The header that names the user.
const USER_HEADER: &str = "x-user-id";
/// Largest answer that is read, bytes.
const ANSWER_MAX: usize = 16 << 20;

/// Whether a connection is meant for more than one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    Yes,
    No,
}

/// One request.
pub(crate) struct Question<'a> {
    pub load: &'a Load,
    pub body: Bytes,
    pub keep_alive: KeepAlive,
    /// Who asks, where it is said.
    pub user: Option<&'a str>,
}

/// A whole answer.
pub(crate) struct Reply {
    pub status: u16,
    /// The version it says it is from; empty when it says none.
    pub version: String,
    pub sent: Instant,
    pub latency: Duration,
    /// The connection must not be used again.
    pub closing: bool,
}

/// Why no whole answer came.
#[derive(Debug)]
pub(crate) struct Broken {
    pub failure: Failure,
    pub detail: String,
    any_byte: bool,
}

impl Broken {
    /// The server closed the connection and had not begun to answer.
    pub fn was_closed_unanswered(&self) -> bool {
        !self.any_byte && matches!(self.failure, Failure::Closed | Failure::Reset)
    }

    fn new(error: &(dyn Error + 'static)) -> Self {
        let chain = std::iter::successors(Some(error), |error| (*error).source());
        let detail = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        Self { failure: classify(error), detail, any_byte: false }
    }

    fn timeout() -> Self {
        Self {
            failure: Failure::Timeout,
            detail: "no whole answer within the deadline".into(),
            any_byte: false,
        }
    }
}

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
    received: Arc<AtomicU64>,
    opened: Instant,
    answers: u64,
    version: Option<String>,
}

impl Connection {
    pub async fn open(address: SocketAddr, deadline: Duration) -> Result<Self, Broken> {
        let connecting = timeout(deadline, TcpStream::connect(address)).await;
        let stream = connecting.map_err(|_| Broken::timeout())?.map_err(|error| Broken::new(&error))?;
        stream.set_nodelay(true).map_err(|error| Broken::new(&error))?;
        let opened = Instant::now();
        let received = Arc::<AtomicU64>::default();
        let counted = Counted { stream, received: Arc::clone(&received) };
        let handshake = http1::handshake(TokioIo::new(counted)).await;
        let (sender, driver) = handshake.map_err(|error| Broken::new(&error))?;
        // Its end shows in the sender and in the answer; there is nothing to learn from its result.
        let driver = tokio::spawn(async move { drop(driver.await) }).abort_handle();
        Ok(Self { sender, driver, received, opened, answers: 0, version: None })
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// Whole answers so far.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// The version its answers so far were from.
    pub fn version(&self) -> Option<String> {
        self.version.clone()
    }

    /// The server has not closed it, as far as can be known here.
    pub async fn is_open(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends one request and waits for the last byte of its answer.
    pub async fn ask(&mut self, question: &Question<'_>) -> Result<Reply, Broken> {
        let before = self.received.load(Ordering::Relaxed);
        let answer = timeout(question.load.deadline, self.exchange(question)).await;
        let mut outcome = answer.unwrap_or_else(|_| Err(Broken::timeout()));
        match &mut outcome {
            Ok(reply) => {
                self.answers += 1;
                if self.version.as_deref() != Some(&reply.version) && !reply.version.is_empty() {
                    self.version = Some(reply.version.clone());
                }
            }
            Err(broken) => broken.any_byte = self.received.load(Ordering::Relaxed) > before,
        }
        outcome
    }

    async fn exchange(&mut self, question: &Question<'_>) -> Result<Reply, Broken> {
        let request = request(question)?;
        let sent = Instant::now();
        let response = self.sender.send_request(request).await.map_err(|error| Broken::new(&error))?;
        let (head, body) = response.into_parts();
        Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| Broken::new(&*error))?;
        let latency = sent.elapsed();
        let text =
            |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let closing =
            question.keep_alive == KeepAlive::No || text("connection").eq_ignore_ascii_case("close");
        let version = text(VERSION_HEADER).to_owned();
        Ok(Reply { status: head.status.as_u16(), version, sent, latency, closing })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn request(question: &Question<'_>) -> Result<Request<Full<Bytes>>, Broken> {
    let Question { load, body, keep_alive, user } = question;
    let mut request = Request::post(&load.path)
        .header(HOST, load.address.to_string())
        .header(CONTENT_TYPE, "application/json");
    if let Some(user) = user {
        request = request.header(USER_HEADER, *user);
    }
    if *keep_alive == KeepAlive::No {
        request = request.header(CONNECTION, "close");
    }
    request.body(Full::new(body.clone())).map_err(|error| Broken::new(&error))
}

fn classify(error: &(dyn Error + 'static)) -> Failure {
    for cause in std::iter::successors(Some(error), |error| (*error).source()) {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return Failure::Refused,
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return Failure::Reset,
                io::ErrorKind::TimedOut => return Failure::Timeout,
                _ => {}
            }
        }
        if cause.downcast_ref::<hyper::Error>().is_some_and(|e| e.is_parse() || e.is_parse_too_large()) {
            return Failure::Malformed;
        }
    }
    Failure::Closed
}

/// A stream that counts the bytes received: only so can a close before any byte of an answer be told from one within it.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        outcome
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
