//! What a hostile worker tries, one function an attack. Each says what it got, or the error that it met; whether that is
//! a success is for the test to judge.

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::{SndBufForce, TcpFastOpenConnect};
use nix::sys::socket::{MsgFlags, send, setsockopt};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid as NixPid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType, bind, connect, connect_unspec, getsockname, ipproto, listen, recv, sendmsg_addr, sendto,
    shutdown, socket, socketpair,
};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, pidfd_getfd, pidfd_open, prlimit, setrlimit,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use turnout_launcher::probe::{Call, attempt};

/// The argument with which the probe only says who it has become.
pub const BECOME: &str = "become";
/// Most that an attack writes, sends or starts: far beyond each limit.
const FILL: usize = 4 << 20;
const FLOOD: usize = 32 << 20;
const CHILDREN: usize = 64;
const DESCRIPTORS: usize = 66_000;
/// Processes that take memory, fewer than a cell may have, and how much each takes: less than a cell may have.
const CROWD: usize = 8;
const HELD: usize = 32 << 20;
/// Connects and sends in one call, by TCP Fast Open (`MSG_FASTOPEN` of `<linux/socket.h>`).
const FAST_OPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
/// Longest wait for the answer to a handshake on the same host.
const HANDSHAKE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

type Outcome = io::Result<String>;

/// Runs the attack of this name.
pub fn run(name: &str, argument: &str) -> String {
    match attack(name, argument) {
        Ok(got) => format!("allowed {got}"),
        Err(error) => format!("refused {error}"),
    }
}

fn attack(name: &str, argument: &str) -> Outcome {
    match name {
        "read" => fs::read(argument).map(|bytes| bytes.len().to_string()),
        "write" => fs::write(argument, "changed").map(|()| String::new()),
        "fill" => fill(argument),
        "execute" => Err(Command::new(argument).arg(BECOME).exec()),
        "open" => fs::File::open(argument).map(|_| String::new()),
        "use" => fs::OpenOptions::new().read(true).write(true).open(argument).map(|_| String::new()),
        "control" => control(argument),
        "mount" => plain(mount("none", "/model", "tmpfs", MountFlags::empty(), None)),
        "remount" => plain(mount_remount("/model", MountFlags::BIND | MountFlags::NOSUID, "")),
        "unmount" => plain(unmount("/model", UnmountFlags::DETACH)),
        "writable" => plain(attempt(Call::Writable(c"/model"))),
        "chroot" => plain(rustix::process::chroot("/model")),
        "device" => plain(mknodat(CWD, "/device", FileType::CharacterDevice, Mode::RUSR, makedev(1, 3))),
        "unshare" => {
            nix::sched::unshare(namespaces(argument)).map(|()| String::new()).map_err(io::Error::from)
        }
        "clone" => plain(attempt(Call::Clone(namespaces(argument).bits()))),
        "clone3" => plain(attempt(Call::Clone3(namespaces(argument).bits()))),
        "join" => plain(join(number(argument))),
        "kill" => plain(attempt(Call::Kill(number(argument)))),
        "trace" => {
            nix::sys::ptrace::attach(nix_pid(argument)).map(|()| String::new()).map_err(io::Error::from)
        }
        "peek" => peek(argument),
        "descriptor" => plain(descriptor_of(number(argument))),
        "limit" => plain(limit(number(argument))),
        "connect" => plain(connect_to(argument)),
        "reuse" => plain(reuse(argument)),
        "stop-listening" => plain(shutdown(super::inherited(super::LISTENER), Shutdown::Read)),
        "option" => option(),
        "send" => plain(send_to(argument)),
        "datagram" => plain(send_datagram(argument)),
        "abstract" => plain(connect_unix(SocketAddrUnix::new_abstract_name(argument.as_bytes())?)),
        "path" => plain(connect_unix(SocketAddrUnix::new(argument)?)),
        "bind" => plain(listen_on(argument)),
        "raw" => plain(socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).map(drop)),
        "key" => plain(attempt(Call::Key)),
        "bpf" => plain(attempt(Call::BpfPrograms)),
        "perf" => plain(attempt(Call::Perf)),
        "ring" => plain(attempt(Call::Ring)),
        "faults" => plain(attempt(Call::Faults)),
        "memory-segment" => plain(attempt(Call::SharedMemory(number(argument) as i32))),
        "host-name" => Ok(rustix::system::uname().nodename().to_string_lossy().into_owned()),
        "own-cgroup" => Ok(last_line(&fs::read_to_string("/proc/self/cgroup")?)),
        "leave-cgroup" => fs::write(argument, "0").map(|()| String::new()),
        "cpus" => Ok(sched_getaffinity(None)?.count().to_string()),
        "widen" => widen(),
        "memory" => Ok(super::hog()),
        "threads" => Ok(super::threads(CHILDREN)),
        "fork" => Ok((0..CHILDREN).take_while(|_| attempt(Call::Fork).is_ok()).count().to_string()),
        "crowd" => Ok((0..CROWD).take_while(|_| attempt(Call::Hold(HELD)).is_ok()).count().to_string()),
        "descriptors" => descriptors(),
        "flood" => Ok(flood().to_string()),
        other => Err(io::Error::other(format!("no attack `{other}`"))),
    }
}

/// What the probe says once it has become another program.
pub fn became() -> String {
    format!("allowed user {}", rustix::process::geteuid().as_raw())
}

fn plain(result: Result<(), Errno>) -> Outcome {
    result.map(|()| String::new()).map_err(io::Error::from)
}

fn number(argument: &str) -> u32 {
    argument.parse().expect("the test sends a number")
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number as i32).expect("the test sends a process id")
}

fn nix_pid(argument: &str) -> NixPid {
    NixPid::from_raw(number(argument) as i32)
}

fn namespaces(argument: &str) -> CloneFlags {
    match argument {
        "user" => CloneFlags::CLONE_NEWUSER,
        _ => CloneFlags::CLONE_NEWNET,
    }
}

fn fill(path: &str) -> Outcome {
    let mut file = fs::File::create(path)?;
    let mut written = 0;
    while written < FILL && file.write_all(&[1; 4096]).is_ok() {
        written += 4096;
    }
    Ok(written.to_string())
}

/// A device and the number of a request, with a space between.
fn control(argument: &str) -> Outcome {
    let (path, request) = argument.split_once(' ').expect("the test sends a path and a number");
    let device = fs::File::open(path)?;
    plain(attempt(Call::Control(device.as_fd(), number(request))))
}

fn join(process: u32) -> Result<(), Errno> {
    let process = pidfd_open(pid(process), PidfdFlags::empty())?;
    setns(process, CloneFlags::CLONE_NEWNS).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// An address that is not mapped: to be told so, one must be allowed to read.
fn peek(argument: &str) -> Outcome {
    let mut bytes = [0; 8];
    let there = RemoteIoVec { base: 8, len: 8 };
    match process_vm_readv(nix_pid(argument), &mut [IoSliceMut::new(&mut bytes)], &[there]) {
        Err(nix::errno::Errno::EFAULT) | Ok(_) => Ok(String::new()),
        Err(errno) => Err(errno.into()),
    }
}

fn descriptor_of(process: u32) -> Result<(), Errno> {
    let process = pidfd_open(pid(process), PidfdFlags::empty())?;
    pidfd_getfd(process, 0, PidfdGetfdFlags::empty()).map(drop)
}

fn limit(process: u32) -> Result<(), Errno> {
    let most = Rlimit { current: Some(0), maximum: Some(0) };
    prlimit(Some(pid(process)), Resource::Core, most).map(drop)
}

fn loopback(port: &str) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.parse().expect("the test sends a port"))
}

fn connect_to(port: &str) -> Result<(), Errno> {
    connect(&socket(AddressFamily::INET, SocketType::STREAM, None)?, &loopback(port))
}

fn send_to(port: &str) -> Result<(), Errno> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    sendto(&socket, b"out", SendFlags::empty(), &loopback(port)).map(drop)
}

/// A call and a port, with a space between: connects by what was inherited to listen, in the network where that was made.
fn reuse(argument: &str) -> Result<(), Errno> {
    let (call, port) = argument.split_once(' ').expect("the test sends a call and a port");
    let socket = super::inherited(super::LISTENER);
    // A listener that is shut can be connected. Where it cannot be shut, the call has to be refused all the same.
    let _ = shutdown(&socket, Shutdown::Read);
    let to = match SocketAddr::try_from(getsockname(&socket)?)? {
        SocketAddr::V4(_) => SocketAddr::from(loopback(port)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), loopback(port).port())),
    };
    let no_control = &mut SendAncillaryBuffer::default();
    let begun = match call {
        "sendto" => sendto(&socket, b"out", FAST_OPEN, &to).map(drop),
        "sendmsg" => sendmsg_addr(&socket, &to, &[IoSlice::new(b"out")], no_control, FAST_OPEN).map(drop),
        "connect" => connect(&socket, &to),
        // What undoes a connection undoes listening, too.
        _ => connect_unspec(&socket).and_then(|()| connect(&socket, &to)),
    };
    match begun {
        Err(Errno::INPROGRESS) => {
            poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&HANDSHAKE)).map(drop)
        }
        other => other,
    }
}

/// Only a socket that does not listen takes it.
fn option() -> Outcome {
    let socket = super::inherited(super::LISTENER);
    let _ = shutdown(&socket, Shutdown::Read);
    setsockopt(&socket, TcpFastOpenConnect, &true).map(|()| String::new()).map_err(io::Error::from)
}

/// Half of a pair can send to any socket that has a name.
fn send_datagram(name: &str) -> Result<(), Errno> {
    let (half, _other) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let to = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    sendto(&half, b"out", SendFlags::empty(), &to).map(drop)
}

fn connect_unix(address: SocketAddrUnix) -> Result<(), Errno> {
    let socket = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
    connect(&socket, &address)?;
    // Whoever listens may still send this caller away.
    let mut first = [0; 64];
    match recv(&socket, &mut first, RecvFlags::DONTWAIT) {
        Ok((_, 0)) => Err(Errno::CONNRESET),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The socket stays open: the test tries whether it is reached.
fn listen_on(port: &str) -> Result<(), Errno> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, loopback(port).port()))?;
    listen(&socket, 8)?;
    std::mem::forget(socket);
    Ok(())
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}

fn widen() -> Outcome {
    let mut every = CpuSet::new();
    (0..64).for_each(|cpu| every.set(cpu));
    sched_setaffinity(None, &every)?;
    Ok(sched_getaffinity(None)?.count().to_string())
}

fn descriptors() -> Outcome {
    let most = Some(DESCRIPTORS as u64 + 100);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
    let mut held = Vec::new();
    while held.len() < DESCRIPTORS {
        match rustix::io::fcntl_dupfd_cloexec(io::stdin(), 0) {
            Ok(descriptor) => held.push(descriptor),
            Err(errno) => return Err(io::Error::other(format!("{errno} at {}", held.len()))),
        }
    }
    Ok(held.len().to_string())
}

/// Bytes that the link takes while nobody reads it, from a sender that has asked for all the room it can get.
fn flood() -> usize {
    let _ = setsockopt(&super::inherited(super::LINK), SndBufForce, &(2 * FLOOD));
    let message = [b'x'; 16 << 10];
    let mut sent = 0;
    while sent < FLOOD && send(super::LINK, &message, MsgFlags::MSG_DONTWAIT).is_ok() {
        sent += message.len();
    }
    sent
}
