//! The state of the fake host, and the rules that a real kernel, store and launcher hold calls to.

use crate::HostError;
use crate::archive::Inside;
use crate::cells::{Class, Enforcement, Profile, StartedWorker, Tenant, WorkerLink, WorkerState};
use crate::devices::DevicePath;
use crate::store::{Evidence, Held, ImportOutcome, Incoming, SnapshotInfo, StoredName};
use crate::traffic::{Route, Sample, Spread};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::{Generation, ModelName, Percent, SetName, Sha256};

/// Cells there can be at one time, as the launcher and the eBPF maps have them.
const SLOTS: usize = turnout_launcher_wire::SLOTS as usize;
/// Buckets of a latency histogram.
const BUCKETS: usize = turnout_ebpf_layout::histogram::BUCKETS as usize;

/// A stored version.
#[derive(Debug, Clone)]
pub(super) struct StoredVersion {
    pub(super) envelope: Vec<u8>,
    files: BTreeMap<String, Vec<u8>>,
}

/// A cell and its worker.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    pub(super) worker: WorkerState,
    pub(super) profile: Profile,
    /// What its worker has mounted as its model.
    pub(super) model: Option<StoredName>,
    /// What it may open.
    pub(super) devices: Vec<DevicePath>,
    /// For how long it was put behind the others, each time.
    pub(super) behind: Vec<Duration>,
}

impl Cell {
    fn holds_cpus(&self) -> bool {
        self.profile.class == Class::Guaranteed && self.may_run()
    }

    fn may_run(&self) -> bool {
        matches!(self.worker, WorkerState::None | WorkerState::Running)
    }
}

/// Everything that a daemon finds and leaves.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) versions: BTreeMap<StoredName, StoredVersion>,
    pub(super) verity: bool,
    pub(super) checked: BTreeMap<StoredName, Held>,
    pub(super) snapshots: Vec<SnapshotInfo>,
    pub(super) kept: BTreeMap<String, Inside>,
    pub(super) mounts: BTreeMap<PathBuf, String>,
    pub(super) store_bytes: Option<u64>,
    pub(super) pointers: BTreeMap<ModelName, StoredName>,
    pub(super) sets: BTreeMap<SetName, BTreeMap<ModelName, StoredName>>,
    pub(super) cells: BTreeMap<Generation, Cell>,
    pub(super) occupied: BTreeSet<SocketAddr>,
    pub(super) admitted: BTreeMap<Generation, u16>,
    pub(super) routes: BTreeMap<u16, Route>,
    pub(super) samples: BTreeMap<Generation, Sample>,
    pub(super) claims: BTreeSet<SocketAddr>,
    pub(super) router: bool,
    pub(super) router_admitted: bool,
    pub(super) links: BTreeMap<Generation, Arc<Link>>,
    pub(super) enforcement: Enforcement,
    pub(super) tenants: BTreeMap<u32, Tenant>,
    pub(super) devices: BTreeSet<String>,
}

impl Default for Machine {
    /// Empty, on a kernel that can enforce everything.
    fn default() -> Self {
        Self {
            versions: BTreeMap::new(),
            verity: false,
            checked: BTreeMap::new(),
            snapshots: Vec::new(),
            pointers: BTreeMap::new(),
            sets: BTreeMap::new(),
            cells: BTreeMap::new(),
            occupied: BTreeSet::new(),
            admitted: BTreeMap::new(),
            routes: BTreeMap::new(),
            samples: BTreeMap::new(),
            claims: BTreeSet::new(),
            router: false,
            router_admitted: false,
            kept: BTreeMap::new(),
            mounts: BTreeMap::new(),
            store_bytes: None,
            links: BTreeMap::new(),
            enforcement: Enforcement { landlock: 7, shortfall: 0 },
            tenants: BTreeMap::new(),
            devices: BTreeSet::new(),
        }
    }
}

/// Real descriptors for a worker that a test plays.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    /// In place of a pidfd: readable once the other end, which is the worker's life, is closed.
    end: OwnedFd,
    life: Mutex<Option<OwnedFd>>,
}

impl Link {
    /// A link, and the worker's end of it.
    pub(super) fn new() -> Result<(Self, OwnedFd), Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let (end, life) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok((Self { socket, end, life: Mutex::new(Some(life)) }, theirs))
    }

    pub(super) fn descriptors(&self) -> io::Result<WorkerLink> {
        Ok(WorkerLink { link: self.socket.try_clone()?, pidfd: self.end.try_clone()? })
    }
}

impl Machine {
    pub(super) fn import(&mut self, incoming: &Incoming<'_>, files: Vec<Vec<u8>>) -> ImportOutcome {
        if self.versions.contains_key(&incoming.name) {
            return ImportOutcome::AlreadyThere;
        }
        let files = incoming.files.iter().map(|entry| entry.path.clone()).zip(files).collect();
        let stored = StoredVersion { envelope: incoming.envelope.to_vec(), files };
        self.versions.insert(incoming.name.clone(), stored);
        ImportOutcome::Stored
    }

    pub(super) fn version(&self, name: &StoredName) -> Result<&StoredVersion, HostError> {
        let missing = || HostError::Missing { kind: "version", name: name.to_string() };
        self.versions.get(name).ok_or_else(missing)
    }

    pub(super) fn verify(&self, name: &StoredName, files: &[FileEntry]) -> Result<(), HostError> {
        let stored = self.version(name)?;
        let surplus = stored.files.keys().find(|path| files.iter().all(|entry| entry.path != **path));
        if let Some(path) = surplus {
            return Err(differs(path, "it is not in the manifest"));
        }
        for entry in files {
            let content =
                stored.files.get(&entry.path).ok_or_else(|| differs(&entry.path, "it is not there"))?;
            check_content(entry, content)?;
        }
        Ok(())
    }

    /// As a measure of Merkle roots: it changes with any byte.
    pub(super) fn measure(
        &self,
        name: &StoredName,
        files: &[FileEntry],
    ) -> Result<Option<Sha256>, HostError> {
        let stored = self.version(name)?;
        let contents = files.iter().filter_map(|entry| stored.files.get(&entry.path));
        let digests: Vec<u8> = contents.flat_map(|content| Sha256::of(content).0).collect();
        Ok(self.verity.then(|| Sha256::of(&digests)))
    }

    pub(super) fn check(
        &mut self,
        name: &StoredName,
        files: &[FileEntry],
        measured: Option<Sha256>,
    ) -> Result<Held, HostError> {
        let held = match measured {
            Some(measured) if self.measure(name, files)? == Some(measured) => Held::ByKernel,
            _ => self.verify(name, files).map(|()| Held::ByReading)?,
        };
        self.checked.insert(name.clone(), held);
        Ok(held)
    }

    pub(super) fn damage(&mut self, name: &StoredName, path: &str) {
        let file = self.versions.get_mut(name).and_then(|stored| stored.files.get_mut(path));
        if let Some(byte) = file.and_then(|content| content.first_mut()) {
            *byte ^= 1;
        }
    }

    pub(super) fn snapshot(&mut self, name: &str, evidence: &Evidence) -> Result<SnapshotInfo, HostError> {
        if let Some(made) = self.snapshots.iter().find(|made| made.name == name) {
            return Ok(made.clone());
        }
        std::fs::read_dir(&evidence.journal).map_err(HostError::os("readdir", evidence.journal.display()))?;
        let mut inside = Inside::default();
        for version in &evidence.versions {
            inside.versions.insert(version.clone(), self.version(version)?.envelope.clone());
        }
        let documents = evidence.documents.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone()));
        inside.documents.extend(documents);
        self.kept.insert(name.to_owned(), inside);
        let ordinal = self.snapshots.len() as u64;
        let made = SnapshotInfo {
            name: name.to_owned(),
            path: format!("/audit/{name}").into(),
            created_ms: ordinal,
            uuid: format!("{ordinal:032x}"),
        };
        self.snapshots.push(made.clone());
        Ok(made)
    }

    pub(super) fn exclusive_cpus(&self) -> Vec<(Generation, u64)> {
        let holders = self.cells.iter().filter(|(_, cell)| cell.holds_cpus());
        holders.map(|(generation, cell)| (*generation, cell.profile.cpus)).collect()
    }

    pub(super) fn create_cell(&mut self, generation: Generation, profile: Profile) -> Result<(), HostError> {
        if self.cells.contains_key(&generation) {
            return Ok(());
        }
        if profile.memory_bytes == 0 || profile.pids_max == 0 {
            return Err(launcher("limits are not possible", generation));
        }
        let taken = |(_, cpus): &(Generation, u64)| cpus & profile.cpus != 0;
        let guaranteed = profile.class == Class::Guaranteed;
        if guaranteed && (profile.cpus == 0 || self.exclusive_cpus().iter().any(taken)) {
            return Err(launcher("CPUs are not its own", generation));
        }
        self.has_room(generation, profile.tenant)?;
        if self.cells.len() >= SLOTS {
            return Err(launcher("no slot is free", generation));
        }
        self.cells.insert(
            generation,
            Cell { worker: WorkerState::None, profile, model: None, devices: Vec::new(), behind: Vec::new() },
        );
        Ok(())
    }

    fn has_room(&self, generation: Generation, tenant: u32) -> Result<(), HostError> {
        if tenant == 0 {
            return Ok(());
        }
        let known = self.tenants.get(&tenant).ok_or_else(|| launcher("no such tenant", generation))?;
        let in_use = |cell: &&Cell| cell.profile.tenant == tenant && cell.may_run();
        let cells = self.cells.values().filter(in_use).count();
        if known.cells_max != 0 && cells >= known.cells_max as usize {
            return Err(launcher("the tenant's cells are taken", generation));
        }
        Ok(())
    }

    pub(super) fn set_tenant(&mut self, tenant: &Tenant) {
        self.tenants.insert(tenant.uid_base, *tenant);
    }

    pub(super) fn find_device(&self, path: &DevicePath) -> Result<(), HostError> {
        let missing = || HostError::Missing { kind: "device", name: path.as_str().to_owned() };
        self.devices.contains(path.as_str()).then_some(()).ok_or_else(missing)
    }

    pub(super) fn grant_devices(
        &mut self,
        generation: Generation,
        devices: &[DevicePath],
    ) -> Result<(), HostError> {
        devices.iter().try_for_each(|path| self.find_device(path))?;
        let cell = self.cells.get_mut(&generation).ok_or_else(|| launcher("no such cell", generation))?;
        cell.devices = devices.to_vec();
        Ok(())
    }

    pub(super) fn start_worker(
        &mut self,
        generation: Generation,
        version: &StoredName,
    ) -> Result<StartedWorker, HostError> {
        self.version(version)?;
        if self.checked.remove(version).is_none() {
            return Err(HostError::Missing { kind: "checked version", name: version.to_string() });
        }
        let cell = self.cells.get_mut(&generation).ok_or_else(|| launcher("no such cell", generation))?;
        if cell.worker != WorkerState::Running {
            cell.worker = WorkerState::Running;
            cell.model = Some(version.clone());
        }
        Ok(StartedWorker { pid: 1000 + generation.0, enforcement: self.enforcement })
    }

    pub(super) fn background(&mut self, generation: Generation, time: Duration) -> Result<(), HostError> {
        let known = self.cells.get_mut(&generation).map(|cell| cell.behind.push(time));
        known.ok_or_else(|| launcher("no such cell", generation))
    }

    pub(super) fn swap_model(
        &mut self,
        generation: Generation,
        version: &StoredName,
    ) -> Result<(), HostError> {
        self.version(version)?;
        if !self.runs(generation) {
            return Err(launcher("model not swapped", generation));
        }
        let cell = self.cells.get_mut(&generation).ok_or_else(|| launcher("no such cell", generation))?;
        cell.model = Some(version.clone());
        Ok(())
    }

    /// The listener goes with its process, and the kernel takes a closed socket out of its maps.
    pub(super) fn end_worker(&mut self, generation: Generation, state: WorkerState) {
        if let Some(cell) = self.cells.get_mut(&generation).filter(|cell| cell.worker == WorkerState::Running)
        {
            cell.worker = state;
            self.admitted.remove(&generation);
            if let Some(link) = self.links.get(&generation) {
                link.life.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        }
    }

    /// The kernel takes its listener out of the maps with it.
    pub(super) fn end_router(&mut self) {
        self.router = false;
        self.router_admitted = false;
    }

    pub(super) fn endpoint(&self, generation: Generation) -> Result<SocketAddr, HostError> {
        if !self.runs(generation) {
            return Err(HostError::Missing { kind: "worker", name: generation.to_string() });
        }
        let port = u16::try_from(40_000 + generation.0 % 20_000).unwrap_or(u16::MAX);
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    pub(super) fn destroy_cell(&mut self, generation: Generation) -> Result<(), HostError> {
        if self.runs(generation) {
            return Err(launcher("cell is not empty", generation));
        }
        self.cells.remove(&generation);
        self.samples.remove(&generation);
        Ok(())
    }

    pub(super) fn runs(&self, generation: Generation) -> bool {
        self.cells.get(&generation).is_some_and(|cell| cell.worker == WorkerState::Running)
    }

    pub(super) fn claim(&mut self, addresses: &[SocketAddr]) -> Result<(), HostError> {
        port_of(addresses)?;
        for address in addresses {
            if self.occupied.contains(address) && !self.claims.contains(address) {
                return Err(HostError::AddressInUse { address: address.to_string() });
            }
            self.claims.insert(*address);
        }
        Ok(())
    }

    pub(super) fn admit(&mut self, generation: Generation, port: u16) -> Result<(), HostError> {
        if !self.cells.contains_key(&generation) {
            return Err(HostError::Missing { kind: "cell", name: generation.to_string() });
        }
        if !self.runs(generation) {
            return Err(HostError::Missing { kind: "worker", name: generation.to_string() });
        }
        if self.admitted.insert(generation, port).is_none() {
            self.samples.insert(generation, nothing_seen());
        }
        Ok(())
    }

    /// Stricter than the kernel, which would let the other arms take what a dead one cannot: no decision of the daemon
    /// may come to this.
    pub(super) fn set_route(&mut self, addresses: &[SocketAddr], route: &Route) -> Result<(), HostError> {
        let port = port_of(addresses)?;
        let total: u32 = route.arms.iter().map(|(_, percent)| percent.thousandths()).sum();
        if total != Percent::ALL.thousandths() {
            return Err(unfit("route", format!("shares add up to {total} thousandths")));
        }
        if let Some(wrong) = self.wrong_arms(port, route).first() {
            return Err(HostError::Missing { kind: "admitted worker", name: wrong.clone() });
        }
        if route.spread == Spread::Router && !self.router_admitted {
            return Err(HostError::Missing { kind: "router", name: String::new() });
        }
        self.routes.insert(port, route.clone());
        Ok(())
    }

    pub(super) fn route(&self, port: u16) -> Option<Route> {
        let mut route = self.routes.get(&port)?.clone();
        route.arms.retain(|(generation, _)| self.cells.contains_key(generation));
        Some(route)
    }

    pub(super) fn misrouted(&self) -> Vec<String> {
        self.routes.iter().flat_map(|(port, route)| self.wrong_arms(*port, route)).collect()
    }

    fn wrong_arms(&self, port: u16, route: &Route) -> Vec<String> {
        let serves = |generation| self.admitted.get(&generation) == Some(&port) && self.runs(generation);
        let wrong = route.arms.iter().filter(|(generation, _)| !serves(*generation));
        wrong.map(|(generation, percent)| format!("{generation} with {percent} of port {port}")).collect()
    }

    pub(super) fn sample(&self, generation: Generation) -> Result<Sample, HostError> {
        if !self.cells.contains_key(&generation) {
            return Err(HostError::Missing { kind: "cell", name: generation.to_string() });
        }
        Ok(self.samples.get(&generation).cloned().unwrap_or_else(nothing_seen))
    }

    pub(super) fn reboot(&mut self) {
        self.pointers.clear();
        self.sets.clear();
        self.mounts.clear();
        self.cells.clear();
        self.claims.clear();
        self.admitted.clear();
        self.routes.clear();
        self.samples.clear();
        self.tenants.clear();
        self.end_router();
    }
}

/// Reads exactly the declared bytes of each file and compares their digests.
pub(super) fn read_files(files: &[FileEntry], content: &mut dyn Read) -> Result<Vec<Vec<u8>>, HostError> {
    let mut contents = Vec::new();
    for entry in files {
        let mut bytes = Vec::new();
        content.take(entry.size).read_to_end(&mut bytes).map_err(HostError::os("read", &entry.path))?;
        check_content(entry, &bytes)?;
        contents.push(bytes);
    }
    match content.read(&mut [0; 1]).map_err(HostError::os("read", "bundle"))? {
        0 => Ok(contents),
        _ => Err(differs("bundle", "bytes follow after the last file")),
    }
}

pub(super) fn port_of(addresses: &[SocketAddr]) -> Result<u16, HostError> {
    match addresses {
        [first, rest @ ..] if rest.iter().all(|address| address.port() == first.port()) => Ok(first.port()),
        _ => Err(unfit("addresses", "they must be at least one and share a port".to_owned())),
    }
}

fn check_content(entry: &FileEntry, content: &[u8]) -> Result<(), HostError> {
    if content.len() as u64 != entry.size {
        return Err(differs(&entry.path, &format!("{} bytes expected, {} found", entry.size, content.len())));
    }
    let found = Sha256::of(content);
    if found != entry.sha256 {
        return Err(differs(&entry.path, &format!("{} expected, {found} found", entry.sha256)));
    }
    Ok(())
}

fn differs(path: &str, what: &str) -> HostError {
    HostError::Content { path: path.to_owned(), what: what.to_owned() }
}

fn launcher(failure: &str, generation: Generation) -> HostError {
    HostError::Launcher { failure: failure.to_owned(), detail: generation.to_string(), source: None }
}

fn unfit(object: &str, why: String) -> HostError {
    HostError::os("set route", object)(io::Error::new(ErrorKind::InvalidInput, why))
}

fn nothing_seen() -> Sample {
    Sample {
        requests: 0,
        success: 0,
        client_errors: 0,
        server_errors: 0,
        not_http: 0,
        aborted: 0,
        client_gone: 0,
        opened: 0,
        closed: 0,
        latencies: vec![0; BUCKETS],
    }
}
