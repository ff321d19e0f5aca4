//! Runs `turnoutctl` as people do: each file in `cli/` is a session of one command with what it must print, against a
//! service that answers the control API from the protocol's frozen samples. After `$` the command line, after `?` the
//! exit code, after `|` standard output, after `!` standard error. `TURNOUT_UPDATE_CASES=1` writes what was printed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use serde_json::{Value, json};
use service::{Answer, Received, Service, golden, golden_line};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

#[path = "../../protocol/tests/service/mod.rs"]
mod service;

/// A service, a folder to work in, and a copy of the binary with no daemon's binary beside it.
struct Stage {
    service: Service,
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::with(answer)
    }

    fn with(answer: impl Fn(&Received) -> Answer + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let stage = Self { service: Service::start(answer), directory };
        fs::create_dir(stage.path("bin")).unwrap();
        let binary = env!("CARGO_BIN_EXE_turnoutctl");
        if fs::hard_link(binary, stage.path("bin/turnoutctl")).is_err() {
            fs::copy(binary, stage.path("bin/turnoutctl")).unwrap();
        }
        fs::create_dir_all(stage.path("fraud/vocabulary")).unwrap();
        fs::write(stage.path("fraud/model.onnx"), sample_onnx()).unwrap();
        fs::write(stage.path("fraud/vocabulary/words.txt"), "alpha\nbeta\n").unwrap();
        fs::write(stage.path("canary.yaml"), "steps: [{percent: 5}, {percent: 100}]\nwindow: 200ms\n")
            .unwrap();
        fs::write(stage.path("misspelt.yaml"), "steps: [{percent: 100}]\nwindows: {lookback: 5}\n").unwrap();
        let doctor = stage.path("turnoutd.sample");
        fs::write(&doctor, [b"#!/bin/sh\ncat <<'END'\n", &golden("Doctor")[..], b"END\n"].concat()).unwrap();
        fs::set_permissions(&doctor, fs::Permissions::from_mode(0o755)).unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).current_dir(self.directory.path());
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command.env("TURNOUT_SOCKET", &self.service.socket).env_remove("NO_COLOR").stdin(Stdio::null());
        command
    }

    /// What the command printed, without what differs from run to run.
    fn normalized(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let text = text.replace(self.service.socket.to_str().unwrap(), "[SOCKET]");
        let text = between(&text, ", up ", "; ", "[TIME]");
        let version = concat!("turnoutctl ", env!("CARGO_PKG_VERSION"));
        hide_digests(&text.replace(version, "turnoutctl [VERSION]"))
    }
}

fn between(text: &str, before: &str, after: &str, instead: &str) -> String {
    let Some((head, rest)) = text.split_once(before) else { return text.to_owned() };
    let Some((_, tail)) = rest.split_once(after) else { return text.to_owned() };
    format!("{head}{before}{instead}{after}{tail}")
}

/// Keys are drawn anew in each run, and what they sign follows.
fn hide_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let mut hidden = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        let _ = write!(hidden, "sha256:[{digits}]{}", &part[digits..]);
    }
    hidden
}

fn answer(request: &Received) -> Answer {
    let (status, body) = match request.call.split('?').next().unwrap_or_default() {
        "GET /v1/status" => (200, golden("Status")),
        "GET /v1/releases" => (200, golden("Releases")),
        "POST /v1/releases" => start(&request.body),
        "POST /v1/sets" => start_set(&request.body),
        "GET /v1/releases/r-2" => (200, golden("ReleaseStatus")),
        // The other one of its set.
        "GET /v1/releases/r-3" => (200, golden("ReleaseStatus")),
        "GET /v1/releases/r-2/report" => (200, golden("Report")),
        "GET /v1/events" => (200, events()),
        "GET /v1/versions" => (200, golden("Versions")),
        "POST /v1/bundles" => (200, golden("Imported")),
        "GET /v1/trust" | "POST /v1/trust" => (200, golden("Trust")),
        "GET /v1/trust/root" => (200, single_keys()),
        "GET /v1/trust/root/history" => (200, br#"{"schema":"turnout/v1","roots":[]}"#.to_vec()),
        "POST /v1/trust/root" | "POST /v1/trust/exceptions" => (200, golden("TrustApplied")),
        "GET /v1/audit/log" => (200, golden_line("AuditRecord")),
        "POST /v1/audit/verify" => (200, golden("AuditVerified")),
        "GET /v1/audit/snapshots" => (200, golden("Snapshots")),
        call if call.contains("/v1/audit/") || call.contains("/v1/store") => kept(call),
        "DELETE /v1/versions/fraud%401.2.0" => (200, golden("Removed")),
        "DELETE /v1/versions/fraud%401.3.7" => (409, guarded()),
        "GET /v1/doctor" => (200, golden("Doctor")),
        call if call.starts_with("POST /v1/models/fraud/") => (200, running_release()),
        call if call.starts_with("DELETE /v1/trust/sha256:") => (200, golden("Trust")),
        _ => (404, problem("not-found", "nothing of that name is known here")),
    };
    Answer { status, body }
}

/// A host on which keys count one by one.
fn single_keys() -> Vec<u8> {
    let mut state: Value = serde_json::from_slice(&golden("TrustState")).unwrap();
    state["root"] = Value::Null;
    (state["orders"], state["exceptions"]) = (json!([]), json!([]));
    state.to_string().into_bytes()
}

/// Snapshots and the store.
fn kept(call: &str) -> (u16, Vec<u8>) {
    let call = call.replace("00000042-20261122T135501Z", "{name}");
    match call.as_str() {
        "POST /v1/audit/snapshots" => (201, golden("Snapshot")),
        "POST /v1/audit/snapshots/{name}/hold" | "DELETE /v1/audit/snapshots/{name}/hold" => {
            (200, golden("Snapshot"))
        }
        "POST /v1/audit/snapshots/{name}/mount" => (200, golden("Mounted")),
        "GET /v1/audit/snapshots/{name}/digests" => (200, golden("SignedDigests")),
        "GET /v1/audit/snapshots/{name}/stream" => (200, b"btrfs-stream".to_vec()),
        "POST /v1/audit/unmount" => (200, golden("Unmounted")),
        "GET /v1/audit/diff" => (200, golden("SnapshotDiff")),
        "GET /v1/audit/key" => (200, golden("HostKey")),
        "POST /v1/audit/prune" => (200, golden("Pruned")),
        "GET /v1/audit/journal" | "POST /v1/audit/journal/hold" | "DELETE /v1/audit/journal/hold" => {
            (200, golden("JournalState"))
        }
        "GET /v1/store" | "POST /v1/store/grow" => (200, golden("Store")),
        "POST /v1/store/scrub" => (200, golden("Scrub")),
        _ => (404, problem("not-found", "no snapshot is named like that")),
    }
}

fn guarded() -> Vec<u8> {
    let details = ["`fraud@1.3.7` is live"];
    let body = json!({"code": "conflict", "message": "`fraud@1.3.7` must stay", "details": details});
    body.to_string().into_bytes()
}

fn start(body: &[u8]) -> (u16, Vec<u8>) {
    let request: Value = serde_json::from_slice(body).unwrap();
    match (request["version"].as_str().unwrap(), request["dry_run"].as_bool().unwrap()) {
        ("fraud@9.9.9", _) => (422, golden("Problem")),
        ("fraud@5.5.5", _) => (403, problem("denied", "uid 1000 may not start releases")),
        (_, true) => (200, golden("DryRun")),
        (_, false) => (201, running_release()),
    }
}

fn start_set(body: &[u8]) -> (u16, Vec<u8>) {
    let request: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(
        (&request["set"], &request["members"][1]["version"]),
        (&json!("payments"), &json!("limits@2.0.0"))
    );
    if request["dry_run"] == true { (200, golden("SetDryRun")) } else { (201, golden("SetStarted")) }
}

fn problem(code: &str, message: &str) -> Vec<u8> {
    json!({"code": code, "message": message}).to_string().into_bytes()
}

fn sample(name: &str) -> Value {
    serde_json::from_slice(&golden(name)).unwrap()
}

fn running_release() -> Vec<u8> {
    sample("Update")["status"]["models"][0]["release"].to_string().into_bytes()
}

/// The release running, then over.
fn events() -> Vec<u8> {
    let mut over = sample("Update");
    over["status"]["models"][0]["release"] = sample("ReleaseStatus");
    let mut lines = golden_line("Update");
    lines.extend(over.to_string().into_bytes());
    lines.push(b'\n');
    lines
}

/// A model with one input `x` of FP32 [-1, 3] and one output `y` of FP32 [-1, 1].
fn sample_onnx() -> Vec<u8> {
    let message = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let value = |name: &[u8], length: u8| {
        let shape = [message(1, &message(2, b"N")), message(1, &[8, length])].concat();
        let tensor = [vec![8, 1], message(2, &shape)].concat();
        [message(1, name), message(2, &message(1, &tensor))].concat()
    };
    let graph = [message(11, &value(b"x", 3)), message(12, &value(b"y", 1))].concat();
    [vec![8, 9], message(7, &graph)].concat()
}

fn prefixed(prefix: &str, text: &str) -> String {
    text.lines().map(|line| format!("{prefix} {line}").trim_end().to_owned() + "\n").collect()
}

/// Runs every command of a session; gives the session with what was really printed.
fn play(session: &str) -> String {
    let stage = Stage::new();
    let mut played = String::new();
    for line in session.lines() {
        match line.split_at_checked(2) {
            Some(("$ ", command)) => {
                let output: Output = stage.command(command).output().unwrap();
                let code = output.status.code().expect("not ended by a signal");
                let _ = writeln!(played, "$ {command}\n? {code}");
                played += &prefixed("|", &stage.normalized(&output.stdout));
                played += &prefixed("!", &stage.normalized(&output.stderr));
            }
            _ if line.starts_with(['?', '|', '!']) => {}
            _ => played += &format!("{line}\n"),
        }
    }
    played
}

#[test]
fn every_command_prints_what_its_session_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the sessions are not where they should be");
    let mut wrong = String::new();
    for file in files {
        let expected = fs::read_to_string(&file).unwrap();
        let played = play(&expected);
        if std::env::var_os("TURNOUT_UPDATE_CASES").is_some() {
            fs::write(&file, played).unwrap();
        } else if played != expected {
            let _ = writeln!(wrong, "--- {} printed:\n{played}", file.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_journal_is_verified_offline_and_a_changed_byte_is_found() {
    let stage = Stage::new();
    let dir = stage.path("snapshot/journal");
    fs::create_dir_all(&dir).unwrap();
    let (journal, _) = turnout_journal::Journal::open(&dir, turnout_journal::OpenOptions::default()).unwrap();
    journal.append(b"{\"event\":\"sample\"}").unwrap();
    drop(journal);
    let verify = || stage.command("turnoutctl audit verify snapshot --socket nowhere.sock").output().unwrap();
    let output = verify();
    assert!(
        String::from_utf8_lossy(&output.stdout).starts_with("verified: 1 record in 1 segment"),
        "{output:?}"
    );
    let segment = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "seg")).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|window| window == b"sample").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let output = verify();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint: keep the folder as it is"), "{output:?}");
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let stage = Stage::new();
    let mut child = stage
        .command("exec turnoutctl release watch")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("\"time_ms\""), "{line}");
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[test]
fn a_verdict_keeps_its_code_when_its_reader_went_away() {
    let stage = Stage::new();
    // The reader is gone before the first byte; the code is that of `turnoutctl`, not of the reader.
    let code = |line: &str| {
        let command = format!("bash -c '{{ sleep 0.2; {line}; echo $? > code; }} | true'");
        assert!(stage.command(&command).status().unwrap().success(), "{line}");
        fs::read_to_string(stage.path("code")).unwrap().trim().to_owned()
    };
    assert_eq!(code("turnoutctl release start fraud@1.4.0 --wait"), "3");
    assert_eq!(code("turnoutctl release start fraud@1.4.0 --wait --output ndjson"), "3");
    assert_eq!(code("turnoutctl release list"), "0");
    assert_eq!(code("turnoutctl audit log --follow"), "0");
}

#[test]
fn a_wait_that_is_given_up_says_how_the_release_stood() {
    let stage = Stage::with(|request| {
        if request.call.starts_with("GET /v1/events") {
            std::thread::sleep(Duration::from_secs(2));
        }
        answer(request)
    });
    let line = "turnoutctl release start fraud@1.4.0 --wait --timeout 200ms --output json";
    let output = stage.command(line).output().unwrap();
    let last: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &last["state"]), (Some(1), &json!("running")), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("is not over after 200 ms; it goes on"),
        "{output:?}"
    );
}

#[test]
fn a_daemon_that_does_not_come_up_behind_its_socket_is_stood_in_for() {
    let stage = Stage::new();
    let held = UnixListener::bind(stage.path("held.sock")).unwrap();
    fs::rename(stage.path("turnoutd.sample"), stage.path("bin/turnoutd")).unwrap();
    let output = stage.command("turnoutctl doctor --socket held.sock").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("the daemon does not answer"), "{output:?}");
    drop(held);
}

#[test]
fn what_is_sent_is_what_was_asked() {
    let stage = Stage::new();
    for line in [
        "turnoutctl release start fraud@1.4.0 --plan canary.yaml --dry-run",
        "turnoutctl rollback fraud --reason 'complaints from the risk desk'",
        "turnoutctl audit log --follow --from 7 | head -n 1",
        "turnoutctl release watch fraud --output json | head -n 1",
        "turnoutctl trust remove 5cd252",
    ] {
        assert!(stage.command(line).output().unwrap().status.success(), "{line}");
    }
    let received = stage.service.received.lock().unwrap();
    let body = |at: usize| serde_json::from_slice::<Value>(&received[at].body).unwrap();
    assert_eq!(body(0)["plan"]["steps"], json!([5000, 100_000]));
    assert_eq!((&body(0)["version"], &body(0)["dry_run"]), (&json!("fraud@1.4.0"), &json!(true)));
    assert_eq!(received[1].call, "POST /v1/models/fraud/rollback");
    assert_eq!(body(1), json!({"reason": "complaints from the risk desk"}));
    assert_eq!(received[2].call, "GET /v1/audit/log?from=7&follow=true");
    // The service ended the stream behind record 43.
    assert!(received.iter().any(|request| request.call == "GET /v1/audit/log?from=44&follow=true"));
    assert!(received.iter().any(|request| request.call == "GET /v1/events?follow=true&model=fraud"));
    let removed = "DELETE /v1/trust/sha256:5cd252fb0ce8932436faf8ccd1040981b89ee4ad6b9fe9e2a2b7e71aacb27cd3";
    assert_eq!(received.last().unwrap().call, removed);
}
