//! Is this host ready? Each requirement is probed by trying it, never by version: on throw-away files and in
//! throw-away namespaces, so that nothing is left behind.

mod cgroup;
mod installation;
mod kernel;
mod launcher;
mod rights;
mod storage;
mod units;

pub use units::{device_is_allowed, property as unit_property};

use crate::volume::StoreKind;
use std::path::Path;

/// What helps whoever may not try.
const AS_ROOT: &str = "run it as root: `sudo turnoutctl doctor`";

/// How a requirement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It works.
    Ok,
    /// It works with less than it could; said in `found`.
    Degraded,
    /// Turnout cannot run without it.
    Missing,
    /// It was not tried: only root can.
    Untried,
}

/// One requirement and what was found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What is needed: `btrfs`, `sk_lookup`.
    pub name: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// What was found, for people.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: String,
}

/// Where to look, and what the configuration asks of the host.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The state directory, or the nearest one above it that exists.
    pub state: &'a Path,
    /// The runtime directory, below which the pointers are.
    pub runtime: &'a Path,
    /// What the store is made of.
    pub store: StoreKind,
    /// Size of the store's image, when configured, bytes.
    pub image_bytes: Option<u64>,
    /// The lowest port that the daemon takes.
    pub lowest_port: u16,
    /// The group that a control socket of the daemon's own is given to.
    pub group: Option<&'a str>,
    /// The cgroup2 directory, when configured.
    pub cgroup: Option<&'a Path>,
    /// The worker's binary.
    pub worker: &'a Path,
    /// The launcher's binary.
    pub launcher: &'a Path,
    /// The ONNX Runtime library.
    pub onnxruntime: &'a Path,
    /// The unit that runs the launcher, where it is a service: it makes cells, and this process's rights are not its.
    pub launcher_unit: Option<&'a str>,
}

/// Examines the host. Without root most requirements cannot be tried, which is then what is found.
pub fn examine(places: &Places<'_>) -> Vec<Finding> {
    let privileged = rustix::process::geteuid().is_root();
    REQUIREMENTS.iter().map(|requirement| requirement.examine(places, privileged)).collect()
}

/// How a requirement was found to stand.
struct Outcome {
    standing: Standing,
    found: String,
    /// What helps here, where that is not what helps elsewhere.
    remedy: Option<String>,
}

impl Outcome {
    fn with_remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }
}

/// A requirement before it is tried.
struct Requirement {
    name: &'static str,
    rights: Rights,
    try_out: fn(&Places<'_>) -> Outcome,
    why: &'static str,
    remedy: &'static str,
}

#[derive(PartialEq, Eq)]
enum Rights {
    Anybody,
    Root,
}

impl Requirement {
    fn examine(&self, places: &Places<'_>, privileged: bool) -> Finding {
        let Outcome { standing, found, remedy } = if self.rights == Rights::Root && !privileged {
            untried("not tried: only root can")
        } else {
            (self.try_out)(places)
        };
        let remedy = remedy.unwrap_or_else(|| self.remedy.to_owned());
        Finding { name: self.name, standing, found, why: self.why, remedy }
    }
}

fn ok(found: impl ToString) -> Outcome {
    Outcome { standing: Standing::Ok, found: found.to_string(), remedy: None }
}

fn degraded(found: impl ToString) -> Outcome {
    Outcome { standing: Standing::Degraded, ..ok(found) }
}

fn missing(found: impl ToString) -> Outcome {
    Outcome { standing: Standing::Missing, ..ok(found) }
}

fn untried(found: impl ToString) -> Outcome {
    Outcome { standing: Standing::Untried, ..ok(found) }.with_remedy(AS_ROOT)
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The directory itself, or the nearest one above it that exists.
fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/"))
}

const REQUIREMENTS: [Requirement; 26] = [
    Requirement {
        name: "root",
        rights: Rights::Anybody,
        try_out: rights::capabilities,
        why: "the daemon mounts models, makes namespaces and loads eBPF programs",
        remedy: "start it as root; in a container, give it the capabilities that are named",
    },
    Requirement {
        name: "kernel",
        rights: Rights::Anybody,
        try_out: kernel::release,
        why: "the oldest kernel that is tested is 6.1",
        remedy: "upgrade the kernel to 6.1 or later",
    },
    Requirement {
        name: "btrfs",
        rights: Rights::Root,
        try_out: storage::btrfs,
        why: "versions and audit snapshots are read-only Btrfs subvolumes",
        remedy: "install `btrfs-progs` and load the kernel modules `btrfs` and `loop`, \
                 or put the state directory on Btrfs; where the kernel has no Btrfs, as on RHEL and its kin, set \
                 `store.kind = \"folder\"`: the store then has no audit snapshots",
    },
    Requirement {
        name: "space",
        rights: Rights::Anybody,
        try_out: storage::space,
        why: "the store's image is allocated whole when it is made, and the journal grows beside it",
        remedy: "free space below the state directory, or set a smaller `store_image_bytes`",
    },
    Requirement {
        name: "fs-verity",
        rights: Rights::Root,
        try_out: storage::verity,
        why: "a stored model that is changed after its import must not be served",
        remedy: "use a kernel with `CONFIG_FS_VERITY`; a model that a worker has loaded is not compared again without",
    },
    Requirement {
        name: "swap",
        rights: Rights::Root,
        try_out: storage::swap,
        why: "readers of a model's `current` must never meet an empty directory",
        remedy: "allow mount(2), open_tree(2) and move_mount(2) to the service",
    },
    Requirement {
        name: "propagation",
        rights: Rights::Root,
        try_out: storage::propagation,
        why: "other programs read a model's `current`, from their own mount namespaces too",
        remedy: "let the daemon have the host's mounts: no `ProtectSystem=`, `PrivateTmp=`, `ReadOnlyPaths=` or other \
                 sandbox of files in a drop-in of its unit; where the mount is not shared, \
                 `mount --make-shared` it before readers start",
    },
    Requirement {
        name: "namespaces",
        rights: Rights::Root,
        try_out: kernel::namespaces,
        why: "a worker sees its model and nothing else of the host",
        remedy: "allow new namespaces: `user.max_*_namespaces` in sysctl, or the container's security profile",
    },
    Requirement {
        name: "cgroup2",
        rights: Rights::Root,
        try_out: cgroup::cgroup2,
        why: "a worker's cgroup is where its limits hold and where the kernel measures it",
        remedy: "mount cgroup2 for writing, with the controllers `cpuset`, `cpu`, `memory` and `pids` \
                 (`systemd.unified_cgroup_hierarchy=1`)",
    },
    Requirement {
        name: "sk_lookup",
        rights: Rights::Root,
        try_out: kernel::sk_lookup,
        why: "each new connection is given to a version inside the kernel",
        remedy: "use a kernel with `CONFIG_BPF_SYSCALL` and give the service CAP_BPF and CAP_NET_ADMIN",
    },
    Requirement {
        name: "cgroup_skb",
        rights: Rights::Root,
        try_out: kernel::cgroup_skb,
        why: "latency and errors of a version are measured outside its worker",
        remedy: "use a kernel with `CONFIG_CGROUP_BPF`",
    },
    Requirement {
        name: "cgroup_device",
        rights: Rights::Root,
        try_out: kernel::cgroup_device,
        why: "a worker opens no device but those that it was given",
        remedy: "use a kernel with `CONFIG_CGROUP_BPF`",
    },
    Requirement {
        name: "sk_storage",
        rights: Rights::Root,
        try_out: kernel::sk_storage,
        why: "a connection keeps the version it was given and the time of its request",
        remedy: "use a kernel with `CONFIG_BPF_SYSCALL`, 5.9 or later",
    },
    Requirement {
        name: "bpffs",
        rights: Rights::Root,
        try_out: kernel::bpffs,
        why: "steering is pinned there and goes on without the daemon",
        remedy: "use a kernel with `CONFIG_BPF_SYSCALL`; lockdown must not forbid it",
    },
    Requirement {
        name: "btf",
        rights: Rights::Anybody,
        try_out: kernel::btf,
        why: "eBPF programs find the kernel's own types through it",
        remedy: "use a kernel with `CONFIG_DEBUG_INFO_BTF`",
    },
    Requirement {
        name: "landlock",
        rights: Rights::Anybody,
        try_out: kernel::landlock,
        why: "a second wall around a worker's files and network",
        remedy: "use a kernel with Landlock and name it in the boot option `lsm=`",
    },
    Requirement {
        name: "seccomp",
        rights: Rights::Anybody,
        try_out: kernel::seccomp,
        why: "a worker may make few system calls",
        remedy: "use a kernel with `CONFIG_SECCOMP_FILTER`",
    },
    Requirement {
        name: "pidfd",
        rights: Rights::Anybody,
        try_out: kernel::pidfd,
        why: "the daemon holds workers by descriptor and takes over their listeners",
        remedy: "allow pidfd_open(2) and pidfd_getfd(2) to the service",
    },
    Requirement {
        name: "clock",
        rights: Rights::Anybody,
        try_out: kernel::clock,
        why: "dates of trust are judged by it, and nothing is deleted by its age while it may be wrong",
        remedy: "`timedatectl set-ntp true`, or install `chrony`",
    },
    Requirement {
        name: "descriptors",
        rights: Rights::Anybody,
        try_out: rights::descriptors,
        why: "each connection of a worker takes one, and the launcher begins with 2048",
        remedy: "raise the hard limit of what starts the daemon: `ulimit -Hn 65536`, `LimitNOFILE=65536`, or \
                 `--ulimit nofile=65536` of a container",
    },
    Requirement {
        name: "ipv6",
        rights: Rights::Anybody,
        try_out: kernel::ipv6,
        why: "models can be served on IPv6 too",
        remedy: "enable it (`net.ipv6.conf.all.disable_ipv6=0`), or serve on IPv4 alone",
    },
    Requirement {
        name: "onnxruntime",
        rights: Rights::Anybody,
        try_out: installation::onnxruntime,
        why: "workers run models with it",
        remedy: "install the ONNX Runtime library, or configure where it is",
    },
    Requirement {
        name: "launcher",
        rights: Rights::Anybody,
        try_out: launcher::launcher,
        why: "it makes the cells of workers",
        remedy: "install the package whole, or configure where `turnout-launcher` is",
    },
    Requirement {
        name: "worker",
        rights: Rights::Anybody,
        try_out: installation::worker,
        why: "it serves one version of a model",
        remedy: "install the package whole, or configure where `turnout-worker` is",
    },
    Requirement {
        name: "router",
        rights: Rights::Anybody,
        try_out: installation::router,
        why: "it splits by header, user or expression; `weight` and `source-hash` need none",
        remedy: "install the package whole: `turnout-router` belongs beside `turnout-worker`",
    },
    Requirement {
        name: "systemd",
        rights: Rights::Anybody,
        try_out: installation::systemd,
        why: "it starts the daemon again and hears when it is ready; Turnout runs without",
        remedy: "none is needed; on a host with systemd, start the daemon as its service; \
                 below version 252, start it without the units of the package",
    },
];
