//! The launcher's closed list of requests: fixed size, little-endian, one per SOCK_SEQPACKET datagram.
//! Descriptors travel beside a message as SCM_RIGHTS; which ones is said at each variant. Bytes: [`Request::encode`]
//! and its kin in `codec.rs`; sending and receiving: `transport.rs`.

mod codec;
mod text;
mod transport;

pub use codec::WireError;
pub use text::{DevicePath, TenantName, detail, detail_text};
pub use transport::{DESCRIPTORS_MAX, Received, TransportError, receive, send};

/// Size of every request and every reply, bytes.
pub const MESSAGE_SIZE: usize = 64;
/// Version of this list; the first request of a connection must be [`Request::Hello`] with it. A request may be added under
/// the same version, and a field in what an older one must hold to be zero, because a launcher outlives the daemon's
/// upgrade: one that does not know them refuses what it cannot do, and does all else.
pub const WIRE_VERSION: u32 = 2;
/// What [`Reply::Failed`] says of bytes that are no request of the launcher's list.
pub const UNKNOWN: &str = "not of the list";
/// Most cells at one time. A slot, 0 to 63, is also the index of a version in the eBPF maps.
pub const SLOTS: u32 = 64;
/// The name of the router's cell: no worker's generation. There is one router for an instance.
pub const ROUTER_CELL: u32 = u32::MAX;
/// Most bytes of text in [`Reply::Failed`].
pub const DETAIL_MAX: usize = 44;
/// Most device nodes that one cell can be given.
pub const DEVICES_MAX: usize = 16;

/// What the daemon may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// First request of a connection. Answer: [`Reply::Done`].
    Hello {
        /// [`WIRE_VERSION`].
        version: u32,
    },
    /// Makes the cell's cgroup and gives it a slot. Answer: [`Reply::Cell`]. Repeating it is no error; the first
    /// limits hold.
    CreateCell {
        /// The worker's generation: the cell's name.
        generation: u32,
        /// What it may use.
        profile: Profile,
    },
    /// Starts the worker in its cell, any but [`ROUTER_CELL`]. One descriptor in: the model's files as a detached, read-only mount
    /// (open_tree(2), mount_setattr(2)). Answer: [`Reply::Started`] with two descriptors out: pidfd, daemon's end of the link.
    /// Repeating it for a running worker gives the same answer.
    StartWorker {
        /// The cell.
        generation: u32,
    },
    /// Starts the router in the cell [`ROUTER_CELL`]: as a worker's, but in the host's network, without a model, and with
    /// the right to connect. No descriptor in. Answer: [`Reply::Started`] with two descriptors out, as for a worker.
    /// Repeating it for a running router gives the same answer.
    StartRouter,
    /// The descriptors of a running worker or router again. Answer: [`Reply::Started`] as above, or [`Reply::Cell`] when none runs.
    Adopt {
        /// The cell.
        generation: u32,
    },
    /// Kills every process in the cell and waits until they are gone. Answer: [`Reply::Done`]. No error when none runs.
    KillWorker {
        /// The cell.
        generation: u32,
    },
    /// Removes an empty cell's cgroup and frees its slot. Answer: [`Reply::Done`]. No error when there is none.
    DestroyCell {
        /// The cell.
        generation: u32,
    },
    /// The cell with this ordinal, 0 to 63. Answer: [`Reply::Cell`], or [`Reply::Done`] past the last.
    CellAt {
        /// Ordinal, not slot.
        index: u32,
    },
    /// Kills all cells, removes the cgroups and exits. Answer: [`Reply::Done`].
    Shutdown,
    /// What this host can hold a cell to. Answer: [`Reply::Enforcement`].
    Enforcement,
    /// Mounts other files where a running worker has its model, which it reads when it is told to and not by itself. One
    /// descriptor in: the files, as for [`Request::StartWorker`]. Answer: [`Reply::Done`]. Repeating it is no error.
    SwapModel {
        /// The cell.
        generation: u32,
    },
    /// Gives a cell a device node, for the worker that is started next. One descriptor in: the node as a detached mount
    /// (open_tree(2)). Answer: [`Reply::Done`]. Repeating it is no error; for a worker that runs, nothing changes.
    GrantDevice {
        /// The cell.
        generation: u32,
        /// Where the worker finds it.
        path: DevicePath,
    },
    /// Makes a tenant's cgroup, or changes its limits. Answer: [`Reply::Done`]. Repeating it is no error.
    SetTenant(Tenant),
    /// For so long, a burstable cell gets CPU time only where no cell beside it wants any (`cpu.idle`, the kernel's
    /// cgroup-v2 documentation). It ends by itself, so that a daemon which dies leaves nobody behind. Answer: [`Reply::Done`],
    /// also where the controller `cpu` is not delegated, or the cell has CPUs of its own, and nothing changes.
    Background {
        /// The cell.
        generation: u32,
        /// How long from now on; 0 ends it.
        milliseconds: u32,
    },
}

/// Who shares the instance with others: a range of users and a cgroup of its own, around those of its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// User and group of its cell in slot 0, and its name in [`Profile`]; [`SLOTS`] from there on are its own.
    pub uid_base: u32,
    /// Greatest memory of all its cells, bytes; 0 is no limit.
    pub memory_bytes: u64,
    /// Most processes and threads of all its cells; 0 is no limit.
    pub pids_max: u32,
    /// Most CPU time of all its cells, thousandths of a CPU; 0 is no limit.
    pub cpu_thousandths: u32,
    /// Most cells; 0 is no limit.
    pub cells_max: u32,
    /// Its name, also in its cgroup's.
    pub name: TenantName,
}

/// What the launcher answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// Done, nothing to tell.
    Done,
    /// A cell.
    Cell(Cell),
    /// A worker runs.
    Started {
        /// Its cell.
        cell: Cell,
        /// Its process id in the launcher's namespace.
        pid: u32,
        /// What holds it.
        enforcement: Enforcement,
    },
    /// What holds every cell on this host.
    Enforcement(Enforcement),
    /// It failed; nothing is half done.
    Failed {
        /// What failed.
        failure: Failure,
        /// The OS error, 0 when there is none.
        errno: i32,
        /// The object, cut to [`DETAIL_MAX`] bytes of UTF-8, NUL-padded.
        detail: [u8; DETAIL_MAX],
    },
}

/// What a cell may use, and how far it is its own. Namespaces, root, capabilities, Landlock and the list of calls are
/// the same in every profile, but for what granted devices need; user and group follow from tenant and slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// How it shares the machine.
    pub class: Class,
    /// Greatest memory, bytes; a guaranteed cell has it reserved.
    pub memory_bytes: u64,
    /// Most processes and threads.
    pub pids_max: u32,
    /// CPUs 0 to 63 it may run on, one bit each; 0 is all. A guaranteed cell names them and shares them with no other.
    pub cpus: u64,
    /// Most CPU time of a burstable cell, thousandths of a CPU; 0 is no limit.
    pub cpu_thousandths: u32,
    /// Whose it is: [`Tenant::uid_base`]; 0 is nobody's.
    pub tenant: u32,
}

/// How a cell shares the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    /// It takes what others leave.
    Burstable = 0,
    /// Its CPUs are no other cell's and its memory is reserved.
    Guaranteed = 1,
}

/// What a host can hold a cell to, beyond what every cell has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforcement {
    /// The kernel's Landlock ABI, 0 for none.
    pub landlock: u32,
    /// What could not be enforced: bits of [`Shortfall`].
    pub shortfall: u32,
}

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Its name.
    pub generation: u32,
    /// Its slot, 0 to 63.
    pub slot: u32,
    /// What its worker does.
    pub worker: WorkerState,
    /// How it shares the machine.
    pub class: Class,
    /// CPUs it may run on, as in [`Profile`].
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

/// Bits that say what a host could not enforce on a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Shortfall {
    /// No cgroup memory controller: the address space is limited by RLIMIT_AS instead.
    CgroupMemory = 1,
    /// No cgroup pids controller: RLIMIT_NPROC of the cell's own uid instead.
    CgroupPids = 2,
    /// No cgroup cpuset controller: affinity alone, held by seccomp.
    CgroupCpuset = 4,
    /// Landlock absent or older than ABI 4.
    Landlock = 8,
    /// No cgroup cpu controller: cells share a CPU evenly, whatever their class, and without a limit.
    CgroupCpu = 16,
}

/// What a request failed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Failure {
    /// Not a request of this list, or not allowed now.
    Request = 1,
    /// The caller is not root.
    Denied = 2,
    /// No free slot.
    Slots = 3,
    /// No such cell.
    NoCell = 4,
    /// A cgroup could not be made, written or removed.
    Cgroup = 5,
    /// A namespace or the process could not be made.
    Clone = 6,
    /// The cell's root could not be built.
    Root = 7,
    /// The listening socket could not be made.
    Listener = 8,
    /// A lock (capabilities, uid, Landlock, seccomp) could not be put on.
    Lock = 9,
    /// The worker could not be executed.
    Exec = 10,
    /// The model's mount could not be swapped.
    Swap = 11,
}
