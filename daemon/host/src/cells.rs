//! Cells and their workers, made and kept by the launcher on the daemon's request.

use crate::HostError;
use crate::store::StoredName;
use std::os::fd::OwnedFd;
use turnout_manifest::Generation;

/// What a cell may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Greatest memory, bytes.
    pub memory_bytes: u64,
    /// Most processes and threads.
    pub pids_max: u32,
    /// CPUs 0 to 63, one bit each; 0 is all.
    pub cpus: u64,
}

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
    /// What the host could not enforce on it, for people; empty when all was.
    pub shortfalls: Vec<String>,
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
    /// [`HostError::Launcher`].
    fn create_cell(&self, generation: Generation, limits: Limits) -> Result<(), HostError>;

    /// Starts a worker of this version in its cell. Repeating it for a running worker is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`], [`HostError::Missing`] for an unknown version.
    fn start_worker(&self, generation: Generation, version: &StoredName) -> Result<StartedWorker, HostError>;

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

    /// Every worker's cell that exists, with what its worker does.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn cells(&self) -> Result<Vec<(Generation, WorkerState)>, HostError>;
}

/// The router, one for all models: it has a cell of its own kind.
pub trait Router {
    /// Makes the router's cell and starts it there. Repeating it for a running router is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    fn start_router(&self) -> Result<StartedWorker, HostError>;

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
