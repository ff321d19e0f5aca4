//! What is taken away, how, and what must be said then.

use turnout_host::doctor::Standing;

/// How a requirement is taken away.
pub struct Case {
    /// The requirement.
    pub name: &'static str,
    /// Shell commands in a mount namespace of its own, before the examination.
    pub before: &'static str,
    /// The command that runs the examination; empty for none.
    pub through: &'static str,
    /// Calls that the kernel refuses.
    pub refused: &'static str,
    /// What the configuration asks for.
    pub asked: &'static str,
    /// How it must stand then.
    pub standing: Standing,
    /// What must be said of it.
    pub said: &'static str,
    /// What must be said to do.
    pub remedy: &'static str,
}

/// Takes nothing away.
pub const NOTHING: Case = Case {
    name: "",
    before: "",
    through: "",
    refused: "",
    asked: "",
    standing: Standing::Ok,
    said: "",
    remedy: "",
};

/// A requirement that works.
fn fine(name: &'static str, said: &'static str) -> Case {
    Case { name, said, ..NOTHING }
}

fn degraded(name: &'static str, said: &'static str) -> Case {
    Case { standing: Standing::Degraded, ..fine(name, said) }
}

fn missing(name: &'static str, said: &'static str) -> Case {
    Case { standing: Standing::Missing, ..fine(name, said) }
}

fn untried(name: &'static str, said: &'static str) -> Case {
    Case { standing: Standing::Untried, ..fine(name, said) }
}

/// Each requirement, taken away in each way that is known.
pub fn cases() -> Vec<Case> {
    [rights(), storage(), kernel(), cgroups(), launchers(), installed()].into_iter().flatten().collect()
}

fn rights() -> Vec<Case> {
    let without = |through, said| Case { through, ..missing("root", said) };
    let descriptors = |through, case| Case { through, ..case };
    vec![
        without("setpriv --bounding-set -net_admin", "root, without CAP_NET_ADMIN"),
        without("setpriv --bounding-set -sys_admin,-bpf", "root, without CAP_SYS_ADMIN"),
        without("setpriv --bounding-set -setpcap", "root, without CAP_SETPCAP"),
        without("setpriv --bounding-set -kill", "root, without CAP_KILL"),
        Case {
            asked: "unit",
            standing: Standing::Ok,
            ..without("setpriv --bounding-set -kill", "root, with every")
        },
        Case { asked: "group=root", ..without("setpriv --bounding-set -chown", "root, without CAP_CHOWN") },
        Case {
            before: "echo 1024 > $STATE/first; mount --bind $STATE/first /proc/sys/net/ipv4/ip_unprivileged_port_start",
            asked: "port=80",
            ..without("setpriv --bounding-set -net_bind_service", "root, without CAP_NET_BIND_SERVICE")
        },
        Case { through: AS_NOBODY, remedy: "sudo", ..untried("root", "not tried: run as root") },
        Case {
            before: "chmod 0700 $STATE",
            through: AS_NOBODY,
            remedy: "sudo",
            ..untried("space", "not tried: only root can")
        },
        descriptors("prlimit --nofile=1024:1024", missing("descriptors", "does not start")),
        descriptors("prlimit --nofile=4096:4096", degraded("descriptors", "so many connections")),
        Case {
            before: LOW_UNIT,
            asked: "unit",
            remedy: "`systemctl edit turnout-launcher.service`",
            ..missing("descriptors", "up to 1024")
        },
    ]
}

fn storage() -> Vec<Case> {
    vec![
        Case { before: "mount --bind /dev/null /dev/loop-control", ..missing("btrfs", "loop-control") },
        Case { before: "mount -t tmpfs none /usr/sbin", ..missing("btrfs", "`mkfs.btrfs` is not installed") },
        // As a kernel without the file system answers.
        Case {
            refused: "mount:kind=ENODEV",
            remedy: "store.kind",
            ..missing("btrfs", "this kernel has no Btrfs")
        },
        Case { before: "mount -t tmpfs -o size=64m none $STATE", ..missing("space", " MiB free") },
        Case { before: "mount -t tmpfs -o size=2g none $STATE", ..degraded("space", "a quarter becomes") },
        // As a kernel without it answers.
        Case { refused: "ioctl:verity=EOPNOTSUPP", ..degraded("fs-verity", "compared before each start") },
        Case { refused: "move_mount=EPERM mount:kind=EPERM", ..missing("swap", "no way to swap") },
        // As a kernel before 6.5 answers.
        Case { refused: "move_mount:beneath=EINVAL", ..fine("swap", "by propagation, without a gap") },
        Case { asked: "image=200000000000000", remedy: "store_image_bytes", ..missing("space", "asks for") },
        Case { asked: "image=1024", remedy: "store_image_bytes", ..missing("space", "asks for 0 MiB") },
        Case { asked: "folder", ..degraded("btrfs", "plain folder") },
        Case {
            before: "mount -t tmpfs -o size=500m none $STATE",
            asked: "folder",
            ..fine("space", "the store is a folder there")
        },
        Case {
            before: "mount -t tmpfs -o size=32m none $STATE; touch $STATE/store.img",
            remedy: "free space",
            ..degraded("space", "where the journal grows")
        },
        Case { before: MOUNTED_STORE, ..fine("space", "a Btrfs of its own") },
        Case { before: MOUNTED_STORE, ..fine("btrfs", "mounted at the store's place") },
        degraded("propagation", "has mounts of its own"),
        Case { through: AS_PROCESS_1, ..degraded("propagation", "is not shared") },
        Case {
            before: "mount --make-rshared /",
            through: AS_PROCESS_1,
            ..fine("propagation", "in the host's namespace, shared")
        },
    ]
}

fn kernel() -> Vec<Case> {
    vec![
        Case { through: "setarch x86_64 --uname-2.6", ..degraded("kernel", "older than any that is tested") },
        Case { refused: "unshare:net=EPERM", ..missing("namespaces", "unshare") },
        Case {
            before: NO_NET_NAMESPACES,
            remedy: "sysctl -w user.max_net_namespaces=",
            ..missing("namespaces", "user.max_net_namespaces")
        },
        Case {
            before: NO_NET_NAMESPACES,
            asked: "unit",
            remedy: "sysctl -w user.max_net_namespaces=",
            ..missing("namespaces", "user.max_net_namespaces")
        },
        Case { asked: "unit", ..fine("namespaces", "made by `turnout-launcher.service`") },
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
        // Its own descriptors a process may always take.
        Case { through: "setpriv --bounding-set -sys_ptrace", ..missing("pidfd", "pidfd_getfd") },
        Case {
            before: "mount -t tmpfs none /proc/sys/kernel; mkdir /proc/sys/kernel/yama; \
                     echo 3 > /proc/sys/kernel/yama/ptrace_scope",
            refused: "pidfd_getfd=EPERM",
            remedy: "kernel.yama.ptrace_scope",
            ..missing("pidfd", "pidfd_getfd")
        },
        Case {
            refused: "adjtimex=EPERM clock_adjtime=EPERM",
            remedy: "timedatectl",
            ..degraded("clock", "nothing is")
        },
        // A new network has loopback without addresses.
        Case {
            through: "unshare --net",
            remedy: "disable_ipv6=0",
            ..degraded("ipv6", "cannot listen on `::1`")
        },
        Case {
            before: "mount -t tmpfs none /proc/sys/net",
            through: "unshare --net",
            remedy: "ipv6.disable=1",
            ..degraded("ipv6", "cannot listen on `::1`")
        },
    ]
}

fn cgroups() -> Vec<Case> {
    vec![
        Case { before: UNMOUNT_CGROUPS, ..missing("cgroup2", "no cgroup2 tree is mounted") },
        Case { before: READ_ONLY_CGROUPS, ..missing("cgroup2", "Read-only file system") },
        Case {
            before: "mount --bind $STATE/controllers $GROUP/cgroup.controllers",
            asked: "cgroup",
            remedy: "cgroup.subtree_control",
            ..degraded("cgroup2", "limits by cpuset, cpu, memory, pids are not enforced")
        },
        Case {
            before: "mkdir $GROUP/instance; mount --bind $STATE/controllers $GROUP/instance/cgroup.controllers",
            asked: "cgroup",
            ..fine("cgroup2", "with cpuset, cpu, memory, pids")
        },
        Case {
            before: "mkdir -p $GROUP/instance/launcher; \
                     mount --bind $STATE/controllers $GROUP/instance/cgroup.controllers",
            asked: "cgroup unit",
            remedy: "Delegate=",
            ..degraded("cgroup2", "limits by cpuset, cpu, memory, pids are not enforced")
        },
    ]
}

fn launchers() -> Vec<Case> {
    let unit = "journalctl -u turnout-launcher.service";
    vec![
        Case { before: "chmod -x $STATE/launcher", ..missing("launcher", "is no program") },
        Case { asked: "unit", remedy: unit, ..missing("launcher", "launcher.sock") },
        Case { asked: "unit held", remedy: unit, ..missing("launcher", "does not answer") },
        Case { asked: "held", remedy: "workers.log", ..missing("launcher", "does not answer") },
        Case { asked: "unit answering", ..fine("launcher", "answers") },
        Case { asked: "left", ..fine("launcher", "/launcher") },
        Case {
            before: "chmod 0777 $STATE",
            asked: "unit held",
            through: AS_NOBODY,
            remedy: "sudo",
            ..untried("launcher", "whether it answers was not tried")
        },
    ]
}

fn installed() -> Vec<Case> {
    vec![
        Case { before: "rm $STATE/onnxruntime", ..missing("onnxruntime", "No such file") },
        Case { before: "echo text > $STATE/onnxruntime", ..missing("onnxruntime", "is no shared library") },
        Case { before: "rm $STATE/worker", ..missing("worker", "No such file") },
        Case {
            before: "chmod 0640 $STATE/onnxruntime",
            remedy: "chmod o+r ",
            ..missing("onnxruntime", "mode 0640")
        },
        Case { before: "chmod 0750 $STATE/worker", remedy: "chmod o+rx ", ..missing("worker", "mode 0750") },
        Case {
            before: "chmod 0700 $STATE/turnout-router",
            remedy: "chmod o+rx ",
            ..degraded("router", "mode 0700")
        },
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

const AS_NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";
/// A launcher's unit with fewer descriptors than a launcher needs.
const LOW_UNIT: &str = "mount -t tmpfs none /run; mkdir -p /run/systemd/system; \
    printf '#!/bin/sh\necho 1024\n' > /run/systemctl; chmod +x /run/systemctl; \
    mount --bind /run/systemctl /usr/bin/systemctl";
/// A Btrfs of the administrator's on a host that has no room for an image, and no loop device for another.
const MOUNTED_STORE: &str = "mount -t tmpfs -o size=500m none $STATE; truncate -s 150m $STATE/disk; \
    mkfs.btrfs -q $STATE/disk; mkdir $STATE/store; mount -o loop $STATE/disk $STATE/store; \
    mount --bind /dev/null /dev/loop-control";
/// As a host shows it whose administrator has forbidden them.
const NO_NET_NAMESPACES: &str =
    "echo 0 > $STATE/none; mount --bind $STATE/none /proc/sys/user/max_net_namespaces";
/// With process 1 of a machine in the same namespace of mounts.
const AS_PROCESS_1: &str = "unshare --pid --fork --mount-proc --propagation unchanged";
/// A machine that an older systemd runs.
const OLD_SYSTEMD: &str = "mount -t tmpfs none /run; mkdir -p /run/systemd/system; \
    printf '#!/bin/sh\necho \"systemd 247 (247.3-7)\"\n' > /run/systemctl; chmod +x /run/systemctl; \
    mount --bind /run/systemctl /usr/bin/systemctl";
const UNMOUNT_CGROUPS: &str = "umount -l $(findmnt -rn -t cgroup2 -o TARGET)";
const READ_ONLY_CGROUPS: &str =
    "for point in $(findmnt -rn -t cgroup2 -o TARGET); do mount -o bind,remount,ro $point; done";
