//! Versions and workers that fail, each in its own way: the release is rolled back with the reason, and the good version
//! answers every request meanwhile. A live worker that dies comes back by itself.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::time::Duration;
use turnout_manifest::envelope::{Envelope, MANIFEST_TYPE};
use turnout_manifest::key::PrivateKey;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::{Description, Sha256};
use turnout_protocol::client::Bundle;
use turnout_protocol::control::{ReleaseState, ReleaseStatus};
use turnout_scenarios::load::{Load, Pace};
use turnout_scenarios::models::{self, FIRST, Source};
use turnout_scenarios::scenario::{LIMIT, good_version_whole, play, until};
use turnout_scenarios::tally::Tally;

/// A canary that is judged by every window, for its errors alone. A window holds so many requests that a bad one is among
/// them.
const BY_ERRORS: &str = "\
strategy: {kind: weight}
steps: [{percent: 30}, {percent: 100}]
window: 1s
windows: {look_back: 3, consecutive: 2}
objectives: {error_rate: 0.02}
minimum_requests: 40
patience: 30s
";
/// The same, for the answers that its assertions withheld.
const BY_ASSERTIONS: &str = "\
strategy: {kind: weight}
steps: [{percent: 30}, {percent: 100}]
window: 1s
windows: {look_back: 3, consecutive: 2}
objectives: {assertion_failures: 0.02}
minimum_requests: 40
patience: 30s
";
/// No model.
const PROSE: &str = "A model is a simplified description of a thing.\n";
/// A dead live worker is back within this time.
const BACK: Duration = Duration::from_secs(10);

#[test]
fn bad_versions_are_rolled_back_and_the_good_one_answers_everything() {
    play("bad", |scene| {
        // What the cause says of each: an end by a signal, an allocation refused, an assertion.
        let cases = [
            ("crash", BY_ERRORS, "SIGFPE"),
            ("greedy", BY_ERRORS, "error rate"),
            ("nan", BY_ASSERTIONS, "assertion"),
        ];
        scene.open_with(&cases.map(|(version, ..)| version))?;
        let traffic = scene.traffic()?;
        for (version, plan, word) in cases {
            scene.release(version, plan)?;
            let release = scene.ended()?;
            rolled_back(&release, word)?;
            let live = scene.digits()?.context("digits is gone")?.versions;
            ensure!(live.len() == 1 && live[0].version.as_str() == FIRST, "after `{version}`: {live:?}");
            ensure!(scene.workers()?.len() == 1, "a worker of `{version}` is left");
        }
        let tally = scene.finish(traffic);
        // The crashing one may have died of its first request.
        for version in ["greedy", "nan"] {
            ensure!(tally.version(version).is_some(), "`{version}` was never asked");
        }
        good_version_whole(&tally)
    });
}

#[test]
fn a_file_that_is_no_onnx_is_rolled_back_with_the_workers_reason() {
    play("no-onnx", |scene| {
        scene.open_with(&[])?;
        let traffic = scene.traffic()?;
        let source = Source { model: "digits", version: FIRST, label: "prose" };
        let folder = models::unsigned(&scene.ctl, &scene.bundles, source)?;
        fs::write(folder.join("model.onnx"), PROSE)?;
        let refused = scene.ctl.run(&[
            "manifest",
            "sign",
            models::text(&folder)?,
            "--key",
            models::text(&scene.key)?,
        ])?;
        ensure!(refused.expect(3)?.stderr.contains("is not an ONNX model"), "signed at the desk");
        // Signed and sent by somebody whose desk does not look, it is the worker that refuses it.
        let bundle = bundle_of(&folder, &PrivateKey::from_pem(&fs::read_to_string(&scene.key)?)?)?;
        scene.wait_for(scene.client().import(bundle))?;
        scene.release("prose", BY_ERRORS)?;
        rolled_back(&scene.ended()?, "`model.onnx`: is not an ONNX model")?;
        scene.finish_whole(traffic).map(drop)
    });
}

/// The folder's description, signed without a look at its one file.
fn bundle_of(folder: &Path, key: &PrivateKey) -> Result<Bundle<&'static [u8]>> {
    let description = Description::from_yaml(&fs::read_to_string(folder.join("turnout.yaml"))?)?;
    let (path, sha256) = ("model.onnx".to_owned(), Sha256::of(PROSE.as_bytes()));
    let manifest = description.into_manifest(vec![FileEntry { path, size: PROSE.len() as u64, sha256 }])?;
    let envelope = Envelope::sign(MANIFEST_TYPE, manifest.to_canonical()?, key)?.to_json()?;
    Ok(Bundle { envelope, content: PROSE.as_bytes(), length: PROSE.len() as u64 })
}

#[test]
fn a_live_worker_that_is_killed_comes_back_by_itself() {
    play("come-back", |scene| {
        scene.open_with(&[])?;
        let load =
            Load { connections: 2, pace: Pace::PerSecond(50.0), short_per_second: 50, ..scene.load()? };
        let traffic = scene.begin(&load)?;
        until("requests are answered", LIMIT, || Ok((answered(&traffic.snapshot()) > 20).then_some(())))?;
        let before = scene.workers()?;
        ensure!(before.len() == 1, "{before:?}");
        let killed = traffic.elapsed();
        signal(before[0], Signal::KILL)?;
        until("another worker answers", LIMIT, || {
            let since = traffic.snapshot().version(FIRST).and_then(|version| version.last_connection);
            let other = scene.workers()?.iter().any(|pid| !before.contains(pid));
            Ok((other && since > Some(killed + Duration::from_millis(50))).then_some(()))
        })?;
        let back = traffic.elapsed() - killed;
        ensure!(back < BACK, "it took {} ms", back.as_millis());
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted && release.to.as_str() == FIRST, "{release:?}");
        let failed = |tally: &Tally| tally.failed;
        let after = failed(&traffic.snapshot());
        let sent = traffic.snapshot().sent;
        until("requests are answered", LIMIT, || Ok((traffic.snapshot().sent > sent + 100).then_some(())))?;
        let tally = scene.finish(traffic);
        ensure!(failed(&tally) == after, "requests fail after it came back: {:?}", tally.failures.last());
        let records = scene.records(0)?;
        ensure!(records.iter().any(|record| record["event"] == "worker-died"), "its end is not recorded");
        Ok(())
    });
}

fn rolled_back(release: &ReleaseStatus, word: &str) -> Result<()> {
    let cause = release.cause.clone().unwrap_or_default();
    let fits = release.state == ReleaseState::RolledBack && cause.contains(word);
    ensure!(fits, "{} ended {:?}: {cause} (no `{word}`)", release.to, release.state);
    Ok(())
}

fn answered(tally: &Tally) -> u64 {
    tally.versions.iter().map(|version| version.all.answers).sum()
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("no process")?;
    kill_process(pid, signal).context("cannot signal the worker")
}
