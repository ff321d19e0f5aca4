//! Runs other programs: shows what is run, and turns a failure into a message that names the command.
//! What a failure means, and its remedy, is for the caller to say.

use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The cargo that runs this program: rustup's, never another one that a Debian package put on the path.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.current_dir(root).env("PATH", path_with_tools(root));
    command
}

/// A program of the system, found on the path, in the workspace folder.
pub fn program(root: &Path, name: &str) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root).env("PATH", path_with_tools(root));
    command
}

/// Where `setup` installs programs that no Debian package brings.
pub fn tools(root: &Path) -> PathBuf {
    root.join("target/tools")
}

/// `PATH` with the installed tools in front.
fn path_with_tools(root: &Path) -> OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let parts = std::iter::once(tools(root).join("bin")).chain(std::env::split_paths(&old));
    std::env::join_paths(parts).unwrap_or(old)
}

/// The command as a person would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Shows and runs a command with its output in the open.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let text = shown(command);
    println!("  $ {text}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{text}`"))?;
    if !status.success() {
        bail!("`{text}` failed with {status}");
    }
    Ok(())
}

/// What a command that was run quietly did.
pub struct Finished {
    /// It ended with success.
    pub success: bool,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// Runs a command and keeps its output.
///
/// # Errors
/// When it cannot be started; an unsuccessful end is a result.
pub fn capture(command: &mut Command) -> Result<Finished> {
    let text = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{text}`"))?;
    Ok(Finished {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
