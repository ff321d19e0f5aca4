//! What holds a worker in its cell, by name, so that tests can build a cell that lacks some of it and see the same
//! attack succeed. A launcher puts on all of it: only the feature `weaken` can take something away.

use rustix::mount::MountAttrFlags;
use turnout_launcher_wire::Profile;

/// One thing that holds a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// A root of its own, without the host's files.
    Root,
    /// Its root and its model cannot be written.
    ReadOnly,
    /// No file of the model can be executed.
    NoExec,
    /// Its root has room for mount points only.
    TmpfsSize,
    /// It sees no process but its own.
    PidNamespace,
    /// It has no network.
    NetworkNamespace,
    /// It shares no System V memory with the host.
    IpcNamespace,
    /// It does not learn the host's name.
    UtsNamespace,
    /// It does not learn where its cgroup lies.
    CgroupNamespace,
    /// A user and group of its own, who own nothing.
    Identity,
    /// All sets of capabilities are empty.
    Capabilities,
    /// No program gives it rights.
    NoNewPrivileges,
    /// Reading below its root is all that Landlock lets it do.
    Landlock,
    /// The list of system calls.
    Seccomp,
    /// The CPUs it was given.
    Affinity,
    /// Greatest memory.
    MemoryLimit,
    /// Most processes and threads.
    PidsLimit,
    /// Most open descriptors.
    DescriptorLimit,
}

/// Which protections a launcher puts on.
#[derive(Debug, Clone)]
pub struct Protections {
    #[cfg(feature = "weaken")]
    off: Vec<Protection>,
}

#[cfg(not(feature = "weaken"))]
impl Protections {
    /// All there is.
    pub fn all() -> Self {
        Self {}
    }

    pub(crate) fn has(&self, _: Protection) -> bool {
        true
    }
}

#[cfg(feature = "weaken")]
impl Protections {
    /// All there is.
    pub fn all() -> Self {
        Self { off: Vec::new() }
    }

    /// All but these.
    pub fn without(off: Vec<Protection>) -> Self {
        Self { off }
    }

    pub(crate) fn has(&self, protection: Protection) -> bool {
        !self.off.contains(&protection)
    }
}

impl Protections {
    /// Of the attributes of a mount, those that are put on.
    pub(crate) fn kept(&self, attributes: MountAttrFlags) -> MountAttrFlags {
        [
            (Protection::ReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY),
            (Protection::NoExec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        ]
        .into_iter()
        .filter(|(protection, _)| !self.has(*protection))
        .fold(attributes, |kept, (_, attribute)| kept.difference(attribute))
    }

    /// A profile, its limits that are not put on made too wide to hold anything.
    pub(crate) fn kept_limits(&self, profile: Profile) -> Profile {
        Profile {
            memory_bytes: if self.has(Protection::MemoryLimit) { profile.memory_bytes } else { u64::MAX },
            pids_max: if self.has(Protection::PidsLimit) { profile.pids_max } else { PIDS_WIDE },
            cpus: if self.has(Protection::Affinity) { profile.cpus } else { 0 },
            ..profile
        }
    }
}

/// As many processes as Linux can have (PID_MAX_LIMIT).
const PIDS_WIDE: u32 = 4 << 20;

#[cfg(feature = "weaken")]
impl Protection {
    /// Every one.
    pub const ALL: [Self; 18] = [
        Self::Root,
        Self::ReadOnly,
        Self::NoExec,
        Self::TmpfsSize,
        Self::PidNamespace,
        Self::NetworkNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::Identity,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Seccomp,
        Self::Affinity,
        Self::MemoryLimit,
        Self::PidsLimit,
        Self::DescriptorLimit,
    ];

    /// The one of this name, as `Debug` writes it.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protection| format!("{protection:?}") == name)
    }
}
