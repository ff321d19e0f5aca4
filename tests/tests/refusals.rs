//! What is not possible is refused with a message and a remedy, changes nothing, and works once the reason is gone: a
//! second daemon, a port in use, a plan with a mistake, a journal that cannot be written.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use turnout_journal::{Journal, OpenOptions, verify};
use turnout_protocol::control::ReleaseState;
use turnout_scenarios::models::{self, FIRST, Source};
use turnout_scenarios::scenario::{LIMIT, PORT, Scene, play, until};

/// A plan that ends at once.
const AT_ONCE: &str = "\
strategy: {kind: weight}
steps: [{percent: 100}]
window: 200ms
windows: {look_back: 1, consecutive: 1}
objectives: {p95_ms: 2000, error_rate: 0.05}
minimum_requests: 5
";

#[test]
fn a_second_daemon_on_the_same_state_is_refused_and_the_first_goes_on() {
    play("second", |scene| {
        scene.open_with(&[])?;
        let traffic = scene.traffic()?;
        let before = scene.status()?;
        // The same configuration, and one that shares the state alone.
        let text = fs::read_to_string(scene.instance.config())?;
        let other = scene.instance.folder().join("other.toml");
        let own = scene.instance.folder().join("run");
        let elsewhere = scene.instance.folder().join("run2");
        fs::write(&other, text.replace(models::text(&own)?, models::text(&elsewhere)?))?;
        for config in [scene.instance.config(), other] {
            let output = second_daemon(scene, &config)?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success(), "a second daemon ran: {said}");
            ensure!(said.contains("another daemon uses this state"), "{said}");
            ensure!(said.contains("end it, or set another `state`"), "{said}");
        }
        let after = scene.status()?;
        ensure!((before.pid, &before.journal) == (after.pid, &after.journal), "{before:?}, {after:?}");
        // The first one still has its socket and its routes.
        scene.import(Source::of("digits", "better"))?;
        scene.release("better", AT_ONCE)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn a_daemon_that_is_older_than_its_journal_does_not_start_and_traffic_goes_on() {
    play("older", |scene| {
        scene.open_with(&[])?;
        let traffic = scene.traffic()?;
        scene.instance.stop()?;
        let journal = Journal::open(&scene.journal(), OpenOptions::default())?.0;
        let known = journal.size();
        journal.append(br#"{"event":"of-the-next-version","release":"r-1"}"#)?;
        drop(journal);
        let before = (verify(&scene.journal())?, scene.workers()?);
        for _ in 0..2 {
            fs::write(scene.instance.log(), "")?;
            let refused = format!("{:#}", scene.instance.start().err().context("it started")?);
            for says in [
                format!("journal record {known} is not one that this version knows"),
                "install the one that wrote it".to_owned(),
                "hint: install the newer `turnoutd` again".to_owned(),
            ] {
                ensure!(refused.contains(&says), "no `{says}` in: {refused}");
            }
            ensure!((verify(&scene.journal())?, scene.workers()?) == before, "something was changed");
        }
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn a_release_on_a_port_in_use_is_refused_until_the_port_is_free() {
    play("port", |scene| {
        scene.open()?;
        scene.import(Source::of("digits", FIRST))?;
        let taken = TcpListener::bind(("127.0.0.1", PORT))?;
        let refused = scene.try_release(FIRST, AT_ONCE)?.expect(3)?;
        for word in [&format!("port {PORT}"), "in use", &format!("ss -ltnp sport = :{PORT}")] {
            ensure!(refused.stderr.contains(word), "no `{word}` in: {}", refused.stderr);
        }
        ensure!(scene.digits()?.is_none() && scene.workers()?.is_empty(), "something was begun");
        ensure!(kinds(scene)?.iter().all(|kind| kind != "planned"), "a release was planned");
        drop(taken);
        scene.release(FIRST, AT_ONCE)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        let traffic = scene.traffic()?;
        until("requests are answered", LIMIT, || Ok((traffic.snapshot().sent > 50).then_some(())))?;
        scene.finish_whole(traffic).map(drop)
    });
}

#[test]
fn a_plan_with_a_mistake_is_refused_with_its_line_and_what_was_meant() {
    play("plan", |scene| {
        scene.open_with(&["better"])?;
        let before = scene.status()?.journal;
        let cases = [
            ("steps: [{percent: 50}, {percent: 100}]\nwindw: 300ms\n", ["line 2", "`windw`", "`window`"]),
            (
                "steps: [{percent: 50}, {percent: 100}]\nobjectives:\n  p95ms: 10\n",
                ["line 3", "`p95ms`", "`p95_ms`"],
            ),
            ("steps: [{percent: 120}]\n", ["line 1", "120", "percent"]),
        ];
        for (plan, words) in cases {
            let refused = scene.try_release("better", plan)?.expect(3)?;
            for word in words {
                ensure!(refused.stderr.contains(word), "no {word} in: {}", refused.stderr);
            }
        }
        ensure!(scene.status()?.journal == before, "the journal grew");
        Ok(())
    });
}

#[test]
fn without_room_for_the_journal_changes_are_refused_and_traffic_goes_on() {
    play("journal", |scene| {
        let journal = scene.journal();
        fs::create_dir_all(&journal)?;
        small_disk(&journal)?;
        scene.open_with(&["better"])?;
        let traffic = scene.traffic()?;
        let filler = journal.join("filler");
        fill(&filler)?;
        // Each refusal is a record; the last block that the journal has takes some of them.
        let unsigned = models::unsigned(
            &scene.ctl,
            &scene.bundles,
            Source { model: "digits", version: "better", label: "x" },
        )?;
        models::sign(&scene.ctl, &unsigned, &stranger(scene)?)?;
        let why = until("changes are refused", LIMIT, || {
            models::import(&scene.ctl, &unsigned)?.expect(3)?;
            Ok(scene.status()?.read_only)
        })?;
        ensure!(why.contains("journal"), "{why}");
        let refused = scene.try_release("better", AT_ONCE)?.expect(1)?;
        for word in ["changes are refused", "traffic is served all the same"] {
            ensure!(refused.stderr.contains(word), "no `{word}` in: {}", refused.stderr);
        }
        let sent = traffic.snapshot().sent;
        until("requests are answered", LIMIT, || Ok((traffic.snapshot().sent > sent + 100).then_some(())))?;
        // With room again a new start takes up where the journal ends.
        fs::remove_file(&filler)?;
        ensure!(scene.instance.stop()?.success(), "the daemon did not stop well");
        scene.instance.start()?;
        ensure!(scene.status()?.read_only.is_none(), "still read-only");
        scene.release("better", AT_ONCE)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        scene.ctl.ok(&["audit", "verify"])?;
        scene.finish_whole(traffic).map(drop)
    });
}

/// Runs another daemon until it gives up.
fn second_daemon(scene: &Scene, config: &Path) -> Result<Output> {
    let program = scene.ctl.program.with_file_name("turnoutd");
    let child = Command::new("timeout").arg("20").arg(program).arg("--config").arg(config).output();
    child.context("cannot start a second daemon")
}

fn kinds(scene: &Scene) -> Result<Vec<String>> {
    let records = scene.records(0)?;
    Ok(records.iter().filter_map(|record| record["event"].as_str().map(str::to_owned)).collect())
}

/// A file system of its own for a folder, which has room for the reserve. What clears the instance unmounts it.
fn small_disk(folder: &Path) -> Result<()> {
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "journal"]).arg(folder).status();
    ensure!(mounted?.success(), "`{}` cannot be mounted", folder.display());
    Ok(())
}

/// Writes until nothing more fits.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    for length in [64 << 10, 4096, 1] {
        while file.write_all(&vec![0; length]).is_ok() {}
    }
    Ok(())
}

fn stranger(scene: &Scene) -> Result<std::path::PathBuf> {
    let key = scene.bundles.join("stranger.pem");
    scene.ctl.ok(&["key", "generate", models::text(&key)?])?;
    Ok(key)
}
