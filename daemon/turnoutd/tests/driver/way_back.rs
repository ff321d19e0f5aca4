//! `rollback` at every moment after a promotion: while the old version is retired, while the new one's worker is brought up
//! again, and once more when the way back has failed.

use crate::door::{DEADLINE, Door, Reply, check_problem};
use crate::stage::{bundle, model};
use crate::workers::Answer;
use serde_json::Value;
use std::time::{Duration, Instant};
use turnout_engine::record::Kind;
use turnout_engine::{Progress, Record, Release};
use turnout_host::cells::WorkerState;
use turnout_host::fake::{Fault, When};
use turnout_manifest::Generation;

impl Door {
    /// These were released, one after the other, and the second is there.
    fn released(versions: &[&str]) -> Self {
        let door = Self::open();
        for version in ["1", "2"] {
            assert_eq!(door.import(&bundle(version)).status, 200);
        }
        for version in versions {
            assert_eq!(door.release_and_wait(version)["state"], "promoted");
        }
        door
    }

    fn at_second() -> Self {
        Self::released(&["1", "2"])
    }

    fn roll_back(&self) -> Reply {
        self.json("POST /v1/models/digits/rollback", "{}")
    }

    /// The release that a rollback answered with, once it has ended.
    fn ended(&self, reply: &Reply) -> Value {
        assert_eq!(reply.status, 200, "{reply:?}");
        let path = format!("/v1/releases/{}", reply.body["release_id"].as_str().unwrap());
        self.comes(|door| {
            let release = door.get(&path).body;
            let state = release["state"].as_str().unwrap();
            (!["running", "rolling_back"].contains(&state)).then_some(release)
        })
    }

    fn newest(&self) -> Release {
        let view = self.desk.view();
        let last = view.world.models[&model()].last.unwrap();
        Release::clone(&view.world.releases[&last])
    }

    fn live(&self) -> (String, Generation) {
        let live = self.desk.view().world.models[&model()].live.clone().unwrap();
        (live.version.to_string(), live.generation)
    }

    fn comes<T>(&self, found: impl Fn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "hangs: {:#?}", self.newest());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The worker that serves dies, and its next one loads without end.
    fn lose_worker(&self) {
        self.stage.workers.answer(Answer::Silent);
        self.stage.host.end_worker(self.live().1, WorkerState::Killed(9));
        self.stage.workers.notice();
        self.comes(|door| (door.newest().planned.kind == Kind::Restart).then_some(()));
    }

    fn planned(&self, kind: Kind) -> usize {
        let is_one = |record: &Record| matches!(record, Record::Planned(planned) if planned.kind == kind);
        self.journaled().iter().filter(|record| is_one(record)).count()
    }
}

#[test]
fn a_way_back_that_failed_is_begun_again_when_it_is_asked_for_again() {
    let door = Door::at_second();
    door.stage.host.fail(When::Every("start_worker"), Fault::Refused);
    let mut before = String::new();
    for _ in 0..2 {
        let failed = door.ended(&door.roll_back());
        assert_eq!(
            (failed["kind"].as_str(), failed["state"].as_str()),
            (Some("return"), Some("rolled_back"))
        );
        assert_ne!(failed["release_id"].as_str(), Some(before.as_str()));
        failed["release_id"].as_str().unwrap().clone_into(&mut before);
        assert_eq!(door.live().0, "2");
    }
    door.stage.host.heal();
    assert_eq!(door.ended(&door.roll_back())["state"], "promoted");
    assert_eq!(door.live().0, "1");
    // The version before is back: nothing is left to do, and it does not go to and fro.
    assert_eq!(door.ended(&door.roll_back())["kind"], "return");
    assert_eq!((door.live().0.as_str(), door.planned(Kind::Return)), ("1", 3));
}

#[test]
fn a_rollback_while_the_old_version_is_retired_begins_when_that_is_over() {
    let door = Door::released(&["1"]);
    door.stage.freeze();
    let plan = serde_json::to_value(turnout_manifest::Plan::all_at_once()).unwrap();
    let request = serde_json::json!({ "version": "digits@2", "plan": plan }).to_string();
    assert_eq!(door.json("POST /v1/releases", &request).status, 201);
    door.comes(|door| {
        door.stage.step();
        (door.newest().progress == Progress::Tidying).then_some(())
    });
    let asked = door.json_meanwhile("POST /v1/models/digits/rollback", "{}");
    // It is asked while nothing of the retirement goes on.
    std::thread::sleep(Duration::from_millis(50));
    assert!(!asked.is_finished());
    door.comes(|door| {
        door.stage.step();
        asked.is_finished().then_some(())
    });
    let reply = asked.join().unwrap();
    assert_eq!(reply.body["kind"], "return", "{reply:?}");
    let done = door.comes(|door| {
        door.stage.step();
        let release = door.get(&format!("/v1/releases/{}", reply.body["release_id"].as_str().unwrap())).body;
        (release["state"] != "running").then_some(release)
    });
    assert_eq!((done["state"].as_str(), door.live().0.as_str()), (Some("promoted"), "1"));
}

#[test]
fn a_second_rollback_does_not_undo_the_way_back() {
    let door = Door::at_second();
    door.stage.freeze();
    let (first, second) = (door.roll_back(), door.roll_back());
    assert_eq!(first.body["release_id"], second.body["release_id"]);
    door.comes(|door| {
        door.stage.step();
        matches!(door.newest().progress, Progress::Ended(_)).then_some(())
    });
    assert_eq!(door.ended(&second)["state"], "promoted");
    assert_eq!(door.live().0, "1");
}

#[test]
fn a_rollback_while_a_worker_is_brought_up_again_leaves_that_version() {
    let door = Door::at_second();
    door.lose_worker();
    door.stage.workers.answer(Answer::Ready);
    let reply = door.roll_back();
    assert_eq!(door.ended(&reply)["state"], "promoted");
    assert_eq!((reply.body["kind"].as_str(), door.live().0.as_str()), (Some("return"), "1"));
    assert_eq!(door.planned(Kind::Restart), 1, "the version that was left is not started again");
}

#[test]
fn a_rollback_with_no_version_before_lets_the_worker_be_brought_up() {
    let door = Door::released(&["1"]);
    door.lose_worker();
    check_problem(&door.roll_back(), 409, "conflict");
    let restart = door.newest();
    assert!(restart.planned.kind == Kind::Restart && restart.interrupted.is_none(), "{restart:?}");
}
