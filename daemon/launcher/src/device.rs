//! A device node that a cell is given: the host's own, as a detached mount. Which nodes it may open is not decided here
//! but by the kernel's fence, an eBPF program that the daemon has put on the instance's cgroup.

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use turnout_launcher_wire::DevicePath;

/// Bits of a mode that let a node's group, or everybody, read and write it.
const GROUP: u32 = 0o060;
const EVERYBODY: u32 = 0o006;

/// One node.
#[derive(Debug)]
pub struct Device {
    /// Where the worker finds it.
    pub path: DevicePath,
    /// The node, a detached mount.
    pub mount: OwnedFd,
    /// The group that opens it, where everybody may not and root's own group is not the one.
    pub group: Option<u32>,
}

/// Why it is none.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It cannot be looked at.
    #[error("device")]
    Stat(#[source] Errno),
    /// A file, a directory or a socket.
    #[error("no device node")]
    NoDevice,
}

impl Device {
    /// Looks at what came as a device.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn check(path: DevicePath, mount: OwnedFd) -> Result<Self, DeviceError> {
        let found = fstat(&mount).map_err(DeviceError::Stat)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
            return Err(DeviceError::NoDevice);
        }
        let lets = |bits| found.st_mode & bits == bits;
        let group = (found.st_gid != 0 && lets(GROUP) && !lets(EVERYBODY)).then_some(found.st_gid);
        Ok(Self { path, mount, group })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, open};

    fn check(path: &str) -> Result<Device, DeviceError> {
        let node = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        Device::check(DevicePath::new("/dev/gpu0").unwrap(), node)
    }

    #[test]
    fn what_everybody_may_open_needs_no_group_and_what_is_no_device_is_refused() {
        assert_eq!(check("/dev/zero").unwrap().group, None);
        for path in ["/etc/passwd", "/dev"] {
            assert!(matches!(check(path), Err(DeviceError::NoDevice)), "{path}");
        }
    }
}
