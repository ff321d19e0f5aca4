//! A second version in a worker that serves: loaded beside the first, changed over to and back while clients ask on kept
//! connections, and let go of.
#![allow(clippy::unwrap_used, reason = "test code: a panic is the report")]

mod harness;

use harness::{Worker, assertion, assignment, models, requests};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use turnout_manifest::Sha256;
use turnout_protocol::worker::{Assignment, FromWorker, ToWorker};

const CHANGES: usize = 100;

/// A worker whose folder shows one version after another, as its mount does in a cell.
struct Stage {
    place: TempDir,
    worker: Worker,
}

impl Stage {
    fn new(threads: u32) -> Self {
        let place = tempfile::tempdir().unwrap();
        show(&place, "1.0.0");
        let worker = Worker::start("digits", place.path().join("model").to_str().unwrap());
        let worker = worker.assigned(&version("1.0.0", threads));
        Self { place, worker }
    }

    fn load(&self, assignment: &Assignment) -> FromWorker {
        self.worker.say(&ToWorker::Load(Box::new(assignment.clone())));
        self.answer()
    }

    fn loaded(&self, name: &str, threads: u32) {
        show(&self.place, name);
        match self.load(&version(name, threads)) {
            FromWorker::Loaded { digest, .. } => assert_eq!(digest, digest_of(name)),
            other => panic!("{other:?}"),
        }
    }

    fn failed(&self, assignment: &Assignment) -> String {
        match self.load(assignment) {
            FromWorker::LoadFailed { digest, reason } if digest == assignment.digest => reason,
            other => panic!("{other:?}"),
        }
    }

    fn switched(&self, name: &str) {
        let digest = digest_of(name);
        self.worker.say(&ToWorker::Switch { digest });
        assert_eq!(self.answer(), FromWorker::Switched { digest });
    }

    /// The next message that is no count.
    fn answer(&self) -> FromWorker {
        loop {
            match self.worker.hear() {
                FromWorker::Counts(_) => {}
                message => return message,
            }
        }
    }
}

fn show(place: &TempDir, name: &str) {
    let (link, new) = (place.path().join("model"), place.path().join("new"));
    symlink(models().join("digits").join(name), &new).unwrap();
    fs::rename(new, link).unwrap();
}

fn digest_of(name: &str) -> Sha256 {
    Sha256::of(name.as_bytes())
}

fn version(name: &str, threads: u32) -> Assignment {
    Assignment { digest: digest_of(name), threads, ..assignment("digits", name) }
}

#[test]
fn clients_on_kept_connections_meet_one_version_or_the_other_and_no_error() {
    let threads = 2;
    let stage = Stage::new(threads);
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    // The versions give other probabilities for the same row, and each of them the same for ever.
    let bodies: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let body = requests("digits")[0].0.clone();
                let mut client = stage.worker.connect();
                while !stop.load(Ordering::Relaxed) {
                    let reply = client.infer(&body);
                    assert_eq!(reply.status, 200, "{reply:?}");
                    let (version, json) = (reply.header("turnout-version").unwrap(), reply.json());
                    assert_eq!(json["model_version"], version, "body and head name one version");
                    let mut bodies = bodies.lock().unwrap();
                    let first = bodies.entry(version.to_owned()).or_insert_with(|| reply.body.clone());
                    assert_eq!(*first, reply.body, "{version}");
                    drop(bodies);
                    let digest = digest_of(version).to_string();
                    assert_eq!(reply.header("turnout-version-digest"), Some(&*digest));
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let body = requests("digits")[0].0.clone();
        let mut client = stage.worker.connect();
        for change in 0..CHANGES {
            let name = ["better", "1.0.0"][change % 2];
            stage.loaded(name, threads);
            stage.switched(name);
            // Asked after the worker's word, each connection is answered by it.
            assert_eq!(client.infer(&body).header("turnout-version"), Some(name));
            let (before, began) = (answers.load(Ordering::Relaxed), Instant::now());
            while answers.load(Ordering::Relaxed) < before + 4 {
                assert!(began.elapsed() < harness::DEADLINE, "the clients stand still");
                std::thread::sleep(Duration::from_millis(1));
            }
            stage.worker.say(&ToWorker::Unload);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(bodies.into_inner().unwrap().len(), 2);
}

#[test]
fn a_version_that_cannot_be_loaded_leaves_the_one_that_answers() {
    let stage = Stage::new(1);
    let mut client = stage.worker.connect();
    let with = |change: &dyn Fn(&mut Assignment)| {
        let mut changed = version("better", 1);
        change(&mut changed);
        stage.failed(&changed)
    };
    for (reason, expected) in [
        (with(&|changed| changed.model_file = "missing.onnx".to_owned()), "missing.onnx"),
        (with(&|changed| changed.threads = 2), "it asks for 2 threads, this worker has 1"),
        (with(&|changed| changed.threads = 65), "65 threads"),
        (
            with(&|changed| {
                changed.assertions = vec![assertion(json!({"name": "a", "output": "no", "check": "finite"}))];
            }),
            "there is no output `no`",
        ),
    ] {
        assert!(reason.contains(expected), "{reason}");
        let digest = digest_of("better");
        stage.worker.say(&ToWorker::Switch { digest });
        let reason = "it is not loaded".to_owned();
        assert_eq!(stage.answer(), FromWorker::SwitchFailed { digest, reason });
        let reply = client.infer(&requests("digits")[0].0);
        assert_eq!((reply.status, reply.header("turnout-version")), (200, Some("1.0.0")));
    }
}

#[test]
fn orders_that_come_again_are_answered_again() {
    let stage = Stage::new(1);
    for _ in 0..2 {
        stage.loaded("better", 1);
    }
    for name in ["better", "better", "1.0.0", "1.0.0", "better"] {
        stage.switched(name);
    }
    // What answers is loaded too, and stays when all else goes.
    stage.loaded("better", 1);
    stage.worker.say(&ToWorker::Unload);
    stage.worker.say(&ToWorker::Unload);
    stage.switched("better");
    let digest = digest_of("1.0.0");
    stage.worker.say(&ToWorker::Switch { digest });
    assert!(matches!(stage.answer(), FromWorker::SwitchFailed { .. }));
}

#[test]
fn a_load_that_was_taken_back_is_not_what_a_later_one_gets() {
    let stage = Stage::new(1);
    show(&stage.place, "better");
    stage.worker.say(&ToWorker::Load(Box::new(version("better", 1))));
    stage.worker.say(&ToWorker::Unload);
    show(&stage.place, "slow");
    // The first load may be over by now or not: either way the answer is about this one.
    match stage.load(&version("slow", 1)) {
        FromWorker::Loaded { digest, .. } if digest == digest_of("better") => {
            assert!(
                matches!(stage.answer(), FromWorker::Loaded { digest, .. } if digest == digest_of("slow"))
            );
        }
        other => assert!(matches!(other, FromWorker::Loaded { digest, .. } if digest == digest_of("slow"))),
    }
    stage.switched("slow");
}

#[test]
fn a_worker_that_serves_nothing_loads_nothing_beside_it() {
    let mut worker = Worker::start("digits", "1.0.0");
    worker.say(&ToWorker::Load(Box::new(version("1.0.0", 1))));
    assert_eq!(worker.ended().code(), Some(1));
}

#[test]
fn a_worker_leaves_also_while_it_loads() {
    let mut stage = Stage::new(1);
    show(&stage.place, "better");
    stage.worker.say(&ToWorker::Load(Box::new(version("better", 1))));
    stage.worker.say(&ToWorker::Drain { idle_ms: 0 });
    assert!(stage.worker.ended().success());
}
