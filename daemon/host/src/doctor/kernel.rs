//! What the kernel lets this process do: rights, namespaces, eBPF, the walls around a worker.

use super::{Outcome, Places, chain, degraded, missing, ok};
use crate::mounts::in_private_namespace;
use crate::{HostError, sys};
use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Oldest kernel that is tested.
const OLDEST: (u32, u32) = (6, 1);
/// From this Landlock version on, a worker's TCP is walled in too.
const LANDLOCK_TCP: u32 = 4;

/// What the daemon itself needs. SYS_ADMIN includes BPF.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
];
/// What a launcher that it starts would need on top.
const NEEDED_BY_LAUNCHER: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
];

pub fn rights(places: &Places<'_>) -> Outcome {
    let held = match capabilities(None) {
        Ok(sets) => sets.effective,
        Err(error) => return missing(format!("capget: {error}")),
    };
    let launchers = NEEDED_BY_LAUNCHER.into_iter().filter(|_| places.launcher_unit.is_none());
    let lacking: Vec<&str> = NEEDED
        .into_iter()
        .chain(launchers)
        .filter(|(capability, _)| !held.contains(*capability))
        .map(|(_, name)| name)
        .collect();
    let user = rustix::process::geteuid();
    if lacking.is_empty() && user.is_root() {
        return ok("root, with every capability that is needed");
    }
    missing(format!("user {}, without {}", user.as_raw(), lacking.join(", ")))
}

pub fn release(_: &Places<'_>) -> Outcome {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= OLDEST {
        ok(release)
    } else {
        degraded(format!("{release}, older than any that is tested"))
    }
}

pub fn namespaces(places: &Places<'_>) -> Outcome {
    if let Some(unit) = places.launcher_unit {
        return ok(format!("made by `{unit}`, and not to be made by this process"));
    }
    let kinds = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    let made = in_private_namespace(|| {
        unshare(kinds).map_err(HostError::os("unshare", "pid, net, ipc, uts, cgroup"))
    });
    match made {
        Ok(()) => ok("mount, pid, net, ipc, uts and cgroup namespaces can be made"),
        Err(error) => missing(chain(&error)),
    }
}

pub fn sk_lookup(_: &Places<'_>) -> Outcome {
    program(ProgramType::SkLookup)
}

pub fn cgroup_skb(_: &Places<'_>) -> Outcome {
    program(ProgramType::CgroupSkb)
}

pub fn cgroup_device(_: &Places<'_>) -> Outcome {
    program(ProgramType::CgroupDevice)
}

pub fn sk_storage(_: &Places<'_>) -> Outcome {
    match is_map_supported(MapType::SkStorage) {
        Ok(true) => ok("a map can be made"),
        Ok(false) => missing("the kernel does not know such maps"),
        Err(error) => missing(chain(&error)),
    }
}

pub fn bpffs(_: &Places<'_>) -> Outcome {
    match fsopen(c"bpf", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => ok("can be mounted"),
        Err(error) => missing(format!("fsopen `bpf`: {error}")),
    }
}

pub fn btf(_: &Places<'_>) -> Outcome {
    let path = Path::new("/sys/kernel/btf/vmlinux");
    match File::open(path) {
        Ok(_) => ok(path.display()),
        Err(error) => degraded(format!("`{}`: {error}", path.display())),
    }
}

pub fn landlock(_: &Places<'_>) -> Outcome {
    match sys::landlock_abi() {
        Ok(version) if version >= LANDLOCK_TCP => ok(format!("version {version}")),
        Ok(version) => degraded(format!("version {version}, without rules for TCP")),
        Err(error) => degraded(format!("none: {error}")),
    }
}

pub fn seccomp(_: &Places<'_>) -> Outcome {
    match sys::seccomp_filter_available() {
        Ok(()) => ok("filters can refuse calls"),
        Err(error) => missing(format!("no filters: {error}")),
    }
}

/// Takes a descriptor of its own through a descriptor of itself.
pub fn pidfd(_: &Places<'_>) -> Outcome {
    let taken = pidfd_open(getpid(), PidfdFlags::empty()).and_then(|itself| {
        let number = itself.as_raw_fd();
        pidfd_getfd(&itself, number, PidfdGetfdFlags::empty())
    });
    match taken {
        Ok(_) => ok("descriptors can be taken from a process"),
        Err(error) => missing(format!("pidfd_getfd: {error}")),
    }
}

pub fn ipv6(_: &Places<'_>) -> Outcome {
    match TcpListener::bind("[::1]:0") {
        Ok(_) => ok("a socket can listen on `::1`"),
        Err(error) => degraded(format!("cannot listen on `::1`: {error}")),
    }
}

fn program(kind: ProgramType) -> Outcome {
    match is_program_supported(kind) {
        Ok(true) => ok("a program can be loaded"),
        Ok(false) => missing("the kernel does not know such programs"),
        Err(error) => missing(chain(&error)),
    }
}
