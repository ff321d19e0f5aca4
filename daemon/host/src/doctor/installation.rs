//! What is installed beside the daemon, and the part of the cgroup tree that it may use.

use super::{Outcome, Places, Standing, chain, degraded, missing, nearest, ok};
use crate::HostError;
use crate::mounts::cgroup2_root;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Oldest systemd whose units are tested.
const OLDEST_SYSTEMD: u32 = 252;
const CONTROLLERS: [&str; 4] = ["cpuset", "cpu", "memory", "pids"];
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// Rights that a cell's user needs: it owns nothing, and has no capability that passes by permissions.
const OTHERS_READ: u32 = 0o004;
const OTHERS_EXECUTE: u32 = 0o005;

pub fn cgroup2(places: &Places<'_>) -> Outcome {
    let Some(root) = places.cgroup.map(|cgroup| nearest(cgroup).to_owned()).or_else(cgroup2_root) else {
        return missing("no cgroup2 tree is mounted");
    };
    if let Err(error) = make_group(&root) {
        return missing(chain(&error));
    }
    let offered = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    let offered: Vec<&str> = offered.split_whitespace().collect();
    let lacking: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !offered.contains(name)).collect();
    let place = root.display();
    if lacking.is_empty() {
        return ok(format!("groups can be made at `{place}`, with {}", CONTROLLERS.join(", ")));
    }
    degraded(format!(
        "groups can be made at `{place}`, but limits by {} are not enforced",
        lacking.join(", ")
    ))
}

pub fn onnxruntime(places: &Places<'_>) -> Outcome {
    let path = places.onnxruntime;
    let mut magic = [0; 4];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if magic == *b"\x7fELF" => for_cells(path, OTHERS_READ, "o+r"),
        Ok(()) => missing(format!("`{}` is no shared library", path.display())),
        Err(error) => missing(format!("`{}`: {error}", path.display())),
    }
}

pub fn launcher(places: &Places<'_>) -> Outcome {
    program(places.launcher)
}

pub fn worker(places: &Places<'_>) -> Outcome {
    program_for_cells(places.worker)
}

pub fn router(places: &Places<'_>) -> Outcome {
    let outcome = program_for_cells(&places.worker.with_file_name("turnout-router"));
    let standing = if outcome.standing == Standing::Ok { Standing::Ok } else { Standing::Degraded };
    Outcome { standing, ..outcome }
}

pub fn systemd(_: &Places<'_>) -> Outcome {
    let role = if std::env::var_os("NOTIFY_SOCKET").is_some() {
        "runs as its service"
    } else if Path::new("/run/systemd/system").is_dir() {
        "runs this host; this process is not its service"
    } else {
        return degraded("does not run this host (optional)");
    };
    match systemd_version() {
        Some(version) if version < OLDEST_SYSTEMD => degraded(format!(
            "version {version}, older than any that is tested (from {OLDEST_SYSTEMD} on); {role}"
        )),
        Some(version) => ok(format!("version {version}; {role}")),
        None => ok(role),
    }
}

/// `systemd 252 (252.38-1~deb12u1)` is the first line of what systemctl says of itself.
fn systemd_version() -> Option<u32> {
    let output = Command::new(SYSTEMCTL).arg("--version").env_clear().stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.strip_prefix("systemd ")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Makes a group that can be killed whole, and removes it.
fn make_group(root: &Path) -> Result<(), HostError> {
    let group: PathBuf = root.join(format!("turnout-probe-{}", std::process::id()));
    fs::create_dir(&group).map_err(HostError::os("mkdir", group.display()))?;
    let whole = fs::metadata(group.join("cgroup.kill")).map_err(HostError::os("stat", group.display()));
    fs::remove_dir(&group).map_err(HostError::os("rmdir", group.display()))?;
    whole.map(|_| ())
}

/// Whether a program is there, for root.
fn program(path: &Path) -> Outcome {
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => ok(path.display()),
        Ok(_) => missing(format!("`{}` is no program", path.display())),
        Err(error) => missing(format!("`{}`: {error}", path.display())),
    }
}

/// Whether a program is there which the user of a cell can execute.
fn program_for_cells(path: &Path) -> Outcome {
    match program(path) {
        Outcome { standing: Standing::Ok, .. } => for_cells(path, OTHERS_EXECUTE, "o+rx"),
        outcome => outcome,
    }
}

/// Whether the user of a cell has these rights to a file that is there. The cell shows the file alone, without the folders
/// above it.
fn for_cells(path: &Path, rights: u32, change: &str) -> Outcome {
    let shown = path.display();
    match fs::metadata(path).map(|found| found.permissions().mode()) {
        Ok(mode) if mode & rights == rights => ok(shown),
        Ok(mode) => {
            missing(format!("`{shown}` has mode {:04o}: the user of a cell cannot use it", mode & 0o7777))
                .with_remedy(format!("`chmod {change} {shown}`"))
        }
        Err(error) => missing(format!("`{shown}`: {error}")),
    }
}
