//! The places at the control socket: who holds all that it may have keeps nobody else out, nor the daemon from stopping.

use crate::door::{DEADLINE, Door};
use crate::stage::bundle;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task;
use turnoutd::api;
use turnoutd::places::{OTHERS_MAX, ROOT_MAX, USER_MAX};

const ROOT: u32 = 0;
/// One who is not root; the next ones count down from it.
const USER: u32 = 65_534;
/// The socket's group.
const GROUP: u32 = 65_534;
/// As long as a test may take.
const LONG: Duration = Duration::from_secs(3600);
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(200);

const STATUS: &str = "GET /v1/status HTTP/1.1\r\nhost: turnout\r\nconnection: close\r\n\r\n";
/// Its answer never ends.
const FOLLOW: &str = "GET /v1/events?follow=true HTTP/1.1\r\nhost: turnout\r\n\r\n";

/// A second entrance to a daemon, as patient as the test wants it.
struct Entrance {
    door: Door,
    socket: PathBuf,
    serving: task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Entrance {
    fn open(body_idle: Duration) -> Self {
        let door = Door::open();
        let socket = door.stage.folder.path().join("second.sock");
        let listener = api::bind(&socket, Some(GROUP)).unwrap();
        let (stop, stopped) = watch::channel(false);
        let desk = door.desk.clone();
        let runtime = door.block_on(async { tokio::runtime::Handle::current() });
        let serving = runtime.spawn(async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            api::serve_patiently(listener, desk, stopped, body_idle).await;
        });
        Self { door, socket, serving, stop }
    }

    /// Connections of this user, each after it has sent something.
    fn hold(&self, uid: u32, count: usize, sent: &[u8]) -> Vec<UnixStream> {
        let socket = &self.socket;
        let connect = || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            // Whoever is refused may be so before it has said anything.
            let _ = stream.write_all(sent);
            stream
        };
        as_user(uid, || (0..count).map(|_| connect()).collect())
    }

    fn ask(&self, uid: u32, sent: &[u8]) -> String {
        answer(self.hold(uid, 1, sent).remove(0))
    }
}

/// Does something on a thread that belongs to this user and the socket's group.
fn as_user<Done: Send>(uid: u32, work: impl FnOnce() -> Done + Send) -> Done {
    let changed = || {
        if uid != ROOT {
            let (user, group) = (Uid::from_raw(uid), Gid::from_raw(GROUP));
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(group, group, group).unwrap();
            set_thread_res_uid(user, user, user).unwrap();
        }
        work()
    };
    std::thread::scope(|scope| scope.spawn(changed).join().unwrap())
}

fn answer(mut stream: UnixStream) -> String {
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    assert!(!answer.is_empty(), "{ended:?}");
    answer
}

/// The problem of an answer with this status.
fn check_problem(answer: &str, status: u16, code: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.contains("content-type: application/problem+json"), "{answer}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["code"], code, "{answer}");
    problem
}

fn check_answered(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

fn post(path: &str, length: usize, sent: &[u8]) -> Vec<u8> {
    let fields = format!("host: turnout\r\nconnection: close\r\ncontent-length: {length}");
    [format!("POST {path} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes(), sent].concat()
}

#[test]
fn a_user_with_all_its_places_keeps_out_neither_root_nor_another() {
    let entrance = Entrance::open(LONG);
    let held = entrance.hold(USER, USER_MAX, FOLLOW.as_bytes());
    for sent in [STATUS, ""] {
        let refused = check_problem(&entrance.ask(USER, sent.as_bytes()), 413, "limit");
        assert_eq!(refused["message"], "uid 65534 has 32 connections open, the most one may have");
        assert!(refused["hint"].is_string(), "{refused}");
    }
    check_answered(&entrance.ask(ROOT, STATUS.as_bytes()));
    check_answered(&entrance.ask(USER - 1, STATUS.as_bytes()));
    drop(held);
    let deadline = Instant::now() + DEADLINE;
    while !entrance.ask(USER, STATUS.as_bytes()).starts_with("HTTP/1.1 200 ") {
        assert!(Instant::now() < deadline, "the places of who left are free again");
    }
}

#[test]
fn the_daemon_stops_while_all_places_are_taken() {
    let entrance = Entrance::open(LONG);
    let mut held = entrance.hold(ROOT, ROOT_MAX, FOLLOW.as_bytes());
    for uid in (0..4).map(|nth| USER - nth) {
        held.extend(entrance.hold(uid, OTHERS_MAX / 4, FOLLOW.as_bytes()));
    }
    check_problem(&entrance.ask(ROOT, STATUS.as_bytes()), 413, "limit");
    check_problem(&entrance.ask(USER - 4, STATUS.as_bytes()), 413, "limit");
    entrance.stop.send(true).unwrap();
    let Entrance { door, serving, .. } = entrance;
    let stopped = door.block_on(async { tokio::time::timeout(DEADLINE, serving).await });
    stopped.expect("the stop is seen").unwrap();
    drop(held);
}

#[test]
fn a_body_that_stalls_is_refused_and_its_place_is_free_again() {
    let entrance = Entrance::open(SHORT);
    let whole = bundle("1");
    let in_files = post("/v1/bundles", whole.len(), &whole[..whole.len() - 3]);
    let in_envelope = post("/v1/bundles", whole.len(), &whole[..40]);
    let in_json = post("/v1/releases", 100, b"{\"version\":");
    for sent in [&in_files, &in_envelope, &in_json, &post("/v1/bundles", 100, b"")] {
        let refused = check_problem(&entrance.ask(ROOT, sent), 400, "bad-request");
        let message = refused["message"].as_str().unwrap();
        assert!(message.ends_with("the client sent nothing for 0.2 s"), "{refused}");
    }
    assert_eq!(entrance.door.get("/v1/versions").body["versions"], serde_json::json!([]));

    for stream in entrance.hold(USER, USER_MAX, &in_envelope) {
        check_problem(&answer(stream), 400, "bad-request");
    }
    let deadline = Instant::now() + DEADLINE;
    while !entrance.ask(USER, STATUS.as_bytes()).starts_with("HTTP/1.1 200 ") {
        assert!(Instant::now() < deadline, "the places are free again");
    }
    assert_eq!(entrance.door.import(&whole).status, 200, "what stalled is in nobody's way");
}
