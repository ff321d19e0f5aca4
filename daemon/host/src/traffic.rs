//! Which version a new connection meets, and what the kernel saw of each version.
//! The route of a model changes as one map element: readers see the old split or the new one.

use crate::HostError;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use turnout_manifest::{Generation, Percent};

/// Who picks the version that a new connection meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// The kernel, by the keyed hash of both addresses and both ports.
    Weight,
    /// The kernel, by the keyed hash of the client's address.
    SourceHash,
    /// The router, request by request, as it was told. The route's arms are for connections that find no router.
    Router,
}

/// The split of one model's public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who picks.
    pub spread: Spread,
    /// Key of the hash, drawn once a release so that raising a share only adds connections to it.
    pub salt: u64,
    /// Shares that add up to 100 %. The first arm has the low end of the hash interval: put the candidate first.
    /// A dead listener's connections fall to the other arms in their order, also to one with 0 %.
    pub arms: Vec<(Generation, Percent)>,
}

/// The steering.
pub trait Traffic {
    /// Claims the public addresses of a model (one port): another process that listens there is an error, and none
    /// can begin to while the daemon lives. Repeating it is no error.
    ///
    /// # Errors
    /// [`HostError::AddressInUse`], or the kernel's own.
    fn claim(&self, addresses: &[SocketAddr]) -> Result<(), HostError>;

    /// Lets go of claimed addresses. No error when they were not claimed.
    fn give_up(&self, addresses: &[SocketAddr]);

    /// Tags a ready worker's listener with its slot and the public port and makes it eligible for routes, of which none
    /// leads to it yet. Zeroes the generation's counters. Repeating it for the same generation changes nothing, or the port.
    ///
    /// # Errors
    /// [`HostError::Missing`] when its worker does not run, or the kernel's own.
    fn admit(&self, generation: Generation, port: u16) -> Result<(), HostError>;

    /// Makes the running router eligible for routes. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`HostError::Missing`] when it does not run, or the kernel's own.
    fn admit_router(&self) -> Result<(), HostError>;

    /// Where a worker listens itself, on loopback: the router's way to it.
    ///
    /// # Errors
    /// [`HostError::Missing`] when its worker does not run, or the kernel's own.
    fn endpoint(&self, generation: Generation) -> Result<SocketAddr, HostError>;

    /// Makes a generation ineligible; connections queued at its listener stay with it. No error when it was not eligible.
    ///
    /// # Errors
    /// The kernel's own.
    fn dismiss(&self, generation: Generation) -> Result<(), HostError>;

    /// Sets the split of a public port, one atomic operation. Every arm with a share must be admitted and run, and so
    /// must the router where it picks.
    ///
    /// # Errors
    /// [`HostError::Missing`] for an arm that cannot serve, or the kernel's own; the route then is what it was before.
    fn set_route(&self, addresses: &[SocketAddr], route: &Route) -> Result<(), HostError>;

    /// Takes a port's route away: new connections are refused. No error when there is none.
    ///
    /// # Errors
    /// The kernel's own.
    fn clear_route(&self, addresses: &[SocketAddr]) -> Result<(), HostError>;

    /// The ports that have a route, in no order.
    ///
    /// # Errors
    /// The kernel's own.
    fn routed(&self) -> Result<Vec<u16>, HostError>;

    /// The split in force on a port. Arms whose generation has no cell are left out.
    ///
    /// # Errors
    /// The kernel's own.
    fn route(&self, port: u16) -> Result<Option<Route>, HostError>;
}

/// Who lives in which slot: answered by the cells.
pub trait Occupants: Send + Sync {
    /// The slot of a generation's cell, below `turnout_ebpf_layout::SLOTS`; `None` when it has no cell.
    ///
    /// # Errors
    /// The host's own.
    fn slot(&self, generation: Generation) -> Result<Option<u32>, HostError>;

    /// The generation whose cell has this slot.
    ///
    /// # Errors
    /// The host's own.
    fn generation(&self, slot: u32) -> Result<Option<Generation>, HostError>;

    /// The pidfd of a generation's running worker, whose descriptor 3 is its listener; `None` when none runs.
    ///
    /// # Errors
    /// The host's own.
    fn worker_pidfd(&self, generation: Generation) -> Result<Option<OwnedFd>, HostError>;
}

/// What the kernel saw of one generation since it was admitted: running totals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Requests that began.
    pub requests: u64,
    /// 2xx and 3xx answers.
    pub success: u64,
    /// 4xx answers.
    pub client_errors: u64,
    /// 5xx answers.
    pub server_errors: u64,
    /// Answers that do not begin like HTTP.
    pub not_http: u64,
    /// Requests the worker closed the connection on.
    pub aborted: u64,
    /// Requests the client walked away from before their answer began.
    pub client_gone: u64,
    /// Connections that made their first request.
    pub opened: u64,
    /// Connections that made a request and were closed.
    pub closed: u64,
    /// Counts per bucket of `turnout_ebpf_layout::histogram`, time to last byte; 512 entries. An answer counts from
    /// its first byte on and moves to a higher bucket with its later ones, so a single bucket can fall.
    pub latencies: Vec<u64>,
}

impl Sample {
    /// What came since an earlier sample of the same generation. An answer that was under way at the earlier sample
    /// and has moved to a higher bucket since counts there again: its end belongs to the time in which it ended.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let latencies =
            self.latencies.iter().zip(&earlier.latencies).map(|(now, then)| now.saturating_sub(*then));
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            success: self.success.saturating_sub(earlier.success),
            client_errors: self.client_errors.saturating_sub(earlier.client_errors),
            server_errors: self.server_errors.saturating_sub(earlier.server_errors),
            not_http: self.not_http.saturating_sub(earlier.not_http),
            aborted: self.aborted.saturating_sub(earlier.aborted),
            client_gone: self.client_gone.saturating_sub(earlier.client_gone),
            opened: self.opened.saturating_sub(earlier.opened),
            closed: self.closed.saturating_sub(earlier.closed),
            latencies: latencies.collect(),
        }
    }
}

/// The measuring.
pub trait Probes {
    /// The running totals of a generation.
    ///
    /// # Errors
    /// [`HostError::Missing`] for a generation without a cell, or the kernel's own.
    fn sample(&self, generation: Generation) -> Result<Sample, HostError>;

    /// Connections that wait in the worker's accept queue (tcp(7), `TCP_INFO`); 0 when its listener is gone.
    ///
    /// # Errors
    /// The kernel's own.
    fn queued(&self, generation: Generation) -> Result<u32, HostError>;
}
