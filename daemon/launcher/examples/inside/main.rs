//! A worker for the tests of the cell: it does on request, over its link, what a hostile model would try, and reports
//! what came of it.

mod attacks;

use nix::sched::CloneFlags;
use nix::sys::socket::{MsgFlags, SockFlag, accept4, recv, send};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use rustix::thread::CpuSet;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LISTENER: i32 = 3;
const LINK: i32 = 4;
const CHUNK: usize = 16 << 20;
const CHUNKS: usize = 40;
/// Bytes that were written to standard error.
static SHOUTED: AtomicU64 = AtomicU64::new(0);

fn main() {
    if std::env::args().any(|argument| argument == attacks::BECOME) {
        return say(&attacks::became());
    }
    say("hello");
    let mut request = [0; 512];
    loop {
        let length = recv(LINK, &mut request, MsgFlags::empty()).expect("the launcher holds the other end");
        let request = String::from_utf8_lossy(&request[..length]);
        match request.split_once(' ').unwrap_or((&request, "")) {
            ("look", _) => say(&look()),
            ("exit", code) => std::process::exit(code.parse().expect("the test sends a number")),
            ("crash", _) => std::process::abort(),
            ("hog", _) => say(&hog()),
            ("threads", most) => say(&threads(most.parse().expect("the test sends a number"))),
            ("greet", _) => greet(),
            ("spin", _) => say(&spin()),
            ("write", text) => {
                eprintln!("{text}");
                say("written");
            }
            ("shout", _) => drop(std::thread::spawn(shout)),
            ("shouted", _) => say(&SHOUTED.load(Ordering::Relaxed).to_string()),
            ("attack", attack) => {
                let (name, argument) = attack.split_once(' ').unwrap_or((attack, ""));
                say(&attacks::run(name, argument));
            }
            _ => return,
        }
    }
}

fn say(text: &str) {
    send(LINK, text.as_bytes(), MsgFlags::empty()).expect("the launcher holds the other end");
}

/// What was inherited by this number, to be used as a descriptor of its own.
fn inherited(number: i32) -> OwnedFd {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).expect("this process runs");
    pidfd_getfd(own, number, PidfdGetfdFlags::empty()).expect("the launcher gave it")
}

/// Takes one connection, which waits in the queue by now, and writes into it.
fn greet() {
    let connection = accept4(LISTENER, SockFlag::SOCK_CLOEXEC).expect("a connection waits");
    send(connection, b"from inside", MsgFlags::empty()).expect("the test reads");
    say("greeted");
}

fn look() -> String {
    let mut out = String::new();
    let mut tell = |name: &str, value: String| out.push_str(&format!("{name}={value}\n"));
    for line in status_lines() {
        tell("status", line);
    }
    tell("root", names("/"));
    tell("proc", names("/proc"));
    tell(
        "environment",
        std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    );
    tell("arguments", std::env::args().collect::<Vec<_>>().join(" "));
    tell(
        "cgroup",
        fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines().last().unwrap_or("").into(),
    );
    tell("host", rustix::system::uname().nodename().to_string_lossy().into_owned());
    let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let interfaces = interfaces.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    tell("interfaces", interfaces.collect::<Vec<_>>().join(" "));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let writable =
        mounts.lines().filter(|line| !line.split(' ').nth(5).is_some_and(|flags| flags.starts_with("ro")));
    tell("writable mounts", writable.collect::<Vec<_>>().join("; "));
    tell("descriptors", names("/proc/self/fd"));
    tell("read model", fs::read_to_string("/model/model.onnx").unwrap_or_else(|error| error.to_string()));
    for (name, result) in attempts() {
        tell(
            name,
            result.map_or_else(|error| error.raw_os_error().unwrap_or(0).to_string(), |()| "allowed".into()),
        );
    }
    out
}

fn status_lines() -> Vec<String> {
    let wanted = [
        "Uid:",
        "Gid:",
        "Groups:",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp:",
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn names(directory: &str) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(" ")
}

/// What must fail, with the error it fails with.
fn attempts() -> Vec<(&'static str, io::Result<()>)> {
    let os = |result: Result<(), Errno>| result.map_err(io::Error::from);
    let mut every_cpu = CpuSet::new();
    (0..64).for_each(|cpu| every_cpu.set(cpu));
    vec![
        ("open /etc/passwd", fs::File::open("/etc/passwd").map(drop)),
        ("write /model", fs::write("/model/model.onnx", "changed")),
        ("create in /model", fs::write("/model/new", "new")),
        ("create in /", fs::write("/new", "new")),
        ("write worker", fs::write("/worker", "new")),
        ("internet socket", os(socket(AddressFamily::INET, SocketType::STREAM, None).map(drop))),
        ("unix socket", os(socket(AddressFamily::UNIX, SocketType::STREAM, None).map(drop))),
        ("mount", os(rustix::mount::mount("none", "/model", "tmpfs", MountFlags::empty(), None))),
        ("unmount", os(rustix::mount::unmount("/model", rustix::mount::UnmountFlags::DETACH))),
        ("chroot", os(rustix::process::chroot("/model"))),
        ("unshare user", nix::sched::unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from)),
        ("unshare net", nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)),
        ("widen affinity", os(rustix::thread::sched_setaffinity(None, &every_cpu))),
        ("sethostname", os(rustix::system::sethostname(b"x"))),
        ("read another's memory", fs::OpenOptions::new().write(true).open("/proc/1/mem").map(drop)),
    ]
}

/// Takes memory until there is none, or more than any limit of the tests, and no more than a small machine has; MiB.
fn hog() -> String {
    let mut held: Vec<Vec<u8>> = Vec::new();
    while held.len() < CHUNKS {
        let mut chunk = Vec::new();
        if chunk.try_reserve_exact(CHUNK).is_err() {
            break;
        }
        chunk.resize(CHUNK, 1);
        held.push(chunk);
    }
    ((held.len() * CHUNK) >> 20).to_string()
}

/// Uses a CPU for a second.
fn spin() -> String {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        std::hint::spin_loop();
    }
    "spun".to_owned()
}

/// Writes to standard error for as long as it is let.
fn shout() {
    let line = [[b'!'; 1023].as_slice(), b"\n"].concat();
    while io::stderr().write_all(&line).is_ok() {
        SHOUTED.fetch_add(line.len() as u64, Ordering::Relaxed);
    }
}

/// Starts threads until it may not, or as many as asked for; they live on.
fn threads(most: usize) -> String {
    let sleeper = || {
        std::thread::Builder::new()
            .stack_size(64 << 10)
            .spawn(|| std::thread::sleep(Duration::from_secs(600)))
    };
    (0..most).take_while(|_| sleeper().is_ok()).count().to_string()
}
