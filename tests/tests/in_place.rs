//! Releases in the worker that serves, under live traffic: no connection closes, no request fails, what is bad is changed
//! back, and the worker keeps its process, its mounts and its limits.

use anyhow::{Context, Result, ensure};
use std::fs;
use turnout_protocol::control::ReleaseState;
use turnout_scenarios::load::{Load, Pace, Running};
use turnout_scenarios::models::{self, FIRST, Source};
use turnout_scenarios::scenario::{LIMIT, Scene, play, until};
use turnout_scenarios::tally::Tally;

/// Judged by every window, for its errors alone. A window holds so many requests that a bad one is among them.
const IN_PLACE: &str = "\
strategy: {kind: in-place}
window: 500ms
windows: {look_back: 3, consecutive: 2}
objectives: {error_rate: 0.02}
minimum_requests: 40
patience: 30s
";
const CONNECTIONS: usize = 8;
/// Releases to and fro.
const RELEASES: usize = 6;

#[test]
fn releases_in_place_close_no_connection_and_fail_no_request() {
    play("in-place", |scene| {
        scene.open_with(&["better"])?;
        let traffic = scene.begin(&kept(scene)?)?;
        let before = worker(scene)?;
        for release in 0..RELEASES {
            let version = ["better", FIRST][release % 2];
            scene.release(version, IN_PLACE)?;
            let ended = scene.ended()?;
            ensure!(ended.state == ReleaseState::Promoted, "{ended:?}");
            let answers = answers_of(&traffic.snapshot(), version);
            until("the new version answers", LIMIT, || {
                Ok((answers_of(&traffic.snapshot(), version) > answers + 20).then_some(()))
            })?;
            ensure!(worker(scene)? == before, "{:?} instead of {before:?}", worker(scene)?);
            shown_is_live(scene, version)?;
        }
        let tally = scene.finish_whole(traffic)?;
        ensure!(opened(&tally) == CONNECTIONS as u64, "{} connections", opened(&tally));
        let refused = scene
            .try_release("better", &format!("{IN_PLACE}steps: [{{percent: 50}}, {{percent: 100}}]\n"))?;
        ensure!(refused.expect(3)?.stderr.contains("takes all requests at once"), "shares in place");
        scene.ctl.ok(&["audit", "verify"]).map(drop)
    });
}

#[test]
fn a_version_that_fails_its_objectives_in_place_is_changed_back_on_the_same_connections() {
    play("in-place-bad", |scene| {
        scene.open_with(&["errors"])?;
        let traffic = scene.begin(&kept(scene)?)?;
        let before = worker(scene)?;
        scene.release("errors", IN_PLACE)?;
        let ended = scene.ended()?;
        let cause = ended.cause.clone().unwrap_or_default();
        ensure!(ended.state == ReleaseState::RolledBack && cause.contains("error rate"), "{ended:?}");
        ensure!(ended.timings.breach_to_home_ms.is_some(), "{:?}", ended.timings);
        ensure!(worker(scene)? == before, "the worker is another one");
        shown_is_live(scene, FIRST)?;
        // Answers that were on their way when the release was over are taken by then.
        old_version_answers(&traffic)?;
        let answers = answers_of(&traffic.snapshot(), "errors");
        old_version_answers(&traffic)?;
        let tally = scene.finish(traffic);
        ensure!(tally.failed == 0 && opened(&tally) == CONNECTIONS as u64, "{:?}", tally.failures);
        ensure!(answers_of(&tally, "errors") == answers, "the bad version still answered");
        good_version_whole(&tally)
    });
}

#[test]
fn what_cannot_be_loaded_in_place_leaves_the_old_version_answering() {
    play("in-place-load", |scene| {
        scene.open_with(&["crash"])?;
        let folder = models::unsigned(
            &scene.ctl,
            &scene.bundles,
            Source { model: "digits", version: "better", label: "lies" },
        )?;
        // What is signed promises an output that the model does not have.
        let description = fs::read_to_string(folder.join("turnout.yaml"))?;
        fs::write(folder.join("turnout.yaml"), description.replace("probabilities", "likelihoods"))?;
        models::sign(&scene.ctl, &folder, &scene.key)?;
        models::import(&scene.ctl, &folder)?.expect(0)?;
        let traffic = scene.begin(&kept(scene)?)?;
        let before = worker(scene)?;
        scene.release("lies", IN_PLACE)?;
        let ended = scene.ended()?;
        let cause = ended.cause.clone().unwrap_or_default();
        ensure!(ended.state == ReleaseState::RolledBack && cause.contains("likelihoods"), "{ended:?}");
        ensure!(worker(scene)? == before, "the worker is another one");
        let tally = scene.finish_whole(traffic)?;
        ensure!(opened(&tally) == CONNECTIONS as u64, "{} connections", opened(&tally));
        // One that kills the worker takes the old one with it: that comes back in a cell of its own.
        let traffic = scene.traffic()?;
        scene.release("crash", IN_PLACE)?;
        let ended = scene.ended()?;
        let cause = ended.cause.clone().unwrap_or_default();
        ensure!(ended.state == ReleaseState::RolledBack && cause.contains("SIGFPE"), "{ended:?}");
        shown_is_live(scene, FIRST)?;
        old_version_answers(&traffic)?;
        ensure!(worker(scene)?.0 != before.0, "the dead worker answers");
        good_version_whole(&scene.finish(traffic))
    });
}

/// Kept connections alone.
fn kept(scene: &Scene) -> Result<Load> {
    Ok(Load { connections: CONNECTIONS, pace: Pace::PerSecond(300.0), ..scene.load()? })
}

/// The one worker: its process, and how many mounts it sees.
fn worker(scene: &Scene) -> Result<(i32, usize)> {
    let workers = scene.workers()?;
    let [worker] = workers[..] else { anyhow::bail!("workers: {workers:?}") };
    let mounts = fs::read_to_string(format!("/proc/{worker}/mountinfo"))?;
    Ok((worker, mounts.lines().count()))
}

fn shown_is_live(scene: &Scene, version: &str) -> Result<()> {
    let live = scene.digits()?.context("digits is gone")?.versions;
    ensure!(live.len() == 1 && live[0].version.as_str() == version, "{live:?}");
    Ok(())
}

/// Waits for some more answers of the old version.
fn old_version_answers(traffic: &Running) -> Result<()> {
    let before = answers_of(&traffic.snapshot(), FIRST);
    until("the old version answers", LIMIT, || {
        Ok((answers_of(&traffic.snapshot(), FIRST) > before + 50).then_some(()))
    })
}

fn opened(tally: &Tally) -> u64 {
    tally.versions.iter().map(|version| version.all.connections).sum()
}

fn answers_of(tally: &Tally, version: &str) -> u64 {
    tally.version(version).map_or(0, |tally| tally.all.answers)
}

fn good_version_whole(tally: &Tally) -> Result<()> {
    let good = tally.version(FIRST).context("the good version was never asked")?;
    ensure!(good.all.errors == 0, "{} errors from the good version", good.all.errors);
    Ok(())
}
