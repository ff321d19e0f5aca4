//! A load generator: keep-alive connections and short ones against one address, each request counted once with how it
//! ended. Behaves like every real connection pool; what it counts is in `tally.rs`.

use crate::connection::{Broken, Connection, KeepAlive, Question, Reply};
use crate::tally::{Answer, Failed, Tally};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval, interval_at};

/// Short connections open at one time; more are held back.
const SHORT_MAX: usize = 256;
/// Pause of a connection after a failure, so that a closed port does not become a busy loop.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// When a keep-alive connection sends its next request.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As soon as the answer is there.
    Closed,
    /// So that all keep-alive connections together send about this many per second.
    PerSecond(f64),
}

/// What to send, where, and how much of it.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the model is served.
    pub address: SocketAddr,
    /// Path of the request: `/v2/models/digits/infer`.
    pub path: String,
    /// Request bodies, taken in turn.
    pub bodies: Arc<[Bytes]>,
    /// Keep-alive connections.
    pub connections: usize,
    /// How fast they ask.
    pub pace: Pace,
    /// Connections per second that make one request each.
    pub short_per_second: u32,
    /// Longest wait for a connection, and for a whole answer.
    pub deadline: Duration,
    /// The load ends by itself after this many requests.
    pub most_requests: u64,
    /// The load ends by itself after this time.
    pub longest: Duration,
}

/// A load that is running.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    tallies: Vec<Arc<Mutex<Tally>>>,
    clients: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Begins; must be called within a Tokio runtime.
    pub fn start(self) -> Running {
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            began: Instant::now(),
            turn: AtomicUsize::new(0),
            left: AtomicU64::new(self.most_requests),
            stopped,
            load: self,
        });
        let (mut clients, mut tallies) = (JoinSet::new(), Vec::new());
        for ordinal in 0..shared.load.connections {
            let tally = Arc::<Mutex<Tally>>::default();
            clients.spawn(keep_alive(Arc::clone(&shared), Arc::clone(&tally), ordinal));
            tallies.push(tally);
        }
        if shared.load.short_per_second > 0 {
            let tally = Arc::<Mutex<Tally>>::default();
            clients.spawn(short(Arc::clone(&shared), Arc::clone(&tally)));
            tallies.push(tally);
        }
        Running { shared, tallies, clients, stop }
    }
}

impl Running {
    /// Time since the load began: the clock of every [`Tally`].
    pub fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// When the load began, milliseconds since the Unix epoch: brings a [`Tally`] onto the daemon's clock.
    pub fn began_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.saturating_sub(self.elapsed()).as_millis()).unwrap_or(u64::MAX)
    }

    /// What clients saw so far.
    pub fn snapshot(&self) -> Tally {
        let mut sum = Tally::default();
        self.tallies.iter().for_each(|tally| sum.merge(&locked(tally)));
        sum
    }

    /// Waits until the load has ended by itself.
    pub async fn ended(mut self) -> Tally {
        while self.clients.join_next().await.is_some() {}
        self.snapshot()
    }

    /// Ends the load: no new request is sent, those under way are awaited.
    pub async fn finish(self) -> Tally {
        self.stop.send_replace(true);
        self.ended().await
    }
}

#[derive(Debug)]
struct Shared {
    load: Load,
    began: Instant,
    turn: AtomicUsize,
    left: AtomicU64,
    stopped: watch::Receiver<bool>,
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep_alive(shared: Arc<Shared>, tally: Arc<Mutex<Tally>>, ordinal: usize) {
    let mut ticks = shared.load.ticks(ordinal);
    let mut stopped = shared.stopped.clone();
    let mut held = None;
    loop {
        if let Some(ticks) = &mut ticks {
            tokio::select! { _ = ticks.tick() => {}, _ = stopped.wait_for(|stop| *stop) => {} }
        }
        if !shared.take_turn() {
            return;
        }
        held = match shared.ask(held, &tally, KeepAlive::Yes).await {
            Asked::Kept(connection) => Some(connection),
            Asked::Closed => None,
            Asked::Failed => {
                tokio::time::sleep(AFTER_FAILURE).await;
                None
            }
        };
    }
}

async fn short(shared: Arc<Shared>, tally: Arc<Mutex<Tally>>) {
    let mut ticks = interval(Duration::from_secs(1) / shared.load.short_per_second);
    let room = Arc::new(Semaphore::new(SHORT_MAX));
    let mut stopped = shared.stopped.clone();
    let mut open = JoinSet::new();
    loop {
        tokio::select! { _ = ticks.tick() => {}, _ = stopped.wait_for(|stop| *stop) => {} }
        while open.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            locked(&tally).held_back += 1;
            continue;
        };
        if !shared.take_turn() {
            break;
        }
        let (shared, tally) = (Arc::clone(&shared), Arc::clone(&tally));
        open.spawn(async move {
            shared.ask(None, &tally, KeepAlive::No).await;
            drop(permit);
        });
    }
    while open.join_next().await.is_some() {}
}

impl Load {
    /// When one of the keep-alive connections asks, all of them evenly spread; absent in a closed loop.
    fn ticks(&self, ordinal: usize) -> Option<Interval> {
        let Pace::PerSecond(rate) = self.pace else { return None };
        let period = Duration::from_secs_f64((self.connections as f64 / rate.max(0.001)).max(1e-6));
        let offset = period.mul_f64(ordinal as f64 / self.connections as f64);
        let mut ticks = interval_at(tokio::time::Instant::now() + offset, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(ticks)
    }
}

/// What is left of a connection after a request.
enum Asked {
    /// It may be used again.
    Kept(Connection),
    /// The answer came, the connection is over.
    Closed,
    /// No whole answer came.
    Failed,
}

impl Shared {
    /// Whether one more request may be sent.
    fn take_turn(&self) -> bool {
        let over = *self.stopped.borrow() || self.began.elapsed() >= self.load.longest;
        !over
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
    }

    /// Makes one request, on the held connection where that is still open, and counts how it ended.
    async fn ask(&self, held: Option<Connection>, tally: &Mutex<Tally>, keep_alive: KeepAlive) -> Asked {
        locked(tally).sent += 1;
        let question = Question { load: &self.load, body: self.next_body(), keep_alive, user: None };
        let at = self.began.elapsed();
        let mut held = still_open(held, tally).await;
        loop {
            let mut version = None;
            let broken = match self.connected(held.take()).await {
                Err(broken) => broken,
                Ok(mut connection) => match connection.ask(&question).await {
                    Ok(reply) => return self.answered(connection, reply, tally),
                    // The server closed the idle connection while the request was on its way: it saw no request, so
                    // asking once more is what every pool does. A fresh connection cannot come here again.
                    Err(broken) if connection.answers() > 0 && broken.was_closed_unanswered() => {
                        locked(tally).retried += 1;
                        continue;
                    }
                    Err(broken) => {
                        version = connection.version();
                        broken
                    }
                },
            };
            let Broken { failure, detail, .. } = broken;
            locked(tally).fail(Failed { at, failure, version, detail });
            return Asked::Failed;
        }
    }

    async fn connected(&self, held: Option<Connection>) -> Result<Connection, Broken> {
        match held {
            Some(connection) => Ok(connection),
            None => Connection::open(self.load.address, self.load.deadline).await,
        }
    }

    fn answered(&self, connection: Connection, reply: Reply, tally: &Mutex<Tally>) -> Asked {
        let since = |moment: Instant| moment.saturating_duration_since(self.began);
        locked(tally).record(Answer {
            version: &reply.version,
            status: reply.status,
            at: since(reply.sent),
            latency: reply.latency,
            opened: (connection.answers() == 1).then(|| since(connection.opened())),
        });
        if reply.closing { Asked::Closed } else { Asked::Kept(connection) }
    }

    fn next_body(&self) -> Bytes {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.load.bodies.get(turn % self.load.bodies.len().max(1)).cloned().unwrap_or_default()
    }
}

/// The held connection, unless the server has closed it since the last answer: that is no failure.
async fn still_open(held: Option<Connection>, tally: &Mutex<Tally>) -> Option<Connection> {
    let mut connection = held?;
    if connection.is_open().await {
        return Some(connection);
    }
    locked(tally).reconnected += 1;
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::Failure;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// What the test's server does with the n-th request of a connection, from 1.
    #[derive(Clone, Copy)]
    enum Manners {
        Answer,
        AnswerAndSayClose,
        AnswerAndCloseSilently,
        CloseUnanswered,
        HalfAnswer,
        Garbage,
        Silence,
    }

    /// Serves each connection by hand, byte by byte under control of the test: connection number and request number
    /// give the manners and the version.
    async fn serve(manners: fn(usize, usize) -> (Manners, &'static str)) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for connection in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move { converse(stream, |request| manners(connection, request)).await });
            }
        });
        address
    }

    async fn converse(mut stream: TcpStream, manners: impl Fn(usize) -> (Manners, &'static str)) {
        for request in 1.. {
            if !read_request(&mut stream).await {
                return;
            }
            let (manners, version) = manners(request);
            let close =
                if matches!(manners, Manners::AnswerAndSayClose) { "connection: close\r\n" } else { "" };
            let head =
                format!("HTTP/1.1 200 OK\r\nturnout-version: {version}\r\n{close}content-length: 2\r\n\r\n");
            match manners {
                Manners::Answer => stream.write_all(format!("{head}{{}}").as_bytes()).await.unwrap(),
                Manners::AnswerAndSayClose | Manners::AnswerAndCloseSilently => {
                    return stream.write_all(format!("{head}{{}}").as_bytes()).await.unwrap();
                }
                Manners::CloseUnanswered => return,
                Manners::HalfAnswer => {
                    return stream.write_all(format!("{head}{{").as_bytes()).await.unwrap();
                }
                Manners::Garbage => return stream.write_all(b"SMTP says hello\r\n\r\n").await.unwrap(),
                Manners::Silence => std::future::pending().await,
            }
        }
    }

    /// Reads a head and the two bytes of its body; false at the end of the connection.
    async fn read_request(stream: &mut TcpStream) -> bool {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return false,
            }
        }
        true
    }

    fn load(address: SocketAddr, connections: usize, most_requests: u64) -> Load {
        Load {
            address,
            path: "/infer".into(),
            bodies: [Bytes::from_static(b"{}")].into(),
            connections,
            pace: Pace::Closed,
            short_per_second: 0,
            deadline: Duration::from_secs(5),
            most_requests,
            longest: Duration::from_secs(30),
        }
    }

    async fn run(manners: fn(usize, usize) -> (Manners, &'static str), requests: u64) -> Tally {
        load(serve(manners).await, 1, requests).start().ended().await
    }

    #[tokio::test]
    async fn a_connection_closed_between_requests_is_replaced_and_no_failure() {
        for manners in [Manners::AnswerAndSayClose, Manners::AnswerAndCloseSilently] {
            let tally = match manners {
                Manners::AnswerAndSayClose => run(|_, _| (Manners::AnswerAndSayClose, "a"), 20).await,
                _ => run(|_, _| (Manners::AnswerAndCloseSilently, "a"), 20).await,
            };
            assert_eq!((tally.sent, tally.failed), (20, 0), "{:?}", tally.failures);
            let version = tally.version("a").unwrap();
            assert_eq!((version.success, version.all.connections), (20, 20));
        }
    }

    #[tokio::test]
    async fn a_used_connection_closed_under_a_request_is_retried_once_on_a_fresh_one() {
        let tally =
            run(|_, request| (if request < 3 { Manners::Answer } else { Manners::CloseUnanswered }, "a"), 20)
                .await;
        assert_eq!((tally.sent, tally.failed, tally.retried), (20, 0, 9), "{:?}", tally.failures);
        assert_eq!(tally.version("a").unwrap().success, 20);
    }

    #[tokio::test]
    async fn a_fresh_connection_closed_unanswered_is_a_failure() {
        let tally = run(|_, _| (Manners::CloseUnanswered, "a"), 4).await;
        assert_eq!((tally.sent, tally.failed, tally.retried), (4, 4, 0));
        assert!(tally.failures.iter().all(|f| matches!(f.failure, Failure::Closed | Failure::Reset)));
    }

    #[tokio::test]
    async fn half_an_answer_is_never_retried_and_names_the_version_known_from_before() {
        let tally =
            run(|_, request| (if request == 1 { Manners::Answer } else { Manners::HalfAnswer }, "bad"), 2)
                .await;
        assert_eq!((tally.sent, tally.failed, tally.retried), (2, 1, 0));
        assert_eq!(tally.failures[0].failure, Failure::Closed, "{:?}", tally.failures);
        assert_eq!(tally.failures[0].version.as_deref(), Some("bad"));
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let garbage = run(|_, _| (Manners::Garbage, ""), 1).await;
        assert_eq!(garbage.failures[0].failure, Failure::Malformed);
        let silent = Load {
            deadline: Duration::from_millis(100),
            ..load(serve(|_, _| (Manners::Silence, "")).await, 1, 1)
        };
        assert_eq!(silent.start().ended().await.failures[0].failure, Failure::Timeout);
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(load(nobody, 1, 1).start().ended().await.failures[0].failure, Failure::Refused);
    }

    #[tokio::test]
    async fn versions_are_counted_by_connection_and_by_request() {
        let manners = |connection: usize, _| (Manners::Answer, if connection % 2 == 1 { "a" } else { "b" });
        let tally = load(serve(manners).await, 4, 400).start().ended().await;
        let by = |version: &str| tally.version(version).unwrap();
        assert_eq!((by("a").all.connections, by("b").all.connections), (2, 2));
        assert_eq!(by("a").all.answers + by("b").all.answers, 400);
        assert_eq!(by("a").latency.count(), by("a").all.answers);
    }

    #[tokio::test]
    async fn pace_and_short_connections_are_kept_and_finish_ends_them() {
        let address = serve(|_, _| (Manners::Answer, "a")).await;
        let load = Load { pace: Pace::PerSecond(100.0), short_per_second: 50, ..load(address, 4, 10_000) };
        let running = load.start();
        let short =
            |tally: &Tally| tally.version("a").map_or(0, |version| version.all.connections).max(4) - 4;
        let before = loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let seen = running.snapshot();
            if seen.sent >= 60 && short(&seen) >= 15 {
                break seen;
            }
            assert!(running.elapsed() < Duration::from_secs(20), "{} are sent", seen.sent);
        };
        // A loaded machine may send fewer, never more than asked for.
        let most = |per_second: f64| (per_second * running.elapsed().as_secs_f64()) as u64 + 10;
        let (most_sent, most_short) = (most(150.0), most(50.0));
        let tally = running.finish().await;
        assert!(before.sent <= most_sent, "{} of {most_sent}", before.sent);
        assert!(short(&before) <= most_short, "{} of {most_short}", short(&before));
        assert!(tally.sent - before.sent <= 8, "{} after {}", tally.sent, before.sent);
        assert_eq!((tally.failed, tally.version("a").unwrap().success), (0, tally.sent));
    }

    #[tokio::test]
    async fn a_load_ends_by_itself_at_its_limits() {
        let address = serve(|_, _| (Manners::Answer, "a")).await;
        assert_eq!(load(address, 8, 100).start().ended().await.sent, 100);
        let began = Instant::now();
        let brief = Load { longest: Duration::from_millis(200), ..load(address, 2, u64::MAX) };
        assert!(brief.start().ended().await.sent > 0);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
