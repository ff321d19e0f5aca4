//! Takes away what a daemon leaves running and mounted on the host. Nothing is opened, made or taken over for it: each
//! part is found by its place, and goes whatever became of the others. Which places those are is left to the caller.

use crate::linux::HostConfig;
use crate::mounts::detach_all;
use crate::{HostError, linux_archive, linux_cells, linux_pointer, programs, volume};

/// Ends every worker and the launcher, takes programs, pins and mounts away. Versions and evidence stay. Says what would
/// not go; nothing where all of it is gone, or never was.
#[must_use]
pub fn dismantle(config: HostConfig) -> Vec<HostError> {
    let mut left = Vec::new();
    left.extend(programs::detach(&config.pins).err());
    left.extend(linux_cells::end(config.cells).err());
    // Pins of a layout that this build does not know go with their mount.
    left.extend(detach_all(&config.pins).err());
    left.extend(linux_pointer::dismantle(&config.pointers));
    // Whatever shows something of the store goes before the store.
    left.extend(linux_archive::unmount_snapshots(&config.volume));
    left.extend(volume::unmount_at(&config.volume).err());
    left
}
