//! Host programs that must not outlive this one, nor run for ever: each has a deadline, and ends when its starter does,
//! also when that one is killed.

use crate::command;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A program that the kernel ends when the thread that started it ends.
pub fn tied(root: &Path, program: &Path) -> Command {
    let mut command = command::program(root, "setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A program that ends with its starter, or at its deadline.
pub fn within(root: &Path, limit: Duration, program: &str) -> Command {
    let mut command = tied(root, Path::new("timeout"));
    command.arg("--kill-after=10").arg(limit.as_secs().to_string());
    command.args(["setpriv", "--pdeathsig", "KILL", program]);
    command
}

/// The same, in a process namespace of its own: whatever it starts ends with it.
pub fn with_descendants(root: &Path, limit: Duration, program: &str) -> Command {
    let mut command = within(root, limit, "unshare");
    command.args(["--fork", "--pid", "--kill-child=KILL", "--mount-proc", program]);
    command
}
