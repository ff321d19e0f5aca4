//! One thread per session: each accepts from the same listening socket, serves its connections, and ends when told to.

use crate::http::Service;
use crate::state::State;
use crate::versions::{Board, InForce};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, watch};

/// Most connections of one thread; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long a client may take for a request's head; also how long a connection may stay idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// Largest head of a request, bytes, and the read buffer's first size.
const HEAD_MAX: usize = 64 * 1024;
/// After an error of accept (no descriptors left) the next try waits this long, or for a connection to end.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Handshakes that were under way when the drain began are let in for this long, and a client has as long to ask something
/// over a new connection: over one that has never answered it, no client asks again by itself.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(1000);

/// Why serving cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot share the listening socket")]
    Listener(#[source] std::io::Error),
    #[error("cannot start a serving thread")]
    Thread(#[source] std::io::Error),
}

/// Starts one thread for each session of the version in force. All listen to the same socket.
///
/// # Errors
/// [`ServeError`]; threads that were started end with the process.
pub fn start(listener: &TcpListener, board: &Arc<Board>, state: &Arc<State>) -> Result<(), ServeError> {
    for thread in 0..board.threads() {
        let listener = listener.try_clone().map_err(ServeError::Listener)?;
        let (board, shared, orders) = (Arc::clone(board), Arc::clone(state), board.follow());
        let guard = state.enter();
        let body = move || {
            let _guard = guard;
            if let Err(error) = serve(listener, Service::new(thread, board, shared), orders) {
                eprintln!("turnout-worker: cannot serve: {error}");
            }
        };
        std::thread::Builder::new().name("serve".to_owned()).spawn(body).map_err(ServeError::Thread)?;
    }
    Ok(())
}

fn serve(listener: TcpListener, service: Service, orders: watch::Receiver<InForce>) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let queue = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        Thread { service: Rc::new(service), open: Rc::default(), ended: Rc::default() }
            .accept((&queue, &listener), orders)
            .await;
        Ok(())
    })
}

/// One serving thread and its connections.
struct Thread {
    service: Rc<Service>,
    open: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl Thread {
    /// Accepts until the drain is over: nobody is connected and nobody waits in the queue.
    async fn accept(
        &self,
        (queue, listener): (&tokio::net::TcpListener, &TcpListener),
        mut orders: watch::Receiver<InForce>,
    ) {
        let mut drained = pin!(grace_over(self.service.state.follow_drain()));
        let mut is_over = false;
        loop {
            tokio::select! {
                accepted = queue.accept(), if self.open.get() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => self.attend(stream),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(_) => { let _ = tokio::time::timeout(ACCEPT_RETRY, self.ended.notified()).await; }
                },
                () = self.ended.notified() => {}
                () = &mut drained, if !is_over => is_over = true,
                Ok(()) = orders.changed() => self.service.switch(&orders.borrow_and_update()),
            }
            if is_over && self.open.get() == 0 {
                // Asked directly: another thread may have taken what this one's runtime was told of.
                match listener.accept() {
                    Ok((stream, _)) => self.attend_blocking_socket(stream),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(_) => {}
                }
            }
        }
    }

    fn attend_blocking_socket(&self, stream: TcpStream) {
        let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            self.attend(stream);
        }
    }

    fn attend(&self, stream: tokio::net::TcpStream) {
        self.open.set(self.open.get() + 1);
        let place = Place { open: Rc::clone(&self.open), ended: Rc::clone(&self.ended) };
        let service = Rc::clone(&self.service);
        tokio::task::spawn_local(async move {
            let _place = place;
            connection(stream, service).await;
        });
    }
}

/// A connection's place among those of its thread, given back also when its task ends in a panic.
struct Place {
    open: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.ended.notify_one();
    }
}

async fn connection(stream: tokio::net::TcpStream, service: Rc<Service>) {
    // Answers are one write each: waiting for more to send would only add delay. A socket that refuses is closing.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new();
    let mut silent = pin!(activity.is_over());
    let idle_over = pin!(activity.idle_over(service.state.follow_drain()));
    let answer = service_fn(|request| service.answer(request, &activity));
    let mut connection = pin!(
        http1::Builder::new()
            .max_header_size(HEAD_MAX)
            .writev(false)
            .serve_connection(TokioIo::new(stream), answer)
    );
    // An error here is the client's going away or its broken HTTP, which hyper has answered.
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        () = silent.as_mut() => return,
        () = idle_over => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = connection => {}
        () = silent => {}
    }
}

/// When a connection was made and last did something. The HTTP library's own deadline sets up a timer for every request;
/// this one looks again only when the last deadline has passed.
pub struct Activity {
    born: Instant,
    last: Cell<Instant>,
    in_request: Cell<bool>,
    has_asked: Cell<bool>,
}

impl Activity {
    fn new() -> Self {
        let now = Instant::now();
        Self { born: now, last: Cell::new(now), in_request: Cell::new(false), has_asked: Cell::new(false) }
    }

    /// A request's head has arrived.
    pub fn begin(&self) {
        self.in_request.set(true);
        self.has_asked.set(true);
    }

    /// Its answer is made. Returns the age of the connection.
    pub fn end(&self) -> Duration {
        self.in_request.set(false);
        self.last.set(Instant::now());
        self.last.get() - self.born
    }

    /// Waits until the client has sent no whole head for too long. A request under way has deadlines of its own.
    async fn is_over(&self) {
        loop {
            let deadline =
                if self.in_request.get() { Instant::now() } else { self.last.get() } + HEAD_DEADLINE;
            if deadline <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline.into()).await;
        }
    }

    /// Waits until a connection that has been silent since the drain began, or since it was made, is to be closed.
    async fn idle_over(&self, mut drain: watch::Receiver<Option<Duration>>) {
        if let Some(idle) = drained(&mut drain).await {
            tokio::time::sleep(idle).await;
            if !self.has_asked.get() {
                tokio::time::sleep_until((self.born + HANDSHAKE_GRACE).into()).await;
            }
        }
    }
}

/// Waits until the drain began and handshakes that were under way then have had their time.
async fn grace_over(mut drain: watch::Receiver<Option<Duration>>) {
    if drained(&mut drain).await.is_some() {
        tokio::time::sleep(HANDSHAKE_GRACE).await;
    }
}

async fn drained(drain: &mut watch::Receiver<Option<Duration>>) -> Option<Duration> {
    drain.wait_for(Option::is_some).await.ok().and_then(|idle| *idle)
}

/// The peer gave up between connecting and being accepted; the queue itself is well.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}
