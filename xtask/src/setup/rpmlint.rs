//! rpmlint, from the Python registry at a pinned version, in a folder of its own in `target/tools`. It reads packages
//! through the system's own Python binding of rpm.

use super::State;
use crate::command;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

const VERSION: &str = "2.10.0";

/// Where the program is after set-up.
pub fn program(root: &Path) -> PathBuf {
    folder(root).join("bin/rpmlint")
}

fn folder(root: &Path) -> PathBuf {
    command::tools(root).join("rpmlint")
}

/// Says whether it is there at its pinned version.
///
/// # Errors
/// Never at present: a program that cannot be asked is missing.
pub fn look(root: &Path) -> Result<State> {
    let asked = command::capture(command::program(root, &program(root).to_string_lossy()).arg("--version"));
    match asked {
        Ok(answer) if answer.success && answer.stdout.trim() == VERSION => {
            Ok(State::Present(VERSION.to_owned()))
        }
        _ => Ok(State::Missing(format!("{VERSION} into target/tools/rpmlint (from the Python registry)"))),
    }
}

/// Makes the folder anew and installs it there.
///
/// # Errors
/// When the registry cannot be reached.
pub fn install(root: &Path) -> Result<()> {
    let folder = folder(root);
    let mut venv = command::program(root, "python3");
    command::run(venv.args(["-m", "venv", "--clear", "--system-site-packages"]).arg(&folder))?;
    let mut pip = command::program(root, &folder.join("bin/pip").to_string_lossy());
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    command::run(pip.arg(format!("rpmlint=={VERSION}")))
        .context("remedy: check that the Python registry can be reached, then run it again")
}
