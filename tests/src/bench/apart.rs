//! A place apart for what is measured without a daemon: a network and mounts of its own, the launcher, and workers in
//! real cells. Ended and cleared when dropped, also by the next run.

use crate::daemon::{clear, fresh_place};
use crate::models;
use crate::remains::Remains;
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, getsockname, send, socket_with};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use turnout_host::cells::{Cells, Class, Profile, StartedWorker};
use turnout_host::linux_cells::{CellsConfig, LinuxCells};
use turnout_host::mounts::detached_tree;
use turnout_host::store::StoredName;
use turnout_manifest::{Generation, Sha256};
use turnout_protocol::frame;
use turnout_protocol::worker::{Assignment, FromWorker, LISTENER_FD, ToWorker};

/// First user id of its workers.
const WORKER_UIDS: u32 = 70_000;
/// Where those of a launcher beside begin, after them.
const UIDS_BESIDE: u32 = 500;
/// Longest wait for a worker's word.
const DEADLINE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };
/// What its cells may use.
pub const PROFILE: Profile = Profile {
    class: Class::Burstable,
    memory_bytes: 1 << 30,
    pids_max: 64,
    cpus: 0,
    cpu_thousandths: 0,
    tenant: 0,
};

/// Runs `work` on a thread with a network and mounts of its own, in a fresh folder and cgroup of this name; what it
/// starts lives in them too. Afterwards, or by the next run, all of it is cleared.
///
/// # Errors
/// The kernel's own, or what `work` returns.
pub fn apart<Outcome: Send>(
    name: &str,
    work: impl FnOnce(&Remains) -> Result<Outcome> + Send,
) -> Result<Outcome> {
    let remains = fresh_place(name)?;
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("cannot make namespaces")?;
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
        loopback_up()?;
        work(&remains)
    };
    let outcome = std::thread::scope(|scope| match scope.spawn(body).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    });
    // From outside: the mounts have gone with the thread.
    let cleared = clear(&remains);
    outcome.and_then(|outcome| cleared.map(|()| outcome))
}

/// Where a worker listens itself.
///
/// # Errors
/// The kernel's own.
pub fn listener_of(worker: &OwnedFd) -> Result<SocketAddr> {
    let listener = pidfd_getfd(worker, LISTENER_FD, PidfdGetfdFlags::empty())?;
    let bound: SocketAddr = getsockname(&listener)?.try_into()?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port())))
}

/// Brings up the loopback device of a new network namespace, whose index is always 1 (rtnetlink(7), RTM_NEWLINK).
fn loopback_up() -> Result<()> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let words: [u32; 8] = [32, 16 | 1 << 16, 1, 0, 0, 1, 1, 1];
    let message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    send(&socket, &message, SendFlags::empty()).map(drop).context("cannot bring up the loopback device")
}

/// The launcher with its cells. To be opened within [`apart`]; dropping it ends them.
pub struct Place<'a> {
    /// The cells.
    pub cells: Arc<LinuxCells>,
    config: CellsConfig,
    remains: &'a Remains,
}

/// A worker that serves `digits`.
pub struct Worker {
    /// Its cell.
    pub generation: Generation,
    /// Its process id.
    pub pid: i32,
    /// Its own listener, where nothing steers.
    pub address: SocketAddr,
    /// The link: closed, the worker ends.
    _link: OwnedFd,
}

impl<'a> Place<'a> {
    /// Starts the launcher.
    ///
    /// # Errors
    /// When it does not start.
    pub fn open(remains: &'a Remains, programs: &Path, onnxruntime: &Path) -> Result<Self> {
        let config = CellsConfig {
            socket: remains.folder.join("launcher.sock"),
            launcher: programs.join("turnout-launcher"),
            unit: None,
            cgroup: remains.cgroup.clone(),
            worker: programs.join("turnout-worker"),
            onnxruntime: onnxruntime.to_owned(),
            uid_base: WORKER_UIDS,
            cell_log: Some(remains.folder.join("cells.log")),
        };
        Self::with(remains, config)
    }

    /// Another launcher beside this one, whose workers are another program.
    ///
    /// # Errors
    /// When it does not start.
    pub fn beside(&self, worker: &Path) -> Result<Self> {
        let config = CellsConfig {
            socket: self.remains.folder.join("launcher-beside.sock"),
            cgroup: self.remains.cgroup.join("beside"),
            worker: worker.to_owned(),
            uid_base: self.config.uid_base + UIDS_BESIDE,
            cell_log: Some(self.remains.folder.join("cells-beside.log")),
            ..self.config.clone()
        };
        Self::with(self.remains, config)
    }

    fn with(remains: &'a Remains, config: CellsConfig) -> Result<Self> {
        let model = models::file("digits", models::FIRST);
        let files = model.parent().context("the model lies in no folder")?.to_owned();
        let cells = LinuxCells::open(config.clone(), Arc::new(move |_| detached_tree(&files)))?;
        Ok(Self { cells: Arc::new(cells), config, remains })
    }

    /// The cgroup below which the cells lie.
    pub fn cgroup(&self) -> &Path {
        &self.remains.cgroup
    }

    /// A folder for the pins of programs.
    pub fn pins(&self) -> PathBuf {
        self.remains.folder.join("bpf")
    }

    /// Makes a cell, starts a worker in it, gives it `digits` and waits until it is ready.
    ///
    /// # Errors
    /// When it does not get ready, with its reason.
    pub fn serve(&self, generation: Generation) -> Result<Worker> {
        self.serve_in(generation, PROFILE)
    }

    /// The same, in a cell of this profile.
    ///
    /// # Errors
    /// When it does not get ready, with its reason.
    pub fn serve_in(&self, generation: Generation, profile: Profile) -> Result<Worker> {
        let started = self.start(generation, profile)?;
        let linked = self.cells.link(generation)?.context("the worker has ended")?;
        ensure!(matches!(hear(&linked.link)?, FromWorker::Hello { .. }), "the worker did not say hello");
        frame::send(&linked.link, &ToWorker::Assign(Box::new(assignment()?)))?;
        match hear(&linked.link)? {
            FromWorker::Ready { .. } => {}
            other => bail!("the worker is not ready: {other:?}"),
        }
        let pid = i32::try_from(started.pid)?;
        let address = listener_of(&linked.pidfd)?;
        Ok(Worker { generation, pid, address, _link: linked.link })
    }

    /// Makes a cell and starts its program, which is told nothing.
    ///
    /// # Errors
    /// The launcher's own.
    pub fn start(&self, generation: Generation, profile: Profile) -> Result<StartedWorker> {
        let name = StoredName { model: "digits".parse()?, digest: Sha256::of(b"digits") };
        self.cells.create_cell(generation, profile)?;
        Ok(self.cells.start_worker(generation, &name)?)
    }

    /// Ends a worker and removes its cell.
    ///
    /// # Errors
    /// The launcher's own.
    pub fn end(&self, generation: Generation) -> Result<()> {
        self.cells.kill_worker(generation)?;
        Ok(self.cells.destroy_cell(generation)?)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // What it leaves is found by its cgroup and ended by force.
        drop(self.cells.shutdown());
    }
}

fn hear(link: &OwnedFd) -> Result<FromWorker> {
    let ready = poll(&mut [PollFd::new(link, PollFlags::IN)], Some(&DEADLINE))?;
    ensure!(ready == 1, "the worker says nothing for {} s", DEADLINE.tv_sec);
    Ok(frame::receive(link)?)
}

/// What a worker is told of `digits`: the contract of its manifest, one serving thread.
fn assignment() -> Result<Assignment> {
    let assignment = json!({
        "model": "digits", "version": models::FIRST, "digest": Sha256::of(b"digits").to_string(),
        "model_file": "model.onnx", "threads": 1, "assertions": [],
        "contract": {
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 64], "minimum": "0", "maximum": "16"}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            ],
        },
    });
    serde_json::from_value(assignment).context("the assignment is not as the protocol says")
}
