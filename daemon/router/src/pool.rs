//! Connections to workers, kept open between requests, each thread its own. A connection comes back only when its
//! answer was read to the end; one whose client went away, or whose answer broke off, closes.

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use turnout_manifest::Generation;
use turnout_protocol::router::Arm;

/// Idle connections kept to one version by one thread.
const IDLE_MAX: usize = 512;
/// How long one is kept: far shorter than a worker would keep it, so that the two do not close it at one time.
const IDLE_LIFE: Duration = Duration::from_secs(5);
/// How long a worker on the same machine may take to accept.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Largest head of an answer, bytes.
const HEAD_MAX: usize = 64 * 1024;

/// Idle connections by version.
#[derive(Default)]
pub struct Pool {
    idle: RefCell<HashMap<Generation, Vec<Idle>>>,
}

struct Idle {
    sender: SendRequest<Incoming>,
    since: Instant,
}

/// A connection in use.
pub struct Lease {
    pool: Rc<Pool>,
    generation: Generation,
    /// Where the request goes in.
    pub sender: SendRequest<Incoming>,
}

impl Pool {
    /// A connection that waits, the one used last first.
    pub fn idle(self: &Rc<Self>, arm: &Arm) -> Option<Lease> {
        let mut idle = self.idle.borrow_mut();
        let waiting = idle.get_mut(&arm.generation)?;
        while let Some(Idle { sender, since }) = waiting.pop() {
            if sender.is_ready() && since.elapsed() < IDLE_LIFE {
                return Some(Lease { pool: Rc::clone(self), generation: arm.generation, sender });
            }
        }
        None
    }

    /// A new connection.
    ///
    /// # Errors
    /// The worker takes none, or not in time: nothing was sent.
    pub async fn connect(self: &Rc<Self>, arm: &Arm) -> io::Result<Lease> {
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let stream =
            tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(arm.address)).await.map_err(late)??;
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        // The exchange has an owner that outlives the client's: the connection ends by itself when nobody waits for it.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(Lease { pool: Rc::clone(self), generation: arm.generation, sender })
    }

    /// Closes what has waited too long.
    pub fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, waiting| {
            waiting.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < IDLE_LIFE);
            !waiting.is_empty()
        });
    }
}

impl Lease {
    /// Brings the connection back once it is ready for another request; a connection that never is, closes.
    pub fn give_back(self) {
        let Self { pool, generation, mut sender } = self;
        if sender.is_closed() {
            return;
        }
        tokio::task::spawn_local(async move {
            if sender.ready().await.is_err() {
                return;
            }
            let mut idle = pool.idle.borrow_mut();
            let waiting = idle.entry(generation).or_default();
            if waiting.len() < IDLE_MAX {
                waiting.push(Idle { sender, since: Instant::now() });
            }
        });
    }
}
