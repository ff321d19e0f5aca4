//! `Probes` on Linux: sums the per-CPU counters and histograms that the programs keep, and looks into accept queues.

use crate::HostError;
use crate::programs::refused;
use crate::steering::{LinuxTraffic, missing};
use crate::sys;
use crate::traffic::{Probes, Sample};
use aya::maps::{MapData, PerCpuArray};
use std::os::fd::AsFd;
use turnout_ebpf_layout::{counter, histogram};
use turnout_manifest::Generation;

impl Probes for LinuxTraffic {
    fn sample(&self, generation: Generation) -> Result<Sample, HostError> {
        let slot = self.tenants.slot(generation)?.ok_or_else(|| missing("cell", generation))?;
        let maps = self.maps();
        let count = |kind| sum(&maps.counters, slot * counter::COUNT + kind);
        let first = slot * histogram::BUCKETS;
        let latencies = (first..first + histogram::BUCKETS).map(|index| sum(&maps.latencies, index));
        Ok(Sample {
            requests: count(counter::REQUESTS)?,
            success: count(counter::SUCCESS)?,
            client_errors: count(counter::CLIENT_ERROR)?,
            server_errors: count(counter::SERVER_ERROR)?,
            not_http: count(counter::NOT_HTTP)?,
            aborted: count(counter::ABORTED)?,
            client_gone: count(counter::CLIENT_GONE)?,
            opened: count(counter::OPENED)?,
            closed: count(counter::CLOSED)?,
            latencies: latencies.collect::<Result<_, _>>()?,
        })
    }

    fn queued(&self, generation: Generation) -> Result<u32, HostError> {
        let Some(listener) = self.listener(generation)? else { return Ok(0) };
        sys::accept_queue(listener.as_fd()).map_err(HostError::os("getsockopt TCP_INFO", generation))
    }
}

/// One value over all CPUs. What one CPU added another may have taken away, and the CPUs are read one after the
/// other: a sum caught below zero in between is zero.
fn sum(values: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64, HostError> {
    let values = values.get(&index, 0).map_err(refused("read counters"))?;
    let sum = values.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value));
    Ok(sum.cast_signed().max(0).cast_unsigned())
}
