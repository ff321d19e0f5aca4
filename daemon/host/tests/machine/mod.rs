//! A launcher with its cells, as one instance has them, for the tests of what the daemon does with it.
#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![allow(dead_code, reason = "each test binary uses its part")]

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, recv, socket_with, sockopt,
};
use rustix::process::Pid;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use turnout_host::HostError;
use turnout_host::cells::{Class, Profile};
use turnout_host::linux_cells::{CellsConfig, LinuxCells};
use turnout_host::store::StoredName;
use turnout_launcher_wire::{MESSAGE_SIZE, Request, WIRE_VERSION};
use turnout_manifest::{Generation, Sha256};

const PREFIX: &str = "turnout-cells-test-";
pub const PROFILE: Profile = Profile {
    class: Class::Burstable,
    memory_bytes: 64 << 20,
    pids_max: 16,
    cpus: 0,
    cpu_thousandths: 0,
    tenant: 0,
};
pub const FIRST: Generation = Generation(3);
pub const SECOND: Generation = Generation(8);

/// A machine as one instance sees it; dropped, its launcher and cgroup are gone.
pub struct Machine {
    pub config: CellsConfig,
    model: PathBuf,
    pub directory: TempDir,
}

impl Machine {
    pub fn new() -> Self {
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
        Self { config, model, directory }
    }

    pub fn open(&self) -> LinuxCells {
        LinuxCells::open(self.config.clone(), self.mount()).unwrap()
    }

    pub fn mount(&self) -> turnout_host::linux_cells::ModelMount {
        let model = self.model.clone();
        Arc::new(move |name| {
            if name.model.as_str() != "known" {
                return Err(HostError::Missing { kind: "version", name: name.model.to_string() });
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, &model, flags).map_err(HostError::os("open_tree", model.display()))
        })
    }

    pub fn version(&self, model: &str) -> StoredName {
        StoredName { model: model.parse().unwrap(), digest: Sha256::of(b"") }
    }

    pub fn launcher(&self) -> Pid {
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

pub fn connection(path: &Path) -> rustix::io::Result<OwnedFd> {
    use rustix::net::connect;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?).map(|()| socket)
}

pub fn hear(link: &OwnedFd) -> String {
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
        remove(&entry.path());
    }
    let _ = fs::remove_dir(cgroup);
}
