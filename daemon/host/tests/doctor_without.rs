//! The examination on a host that lacks each requirement in turn. What is taken away is taken away for real, from a
//! process of its own: by mounts in its own namespace, by its capabilities, by a network of its own, or by the kernel
//! refusing a call as one that lacks it does. The host itself is not touched.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use turnout_host::doctor::{Finding, Places, Standing, examine};

/// Set in the process that examines: calls that its kernel refuses, `NAME=ERRNO`, separated by spaces.
const REFUSED: &str = "TURNOUT_TEST_REFUSED";
/// Where that process looks, as [`Places`].
const STATE: &str = "TURNOUT_TEST_STATE";
/// Flag of move_mount(2).
const MOVE_MOUNT_BENEATH: u64 = 0x200;
/// Of `linux/fsverity.h`.
const FS_IOC_ENABLE_VERITY: u64 = 0x4080_6685;
/// Begins a line that tells of a finding.
const MARK: &str = "finding\t";

/// How a requirement is taken away.
struct Case {
    /// The requirement.
    name: &'static str,
    /// Shell commands in a mount namespace of its own, before the examination.
    before: &'static str,
    /// The command that runs the examination; empty for none.
    through: &'static str,
    /// Calls that the kernel refuses.
    refused: &'static str,
    /// How it must stand then.
    standing: Standing,
    /// What must be said of it.
    said: &'static str,
}

const NOTHING: Case =
    Case { name: "", before: "", through: "", refused: "", standing: Standing::Ok, said: "" };

fn cases() -> Vec<Case> {
    use Standing::{Degraded, Missing, Ok};
    let fine = |name, said| Case { name, standing: Ok, said, ..NOTHING };
    let missing = |name, said| Case { name, standing: Missing, said, ..NOTHING };
    let degraded = |name, said| Case { standing: Degraded, ..missing(name, said) };
    let without = |capabilities| Case { through: capabilities, ..missing("root", "without CAP_") };
    vec![
        without("setpriv --bounding-set -net_admin"),
        without("setpriv --bounding-set -sys_admin,-bpf"),
        Case { through: "setarch x86_64 --uname-2.6", ..degraded("kernel", "older than any that is tested") },
        Case { before: "mount --bind /dev/null /dev/loop-control", ..missing("btrfs", "loop-control") },
        Case { before: "mount -t tmpfs none /usr/sbin", ..missing("btrfs", "`mkfs.btrfs` is not installed") },
        // As a kernel without the file system answers.
        Case { refused: "mount:kind=ENODEV", ..missing("btrfs", "this kernel has no Btrfs") },
        Case { before: "mount -t tmpfs -o size=64m none $STATE", ..missing("space", " MiB free") },
        Case { before: "mount -t tmpfs -o size=2g none $STATE", ..degraded("space", "a quarter becomes") },
        // As a kernel without it answers.
        Case { refused: "ioctl:verity=EOPNOTSUPP", ..degraded("fs-verity", "compared before each start") },
        Case { refused: "move_mount=EPERM mount:kind=EPERM", ..missing("swap", "no way to swap") },
        // As a kernel before 6.5 answers.
        Case { refused: "move_mount:beneath=EINVAL", ..fine("swap", "by propagation, without a gap") },
        degraded("propagation", "has mounts of its own"),
        Case { through: AS_PROCESS_1, ..degraded("propagation", "is not shared") },
        Case {
            before: "mount --make-rshared /",
            through: AS_PROCESS_1,
            ..fine("propagation", "in the host's namespace, shared")
        },
        Case { refused: "unshare:net=EPERM", ..missing("namespaces", "unshare") },
        Case { before: UNMOUNT_CGROUPS, ..missing("cgroup2", "no cgroup2 tree is mounted") },
        Case { before: READ_ONLY_CGROUPS, ..missing("cgroup2", "Read-only file system") },
        Case { refused: "bpf=EPERM", ..missing("sk_lookup", "") },
        Case { refused: "bpf=EPERM", ..missing("cgroup_skb", "") },
        Case { refused: "bpf=EPERM", ..missing("cgroup_device", "") },
        Case { refused: "bpf=EPERM", ..missing("sk_storage", "") },
        Case { through: "setpriv --bounding-set -sys_admin,-bpf", ..missing("sk_lookup", "") },
        // Kernels that are supported do not count maps as locked memory.
        Case { through: "prlimit --memlock=0", ..fine("sk_lookup", "a program can be loaded") },
        Case { refused: "fsopen=ENODEV", ..missing("bpffs", "No such device") },
        Case { before: "mount -t tmpfs none /sys/kernel/btf", ..degraded("btf", "No such file") },
        Case { refused: "landlock_create_ruleset=ENOSYS", ..degraded("landlock", "none") },
        Case { refused: "seccomp=ENOSYS", ..missing("seccomp", "no filters") },
        Case { refused: "pidfd_getfd=EPERM", ..missing("pidfd", "pidfd_getfd") },
        // A new network has loopback without addresses.
        Case { through: "unshare --net", ..degraded("ipv6", "cannot listen on `::1`") },
        Case { before: "rm $STATE/onnxruntime", ..missing("onnxruntime", "No such file") },
        Case { before: "echo text > $STATE/onnxruntime", ..missing("onnxruntime", "is no shared library") },
        Case { before: "chmod -x $STATE/launcher", ..missing("launcher", "is no program") },
        Case { before: "rm $STATE/worker", ..missing("worker", "No such file") },
        Case { before: "rm $STATE/turnout-router", ..degraded("router", "turnout-router`: No such file") },
        Case { before: "mount -t tmpfs none /run", ..degraded("systemd", "(optional)") },
        Case {
            before: "mount -t tmpfs none /run; mkdir -p /run/systemd/system",
            ..fine("systemd", "runs this host")
        },
        Case { before: OLD_SYSTEMD, ..degraded("systemd", "version 247, older than any that is tested") },
        Case { through: "env NOTIFY_SOCKET=/nowhere", ..fine("systemd", "runs as its service") },
    ]
}

/// With process 1 of a machine in the same namespace of mounts.
const AS_PROCESS_1: &str = "unshare --pid --fork --mount-proc --propagation unchanged";
/// A machine that an older systemd runs.
const OLD_SYSTEMD: &str = "mount -t tmpfs none /run; mkdir -p /run/systemd/system; \
    printf '#!/bin/sh\necho \"systemd 247 (247.3-7)\"\n' > /run/systemctl; chmod +x /run/systemctl; \
    mount --bind /run/systemctl /usr/bin/systemctl";
const UNMOUNT_CGROUPS: &str = "umount -l $(findmnt -rn -t cgroup2 -o TARGET)";
const READ_ONLY_CGROUPS: &str =
    "for point in $(findmnt -rn -t cgroup2 -o TARGET); do mount -o bind,remount,ro $point; done";

#[test]
fn each_requirement_that_is_taken_away_is_named_with_its_remedy() {
    let whole = found(&NOTHING);
    let mut wrong = Vec::new();
    for case in cases() {
        let told = found(&case);
        let (standing, said) = &told[case.name];
        let how = format!("{} without [{}{}{}]", case.name, case.before, case.through, case.refused);
        println!("{how}: {standing} {said}");
        if *standing != format!("{:?}", case.standing) || !said.contains(case.said) {
            wrong.push(format!("{how}: {standing} {said}; wanted {:?} {}", case.standing, case.said));
        }
        if whole[case.name].0 == *standing && whole[case.name].1 == *said {
            // A host that lacks it anyway cannot show that the line changes.
            println!("  this host says so as it is");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_requirement_is_taken_away_by_some_case() {
    let whole = found(&NOTHING);
    for name in whole.keys() {
        assert!(cases().iter().any(|case| case.name == name), "nothing takes `{name}` away");
    }
}

/// Not a test of its own: examines in the process that [`found`] makes.
#[test]
fn child() {
    let Some(state) = std::env::var_os(STATE) else { return };
    let state = Path::new(&state);
    std::env::var(REFUSED).unwrap_or_default().split_whitespace().for_each(refuse);
    let (worker, launcher) = (state.join("worker"), state.join("launcher"));
    let onnxruntime = state.join("onnxruntime");
    let places = Places {
        state,
        runtime: state,
        cgroup: None,
        worker: &worker,
        launcher: &launcher,
        launcher_unit: None,
        onnxruntime: &onnxruntime,
    };
    for Finding { name, standing, found, why, remedy } in examine(&places) {
        assert!(!found.is_empty() && !why.is_empty() && !remedy.is_empty(), "{name}");
        println!("{MARK}{name}\t{standing:?}\t{}", found.replace(['\n', '\t'], " "));
    }
}

/// Standing and words of each requirement, as a process finds them from which this case was taken away.
fn found(case: &Case) -> BTreeMap<String, (String, String)> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["worker", "launcher", "turnout-router", "onnxruntime"] {
        std::fs::copy("/bin/true", folder.path().join(name)).unwrap();
    }
    let before = if case.before.is_empty() { "true" } else { case.before };
    let script = format!("set -e; {before}; exec {} \"$0\" --exact child --nocapture", case.through);
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("STATE", folder.path())
        .env(STATE, folder.path())
        .env(REFUSED, case.refused)
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&done.stderr));
    let lines = text.lines().filter_map(|line| line.split_once(MARK).map(|(_, told)| told));
    lines
        .map(|told| {
            let mut parts = told.splitn(3, '\t').map(str::to_owned);
            (parts.next().unwrap(), (parts.next().unwrap(), parts.next().unwrap()))
        })
        .collect()
}

/// Lets the kernel refuse a call to this thread and all it starts: `NAME=ERRNO`.
fn refuse(word: &str) {
    let (call, errno) = word.split_once('=').unwrap();
    let errno = match errno {
        "EPERM" => libc::EPERM,
        "EINVAL" => libc::EINVAL,
        "ENODEV" => libc::ENODEV,
        "ENOSYS" => libc::ENOSYS,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        other => panic!("{other}"),
    };
    let net = libc::CLONE_NEWNET as u64;
    let with_net =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(net), net).unwrap();
    let private = libc::MS_PRIVATE;
    let no_private =
        SeccompCondition::new(3, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(private), 0).unwrap();
    let beneath = SeccompCondition::new(
        4,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(MOVE_MOUNT_BENEATH),
        MOVE_MOUNT_BENEATH,
    )
    .unwrap();
    let verity =
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, FS_IOC_ENABLE_VERITY).unwrap();
    let (number, rules) = match call {
        // Not the call that only makes a namespace private.
        "mount:kind" => (libc::SYS_mount, vec![SeccompRule::new(vec![no_private]).unwrap()]),
        "move_mount" => (libc::SYS_move_mount, vec![]),
        "move_mount:beneath" => (libc::SYS_move_mount, vec![SeccompRule::new(vec![beneath]).unwrap()]),
        "ioctl:verity" => (libc::SYS_ioctl, vec![SeccompRule::new(vec![verity]).unwrap()]),
        "unshare:net" => (libc::SYS_unshare, vec![SeccompRule::new(vec![with_net]).unwrap()]),
        "bpf" => (libc::SYS_bpf, vec![]),
        "fsopen" => (libc::SYS_fsopen, vec![]),
        "landlock_create_ruleset" => (libc::SYS_landlock_create_ruleset, vec![]),
        "seccomp" => (libc::SYS_seccomp, vec![]),
        "pidfd_getfd" => (libc::SYS_pidfd_getfd, vec![]),
        other => panic!("{other}"),
    };
    let refusing = SeccompAction::Errno(errno.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(BTreeMap::from([(number, rules)]), SeccompAction::Allow, refusing, architecture);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
