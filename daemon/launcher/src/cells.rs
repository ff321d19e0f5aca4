//! Every cell with its slot, cgroup and worker, and what may be done with it. The table dies with the launcher: nothing
//! of it is on disk, and the kernel's own state is the cgroups.

mod background;
mod given;
mod said;

use crate::cell::{self, Ends, PARKED, Recipe, StepError, Worker, become_worker, first_namespaces};
use crate::cgroup::{CellGroup, CgroupError, Hierarchy};
use crate::device::{Device, DeviceError};
use crate::relay::Output;
use crate::router::{RouterRecipe, become_router};
use crate::swap::{self, SwapError};
use crate::sys::{self, Forked};
use crate::tenants::{TenantError, Tenants};
use crate::wait::wait;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use turnout_launcher_wire::{
    Cell, Class, DEVICES_MAX, Enforcement, Failure, MESSAGE_SIZE, Profile, ROUTER_CELL, Reply, SLOTS,
    Shortfall, WorkerState,
};

/// How long a cell may take to build; a path on a dead network mount must not stop the launcher.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long a killed process may take to end.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// What a child that failed exits with; nobody reads it.
const FAILED: i32 = 127;

/// Why a request could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CellsError {
    /// All slots are taken.
    #[error("no free slot")]
    Slots,
    /// There is no such cell.
    #[error("no such cell")]
    NoCell,
    /// A limit is zero.
    #[error("a limit is zero")]
    Limits,
    /// A guaranteed cell names no CPUs.
    #[error("guaranteed, and no CPU named")]
    NoCpus,
    /// A CPU belongs to another guaranteed cell.
    #[error("CPU {cpu} is generation {owner}'s alone")]
    Taken {
        /// The CPU.
        cpu: u32,
        /// The other cell.
        owner: u32,
    },
    /// The cgroup refused.
    #[error("cgroup")]
    Cgroup(#[from] CgroupError),
    /// The process, its link or its pipe could not be made.
    #[error("{0}")]
    Process(&'static str, #[source] Errno),
    /// The new process failed at a step.
    #[error("a step failed")]
    Step(Reply),
    /// No worker runs in the cell.
    #[error("no worker runs")]
    NoWorker,
    /// The model's mount could not be swapped.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// What was brought is no device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A cell has as many devices as it can.
    #[error("{DEVICES_MAX} device nodes, and no more")]
    Devices,
    /// Not as a tenant can be, or has room for.
    #[error(transparent)]
    Tenant(#[from] TenantError),
}

/// All cells.
pub struct Cells {
    hierarchy: Hierarchy,
    recipe: Recipe,
    router: RouterRecipe,
    tenants: Tenants,
    cells: BTreeMap<u32, Entry>,
}

/// A worker that runs, as its daemon needs it.
pub struct Started {
    /// The answer.
    pub reply: Reply,
    /// Its pidfd and the daemon's end of its link.
    pub descriptors: [OwnedFd; 2],
}

/// What a start may look at.
struct Own<'a> {
    entry: &'a Entry,
    recipe: &'a Recipe,
    router: &'a RouterRecipe,
}

struct Entry {
    slot: u32,
    profile: Profile,
    group: CellGroup,
    /// What its worker is to be given.
    devices: Vec<Device>,
    /// How long it gets only the CPU time that no other cell wants, if it does.
    behind_until: Option<Instant>,
    process: Process,
}

/// A process that became what it should.
struct Born {
    pid: u32,
    pidfd: OwnedFd,
    /// Its mount namespace: later, its `/proc` entry is not the launcher's to open.
    mounts: OwnedFd,
}

enum Process {
    Running { born: Born, link: OwnedFd, output: Output },
    Not(WorkerState),
}

impl Cells {
    /// An empty table.
    pub fn new(hierarchy: Hierarchy, (recipe, router): (Recipe, RouterRecipe), uid_base: u32) -> Self {
        Self { hierarchy, recipe, router, tenants: Tenants::new(uid_base), cells: BTreeMap::new() }
    }

    /// Makes a cell; one that is there stays as it is.
    ///
    /// # Errors
    /// [`CellsError`].
    pub fn create(&mut self, generation: u32, profile: Profile) -> Result<Reply, CellsError> {
        if !self.cells.contains_key(&generation) {
            if profile.memory_bytes == 0 || profile.pids_max == 0 {
                return Err(CellsError::Limits);
            }
            self.keep_apart(profile)?;
            let in_use = self.cells_in_use(profile.tenant);
            let tenant = self.tenants.place(profile.tenant, in_use)?;
            let profile = self.recipe.protections.kept_limits(profile);
            let taken = |slot: &u32| self.cells.values().any(|entry| entry.slot == *slot);
            let slot = (0..SLOTS).find(|slot| !taken(slot)).ok_or(CellsError::Slots)?;
            let group = self.hierarchy.create_cell(generation, profile, tenant)?;
            let process = Process::Not(WorkerState::None);
            let (devices, behind_until) = (Vec::new(), None);
            self.cells.insert(generation, Entry { slot, profile, group, devices, behind_until, process });
        }
        self.described(generation)
    }

    /// Starts a worker; one that runs is answered as if it had just been started.
    ///
    /// # Errors
    /// [`CellsError`]; no process is left.
    pub fn start(&mut self, generation: u32, model: &OwnedFd) -> Result<Started, CellsError> {
        if generation == ROUTER_CELL {
            return Err(CellsError::NoCell);
        }
        let devices = self.take_devices(generation);
        self.start_once(generation, |own, uid, ends| {
            let (profile, model, devices) = (own.entry.profile, model.as_fd(), devices.as_slice());
            let worker = Worker { uid, profile, model, devices, ends };
            launch(&own, || become_worker(own.recipe, &worker))
        })
    }

    /// Starts the router; one that runs is answered as if it had just been started.
    ///
    /// # Errors
    /// [`CellsError`]; no process is left.
    pub fn start_router(&mut self) -> Result<Started, CellsError> {
        self.renew_router_group()?;
        self.start_once(ROUTER_CELL, |own, uid, ends| {
            launch(&own, || become_router((own.recipe, own.router), own.entry.profile, (uid, ends)))
        })
    }

    /// Into a cgroup that was killed once, recent kernels let no new process live: a router that ended gets a new one.
    /// The cell's slot stays, because routes may still name it.
    fn renew_router_group(&mut self) -> Result<(), CellsError> {
        let Some(entry) = self.cells.get_mut(&ROUTER_CELL) else { return Ok(()) };
        entry.reap();
        if matches!(entry.process, Process::Not(state) if state != WorkerState::None) {
            entry.group.remove()?;
            entry.group = self.hierarchy.create_cell(ROUTER_CELL, entry.profile, None)?;
        }
        Ok(())
    }

    fn start_once(
        &mut self,
        generation: u32,
        start: impl FnOnce(Own<'_>, u32, Ends<'_>) -> Result<Born, CellsError>,
    ) -> Result<Started, CellsError> {
        if let Some(started) = self.adopt(generation)? {
            return Ok(started);
        }
        let entry = self.cells.get_mut(&generation).ok_or(CellsError::NoCell)?;
        let uid = self.tenants.uid(entry.profile.tenant, entry.slot);
        let (link, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(process("link"))?;
        let own = Own { entry, recipe: &self.recipe, router: &self.router };
        let (output, said) = Output::new(said::name(generation)).map_err(process("pipe"))?;
        let born = start(own, uid, Ends { link: theirs.as_fd(), output: said.as_fd() })?;
        entry.process = Process::Running { born, link, output };
        self.adopt(generation)?.ok_or(CellsError::NoCell)
    }

    /// The descriptors of a worker, `None` when none runs.
    ///
    /// # Errors
    /// [`CellsError`].
    pub fn adopt(&mut self, generation: u32) -> Result<Option<Started>, CellsError> {
        let enforcement = self.enforcement();
        let entry = self.cells.get_mut(&generation).ok_or(CellsError::NoCell)?;
        entry.reap();
        let Process::Running { born, link, .. } = &entry.process else { return Ok(None) };
        let duplicate = |descriptor: &OwnedFd| fcntl_dupfd_cloexec(descriptor, 0).map_err(process("dup"));
        let descriptors = [duplicate(&born.pidfd)?, duplicate(link)?];
        Ok(Some(Started {
            reply: Reply::Started { cell: entry.cell(generation), pid: born.pid, enforcement },
            descriptors,
        }))
    }

    /// Mounts other files where a running worker has its model.
    ///
    /// # Errors
    /// [`CellsError`]; the worker then finds the files that it had, or those.
    pub fn swap_model(&mut self, generation: u32, model: &OwnedFd) -> Result<Reply, CellsError> {
        let entry = self.cells.get_mut(&generation).ok_or(CellsError::NoCell)?;
        entry.reap();
        match &entry.process {
            Process::Running { born, .. } if generation != ROUTER_CELL => {
                swap::swap_model(&self.recipe.protections, born.mounts.as_fd(), model.as_fd())?;
                Ok(Reply::Done)
            }
            _ => Err(CellsError::NoWorker),
        }
    }

    /// What a cell's worker does.
    ///
    /// # Errors
    /// [`CellsError::NoCell`].
    pub fn described(&mut self, generation: u32) -> Result<Reply, CellsError> {
        let entry = self.cells.get_mut(&generation).ok_or(CellsError::NoCell)?;
        entry.reap();
        Ok(Reply::Cell(entry.cell(generation)))
    }

    /// Kills all that runs in a cell and waits until it is gone.
    ///
    /// # Errors
    /// [`CellsError`].
    pub fn kill(&mut self, generation: u32) -> Result<Reply, CellsError> {
        if let Some(entry) = self.cells.get_mut(&generation) {
            entry.kill()?;
        }
        Ok(Reply::Done)
    }

    /// Removes an empty cell.
    ///
    /// # Errors
    /// [`CellsError::Cgroup`] while a worker runs in it.
    pub fn destroy(&mut self, generation: u32) -> Result<Reply, CellsError> {
        if let Some(entry) = self.cells.get_mut(&generation) {
            entry.reap();
            entry.group.remove()?;
            self.cells.remove(&generation);
        }
        Ok(Reply::Done)
    }

    /// The cell with this ordinal, in the order of generations.
    ///
    /// # Errors
    /// None.
    pub fn at(&mut self, index: u32) -> Result<Reply, CellsError> {
        match self.cells.keys().nth(index as usize).copied() {
            Some(generation) => self.described(generation),
            None => Ok(Reply::Done),
        }
    }

    /// Ends and removes everything; goes on after a failure and returns the first.
    ///
    /// # Errors
    /// [`CellsError`].
    pub fn end(&mut self) -> Result<Reply, CellsError> {
        let mut first = Ok(Reply::Done);
        for (_, mut entry) in std::mem::take(&mut self.cells) {
            let ended = entry.kill().and_then(|()| Ok(entry.group.remove()?));
            first = first.and_then(|done| ended.map(|()| done));
        }
        let removed = self.hierarchy.remove_tenants(|_| false);
        self.hierarchy.give_back();
        first.and_then(|done| Ok(removed.map(|()| done)?))
    }

    /// What becomes readable when a worker ends.
    pub fn pidfds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.cells.values().filter_map(|entry| match &entry.process {
            Process::Running { born, .. } => Some(born.pidfd.as_fd()),
            Process::Not(_) => None,
        })
    }

    /// Takes note of every worker that has ended.
    pub fn reap(&mut self) {
        self.cells.values_mut().for_each(Entry::reap);
    }

    /// What holds each cell.
    pub fn enforcement(&self) -> Enforcement {
        let controllers = self.hierarchy.controllers();
        let landlock = self.recipe.landlock_abi;
        let shortfall = [
            (controllers.memory, Shortfall::CgroupMemory),
            (controllers.pids, Shortfall::CgroupPids),
            (controllers.cpuset, Shortfall::CgroupCpuset),
            (controllers.cpu, Shortfall::CgroupCpu),
            (landlock >= 4, Shortfall::Landlock),
        ]
        .into_iter()
        .filter(|(held, _)| !held)
        .fold(0, |bits, (_, shortfall)| bits | shortfall as u32);
        Enforcement { landlock, shortfall }
    }

    /// The daemon plans CPUs; a plan that gives one to two guaranteed cells is refused here. A worker that has ended
    /// holds none: the one that replaces it starts before its cell is gone.
    fn keep_apart(&mut self, profile: Profile) -> Result<(), CellsError> {
        if profile.class == Class::Burstable {
            return Ok(());
        }
        if profile.cpus == 0 {
            return Err(CellsError::NoCpus);
        }
        self.reap();
        for (owner, entry) in self.cells.iter().filter(|(_, entry)| entry.holds_cpus()) {
            let shared = entry.profile.cpus & profile.cpus;
            if shared != 0 {
                return Err(CellsError::Taken { cpu: shared.trailing_zeros(), owner: *owner });
            }
        }
        Ok(())
    }
}

impl CellsError {
    /// As the launcher tells it.
    pub fn reply(&self) -> Reply {
        let failure = match self {
            Self::Slots => Failure::Slots,
            Self::NoCell => Failure::NoCell,
            Self::Limits | Self::NoCpus | Self::Taken { .. } => Failure::Request,
            Self::Device(_) | Self::Devices | Self::Tenant(_) => Failure::Request,
            Self::Cgroup(CgroupError::Os { path, .. }) => {
                let name = path.components().rev().take(2).map(|part| part.as_os_str().to_string_lossy());
                let name = name.collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("/");
                return Reply::failed(Failure::Cgroup, cell::errno(self), &name);
            }
            Self::Cgroup(_) => Failure::Cgroup,
            Self::Process(..) => Failure::Clone,
            Self::NoWorker | Self::Swap(_) => Failure::Swap,
            Self::Step(reply) => return *reply,
        };
        Reply::failed(failure, cell::errno(self), &self.to_string())
    }
}

impl Entry {
    fn cell(&self, generation: u32) -> Cell {
        let worker = match &self.process {
            Process::Running { .. } => WorkerState::Running,
            Process::Not(state) => *state,
        };
        let Profile { class, cpus, .. } = self.profile;
        Cell { generation, slot: self.slot, worker, class, cpus }
    }

    fn holds_cpus(&self) -> bool {
        self.profile.class == Class::Guaranteed && self.may_run()
    }

    fn may_run(&self) -> bool {
        matches!(self.process, Process::Running { .. } | Process::Not(WorkerState::None))
    }

    fn reap(&mut self) {
        if let Process::Running { born, .. } = &self.process
            && let Some(state) = ended(&born.pidfd)
        {
            let before = std::mem::replace(&mut self.process, Process::Not(state));
            if let Process::Running { output, .. } = before {
                output.finish();
            }
        }
    }

    fn kill(&mut self) -> Result<(), CellsError> {
        self.group.kill()?;
        if let Process::Running { born, .. } = &self.process {
            wait(&born.pidfd, PollFlags::IN, END_DEADLINE).map_err(process("poll"))?;
        }
        self.reap();
        Ok(())
    }
}

/// Makes the process and waits until it is what it should become, or says why not.
fn launch(own: &Own<'_>, become_it: impl FnOnce() -> StepError) -> Result<Born, CellsError> {
    let (report, told) = pipe_with(PipeFlags::CLOEXEC).map_err(process("pipe"))?;
    let (go, hold) = pipe_with(PipeFlags::CLOEXEC).map_err(process("pipe"))?;
    // Above the numbers on which the worker's descriptors are put.
    let told = fcntl_dupfd_cloexec(told, PARKED).map_err(process("dup"))?;
    let namespaces = first_namespaces(&own.recipe.protections);
    let (pid, pidfd) =
        match sys::clone_into(namespaces, own.entry.group.as_fd()).map_err(process("clone3"))? {
            Forked::Child => {
                drop(hold);
                // Until its namespace was opened it is what the launcher is.
                let _ = rustix::io::read(&go, &mut [0; 1]);
                let error = become_it();
                let _ = rustix::io::write(&told, &error.reply().encode());
                sys::exit_now(FAILED)
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
    drop(told);
    let mounts = open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    drop(hold);
    // The pipe closes when the child executes the worker.
    let mut reply = [0; MESSAGE_SIZE];
    let length = match wait(&report, PollFlags::IN, START_DEADLINE) {
        Ok(true) => rustix::io::read(&report, &mut reply),
        Ok(false) => Err(Errno::TIMEDOUT),
        Err(errno) => Err(errno),
    };
    if let (Ok(0), Ok(mounts)) = (length, &mounts) {
        let mounts = fcntl_dupfd_cloexec(mounts, 0).map_err(process("dup"))?;
        return Ok(Born { pid, pidfd, mounts });
    }
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let _ = wait(&pidfd, PollFlags::IN, END_DEADLINE);
    let _ = ended(&pidfd);
    mounts.map_err(process("mount namespace"))?;
    length.map_err(process("start"))?;
    Err(CellsError::Step(Reply::decode(&reply).unwrap_or(Reply::failed(Failure::Clone, 0, "no report"))))
}

/// How a child ended, `None` while it runs. Asking takes the zombie away.
fn ended(pidfd: &OwnedFd) -> Option<WorkerState> {
    let status =
        waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(WorkerState::Exited(byte(code))),
        (None, signal) => Some(WorkerState::Killed(byte(signal.unwrap_or_default()))),
    }
}

fn process(what: &'static str) -> impl FnOnce(Errno) -> CellsError {
    move |errno| CellsError::Process(what, errno)
}
