//! What systemd knows of a unit, as `systemctl show` tells it.

use std::path::Path;
use std::process::{Command, Stdio};

pub(super) const SYSTEMCTL: &str = "/usr/bin/systemctl";

/// A property of a unit, each of its values on a line; `None` where systemd does not run this host, does not know the unit,
/// or has nothing set.
pub fn property(unit: &str, name: &str) -> Option<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let mut command = Command::new(SYSTEMCTL);
    let output = command.args(["show", "-P", name, unit]).env_clear().stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}
