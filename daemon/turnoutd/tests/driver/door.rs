//! The control API on a real socket: who is refused what, and what every refusal looks like.

use crate::stage::{Stage, bundle, model, open_journal};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task;
use turnout_engine::{ArchiveRecord, Entry, Record};
use turnout_journal::{Reader, first_record};
use turnout_manifest::key::PrivateKey;
use turnout_manifest::{Operator, Plan, canonical};
use turnoutd::audit::LongReads;
use turnoutd::condition::Condition;
use turnoutd::driver::Input;
use turnoutd::handlers::Desk;
use turnoutd::notary::Notary;
use turnoutd::view::Daemon;
use turnoutd::{api, keeping, now_ms};

/// `nobody` and its group: whoever is not root.
pub const NOBODY: u32 = 65_534;
/// Somebody who may only read, as the daemon of these tests is configured.
pub const READER: u32 = 65_533;
/// A key that nobody but root may add.
pub const TRUST: &str = r#"{"public_key":"","issuer":"x","models":[]}"#;
/// How long a release may take to end.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A daemon behind its door.
pub struct Door {
    pub stage: Stage,
    pub desk: Desk,
    socket: PathBuf,
    driver: Sender<Input>,
    looping: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
    serving: task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// An answer: status, kind of content, content.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub kind: String,
    /// `turnout-audit-context`.
    pub audit_context: Option<String>,
    /// `server`.
    pub server: Option<String>,
    pub body: Value,
}

impl Door {
    pub fn open() -> Self {
        Self::on(Stage::bare())
    }

    /// The machine alone, once its daemon is gone.
    pub fn closed(mut self) -> Stage {
        let stage = std::mem::replace(&mut self.stage, Stage::bare());
        drop(self);
        // The lock is free once everything of the daemon is gone.
        drop(open_journal(&stage.folder.path().join("journal")));
        stage
    }

    /// Where it is asked.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs something as the daemon would.
    pub fn block_on<Done>(&self, work: impl Future<Output = Done>) -> Done {
        self.runtime.as_ref().unwrap().block_on(work)
    }

    /// The same machine with another daemon, which finds these records in its journal too.
    pub fn reopened(self, records: &[ArchiveRecord]) -> Self {
        let stage = self.closed();
        let journal = open_journal(&stage.folder.path().join("journal"));
        for record in records {
            let record = Record::Archive(record.clone());
            journal.append_all(&[&canonical::to_canonical(&record).unwrap()]).unwrap();
        }
        drop(journal);
        Self::on(stage)
    }

    /// A daemon on a machine that is as it should be.
    pub fn on(stage: Stage) -> Self {
        std::fs::set_permissions(stage.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = stage.folder.path().join("control.sock");
        let listener = api::bind(&socket, Some(NOBODY)).unwrap();
        let running = stage.assemble();
        let daemon = Daemon {
            started_ms: now_ms(),
            condition: Condition::default(),
            torn: None,
            readers: vec![READER],
            config: Arc::clone(&stage.config),
        };
        let host_key = Arc::new(PrivateKey::generate().unwrap());
        let (state, journal) = (stage.folder.path(), Arc::clone(&running.journal));
        let notary = Arc::new(Notary::open(state, journal, Arc::clone(&host_key)).unwrap());
        let desk = Desk {
            driver: running.sender.clone(),
            views: running.views,
            daemon: Arc::new(daemon),
            intake: running.intake,
            host: stage.host.clone(),
            journal: running.journal,
            host_key,
            notary,
            long_reads: LongReads::default(),
            denials: Arc::default(),
            starting: Arc::default(),
        };
        let driver = running.driver;
        let looping = std::thread::spawn(move || driver.run(|| {}));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (kept, mut views) = (desk.clone(), desk.views.clone());
        let serving = runtime.spawn(async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            // As in `serve`: before the loop has published for the first time, nothing is known to be open.
            if views.changed().await.is_ok() {
                tokio::spawn(keeping::look_after(desk.clone(), stopped.clone()));
                api::serve(listener, desk, stopped).await;
            }
        });
        let (looping, runtime) = (Some(looping), Some(runtime));
        Self { stage, desk: kept, socket, driver: running.sender, looping, runtime, serving, stop }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.json(&format!("GET {path}"), "")
    }

    pub fn json(&self, request: &str, body: &str) -> Reply {
        self.send((request, "application/json"), body.as_bytes())
    }

    pub fn import(&self, bundle: &[u8]) -> Reply {
        self.send(("POST /v1/bundles", "application/octet-stream"), bundle)
    }

    fn send(&self, request: (&str, &str), body: &[u8]) -> Reply {
        send(&self.socket, request, body)
    }

    /// A request that is answered while the test does something else.
    pub fn json_meanwhile(&self, request: &'static str, body: &'static str) -> JoinHandle<Reply> {
        let socket = self.socket.clone();
        std::thread::spawn(move || send(&socket, (request, "application/json"), body.as_bytes()))
    }

    /// The same as somebody who is not root.
    pub fn json_as_nobody(&self, method: &str, path: &str, body: &str) -> Reply {
        parse(&self.said_to(NOBODY, (method, path), body))
    }

    /// What a user of the socket's group is answered, in a process of its own.
    pub fn said_to(&self, user: u32, (method, path): (&str, &str), body: &str) -> String {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--include", "--request", method, "--unix-socket"]).arg(&self.socket);
        curl.args(["--header", "content-type: application/json"]);
        if !body.is_empty() {
            curl.args(["--data", body]);
        }
        let done = curl.arg(format!("http://turnout{path}")).uid(user).gid(NOBODY).output().unwrap();
        assert!(done.status.success(), "curl: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    pub fn release_and_wait(&self, version: &str) -> Value {
        let request = json!({ "version": format!("digits@{version}"), "plan": Plan::all_at_once() });
        let made = self.json("POST /v1/releases", &request.to_string());
        assert_eq!(made.status, 201, "{made:?}");
        let path = format!("/v1/releases/{}", made.body["release_id"].as_str().unwrap());
        let deadline = Instant::now() + DEADLINE;
        loop {
            let release = self.get(&path).body;
            if !["running", "rolling_back"].contains(&release["state"].as_str().unwrap()) {
                return release;
            }
            assert!(Instant::now() < deadline, "{release}");
            std::thread::yield_now();
        }
    }

    pub fn journaled(&self) -> Vec<Record> {
        self.entries().into_iter().map(|entry| entry.record).collect()
    }

    pub fn entries(&self) -> Vec<Entry> {
        let journal = self.stage.folder.path().join("journal");
        let mut reader = Reader::open(&journal, first_record(&journal).unwrap()).unwrap();
        let mut records = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            records.push(serde_json::from_slice(&record.body).unwrap());
        }
        records
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let _ = self.driver.send(Input::Stop);
        if let Some(runtime) = self.runtime.take() {
            // Until it is over, the socket is taken for the next daemon.
            let _ = runtime.block_on(&mut self.serving);
            runtime.shutdown_background();
        }
        let looped = self.looping.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            looped.unwrap().unwrap();
        }
    }
}

fn send(socket: &Path, (request, kind): (&str, &str), body: &[u8]) -> Reply {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    let fields =
        format!("host: turnout\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}");
    stream.write_all(format!("{request} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).unwrap();
    // A request that is refused early is not read to its end.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    parse(&String::from_utf8(answer).unwrap())
}

pub fn parse(answer: &str) -> Reply {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let field = |wanted: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
    };
    let (kind, server) = (field("content-type").unwrap_or_default(), field("server"));
    let audit_context = field("turnout-audit-context");
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
    Reply { status, kind, audit_context, server, body }
}

/// Every refusal is a problem document that says what is wrong.
pub fn check_problem(reply: &Reply, status: u16, code: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    assert_eq!(reply.kind, "application/problem+json", "{reply:?}");
    assert_eq!(reply.body["code"], code, "{reply:?}");
    let message = ["detail", "message", "title"].iter().find_map(|key| reply.body[*key].as_str());
    assert!(!message.unwrap_or_default().is_empty(), "{reply:?}");
}

#[test]
fn a_bundle_becomes_the_live_version() {
    let door = Door::open();
    let imported = door.import(&bundle("1"));
    assert_eq!(imported.status, 200, "{imported:?}");
    assert_eq!(imported.body["already_there"], false);
    assert_eq!(door.release_and_wait("1")["state"], "promoted");
    let again = door.import(&bundle("1"));
    assert_eq!(again.body["already_there"], true, "{again:?}");
    let status = door.get("/v1/status").body;
    assert_eq!(status["models"][0]["model"], json!(model()));
    assert_eq!(status["models"][0]["versions"][0]["version"], "1");
    let imports = door.journaled().iter().filter(|record| matches!(record, Record::Imported { .. })).count();
    assert_eq!(imports, 1);
    let wish = door.json("POST /v1/models/digits/rollback", "{}");
    check_problem(&wish, 409, "conflict");
}

#[test]
fn a_bundle_that_is_not_what_was_signed_leaves_nothing() {
    let door = Door::open();
    let whole = bundle("1");
    let mut tampered = whole.clone();
    *tampered.last_mut().unwrap() ^= 1;
    let mut unsigned = whole.clone();
    let signature = unsigned.windows(5).position(|part| part == b"\"sig\"").unwrap();
    unsigned[signature + 20] ^= 1;
    let longer = [&whole[..], b"more"].concat();
    for (name, bytes, status, code) in [
        ("tampered file", &tampered[..], 422, "refused"),
        ("broken signature", &unsigned[..], 422, "refused"),
        ("short of files", &whole[..whole.len() - 3], 422, "refused"),
        ("more than the files", &longer[..], 422, "refused"),
        ("no envelope", &[0, 0, 0, 0][..], 413, "limit"),
        ("an endless envelope", &[0xff, 0xff, 0xff, 0xff][..], 413, "limit"),
        ("short of envelope", &whole[..40], 400, "bad-request"),
    ] {
        let reply = door.import(bytes);
        assert_eq!((reply.status, &reply.body["code"]), (status, &json!(code)), "{name}: {reply:?}");
        assert_eq!(reply.kind, "application/problem+json", "{name}");
    }
    assert!(door.journaled().iter().all(|record| !matches!(record, Record::Imported { .. })));
    assert_eq!(door.get("/v1/versions").body["versions"], json!([]));
}

#[test]
fn trust_is_changed_by_root_alone_and_a_denial_is_journaled() {
    let door = Door::open();
    let key = PrivateKey::generate().unwrap().public_key();
    let request = json!({ "issuer": "other", "public_key": key.to_pem(), "models": ["*"] }).to_string();
    let before = door.get("/v1/trust").body;
    let key_id = before["keys"][0]["key_id"].as_str().unwrap().to_owned();
    let removal = format!("/v1/trust/{key_id}");
    let denied = door.json_as_nobody("POST", "/v1/trust", &request);
    check_problem(&denied, 403, "denied");
    check_problem(&door.json_as_nobody("DELETE", &removal, ""), 403, "denied");
    assert_eq!(door.get("/v1/trust").body, before, "a denial changes nothing");
    let denials: Vec<String> = door
        .journaled()
        .into_iter()
        .filter_map(|record| {
            if let Record::Refused { by, what, .. } = record { Some(format!("{by}: {what}")) } else { None }
        })
        .collect();
    assert_eq!(denials.len(), 2, "{denials:?}");
    assert!(
        denials[0].starts_with("uid 65534 (pid ") && denials[0].ends_with(": add a trusted key"),
        "{denials:?}"
    );
    assert!(denials[1].ends_with(": remove a trusted key"), "{denials:?}");

    // The group reads and operates.
    assert_eq!(door.json_as_nobody("GET", "/v1/status", "").status, 200);
    check_problem(&door.json_as_nobody("POST", "/v1/models/digits/rollback", "{}"), 404, "not-found");

    let added = door.json("POST /v1/trust", &request);
    assert_eq!((added.status, added.body["keys"].as_array().unwrap().len()), (200, 2), "{added:?}");
    let again = door.json("POST /v1/trust", &request);
    check_problem(&again, 422, "refused");
    assert!(again.body["hint"].as_str().unwrap().contains("`turnoutctl trust remove sha256:"), "{again:?}");
    assert_eq!(door.json(&format!("DELETE {removal}"), "").status, 200);
    let reply = door.import(&bundle("1"));
    check_problem(&reply, 422, "refused");
}

#[test]
fn a_reader_reads_and_changes_nothing() {
    let door = Door::open();
    let metrics = door.said_to(READER, ("GET", "/v1/metrics"), "");
    assert!(metrics.starts_with("HTTP/1.1 200 ") && metrics.contains("\nturnout_read_only 0\n"), "{metrics}");
    assert!(metrics.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{metrics}");
    assert!(door.said_to(READER, ("GET", "/v1/status"), "").starts_with("HTTP/1.1 200 "));
    let key = PrivateKey::generate().unwrap().public_key();
    let key = json!({ "issuer": "other", "public_key": key.to_pem(), "models": ["*"] }).to_string();
    for (path, body) in [
        ("/v1/models/digits/rollback", "{}"),
        ("/v1/releases", "{\"version\":\"digits@1\"}"),
        ("/v1/trust", &key),
        ("/v1/bundles", "x"),
    ] {
        check_problem(&parse(&door.said_to(READER, ("POST", path), body)), 403, "denied");
    }
}

#[test]
fn what_nobody_understands_is_answered_with_a_problem() {
    let door = Door::open();
    let large = format!("{{\"version\":\"{}\"}}", "x".repeat(2 * 1024 * 1024));
    let [lines, long] =
        ["two\nlines".to_owned(), "x".repeat(501)].map(|reason| json!({ "reason": reason }).to_string());
    for (request, body, status, code) in [
        ("GET /v2/status", "", 404, "not-found"),
        ("GET /v1/releases/r-1x", "", 400, "bad-request"),
        ("DELETE /v1/status", "", 400, "bad-request"),
        ("POST /v1/releases", "{", 400, "bad-request"),
        ("POST /v1/releases", "{\"version\":7}", 400, "bad-request"),
        ("POST /v1/releases", "{\"version\":\"a@1\",\"plam\":{}}", 400, "bad-request"),
        ("POST /v1/releases", "{\"version\":\"a@1\"}", 404, "not-found"),
        ("POST /v1/releases", &large, 413, "limit"),
        ("POST /v1/models/digits/explode", "{}", 404, "not-found"),
        ("POST /v1/models/digits/rollback", "{}", 404, "not-found"),
        ("POST /v1/models/digits/rollback", &lines, 400, "bad-request"),
        ("POST /v1/models/digits/rollback", &long, 400, "bad-request"),
        ("POST /v1/trust", "{\"issuer\":\"a\",\"public_key\":\"x\",\"models\":[\"*\"]}", 422, "refused"),
        ("DELETE /v1/trust/sha256:00", "", 404, "not-found"),
        ("GET /v1/releases/%ff", "", 400, "bad-request"),
        ("GET /v1/events?model=../etc", "", 400, "bad-request"),
        ("GET /v1/audit/log?from=x", "", 400, "bad-request"),
    ] {
        let reply = door.json(request, body);
        let found = (reply.status, reply.kind.as_str(), reply.body["code"].as_str().unwrap_or_default());
        assert_eq!(
            found,
            (status, "application/problem+json", code),
            "{request} {}: {reply:?}",
            &body[..body.len().min(40)]
        );
    }
    let planned = door.journaled().into_iter().filter(|record| matches!(record, Record::Planned(_))).count();
    assert_eq!(planned, 0);
}

#[test]
fn a_request_and_all_that_follows_from_it_have_one_audit_context() {
    let door = Door::open();
    let imported = door.import(&bundle("1"));
    let import = imported.audit_context.clone().unwrap();
    assert_eq!(imported.body["audit_context"], *import);
    let request = json!({ "version": "digits@1", "plan": Plan::all_at_once() });
    let made = door.json("POST /v1/releases", &request.to_string());
    let release = made.audit_context.clone().unwrap();
    assert_eq!(made.body["audit_context"], *release);
    assert_ne!(import, release);
    let report = format!("/v1/releases/{}/report", made.body["release_id"].as_str().unwrap());
    let deadline = Instant::now() + DEADLINE;
    while door.get(&report).body["release"]["state"] != "promoted" {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let contexts = door.get(&report).body["audit_contexts"].clone();
    let operator = &contexts[0]["operator"];
    let pid = std::process::id();
    assert_eq!(contexts.as_array().unwrap().len(), 1, "{contexts}");
    assert_eq!((&contexts[0]["id"], &operator["pid"]), (&json!(release), &json!(pid)), "{contexts}");
    assert_eq!((&operator["authentication"], &operator["uid"]), (&json!("so-peercred"), &json!(0)));
    let reading = door.get("/v1/status");
    let version = Some(concat!("turnoutd/", env!("CARGO_PKG_VERSION")));
    assert_eq!((reading.server.as_deref(), door.get("/v1/none").server.as_deref()), (version, version));
    assert_eq!(reading.audit_context, None, "what leaves no record has no context");
    assert_eq!(reading.body["models"][0]["versions"][0]["audit_context"], *release);
    for entry in door.entries() {
        let context = entry.audit_context.map(|context| context.id().to_string());
        let expected = match &entry.record {
            Record::DaemonStarted { .. } => None,
            record if record.release().is_some() => Some(&release),
            _ => Some(&import),
        };
        assert_eq!(context.as_ref(), expected, "{:?}", entry.record);
    }
}

#[test]
fn a_refusal_is_recorded_under_the_context_that_its_answer_names() {
    let door = Door::open();
    let denied = door.json_as_nobody("POST", "/v1/trust", TRUST);
    check_problem(&denied, 403, "denied");
    let refused = door.entries().pop().unwrap();
    assert!(matches!(refused.record, Record::Refused { .. }), "{refused:?}");
    let context = refused.audit_context.unwrap();
    assert_eq!(Some(context.id().to_string()), denied.audit_context);
    let Operator::Peer { uid, gid, .. } = context.operator() else { panic!("{context:?}") };
    assert_eq!((uid, gid), (NOBODY, NOBODY));
}

#[test]
fn what_held_the_files_is_recorded_and_shown() {
    let door = Door::open();
    door.stage.host.set_verity(true);
    let imported = door.import(&bundle("1"));
    assert_eq!(imported.status, 200, "{imported:?}");
    assert!(imported.body.to_string().contains("held so by fs-verity"), "{imported:?}");
    door.stage.host.set_verity(false);
    assert_eq!(door.import(&bundle("2")).status, 200);
    door.stage.host.set_verity(true);
    let measured = |record: Record| match record {
        Record::Imported { version, measured, .. } => Some((version.to_string(), measured.is_some())),
        _ => None,
    };
    let measured: Vec<_> = door.journaled().into_iter().filter_map(measured).collect();
    assert_eq!(measured, [("digits@1".to_owned(), true), ("digits@2".to_owned(), false)]);
    for (version, cell, step) in [
        ("1", "files held by fs-verity; enforced", "held so by fs-verity"),
        ("2", "files compared at its start; enforced", "1 files match the signed manifest"),
    ] {
        let release = door.release_and_wait(version);
        assert_eq!(release["state"], "promoted", "{release}");
        let status = door.get("/v1/status").body;
        let enforced = status["models"][0]["versions"][0]["cell"]["enforced"].as_str().unwrap().to_owned();
        assert!(enforced.starts_with(cell), "{enforced}");
        let report = door.get(&format!("/v1/releases/{}/report", release["release_id"].as_str().unwrap()));
        assert!(report.body["steps"].to_string().contains(step), "{report:?}");
    }
}
