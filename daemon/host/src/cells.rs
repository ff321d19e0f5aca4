//! Cells and their workers, made and kept by the launcher on the daemon's request.

use crate::HostError;
use crate::store::StoredName;
use std::os::fd::OwnedFd;
use std::time::Duration;
use turnout_manifest::Generation;

pub use turnout_launcher_wire::{Class, Enforcement, Profile, SLOTS, Shortfall, Tenant, TenantName};

/// What a cell's worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Never started.
    None,
    /// Runs.
    Running,
    /// Ended with this exit code.
    Exited(u8),
    /// Ended by this signal.
    Killed(u8),
}

/// A worker as its cell was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedWorker {
    /// Its process id.
    pub pid: u32,
    /// What holds it.
    pub enforcement: Enforcement,
}

/// What is needed to hear from a worker, or the router.
#[derive(Debug)]
pub struct WorkerLink {
    /// The daemon's end of its link (SOCK_SEQPACKET).
    pub link: OwnedFd,
    /// Becomes readable when it ends (pidfd_open(2)).
    pub pidfd: OwnedFd,
}

/// The cells.
pub trait Cells {
    /// Makes a cell. Repeating it is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`], [`HostError::Unsupported`] for what the launcher that runs is too old for.
    fn create_cell(&self, generation: Generation, profile: Profile) -> Result<(), HostError>;

    /// Makes a tenant, or changes its limits, for the cells that are made after. Repeating it is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`], [`HostError::Unsupported`] where the launcher that runs is too old.
    fn set_tenant(&self, tenant: &Tenant) -> Result<(), HostError>;

    /// Starts a worker of this version in its cell. Repeating it for a running worker is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`], [`HostError::Missing`] for an unknown version.
    fn start_worker(&self, generation: Generation, version: &StoredName) -> Result<StartedWorker, HostError>;

    /// For so long, the cell gets CPU time only where no cell beside it wants any; zero ends it. No error where nothing can
    /// hold it to that: the cgroup controller is not delegated, or the launcher that runs is too old.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn background(&self, generation: Generation, time: Duration) -> Result<(), HostError>;

    /// Mounts another version's files where a running worker has its model; it reads them when it is told to. Repeating
    /// it is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`], [`HostError::Missing`] for an unknown version, [`HostError::Unsupported`] where the
    /// launcher that runs is too old.
    fn swap_model(&self, generation: Generation, version: &StoredName) -> Result<(), HostError>;

    /// The link and pidfd of a running worker, `None` when it runs no more.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn link(&self, generation: Generation) -> Result<Option<WorkerLink>, HostError>;

    /// Kills the worker and waits until it is gone. No error when none runs.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn kill_worker(&self, generation: Generation) -> Result<(), HostError>;

    /// Removes an empty cell. No error when there is none.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn destroy_cell(&self, generation: Generation) -> Result<(), HostError>;

    /// What this host can hold a cell to.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn enforcement(&self) -> Result<Enforcement, HostError>;

    /// CPUs that are one cell's alone, as long as its worker can run: one bit each.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn exclusive_cpus(&self) -> Result<Vec<(Generation, u64)>, HostError>;

    /// Every worker's cell that exists, with what its worker does.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn cells(&self) -> Result<Vec<(Generation, WorkerState)>, HostError>;
}

/// The router, one for all models: it has a cell of its own kind.
pub trait Router {
    /// Makes the router's cell, on these CPUs (0 is all), and starts it there. Repeating it for a running router is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn start_router(&self, cpus: u64) -> Result<StartedWorker, HostError>;

    /// The link and pidfd of the running router, `None` when it runs no more.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn router_link(&self) -> Result<Option<WorkerLink>, HostError>;

    /// Kills the router and waits until it is gone. No error when none runs.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn kill_router(&self) -> Result<(), HostError>;
}
