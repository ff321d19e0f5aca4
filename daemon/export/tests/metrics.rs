//! The exporter of the metrics as the network meets it: what is no scrape is refused, what does not go on is ended, and
//! the daemon is asked once however many ask.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use service::{Answer, Received, Service};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[path = "../../protocol/tests/service/mod.rs"]
mod service;

/// Longest wait for an answer; longer than the exporter lets a silent connection live.
const ANSWER: Duration = Duration::from_secs(20);
/// More connections than are served at one time.
const FLOOD: usize = 80;

struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start(socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnout-export"));
        command.args(["metrics", "--listen", "127.0.0.1:0", "--socket"]).arg(socket);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        lines.read_line(&mut said).unwrap();
        // What it says later must find somebody who reads.
        std::thread::spawn(move || lines.lines().for_each(drop));
        let address = said.trim().strip_prefix("serving http://").unwrap().strip_suffix("/metrics").unwrap();
        Self { child, address: address.parse().unwrap() }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        stream
    }

    /// The answer, whole, to these bytes.
    fn say(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // A request that is refused early is not read to its end.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";

#[test]
fn only_a_scrape_is_answered_and_the_absence_of_the_daemon_is_a_figure() {
    let exporter = Exporter::start(Path::new("/nowhere/control.sock"));
    let answer = exporter.say(SCRAPE);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\nturnout_up 0\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    let large = [b"GET /metrics HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 16_384], b"\r\n\r\n"].concat();
    for (request, status) in [
        (b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n".as_slice(), "200"),
        (b"GET /metrics/ HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", "405"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"),
        (&large, "431"),
    ] {
        let answer = exporter.say(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(status == "200" || !answer.contains("turnout_up"), "{answer}");
    }
}

#[test]
fn the_daemon_is_asked_once_a_second_however_many_ask() {
    let service = Service::start(|request: &Received| {
        assert_eq!(request.call, "GET /v1/metrics");
        Answer { status: 200, body: b"turnout_read_only 0\n".to_vec() }
    });
    let exporter = Exporter::start(&service.socket);
    let began = std::time::Instant::now();
    for _ in 0..50 {
        let answer = exporter.say(SCRAPE);
        assert!(answer.ends_with("\nturnout_up 1\nturnout_read_only 0\n"), "{answer}");
    }
    let asked = service.received.lock().unwrap().len() as u64;
    assert!(asked <= 1 + began.elapsed().as_secs(), "{asked} calls in {:?}", began.elapsed());
}

#[test]
fn connections_that_say_nothing_hold_a_scrape_up_for_seconds_at_most() {
    let exporter = Exporter::start(Path::new("/nowhere/control.sock"));
    let silent: Vec<TcpStream> = (0..FLOOD).map(|_| exporter.connect()).collect();
    let mut slow = exporter.connect();
    slow.write_all(b"GET /metrics HT").unwrap();
    assert!(exporter.say(SCRAPE).contains("turnout_up 0"), "served once the silent ones were ended");
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    drop(silent);
}
