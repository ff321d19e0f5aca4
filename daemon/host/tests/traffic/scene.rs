//! What a test stands on: namespaces of its own, a cgroup below the host's cgroup2 tree, workers in cells, clients.

use crate::worker;
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::sendto;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, send, socket_with, sockopt,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use turnout_ebpf_layout::SLOTS;
use turnout_host::HostError;
use turnout_host::steering::{LinuxTraffic, TrafficConfig};
use turnout_host::traffic::Spread;
use turnout_host::traffic::{Occupants, Probes, Route, Sample, Traffic};
use turnout_manifest::{Generation, Percent};

/// The public port of every test: each has a network of its own.
pub const PORT: u16 = 8700;
/// Longest time anything here may take.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// The old and the new version.
pub const STABLE: Generation = Generation(1);
pub const CANDIDATE: Generation = Generation(2);
/// The router among the cells.
pub const ROUTER: Generation = Generation(turnout_launcher_wire::ROUTER_CELL);
const PREFIX: &str = "turnout-test-traffic-";

/// A place of its own for one test. Its mounts, links and network end with the test's thread.
pub struct Scene {
    pub config: TrafficConfig,
    pub occupants: Arc<Workers>,
    cells: BTreeMap<Generation, Cell>,
    _directory: tempfile::TempDir,
}

struct Cell {
    child: Child,
    cgroup: PathBuf,
}

impl Scene {
    pub fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("these tests need root");
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        loopback_up();
        let directory = tempfile::tempdir().unwrap();
        let config = TrafficConfig { pin_directory: directory.path().join("bpf"), cgroup: new_cgroup() };
        Self { config, occupants: Arc::default(), cells: BTreeMap::new(), _directory: directory }
    }

    /// The same, with every client on one CPU, whose queue keeps the order of what they send. On several, a client that is
    /// woken on another one may send its request past its own acknowledgement of the handshake: the listener gets both as
    /// one, knows of the request with its answer alone, and never when it came.
    pub fn in_order() -> Self {
        let mut one = CpuSet::new();
        one.set(sched_getcpu());
        sched_setaffinity(None, &one).unwrap();
        Self::new()
    }

    pub fn open(&self) -> LinuxTraffic {
        LinuxTraffic::open(&self.config, self.occupants.clone()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Steering with a stable and a candidate worker, admitted, and this share for the candidate.
    pub fn pair(&mut self, spread: Spread, candidate: u32) -> LinuxTraffic {
        let traffic = self.open();
        self.start(STABLE, "stable", "127.0.0.1:0");
        self.start(CANDIDATE, "candidate", "127.0.0.1:0");
        for generation in [STABLE, CANDIDATE] {
            traffic.admit(generation, PORT).unwrap();
        }
        traffic.set_route(&[public()], &split(spread, candidate)).unwrap();
        traffic
    }

    /// Steering with one worker that has everything.
    pub fn single(&mut self, listener: &str) -> LinuxTraffic {
        let traffic = self.open();
        self.start(STABLE, "stable", listener);
        traffic.admit(STABLE, PORT).unwrap();
        let route = Route { spread: Spread::Weight, salt: 1, arms: vec![(STABLE, Percent::ALL)] };
        traffic.set_route(&["[::]:8700".parse().unwrap()], &route).unwrap();
        traffic
    }

    /// Starts a worker process inside a cell of its own, and waits until it listens.
    pub fn start(&mut self, generation: Generation, name: &str, listener: &str) {
        let cgroup = self.config.cgroup.join(generation.to_string());
        fs::create_dir(&cgroup).unwrap();
        let mut child = Command::new("sh")
            .args(["-c", r#"echo $$ > "$1/cgroup.procs" && exec 3>&- && shift && exec "$@""#, "sh"])
            .arg(&cgroup)
            .arg(std::env::current_exe().unwrap())
            // Alone: beside others, a test that takes a minute is announced on the pipe that nobody reads any more.
            .args(["--exact", "worker::process", "--ignored", "--nocapture", "--test-threads=1"])
            .env(worker::NAME, name)
            .env(worker::ADDRESS, listener)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == worker::READY), "the worker does not listen");
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        // The first and the last slot, where reading a slot's counts could miss its neighbours.
        let slot = match generation {
            STABLE => 0,
            ROUTER => 7,
            _ => SLOTS - 1,
        };
        self.occupants.0.lock().unwrap().insert(generation, (slot, pidfd));
        self.cells.insert(generation, Cell { child, cgroup });
    }

    /// Ends a worker's life and starts another in its slot.
    pub fn replace(&mut self, generation: Generation, listener: &str) {
        self.kill(generation);
        remove_cgroup(&self.cells[&generation].cgroup);
        self.start(generation, "next", listener);
    }

    /// Kills a worker and waits for its end.
    pub fn kill(&mut self, generation: Generation) {
        let cell = self.cells.get_mut(&generation).unwrap();
        cell.child.kill().unwrap();
        cell.child.wait().unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for cell in self.cells.values_mut() {
            // It may have ended already, which is as good.
            let _ = cell.child.kill();
            let _ = cell.child.wait();
            remove_cgroup(&cell.cgroup);
        }
        remove_cgroup(&self.config.cgroup);
    }
}

/// Generation -> slot and worker.
#[derive(Default)]
pub struct Workers(Mutex<BTreeMap<Generation, (u32, OwnedFd)>>);

impl Occupants for Workers {
    fn slot(&self, generation: Generation) -> Result<Option<u32>, HostError> {
        Ok(self.0.lock().unwrap().get(&generation).map(|(slot, _)| *slot))
    }

    fn generation(&self, slot: u32) -> Result<Option<Generation>, HostError> {
        let workers = self.0.lock().unwrap();
        Ok(workers.iter().find(|(_, (own, _))| *own == slot).map(|(generation, _)| *generation))
    }

    fn worker_pidfd(&self, generation: Generation) -> Result<Option<OwnedFd>, HostError> {
        Ok(self.0.lock().unwrap().get(&generation).map(|(_, pidfd)| pidfd.try_clone().unwrap()))
    }
}

pub fn public() -> SocketAddr {
    ([127, 0, 0, 1], PORT).into()
}

/// A split with this share, in thousandths of a percent, for the candidate.
pub fn split(spread: Spread, candidate: u32) -> Route {
    let share = Percent::from_thousandths(candidate).unwrap();
    Route { spread, salt: 0x5eed, arms: vec![(CANDIDATE, share), (STABLE, share.rest())] }
}

/// A connection from this client address.
pub fn connect_from(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    bind(&socket, &SocketAddr::new(source, 0))?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// Asks within the handshake of a new connection (TCP Fast Open).
pub fn ask_with_handshake(to: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    const MSG_FASTOPEN: SendFlags = SendFlags::from_bits_retain(0x2000_0000);
    let kind = (SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = socket_with(AddressFamily::INET, kind.0, kind.1, Some(ipproto::TCP))?;
    sendto(&socket, format!("GET /{path} HTTP/1.1\r\n\r\n").as_bytes(), MSG_FASTOPEN, &to)?;
    answer(&mut TcpStream::from(socket))
}

/// Asks on a new connection, which then vanishes without a trace (reset), so that ports do not run out.
pub fn ask_once(to: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(to)?;
    let answer = ask(&mut stream, path);
    drop_with_reset(stream);
    answer
}

pub fn drop_with_reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Asks and reads the whole answer: its status and body.
pub fn ask(stream: &mut TcpStream, path: &str) -> io::Result<(u16, String)> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())?;
    answer(stream)
}

/// Reads an answer.
pub fn answer(stream: &mut TcpStream) -> io::Result<(u16, String)> {
    let Some(head) = worker::read_head(stream)? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    let body = worker::read_body(stream, &head)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.unwrap_or(0), String::from_utf8(body).unwrap()))
}

/// Reads samples of the stable version until one pleases: packets that end a connection come after the client has gone on.
pub fn sample_when(traffic: &LinuxTraffic, pleases: impl Fn(&Sample) -> bool) -> Sample {
    sample_of_when(traffic, STABLE, pleases)
}

/// The same of any version.
pub fn sample_of_when(
    traffic: &LinuxTraffic,
    generation: Generation,
    pleases: impl Fn(&Sample) -> bool,
) -> Sample {
    let began = Instant::now();
    loop {
        let sample = traffic.sample(generation).unwrap();
        if pleases(&sample) {
            return sample;
        }
        assert!(began.elapsed() < DEADLINE, "never came: {:?}", Sample { latencies: vec![], ..sample });
        std::thread::yield_now();
    }
}

/// Brings up the loopback device of a new network namespace, whose index is always 1 (rtnetlink(7), RTM_NEWLINK).
fn loopback_up() {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    let words: [u32; 8] = [32, 16 | 1 << 16, 1, 0, 0, 1, 1, 1];
    let message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    send(&socket, &message, SendFlags::empty()).unwrap();
}

fn new_cgroup() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let tree = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let tree = Path::new(tree.expect("these tests need cgroup2").split(' ').nth(1).unwrap()).to_owned();
    remove_leftovers(&tree);
    let cgroup =
        tree.join(format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&cgroup).unwrap();
    cgroup
}

/// Removes what a killed run has left.
fn remove_leftovers(tree: &Path) {
    for entry in fs::read_dir(tree).unwrap().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(owner) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(owner).exists() {
            for cell in fs::read_dir(entry.path()).into_iter().flatten().filter_map(Result::ok) {
                let _ = fs::write(cell.path().join("cgroup.kill"), "1");
                let _ = fs::remove_dir(cell.path());
            }
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Removes a cgroup, which is busy until the kernel has reaped its last process.
fn remove_cgroup(cgroup: &Path) {
    let began = Instant::now();
    while fs::remove_dir(cgroup).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
        assert!(began.elapsed() < DEADLINE, "{} stays busy", cgroup.display());
        std::thread::yield_now();
    }
}
