//! A real worker process with its two descriptors, as the launcher would start it, and a small HTTP client that hides nothing.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "test code: a panic is the report")]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use turnout_manifest::assertion::Assertion;
use turnout_protocol::frame;
use turnout_protocol::worker::{Assignment, Counts, FromWorker, ToWorker};

/// Nothing in these tests takes longer on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// While a child is started its descriptors are inheritable: no other child may be started then, or it would keep them.
static SPAWN: Mutex<()> = Mutex::new(());

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/models")
}

pub fn onnxruntime() -> PathBuf {
    let set_up = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/onnxruntime/libonnxruntime.so");
    let path = std::env::var_os("TURNOUT_ONNXRUNTIME").map_or_else(set_up, PathBuf::from);
    assert!(path.exists(), "no ONNX Runtime at {}: `cargo xtask test` sets it up", path.display());
    path
}

/// The assignment of a test model, with the contract it keeps and no assertion.
pub fn assignment(model: &str, version: &str) -> Assignment {
    let (features, classes, greatest) = if model == "digits" { (64, 10, "16") } else { (30, 2, "100000") };
    let json = serde_json::json!({
        "model": model, "version": version, "digest": format!("sha256:{}", "ab".repeat(32)),
        "audit_context": "01997f5a-2d48-7c11-8a3e-5b6d7e8f9a01",
        "model_file": "model.onnx", "threads": 1, "assertions": [],
        "contract": {
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, features], "minimum": "0", "maximum": greatest}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, classes]},
            ],
        },
    });
    serde_json::from_value(json).unwrap()
}

pub fn assertion(json: Value) -> Assertion {
    serde_json::from_value(json).unwrap()
}

/// The held-out rows of a model: what to send, and the true label.
pub fn requests(model: &str) -> Vec<(String, i64)> {
    let text = std::fs::read_to_string(models().join(format!("requests/{model}.json"))).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    rows.iter().map(|row| (row["body"].to_string(), row["expected"].as_i64().unwrap())).collect()
}

/// A worker process; killed when dropped.
pub struct Worker {
    pub child: Child,
    pub link: Option<OwnedFd>,
    pub address: SocketAddr,
    model: String,
}

impl Worker {
    /// Starts the process and reads its hello.
    pub fn start(model: &str, version: &str) -> Self {
        Self::start_at_home(model, version, Path::new("/nonexistent"))
    }

    /// Starts the process with this home directory and reads its hello.
    pub fn start_at_home(model: &str, version: &str, home: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        // The kernel's least: a link that is not read is full after a few messages.
        rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 4096).unwrap();
        let spawning = SPAWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for fd in [listener.as_fd(), theirs.as_fd()] {
            rustix::io::fcntl_setfd(fd, FdFlags::empty()).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_turnout-worker"))
            .env_clear()
            .env("HOME", home)
            .arg("--model-dir")
            .arg(models().join(model).join(version))
            .arg("--onnxruntime")
            .arg(onnxruntime())
            .args(["--listener-fd", &listener.as_raw_fd().to_string()])
            .args(["--link-fd", &theirs.as_raw_fd().to_string()])
            .spawn()
            .unwrap();
        drop((listener, theirs));
        drop(spawning);
        let worker = Self { child, link: Some(ours), address, model: model.to_owned() };
        assert!(matches!(worker.hear(), FromWorker::Hello { link_version: 1 }));
        worker
    }

    /// Starts it with this assignment and waits until it is ready.
    pub fn serving(assignment: &Assignment) -> Self {
        Self::start(assignment.model.as_str(), assignment.version.as_str()).assigned(assignment)
    }

    /// Gives it work and waits until it is ready.
    pub fn assigned(self, assignment: &Assignment) -> Self {
        self.say(&ToWorker::Assign(Box::new(assignment.clone())));
        match self.hear() {
            FromWorker::Ready { .. } => self,
            other => panic!("not ready: {other:?}"),
        }
    }

    pub fn say(&self, message: &ToWorker) {
        frame::send(self.link.as_ref().unwrap(), message).unwrap();
    }

    pub fn hear(&self) -> FromWorker {
        let link = self.link.as_ref().unwrap();
        let limit = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        assert_eq!(
            poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&limit)),
            Ok(1),
            "the worker says nothing"
        );
        frame::receive(link).unwrap()
    }

    /// Reads counts until `is_reached`.
    pub fn counts_until(&self, is_reached: impl Fn(&Counts) -> bool) -> Counts {
        loop {
            match self.hear() {
                FromWorker::Counts(counts) if is_reached(&counts) => return counts,
                FromWorker::Counts(_) => {}
                other => panic!("not counts: {other:?}"),
            }
        }
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { stream, infer: format!("/v2/models/{}/infer", self.model) }
    }

    /// Waits for the process to end.
    pub fn ended(&mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let limit = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
        assert_eq!(
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)),
            Ok(1),
            "the worker does not end"
        );
        self.child.wait().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One kept connection.
pub struct Client {
    pub stream: TcpStream,
    infer: String,
}

/// One answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_else(|| panic!("no error: {self:?}")).to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The class answered for a request of one row.
    pub fn label(&self) -> i64 {
        let json = self.json();
        let outputs = json["outputs"].as_array().unwrap();
        let label = outputs.iter().find(|output| output["name"] == "label").unwrap();
        label["data"][0].as_i64().unwrap()
    }
}

impl Client {
    pub fn infer(&mut self, body: &str) -> Reply {
        let path = self.infer.clone();
        self.request(&format!("POST {path}"), "", body.as_bytes())
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.request(&format!("GET {path}"), "", b"")
    }

    /// Sends one request, `METHOD PATH`, with extra header lines, each ended by `\r\n`, and reads the answer.
    pub fn request(&mut self, line: &str, headers: &str, body: &[u8]) -> Reply {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let mut bytes = format!("{line} HTTP/1.1\r\nhost: test\r\n{length}{headers}\r\n").into_bytes();
        bytes.extend_from_slice(body);
        self.stream.write_all(&bytes).unwrap();
        self.read_reply(!line.starts_with("HEAD")).unwrap()
    }

    /// Reads one answer; `None` when the connection has been closed instead.
    pub fn read_reply(&mut self, has_body: bool) -> Option<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) => return None,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut reply = Reply { status: head[9..12].parse().unwrap(), head, body: Vec::new() };
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        if has_body {
            reply.body.resize(length, 0);
            self.stream.read_exact(&mut reply.body).unwrap();
        }
        Some(reply)
    }

    /// Nothing more comes: the other side has closed. Returns after how long.
    pub fn wait_for_close(&mut self) -> Duration {
        let began = Instant::now();
        assert!(self.read_reply(true).is_none(), "an answer instead of the end");
        began.elapsed()
    }
}
