//! The system calls a worker may make, as data, each with who needs it. Anything else is answered with EPERM.

use libc::c_long;

/// When a call is allowed.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    /// Always.
    Always,
    /// When this argument has none of these bits.
    Without(u8, u64),
    /// When this argument is one of these.
    OneOf(u8, &'static [u64]),
    /// When this argument, of which only these bits count, is one of these.
    Masked(u8, u64, &'static [u64]),
    /// When each of these arguments, of which only these bits count, is this.
    Each(&'static [(u8, u64, u64)]),
}

/// One allowed call.
#[derive(Debug, Clone, Copy)]
pub struct Allowed {
    /// Its number.
    pub call: c_long,
    /// When.
    pub rule: Rule,
    /// Who needs it.
    #[cfg_attr(not(test), expect(dead_code, reason = "read by people, and by a test that none is empty"))]
    pub needed_by: &'static str,
}

/// Flags of clone(2) of a thread. What it starts without them is a process, with memory of its own: where no controller
/// counts a cell's memory together, each would have the limit to itself.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
/// Flags of clone(2) that make a namespace.
const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Of an argument of 32 bits, all.
pub const WHOLE: u64 = u32::MAX as u64;
/// Of a socket's type, all but the flags (`SOCK_TYPE_MASK` of `<linux/net.h>`).
pub const SOCKET_TYPE: u64 = 0xf;
/// Of the flags of a call that sends: connects first. Neither the network namespace, because the listener is the host's,
/// nor every kernel's Landlock holds that.
const FAST_OPEN: u64 = libc::MSG_FASTOPEN as u64;

const THREADS: &str = "threads of the worker and of the runtime (pthread_create, std::sync)";
const LOADER: &str = "the ELF loader, and dlopen of the runtime";
const MEMORY: &str = "the allocator, and the runtime's arenas and mapped models";
const FILES: &str = "reading the model and the runtime's CPU detection";
const SOCKETS: &str = "accepting and serving connections, and the link";
const ADOPTION: &str =
    "the worker takes over descriptors 3 and 4 without unsafe code; in its pid namespace it is alone";
const EVENTS: &str = "tokio's event loop";
const CLOCK: &str = "time-outs and sleeping";
const SIGNALS: &str = "the runtimes' handlers for stack overflow and abort";
const IDENTITY: &str = "libc and the runtime ask who and where they are";
const LOCKING: &str = "the worker's own, tighter filter after loading";

const fn always(call: c_long, needed_by: &'static str) -> Allowed {
    Allowed { call, rule: Rule::Always, needed_by }
}

/// The list.
pub const ALLOWED: &[Allowed] = &[
    always(
        libc::SYS_execve,
        "the launcher's last step; afterwards Landlock leaves only the cell's own programs",
    ),
    always(libc::SYS_brk, MEMORY),
    always(libc::SYS_mmap, MEMORY),
    always(libc::SYS_munmap, MEMORY),
    always(libc::SYS_mprotect, MEMORY),
    always(libc::SYS_mremap, MEMORY),
    always(libc::SYS_madvise, MEMORY),
    always(libc::SYS_openat, LOADER),
    always(libc::SYS_read, LOADER),
    always(libc::SYS_pread64, LOADER),
    always(libc::SYS_close, LOADER),
    always(libc::SYS_fstat, LOADER),
    always(libc::SYS_newfstatat, LOADER),
    always(libc::SYS_set_tid_address, LOADER),
    always(libc::SYS_prlimit64, LOADER),
    always(libc::SYS_getrandom, "hash maps, the allocator's tokens"),
    always(libc::SYS_statx, FILES),
    always(libc::SYS_lseek, FILES),
    always(libc::SYS_readv, FILES),
    always(libc::SYS_getdents64, FILES),
    always(libc::SYS_readlinkat, FILES),
    always(libc::SYS_faccessat, FILES),
    always(libc::SYS_faccessat2, FILES),
    always(libc::SYS_getcwd, FILES),
    always(libc::SYS_fadvise64, FILES),
    always(libc::SYS_fstatfs, FILES),
    always(libc::SYS_statfs, FILES),
    Allowed {
        call: libc::SYS_clone,
        rule: Rule::Each(&[(0, NEW_NAMESPACES | THREAD, THREAD)]),
        needed_by: THREADS,
    },
    always(
        libc::SYS_clone3,
        "libc tries it for threads; a second filter answers ENOSYS, and libc goes on with clone",
    ),
    always(libc::SYS_set_robust_list, THREADS),
    always(libc::SYS_rseq, THREADS),
    always(libc::SYS_futex, THREADS),
    always(libc::SYS_sched_yield, THREADS),
    always(libc::SYS_sched_getaffinity, THREADS),
    always(libc::SYS_getcpu, THREADS),
    always(libc::SYS_membarrier, THREADS),
    always(libc::SYS_exit, THREADS),
    always(libc::SYS_exit_group, THREADS),
    Allowed {
        call: libc::SYS_prctl,
        rule: Rule::OneOf(
            0,
            &[
                libc::PR_SET_NAME as u64,
                libc::PR_GET_NAME as u64,
                libc::PR_SET_NO_NEW_PRIVS as u64,
                PR_SET_VMA,
            ],
        ),
        needed_by: "names of threads and of the allocator's areas, and the worker's own filter",
    },
    always(libc::SYS_seccomp, LOCKING),
    always(libc::SYS_rt_sigaction, SIGNALS),
    always(libc::SYS_rt_sigprocmask, SIGNALS),
    always(libc::SYS_rt_sigreturn, SIGNALS),
    always(libc::SYS_sigaltstack, SIGNALS),
    always(libc::SYS_tgkill, SIGNALS),
    always(libc::SYS_restart_syscall, "the kernel itself, after a stop"),
    always(libc::SYS_pidfd_open, ADOPTION),
    always(libc::SYS_pidfd_getfd, ADOPTION),
    always(libc::SYS_accept4, SOCKETS),
    always(libc::SYS_recvfrom, SOCKETS),
    always(libc::SYS_recvmsg, SOCKETS),
    Allowed { call: libc::SYS_sendto, rule: Rule::Without(3, FAST_OPEN), needed_by: SOCKETS },
    Allowed { call: libc::SYS_sendmsg, rule: Rule::Without(2, FAST_OPEN), needed_by: SOCKETS },
    always(libc::SYS_write, SOCKETS),
    always(libc::SYS_writev, SOCKETS),
    // For writing alone: a listener that is shut for reading listens no more and can connect.
    Allowed { call: libc::SYS_shutdown, rule: Rule::OneOf(1, &[libc::SHUT_WR as u64]), needed_by: SOCKETS },
    always(libc::SYS_getsockname, SOCKETS),
    always(libc::SYS_getpeername, SOCKETS),
    always(libc::SYS_getsockopt, SOCKETS),
    // Other options change what a socket is, where it sends, or who reads what it gets.
    Allowed {
        call: libc::SYS_setsockopt,
        rule: Rule::Each(&[(1, WHOLE, libc::IPPROTO_TCP as u64), (2, WHOLE, libc::TCP_NODELAY as u64)]),
        needed_by: SOCKETS,
    },
    always(libc::SYS_fcntl, SOCKETS),
    Allowed {
        call: libc::SYS_ioctl,
        rule: Rule::OneOf(1, &[libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX]),
        needed_by: SOCKETS,
    },
    always(libc::SYS_epoll_create1, EVENTS),
    always(libc::SYS_epoll_ctl, EVENTS),
    always(libc::SYS_epoll_pwait, EVENTS),
    always(libc::SYS_epoll_pwait2, EVENTS),
    always(libc::SYS_eventfd2, EVENTS),
    // Not of datagrams: half of such a pair can send to any socket that has a name.
    Allowed {
        call: libc::SYS_socketpair,
        rule: Rule::Each(&[(0, WHOLE, libc::AF_UNIX as u64), (1, SOCKET_TYPE, libc::SOCK_STREAM as u64)]),
        needed_by: EVENTS,
    },
    always(libc::SYS_ppoll, EVENTS),
    always(libc::SYS_clock_gettime, CLOCK),
    always(libc::SYS_clock_getres, CLOCK),
    always(libc::SYS_gettimeofday, CLOCK),
    always(libc::SYS_clock_nanosleep, CLOCK),
    always(libc::SYS_nanosleep, CLOCK),
    always(libc::SYS_getpid, IDENTITY),
    always(libc::SYS_gettid, IDENTITY),
    always(libc::SYS_getuid, IDENTITY),
    always(libc::SYS_geteuid, IDENTITY),
    always(libc::SYS_getgid, IDENTITY),
    always(libc::SYS_getegid, IDENTITY),
    always(libc::SYS_uname, IDENTITY),
    always(libc::SYS_sysinfo, IDENTITY),
    always(libc::SYS_getrusage, IDENTITY),
];

/// Bits of a request of ioctl(2) that say whose it is.
const FAMILY: u64 = 0xff00;

/// Calls that a worker with devices may make beyond the others: requests of the families of accelerators' drivers. Not
/// those of sockets (0x89), terminals (`T`), file systems (`f`, `X`, 0x94) or disks (0x12), which it has descriptors of
/// or could be given by mistake. Below the kernel's Landlock ABI 5, what is refused beyond that is the drivers' to say.
pub const DEVICE_CALLS: &[Allowed] = &[Allowed {
    call: libc::SYS_ioctl,
    rule: Rule::Masked(
        1,
        FAMILY,
        &[
            // NVIDIA's unified memory, which numbers its requests without a family.
            0,
            // NVIDIA's driver: `F`. Direct rendering, and accelerators by it: `d`. AMD's compute driver: `K`.
            (b'F' as u64) << 8,
            (b'd' as u64) << 8,
            (b'K' as u64) << 8,
        ],
    ),
    needed_by: "the drivers of the devices that the cell was given",
}];

#[cfg(target_arch = "x86_64")]
const RUNTIME: &str =
    "the runtime's official build, made for an older libc, asks for files and their sizes this way";

/// Older forms that are still used on x86-64.
#[cfg(target_arch = "x86_64")]
pub const ALLOWED_HERE: &[Allowed] = &[
    always(libc::SYS_arch_prctl, LOADER),
    always(libc::SYS_access, LOADER),
    always(libc::SYS_readlink, FILES),
    always(libc::SYS_stat, RUNTIME),
    always(libc::SYS_lstat, RUNTIME),
    always(libc::SYS_open, RUNTIME),
    always(libc::SYS_epoll_wait, EVENTS),
    always(libc::SYS_poll, EVENTS),
];
/// None: the newer forms are the only ones.
#[cfg(not(target_arch = "x86_64"))]
pub const ALLOWED_HERE: &[Allowed] = &[];

/// prctl(2) of glibc's allocator, which libc does not name.
const PR_SET_VMA: u64 = 0x5356_4d41;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_call_is_listed_once_with_who_needs_it() {
        let all: Vec<_> = ALLOWED.iter().chain(ALLOWED_HERE).collect();
        assert_eq!(all.iter().map(|allowed| allowed.call).collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.iter().all(|allowed| !allowed.needed_by.is_empty()));
    }

    #[test]
    fn clone_makes_threads_of_the_same_memory_and_no_namespace() {
        let clone = ALLOWED.iter().find(|allowed| allowed.call == libc::SYS_clone).unwrap();
        let Rule::Each(&[(0, mask, value)]) = clone.rule else { panic!("{:?}", clone.rule) };
        let allows = |flags: libc::c_int| flags as u64 & mask == value;
        let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
        assert!(allows(thread | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SETTLS));
        let vfork = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        for other in [libc::SIGCHLD, vfork, thread & !libc::CLONE_VM] {
            assert!(!allows(other), "{other:#x}");
        }
        for bit in (0..64).map(|bit| 1_u64 << bit).filter(|bit| NEW_NAMESPACES & bit != 0) {
            assert!(!allows(thread | bit as libc::c_int), "{bit:#x}");
        }
    }

    #[test]
    fn nothing_that_reaches_out_of_the_cell_is_listed() {
        for call in [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_sendmmsg,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_sched_setaffinity,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_userfaultfd,
            libc::SYS_process_vm_readv,
            libc::SYS_execveat,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_vfork,
        ] {
            assert!(!ALLOWED.iter().chain(ALLOWED_HERE).any(|allowed| allowed.call == call), "{call}");
        }
    }
}
