//! The cells through a real launcher, which these tests build and start; `examples/inside.rs` of its crate is the worker.
//! Needs root and a cgroup2 file system.
#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, recv,
    socket_with, sockopt,
};
use rustix::process::{Pid, Signal, getsid, kill_process};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use turnout_host::HostError;
use turnout_host::cells::{Cells, Class, Profile, WorkerState};
use turnout_host::linux_cells::{CellsConfig, LinuxCells};
use turnout_host::store::StoredName;
use turnout_launcher_wire::{Failure, MESSAGE_SIZE, Reply, Request, UNKNOWN, WIRE_VERSION};
use turnout_manifest::{Generation, Sha256};

const PREFIX: &str = "turnout-cells-test-";
const PROFILE: Profile = Profile { class: Class::Burstable, memory_bytes: 64 << 20, pids_max: 16, cpus: 0 };
const FIRST: Generation = Generation(3);
const SECOND: Generation = Generation(8);

#[test]
fn a_restarted_daemon_finds_the_launcher_and_its_workers_again() {
    let host = Machine::new();
    let cells = host.open();
    cells.create_cell(FIRST, PROFILE).unwrap();
    cells.create_cell(FIRST, PROFILE).unwrap();
    let started = cells.start_worker(FIRST, &host.version("known")).unwrap();
    assert_eq!(hear(&cells.link(FIRST).unwrap().unwrap().link), "hello");
    drop(cells);

    let cells = host.open();
    assert_eq!(cells.cells().unwrap(), [(FIRST, WorkerState::Running)]);
    let link = cells.link(FIRST).unwrap().unwrap().link;
    rustix::net::send(&link, b"threads 2", rustix::net::SendFlags::NOSIGNAL).unwrap();
    assert_eq!(hear(&link), "2");
    assert_eq!(cells.start_worker(FIRST, &host.version("known")).unwrap().pid, started.pid);
    // Led by itself: what ends the daemon's session leaves it alone.
    assert_eq!(getsid(Some(host.launcher())).unwrap(), host.launcher());
}

#[test]
fn slots_and_generations_are_told_both_ways() {
    let host = Machine::new();
    let cells = host.open();
    assert_eq!((cells.slot(FIRST).unwrap(), cells.generation(0).unwrap()), (None, None));
    for generation in [FIRST, SECOND] {
        cells.create_cell(generation, PROFILE).unwrap();
    }
    // A second client knows what it did not make itself.
    for view in [&cells, &host.open()] {
        assert_eq!((view.slot(FIRST).unwrap(), view.slot(SECOND).unwrap()), (Some(0), Some(1)));
        assert_eq!((view.generation(1).unwrap(), view.generation(2).unwrap()), (Some(SECOND), None));
        assert!(view.worker_pidfd(FIRST).unwrap().is_none());
    }
    cells.destroy_cell(FIRST).unwrap();
    cells.destroy_cell(FIRST).unwrap();
    assert_eq!((cells.slot(FIRST).unwrap(), cells.generation(0).unwrap()), (None, None));
}

#[test]
fn a_worker_that_ended_has_no_pidfd_and_no_link() {
    let host = Machine::new();
    let cells = host.open();
    cells.create_cell(FIRST, PROFILE).unwrap();
    cells.start_worker(FIRST, &host.version("known")).unwrap();
    assert!(cells.worker_pidfd(FIRST).unwrap().is_some());
    cells.kill_worker(FIRST).unwrap();
    cells.kill_worker(FIRST).unwrap();
    assert!(cells.worker_pidfd(FIRST).unwrap().is_none());
    assert!(cells.link(FIRST).unwrap().is_none());
    assert_eq!(cells.cells().unwrap(), [(FIRST, WorkerState::Killed(9))]);
    cells.kill_worker(SECOND).unwrap();
}

#[test]
fn a_launcher_that_was_killed_is_started_again_and_what_it_knew_is_forgotten() {
    let host = Machine::new();
    let cells = host.open();
    cells.create_cell(FIRST, PROFILE).unwrap();
    cells.create_cell(SECOND, PROFILE).unwrap();
    kill_process(host.launcher(), Signal::KILL).unwrap();
    assert_eq!(cells.cells().unwrap(), []);
    assert_eq!(cells.slot(SECOND).unwrap(), None);
    cells.create_cell(SECOND, PROFILE).unwrap();
    assert_eq!(cells.slot(SECOND).unwrap(), Some(0));
}

#[test]
fn the_model_of_a_running_worker_is_swapped_and_of_no_other() {
    let host = Machine::new();
    let (cells, known) = (host.open(), host.version("known"));
    let no_cell = cells.swap_model(FIRST, &known).unwrap_err();
    assert!(no_cell.to_string().starts_with("launcher: no such cell"), "{no_cell}");
    cells.create_cell(FIRST, PROFILE).unwrap();
    let idle = cells.swap_model(FIRST, &known).unwrap_err();
    assert_eq!(idle.to_string(), "launcher: model not swapped `no worker runs`");
    cells.start_worker(FIRST, &known).unwrap();
    cells.swap_model(FIRST, &known).unwrap();
    cells.swap_model(FIRST, &known).unwrap();
    let unknown = cells.swap_model(FIRST, &host.version("unknown"));
    assert!(matches!(unknown, Err(HostError::Missing { kind: "version", .. })), "{unknown:?}");
}

/// A launcher that was started before an upgrade, and whose list is the shorter one of that time.
#[test]
fn a_launcher_that_does_not_know_the_request_is_told_from_one_that_failed() {
    let host = Machine::new();
    let flags = SocketFlags::CLOEXEC;
    let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&host.config.socket).unwrap()).unwrap();
    listen(&listener, 1).unwrap();
    let old = std::thread::spawn(move || {
        let peer = accept(&listener).unwrap();
        for answer in [Reply::Done, Reply::failed(Failure::Request, 0, UNKNOWN)] {
            turnout_launcher_wire::receive(&peer).unwrap();
            turnout_launcher_wire::send(&peer, &answer.encode(), &[]).unwrap();
        }
    });
    let refused = host.open().swap_model(FIRST, &host.version("known")).unwrap_err();
    assert!(matches!(refused, HostError::Unsupported { .. }), "{refused:?}");
    old.join().unwrap();
}

#[test]
fn failures_name_what_failed() {
    let host = Machine::new();
    let cells = host.open();
    let unknown = cells.start_worker(FIRST, &host.version("unknown"));
    assert!(matches!(unknown, Err(HostError::Missing { kind: "version", .. })), "{unknown:?}");
    let no_cell = cells.start_worker(FIRST, &host.version("known")).unwrap_err();
    assert!(no_cell.to_string().starts_with("launcher: no such cell"), "{no_cell}");
    let no_limit = cells.create_cell(FIRST, Profile { pids_max: 0, ..PROFILE }).unwrap_err();
    assert_eq!(no_limit.to_string(), "launcher: request refused `a limit is zero`");

    let host = Machine::new();
    let absent = CellsConfig { worker: "/nowhere/turnout-worker".into(), ..host.config.clone() };
    let Err(absent) = LinuxCells::open(absent, host.mount()) else { panic!("it started without a worker") };
    assert!(absent.to_string().starts_with("launcher: did not start"), "{absent}");
}

#[test]
fn shutting_down_leaves_no_process_and_no_cgroup() {
    let host = Machine::new();
    let cells = host.open();
    cells.create_cell(FIRST, PROFILE).unwrap();
    cells.start_worker(FIRST, &host.version("known")).unwrap();
    let (launcher, worker) = (host.launcher(), cells.worker_pidfd(FIRST).unwrap().unwrap());
    cells.shutdown().unwrap();
    assert!(!host.config.cgroup.exists() && !host.config.socket.exists());
    assert!(rustix::process::test_kill_process(launcher).is_err());
    assert!(rustix::process::pidfd_send_signal(&worker, Signal::KILL).is_err());
}

/// A machine as one instance sees it; dropped, its launcher and cgroup are gone.
struct Machine {
    config: CellsConfig,
    model: PathBuf,
    _directory: TempDir,
}

impl Machine {
    fn new() -> Self {
        static TESTS: AtomicU32 = AtomicU32::new(0);
        let number = TESTS.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
        let model = directory.path().join("model");
        fs::create_dir(&model).unwrap();
        let library = directory.path().join("libonnxruntime.so");
        fs::write(&library, "not a library: no test loads it").unwrap();
        let hierarchy = cgroup2();
        remove_leftovers(&hierarchy);
        let config = CellsConfig {
            socket: directory.path().join("launcher.sock"),
            launcher: programs().join("turnout-launcher"),
            unit: None,
            cgroup: hierarchy.join(format!("{PREFIX}{}-{number}", std::process::id())),
            worker: programs().join("examples/inside"),
            onnxruntime: library,
            uid_base: 3_000_000 + (std::process::id() % 1000) * 2048 + number * 64,
            cell_log: Some(directory.path().join("cells.log")),
        };
        Self { config, model, _directory: directory }
    }

    fn open(&self) -> LinuxCells {
        LinuxCells::open(self.config.clone(), self.mount()).unwrap()
    }

    fn mount(&self) -> turnout_host::linux_cells::ModelMount {
        let model = self.model.clone();
        Arc::new(move |name| {
            if name.model.as_str() != "known" {
                return Err(HostError::Missing { kind: "version", name: name.model.to_string() });
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, &model, flags).map_err(HostError::os("open_tree", model.display()))
        })
    }

    fn version(&self, model: &str) -> StoredName {
        StoredName { model: model.parse().unwrap(), digest: Sha256::of(b"") }
    }

    fn launcher(&self) -> Pid {
        sockopt::socket_peercred(connection(&self.config.socket).unwrap()).unwrap().pid
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(connection) = connection(&self.config.socket) {
            for request in [Request::Hello { version: WIRE_VERSION }, Request::Shutdown] {
                let _ = rustix::net::send(&connection, &request.encode(), rustix::net::SendFlags::NOSIGNAL);
                let _ = recv(&connection, &mut [0; MESSAGE_SIZE], RecvFlags::empty());
            }
            // The end of the stream is the end of the launcher.
            let _ = recv(&connection, &mut [0; MESSAGE_SIZE], RecvFlags::empty());
        }
        remove(&self.config.cgroup);
    }
}

fn connection(path: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::net::connect;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?).map(|()| socket)
}

fn hear(link: &OwnedFd) -> String {
    sockopt::set_socket_timeout(link, sockopt::Timeout::Recv, Some(Duration::from_secs(30))).unwrap();
    let mut bytes = [0; 64];
    let (_, length) = recv(link, &mut bytes[..], RecvFlags::empty()).expect("the worker answers");
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Set where the programs were built beforehand, as in a booted system that has no cargo.
const PREBUILT: &str = "TURNOUT_TEST_PREBUILT";

/// The build directory, with the launcher and its test worker built: they belong to another crate.
fn programs() -> &'static Path {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let executable = std::env::current_exe().unwrap();
        let profile = executable.parent().and_then(Path::parent).unwrap();
        if std::env::var_os(PREBUILT).is_none() {
            build(profile.parent().unwrap());
        }
        profile.to_owned()
    })
}

fn build(target: &Path) {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "turnout-launcher", "--bins", "--examples", "--target-dir"]);
    assert!(build.arg(target).status().unwrap().success());
}

fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    PathBuf::from(mount.expect("these tests need a cgroup2 file system")[1])
}

/// Of runs that were killed.
fn remove_leftovers(hierarchy: &Path) {
    for entry in fs::read_dir(hierarchy).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).map(str::to_owned);
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            remove(&entry.path());
        }
    }
}

fn remove(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        let _ = fs::remove_dir(entry.path());
    }
    let _ = fs::remove_dir(cgroup);
}
