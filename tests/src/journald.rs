//! A systemd-journald of this test's own: in a mount namespace in which the host's journal cannot be seen.

use crate::scenario::{LIMIT, until};
use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = "/lib/systemd/systemd-journald";
const SOCKET: &str = "/run/systemd/journal/socket";
/// Where it keeps what it has; its sockets, its catalog and its configuration are beside it.
const PLACES: [&str; 5] =
    ["/run/systemd", "/run/log", "/var/log", "/var/lib/systemd/catalog", "/etc/systemd"];
/// The kernel's messages and its auditing are the host's own, and stay as they are.
const CONFIGURATION: &str = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=no\n";
const CATALOGS: &str = "/usr/lib/systemd/catalog";

/// journald, seen by this thread and by the processes that it starts.
pub struct Journald(Child);

impl Journald {
    /// Moves this thread to a mount namespace of its own and starts journald there, with the catalog of this repository.
    ///
    /// # Errors
    /// When this is no host with systemd's programs, or not root.
    pub fn start() -> Result<Self> {
        ensure!(Path::new(PROGRAM).exists(), "`{PROGRAM}` is not there; remedy: `apt-get install systemd`");
        unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace needs root")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for place in PLACES {
            fs::create_dir_all(place)?;
            mount("tmpfs", place, "tmpfs", MountFlags::empty(), None)?;
        }
        fs::write("/etc/systemd/journald.conf", CONFIGURATION)?;
        mount_bind(Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd"), CATALOGS)?;
        let mut command = Command::new(PROGRAM);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let running = Self(child);
        until("journald listens", LIMIT, || Ok(Path::new(SOCKET).exists().then_some(())))?;
        running.journalctl(&["--update-catalog"])?;
        Ok(running)
    }

    /// What journalctl says, once journald has taken in all that it was sent.
    ///
    /// # Errors
    /// When it does not run or fails.
    pub fn journalctl(&self, arguments: &[&str]) -> Result<String> {
        if arguments != ["--update-catalog"] {
            said(Command::new("journalctl").arg("--sync").output()?)?;
        }
        said(Command::new("journalctl").args(arguments).args(["--no-pager", "--quiet"]).output()?)
    }

    /// Ends journald and takes its places away, as on a host without it.
    ///
    /// # Errors
    /// When they do not go.
    pub fn end(self) -> Result<()> {
        drop(self);
        unmount("/run/systemd", UnmountFlags::DETACH)?;
        mount("tmpfs", "/run/systemd", "tmpfs", MountFlags::empty(), None).map_err(Into::into)
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn said(output: Output) -> Result<String> {
    ensure!(output.status.success(), "journalctl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
