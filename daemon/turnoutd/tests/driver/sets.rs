//! Two models as one set through the real driver and the control API: `kill -9` at every record, in one step home, and
//! what the API says of it.

use crate::crashes::MOMENTS;
use crate::door::{DEADLINE, Door, check_problem};
use crate::power::Moment;
use crate::shelf::{SHELF, second};
use crate::stage::{GOOD, Load, PORT, SECOND_PORT, Stage, model, plan};
use serde_json::{Value, json};
use std::ops::Range;
use std::time::Instant;
use turnout_engine::advance::StartSet;
use turnout_engine::record::End;
use turnout_engine::{Event, Progress};
use turnout_host::cells::Cells;
use turnout_host::store::StoredName;
use turnout_manifest::{Generation, ModelName, Percent, Plan, SetName};

/// The second model's first version comes before the set, so these are the set's workers, in the order of the models.
const SECOND_NEW: Generation = Generation(3);
const FIRST_NEW: Generation = Generation(4);

fn name() -> SetName {
    "vision".parse().unwrap()
}

fn models() -> [ModelName; 2] {
    [second(), model()]
}

fn shown(version: &str) -> Vec<StoredName> {
    models().map(|model| SHELF.stored(&model, version)).to_vec()
}

/// Both models are live with their first versions.
fn stage() -> Stage {
    let mut stage = Stage::live();
    let first = Stage::start_of(&second(), "1", Plan::all_at_once());
    stage.ask(Event::Start(Box::new(first))).unwrap();
    settle(&mut stage);
    stage
}

fn release(stage: &mut Stage) {
    let starts = models().iter().map(|model| Stage::start_of(model, "2", plan())).collect();
    stage.ask(Event::StartSet(Box::new(StartSet { name: name(), starts }))).unwrap();
    settle(stage);
}

/// Turns until nothing is under way.
fn settle(stage: &mut Stage) {
    let deadline = Instant::now() + DEADLINE;
    while models().iter().any(|model| {
        let world = stage.running().driver.world();
        world.current(model).is_some_and(|release| release.progress != Progress::Ended(End::Stuck))
    }) {
        assert!(Instant::now() < deadline, "hangs: {:#?}", stage.tail());
        stage.turn();
    }
}

fn ends(stage: &mut Stage) -> Vec<Option<End>> {
    let world = stage.running().driver.world();
    let of_set = |model: &ModelName| {
        let last = &world.releases[&world.models[model].last?];
        match last.progress {
            Progress::Ended(end) => last.planned.set.as_ref().map(|_| end),
            _ => None,
        }
    };
    models().iter().map(of_set).collect()
}

/// Both are where this says: what serves, what is shown, what runs.
fn check(stage: &mut Stage, version: &str, context: &str) {
    stage.check();
    let world = stage.running().driver.world().clone();
    let live = models().map(|model| world.models[&model].live.clone().unwrap());
    for (live, port) in live.iter().zip([SECOND_PORT, PORT]) {
        assert_eq!(live.version.as_str(), version, "{context}");
        let arms = stage.host.route_of(port).unwrap().arms;
        assert_eq!(arms, [(live.generation, Percent::ALL)], "{context}");
    }
    let mut cells: Vec<Generation> = stage.host.cells().unwrap().into_iter().map(|cell| cell.0).collect();
    let mut wanted = live.map(|live| live.generation);
    cells.sort();
    wanted.sort();
    assert_eq!(cells, wanted, "{context}");
    let current: Vec<_> = models().iter().filter_map(|model| stage.host.current(model)).collect();
    assert_eq!(current, shown(version), "{context}");
    let set = if version == "2" { shown("2") } else { Vec::new() };
    assert_eq!(stage.host.current_set(&name()), set, "{context}");
    let journal = stage.folder.path().join("journal");
    turnout_journal::verify(&journal).unwrap();
    assert_eq!(turnoutd::recover::replay(&journal).unwrap(), world, "{context}");
}

/// The power goes at each record of the release of a set, before and after what it announces.
fn crash_at_every_record(load: Load, end: End) {
    let prepared = || {
        let mut stage = stage();
        stage.loads.insert(FIRST_NEW, load);
        stage
    };
    let mut whole = prepared();
    let first = whole.records();
    release(&mut whole);
    assert_eq!(ends(&mut whole), [Some(end); 2]);
    let records: Range<u64> = first..whole.records();
    let mut crashed = 0;
    for (seq, moment) in records.clone().flat_map(|seq| MOMENTS.map(|moment: Moment| (seq, moment))) {
        let mut stage = prepared();
        if !stage.cut_at((seq, moment), release) {
            continue;
        }
        crashed += 1;
        let context = format!("cut at {seq} {moment:?}");
        stage.open();
        settle(&mut stage);
        let ended = ends(&mut stage);
        assert!(ended[0] == ended[1] && ended[0].is_some(), "{context}: {ended:?}");
        assert!(ended[0] == Some(end) || ended[0] == Some(End::RolledBack), "{context}: {ended:?}");
        check(&mut stage, if ended[0] == Some(End::Promoted) { "2" } else { "1" }, &context);
    }
    assert!(crashed > 60, "{crashed} times in {records:?}");
}

#[test]
fn a_good_set_survives_a_crash_at_every_record() {
    crash_at_every_record(GOOD, End::Promoted);
}

#[test]
fn a_set_with_a_bad_member_goes_home_across_a_crash_at_every_record() {
    crash_at_every_record(Load { errors: 10, ..GOOD }, End::RolledBack);
}

#[test]
fn a_machine_that_was_booted_again_shows_its_sets_again() {
    let mut stage = stage();
    release(&mut stage);
    assert_eq!(ends(&mut stage), [Some(End::Promoted); 2]);
    assert!(stage.arms().iter().all(|(generation, _)| *generation == FIRST_NEW && *generation > SECOND_NEW));
    stage.close();
    stage.host.reboot();
    stage.mourning = true;
    stage.open();
    assert_eq!(stage.host.current_set(&name()), shown("2"));
}

/// Waits until no release is under way, and gives the status.
pub fn over(door: &Door) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = door.get("/v1/status").body;
        let models = status["models"].as_array().unwrap();
        let ended = |model: &Value| {
            let state = model["release"]["state"].as_str().unwrap();
            !["running", "rolling_back"].contains(&state)
        };
        if models.iter().all(ended) {
            return status;
        }
        assert!(Instant::now() < deadline, "{status}");
        std::thread::yield_now();
    }
}

fn wanted(versions: &[&str]) -> String {
    let members: Vec<Value> = versions.iter().map(|version| json!({ "version": version })).collect();
    json!({ "set": "vision", "members": members, "plan": Plan::all_at_once() }).to_string()
}

#[test]
fn the_api_starts_a_set_shows_it_and_takes_it_back_as_a_set() {
    let door = Door::on(Stage::bare());
    for model in models() {
        for version in ["1", "2"] {
            assert_eq!(door.import(&SHELF.bundle(&model, version)).status, 200, "{model}@{version}");
        }
    }
    let refused = |versions: &[&str], status, code, message: &str| {
        let reply = door.json("POST /v1/sets", &wanted(versions));
        check_problem(&reply, status, code);
        assert!(reply.body.to_string().contains(message), "{reply:?}");
    };
    refused(&["digits@1"], 422, "refused", "a set names 2 to 16 models, not 1");
    refused(&["digits@1", "digits@2"], 422, "refused", "`digits` is named twice");
    refused(&["digits@1", "cancer@7"], 404, "not-found", "`cancer@7` is not in the store");
    let dry = wanted(&["digits@1", "cancer@1"]).replacen('{', "{\"dry_run\":true,", 1);
    let dry = door.json("POST /v1/sets", &dry);
    assert_eq!(dry.status, 200, "{dry:?}");
    let leader = &dry.body["releases"][0];
    assert_eq!(leader["version"], "cancer@1");
    assert!(leader["steps"].to_string().contains("point the set to the new versions"), "{leader}");
    assert!(door.get("/v1/releases").body["releases"].as_array().unwrap().is_empty());

    for version in ["1", "2"] {
        let versions = [format!("digits@{version}"), format!("cancer@{version}")];
        let started = door.json("POST /v1/sets", &wanted(&[&versions[0], &versions[1]]));
        assert_eq!(started.status, 201, "{started:?}");
        assert_eq!(started.body["releases"][0]["set"]["set"], "vision");
        let set = &over(&door)["sets"][0];
        let shows = |model| json!({ "model": model, "version": version });
        assert_eq!(set["models"], json!([shows("cancer"), shows("digits")]));
        assert!(set["folder"].as_str().unwrap().ends_with("/sets/vision/current"), "{set}");
        assert_eq!(door.stage.host.current_set(&name()), shown(version));
    }
    let ports: Vec<Value> =
        over(&door)["models"].as_array().unwrap().iter().map(|model| model["endpoints"][0].clone()).collect();
    assert_ne!(ports[0], ports[1], "two first versions of one set have two ports");

    // Once, and again: the second time nothing is left to do.
    for _ in 0..2 {
        assert_eq!(door.json("POST /v1/models/digits/rollback", "").status, 200);
        let status = over(&door);
        for model in status["models"].as_array().unwrap() {
            assert_eq!(model["versions"][0]["version"], "1", "{status}");
        }
        assert_eq!(door.stage.host.current_set(&name()), shown("1"));
        assert_eq!(door.get("/v1/releases").body["releases"].as_array().unwrap().len(), 6);
    }
}
