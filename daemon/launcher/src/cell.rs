//! How a worker comes to be alone: the steps in their order, each one step, one reason, one error variant. They run in
//! the new process, between clone3(2) and execve(2); the first that fails is told to the launcher and ends the process.

use crate::device::Device;
use crate::protection::{Protection, Protections};
use crate::root::{Contents, Layout, RootError};
use crate::seccomp::Filters;
use crate::sys;
use caps::CapSet;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};
use rustix::thread::{CpuSet, UnshareFlags};
use std::ffi::CStr;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use turnout_launcher_wire::{Failure, Profile, Reply};

/// Connections that may wait in a worker's queue; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Descriptors a worker may have open, where the launcher's hard limit lets it: connections, most of all.
const DESCRIPTORS: u64 = 65536;
/// Address space beyond the memory limit where only RLIMIT_AS can hold it: code, thread stacks, and the allocator's
/// reservations that are never touched, bytes.
const ADDRESS_SLACK: u64 = 512 << 20;
/// Descriptors are moved above this number before the worker's are put in their places.
pub const PARKED: i32 = 16;
/// What a worker may do with a device that it was given.
const DEVICE_USE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
const HOSTNAME: &[u8] = b"cell";
const NAME: &CStr = c"turnout-worker";
/// The runtime's official builds collect from the moment they are loaded unless this is set.
const ENVIRONMENT: &[&CStr] = &[c"ORT_DISABLE_TELEMETRY=1"];

/// What is the same for every cell.
pub struct Recipe {
    /// What holds a worker: all there is, outside of tests.
    pub protections: Protections,
    /// The file system.
    pub layout: Layout,
    /// The allowed calls.
    pub filters: Filters,
    /// The same for a cell that was given devices.
    pub device_filters: Filters,
    /// The kernel's Landlock ABI, 0 for none.
    pub landlock_abi: u32,
    /// Whether a cgroup holds the memory limit; if not, RLIMIT_AS does.
    pub memory_controller: bool,
    /// Whether a cgroup holds the limit on processes; if not, RLIMIT_NPROC does.
    pub pids_controller: bool,
}

/// What belongs to one cell.
pub struct Worker<'a> {
    /// Its user and group.
    pub uid: u32,
    /// What it may use.
    pub profile: Profile,
    /// Its model, a detached mount.
    pub model: BorrowedFd<'a>,
    /// The devices that it is given.
    pub devices: &'a [Device],
    /// What it talks through.
    pub ends: Ends<'a>,
}

/// A new process's ends of what it talks through.
#[derive(Clone, Copy)]
pub struct Ends<'a> {
    /// The link, to the daemon.
    pub link: BorrowedFd<'a>,
    /// Standard output and error, to the launcher.
    pub output: BorrowedFd<'a>,
}

/// The step that failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The listening socket could not be made.
    #[error("listener")]
    Listener(#[source] Errno),
    /// The remaining namespaces could not be made.
    #[error("unshare")]
    Namespaces(#[source] Errno),
    /// The root could not be built.
    #[error(transparent)]
    Root(RootError),
    /// The host name could not be set.
    #[error("sethostname")]
    Hostname(#[source] Errno),
    /// A resource limit could not be set.
    #[error("setrlimit")]
    Limit(#[source] Errno),
    /// The CPUs could not be set.
    #[error("sched_setaffinity")]
    Affinity(#[source] Errno),
    /// Capabilities could not be dropped.
    #[error("capabilities")]
    Capabilities(#[source] caps::errors::CapsError),
    /// The user and group could not be taken.
    #[error("setresuid")]
    Identity(#[source] Errno),
    /// no_new_privs could not be set.
    #[error("no_new_privs")]
    NoNewPrivileges(#[source] Errno),
    /// Landlock could not be put on.
    #[error("landlock")]
    Landlock(#[source] RulesetError),
    /// The system call filter could not be put on.
    #[error("seccomp")]
    Seccomp(#[source] seccompiler::Error),
    /// The descriptors could not be put in their places.
    #[error("descriptors")]
    Descriptors(#[source] Errno),
    /// The worker could not be executed.
    #[error("execve")]
    Exec(#[source] Errno),
}

impl StepError {
    /// As the launcher tells it.
    pub fn reply(&self) -> Reply {
        let failure = match self {
            Self::Listener(_) => Failure::Listener,
            Self::Namespaces(_) => Failure::Clone,
            Self::Root(_) => Failure::Root,
            Self::Hostname(_) | Self::Limit(_) | Self::Affinity(_) | Self::Capabilities(_) => Failure::Lock,
            Self::Identity(_) | Self::NoNewPrivileges(_) | Self::Landlock(_) | Self::Seccomp(_) => {
                Failure::Lock
            }
            Self::Descriptors(_) | Self::Exec(_) => Failure::Exec,
        };
        Reply::failed(failure, errno(self), &self.to_string())
    }
}

/// The OS error at the root of an error, 0 when there is none.
pub fn errno(error: &(dyn std::error::Error + 'static)) -> i32 {
    let own = error.downcast_ref::<Errno>().map(|errno| errno.raw_os_error());
    let own = own.or_else(|| error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
    own.or_else(|| error.source().map(errno)).unwrap_or(0)
}

/// Namespaces made with the process. The network's comes later, see [`become_worker`].
pub fn first_namespaces(protections: &Protections) -> u64 {
    let made = [
        (Protection::PidNamespace, libc::CLONE_NEWPID),
        (Protection::IpcNamespace, libc::CLONE_NEWIPC),
        (Protection::UtsNamespace, libc::CLONE_NEWUTS),
    ];
    let kept = made.into_iter().filter(|(protection, _)| protections.has(*protection));
    // Mounts are never shared with the host: what follows would change the host's.
    kept.fold(libc::CLONE_NEWNS, |flags, (_, flag)| flags | flag) as u64
}

/// Takes all steps; on success the process is the worker and this does not return.
pub fn become_worker(recipe: &Recipe, worker: &Worker<'_>) -> StepError {
    let has = |protection| recipe.protections.has(protection);
    let locked = || -> Result<(), StepError> {
        // 1. A socket belongs for ever to the cgroup and network namespace of its making: the cell's and the host's.
        let listener = listener().map_err(StepError::Listener)?;
        // 2. Network only now, so that the listener is the host's; cgroup only now, so that its root is the cell's cgroup.
        sys::unshare(later_namespaces(&recipe.protections)).map_err(StepError::Namespaces)?;
        // 3. From here on there is no path to the host's files.
        let contents = Contents { model: Some(worker.model), devices: worker.devices };
        recipe.layout.enter(&contents, &recipe.protections).map_err(StepError::Root)?;
        // 4. The host's name is none of the worker's business.
        if has(Protection::UtsNamespace) {
            rustix::system::sethostname(HOSTNAME).map_err(StepError::Hostname)?;
        }
        // 5. Descriptors take their places while anything can still be opened.
        place_descriptors(listener, worker.ends).map_err(StepError::Descriptors)?;
        // 6. CPUs: inherited by all threads, and the filter of step 12 denies widening them.
        pin(worker.profile.cpus).map_err(StepError::Affinity)?;
        // 7. Limits while raising one is still allowed.
        set_limits(recipe, worker.profile).map_err(StepError::Limit)?;
        // 8. The bounding set first: dropping from it is itself a capability.
        if has(Protection::Capabilities) {
            caps::clear(None, CapSet::Bounding).map_err(StepError::Capabilities)?;
        }
        // 9. The cell's own user, who owns no file on the host; of groups, only those that open its devices.
        if has(Protection::Identity) {
            let groups: Vec<u32> = worker.devices.iter().filter_map(|device| device.group).collect();
            take_identity(worker.uid, &groups).map_err(StepError::Identity)?;
        }
        // 10. The change of user emptied two sets; no set is left to that.
        if has(Protection::Capabilities) {
            for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
                caps::clear(None, set).map_err(StepError::Capabilities)?;
            }
        }
        if has(Protection::NoNewPrivileges) {
            rustix::thread::set_no_new_privs(true).map_err(StepError::NoNewPrivileges)?;
        }
        // 11. Read and execute what is in the root; no write, no connection, no signal outwards, whatever else fails.
        if has(Protection::Landlock) {
            restrict(recipe.landlock_abi, AccessNet::from_all(ABI::V4), worker.devices)?;
        }
        sys::reset_signals();
        // 12. Last, because the steps above need calls that a worker may not make.
        if has(Protection::Seccomp) {
            let filters = if worker.devices.is_empty() { &recipe.filters } else { &recipe.device_filters };
            filters.apply().map_err(StepError::Seccomp)?;
        }
        Ok(())
    };
    match locked() {
        Err(error) => error,
        Ok(()) => {
            let program = recipe.layout.program(&recipe.protections);
            StepError::Exec(sys::execute(&program, NAME, ENVIRONMENT))
        }
    }
}

fn later_namespaces(protections: &Protections) -> UnshareFlags {
    let made = [
        (Protection::NetworkNamespace, UnshareFlags::NEWNET),
        (Protection::CgroupNamespace, UnshareFlags::NEWCGROUP),
    ];
    made.into_iter().filter(|(protection, _)| protections.has(*protection)).map(|(_, flag)| flag).collect()
}

/// Dual stack where the host has IPv6, for steered connections of both families. The kernel makes a socket on `::1`
/// IPv6-only whatever was asked, and one on `::` can be reached from outside: only the mapped loopback address is neither.
pub fn listener() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // Steered connections carry the public port: with reuse on, a daemon that starts again can claim it beside them.
    let dual = || {
        let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_ipv6_v6only(&socket, false)?;
        bind(&socket, &SocketAddrV6::new(Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0, 0, 0))?;
        Ok(socket)
    };
    let socket = match dual() {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
            socket
        }
        other => other?,
    };
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// 0 `/dev/null`, 1 and 2 the pipe for what it says, 3 the listener, 4 the link.
pub fn place_descriptors(listener: OwnedFd, ends: Ends<'_>) -> Result<(), Errno> {
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let parked = [null.as_fd(), ends.output, ends.output, listener.as_fd(), ends.link]
        .map(|descriptor| fcntl_dupfd_cloexec(descriptor, PARKED));
    let parked = parked.into_iter().collect::<Result<Vec<_>, _>>()?;
    sys::place_descriptors(&parked.iter().map(OwnedFd::as_fd).collect::<Vec<_>>())?;
    // Their numbers may belong to the worker's descriptors by now; execve closes what is left.
    let _ = (null.into_raw_fd(), listener.into_raw_fd());
    Ok(())
}

/// Keeps the calling process on these CPUs, 0 for all that it has.
pub fn pin(cpus: u64) -> Result<(), Errno> {
    if cpus == 0 {
        return Ok(());
    }
    let mut set = CpuSet::new();
    (0..64).filter(|cpu| cpus & (1 << cpu) != 0).for_each(|cpu| set.set(cpu));
    rustix::thread::sched_setaffinity(None, &set)
}

pub fn set_limits(recipe: &Recipe, profile: Profile) -> Result<(), Errno> {
    let set = |resource, most: u64| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    // Raising a hard limit would take a capability that the launcher need not have.
    if recipe.protections.has(Protection::DescriptorLimit) {
        let hard = getrlimit(Resource::Nofile).maximum;
        set(Resource::Nofile, hard.map_or(DESCRIPTORS, |hard| hard.min(DESCRIPTORS)))?;
    }
    set(Resource::Core, 0)?;
    if !recipe.pids_controller && recipe.protections.has(Protection::PidsLimit) {
        set(Resource::Nproc, profile.pids_max.into())?;
    }
    if !recipe.memory_controller {
        set(Resource::As, profile.memory_bytes.saturating_add(ADDRESS_SLACK))?;
    }
    Ok(())
}

pub fn take_identity(id: u32, groups: &[u32]) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    let groups: Vec<Gid> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Leaves reading and executing what is in the root, and takes these rights to the network. From ABI 4 on all of it is
/// demanded; below, what the kernel has is taken, and the launcher reports the shortfall. A device that was given can be
/// read, written and, where the kernel tells such calls apart, controlled.
///
/// # Errors
/// [`StepError::Root`], [`StepError::Landlock`].
pub fn restrict(abi: u32, network: BitFlags<AccessNet>, devices: &[Device]) -> Result<(), StepError> {
    if abi == 0 {
        return Ok(());
    }
    let root = existing("/")?;
    let nodes = devices.iter().map(|device| existing(device.path.as_str())).collect::<Result<Vec<_>, _>>()?;
    let level = if abi >= 4 { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
    let restrict = || -> Result<(), RulesetError> {
        Ruleset::default()
            .set_compatibility(level)
            .handle_access(AccessFs::from_all(ABI::V4))?
            .handle_access(network)?
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(ABI::V5))?
            .scope(Scope::from_all(ABI::V6))?
            .create()?
            .add_rule(PathBeneath::new(root, AccessFs::from_read(ABI::V4)))?
            .add_rules(
                nodes.into_iter().map(|node| Ok::<_, RulesetError>(PathBeneath::new(node, DEVICE_USE))),
            )?
            .restrict_self()
            .map(drop)
    };
    restrict().map_err(StepError::Landlock)
}

fn existing(path: &str) -> Result<OwnedFd, StepError> {
    open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|errno| {
        StepError::Root(RootError { call: "open", object: path.into(), source: errno.into() })
    })
}
