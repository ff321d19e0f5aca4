//! The journal's disk fails under a running daemon: changes are refused with the reason, traffic goes on, and once the disk
//! is mended the next daemon has every record that was acknowledged.

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use turnout_protocol::control::ReleaseState;
use turnout_scenarios::scenario::{LIMIT, Scene, play, until};

const AT_ONCE: &str =
    "steps: [{percent: 100}]\nwindow: 200ms\nminimum_requests: 1\nwindows: {look_back: 1, consecutive: 1}\n";

#[test]
fn a_journal_whose_disk_fails_refuses_changes_and_leaves_traffic_as_it_is() {
    play("failing-journal", |scene| {
        let disk = journal_on_a_disk_that_can_fail(scene)?;
        scene.open_with(&["better"])?;
        let before = scene.ctl.ok(&["audit", "checkpoint"])?.number("/size").context("no size")?;
        let traffic = scene.traffic()?;
        fcntl_add_seals(&disk, SealFlags::WRITE)?;
        until("the disk fails a write", LIMIT, || {
            scene.ctl.run(&["audit", "snapshot", "--note", &"n".repeat(400)])?;
            Ok(scene.status()?.read_only)
        })?;
        let why = scene.status()?.read_only.context("changes are taken")?;
        ensure!(why.contains("journal: ") && why.contains("Input/output error"), "{why}");
        let refused = scene.ctl.run(&["release", "start", "digits@better"])?.expect(1)?;
        for says in
            ["changes are refused", "Input/output error", "repair the journal's disk and restart turnoutd"]
        {
            ensure!(refused.stderr.contains(says), "not `{says}`: {}", refused.stderr);
        }
        ensure!(
            scene.instance.log_end().contains("changes are refused, serving goes on"),
            "the log is silent"
        );
        scene.instance.kill()?;
        replace(scene, &disk)?;
        scene.instance.start()?;
        ensure!(scene.status()?.read_only.is_none(), "changes are refused on a disk that works");
        let verified = scene.ctl.ok(&["audit", "verify"])?;
        ensure!(verified.number("/size") >= Some(before), "{}", verified.value);
        scene.release("better", AT_ONCE)?;
        let release = scene.ended()?;
        ensure!(release.state == ReleaseState::Promoted, "{release:?}");
        scene.finish_whole(traffic).map(drop)
    });
}

/// Puts the journal on a file system in memory that can be sealed against writes: the kernel reports each further one as an
/// I/O error, as it would for a disk that fails.
fn journal_on_a_disk_that_can_fail(scene: &Scene) -> Result<OwnedFd> {
    let disk = memfd_create("disk", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?;
    ftruncate(&disk, 64 << 20)?;
    // Without a journal of its own: the file system does not turn read-only with the first error.
    run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal"]).arg(place(&disk)))?;
    fs::create_dir_all(scene.journal())?;
    run(Command::new("mount").args(["-o", "loop"]).arg(place(&disk)).arg(scene.journal()))?;
    Ok(disk)
}

fn place(disk: &OwnedFd) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), disk.as_raw_fd()).into()
}

/// A new disk with what can be read of the one that failed.
fn replace(scene: &Scene, disk: &OwnedFd) -> Result<()> {
    run(Command::new("umount").arg(scene.journal()))?;
    let new = scene.instance.folder().join("disk.img");
    fs::copy(place(disk), &new)?;
    // It says with 1 that it has mended something.
    Command::new("e2fsck").arg("-fy").arg(&new).output()?;
    run(Command::new("mount").args(["-o", "loop"]).arg(&new).arg(scene.journal()))
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
