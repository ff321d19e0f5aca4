//! The cells on Linux: each call is a request to the launcher, and what cannot change while a cell lives is remembered
//! so that hot paths need no round trip.

use crate::HostError;
use crate::cells::{Cells, Class, Enforcement, Profile, Router, StartedWorker, WorkerLink, WorkerState};
use crate::launcher_client::{Answer, LauncherClient, Refusal, failed};
use crate::store::StoredName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use turnout_launcher_wire::{
    Cell, DevicePath, Failure, ROUTER_CELL, Reply, Request, SLOTS, Tenant, WorkerState as WireState,
};
use turnout_manifest::Generation;

pub use crate::launcher_client::CellsConfig;

/// The generation that stands for the router among the cells: no worker has it.
pub(crate) const ROUTER: Generation = Generation(ROUTER_CELL);
/// What the router's cell may use: its memory is buffers of connections, and their number has a limit.
const ROUTER_LIMITS: Profile = Profile {
    class: Class::Burstable,
    memory_bytes: 512 << 20,
    pids_max: 64,
    cpus: 0,
    cpu_thousandths: 0,
    tenant: 0,
};

/// Gives a version's files as a detached, read-only mount (open_tree(2), mount_setattr(2)).
pub type ModelMount = Arc<dyn Fn(&StoredName) -> Result<OwnedFd, HostError> + Send + Sync>;

/// The launcher's cells.
pub struct LinuxCells {
    client: LauncherClient,
    model_mount: ModelMount,
    known: Mutex<Known>,
}

/// What was learnt over one connection.
#[derive(Default)]
struct Known {
    epoch: u64,
    cells: HashMap<Generation, KnownCell>,
}

struct KnownCell {
    slot: u32,
    pidfd: Option<OwnedFd>,
}

/// Ends all workers, removes the cells and ends the launcher. Where the instance's cgroup is not there, none of them is,
/// and nobody is asked. Where a killed launcher left it, the next one cleans up, and ends.
///
/// # Errors
/// [`HostError::Launcher`], [`HostError::Os`] when its socket cannot be reached.
pub fn end(config: CellsConfig) -> Result<(), HostError> {
    if !config.cgroup.exists() {
        return Ok(());
    }
    shut_down(&LauncherClient::open(config)?)
}

fn shut_down(client: &LauncherClient) -> Result<(), HostError> {
    let request = Request::Shutdown;
    let ended = client.ask(request, &[]).map_err(|refusal| refused(refusal, request)).map(drop);
    client.part().and(ended)
}

impl LinuxCells {
    /// Connects to the launcher; where no service runs it, starts it as a process that outlives this one.
    ///
    /// # Errors
    /// [`HostError::Launcher`] when it does not start, [`HostError::Os`] when its socket cannot be reached.
    pub fn open(config: CellsConfig, model_mount: ModelMount) -> Result<Self, HostError> {
        let client = LauncherClient::open(config)?;
        Ok(Self { client, model_mount, known: Mutex::new(Known::default()) })
    }

    /// The slot of a cell, which is also its index in the eBPF maps; `None` when there is no such cell.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    pub fn slot(&self, generation: Generation) -> Result<Option<u32>, HostError> {
        if let Some(cell) = self.known().cells.get(&generation) {
            return Ok(Some(cell.slot));
        }
        self.adopt(generation)?;
        Ok(self.known().cells.get(&generation).map(|cell| cell.slot))
    }

    /// The cell in a slot, `None` when it is free.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    pub fn generation(&self, slot: u32) -> Result<Option<Generation>, HostError> {
        let find = |known: &Known| {
            known.cells.iter().find(|(_, cell)| cell.slot == slot).map(|(generation, _)| *generation)
        };
        let known = find(&self.known());
        if known.is_some() {
            return Ok(known);
        }
        self.cells()?;
        Ok(find(&self.known()))
    }

    /// A running worker, `None` when none runs in the cell or there is no cell. It outlives the descriptor no longer than
    /// any pidfd: ask again rather than keep it.
    ///
    /// # Errors
    /// [`HostError::Launcher`].
    pub fn worker_pidfd(&self, generation: Generation) -> Result<Option<OwnedFd>, HostError> {
        if let Some(KnownCell { pidfd: Some(pidfd), .. }) = self.known().cells.get(&generation)
            && runs(pidfd)?
        {
            return pidfd.try_clone().map(Some).map_err(HostError::os("dup", generation));
        }
        Ok(self.adopt(generation)?.map(|link| link.pidfd))
    }

    /// Ends all workers, removes the cells and ends the launcher itself.
    ///
    /// # Errors
    /// [`HostError::Launcher`]; the launcher then has ended all the same, and the next one cleans up.
    pub fn shutdown(&self) -> Result<(), HostError> {
        *self.known() = Known::default();
        shut_down(&self.client)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere cannot leave it half changed: every change is one insert or remove.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.client.epoch();
        if known.epoch != epoch {
            *known = Known { epoch, cells: HashMap::new() };
        }
        known
    }

    fn learn(&self, cell: Cell) {
        let mut known = self.known();
        let generation = Generation(cell.generation);
        known.cells.entry(generation).or_insert(KnownCell { slot: cell.slot, pidfd: None }).slot = cell.slot;
    }

    fn learn_worker(&self, cell: Cell, pidfd: &OwnedFd) -> Result<(), HostError> {
        let pidfd = pidfd.try_clone().map_err(HostError::os("dup", Generation(cell.generation)))?;
        let known = KnownCell { slot: cell.slot, pidfd: Some(pidfd) };
        self.known().cells.insert(Generation(cell.generation), known);
        Ok(())
    }

    /// Of workers: the router has one of its own.
    fn every_cell(&self) -> Result<Vec<Cell>, HostError> {
        let mut cells = Vec::new();
        for index in 0..SLOTS {
            let request = Request::CellAt { index };
            match self.ask(request)?.reply {
                Reply::Cell(cell) => {
                    self.learn(cell);
                    if cell.generation != ROUTER_CELL {
                        cells.push(cell);
                    }
                }
                Reply::Done => break,
                reply => return Err(unexpected(reply, request)),
            }
        }
        Ok(cells)
    }

    fn ask(&self, request: Request) -> Result<Answer, HostError> {
        self.client.ask(request, &[]).map_err(|refusal| refused(refusal, request))
    }

    /// Asks for what a launcher that is older than this daemon may not have on its list.
    fn ask_newer(
        &self,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
        lack: &str,
    ) -> Result<Answer, HostError> {
        self.client.ask(request, descriptors).map_err(|refusal| match refusal {
            Refusal::Unknown => HostError::Unsupported {
                what: lack.to_owned(),
                remedy: "it is older than this daemon: release without it, or restart the launcher, which starts every \
                         worker anew",
            },
            refusal => refused(refusal, request),
        })
    }

    /// Gives a cell a device node, a detached mount, for the worker that is started next. Repeating it is no error.
    ///
    /// # Errors
    /// [`HostError::Launcher`], [`HostError::Unsupported`] where the launcher that runs is too old.
    pub(crate) fn grant(
        &self,
        generation: Generation,
        path: DevicePath,
        node: BorrowedFd<'_>,
    ) -> Result<(), HostError> {
        let request = Request::GrantDevice { generation: generation.0, path };
        done(self.ask_newer(request, &[node], "the launcher that runs cannot give devices")?.reply, request)
    }

    fn adopt(&self, generation: Generation) -> Result<Option<WorkerLink>, HostError> {
        let request = Request::Adopt { generation: generation.0 };
        let answer = match self.client.ask(request, &[]) {
            Err(Refusal::NoCell) => {
                self.known().cells.remove(&generation);
                return Ok(None);
            }
            answer => answer.map_err(|refusal| refused(refusal, request))?,
        };
        match answer.reply {
            Reply::Started { cell, .. } => {
                let link = worker_link(answer, request)?;
                self.learn_worker(cell, &link.pidfd)?;
                Ok(Some(link))
            }
            Reply::Cell(cell) => {
                self.learn(cell);
                Ok(None)
            }
            reply => Err(unexpected(reply, request)),
        }
    }
}

impl Cells for LinuxCells {
    fn create_cell(&self, generation: Generation, profile: Profile) -> Result<(), HostError> {
        let request = Request::CreateCell { generation: generation.0, profile };
        let newer = "the launcher that runs cannot limit CPU time and knows no tenants";
        match self.ask_newer(request, &[], newer)?.reply {
            Reply::Cell(cell) => {
                self.learn(cell);
                Ok(())
            }
            reply => Err(unexpected(reply, request)),
        }
    }

    fn start_worker(&self, generation: Generation, version: &StoredName) -> Result<StartedWorker, HostError> {
        let model = (self.model_mount)(version)?;
        let request = Request::StartWorker { generation: generation.0 };
        let answer =
            self.client.ask(request, &[model.as_fd()]).map_err(|refusal| refused(refusal, request))?;
        let Reply::Started { cell, pid, enforcement } = answer.reply else {
            return Err(unexpected(answer.reply, request));
        };
        self.learn_worker(cell, &worker_link(answer, request)?.pidfd)?;
        Ok(StartedWorker { pid, enforcement })
    }

    fn background(&self, generation: Generation, time: Duration) -> Result<(), HostError> {
        let milliseconds = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let request = Request::Background { generation: generation.0, milliseconds };
        match self.client.ask(request, &[]) {
            // Its cells never were behind others.
            Err(Refusal::Unknown) => Ok(()),
            answer => done(answer.map_err(|refusal| refused(refusal, request))?.reply, request),
        }
    }

    fn swap_model(&self, generation: Generation, version: &StoredName) -> Result<(), HostError> {
        let model = (self.model_mount)(version)?;
        let request = Request::SwapModel { generation: generation.0 };
        let newer = "the launcher that runs cannot swap the model of a running worker";
        done(self.ask_newer(request, &[model.as_fd()], newer)?.reply, request)
    }

    fn set_tenant(&self, tenant: &Tenant) -> Result<(), HostError> {
        let request = Request::SetTenant(*tenant);
        done(self.ask_newer(request, &[], "the launcher that runs knows no tenants")?.reply, request)
    }

    fn link(&self, generation: Generation) -> Result<Option<WorkerLink>, HostError> {
        self.adopt(generation)
    }

    fn kill_worker(&self, generation: Generation) -> Result<(), HostError> {
        self.ask(Request::KillWorker { generation: generation.0 }).map(drop)
    }

    fn destroy_cell(&self, generation: Generation) -> Result<(), HostError> {
        self.ask(Request::DestroyCell { generation: generation.0 })?;
        self.known().cells.remove(&generation);
        Ok(())
    }

    fn enforcement(&self) -> Result<Enforcement, HostError> {
        match self.ask(Request::Enforcement)?.reply {
            Reply::Enforcement(enforcement) => Ok(enforcement),
            reply => Err(unexpected(reply, Request::Enforcement)),
        }
    }

    fn exclusive_cpus(&self) -> Result<Vec<(Generation, u64)>, HostError> {
        let holds = |cell: &Cell| {
            cell.class == Class::Guaranteed && matches!(cell.worker, WireState::None | WireState::Running)
        };
        let holders = self.every_cell()?.into_iter().filter(holds);
        Ok(holders.map(|cell| (Generation(cell.generation), cell.cpus)).collect())
    }

    fn cells(&self) -> Result<Vec<(Generation, WorkerState)>, HostError> {
        let cells = self.every_cell()?;
        Ok(cells.into_iter().map(|cell| (Generation(cell.generation), state(cell.worker))).collect())
    }
}

impl Router for LinuxCells {
    fn start_router(&self, cpus: u64) -> Result<StartedWorker, HostError> {
        self.create_cell(ROUTER, Profile { cpus, ..ROUTER_LIMITS })?;
        let request = Request::StartRouter;
        let answer = self.ask(request)?;
        let Reply::Started { cell, pid, enforcement } = answer.reply else {
            return Err(unexpected(answer.reply, request));
        };
        self.learn_worker(cell, &worker_link(answer, request)?.pidfd)?;
        Ok(StartedWorker { pid, enforcement })
    }

    fn router_link(&self) -> Result<Option<WorkerLink>, HostError> {
        self.adopt(ROUTER)
    }

    fn kill_router(&self) -> Result<(), HostError> {
        self.kill_worker(ROUTER)
    }
}

fn state(state: WireState) -> WorkerState {
    match state {
        WireState::None => WorkerState::None,
        WireState::Running => WorkerState::Running,
        WireState::Exited(code) => WorkerState::Exited(code),
        WireState::Killed(signal) => WorkerState::Killed(signal),
    }
}

fn worker_link(answer: Answer, request: Request) -> Result<WorkerLink, HostError> {
    match <[OwnedFd; 2]>::try_from(answer.descriptors) {
        Ok([pidfd, link]) => Ok(WorkerLink { link, pidfd }),
        Err(_) => Err(unexpected(answer.reply, request)),
    }
}

/// A pidfd is readable once its process has ended.
fn runs(pidfd: &OwnedFd) -> Result<bool, HostError> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ended =
        poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).map_err(HostError::os("poll", "pidfd"))?;
    Ok(ended == 0)
}

fn refused(refusal: Refusal, request: Request) -> HostError {
    match refusal {
        Refusal::NoCell => failed(Failure::NoCell, 0, &format!("{request:?}")),
        Refusal::Unknown => failed(Failure::Request, 0, &format!("{request:?}")),
        Refusal::Other(error) => error,
    }
}

fn done(reply: Reply, request: Request) -> Result<(), HostError> {
    if reply == Reply::Done { Ok(()) } else { Err(unexpected(reply, request)) }
}

fn unexpected(reply: Reply, request: Request) -> HostError {
    HostError::Launcher {
        failure: format!("unexpected answer to {request:?}"),
        detail: format!("{reply:?}"),
        source: None,
    }
}
