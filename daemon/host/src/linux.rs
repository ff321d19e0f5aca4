//! [`LinuxHost`]: the real machine, each noun done by the file that knows it. Opening it makes or takes over
//! everything: the store, the pointers, the launcher, the eBPF programs.

use crate::HostError;
use crate::archive::{Archive, Inside, MountPlace, Reference, ScrubFound, StoreState, Unmount};
use crate::cells::{Cells, Enforcement, Profile, Router, StartedWorker, Tenant, WorkerLink, WorkerState};
use crate::devices::{self, DevicePath, Devices};
use crate::linux_cells::{CellsConfig, LinuxCells};
use crate::linux_pointer::{LinuxPointer, PointerConfig};
use crate::meters::{self, Meters, Usage};
use crate::pointer::{Pointer, Shown};
use crate::steering::{LinuxTraffic, TrafficConfig};
use crate::store::{Evidence, Held, ImportOutcome, Incoming, SnapshotInfo, Store, StoredName};
use crate::traffic::{Occupants, Probes, Route, Sample, Traffic};
use crate::volume::{Volume, VolumeConfig};
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::{Generation, ModelName, SetName, Sha256};

/// Where everything of one daemon lies.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The store.
    pub volume: VolumeConfig,
    /// The launcher and what it starts.
    pub cells: CellsConfig,
    /// Folder of the pointers.
    pub pointers: PathBuf,
    /// Folder of the eBPF pins.
    pub pins: PathBuf,
}

/// The machine this daemon runs on.
pub struct LinuxHost {
    volume: Arc<Volume>,
    pointer: LinuxPointer,
    cells: Arc<LinuxCells>,
    traffic: LinuxTraffic,
    cgroup: PathBuf,
}

impl LinuxHost {
    /// Makes or takes over everything.
    ///
    /// # Errors
    /// The first thing that this host cannot do.
    pub fn open(config: HostConfig) -> Result<Self, HostError> {
        let volume = Arc::new(Volume::open(&config.volume)?);
        let pointer = LinuxPointer::open(&PointerConfig {
            dir: config.pointers,
            versions: volume.versions_folder(),
            method: None,
        })?;
        let cgroup = config.cells.cgroup.clone();
        let source = Arc::clone(&volume);
        let cells = LinuxCells::open(config.cells, Arc::new(move |name| source.checked_tree(name)))?;
        let cells = Arc::new(cells);
        let occupants: Arc<dyn Occupants> = cells.clone();
        let traffic = LinuxTraffic::open(
            &TrafficConfig { pin_directory: config.pins, cgroup: cgroup.clone() },
            occupants,
        )?;
        Ok(Self { volume, pointer, cells, traffic, cgroup })
    }

    /// Whether the store could be mounted only after its superblock was restored from a copy, as after a power cut.
    pub fn store_was_torn(&self) -> bool {
        self.volume.was_torn()
    }
}

impl Occupants for LinuxCells {
    fn slot(&self, generation: Generation) -> Result<Option<u32>, HostError> {
        Self::slot(self, generation)
    }

    fn generation(&self, slot: u32) -> Result<Option<Generation>, HostError> {
        Self::generation(self, slot)
    }

    fn worker_pidfd(&self, generation: Generation) -> Result<Option<OwnedFd>, HostError> {
        Self::worker_pidfd(self, generation)
    }
}

impl Store for LinuxHost {
    fn import(&self, incoming: &Incoming<'_>, content: &mut dyn Read) -> Result<ImportOutcome, HostError> {
        self.volume.import(incoming, content)
    }

    fn versions(&self) -> Result<Vec<StoredName>, HostError> {
        self.volume.versions()
    }

    fn envelope(&self, name: &StoredName) -> Result<Vec<u8>, HostError> {
        self.volume.envelope(name)
    }

    fn verify(&self, name: &StoredName, files: &[FileEntry]) -> Result<(), HostError> {
        self.volume.verify(name, files)
    }

    fn measure(&self, name: &StoredName, files: &[FileEntry]) -> Result<Option<Sha256>, HostError> {
        self.volume.measure(name, files)
    }

    fn check(
        &self,
        name: &StoredName,
        files: &[FileEntry],
        measured: Option<Sha256>,
    ) -> Result<Held, HostError> {
        self.volume.check(name, files, measured)
    }

    fn checked(&self, name: &StoredName) -> Option<Held> {
        self.volume.checked(name)
    }

    fn snapshot(&self, name: &str, evidence: &Evidence) -> Result<SnapshotInfo, HostError> {
        self.volume.snapshot(name, evidence)
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, HostError> {
        self.volume.snapshots()
    }
}

impl Archive for LinuxHost {
    fn inside(&self, snapshot: &str) -> Result<Inside, HostError> {
        self.volume.inside(snapshot)
    }

    fn files(&self, snapshot: &str) -> Result<Vec<FileEntry>, HostError> {
        self.volume.files(snapshot)
    }

    fn snapshots_tree(&self) -> Result<OwnedFd, HostError> {
        self.volume.snapshots_tree()
    }

    fn send(&self, snapshot: &str) -> Result<Box<dyn Read + Send>, HostError> {
        self.volume.send(snapshot)
    }

    fn mount_snapshot(&self, snapshot: &str, place: &MountPlace) -> Result<(), HostError> {
        self.volume.mount_snapshot(snapshot, place)
    }

    fn unmount_snapshot(&self, snapshot: &str, at: &Path, how: Unmount) -> Result<bool, HostError> {
        self.volume.unmount_snapshot(snapshot, at, how)
    }

    fn references(&self) -> Result<Vec<Reference>, HostError> {
        self.volume.references()
    }

    fn delete_snapshot(&self, snapshot: &str) -> Result<(), HostError> {
        self.volume.delete_snapshot(snapshot)
    }

    fn delete_version(&self, name: &StoredName) -> Result<(), HostError> {
        self.volume.delete_version(name)
    }

    fn store_state(&self) -> Result<StoreState, HostError> {
        self.volume.store_state()
    }

    fn grow(&self, bytes: u64) -> Result<(), HostError> {
        self.volume.grow(bytes)
    }

    fn scrub(&self) -> Result<ScrubFound, HostError> {
        self.volume.scrub()
    }

    fn stop_scrub(&self) {
        self.volume.stop_scrub();
    }
}

impl Pointer for LinuxHost {
    fn point(&self, name: &StoredName) -> Result<(), HostError> {
        self.pointer.point(name)
    }

    fn pointed(&self, model: &ModelName) -> Result<Option<StoredName>, HostError> {
        self.pointer.pointed(model)
    }

    fn unpoint(&self, model: &ModelName) -> Result<(), HostError> {
        self.pointer.unpoint(model)
    }

    fn point_set(&self, set: &SetName, shown: &[Shown]) -> Result<(), HostError> {
        self.pointer.point_set(set, shown)
    }

    fn pointed_set(&self, set: &SetName) -> Result<Vec<StoredName>, HostError> {
        self.pointer.pointed_set(set)
    }

    fn unpoint_set(&self, set: &SetName) -> Result<(), HostError> {
        self.pointer.unpoint_set(set)
    }
}

impl Cells for LinuxHost {
    fn create_cell(&self, generation: Generation, profile: Profile) -> Result<(), HostError> {
        self.cells.create_cell(generation, profile)?;
        // Before anything runs in it: the launcher may have made the instance's cgroup just now.
        self.traffic.follow()
    }

    fn set_tenant(&self, tenant: &Tenant) -> Result<(), HostError> {
        self.cells.set_tenant(tenant)
    }

    fn enforcement(&self) -> Result<Enforcement, HostError> {
        self.cells.enforcement()
    }

    fn exclusive_cpus(&self) -> Result<Vec<(Generation, u64)>, HostError> {
        self.cells.exclusive_cpus()
    }

    fn start_worker(&self, generation: Generation, version: &StoredName) -> Result<StartedWorker, HostError> {
        self.cells.start_worker(generation, version)
    }

    fn background(&self, generation: Generation, time: Duration) -> Result<(), HostError> {
        self.cells.background(generation, time)
    }

    fn swap_model(&self, generation: Generation, version: &StoredName) -> Result<(), HostError> {
        self.cells.swap_model(generation, version)
    }

    fn link(&self, generation: Generation) -> Result<Option<WorkerLink>, HostError> {
        self.cells.link(generation)
    }

    fn kill_worker(&self, generation: Generation) -> Result<(), HostError> {
        self.cells.kill_worker(generation)
    }

    fn destroy_cell(&self, generation: Generation) -> Result<(), HostError> {
        self.cells.destroy_cell(generation)
    }

    fn cells(&self) -> Result<Vec<(Generation, WorkerState)>, HostError> {
        self.cells.cells()
    }
}

impl Devices for LinuxHost {
    fn find_device(&self, path: &DevicePath) -> Result<(), HostError> {
        devices::find(path)
    }

    fn grant_devices(&self, generation: Generation, granted: &[DevicePath]) -> Result<(), HostError> {
        devices::grant((&self.cells, &self.traffic), &self.cgroup, generation, granted)
    }
}

impl Router for LinuxHost {
    fn start_router(&self, cpus: u64) -> Result<StartedWorker, HostError> {
        self.cells.enforcement()?;
        self.traffic.follow()?;
        self.cells.start_router(cpus)
    }

    fn router_link(&self) -> Result<Option<WorkerLink>, HostError> {
        self.cells.router_link()
    }

    fn kill_router(&self) -> Result<(), HostError> {
        self.cells.kill_router()
    }
}

impl Traffic for LinuxHost {
    fn claim(&self, addresses: &[SocketAddr]) -> Result<(), HostError> {
        self.traffic.claim(addresses)
    }

    fn give_up(&self, addresses: &[SocketAddr]) {
        self.traffic.give_up(addresses);
    }

    fn admit(&self, generation: Generation, port: u16) -> Result<(), HostError> {
        self.traffic.admit(generation, port)
    }

    fn admit_router(&self) -> Result<(), HostError> {
        self.traffic.admit_router()
    }

    fn endpoint(&self, generation: Generation) -> Result<SocketAddr, HostError> {
        self.traffic.endpoint(generation)
    }

    fn dismiss(&self, generation: Generation) -> Result<(), HostError> {
        self.traffic.dismiss(generation)
    }

    fn set_route(&self, addresses: &[SocketAddr], route: &Route) -> Result<(), HostError> {
        self.traffic.set_route(addresses, route)
    }

    fn clear_route(&self, addresses: &[SocketAddr]) -> Result<(), HostError> {
        self.traffic.clear_route(addresses)
    }

    fn routed(&self) -> Result<Vec<u16>, HostError> {
        self.traffic.routed()
    }

    fn route(&self, port: u16) -> Result<Option<Route>, HostError> {
        self.traffic.route(port)
    }
}

impl Probes for LinuxHost {
    fn sample(&self, generation: Generation) -> Result<Sample, HostError> {
        self.traffic.sample(generation)
    }

    fn queued(&self, generation: Generation) -> Result<u32, HostError> {
        self.traffic.queued(generation)
    }
}

impl Meters for LinuxHost {
    fn usage(&self, generation: Generation) -> Usage {
        meters::read(&self.cgroup, generation)
    }
}
