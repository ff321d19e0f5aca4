//! The client of the benchmarks: one thread, raw sockets in a closed loop, requests made beforehand, answers read by
//! their length alone, so that it costs far less than any server. What was measured is judged elsewhere.

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Largest answer that is read, bytes.
const ANSWER_MAX: usize = 16 * 1024;
/// Longest silence of all connections together.
const DEADLINE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Most events taken at once.
const EVENTS: usize = 128;
/// How long it asks before it measures.
const WARM_UP: Duration = Duration::from_millis(150);

/// How the client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Each connection asks again as soon as it has its answer; the thread sleeps meanwhile.
    KeepAlive,
    /// The same, and the thread never sleeps: its own waking up is in no latency.
    Awake,
    /// Each connection makes one request, and is followed by the next.
    Short,
}

/// What to ask, where, how and how long.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// Where the server listens.
    pub address: SocketAddr,
    /// Requests, taken in turn.
    pub requests: &'a [Vec<u8>],
    /// Connections at one time.
    pub connections: usize,
    /// How each connection asks.
    pub manner: Manner,
    /// How long it is measured, after a short warm-up.
    pub duration: Duration,
}

/// What one run of the client saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// How long it took.
    pub elapsed: Duration,
    /// Latency of each request, nanoseconds, sorted: from sending it, or from opening a short connection, to the last byte.
    pub latencies: Vec<u64>,
}

impl Seen {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency that this share of all requests did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.latencies.len() as f64 * share).ceil() as usize;
        let at = rank.clamp(1, self.latencies.len().max(1)) - 1;
        Duration::from_nanos(self.latencies.get(at).copied().unwrap_or_default())
    }
}

/// Whole requests for these bodies.
pub fn requests(model: &str, bodies: &[Bytes], manner: Manner) -> Vec<Vec<u8>> {
    let close = if manner == Manner::Short { "connection: close\r\n" } else { "" };
    let whole = |body: &Bytes| {
        let head = format!(
            "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{close}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    bodies.iter().map(whole).collect()
}

/// Asks; `mark` is taken after the warm-up and when the measured time is over.
///
/// # Errors
/// The first request that did not get a whole answer 200: a benchmark of failures means nothing.
pub fn ask<Mark>(ask: &Ask<'_>, mark: impl Fn() -> Result<Mark>) -> Result<(Seen, Mark, Mark)> {
    let mut client = Client::warm(ask)?;
    let (before, began) = (mark()?, Instant::now());
    client.turn_while(|| began.elapsed() < ask.duration)?;
    let seen = client.seen(began)?;
    Ok((seen, before, mark()?))
}

/// Asks for as long as `work` takes on a thread of its own; the duration that was asked for does not count.
///
/// # Errors
/// The first request that did not get a whole answer 200, and those of the work.
pub fn ask_during<T: Send>(ask: &Ask<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<(Seen, T)> {
    let mut client = Client::warm(ask)?;
    std::thread::scope(|scope| {
        let began = Instant::now();
        let working = scope.spawn(work);
        client.turn_while(|| !working.is_finished())?;
        let seen = client.seen(began)?;
        let done = working.join().map_err(|_| anyhow!("the work that was asked beside has panicked"))?;
        Ok((seen, done?))
    })
}

struct Client<'a> {
    ask: &'a Ask<'a>,
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    turn: usize,
    latencies: Vec<u64>,
}

struct Connection {
    stream: TcpStream,
    began: Instant,
    answer: Vec<u8>,
    filled: usize,
}

/// How far an answer is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    More,
    Whole,
}

impl<'a> Client<'a> {
    fn new(ask: &'a Ask<'a>) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let connections = (0..ask.connections).map(|_| None).collect();
        Ok(Self { ask, epoll, connections, turn: 0, latencies: Vec::with_capacity(1 << 20) })
    }

    /// A client whose connections are open and have asked for a while.
    fn warm(ask: &'a Ask<'a>) -> Result<Self> {
        ensure!(ask.connections > 0 && !ask.requests.is_empty(), "nothing to ask");
        let mut client = Self::new(ask)?;
        for number in 0..ask.connections {
            client.open(number)?;
        }
        let end = Instant::now() + WARM_UP;
        client.turn_while(|| Instant::now() < end)?;
        client.latencies.clear();
        Ok(client)
    }

    fn open(&mut self, number: usize) -> Result<()> {
        let began = Instant::now();
        let address = self.ask.address;
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to `{address}`"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&self.epoll, &stream, EventData::new_u64(number as u64), EventFlags::IN)?;
        self.connections[number] = Some(Connection { stream, began, answer: vec![0; ANSWER_MAX], filled: 0 });
        self.send(number)
    }

    fn send(&mut self, number: usize) -> Result<()> {
        let request = &self.ask.requests[self.turn % self.ask.requests.len()];
        self.turn += 1;
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        if self.ask.manner != Manner::Short {
            connection.began = Instant::now();
        }
        connection.filled = 0;
        let sent = send(&connection.stream, request, SendFlags::NOSIGNAL).context("cannot send a request")?;
        ensure!(sent == request.len(), "only {sent} bytes of a request fit into the socket");
        Ok(())
    }

    /// What was seen since then.
    fn seen(&mut self, began: Instant) -> Result<Seen> {
        let elapsed = began.elapsed();
        let mut latencies = std::mem::take(&mut self.latencies);
        latencies.sort_unstable();
        ensure!(!latencies.is_empty(), "no request was answered in {} ms", elapsed.as_millis());
        Ok(Seen { elapsed, latencies })
    }

    fn turn_while(&mut self, goes_on: impl Fn() -> bool) -> Result<()> {
        let nothing = Timespec::default();
        let timeout = if self.ask.manner == Manner::Awake { &nothing } else { &DEADLINE };
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        while goes_on() {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(timeout)) {
                Ok(0) if self.ask.manner != Manner::Awake => bail!("no answer for {} s", DEADLINE.tv_sec),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot wait for answers"),
            }
            for event in &events {
                self.readable(event.data.u64() as usize)?;
            }
        }
        Ok(())
    }

    fn readable(&mut self, number: usize) -> Result<()> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        let room = &mut connection.answer[connection.filled..];
        let (_, received) = match recv(&connection.stream, room, RecvFlags::empty()) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error).context("a connection broke"),
        };
        if received == 0 {
            let whole = progress(&connection.answer[..connection.filled])? == Progress::Whole;
            ensure!(whole && self.ask.manner == Manner::Short, "the server closed a connection");
            self.connections[number] = None;
            return self.open(number);
        }
        connection.filled += received;
        if progress(&connection.answer[..connection.filled])? == Progress::More {
            return Ok(());
        }
        self.latencies.push(u64::try_from(connection.began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        // A short connection is over when the server has closed it too: so the port is free at once.
        if self.ask.manner == Manner::Short { Ok(()) } else { self.send(number) }
    }
}

/// Whether the bytes are a whole answer 200.
fn progress(bytes: &[u8]) -> Result<Progress> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(bytes.len() < ANSWER_MAX, "an answer with an endless head");
        return Ok(Progress::More);
    };
    let head = std::str::from_utf8(&bytes[..end]).context("an answer whose head is no text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "answered `{status}`");
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.context("an answer without its length")?;
    ensure!(end + 4 + length <= ANSWER_MAX, "an answer of {length} bytes");
    Ok(if bytes.len() < end + 4 + length { Progress::More } else { Progress::Whole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn an_answer_is_whole_at_its_last_byte_and_only_200_counts() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..answer.len() {
            assert_eq!(progress(&answer[..end]).unwrap(), Progress::More, "{end}");
        }
        assert_eq!(progress(answer).unwrap(), Progress::Whole);
        for bad in [&b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n"] {
            assert!(progress(bad).is_err());
        }
    }

    /// Answers each request byte by byte, and closes where the request says so.
    fn slow_writer() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        address
    }

    fn serve(mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut request = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut request) {
            for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
            }
            if String::from_utf8_lossy(&request[..length]).contains("connection: close") {
                return;
            }
        }
    }

    #[test]
    fn each_manner_gets_answers_and_a_server_that_hangs_up_is_an_error() {
        let address = slow_writer();
        for manner in [Manner::KeepAlive, Manner::Awake, Manner::Short] {
            let requests = requests("m", &[Bytes::from_static(b"{}")], manner);
            let duration = Duration::from_millis(500);
            let (seen, (), ()) =
                ask(&Ask { address, requests: &requests, connections: 2, manner, duration }, || Ok(()))
                    .unwrap();
            assert!(seen.rate() > 0.0 && seen.quantile(0.5) <= seen.quantile(1.0), "{manner:?}");
        }
        let closing = requests("m", &[Bytes::from_static(b"{}")], Manner::Short);
        let wrong = Ask {
            address,
            requests: &closing,
            connections: 1,
            manner: Manner::KeepAlive,
            duration: Duration::from_millis(500),
        };
        assert!(ask(&wrong, || Ok(())).is_err());
    }
}
