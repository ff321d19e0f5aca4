//! The systems that are booted: which release of Debian, on which root file system, with which packages. How an image is
//! made of that is in `image.rs`.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// Packages of every system: an init with its bus and devices, a kernel, what Turnout's package depends on, and what the
/// scenarios ask with. Nothing is fetched inside a guest, so all of it is in the image.
pub const PACKAGES: [&str; 18] = [
    "adduser",
    "btrfs-progs",
    "busybox-static",
    "curl",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "jq",
    "kmod",
    "libbtrfsutil1",
    "libpam-systemd",
    "libstdc++6",
    "linux-image-cloud-amd64",
    "openssl",
    "procps",
    "rpm",
    "systemd-sysv",
    "udev",
];

/// The file system that a system's root is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootFileSystem {
    /// The store is a Btrfs image in a file.
    Ext4,
    /// The store is a subvolume.
    Btrfs,
}

impl RootFileSystem {
    /// Its name, as `mount` and `mkfs` know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
        }
    }
}

/// A system to boot.
#[derive(Debug)]
pub struct System {
    /// As typed after `--only` and `shell`.
    pub name: &'static str,
    /// Debian's name of the release.
    pub suite: &'static str,
    /// What the kernel's version must begin with: the promise is about these two.
    pub kernel: &'static str,
    /// What its root is made with.
    pub root: RootFileSystem,
}

/// Every system. The two roots differ, so that both kinds of store are met.
pub const SYSTEMS: [System; 2] = [
    System { name: "debian-12", suite: "bookworm", kernel: "6.1.", root: RootFileSystem::Btrfs },
    System { name: "debian-13", suite: "trixie", kernel: "6.12.", root: RootFileSystem::Ext4 },
];

/// Finds a system by its name.
///
/// # Errors
/// When there is none of this name.
pub fn named(name: &str) -> Result<&'static System> {
    match SYSTEMS.iter().find(|system| system.name == name) {
        Some(system) => Ok(system),
        None => bail!("no system `{name}`; remedy: one of {}", names().join(", ")),
    }
}

/// The names of all systems.
pub fn names() -> Vec<&'static str> {
    SYSTEMS.iter().map(|system| system.name).collect()
}

/// Where everything about booted systems lies.
pub fn folder(root: &Path) -> PathBuf {
    root.join("target/vm")
}
