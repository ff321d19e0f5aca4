//! The worker's manners: what it refuses to load, what it refuses to answer, and how it ends.
#![allow(clippy::unwrap_used, reason = "test code: a panic is the report")]

mod harness;

use harness::{Client, Worker, assertion, assignment, requests};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};
use turnout_protocol::worker::{Assignment, FromWorker, ToWorker};

fn good() -> Worker {
    Worker::serving(&assignment("digits", "1.0.0"))
}

fn digit() -> String {
    requests("digits")[0].0.clone()
}

/// The reason the worker gives for not serving this.
fn refusal(assignment: &Assignment) -> String {
    refusal_in("digits/1.0.0", assignment)
}

fn refusal_in(folder: &str, assignment: &Assignment) -> String {
    let (model, version) = folder.split_once('/').unwrap();
    let mut worker = Worker::start(model, version);
    worker.say(&ToWorker::Assign(Box::new(assignment.clone())));
    let FromWorker::Failed { reason } = worker.hear() else { panic!("it serves") };
    assert_eq!(worker.ended().code(), Some(1));
    reason
}

#[test]
fn a_contract_that_the_model_does_not_keep_is_refused_with_every_difference() {
    let mut wrong = assignment("digits", "1.0.0");
    wrong.contract = serde_json::from_value(json!({
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 63]}, {"name": "extra", "datatype": "FP32", "shape": [1]}],
        "outputs": [{"name": "label", "datatype": "INT32", "shape": [-1]}],
    }))
    .unwrap();
    let reason = refusal(&wrong);
    for difference in [
        "input `input`: shape is [-1, 64] in the model, [-1, 63] in the contract",
        "input `extra`: in the contract, not in the model",
        "output `label`: datatype is INT64 in the model, INT32 in the contract",
        "output `probabilities`: in the model, not in the contract",
    ] {
        assert!(reason.contains(difference), "{difference} not in {reason}");
    }
}

#[test]
fn what_cannot_be_loaded_is_refused_with_its_reason() {
    let with = |change: &dyn Fn(&mut Assignment)| {
        let mut changed = assignment("digits", "1.0.0");
        change(&mut changed);
        refusal(&changed)
    };
    for (reason, expected) in [
        (with(&|changed| changed.model_file = "missing.onnx".to_owned()), "missing.onnx"),
        (with(&|changed| changed.model_file = "../better/model.onnx".to_owned()), "not a relative path"),
        (with(&|changed| changed.threads = 0), "0 threads"),
        (
            with(&|changed| {
                changed.assertions = vec![assertion(json!({"name": "a", "output": "no", "check": "finite"}))]
            }),
            "assertion `a`: there is no output `no`",
        ),
    ] {
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let mut wrong = assignment("digits", "1.0.0");
    wrong.model_file = "digits.json".to_owned();
    let reason = refusal_in("requests/.", &wrong);
    assert!(reason.contains("is not an ONNX model") && reason.contains("digits.json"), "{reason}");
}

#[test]
fn a_folder_with_a_file_that_runs_code_is_refused_unless_the_host_allows_it() {
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(harness::models().join("digits/1.0.0/model.onnx"), place.path().join("model.onnx"))
        .unwrap();
    std::fs::create_dir(place.path().join("extra")).unwrap();
    std::fs::write(place.path().join("extra/weights.bin"), b"\x80\x04N.").unwrap();
    let folder = format!("digits/{}", place.path().display());
    let mut assignment = assignment("digits", "1.0.0");
    let reason = refusal_in(&folder, &assignment);
    assert!(reason.contains("`extra/weights.bin` is a pickle"), "{reason}");
    assignment.allowed_formats = vec!["zip".to_owned()];
    assert!(refusal_in(&folder, &assignment).contains("`zip` is no format"));
    assignment.allowed_formats = turnout_protocol::worker::FORMATS.map(str::to_owned).to_vec();
    let worker = Worker::start("digits", place.path().to_str().unwrap());
    worker.say(&ToWorker::Assign(Box::new(assignment)));
    assert!(matches!(worker.hear(), FromWorker::Ready { .. }));
}

#[test]
fn every_page_of_the_protocol_is_there() {
    let worker = good();
    let mut client = worker.connect();
    let input = json!({"name": "input", "datatype": "FP32", "shape": [-1, 64]});
    let outputs = json!([
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
    ]);
    let metadata = json!({"name": "digits", "versions": ["1.0.0"], "platform": "onnxruntime_onnx", "inputs": [input], "outputs": outputs});
    for (path, expected) in [
        ("/v2/health/live", json!({"live": true})),
        ("/v2/health/ready", json!({"ready": true})),
        ("/v2/models", json!({"models": ["digits"]})),
        ("/v2/models/digits", metadata.clone()),
        ("/v2/models/digits/versions/1.0.0", metadata.clone()),
        ("/v2/models/%64igits/versions/1%2E0.0/ready", json!({"name": "digits", "ready": true})),
        ("/v2/models/digits/ready", json!({"name": "digits", "ready": true})),
    ] {
        let reply = client.get(path);
        assert_eq!((reply.status, reply.json()), (200, expected), "{path}");
        let head = client.request(&format!("HEAD {path}"), "", b"");
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, reply.header("content-length")),
            "{path}"
        );
    }
    let server = client.get("/v2").json();
    assert_eq!((&server["name"], &server["extensions"]), (&json!("turnout"), &json!(["binary_tensor_data"])));
}

#[test]
fn an_answer_says_who_gave_it() {
    let worker = good();
    let body = digit().replacen('{', r#"{"id":"r-7","model_name":"ignored","#, 1);
    let reply = worker.connect().infer(&body);
    let json = reply.json();
    assert_eq!(
        (&json["model_name"], &json["model_version"], &json["id"]),
        (&json!("digits"), &json!("1.0.0"), &json!("r-7"))
    );
    for (name, value) in [
        ("turnout-model", "digits"),
        ("turnout-version", "1.0.0"),
        ("turnout-version-digest", &*format!("sha256:{}", "ab".repeat(32))),
        ("turnout-audit-context", "01997f5a-2d48-7c11-8a3e-5b6d7e8f9a01"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
}

const INFER: &str = "POST /v2/models/digits/infer";

/// Request line, header lines, body; status and a part of the error.
type Refused = (&'static str, &'static str, String, u16, &'static str);

fn wrong_requests() -> Vec<Refused> {
    vec![
        ("GET /", "", String::new(), 404, "no path `/`"),
        ("GET /v2/models/other", "", String::new(), 404, "model `other`"),
        ("GET /v2/models/digits/versions/9", "", String::new(), 404, "version `9`"),
        ("POST /v2/models/digits/versions/9/infer", "", digit(), 404, "version `9`"),
        ("GET /v2/models/digits/infer", "", String::new(), 405, "use POST"),
        ("DELETE /v2/models/digits", "", String::new(), 405, "use GET"),
        (INFER, "", String::new(), 400, "not an inference request"),
        (INFER, "", "{".to_owned(), 400, "not an inference request"),
        (INFER, "content-encoding: gzip\r\n", digit(), 400, "gzip"),
        (INFER, "inference-header-content-length: x\r\n", digit(), 400, "not a number"),
        (INFER, "inference-header-content-length: 99999\r\n", digit(), 400, "99999"),
    ]
}

fn wrong_tensors() -> Vec<Refused> {
    let row = |change: &dyn Fn(&mut Value)| {
        let mut body: Value = serde_json::from_str(&digit()).unwrap();
        change(&mut body);
        body.to_string()
    };
    let input = |member: &str, value: Value| row(&|body| body["inputs"][0][member] = value.clone());
    let outputs = |value: Value| row(&|body| body["outputs"] = value.clone());
    let empty = r#"{"inputs":[{"name":"input","shape":[0,64],"datatype":"FP32","data":[]}]}"#;
    [
        (input("name", json!("in")), "input `in`: unknown, expected `input`"),
        (input("datatype", json!("FP64")), "input `input`: datatype is FP64"),
        (input("shape", json!([64])), "input `input`: shape is [64], expected [-1, 64]"),
        (row(&|body| body["inputs"][0]["data"][3] = json!(16.5)), "value 3 is 16.5, outside 0 to 16"),
        (row(&|body| body["inputs"][0]["data"][3] = json!("x")), "value 3"),
        (outputs(json!([{"name": "no"}])), "output `no`: unknown"),
        (outputs(json!([{"name": "label"}, {"name": "label"}])), "asked for twice"),
        (empty.to_owned(), "no values"),
    ]
    .into_iter()
    .map(|(body, error)| (INFER, "", body, 400, error))
    .collect()
}

#[test]
fn every_refusal_has_its_status_and_an_error_in_json() {
    let worker = good();
    let mut client = worker.connect();
    let cases = [wrong_requests(), wrong_tensors()].concat();
    let refused = cases.iter().filter(|case| case.3 == 400).count() as u64;
    for (line, headers, body, status, error) in cases {
        let reply = client.request(line, headers, body.as_bytes());
        assert_eq!(reply.status, status, "{line} {body}: {reply:?}");
        assert!(reply.error().contains(error), "{line}: {}", reply.error());
    }
    let counts = worker.counts_until(|counts| counts.requests == refused);
    assert_eq!((counts.contract_refusals, counts.run_failures), (refused, 0));
}

#[test]
fn a_body_beyond_the_limit_is_refused_before_it_is_sent() {
    let worker = good();
    let mut client = worker.connect();
    let head = "POST /v2/models/digits/infer HTTP/1.1\r\nhost: test\r\ncontent-length: 67108865\r\nexpect: 100-continue\r\n\r\n";
    client.stream.write_all(head.as_bytes()).unwrap();
    let reply = client.read_reply(true).unwrap();
    assert_eq!(reply.status, 413);
    assert!(reply.error().contains("67108864"), "{}", reply.error());
}

#[test]
fn a_client_that_asks_first_is_told_to_go_on() {
    let worker = good();
    let (mut client, body) = (worker.connect(), digit());
    let length = body.len();
    let head = format!(
        "POST /v2/models/digits/infer HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    );
    client.stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(client.read_reply(false).unwrap().status, 100);
    client.stream.write_all(body.as_bytes()).unwrap();
    assert_eq!(client.read_reply(true).unwrap().status, 200);
}

#[test]
fn binary_tensors_go_in_and_come_out_beside_json_ones() {
    let worker = good();
    let mut client = worker.connect();
    let expected = client.infer(&digit()).json();
    let row: Value = serde_json::from_str(&digit()).unwrap();
    let values =
        row["inputs"][0]["data"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32);
    let raw: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let json = json!({
        "inputs": [{"name": "input", "shape": [1, 64], "datatype": "FP32", "parameters": {"binary_data_size": 256}}],
        "outputs": [{"name": "probabilities", "parameters": {"binary_data": true}}, {"name": "label"}],
    })
    .to_string();
    let headers = format!("inference-header-content-length: {}\r\n", json.len());
    let reply = client.request("POST /v2/models/digits/infer", &headers, &[json.as_bytes(), &raw].concat());
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/octet-stream")));
    let (json, tail) =
        reply.body.split_at(reply.header("inference-header-content-length").unwrap().parse().unwrap());
    let json: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 40);
    assert_eq!(json["outputs"][1]["data"], expected["outputs"][0]["data"]);
    let probabilities: Vec<f32> = tail.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let in_json =
        expected["outputs"][1]["data"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32);
    assert_eq!(probabilities, in_json.collect::<Vec<_>>());
}

#[test]
fn an_old_connection_ends_with_its_next_answer() {
    let worker = good();
    let mut old = worker.connect();
    assert_eq!(old.infer(&digit()).header("connection"), None);
    worker.say(&ToWorker::ConnectionLife { milliseconds: Some(0) });
    let last = answers_until(&mut old, |reply| reply.header("connection") == Some("close"));
    assert_eq!(last.status, 200);
    old.wait_for_close();
    worker.say(&ToWorker::ConnectionLife { milliseconds: None });
    let deadline = Instant::now() + harness::DEADLINE;
    while worker.connect().infer(&digit()).header("connection").is_some() {
        assert!(Instant::now() < deadline, "the limit is not lifted");
    }
}

/// Asks until an answer is the wanted one: an order takes its way through the link, so the next answer may be too early.
fn answers_until(client: &mut Client, is_wanted: impl Fn(&harness::Reply) -> bool) -> harness::Reply {
    let deadline = Instant::now() + harness::DEADLINE;
    loop {
        let reply = client.infer(&digit());
        if is_wanted(&reply) {
            return reply;
        }
        assert!(Instant::now() < deadline, "{reply:?}");
    }
}

#[test]
fn a_drain_answers_what_comes_closes_what_is_silent_and_ends_the_process() {
    let mut two = assignment("digits", "1.0.0");
    two.threads = 2;
    let mut worker = Worker::serving(&two);
    let (mut busy, mut silent) = (worker.connect(), worker.connect());
    assert_eq!((busy.infer(&digit()).status, silent.infer(&digit()).status), (200, 200));
    worker.say(&ToWorker::Drain { idle_ms: 10_000 });
    let last = answers_until(&mut busy, |reply| reply.header("connection") == Some("close"));
    assert_eq!(last.status, 200);
    busy.wait_for_close();
    let mut late = worker.connect();
    let ready = late.get("/v2/health/ready");
    assert_eq!((ready.status, ready.header("connection")), (503, Some("close")));
    assert!(silent.wait_for_close() > Duration::from_millis(100), "closed at once");
    assert_eq!(worker.ended().code(), Some(0));
    let counts = worker.counts_until(|counts| counts.requests >= 3);
    assert_eq!(counts.contract_refusals, 0);
}

#[test]
fn who_has_just_connected_may_still_ask_a_version_that_is_drained() {
    let asked_in_time = || {
        let mut worker = good();
        let (mut busy, mut mute) = (worker.connect(), worker.connect());
        let connected = Instant::now();
        let mut slow = worker.connect();
        worker.say(&ToWorker::Drain { idle_ms: 1 });
        answers_until(&mut busy, |reply| reply.header("connection") == Some("close"));
        std::thread::sleep(Duration::from_millis(200));
        // On a machine that stands still for longer nothing is said by this.
        if connected.elapsed() > Duration::from_millis(900) {
            return false;
        }
        assert_eq!(slow.infer(&digit()).status, 200);
        mute.wait_for_close();
        assert_eq!(worker.ended().code(), Some(0));
        true
    };
    assert!((0..10).any(|_| asked_in_time()), "never asked in time");
}

#[test]
fn a_worker_told_to_drain_before_it_has_work_leaves() {
    let mut worker = Worker::start("digits", "1.0.0");
    worker.say(&ToWorker::Drain { idle_ms: 1000 });
    assert_eq!(worker.ended().code(), Some(0));
}

#[test]
fn a_link_that_is_full_or_closed_never_stops_serving() {
    let mut worker = good();
    let mut client = worker.connect();
    let until = Instant::now() + Duration::from_secs(3);
    let mut sent = 0;
    while Instant::now() < until {
        assert_eq!(client.infer(&digit()).status, 200);
        sent += 1;
    }
    // Nobody has read a message since: 60 were due, and the link holds fewer.
    let last = worker.counts_until(|counts| counts.requests == sent);
    assert_eq!(last.requests, sent);
    worker.link = None;
    for _ in 0..100 {
        assert_eq!(client.infer(&digit()).status, 200);
    }
    assert_eq!(worker.connect().get("/v2/health/ready").status, 200);
}

#[test]
fn the_runtime_collects_nothing() {
    let home = tempfile::tempdir().unwrap();
    let worker =
        Worker::start_at_home("digits", "1.0.0", home.path()).assigned(&assignment("digits", "1.0.0"));
    assert_eq!(worker.connect().infer(&digit()).status, 200);
    let left: Vec<_> = home.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
