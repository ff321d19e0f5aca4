//! What an auditor does with the journal of a host: keep a checkpoint, prove a record, come back later, ask a witness; and
//! what becomes of a journal that was put back.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::Duration;
use turnout_journal::{Hash, TreeHead};
use turnout_scenarios::daemon::Answered;
use turnout_scenarios::scenario::{keep, play, text, until};
use turnout_scenarios::witness::Witness;

fn refused(answer: Answered, says: &str) -> Result<()> {
    let answer = answer.expect(3)?;
    ensure!(answer.stderr.contains(says), "not `{says}`: {}", answer.stderr);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for file in fs::read_dir(from)?.flatten().filter(|file| file.path().is_file()) {
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

#[test]
fn an_auditor_proves_a_record_and_that_nothing_was_removed_since() {
    play("checkpoints", |scene| {
        scene.open()?;
        let checkpoint = scene.ctl.ok(&["audit", "checkpoint"])?;
        let old = keep(scene, "old", checkpoint.text("/checkpoint")?)?;
        let host = keep(scene, "host.pem", scene.ctl.ok(&["audit", "key"])?.text("/public_key")?)?;
        let vkey = keep(scene, "vkey", checkpoint.text("/key")?)?;
        let made = scene.ctl.ok(&["audit", "prove", "0"])?;
        let proof = keep(scene, "proof", made.text("/proof")?)?;
        for key in [&host, &vkey] {
            let proven = scene.ctl.ok(&["audit", "prove", "--check", text(&proof)?, "--key", text(key)?])?;
            ensure!(proven.text("/record/body/event")? == "daemon-started", "{}", proven.value);
        }
        let forged = fs::read_to_string(&proof)?.replace("index 0", "index 1");
        let forged = keep(scene, "forged", &forged)?;
        let answer = scene.ctl.run(&["audit", "prove", "--check", text(&forged)?, "--key", text(&host)?])?;
        refused(answer, "the record in it is number 0, the proof is for 1")?;
        scene.import(turnout_scenarios::models::Source::of("digits", turnout_scenarios::models::FIRST))?;
        let consistent = scene.ctl.ok(&["audit", "consistency", text(&old)?, "--key", text(&host)?])?;
        ensure!(consistent.number("/size") > consistent.number("/from"), "{}", consistent.value);
        let verified = scene.ctl.ok(&["audit", "verify", text(&scene.journal())?, "--key", text(&host)?])?;
        ensure!(
            verified.number("/checkpoints_signed") == verified.number("/checkpoints"),
            "{}",
            verified.value
        );
        let offline = scene.ctl.ok(&[
            "audit",
            "consistency",
            text(&old)?,
            "--key",
            text(&host)?,
            "--dir",
            text(&scene.journal())?,
        ])?;
        ensure!(offline.number("/from") == consistent.number("/from"), "{}", offline.value);
        Ok(())
    });
}

#[test]
fn a_witness_signs_what_goes_on_and_refuses_what_does_not() {
    play("witness", |scene| {
        scene.open()?;
        let log = scene.ctl.ok(&["audit", "checkpoint"])?.text("/key")?.parse()?;
        let socket = scene.instance.folder().join("witness.sock");
        let witness = Witness::start(&socket, log)?;
        let key = keep(scene, "witness.vkey", &witness.key().to_string())?;
        let url = format!("unix:{}", socket.display());
        let ask = || scene.ctl.run(&["audit", "witness", &url, "--key", text(&key)?]);
        ask()?.expect(0)?;
        let first = witness.seen().context("it has seen nothing")?;
        scene.import(turnout_scenarios::models::Source::of("digits", turnout_scenarios::models::FIRST))?;
        // It has seen a checkpoint, and wants the proof from there.
        ask()?.expect(0)?;
        ensure!(witness.seen().is_some_and(|seen| seen.size > first.size), "it goes on");
        // A daemon that has just begun may still have something to record: the newest one is another one then.
        let newest = until("a newest checkpoint that the witness has seen", Duration::from_secs(20), || {
            ask()?.expect(0)?;
            let newest = scene.ctl.ok(&["audit", "checkpoint"])?;
            let seen = witness.seen().map(|seen| seen.size);
            Ok((newest.number("/size") == seen).then_some(newest))
        })?;
        ensure!(newest.text("/checkpoint")?.contains(witness.key().name()), "{}", newest.value);
        scene.ctl.ok(&["audit", "verify"])?;
        let other = keep(scene, "other.vkey", "nobody")?;
        refused(
            scene.ctl.run(&["audit", "witness", &url, "--key", text(&other)?])?,
            "not a key of signed notes",
        )?;
        witness.believe(TreeHead { size: 2, root: Hash::of(b"another history") });
        refused(ask()?, "does not go on from the one it has seen")?;
        witness.believe(TreeHead { size: 1 << 40, root: Hash::of(b"a longer one") });
        refused(ask()?, "its end was cut, or an older copy")
    });
}

#[test]
fn a_journal_that_was_put_back_is_refused_until_an_operator_decides() {
    play("put-back", |scene| {
        scene.open()?;
        scene.instance.stop()?;
        let old = scene.instance.folder().join("older");
        copy(&scene.journal(), &old)?;
        scene.instance.start()?;
        let newest = scene.ctl.ok(&["audit", "checkpoint"])?;
        let newest = keep(scene, "newest", newest.text("/checkpoint")?)?;
        let host = keep(scene, "host.pem", scene.ctl.ok(&["audit", "key"])?.text("/public_key")?)?;
        scene.instance.stop()?;
        fs::remove_dir_all(scene.journal())?;
        copy(&old, &scene.journal())?;
        let before = names(&scene.journal())?;
        let refusal = scene.instance.start().err().context("the daemon has started")?.to_string();
        for says in ["its end is missing", "new-log --reason TEXT"] {
            ensure!(refusal.contains(says), "not `{says}`: {refusal}");
        }
        ensure!(names(&scene.journal())? == before, "a refused journal was changed");
        let programs = scene.ctl.program.parent().context("no folder")?;
        let mut new_log = std::process::Command::new(programs.join("turnoutd"));
        new_log.arg("--config").arg(scene.instance.config()).args([
            "new-log",
            "--reason",
            "restored from a backup",
        ]);
        let opened = new_log.output()?;
        ensure!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
        scene.instance.start()?;
        let records = scene.records(0)?;
        let link = records.iter().find(|record| record["event"] == "log-opened").context("no link")?;
        ensure!(link["reason"] == "restored from a backup", "{link}");
        scene.ctl.ok(&["audit", "verify"])?;
        let answer = scene.ctl.run(&["audit", "consistency", text(&newest)?, "--key", text(&host)?])?;
        refused(answer, "the journal is turnout.journal/")
    });
}

fn names(dir: &Path) -> Result<Vec<(String, u64)>> {
    let mut names = Vec::new();
    for file in fs::read_dir(dir)? {
        let file = file?;
        names.push((file.file_name().to_string_lossy().into_owned(), file.metadata()?.len()));
    }
    names.sort();
    Ok(names)
}
