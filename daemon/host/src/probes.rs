//! `Probes` on Linux: the counters and histograms that the programs keep, and the accept queues.

use crate::HostError;
use crate::steering::{LinuxTraffic, missing};
use crate::sys;
use crate::traffic::{Probes, Sample};
use std::os::fd::AsFd;
use turnout_ebpf_layout::counter;
use turnout_manifest::Generation;

impl Probes for LinuxTraffic {
    fn sample(&self, generation: Generation) -> Result<Sample, HostError> {
        let slot = self.occupants.slot(generation)?.ok_or_else(|| missing("cell", generation))?;
        let maps = self.maps();
        let counters = maps.counters.read(slot)?;
        let latencies = maps.latencies.read(slot)?;
        let count = |kind: u32| counters[kind as usize];
        Ok(Sample {
            requests: count(counter::REQUESTS),
            success: count(counter::SUCCESS),
            client_errors: count(counter::CLIENT_ERROR),
            server_errors: count(counter::SERVER_ERROR),
            not_http: count(counter::NOT_HTTP),
            aborted: count(counter::ABORTED),
            client_gone: count(counter::CLIENT_GONE),
            opened: count(counter::OPENED),
            closed: count(counter::CLOSED),
            latencies,
        })
    }

    fn queued(&self, generation: Generation) -> Result<u32, HostError> {
        let Some(listener) = self.listener(generation)? else { return Ok(0) };
        sys::accept_queue(listener.as_fd()).map_err(HostError::os("getsockopt TCP_INFO", generation))
    }
}
