//! `turnout-export metrics`: gives the daemon's metrics to Prometheus over TCP, so that no process with rights speaks to
//! the network. However many ask, the daemon is asked once a second at most.

use crate::arguments::MetricsArguments;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;
use turnout_protocol::client::Client;

/// Most connections at one time; the others wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Largest head of a request, bytes; hyper takes no smaller one.
const HEAD_MAX: usize = 8192;
/// How long a request's head may take to arrive.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// How long a connection may last; it carries one request.
const CONNECTION_LIFE: Duration = Duration::from_secs(15);
/// How long the daemon may take; a scraper waits 10 s by default.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// For how long an answer is given again: the daemon looks at its counters once a second.
const FRESH: Duration = Duration::from_secs(1);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Why metrics are not served.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be listened on.
    #[error("cannot listen on `{0}`")]
    Listen(SocketAddr, #[source] io::Error),
    /// There is no runtime.
    #[error("runtime")]
    Runtime(#[source] io::Error),
}

/// Serves until the process is ended.
///
/// # Errors
/// [`MetricsError`].
pub fn run(arguments: MetricsArguments) -> Result<(), MetricsError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(MetricsError::Runtime)?;
    runtime.block_on(async {
        let failed = |error| MetricsError::Listen(arguments.listen, error);
        let listener = TcpListener::bind(arguments.listen).await.map_err(failed)?;
        eprintln!("serving http://{}/metrics", listener.local_addr().map_err(failed)?);
        let source = Source {
            client: Client::new(arguments.socket),
            cursors: arguments.cursor,
            last: Mutex::new(None),
            failing: Mutex::new(None),
        };
        serve(&listener, Arc::new(source)).await;
        Ok(())
    })
}

async fn serve(listener: &TcpListener, source: Arc<Source>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = Arc::clone(&source);
                tokio::spawn(async move {
                    // A peer that is slow, or no HTTP client, is no event.
                    let _ = timeout(CONNECTION_LIFE, connection(stream, source)).await;
                    drop(place);
                });
            }
            // Out of descriptors or memory: waiting for a place to come free is all that helps.
            Err(error) => {
                eprintln!("error: accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, source: Arc<Source>) -> Result<(), hyper::Error> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| {
                let source = Arc::clone(&source);
                async move { Ok::<_, Infallible>(answer(&request, &source).await) }
            }),
        )
        .await
}

async fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, source.metrics().await),
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, "the metrics are at `/metrics`\n".into())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".into()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// Where metrics come from.
struct Source {
    client: Client,
    cursors: Vec<PathBuf>,
    last: Mutex<Option<(Instant, Bytes)>>,
    /// Why the daemon does not answer, as it was said last.
    failing: Mutex<Option<String>>,
}

impl Source {
    /// The text, at most [`FRESH`] old. Those who ask meanwhile wait for the same answer.
    async fn metrics(&self) -> Bytes {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, text)) if at.elapsed() < FRESH => text.clone(),
            _ => {
                let text = self.ask().await;
                *last = Some((Instant::now(), text.clone()));
                text
            }
        }
    }

    /// A daemon that does not answer is a figure too: without it, nobody could tell it from a dead exporter.
    async fn ask(&self) -> Bytes {
        let told = timeout(ASK_DEADLINE, self.client.metrics()).await;
        let told = told
            .map_err(|_| "no answer in time".to_owned())
            .and_then(|answer| answer.map_err(|error| crate::chain(&error)));
        let mut text = own(u64::from(told.is_ok()), &self.cursors).into_bytes();
        if let Some(news) = news(&mut *self.failing.lock().await, told.as_ref().err()) {
            eprintln!("{news}");
        }
        text.extend_from_slice(&told.unwrap_or_default());
        text.into()
    }
}

/// What there is to say when the daemon ceases to answer, does not for another reason, or answers again: not at each
/// scrape.
fn news(said: &mut Option<String>, why: Option<&String>) -> Option<String> {
    if said.as_ref() == why {
        return None;
    }
    *said = why.cloned();
    Some(why.map_or_else(|| "the daemon answers again".to_owned(), |why| format!("error: {why}")))
}

/// What this process itself knows.
fn own(up: u64, cursors: &[PathBuf]) -> String {
    let mut text = format!(
        "# HELP turnout_up 1 while the daemon answers at its control socket.\n# TYPE turnout_up gauge\n\
         turnout_up {up}\n"
    );
    // An export that never ran is not behind.
    let known: BTreeMap<_, _> = labels(cursors)
        .into_iter()
        .filter_map(|(label, path)| Some((label, crate::cursor::noted(path).ok()??)))
        .collect();
    if !known.is_empty() {
        text += "# HELP turnout_export_next_record Record of the journal that an export gives next.\n\
                 # TYPE turnout_export_next_record gauge\n";
    }
    for (name, next) in known {
        text += &format!("turnout_export_next_record{{cursor=\"{name}\"}} {next}\n");
    }
    text
}

/// What each cursor is called: its file's name, or its whole path where another has the same name.
fn labels(cursors: &[PathBuf]) -> BTreeMap<String, &Path> {
    let plain = |text: &OsStr| text.to_string_lossy().replace(['\\', '"', '\n'], "_");
    let name = |path: &PathBuf| path.file_name().map(plain);
    let clashes = |path: &PathBuf| cursors.iter().any(|other| other != path && name(other) == name(path));
    let label = |path: &PathBuf| if clashes(path) { Some(plain(path.as_os_str())) } else { name(path) };
    cursors.iter().filter_map(|path| Some((label(path)?, path.as_path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_series_is_told_twice_whatever_the_cursors_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name).join("cursor"));
        for (path, next) in [(&one, 1), (&other, 2)] {
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{next}\n")).unwrap();
        }
        let text = own(1, &[one.clone(), other.clone(), one.clone()]);
        for (path, next) in [(&one, 1), (&other, 2)] {
            let series = format!("turnout_export_next_record{{cursor=\"{}\"}} {next}\n", path.display());
            assert_eq!(text.matches(&series).count(), 1, "{text}");
        }
        assert_eq!(text.matches("{cursor=").count(), 2, "{text}");
    }

    #[test]
    fn a_daemon_that_does_not_answer_is_said_when_it_is_news() {
        let (mut said, [refused, late]) = (None, ["refused", "late"].map(str::to_owned));
        assert_eq!(news(&mut said, None), None);
        assert_eq!(news(&mut said, Some(&refused)).as_deref(), Some("error: refused"));
        assert_eq!(news(&mut said, Some(&refused)), None);
        assert_eq!(news(&mut said, Some(&late)).as_deref(), Some("error: late"));
        assert_eq!(news(&mut said, None).as_deref(), Some("the daemon answers again"));
        assert_eq!(news(&mut said, None), None);
    }

    #[test]
    fn how_far_an_export_is_is_told_where_its_cursor_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let [good, foreign, absent] = ["journald", "foreign", "absent"].map(|name| folder.path().join(name));
        std::fs::write(&good, "42 7 a-boot\n").unwrap();
        std::fs::write(&foreign, "x").unwrap();
        let text = own(1, &[good, foreign, absent]);
        assert!(text.ends_with("turnout_export_next_record{cursor=\"journald\"} 42\n"), "{text}");
        assert!(!own(0, &[]).contains("next_record"));
    }
}
