//! Reading every block of the file system and comparing it with its checksum, by the kernel, device after device.

use crate::archive::ScrubFound;
use crate::{HostError, sys};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// `struct btrfs_scrub_progress` of `linux/btrfs.h`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct ScrubCounts {
    data_extents: u64,
    tree_extents: u64,
    /// Bytes of content read.
    pub data_bytes: u64,
    /// Bytes of metadata read.
    pub tree_bytes: u64,
    /// Blocks that could not be read.
    pub read_errors: u64,
    /// Blocks that differ from their checksum.
    pub checksum_errors: u64,
    /// Metadata that is not what its place says.
    pub verify_errors: u64,
    no_checksum: u64,
    checksum_discards: u64,
    /// Bad super blocks.
    pub super_errors: u64,
    allocation_errors: u64,
    /// Blocks without an intact copy.
    pub uncorrectable: u64,
    /// Blocks mended from a second copy.
    pub corrected: u64,
    last_physical: u64,
    unverified: u64,
}

/// Scrubs the file system that this folder lies on. Blocks that have a second copy are mended from it.
pub(crate) fn run(folder: &Path) -> Result<ScrubFound, HostError> {
    let failed = |call| HostError::os(call, folder.display());
    let open = File::open(folder).map_err(failed("open"))?;
    let last = sys::btrfs_last_device(open.as_fd()).map_err(failed("ioctl BTRFS_IOC_FS_INFO"))?;
    let mut found = ScrubFound::default();
    for device in 1..=last {
        match sys::btrfs_scrub(open.as_fd(), device) {
            Ok(counts) => add(&mut found, &counts),
            // Ids of devices that were removed are not given again.
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
            Err(error) => return Err(failed("ioctl BTRFS_IOC_SCRUB")(error)),
        }
    }
    Ok(found)
}

/// Breaks a scrub off, if one runs.
pub(crate) fn stop(folder: &Path) {
    // Nothing is lost when it ended by itself meanwhile.
    let _ = File::open(folder).and_then(|open| sys::btrfs_scrub_cancel(open.as_fd()));
}

fn add(found: &mut ScrubFound, counts: &ScrubCounts) {
    found.bytes += counts.data_bytes + counts.tree_bytes;
    found.errors += counts.read_errors + counts.checksum_errors + counts.verify_errors + counts.super_errors;
    found.corrected += counts.corrected;
    found.uncorrectable += counts.uncorrectable;
}
