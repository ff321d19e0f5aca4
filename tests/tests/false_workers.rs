//! Processes that only play a worker, in the real cell, before the real daemon and live traffic: a version that is never
//! ready, one that takes no connection, and one that keeps its listener after it was told to leave. What else is served
//! notices nothing.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use turnout_protocol::control::{ReleaseState, ReleaseStatus};
use turnout_scenarios::daemon::copy_program;
use turnout_scenarios::load::{Load, Running};
use turnout_scenarios::models::{FIRST, Source};
use turnout_scenarios::scenario::{Scene, good_version_whole, play, text, whole};

/// Most requests reach the good version, whatever the other does with its own.
const CANARY: &str = "\
strategy: {kind: weight}
steps: [{percent: 30}, {percent: 100}]
window: 500ms
windows: {look_back: 3, consecutive: 2}
objectives: {p95_ms: 500, error_rate: 0.02}
minimum_requests: 3
patience: 20s
";
/// Patience of the clients of `digits`.
const DEADLINE: Duration = Duration::from_secs(2);
/// Seconds that a worker gets to become ready: a real one on a busy machine, too.
const READY_SECONDS: u64 = 10;

#[test]
fn a_version_that_never_becomes_ready_is_rolled_back_at_its_deadline() {
    play("never-ready", |scene| {
        scene.instance.configure("ready_seconds", &READY_SECONDS.to_string())?;
        let worker = replaceable_worker(scene)?;
        scene.open_with(&[])?;
        scene.import(Source { model: "digits", version: FIRST, label: "mute" })?;
        let traffic = scene.traffic()?;
        let before = scene.workers()?;
        put_false_one(scene, &worker)?;
        let asked = Instant::now();
        scene.release("mute", CANARY)?;
        let release = scene.ended()?;
        let cause = release.cause.clone().unwrap_or_default();
        let late = cause.contains(&format!("not ready within {READY_SECONDS} s"));
        ensure!(release.state == ReleaseState::RolledBack && late, "{release:?}");
        ensure!(asked.elapsed() >= Duration::from_secs(READY_SECONDS), "before the deadline: {release:?}");
        ensure!(scene.workers()? == before, "a worker is left, or one is gone");
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn a_version_that_takes_no_connection_is_rolled_back_for_what_its_clients_waited() {
    play("deaf", |scene| {
        let release = release_falsely(scene, "deaf")?;
        let cause = release.cause.clone().unwrap_or_default();
        ensure!(cause.starts_with("p95"), "{release:?}");
        Ok(())
    });
}

#[test]
fn a_version_that_keeps_its_listener_when_told_to_leave_is_cut_off_and_killed() {
    play("stays", |scene| {
        let release = release_falsely(scene, "stays")?;
        let cause = release.cause.clone().unwrap_or_default();
        ensure!(cause.starts_with("error rate"), "{release:?}");
        let told = scene.records(0)?.into_iter().map(|record| record.to_string());
        let stays = "the worker does not leave by itself";
        let cut = "connections are still open";
        ensure!(
            told.filter(|record| record.contains(stays) || record.contains(cut)).count() == 1,
            "no word of a worker that stays"
        );
        Ok(())
    });
}

/// Releases a version of `digits` whose worker is a false one, under live traffic on every model, and waits for the end.
/// Holds that it was rolled back, that nothing is left of it, and that nobody else's requests failed.
fn release_falsely(scene: &mut Scene, label: &str) -> Result<ReleaseStatus> {
    let worker = replaceable_worker(scene)?;
    scene.open_with(&[])?;
    scene.import(Source::of("cancer", FIRST))?;
    scene.ctl.ok(&["release", "start", "cancer@1.0.0", "--wait", "--timeout", "30s"])?;
    scene.import(Source { model: "digits", version: FIRST, label })?;
    let before = scene.workers()?;
    let [digits, cancer] = traffic(scene)?;
    put_false_one(scene, &worker)?;
    scene.release(label, CANARY)?;
    let release = scene.ended()?;
    ensure!(release.state == ReleaseState::RolledBack, "{release:?}");
    ensure!(scene.workers()? == before, "a worker is left, or one is gone");
    let after = digits.elapsed();
    std::thread::sleep(2 * DEADLINE);
    whole(&scene.finish(cancer)).context("another model")?;
    let tally = scene.finish(digits);
    good_version_whole(&tally)?;
    let late: Vec<_> = tally.failures.iter().filter(|failed| failed.at > after).collect();
    ensure!(late.is_empty(), "after the rollback: {late:?}");
    scene.ctl.ok(&["audit", "verify"])?;
    Ok(release)
}

/// A worker's program that can be changed beneath a launcher: a copy of the real one, configured.
fn replaceable_worker(scene: &Scene) -> Result<PathBuf> {
    let worker = scene.instance.folder().join("worker");
    copy_program(&scene.instance.program("turnout-worker"), &worker)?;
    scene.instance.configure("worker", &format!("{:?}", text(&worker)?))?;
    Ok(worker)
}

/// Whoever starts a worker from now on starts a false one.
fn put_false_one(scene: &Scene, worker: &Path) -> Result<()> {
    let program = worker.with_extension("new");
    copy_program(&scene.instance.program("false-worker"), &program)?;
    fs::rename(&program, worker).map_err(Into::into)
}

fn traffic(scene: &Scene) -> Result<[Running; 2]> {
    let digits = Load { deadline: DEADLINE, ..scene.load_on("digits")? };
    Ok([scene.begin(&digits)?, scene.begin(&scene.load_on("cancer")?)?])
}
