//! One attack, tried three ways, and what attacks are pointed at.
#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use crate::GENERATION;
use crate::fixture::{Launcher, example};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use turnout_launcher::Protection;
use turnout_launcher::Protection::Landlock;
use turnout_launcher::probe;

/// What the worker says of a call that the list refuses.
pub const UNLISTED: &str = "refused Operation not permitted (os error 1)";

/// One attack, and how it is judged from outside.
pub struct Attack {
    pub name: &'static str,
    pub aim: fn(&Launcher) -> Aim,
    pub guards: Vec<Protection>,
    /// Nobody listens until it has said what it has to say.
    pub unheard: bool,
}

type Judge = dyn Fn(Option<&str>) -> bool;

/// What an attack is pointed at.
pub struct Aim {
    pub argument: String,
    /// Whether it succeeded, by what the worker said; `None` when it died of it.
    hit: Box<Judge>,
    _kept: Box<dyn Any>,
}

impl Aim {
    /// Judged by the worker's word alone.
    pub fn at(argument: impl ToString) -> Self {
        Self::judged(argument, |said| said.is_some_and(|said| said.starts_with("allowed")))
    }

    pub fn judged(argument: impl ToString, hit: impl Fn(Option<&str>) -> bool + 'static) -> Self {
        Self { argument: argument.to_string(), hit: Box::new(hit), _kept: Box::new(()) }
    }

    /// By a number that the worker reached.
    pub fn above(limit: u64) -> Self {
        Self::judged("", move |said| {
            let reached = said.and_then(|said| said.strip_prefix("allowed ")).and_then(|n| n.parse().ok());
            reached.is_some_and(|reached: u64| reached > limit)
        })
    }

    pub fn with(self, argument: &str) -> Self {
        Self { argument: argument.into(), ..self }
    }

    pub fn keeping(self, kept: impl Any) -> Self {
        Self { _kept: Box::new(kept), ..self }
    }
}

/// An attack that needs no target.
pub fn attack(name: &'static str) -> Attack {
    Attack { name, aim: |_| Aim::at(""), guards: Vec::new(), unheard: false }
}

impl Attack {
    pub fn aimed(self, aim: fn(&Launcher) -> Aim) -> Self {
        Self { aim, ..self }
    }

    pub fn held_by(mut self, guards: &[Protection]) -> Self {
        self.guards.extend(guards);
        self
    }

    pub fn unheard(self) -> Self {
        Self { unheard: true, ..self }
    }

    /// Landlock holds it too, from this ABI on.
    pub fn and_landlock(mut self, abi: u32) -> Self {
        if probe::landlock_abi() >= abi {
            self.guards.push(Landlock);
        }
        self
    }

    pub fn check(self) {
        self.check_where(&[]);
    }

    /// In cells that lack these protections whatever else is tried.
    pub fn check_where(self, absent: &[Protection]) {
        let without = |kept: Option<Protection>| {
            let off = self.guards.iter().copied().filter(|guard| Some(*guard) != kept);
            self.attempt(&off.chain(absent.iter().copied()).collect::<Vec<_>>())
        };
        let (hit, said) = self.attempt(absent);
        assert!(!hit, "`{}` succeeds in a cell without {absent:?}: {said:?}", self.name);
        let (hit, said) = without(None);
        assert!(hit, "void: `{}` fails without {:?} too: {said:?}", self.name, self.guards);
        for guard in &self.guards {
            let (hit, said) = without(Some(*guard));
            assert!(!hit, "{guard:?} alone does not hold `{}`: {said:?}", self.name);
        }
    }

    pub fn attempt(&self, off: &[Protection]) -> (bool, Option<String>) {
        let launcher = Launcher::without(off);
        let aim = (self.aim)(&launcher);
        let mut client = launcher.client();
        let worker = client.started(GENERATION, &launcher.model());
        worker.tell(&format!("attack {} {}", self.name, aim.argument));
        if self.unheard {
            worker.rests();
        }
        let is_answer = |said: &str| ["allowed", "refused"].iter().any(|word| said.starts_with(word));
        // A flood comes before the answer.
        let said = std::iter::from_fn(|| worker.hear_or_end()).find(|said| is_answer(said));
        let hit = (aim.hit)(said.as_deref());
        // Before the target: a traced process does not end while its tracer lives.
        drop((worker, client, launcher));
        (hit, said)
    }
}

/// A file of root's in a folder of root's.
pub fn secret(launcher: &Launcher) -> std::path::PathBuf {
    let path = launcher.directory.path().join("secret");
    fs::write(&path, "secret").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The probe itself, which says who it has become. Written by `cp`: what this process had open for writing would be so in
/// each process that another test starts meanwhile, and cannot be executed until that one has its program.
pub fn program(path: &Path, mode: u32) {
    assert!(Command::new("cp").arg(example("inside")).arg(path).status().unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A process of the host. It is asked whether it suffered, where that is to be seen; else the worker's word counts.
pub fn victim(suffered: fn(&mut Child) -> Option<bool>) -> Aim {
    let mut command = Command::new("sleep");
    let child = command.arg("600").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let child = RefCell::new(Ended(child));
    Aim::judged(pid, move |said| {
        let mut child = child.borrow_mut();
        let allowed = said.is_some_and(|said| said.starts_with("allowed"));
        match suffered(&mut child.0) {
            // A signal that was let through is deadly in a moment.
            Some(false) if allowed => child.0.wait().is_ok(),
            Some(suffered) => suffered,
            None => allowed,
        }
    })
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Segment {
    pub key: i32,
    id: i32,
}

impl Segment {
    pub fn make() -> Self {
        static NEXT: AtomicI32 = AtomicI32::new(0);
        let own = i32::try_from(std::process::id()).unwrap();
        let key = (own << 8) | NEXT.fetch_add(1, Ordering::Relaxed);
        Self { key, id: probe::share_memory(key).unwrap() }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        probe::unshare_memory(self.id);
    }
}

/// A listener of the host's, to be connected by this call.
pub fn unconnected(call: &str) -> Aim {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    Aim::judged(format!("{call} {port}"), move |_| listener.accept().is_ok())
}

/// A Unix socket without a file, of the kind that the probe asks for.
pub fn named_socket(name: &str, kind: SocketType) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap()).unwrap();
    socket
}

/// The cgroup controllers that cells have on this host.
pub fn controllers() -> String {
    fs::read_to_string(Launcher::start().cgroup.join("cgroup.subtree_control")).unwrap()
}

/// Whether what this process starts may open so many files; as root it may raise its limit.
pub fn may_open(files: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { maximum: Some(files), ..limit };
    limit.maximum.is_none_or(|hard| hard >= files) || setrlimit(Resource::Nofile, raised).is_ok()
}

/// Bytes of memory that the processes of a cgroup have each to itself.
pub fn private_memory(cgroup: &Path) -> u64 {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    // One that has ended meanwhile has none.
    let maps =
        processes.lines().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok());
    let private = |line: &str| line.strip_prefix("Private_Dirty:")?.trim().strip_suffix(" kB")?.parse().ok();
    let kib: u64 = maps.flat_map(|map| map.lines().filter_map(private).collect::<Vec<u64>>()).sum();
    kib << 10
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn cpus() -> usize {
    std::thread::available_parallelism().unwrap().get()
}
