//! Retention of the journal as its users meet it: an operator prunes, an auditor verifies what is left with what they kept
//! from before, an exporter and a hold keep records, the daemon dies and its journal is altered, copied and put back.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;
use turnout_journal::{Journal, OpenOptions, first_record};
use turnout_scenarios::daemon::Answered;
use turnout_scenarios::scenario::{LIMIT, Scene, keep, play, text, until};

/// Records that fill the journal, and bytes of a segment: thirty segments and more.
const FILLING: usize = 3000;
const SEGMENT: u64 = 32 << 10;

#[test]
fn a_journal_is_pruned_and_what_is_left_proves_as_much_as_before() {
    play("pruning", |scene| {
        let cursor = scene.instance.folder().join("cursor");
        scene.instance.configure("journal.keep_within_days", "0")?;
        scene.instance.configure("journal.keep_records", "1000")?;
        scene.instance.configure("journal.cursors", &format!("[{cursor:?}]"))?;
        scene.open_with(&[])?;
        let old = keep(scene, "old", scene.ctl.ok(&["audit", "checkpoint"])?.text("/checkpoint")?)?;
        let host = keep(scene, "host.pem", scene.ctl.ok(&["audit", "key"])?.text("/public_key")?)?;
        fill(scene)?;
        let traffic = scene.traffic()?;
        hold_and_reader_keep(scene, &cursor)?;
        let first = prunes(scene)?;
        proves(scene, first, (&old, &host))?;
        scene.instance.kill()?;
        scene.instance.start()?;
        scene.ctl.ok(&["audit", "verify"])?;
        let report = scene.ctl.ok(&["report", "r-1", "--format", "json"])?;
        ensure!(report.number("/pruned/minimum_index") == Some(first), "{}", report.value);
        scene.finish_whole(traffic)?;
        altered_base_is_refused(scene, first)?;
        copy_is_put_back(scene, first)
    });
}

/// Fills the journal with refusals, in short segments, as years would with long ones.
fn fill(scene: &mut Scene) -> Result<()> {
    scene.instance.stop()?;
    let options = OpenOptions { segment_bytes: SEGMENT, ..OpenOptions::default() };
    let (journal, _) = Journal::open(&scene.journal(), options)?;
    let body = format!(r#"{{"by":"uid 0","event":"refused","what":"{}","why":["no"]}}"#, "x".repeat(300));
    for _ in 0..FILLING / 100 {
        journal.append_all(&[body.as_bytes(); 100])?;
    }
    drop(journal);
    scene.instance.start()?;
    scene.ctl.ok(&["audit", "checkpoint"])?;
    let tiled = || Ok((turnout_journal::tiled(&scene.journal()) > FILLING as u64 - 300).then_some(()));
    until("the hashes are kept as tiles", LIMIT, tiled)
}

fn hold_and_reader_keep(scene: &Scene, cursor: &Path) -> Result<()> {
    let kept = || -> Result<String> { Ok(scene.ctl.ok(&["audit", "prune"])?.value["kept"].to_string()) };
    ensure!(kept()?.contains("it has read nothing yet"), "{}", kept()?);
    fs::write(cursor, "3000 20 a-boot\n")?;
    ensure!(kept()?.contains("goes on at record 20"), "{}", kept()?);
    fs::write(cursor, "3000 3000 a-boot\n")?;
    scene.ctl.ok(&["audit", "hold", "journal", "--reason", "case 17", "--from", "5"])?;
    ensure!(kept()?.contains("held from record 5 on by root"), "{}", kept()?);
    let again = scene.ctl.run(&["audit", "hold", "journal", "--reason", "case 18"])?.expect(1)?;
    ensure!(again.stderr.contains("release-hold journal"), "{}", again.stderr);
    ensure!(first_record(&scene.journal())? == 0, "something went");
    scene.ctl.ok(&["audit", "release-hold", "journal"]).map(drop)
}

fn prunes(scene: &Scene) -> Result<u64> {
    let would = scene.ctl.ok(&["audit", "prune", "--dry-run"])?;
    let bytes = folder_bytes(&scene.journal())?;
    let went = scene.ctl.ok(&["audit", "prune"])?;
    ensure!(went.value["gone"] == would.value["gone"], "{} {}", went.value, would.value);
    let first = first_record(&scene.journal())?;
    ensure!(first > 1500, "{first}: {}", went.value);
    ensure!(folder_bytes(&scene.journal())? < bytes / 2 + (16 << 20), "the space is not free");
    let shown = scene.ctl.ok(&["audit", "journal"])?;
    ensure!(shown.number("/first") == Some(first), "{}", shown.value);
    ensure!(shown.text("/pruned/0/why")?.contains("not among the newest 1000"), "{}", shown.value);
    Ok(first)
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder)? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

/// With the daemon, and offline on the copy in a snapshot.
fn proves(scene: &Scene, first: u64, (old, host): (&Path, &Path)) -> Result<()> {
    let taken = scene.ctl.ok(&["audit", "snapshot", "--note", "pruned"])?;
    let copy = format!("{}/journal", taken.text("/path")?);
    for offline in [false, true] {
        let with = |arguments: &[&str]| -> Result<Answered> {
            let place: &[&str] = if offline { &["--dir", &copy, "--key", text(host)?] } else { &[] };
            scene.ctl.run(&[arguments, place].concat())
        };
        let seq = first.to_string();
        let proof = with(&["audit", "prove", &seq])?.expect(0)?;
        let proof = keep(scene, "proof", proof.text("/proof")?)?;
        scene.ctl.ok(&["audit", "prove", "--check", text(&proof)?, "--key", text(host)?])?;
        let gone = with(&["audit", "prove", "0"])?;
        ensure!(gone.stderr.contains("is not here any more"), "{}", gone.stderr);
        let consistent = with(&["audit", "consistency", text(old)?])?.expect(0)?;
        ensure!(consistent.number("/from") < Some(first), "{}", consistent.value);
        let verify: &[&str] =
            if offline { &["audit", "verify", &copy, "--key", text(host)?] } else { &["audit", "verify"] };
        let verified = scene.ctl.ok(verify)?;
        ensure!(verified.number("/first") == Some(first), "{}", verified.value);
        ensure!(verified.number("/pruned/minimum_index") == Some(first), "{}", verified.value);
        ensure!(
            verified.number("/checkpoints") == verified.number("/checkpoints_signed"),
            "{}",
            verified.value
        );
    }
    Ok(())
}

fn altered_base_is_refused(scene: &mut Scene, first: u64) -> Result<()> {
    let base = scene.journal().join(format!("{first:012}.base"));
    scene.instance.stop()?;
    let whole = fs::read_to_string(&base)?;
    let altered = whole.replacen("\"port\":8", "\"port\":9", 1);
    ensure!(altered != whole, "no port in {whole}");
    fs::write(&base, altered)?;
    let offline = scene.ctl.run(&["audit", "verify", text(&scene.journal())?])?.expect(3)?;
    ensure!(offline.stderr.contains("was altered"), "{}", offline.stderr);
    let refusal = scene.instance.start().err().context("the daemon has started")?.to_string();
    for says in ["was altered", "put that file back from an audit snapshot"] {
        ensure!(refusal.contains(says), "not `{says}`: {refusal}");
    }
    fs::remove_file(&base)?;
    let refusal = scene.instance.start().err().context("the daemon has started")?.to_string();
    ensure!(refusal.contains("no `.base` file says that they were pruned"), "{refusal}");
    fs::write(&base, whole)?;
    scene.instance.start()?;
    scene.ctl.ok(&["audit", "verify"]).map(drop)
}

/// An older copy of the pruned journal is put back: an operator decides, and the new log begins where that one did.
fn copy_is_put_back(scene: &mut Scene, first: u64) -> Result<()> {
    let listed = scene.ctl.ok(&["audit", "snapshots"])?;
    let snapshots = listed.value["snapshots"].as_array().context("no list")?.clone();
    let taken = snapshots.iter().find(|row| row["note"] == "pruned").context("no snapshot")?;
    let copy = Path::new(taken["path"].as_str().context("no path")?).join("journal");
    // What the snapshot has not.
    scene.ctl.ok(&["audit", "snapshot", "--note", "later"])?;
    let models = scene.ctl.ok(&["status"])?.value["models"][0]["versions"][0]["version"].clone();
    let elsewhere = scene.instance.folder().join("copy");
    copy_all(&copy, &elsewhere)?;
    scene.instance.stop()?;
    fs::remove_dir_all(scene.journal())?;
    copy_all(&elsewhere, &scene.journal())?;
    let refusal = scene.instance.start().err().context("the daemon has started")?.to_string();
    ensure!(refusal.contains("its end is missing"), "{refusal}");
    let programs = scene.ctl.program.parent().context("no folder")?;
    let mut new_log = Command::new(programs.join("turnoutd"));
    new_log.arg("--config").arg(scene.instance.config()).args(["new-log", "--reason", "restored"]);
    let opened = new_log.output()?;
    ensure!(opened.status.success(), "{}", String::from_utf8_lossy(&opened.stderr));
    scene.instance.start()?;
    let verified = scene.ctl.ok(&["audit", "verify"])?;
    ensure!(verified.number("/pruned/minimum_index") == Some(first), "{}", verified.value);
    ensure!(
        scene.ctl.ok(&["status"])?.value["models"][0]["versions"][0]["version"] == models,
        "another state"
    );
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        let target = to.join(file.file_name());
        if file.file_type()?.is_dir() {
            copy_all(&file.path(), &target)?;
        } else {
            fs::copy(file.path(), target)?;
        }
    }
    Ok(())
}
