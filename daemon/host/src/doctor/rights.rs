//! What this process may: its capabilities, and how many descriptors what it starts can have.

use super::{Outcome, Places, degraded, missing, ok, units, untried};
use rustix::process::{Resource, geteuid, getrlimit};
use rustix::thread::CapabilitySet;
use std::fs;

/// Below it a port is for who holds CAP_NET_BIND_SERVICE, where the kernel does not say otherwise.
const PRIVILEGED_PORTS: u16 = 1024;
const UNPRIVILEGED_FROM: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
/// Descriptors without which the launcher does not start.
const DESCRIPTORS_LAUNCHER: u64 = 2048;
/// Descriptors that a worker takes where it gets them.
const DESCRIPTORS_WORKER: u64 = 65_536;

/// What the daemon itself needs. SYS_ADMIN includes BPF.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
];
/// What a launcher that it starts needs on top: a worker's own user, no capabilities, and the end of what runs under it.
const NEEDED_BY_LAUNCHER: [(CapabilitySet, &str); 5] = [
    (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::SETPCAP, "CAP_SETPCAP"),
    (CapabilitySet::KILL, "CAP_KILL"),
];
const FOR_GROUP: (CapabilitySet, &str) = (CapabilitySet::CHOWN, "CAP_CHOWN");
const FOR_PORTS: (CapabilitySet, &str) = (CapabilitySet::NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE");

pub fn capabilities(places: &Places<'_>) -> Outcome {
    let user = geteuid();
    if !user.is_root() {
        return untried(format!("not tried: run as root (this is user {})", user.as_raw()));
    }
    let held = match rustix::thread::capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => return missing(format!("capget: {error}")),
    };
    let needed = needed(places);
    let lacking: Vec<&str> =
        needed.iter().filter(|(capability, _)| !held.contains(*capability)).map(|(_, name)| *name).collect();
    if lacking.is_empty() {
        return ok("root, with every capability that is needed");
    }
    missing(format!("root, without {}", lacking.join(", ")))
}

fn needed(places: &Places<'_>) -> Vec<(CapabilitySet, &'static str)> {
    let mut needed = NEEDED.to_vec();
    // Where a unit runs the launcher, another one holds the control socket.
    if places.launcher_unit.is_none() {
        needed.extend(NEEDED_BY_LAUNCHER);
        needed.extend(places.group.filter(|group| is_there(group)).map(|_| FOR_GROUP));
    }
    needed.extend((places.lowest_port < first_unprivileged()).then_some(FOR_PORTS));
    needed
}

fn is_there(group: &str) -> bool {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    groups.lines().any(|line| line.split(':').next() == Some(group))
}

fn first_unprivileged() -> u16 {
    let set = fs::read_to_string(UNPRIVILEGED_FROM).ok().and_then(|text| text.trim().parse().ok());
    set.unwrap_or(PRIVILEGED_PORTS)
}

/// What the launcher and its workers get: a limit of the unit that runs it, or else this process's own.
pub fn descriptors(places: &Places<'_>) -> Outcome {
    let Some(unit) = places.launcher_unit else {
        return enough(getrlimit(Resource::Nofile).maximum, "this process");
    };
    match units::property(unit, "LimitNOFILE") {
        Some(text) => enough(text.parse().ok(), &format!("`{unit}`")).with_remedy(format!(
            "`systemctl edit {unit}` with `LimitNOFILE={DESCRIPTORS_WORKER}` below `[Service]`; then restart it, which \
             ends the workers"
        )),
        None => ok(format!("a limit of `{unit}`")),
    }
}

/// No hard limit is infinity.
fn enough(hard: Option<u64>, whose: &str) -> Outcome {
    let found = hard.map_or_else(|| "any number".to_owned(), |hard| format!("up to {hard}"));
    let found = format!("{found}, the hard limit of {whose}");
    match hard.unwrap_or(u64::MAX) {
        ..DESCRIPTORS_LAUNCHER => {
            missing(format!("{found}: the launcher does not start with less than {DESCRIPTORS_LAUNCHER}"))
        }
        DESCRIPTORS_LAUNCHER..DESCRIPTORS_WORKER => {
            degraded(format!("{found}: a worker has so many connections at most"))
        }
        _ => ok(found),
    }
}
