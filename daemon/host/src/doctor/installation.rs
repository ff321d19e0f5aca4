//! What is installed beside the daemon.

use super::units::SYSTEMCTL;
use super::{Outcome, Places, Standing, degraded, missing, ok};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Oldest systemd whose units are tested.
const OLDEST_SYSTEMD: u32 = 252;
/// Rights that a cell's user needs: it owns nothing, and has no capability that passes by permissions.
const OTHERS_READ: u32 = 0o004;
const OTHERS_EXECUTE: u32 = 0o005;

pub fn onnxruntime(places: &Places<'_>) -> Outcome {
    let path = places.onnxruntime;
    let mut magic = [0; 4];
    match File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) if magic == *b"\x7fELF" => for_cells(path, OTHERS_READ, "o+r"),
        Ok(()) => missing(format!("`{}` is no shared library", path.display())),
        Err(error) => missing(format!("`{}`: {error}", path.display())),
    }
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

/// Whether a program is there, for root.
pub(super) fn program(path: &Path) -> Outcome {
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
