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
    let mut pidfd: c_int = -1;
    // SAFETY: an all-zero clone_args asks for nothing.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces | CLONE_INTO_CGROUP | libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = cgroup.as_raw_fd() as u64;
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
