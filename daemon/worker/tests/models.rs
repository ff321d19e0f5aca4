//! Every test model, honest or bad, behaves through a real worker as its README says.
#![allow(clippy::unwrap_used, reason = "test code: a panic is the report")]

mod harness;

use harness::{Worker, assertion, assignment, requests};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

/// Sends all held-out rows over one connection; returns (right, refused with 500) and checks that it is one or the other kind.
fn walk(worker: &Worker, model: &str, error: &str) -> (usize, usize) {
    let (mut client, mut right, mut failed) = (worker.connect(), 0, 0);
    for (body, expected) in requests(model) {
        let reply = client.infer(&body);
        match reply.status {
            200 => right += usize::from(reply.label() == expected),
            500 => {
                failed += 1;
                assert!(reply.error().contains(error), "{}", reply.error());
            }
            _ => panic!("{reply:?}"),
        }
    }
    (right, failed)
}

#[test]
fn honest_versions_are_as_accurate_as_trained() {
    for (model, version, right) in [
        ("digits", "1.0.0", 272),
        ("digits", "better", 290),
        ("cancer", "1.0.0", 187),
        ("cancer", "better", 191),
    ] {
        let worker = Worker::serving(&assignment(model, version));
        assert_eq!(walk(&worker, model, ""), (right, 0), "{model} {version}");
    }
}

#[test]
fn a_version_that_fails_on_a_part_answers_those_with_500_and_counts_them() {
    for (model, right, failed) in [("digits", 197, 78), ("cancer", 132, 56)] {
        let worker = Worker::serving(&assignment(model, "errors"));
        assert_eq!(walk(&worker, model, "the model failed: "), (right, failed), "{model}");
        let total = requests(model).len() as u64;
        let counts = worker.counts_until(|counts| counts.requests == total);
        assert_eq!(counts.run_failures, failed as u64);
        assert_eq!((counts.contract_refusals, counts.assertion_failures), (0, 0));
    }
}

#[test]
fn nan_is_withheld_by_the_assertion_and_without_one() {
    for (assertions, error) in [
        (
            vec![assertion(json!({"name": "sane", "output": "probabilities", "check": "finite"}))],
            "assertion `sane` failed",
        ),
        (vec![], "output assertion: output `probabilities`"),
    ] {
        let mut nan = assignment("digits", "nan");
        nan.assertions = assertions;
        let worker = Worker::serving(&nan);
        assert_eq!(walk(&worker, "digits", error), (197, 78));
        let counts = worker.counts_until(|counts| counts.requests == 300);
        assert_eq!((counts.assertion_failures, counts.run_failures), (78, 0));
    }
}

#[test]
fn swapped_classes_pass_every_check_and_are_nearly_all_wrong() {
    for (model, right) in [("digits", 2), ("cancer", 13)] {
        let mut swapped = assignment(model, "swapped");
        swapped.assertions = vec![
            assertion(
                json!({"name": "sum", "output": "probabilities", "check": "sums-to-one", "tolerance": "0.001"}),
            ),
            assertion(
                json!({"name": "range", "output": "probabilities", "check": "range", "minimum": "0", "maximum": "1"}),
            ),
        ];
        let worker = Worker::serving(&swapped);
        assert_eq!(walk(&worker, model, ""), (right, 0), "{model}");
    }
}

#[test]
fn the_slow_version_is_right_and_slow() {
    for model in ["digits", "cancer"] {
        let (slow, good) =
            (Worker::serving(&assignment(model, "slow")), Worker::serving(&assignment(model, "1.0.0")));
        let (mut slow, mut good) = (slow.connect(), good.connect());
        let mut times = Vec::new();
        for (body, _) in requests(model).iter().take(10) {
            let expected = good.infer(body).label();
            let began = Instant::now();
            assert_eq!(slow.infer(body).label(), expected);
            times.push(began.elapsed());
        }
        let fastest = times.iter().min().unwrap();
        assert!(*fastest >= Duration::from_millis(10), "{model}: {fastest:?}");
    }
}

#[test]
fn the_crashing_version_kills_its_process_with_sigfpe() {
    for model in ["digits", "cancer"] {
        let mut worker = Worker::serving(&assignment(model, "crash"));
        let mut client = worker.connect();
        let infer = format!("POST /v2/models/{model}/infer HTTP/1.1\r\nhost: test\r\ncontent-length: ");
        let mut answered = 0;
        for (body, _) in requests(model) {
            use std::io::Write;
            client.stream.write_all(format!("{infer}{}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
            match client.read_reply(true) {
                Some(reply) => assert_eq!(reply.status, 200),
                None => break,
            }
            answered += 1;
        }
        assert!(answered < requests(model).len(), "{model} never crashed");
        assert_eq!(worker.ended().signal(), Some(rustix::process::Signal::FPE.as_raw()));
    }
}

#[test]
fn the_greedy_version_gets_no_memory_beyond_its_limit_and_lives_on() {
    let worker = Worker::serving(&assignment("digits", "greedy"));
    let limit = Some(2 << 30);
    let pid = Pid::from_child(&worker.child);
    prlimit(Some(pid), Resource::As, Rlimit { current: limit, maximum: limit }).unwrap();
    assert_eq!(walk(&worker, "digits", "the model failed: "), (197, 78));
    assert_eq!(worker.connect().get("/v2/health/live").status, 200);
}
