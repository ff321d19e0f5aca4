//! What the kernel lets this process do: namespaces, eBPF, the walls around a worker.

use super::{Outcome, Places, chain, degraded, missing, ok};
use crate::mounts::in_private_namespace;
use crate::{HostError, clock, sys};
use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{is_map_supported, is_program_supported};
use libc::STDIN_FILENO;
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Oldest kernel that is tested.
const OLDEST: (u32, u32) = (6, 1);
/// From this Landlock version on, a worker's TCP is walled in too.
const LANDLOCK_TCP: u32 = 4;
/// Kinds of namespaces that the launcher makes, as the names of their limits have them.
const NAMESPACES: [&str; 6] = ["mnt", "pid", "ipc", "uts", "net", "cgroup"];
/// Ends when its standard input does.
const WAITING_PROGRAMS: [&str; 2] = ["/usr/bin/cat", "/bin/cat"];
/// User that is not this process's own, for a process that ends at once.
const NOBODY: u32 = 65_534;
/// Not there where the kernel was told to leave IPv6 out.
const IPV6_SETTINGS: &str = "/proc/sys/net/ipv6";
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
/// With it nobody may take anything from a process, and it cannot be lowered again.
const PTRACE_NEVER: &str = "3";

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
    let settings = NAMESPACES.map(|kind| format!("user.max_{kind}_namespaces"));
    let forbidden: Vec<String> = settings.into_iter().filter(|setting| is_zero(setting)).collect();
    if !forbidden.is_empty() {
        let settings =
            forbidden.iter().map(|setting| format!("{setting}=1024")).collect::<Vec<_>>().join(" ");
        return missing(format!("none can be made of those whose limit is 0: {}", forbidden.join(", ")))
            .with_remedy(format!("`sysctl -w {settings}`, and the same in a file of `/etc/sysctl.d`"));
    }
    if let Some(unit) = places.launcher_unit {
        return ok(format!(
            "made by `{unit}`, and not to be made by this process; no `user.max_*_namespaces` is 0"
        ));
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

/// Whether a limit of the kernel's, named as for sysctl(8), is 0.
fn is_zero(setting: &str) -> bool {
    let file = Path::new("/proc/sys").join(setting.replace('.', "/"));
    fs::read_to_string(file).is_ok_and(|text| text.trim() == "0")
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
    landlock_of(sys::landlock_abi())
}

fn landlock_of(version: io::Result<u32>) -> Outcome {
    match version {
        Ok(version) if version >= LANDLOCK_TCP => ok(format!("version {version}")),
        Ok(version) => degraded(format!("version {version}, without rules for TCP")).with_remedy(
            "use a kernel from 6.7 on; Debian 12 has one in bookworm-backports (`linux-image-amd64`)",
        ),
        Err(error) => degraded(format!("none: {error}")),
    }
}

pub fn seccomp(_: &Places<'_>) -> Outcome {
    match sys::seccomp_filter_available() {
        Ok(()) => ok("filters can refuse calls"),
        Err(error) => missing(format!("no filters: {error}")),
    }
}

/// Takes a descriptor of another process, of another user where this one may make it: of itself nothing would refuse it.
pub fn pidfd(_: &Places<'_>) -> Outcome {
    let mut other = match waiting_process() {
        Ok(other) => other,
        Err(error) => {
            return degraded(format!("not tried, no process to take a descriptor from can be made: {error}"));
        }
    };
    let taken = pidfd_open(Pid::from_child(&other), PidfdFlags::empty())
        .and_then(|pidfd| pidfd_getfd(&pidfd, STDIN_FILENO, PidfdGetfdFlags::empty()));
    // The end of its standard input is its own.
    drop(other.stdin.take());
    let _ = other.wait();
    match taken {
        Ok(_) => ok("descriptors can be taken from a process"),
        Err(error) => refused_by(error, fs::read_to_string(PTRACE_SCOPE).unwrap_or_default().trim()),
    }
}

fn refused_by(error: Errno, ptrace_scope: &str) -> Outcome {
    let refused = missing(format!("pidfd_getfd: {error}"));
    if ptrace_scope != PTRACE_NEVER {
        return refused;
    }
    refused.with_remedy(
        "set `kernel.yama.ptrace_scope` below 3 in `/etc/sysctl.d` and boot again: 3 holds until then",
    )
}

fn waiting_process() -> io::Result<Child> {
    let held = capabilities(None)?.effective;
    let program = WAITING_PROGRAMS.into_iter().find(|program| Path::new(program).exists());
    let mut command = Command::new(program.unwrap_or(WAITING_PROGRAMS[0]));
    if held.contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
        command.uid(NOBODY).gid(NOBODY);
    }
    let command = command.current_dir("/").env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Whether something keeps the clock right.
pub fn clock(_: &Places<'_>) -> Outcome {
    match clock::read() {
        Ok(reading) if reading.synchronized => ok("something keeps it right"),
        Ok(_) => degraded("nothing is known to keep it right"),
        Err(error) => degraded(chain(&error)),
    }
}

pub fn ipv6(_: &Places<'_>) -> Outcome {
    match TcpListener::bind("[::1]:0") {
        Ok(_) => ok("a socket can listen on `::1`"),
        Err(error) => {
            let found = degraded(format!("cannot listen on `::1`: {error}"));
            if Path::new(IPV6_SETTINGS).exists() {
                return found;
            }
            found.with_remedy("boot without `ipv6.disable=1`, or serve on IPv4 alone")
        }
    }
}

fn program(kind: ProgramType) -> Outcome {
    match is_program_supported(kind) {
        Ok(true) => ok("a program can be loaded"),
        Ok(false) => missing("the kernel does not know such programs"),
        Err(error) => missing(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_landlock_is_cured_by_another_kernel_than_none_at_all() {
        assert!(landlock_of(Ok(LANDLOCK_TCP)).remedy.is_none());
        assert!(landlock_of(Ok(2)).remedy.unwrap().contains("6.7"));
        assert!(landlock_of(Err(io::ErrorKind::Unsupported.into())).remedy.is_none());
    }
}
