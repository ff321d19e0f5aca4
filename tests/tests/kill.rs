//! The daemon is killed or stopped while traffic flows: at the records of a release, in the middle of a split, and for
//! good. No request may fail, no weight may change, and what was begun comes to its end.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use turnout_protocol::control::{ReleaseState, ReleaseStatus};
use turnout_scenarios::kills::{kill_once, kind, of_a_release};
use turnout_scenarios::load::{Load, Pace};
use turnout_scenarios::models::FIRST;
use turnout_scenarios::scenario::{CANARY, LIMIT, Scene, THOROUGH, play, until, whole};
use turnout_scenarios::tally::{Tally, wilson};

/// The same as [`THOROUGH`] in the worker that serves.
const IN_PLACE: &str = "\
strategy: {kind: in-place}
window: 1s
windows: {look_back: 1, consecutive: 1}
objectives: {error_rate: 0.02}
minimum_requests: 40
patience: 30s
on_breach: rollback
";
/// Half the connections, until somebody says otherwise.
const HALF: &str = "\
strategy: {kind: weight}
steps: [{percent: 50}, {percent: 100}]
window: 1h
windows: {look_back: 1, consecutive: 1}
objectives: {error_rate: 0.05}
minimum_requests: 5
patience: 2h
on_breach: rollback
";
/// Records at which a release is killed, one release each.
const WORDS: [&str; 11] = [
    "planned",
    "intent verify-files",
    "intent create-cell",
    "done start-worker",
    "intent await-ready",
    "done shift",
    "observed",
    "intent point",
    "promoted",
    "intent drain",
    "intent snapshot",
];
/// Standard deviations that a split may be off: once in 150,000 runs it is by chance.
const DEVIATIONS: f64 = 4.5;
/// Requests while no daemon runs.
const ALONE: u64 = 10_000;
/// Kills that one release may take: a few for each of its records.
const KILLS_MAX: usize = 300;

#[test]
fn a_release_killed_at_each_of_its_records_is_promoted_and_no_request_fails() {
    play("each-record", |scene| {
        scene.open_with(&["better"])?;
        let traffic = scene.traffic()?;
        let (kinds, release) = kill_at_each_record(scene, "better", CANARY)?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        // Which other records were the last ones at a kill is a matter of microseconds.
        for kind in ["intent", "done", "ended"] {
            ensure!(kinds.iter().any(|found| found == kind), "no kill after a record `{kind}`: {kinds:?}");
        }
        let tally = scene.finish_whole(traffic)?;
        ensure!(tally.version("better").is_some(), "the new version was never asked");
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

#[test]
fn a_rollback_killed_at_each_of_its_records_ends_at_home() {
    play("each-record-back", |scene| {
        scene.open_with(&["errors"])?;
        let traffic = scene.traffic()?;
        let (kinds, release) = kill_at_each_record(scene, "errors", THOROUGH)?;
        ensure!(release.state == ReleaseState::RolledBack, "{release:?}");
        ensure!(kinds.len() > 10, "few kills: {kinds:?}");
        let tally = scene.finish(traffic);
        good_versions_whole(&tally)?;
        ensure!(tally.failed == 0, "{:?}", tally.failures);
        let live = scene.digits()?.context("digits is gone")?.versions;
        ensure!(live.len() == 1 && live[0].version.as_str() == FIRST, "{live:?}");
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

#[test]
fn releases_in_place_killed_at_each_of_their_records_end_and_no_request_fails() {
    play("each-record-in-place", |scene| {
        scene.open_with(&["better", "errors"])?;
        let worker = scene.workers()?;
        let traffic = scene.traffic()?;
        for (version, end) in [("better", ReleaseState::Promoted), ("errors", ReleaseState::RolledBack)] {
            let (kinds, release) = kill_at_each_record(scene, version, IN_PLACE)?;
            ensure!(release.state == end, "{release:?}");
            ensure!(kinds.len() > 10, "few kills: {kinds:?}");
        }
        let tally = scene.finish(traffic);
        ensure!(tally.failed == 0, "{:?}", tally.failures);
        for version in [FIRST, "better"] {
            let good = tally.version(version).with_context(|| format!("`{version}` was never asked"))?;
            ensure!(good.all.errors == 0, "{} errors from `{version}`", good.all.errors);
        }
        ensure!(scene.workers()? == worker, "the worker is another one");
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

#[test]
fn a_release_killed_once_at_any_record_ends_and_no_request_fails() {
    play("one-record", |scene| {
        scene.open_with(&["better"])?;
        let traffic = scene.traffic()?;
        for (run, word) in WORDS.into_iter().enumerate() {
            let from = scene.status()?.journal.size;
            let version = ["better", FIRST][run % 2];
            let killed = std::thread::scope(|scope| {
                let ctl = scene.ctl.clone();
                let plan = scene.plan(CANARY)?;
                // It may be killed under this command, which then fails: what counts is the record.
                scope.spawn(move || {
                    ctl.run(&["release", "start", &format!("digits@{version}"), "--plan", &plan])
                });
                kill_once(scene, from, |record| self::word(record) == word)
            });
            killed.with_context(|| format!("to be killed at `{word}`"))?;
            scene.instance.start()?;
            let release = scene.ended()?;
            let to = (release.to.as_str(), release.state);
            ensure!(to == (version, ReleaseState::Promoted), "killed at `{word}`: {release:?}");
        }
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn without_a_daemon_requests_succeed_and_follow_the_last_weights() {
    play("alone", |scene| {
        scene.open_with(&["better"])?;
        scene.release("better", HALF)?;
        scene.at_step("observe at 50 %")?;
        scene.ctl.ok(&["release", "pause", "digits"])?;
        scene.instance.kill()?;
        let load = Load { most_requests: ALONE, short_per_second: 300, pace: Pace::Closed, ..scene.load()? };
        let tally = scene.wait_for(scene.begin(&load)?.ended());
        whole(&tally)?;
        ensure!(tally.sent == ALONE, "{} requests", tally.sent);
        half_of_connections(&tally)?;
        // Back again it knows where it was, and goes on from there.
        scene.instance.start()?;
        let held = scene.last_release()?.context("the release is gone")?;
        ensure!(held.state == ReleaseState::Paused && held.asked.to_string() == "50 %", "{held:?}");
        scene.ctl.ok(&["release", "promote", "digits"])?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        Ok(())
    });
}

#[test]
fn stopping_and_starting_the_daemon_is_not_noticed_by_clients() {
    play("stop", |scene| {
        scene.open_with(&["better"])?;
        scene.release("better", HALF)?;
        scene.at_step("observe at 50 %")?;
        let traffic = scene.traffic()?;
        until("both versions are asked", LIMIT, || seen_by_daemon(scene))?;
        let before = scene.digits()?.context("digits is gone")?;
        let status = scene.instance.stop()?;
        ensure!(status.success(), "{status}");
        let answers = answers(&traffic.snapshot());
        until("both versions answer without a daemon", LIMIT, || {
            let now = self::answers(&traffic.snapshot());
            Ok((now.0 > answers.0 + 50 && now.1 > answers.1 + 50).then_some(()))
        })?;
        scene.instance.start()?;
        let after = scene.digits()?.context("digits is gone")?;
        let facts = |model: &turnout_protocol::control::ModelStatus| {
            let versions = model.versions.iter();
            let versions: Vec<_> =
                versions.map(|v| (v.version.to_string(), v.generation, v.asked, v.worker.clone())).collect();
            (
                versions,
                model
                    .release
                    .as_ref()
                    .map(|release| (release.release_id, release.state, release.step.clone())),
            )
        };
        ensure!(facts(&before) == facts(&after), "before: {before:?}, after: {after:?}");
        until("the counters continue", LIMIT, || seen_by_daemon(scene))?;
        let tally = scene.finish_whole(traffic)?;
        half_of_connections(&tally)
    });
}

/// Starts a release and kills the daemon after every record that it writes, until the release is over. Gives the kinds
/// of the records that were the last ones on disk at a kill.
fn kill_at_each_record(scene: &mut Scene, version: &str, plan: &str) -> Result<(Vec<String>, ReleaseStatus)> {
    let from = scene.status()?.journal.size;
    let mut next = from;
    let mut kinds = Vec::new();
    scene.release(version, plan)?;
    for _ in 0..KILLS_MAX {
        kill_once(scene, next, of_a_release)?;
        let records = scene.records(from)?;
        next = from + records.len() as u64;
        let last = records.iter().rfind(|record| of_a_release(record)).map(kind).unwrap_or_default();
        scene.instance.start()?;
        kinds.push(last.clone());
        if last == "ended" {
            return Ok((kinds, scene.ended()?));
        }
    }
    bail!("the release does not end: killed after {kinds:?}");
}

/// A record in short: its kind, and the step where it is about one.
fn word(record: &Value) -> String {
    let step = record["step"]["do"].as_str().map(|step| format!(" {step}"));
    kind(record) + &step.unwrap_or_default()
}

/// Answers of the old and of the new version.
fn answers(tally: &Tally) -> (u64, u64) {
    let of = |version| tally.version(version).map_or(0, |tally| tally.all.answers);
    (of(FIRST), of("better"))
}

fn half_of_connections(tally: &Tally) -> Result<()> {
    let of = |version| tally.version(version).map_or(0, |tally| tally.all.connections);
    let (old, new) = (of(FIRST), of("better"));
    let (low, high) = wilson(new, old + new, DEVIATIONS);
    ensure!(
        low <= 0.5 && 0.5 <= high && old + new > 100,
        "{new} of {} connections, asked were 50 %",
        old + new
    );
    Ok(())
}

fn good_versions_whole(tally: &Tally) -> Result<()> {
    let good = tally.version(FIRST).context("the old version was never asked")?;
    ensure!(good.all.errors == 0, "{} errors from the good version", good.all.errors);
    Ok(())
}

fn seen_by_daemon(scene: &Scene) -> Result<Option<()>> {
    let versions = scene.digits()?.map(|model| model.versions).unwrap_or_default();
    let all = versions.len() == 2 && versions.iter().all(|version| version.seen.requests > 0);
    Ok(all.then_some(()))
}
