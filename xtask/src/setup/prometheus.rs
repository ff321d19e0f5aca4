//! Prometheus and promtool out of Debian's package, for the test of the metrics: unpacked into `target/prometheus`, not
//! installed, because the installed package would start a server. apt checks what it fetches.

use super::State;
use super::packages::refresh_index;
use crate::command;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGE: &str = "prometheus";
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Says whether the programs are there.
pub fn look(root: &Path) -> Result<State> {
    if PROGRAMS.iter().all(|name| folder(root).join(name).is_file()) {
        return Ok(State::Present("in target/prometheus".to_owned()));
    }
    Ok(State::Missing("Debian's package, unpacked into target/prometheus (19 MB)".to_owned()))
}

/// Fetches the package and unpacks the programs.
///
/// # Errors
/// When the archive cannot be reached or lacks the package.
pub fn install(root: &Path) -> Result<()> {
    let work = root.join("target/prometheus.part");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).with_context(|| format!("cannot create `{}`", work.display()))?;
    let outcome = fetch(root, &work).and_then(|package| unpack(root, &work, &package));
    let _ = fs::remove_dir_all(&work);
    outcome
}

fn folder(root: &Path) -> PathBuf {
    root.join("target/prometheus")
}

fn fetch(root: &Path, work: &Path) -> Result<PathBuf> {
    let download = || {
        let mut apt = command::program(root, "apt-get");
        command::run(apt.args(["download", "-q", PACKAGE]).current_dir(work))
    };
    // An index that is older than the archive names packages that are gone.
    download().or_else(|_| refresh_index(root).and_then(|()| download())).context(
        "remedy: check the network and /etc/apt/sources.list*; the package is in Debian's main archive",
    )?;
    let files = fs::read_dir(work)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut packages = files.filter(|path| path.extension().is_some_and(|e| e == "deb"));
    packages.next().context("apt-get reported success but left no package")
}

fn unpack(root: &Path, work: &Path, package: &Path) -> Result<()> {
    let unpacked = work.join("unpacked");
    command::run(command::program(root, "dpkg-deb").arg("-x").arg(package).arg(&unpacked))?;
    let chosen = work.join("chosen");
    fs::create_dir_all(&chosen)?;
    for name in PROGRAMS {
        let from = unpacked.join("usr/bin").join(name);
        fs::rename(&from, chosen.join(name)).with_context(|| format!("the package has no `{name}`"))?;
    }
    let _ = fs::remove_dir_all(folder(root));
    fs::rename(&chosen, folder(root)).context("cannot move the programs into place")
}
