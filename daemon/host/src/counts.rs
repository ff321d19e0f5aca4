//! What the programs count, slot by slot: a per-CPU array of which every slot has the same number of elements, read
//! or zeroed with one call into the kernel. What the elements mean is in `turnout_ebpf_layout`.

use crate::HostError;
use crate::sys;
use aya::maps::Map;
use aya::util::nr_cpus;
use std::os::fd::{AsFd, OwnedFd};

/// The counts of all slots.
pub(crate) struct Counts {
    map: OwnedFd,
    per_slot: u32,
    cpus: usize,
}

impl Counts {
    pub(crate) fn of(map: &Map, per_slot: u32) -> Result<Self, HostError> {
        let Map::PerCpuArray(data) = map else { unreachable!("the programs count in per-CPU arrays") };
        let map = data.fd().as_fd().try_clone_to_owned().map_err(HostError::os("dup", "map"))?;
        let cpus = nr_cpus().map_err(|(path, error)| HostError::os("read", path)(error))?;
        Ok(Self { map, per_slot, cpus })
    }

    /// The counts of a slot, summed over the CPUs. What one CPU added another may have taken away, and the CPUs are
    /// read one after the other: a sum caught below zero in between is zero.
    pub(crate) fn read(&self, slot: u32) -> Result<Vec<u64>, HostError> {
        let values = sys::per_cpu_read(self.map.as_fd(), slot * self.per_slot, self.per_slot, self.cpus);
        let values = values.map_err(HostError::os("bpf map lookup batch", slot))?;
        let sum = |of_cpus: &[u64]| of_cpus.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value));
        Ok(values
            .chunks(self.cpus)
            .map(|of_cpus| sum(of_cpus).cast_signed().max(0).cast_unsigned())
            .collect())
    }

    /// Zeroes the counts of a slot.
    pub(crate) fn zero(&self, slot: u32) -> Result<(), HostError> {
        let done = sys::per_cpu_zero(self.map.as_fd(), slot * self.per_slot, self.per_slot, self.cpus);
        done.map_err(HostError::os("bpf map update batch", slot))
    }
}
