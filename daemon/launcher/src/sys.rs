//! Every `unsafe` block of the launcher: system calls that no safe crate wraps. What they are for is said by the callers.
#![allow(unsafe_code, reason = "this file is the launcher's only place for it")]

use rustix::io::Errno;
use rustix::thread::UnshareFlags;
use std::ffi::{CStr, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// `CLONE_INTO_CGROUP` of `<linux/sched.h>`; libc's constant has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of [`clone_into`] this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The calling process.
    Parent {
        /// The child's process id in this namespace.
        pid: u32,
        /// The child.
        pidfd: OwnedFd,
    },
}

/// A descriptor that the service manager handed over, closed at the next execve(2). For the first lines of `main`.
pub fn handed_over(number: u32) -> OwnedFd {
    let number = number.cast_signed();
    // SAFETY: the environment says that this number was opened for this process, and nothing else owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: F_SETFD reads no memory; a number that is not open gives EBADF, which the first use meets again.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    descriptor
}

/// Closes every descriptor from `first` on (close_range(2)). For the first lines of `main`, before anything is opened.
pub fn close_from(first: u32) {
    // SAFETY: nothing in this process owns a descriptor yet, so none is closed behind its owner's back.
    unsafe { libc::close_range(first, u32::MAX, 0) };
}

/// Empties the environment (clearenv(3)).
pub fn clear_environment() {
    // SAFETY: the process has one thread, so nobody reads the environment meanwhile.
    unsafe { libc::clearenv() };
}

/// Blocks these signals and makes them readable instead (signalfd(2)).
///
/// # Errors
/// The kernel's own.
pub fn signal_descriptor(signals: &[c_int]) -> Result<OwnedFd, Errno> {
    // SAFETY: an all-zero sigset_t is a valid object that sigemptyset overwrites.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a live, exclusive sigset_t in all calls; sigprocmask with a null old set only reads it.
    unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
    }
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let raw = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    // SAFETY: a non-negative result is a new descriptor that nobody else owns.
    checked(raw.into()).map(|_| unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Undoes [`signal_descriptor`] and the runtime's ignoring of SIGPIPE, both of which would survive execve(2).
pub fn reset_signals() {
    // SAFETY: an all-zero sigset_t is a valid object that sigemptyset overwrites.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a live, exclusive sigset_t; SIG_DFL installs no handler of ours.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Makes a child that begins its life inside a cgroup (clone3(2) with `CLONE_INTO_CGROUP` and `CLONE_PIDFD`).
///
/// # Errors
/// The kernel's own.
pub fn clone_into(namespaces: u64, cgroup: BorrowedFd<'_>) -> Result<Forked, Errno> {
    // SAFETY: an all-zero clone_args asks for nothing.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces | CLONE_INTO_CGROUP;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
    clone_with(arguments)
}

/// `arguments` must not ask for shared memory (`CLONE_VM`).
fn clone_with(mut arguments: libc::clone_args) -> Result<Forked, Errno> {
    let mut pidfd: c_int = -1;
    arguments.flags |= libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is a fork: the child has its own copy of the memory and the stack. The launcher has
    // one thread, so no lock is held by a thread that the child lacks. `arguments` and `pidfd` outlive the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match checked(pid)? {
        0 => Ok(Forked::Child),
        pid => {
            let pid = u32::try_from(pid).expect("process ids are below 2^22");
            // SAFETY: the kernel stored a new descriptor, which nobody else owns.
            Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
        }
    }
}

/// Makes a child in the caller's own cgroup and namespaces (clone3(2) with `CLONE_PIDFD`).
///
/// # Errors
/// The kernel's own.
pub fn fork() -> Result<Forked, Errno> {
    // SAFETY: an all-zero clone_args asks for nothing.
    let arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    clone_with(arguments)
}

/// Moves the caller into new namespaces (unshare(2)).
///
/// # Errors
/// The kernel's own.
pub fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    assert!(!namespaces.contains(UnshareFlags::FILES), "the descriptor table is not for this function");
    // SAFETY: the descriptor table stays shared, which is the only flag that can break memory safety.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Sets attributes on the mount behind a descriptor (mount_setattr(2)); they are only ever added.
///
/// # Errors
/// The kernel's own.
pub fn add_mount_attributes(mount: BorrowedFd<'_>, attributes: u64) -> Result<(), Errno> {
    let change = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a NUL-terminated literal and `change` outlives the call, which reads its stated size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    checked(result).map(drop)
}

/// The kernel's Landlock ABI, 0 where there is none (landlock_create_ruleset(2)).
pub fn landlock_abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with a null ruleset of size 0 and this flag the call only returns a number.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<c_void>(), 0_usize, VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// Puts descriptors on the numbers a worker expects, from 0 on, and marks all above them close-on-exec (close_range(2)).
/// `descriptors` must lie above those numbers.
///
/// # Errors
/// The kernel's own.
pub fn place_descriptors(descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    for (number, descriptor) in (0..).zip(descriptors) {
        // SAFETY: the caller is about to execute or exit: no owner of the overwritten number is used again.
        checked(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }.into())?;
    }
    let first = u32::try_from(descriptors.len()).expect("a handful of descriptors");
    // SAFETY: marking closes nothing now.
    checked(unsafe { libc::close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as c_int) }.into())
        .map(drop)
}

/// Becomes another program, with its name as the only argument (execve(2)). Returns only on failure.
pub fn execute(program: &CStr, name: &CStr, environment: &[&CStr]) -> Errno {
    let arguments = [name.as_ptr(), ptr::null()];
    let environment: Vec<_> = environment.iter().map(|entry| entry.as_ptr()).chain([ptr::null()]).collect();
    // SAFETY: all strings are NUL-terminated and both arrays end in a null pointer.
    let result = unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    checked(result.into()).err().unwrap_or(Errno::NOEXEC)
}

/// Ends the process without running anything more of it (_exit(2)).
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: the call has no preconditions.
    unsafe { libc::_exit(code) }
}

fn checked(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(result)
}

/// Calls that a worker must not be able to make and that no safe crate wraps, for the probe of the launcher's tests.
#[cfg(feature = "weaken")]
pub mod probe {
    use super::{checked, exit_now, ptr};
    use rustix::io::Errno;
    use std::ffi::{CStr, c_int, c_long, c_void};
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::sync::atomic::{AtomicU32, Ordering};

    pub use super::landlock_abi;

    /// One call, with arguments that make it succeed where it is allowed.
    #[derive(Debug, Clone, Copy)]
    pub enum Call<'a> {
        /// A process (clone(2)) in these new namespaces, which ends at once.
        Clone(c_int),
        /// The same by clone3(2).
        Clone3(c_int),
        /// A process that stays.
        Fork,
        /// The same, once it has taken this many bytes of memory.
        Hold(usize),
        /// Kills a thread of this process id (tgkill(2)).
        Kill(u32),
        /// Stores a key (add_key(2)).
        Key,
        /// Asks for the eBPF programs of the machine (bpf(2)).
        BpfPrograms,
        /// Counts what CPU 0 does (perf_event_open(2)).
        Perf,
        /// A ring (io_uring_setup(2)).
        Ring,
        /// A handler of page faults (userfaultfd(2)).
        Faults,
        /// Maps the memory segment of this key (shmget(2), shmat(2)).
        SharedMemory(c_int),
        /// Makes a mount writable (mount_setattr(2)).
        Writable(&'a CStr),
        /// Asks something of a device (ioctl(2)) that reads and writes no memory.
        Control(BorrowedFd<'a>, u32),
    }

    /// Makes the call.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn attempt(call: Call<'_>) -> Result<(), Errno> {
        match call {
            Call::Clone(flags) => process(flags, || ()).map(drop),
            Call::Fork => process(0, stays).map(drop),
            Call::Hold(bytes) => hold(bytes),
            Call::Clone3(flags) => process_by_clone3(flags),
            Call::Kill(pid) => {
                // SAFETY: the call takes numbers alone.
                checked(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGKILL) }).map(drop)
            }
            Call::Faults => {
                const USER_MODE_ONLY: c_int = 1;
                // SAFETY: the call takes numbers alone; the new descriptor stays open until the process ends.
                checked(unsafe { libc::syscall(libc::SYS_userfaultfd, USER_MODE_ONLY) }).map(drop)
            }
            Call::Key => add_key(),
            Call::BpfPrograms => bpf_programs(),
            Call::Perf => perf(),
            Call::Ring => {
                let mut parameters = [0_u32; 30];
                // SAFETY: `parameters` has the size of io_uring_params and outlives the call.
                checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
                    .map(drop)
            }
            Call::SharedMemory(key) => attach(key),
            Call::Writable(path) => writable(path),
            Call::Control(device, request) => {
                // SAFETY: the test sends requests that take no pointer; the call takes numbers alone.
                checked(unsafe { libc::syscall(libc::SYS_ioctl, device.as_raw_fd(), request, 0_usize) })
                    .map(drop)
            }
        }
    }

    /// Makes a memory segment that root alone may read; its id.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn share_memory(key: c_int) -> Result<c_int, Errno> {
        // SAFETY: the call takes numbers alone.
        let id = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) };
        checked(id.into()).map(|_| id)
    }

    /// Removes a memory segment.
    pub fn unshare_memory(id: c_int) {
        // SAFETY: IPC_RMID reads no buffer.
        unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
    }

    fn exits() -> ! {
        exit_now(0)
    }

    fn stays() {
        loop {
            let hour = libc::timespec { tv_sec: 3600, tv_nsec: 0 };
            // SAFETY: `hour` outlives the call; a null remainder is not written.
            unsafe { libc::nanosleep(&raw const hour, ptr::null_mut()) };
        }
    }

    /// Its process id. The child must call nothing that takes a lock; it ends with that.
    fn process(flags: c_int, child: impl FnOnce()) -> Result<c_int, Errno> {
        let flags = flags | libc::SIGCHLD;
        // SAFETY: without CLONE_VM and with a null stack this is a fork; the child calls nothing that takes a lock.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
        let pid = checked(pid)?;
        if pid == 0 {
            child();
            exits();
        }
        c_int::try_from(pid).map_err(|_| Errno::RANGE)
    }

    fn hold(bytes: usize) -> Result<(), Errno> {
        let word = memory(size_of::<AtomicU32>(), libc::MAP_SHARED)?;
        // SAFETY: the mapping is of this size, zeroed, and stays until the process ends.
        let holds = unsafe { &*word.cast::<AtomicU32>() };
        let pid = process(0, || {
            if memory(bytes, libc::MAP_PRIVATE | libc::MAP_POPULATE).is_ok() {
                holds.store(1, Ordering::Release);
                stays()
            }
        })?;
        while holds.load(Ordering::Acquire) == 0 {
            // SAFETY: a null status is not written.
            if unsafe { libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG) } == pid {
                return Err(Errno::NOMEM);
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Memory without a file behind it, which stays until the process ends.
    fn memory(bytes: usize, flags: c_int) -> Result<*mut c_void, Errno> {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_ANONYMOUS);
        // SAFETY: with a null address the kernel chooses a free place; no descriptor is read.
        let place = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, -1, 0) };
        checked(if place == libc::MAP_FAILED { -1 } else { 0 }).map(|_| place)
    }

    fn process_by_clone3(flags: c_int) -> Result<(), Errno> {
        // SAFETY: an all-zero clone_args asks for nothing.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = flags as u64;
        arguments.exit_signal = libc::SIGCHLD as u64;
        // SAFETY: a fork, as above; `arguments` outlives the call, which reads its stated size.
        let pid =
            unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
        if checked(pid)? == 0 { exits() } else { Ok(()) }
    }

    fn add_key() -> Result<(), Errno> {
        const PROCESS_KEYRING: c_long = -2;
        let (kind, name, value) = (c"user".as_ptr(), c"turnout-probe".as_ptr(), c"x".as_ptr());
        // SAFETY: all three are NUL-terminated literals; one byte of the last is read.
        checked(unsafe { libc::syscall(libc::SYS_add_key, kind, name, value, 1_usize, PROCESS_KEYRING) })
            .map(drop)
    }

    fn bpf_programs() -> Result<(), Errno> {
        const PROGRAM_AFTER: c_int = 11;
        let mut attributes = [0_u32; 3];
        let size = size_of_val(&attributes);
        // SAFETY: `attributes` is live, exclusive and of the stated size.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, PROGRAM_AFTER, attributes.as_mut_ptr(), size) };
        match checked(answer) {
            // There is none: the question was answered.
            Err(Errno::NOENT) | Ok(_) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn perf() -> Result<(), Errno> {
        const SOFTWARE: u32 = 1;
        const SIZE: u32 = 64;
        let mut attributes = [0_u32; 16];
        (attributes[0], attributes[1]) = (SOFTWARE, SIZE);
        let (every_process, cpu, no_group) = (-1, 0, -1);
        // SAFETY: `attributes` is live and of the size that its second field states.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                attributes.as_ptr(),
                every_process,
                cpu,
                no_group,
                0_usize,
            )
        };
        checked(descriptor).map(drop)
    }

    fn attach(key: c_int) -> Result<(), Errno> {
        // SAFETY: the call takes numbers alone.
        let id = unsafe { libc::shmget(key, 0, 0) };
        checked(id.into())?;
        // SAFETY: with a null address the kernel chooses a free place; nobody reads or writes it.
        let place = unsafe { libc::shmat(id, ptr::null::<c_void>(), libc::SHM_RDONLY) };
        checked(if place.addr() == usize::MAX { -1 } else { 0 }).map(drop)
    }

    fn writable(path: &CStr) -> Result<(), Errno> {
        let change =
            libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
        // SAFETY: the path is NUL-terminated and `change` outlives the call, which reads its stated size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                libc::AT_FDCWD,
                path.as_ptr(),
                0,
                &raw const change,
                size_of::<libc::mount_attr>(),
            )
        };
        checked(result).map(drop)
    }
}
