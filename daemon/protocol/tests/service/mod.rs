//! A service at a Unix socket that speaks the control API's HTTP from given answers, one request a connection.
//! It knows no meaning: what it is asked is kept, what it answers is the test's.

#![allow(dead_code, reason = "each test that includes this file uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub call: String,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// What to answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Who the service says it is: a daemon of a version that no client is of.
pub const SERVER: &str = "turnoutd/0.0.1";

pub struct Service {
    pub socket: PathBuf,
    pub received: Arc<Mutex<Vec<Received>>>,
    _directory: tempfile::TempDir,
}

impl Service {
    /// Starts a service whose thread lives as long as the test process.
    pub fn start(answer: impl Fn(&Received) -> Answer + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A caller that went away is that test's own matter.
                let _ = serve(stream.unwrap(), &answer, &log);
            }
        });
        Self { socket, received, _directory: directory }
    }
}

fn serve(
    stream: UnixStream,
    answer: &impl Fn(&Received) -> Answer,
    log: &Mutex<Vec<Received>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let call = line.rsplit_once(' ').map(|(call, _)| call.to_owned()).unwrap_or_default();
    let (mut length, mut content_type) = (0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("content-type", value)) => content_type = value.to_owned(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request = Received { call, content_type, body };
    let answer = answer(&request);
    log.lock().unwrap().push(request);
    let head = format!(
        "HTTP/1.1 {} x\r\nserver: {SERVER}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        answer.status,
        answer.body.len()
    );
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(&answer.body)
}

/// The frozen sample of a reply.
pub fn golden(name: &str) -> Vec<u8> {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = crate_root.join("../protocol/tests/golden").join(format!("{name}.json"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The frozen sample as one line of a stream.
pub fn golden_line(name: &str) -> Vec<u8> {
    let value: serde_json::Value = serde_json::from_slice(&golden(name)).unwrap();
    let mut line = serde_json::to_vec(&value).unwrap();
    line.push(b'\n');
    line
}
