//! The part of the cgroup tree in which the cells lie: whether groups can be made, and which limits hold in them.

use super::{Outcome, Places, chain, degraded, missing, nearest, ok};
use crate::HostError;
use crate::mounts::cgroup2_root;
use std::fs;
use std::path::{Path, PathBuf};

const CONTROLLERS: [&str; 4] = ["cpuset", "cpu", "memory", "pids"];
/// The instance's cgroup, where none is configured.
const INSTANCE: &str = "turnout";

pub fn cgroup2(places: &Places<'_>) -> Outcome {
    let Some(instance) = instance(places) else {
        return missing("no cgroup2 tree is mounted");
    };
    let place = nearest(&instance);
    let handed_down = match make_group(place) {
        Ok(controllers) => controllers,
        Err(error) => return missing(chain(&error)),
    };
    let offered = offered(places, &instance).unwrap_or_else(|| {
        // The launcher makes the groups between without handing anything down.
        if instance.parent() == Some(place) { handed_down } else { String::new() }
    });
    let offered: Vec<&str> = offered.split_whitespace().collect();
    let lacking: Vec<&str> = CONTROLLERS.into_iter().filter(|name| !offered.contains(name)).collect();
    let shown = place.display();
    if lacking.is_empty() {
        return ok(format!("groups can be made at `{shown}`, with {}", CONTROLLERS.join(", ")));
    }
    let found = degraded(format!(
        "groups can be made at `{shown}`, but limits by {} are not enforced",
        lacking.join(", ")
    ));
    found.with_remedy(remedy(places, &instance, &lacking))
}

/// The cgroup below which all cells lie, there or not.
pub(super) fn instance(places: &Places<'_>) -> Option<PathBuf> {
    places.cgroup.map(Path::to_owned).or_else(|| Some(cgroup2_root()?.join(INSTANCE)))
}

/// What cells of the instance get, where its cgroup or the service manager says so.
fn offered(places: &Places<'_>, instance: &Path) -> Option<String> {
    let read = |file: PathBuf| fs::read_to_string(file).ok();
    if instance.is_dir() {
        // A launcher that runs has handed down what it could.
        let file =
            if instance.join("launcher").is_dir() { "cgroup.subtree_control" } else { "cgroup.controllers" };
        return read(instance.join(file));
    }
    // The unit does not run. When it starts, the service manager hands down what it has itself.
    places.launcher_unit.and_then(|_| read(cgroup2_root()?.join("cgroup.controllers")))
}

fn remedy(places: &Places<'_>, instance: &Path, lacking: &[&str]) -> String {
    let whole = "boot with `systemd.unified_cgroup_hierarchy=1`, so that no controller is held by cgroup v1";
    let above = instance.parent().unwrap_or(instance).display();
    match places.launcher_unit {
        Some(unit) => {
            format!(
                "`systemctl edit {unit}` with `Delegate={}` below `[Service]`; or {whole}",
                CONTROLLERS.join(" ")
            )
        }
        None => format!(
            "let whoever owns `{above}` hand them down: `Delegate=` in its unit, or write `{}` into \
             `{above}/cgroup.subtree_control`; or {whole}",
            lacking.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ")
        ),
    }
}

/// Makes a group that can be killed whole, and removes it. Says which controllers it had.
fn make_group(root: &Path) -> Result<String, HostError> {
    let group: PathBuf = root.join(format!("turnout-probe-{}", std::process::id()));
    fs::create_dir(&group).map_err(HostError::os("mkdir", group.display()))?;
    let whole = fs::metadata(group.join("cgroup.kill")).map_err(HostError::os("stat", group.display()));
    let controllers = fs::read_to_string(group.join("cgroup.controllers"));
    fs::remove_dir(&group).map_err(HostError::os("rmdir", group.display()))?;
    whole.and_then(|_| controllers.map_err(HostError::os("read", group.display())))
}
