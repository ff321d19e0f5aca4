//! A router in this process with two workers written by hand, and clients that say what they like.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use turnout_manifest::plan::Strategy;
use turnout_manifest::{Generation, Percent};
use turnout_protocol::router::{Arm, PortRoute, Split, Stats};
use turnout_router::serve::Server;
use turnout_router::stats::Counters;
use turnout_router::table::Table;

/// Bytes of a large answer.
pub const LARGE: usize = 4 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// How a worker behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Its name.
    Answer,
    /// The head it was sent.
    Echo,
    /// The body it was sent.
    EchoBody,
    /// The path, after a while.
    Slow,
    /// [`LARGE`] bytes.
    Large,
    AnswerThenClose,
    ReadThenClose,
    HalfAnswer,
    Garbage,
    /// Nobody listens.
    Gone,
}

/// A worker.
pub struct Worker {
    address: SocketAddr,
    counts: Arc<[AtomicU64; 3]>,
}

impl Worker {
    fn start(name: &'static str, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counts: Arc<[AtomicU64; 3]> = Arc::default();
        let counted = Arc::clone(&counts);
        if manners != Manners::Gone {
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    counted[0].fetch_add(1, Ordering::SeqCst);
                    let counted = Arc::clone(&counted);
                    // A router that goes away is its own business.
                    std::thread::spawn(move || {
                        let _ = serve(stream.unwrap(), (name, manners), &counted[1]);
                        counted[2].fetch_add(1, Ordering::SeqCst);
                    });
                }
            });
        }
        Self { address, counts }
    }

    pub fn connections(&self) -> u64 {
        self.counts[0].load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> u64 {
        self.counts[1].load(Ordering::SeqCst)
    }

    /// Waits until so many connections are closed: then the router's kernel knows of the last one.
    pub fn until_closed(&self, connections: u64) {
        let began = Instant::now();
        while self.counts[2].load(Ordering::SeqCst) < connections {
            assert!(began.elapsed() < DEADLINE, "the worker does not close");
            std::thread::yield_now();
        }
    }

    fn arm(&self, generation: u32) -> Arm {
        let version = generation.to_string().parse().unwrap();
        Arm { generation: Generation(generation), version, address: self.address }
    }
}

fn serve(
    mut stream: TcpStream,
    (name, manners): (&str, Manners),
    requests: &AtomicU64,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(head) = read_head(&mut stream)? {
        requests.fetch_add(1, Ordering::SeqCst);
        let body = read_body(&mut stream, &head)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let answer = match manners {
            Manners::Echo => head,
            Manners::EchoBody => String::from_utf8(body).unwrap(),
            Manners::Slow => {
                std::thread::sleep(Duration::from_millis(5));
                path
            }
            Manners::Large => "y".repeat(LARGE),
            Manners::ReadThenClose => return Ok(()),
            Manners::Garbage => return stream.write_all(b"SMTP says hello\r\n\r\n"),
            Manners::HalfAnswer => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf");
            }
            _ => name.to_owned(),
        };
        let head = "HTTP/1.1 200 OK\r\nconnection: x-of-connection\r\nx-of-connection: 1\r\nx-kept: 1";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())?;
        if manners == Manners::AnswerThenClose {
            return Ok(());
        }
    }
    Ok(())
}

/// A router with its workers.
pub struct Scene {
    pub new: Worker,
    pub old: Worker,
    address: SocketAddr,
    table: Arc<Table>,
    counters: Arc<Counters>,
}

impl Scene {
    pub fn start(split: (Strategy, Percent), manners: [Manners; 2]) -> Self {
        let scene = Self::with(manners);
        scene.route(split);
        scene
    }

    pub fn without_routes() -> Self {
        Self::with([Manners::Answer; 2])
    }

    fn with([new, old]: [Manners; 2]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (table, counters) = (Arc::<Table>::default(), Arc::<Counters>::default());
        Server::start(listener, &table, &counters).unwrap();
        let (new, old) = (Worker::start("new", new), Worker::start("old", old));
        Self { new, old, address, table, counters }
    }

    pub fn route(&self, (strategy, share): (Strategy, Percent)) {
        let (candidate, stable) = (self.new.arm(2), self.old.arm(1));
        self.take(Split::Between { strategy, salt: format!("{:016x}", 0x5eed), share, candidate, stable });
    }

    pub fn home_to_old(&self) {
        self.take(Split::Home { to: self.old.arm(1) });
    }

    fn take(&self, split: Split) {
        let route = PortRoute { port: self.address.port(), model: "fraud".parse().unwrap(), split };
        self.table.take(&[route]).unwrap();
    }

    pub fn client(&self) -> Talk {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Talk { stream }
    }

    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    pub fn until(&self, pleases: impl Fn(&Stats) -> bool) {
        let began = Instant::now();
        while !pleases(&self.stats()) {
            assert!(began.elapsed() < DEADLINE, "never came: {:?}", self.stats());
            std::thread::yield_now();
        }
    }
}

/// A client's connection.
pub struct Talk {
    pub stream: TcpStream,
}

/// What it was answered.
pub struct Reply {
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

impl Talk {
    pub fn ask_as(&mut self, user: &str) -> Reply {
        self.ask(&format!("x-user-id: {user}\r\n"))
    }

    pub fn ask(&mut self, headers: &str) -> Reply {
        self.talk(&format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n"))
    }

    pub fn talk(&mut self, bytes: &str) -> Reply {
        self.send(bytes);
        self.read()
    }

    /// A router that has refused already may close under what is still sent.
    pub fn send(&mut self, bytes: &str) {
        let _ = self.stream.write_all(bytes.as_bytes());
    }

    pub fn read(&mut self) -> Reply {
        let head = read_head(&mut self.stream).unwrap().expect("an answer");
        let body = read_body(&mut self.stream, &head).unwrap();
        Reply { head, body: String::from_utf8(body).unwrap() }
    }

    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// A head in lower case names, `None` at a clean end.
fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8(head).unwrap()))
}

/// The body that the head announces, in either framing.
fn read_body(stream: &mut TcpStream, head: &str) -> std::io::Result<Vec<u8>> {
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                line.push(byte[0]);
            }
            let size = usize::from_str_radix(String::from_utf8(line).unwrap().trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let announced = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; announced.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body)?;
    Ok(body)
}
