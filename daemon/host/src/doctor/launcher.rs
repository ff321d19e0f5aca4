//! Whether the launcher is there, and answers where its socket is: it may run with other arguments than are thought, or not
//! start at all.

use super::{Outcome, Places, Standing, cgroup, chain, installation, missing, ok, untried};
use crate::HostError;
use crate::launcher_client::greet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// How long a launcher may take to answer that is not known to run.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one may that runs: it takes one request at a time, and builds a cell for up to 10 s.
const PATIENCE_BUSY: Duration = Duration::from_secs(12);
/// The name of its socket in the runtime directory.
const SOCKET: &str = "launcher.sock";

pub fn launcher(places: &Places<'_>) -> Outcome {
    let program = installation::program(places.launcher);
    if program.standing != Standing::Ok {
        return program;
    }
    let socket = places.runtime.join(SOCKET);
    match (places.launcher_unit, fs::symlink_metadata(&socket)) {
        (Some(unit), Err(error)) => {
            missing(format!("`{}`: {error}", socket.display())).with_remedy(unit_remedy(unit))
        }
        (None, Err(_)) => program,
        (_, Ok(_)) if !rustix::process::geteuid().is_root() => {
            untried(format!("{}; whether it answers was not tried: only root can", program.found))
        }
        (unit, Ok(_)) => answering(&socket, places, program.found, unit),
    }
}

fn answering(socket: &Path, places: &Places<'_>, program: String, unit: Option<&str>) -> Outcome {
    let patience = if runs(places) { PATIENCE_BUSY } else { PATIENCE };
    let Err(error) = greet(socket, patience) else { return ok(format!("`{}` answers", socket.display())) };
    match unit {
        Some(unit) => missing(chain(&error)).with_remedy(unit_remedy(unit)),
        // What a launcher left that has ended: the daemon starts another.
        None if is_left_behind(&error) => ok(program),
        None => missing(chain(&error)).with_remedy(
            "end the launcher that holds this socket: the daemon starts another; what it said is in `workers.log` of \
             the state directory",
        ),
    }
}

/// Whether a launcher has made its home below the instance's cgroup, and is in it.
fn runs(places: &Places<'_>) -> bool {
    let home = cgroup::instance(places).map(|instance| instance.join("launcher/cgroup.procs"));
    let processes = home.and_then(|home| fs::read_to_string(home).ok());
    processes.is_some_and(|processes| !processes.is_empty())
}

fn is_left_behind(error: &HostError) -> bool {
    matches!(error, HostError::Os { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
}

fn unit_remedy(unit: &str) -> String {
    format!("`systemctl status {unit}` and `journalctl -u {unit}` say why it does not run")
}
