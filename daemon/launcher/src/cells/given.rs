//! What a cell has beyond its profile: devices, for the worker that is started next, and a place in its tenant.

use super::{Cells, CellsError};
use crate::device::Device;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use turnout_launcher_wire::{DEVICES_MAX, DevicePath, ROUTER_CELL, Reply, Tenant};

impl Cells {
    /// Keeps a device for the worker that is started next; nothing happens to one that runs.
    ///
    /// # Errors
    /// [`CellsError`]; the cell then has the devices that it had.
    pub fn grant(&mut self, generation: u32, path: DevicePath, mount: OwnedFd) -> Result<Reply, CellsError> {
        let entry = self.cells.get_mut(&generation).filter(|_| generation != ROUTER_CELL);
        let entry = entry.ok_or(CellsError::NoCell)?;
        let device = Device::check(path, mount)?;
        entry.devices.retain(|granted| granted.path != path);
        if entry.devices.len() >= DEVICES_MAX {
            return Err(CellsError::Devices);
        }
        entry.devices.push(device);
        Ok(Reply::Done)
    }

    /// The devices of a start. A detached mount can be attached once: another start is given them again.
    pub(super) fn take_devices(&mut self, generation: u32) -> Vec<Device> {
        self.cells.get_mut(&generation).map(|entry| std::mem::take(&mut entry.devices)).unwrap_or_default()
    }

    /// Makes a tenant, or changes its limits. The cgroup of a name that is nobody's any more goes, once it has no cell.
    ///
    /// # Errors
    /// [`CellsError`]; the tenants then are as they were, or as they should be.
    pub fn set_tenant(&mut self, tenant: &Tenant) -> Result<Reply, CellsError> {
        let occupied: BTreeSet<u32> = self.cells.values().map(|entry| entry.profile.tenant).collect();
        self.tenants.check(tenant, &occupied)?;
        self.hierarchy.set_tenant(tenant)?;
        self.tenants.set(tenant, &occupied);
        self.hierarchy.remove_tenants(|name| self.tenants.has(name))?;
        Ok(Reply::Done)
    }

    /// How many cells of a tenant count against its limit. One whose worker has ended does not: the worker that replaces
    /// it starts before its cell is gone, and must not fail for want of it.
    pub(super) fn cells_in_use(&mut self, tenant: u32) -> usize {
        self.reap();
        self.cells.values().filter(|entry| entry.profile.tenant == tenant && entry.may_run()).count()
    }
}
