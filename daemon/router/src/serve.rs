//! The clients' side: each thread accepts from the same listening socket and serves its connections. Which port a client
//! called is the local address of its connection: the kernel steers connections of every model's port here.

use crate::forward::Forwarder;
use crate::pool::Pool;
use crate::stats::Counters;
use crate::table::Table;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::Notify;

/// Most connections of one thread; more wait in the kernel's queue. Each may need one to a worker.
const CONNECTIONS_MAX: usize = 2048;
/// Most threads.
const THREADS_MAX: usize = 8;
/// How long a client may take for a request's head; also how long a connection may stay idle. As a worker's.
const HEAD_DEADLINE: Duration = Duration::from_secs(75);
/// Largest head of a request, bytes. Of headers the library itself takes 100 at most.
const HEAD_MAX: usize = 64 * 1024;
/// After an error of accept (no descriptors left) the next try waits this long, or for a connection to end.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often connections to workers that wait too long are closed.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The serving threads.
pub struct Server;

impl Server {
    /// Starts a thread for each processor that this one may use. They serve as long as the process lives.
    ///
    /// # Errors
    /// The listening socket could not be shared, or a thread not started.
    pub fn start(listener: TcpListener, table: &Arc<Table>, counters: &Arc<Counters>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        for _ in 0..threads {
            let (listener, table, counters) =
                (listener.try_clone()?, Arc::clone(table), Arc::clone(counters));
            let body = move || {
                if let Err(error) = serve(listener, table, counters) {
                    eprintln!("turnout-router: cannot serve: {error}");
                    // With a thread missing, clients would wait in the queue for nobody: without a router they go home.
                    std::process::exit(1);
                }
            };
            std::thread::Builder::new().name("serve".to_owned()).spawn(body)?;
        }
        Ok(())
    }
}

fn serve(listener: TcpListener, table: Arc<Table>, counters: Arc<Counters>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let queue = tokio::net::TcpListener::from_std(listener)?;
        let pool = Rc::new(Pool::default());
        let swept = Rc::clone(&pool);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(SWEEP_EVERY).await;
                swept.sweep();
            }
        });
        let forwarder = Rc::new(Forwarder { table, pool, counters });
        Thread { forwarder, open: Rc::default(), ended: Rc::default() }.accept(&queue).await;
        Ok(())
    })
}

/// One serving thread and its connections.
struct Thread {
    forwarder: Rc<Forwarder>,
    open: Rc<Cell<usize>>,
    ended: Rc<Notify>,
}

impl Thread {
    async fn accept(&self, queue: &tokio::net::TcpListener) {
        loop {
            tokio::select! {
                accepted = queue.accept(), if self.open.get() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => self.attend(stream),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(_) => { let _ = tokio::time::timeout(ACCEPT_RETRY, self.ended.notified()).await; }
                },
                () = self.ended.notified() => {}
            }
        }
    }

    fn attend(&self, stream: tokio::net::TcpStream) {
        let Ok(called) = stream.local_addr() else { return };
        self.open.set(self.open.get() + 1);
        self.forwarder.counters.opened();
        let forwarder = Rc::clone(&self.forwarder);
        let place = Place {
            open: Rc::clone(&self.open),
            ended: Rc::clone(&self.ended),
            counters: Arc::clone(&forwarder.counters),
        };
        tokio::task::spawn_local(async move {
            let _place = place;
            connection(stream, called.port(), forwarder).await;
        });
    }
}

/// A connection's place among those of its thread, given back also when its task ends in a panic.
struct Place {
    open: Rc<Cell<usize>>,
    ended: Rc<Notify>,
    counters: Arc<Counters>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.counters.closed();
        self.ended.notify_one();
    }
}

async fn connection(stream: tokio::net::TcpStream, port: u16, forwarder: Rc<Forwarder>) {
    // Answers are one write each: waiting for more to send would only add delay. A socket that refuses is closing.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(|request| async { Ok::<_, Infallible>(forwarder.answer(port, request).await) });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_header_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    // An error here is the client's going away or its broken HTTP, which hyper has answered.
    let _ = serving.await;
}

/// The peer gave up between connecting and being accepted; the queue itself is well.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}
