//! Devices for cells. What a cell may open is held by the kernel's fence, an eBPF program at the instance's cgroup that
//! knows each cell by its cgroup; where a worker finds a node is the launcher's part, which gets it as a detached mount.

use crate::HostError;
use crate::linux_cells::LinuxCells;
use crate::meters;
use crate::steering::LinuxTraffic;
use rustix::fs::{CWD, FileType, fstat, major, minor};
use rustix::mount::{OpenTreeFlags, open_tree};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use turnout_ebpf_layout::{DeviceKey, device};
use turnout_manifest::Generation;

pub use turnout_launcher_wire::{DEVICES_MAX, DevicePath};

/// The devices.
pub trait Devices {
    /// Looks for a device node.
    ///
    /// # Errors
    /// [`HostError::Missing`] when there is no device of this name.
    fn find_device(&self, path: &DevicePath) -> Result<(), HostError>;

    /// Gives a cell these devices and no others, before its worker is started: the kernel lets it open them, and the
    /// worker finds them where the host has them. Repeating it is no error.
    ///
    /// # Errors
    /// [`HostError::Missing`] for a device or cell that is not there, [`HostError::Unsupported`] where the launcher that
    /// runs is too old, the kernel's own.
    fn grant_devices(&self, generation: Generation, devices: &[DevicePath]) -> Result<(), HostError>;
}

/// A node of the host's.
struct Node {
    kind: u32,
    major: u32,
    minor: u32,
    mount: OwnedFd,
}

/// Opens a device node, a link to one not, as a mount of its own that is attached nowhere.
///
/// # Errors
/// [`HostError::Missing`] when it is no device.
fn open(path: &DevicePath) -> Result<Node, HostError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let missing = || HostError::Missing { kind: "device", name: path.as_str().to_owned() };
    let mount = open_tree(CWD, path.as_str(), flags).map_err(|errno| match errno {
        rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => missing(),
        errno => HostError::os("open_tree", path.as_str())(errno),
    })?;
    let found = fstat(&mount).map_err(HostError::os("stat", path.as_str()))?;
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::CharacterDevice => device::CHARACTER,
        FileType::BlockDevice => device::BLOCK,
        _ => return Err(missing()),
    };
    Ok(Node { kind, major: major(found.st_rdev), minor: minor(found.st_rdev), mount })
}

/// Looks for a device node.
///
/// # Errors
/// [`HostError::Missing`] when there is no device of this name.
pub fn find(path: &DevicePath) -> Result<(), HostError> {
    open(path).map(drop)
}

/// Lets a cell of this instance open these devices and no others, then has the launcher show them to its next worker.
///
/// # Errors
/// As [`Devices::grant_devices`].
pub fn grant(
    (cells, traffic): (&LinuxCells, &LinuxTraffic),
    instance: &Path,
    generation: Generation,
    devices: &[DevicePath],
) -> Result<(), HostError> {
    let nodes = devices.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let missing = || HostError::Missing { kind: "cell", name: generation.to_string() };
    let cell = meters::cell(instance, generation).ok_or_else(missing)?;
    let cgroup = fs::metadata(&cell).map_err(HostError::os("stat", cell.display()))?.ino();
    let keys = nodes.iter().map(|node| {
        let Node { kind, major, minor, .. } = *node;
        DeviceKey { cgroup, kind, major, minor, reserved: 0 }
    });
    traffic.allow(cgroup, &keys.collect::<Vec<_>>(), &meters::every_cell(instance))?;
    for (path, node) in devices.iter().zip(&nodes) {
        cells.grant(generation, *path, node.mount.as_fd())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_by_its_numbers_and_what_is_none_is_missing() {
        let path = |text| DevicePath::new(text).unwrap();
        let zero = open(&path("/dev/zero")).unwrap();
        assert_eq!((zero.kind, zero.major, zero.minor), (device::CHARACTER, 1, 5));
        for text in ["/dev/no-such-device", "/dev/zero/below", "/dev/stdin"] {
            assert!(matches!(open(&path(text)), Err(HostError::Missing { kind: "device", .. })), "{text}");
        }
    }
}
