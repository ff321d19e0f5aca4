//! The reference implementation of OpenSSF Model Signing (`model-signing` of the Python registry), for the test that signs
//! and verifies both ways. Every package is pinned in `tests/oms/requirements.txt`; all go to `target/model-signing`.

use super::State;
use crate::command;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// What is installed, one pinned package a line.
const REQUIREMENTS: &str = "tests/oms/requirements.txt";
/// A copy of the requirements that were installed, written last.
const INSTALLED: &str = "installed.txt";

fn folder(root: &Path) -> PathBuf {
    root.join("target/model-signing")
}

/// Says whether the packages of the requirements are there.
///
/// # Errors
/// When the requirements cannot be read.
pub fn look(root: &Path) -> Result<State> {
    let wanted = requirements(root)?;
    let count = wanted.lines().filter(|line| line.contains("==")).count();
    match fs::read_to_string(folder(root).join(INSTALLED)) {
        Ok(installed) if installed == wanted => Ok(State::Present(format!("{count} pinned packages"))),
        _ => Ok(State::Missing(format!(
            "{count} pinned packages of {REQUIREMENTS} into target/model-signing (wheels from the Python registry, 25 MB)"
        ))),
    }
}

/// Installs them anew.
///
/// # Errors
/// When the registry cannot be reached, or this Python has no wheel of one of them.
pub fn install(root: &Path) -> Result<()> {
    let folder = folder(root);
    let _ = fs::remove_dir_all(&folder);
    let mut pip = command::program(root, "python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]);
    pip.args(["--no-deps", "--only-binary=:all:", "--target"]).arg(&folder);
    pip.arg("-r").arg(root.join(REQUIREMENTS));
    command::run(&mut pip)
        .context("remedy: check that the Python registry can be reached, then run it again")?;
    fs::write(folder.join(INSTALLED), requirements(root)?).context("cannot note what was installed")
}

fn requirements(root: &Path) -> Result<String> {
    let file = root.join(REQUIREMENTS);
    fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))
}
