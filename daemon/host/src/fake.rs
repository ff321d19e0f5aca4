//! The second implementation of the host: plain values that obey the same rules. It lives in the `Arc` that a test
//! keeps, so it outlives a daemon as a machine does, and it can be told to fail, or half-fail, at any call.
//! What the values are and what they refuse is in `machine`; when calls fail is in `faults`.

mod archive;
mod faults;
mod machine;
mod pointer;

pub use faults::{Fault, When};

use crate::HostError;
use crate::cells::{Cells, Enforcement, Profile, Router, StartedWorker, Tenant, WorkerLink, WorkerState};
use crate::devices::{DevicePath, Devices};
use crate::meters::{Meters, Usage};
use crate::store::{Evidence, Held, ImportOutcome, Incoming, SnapshotInfo, Store, StoredName};
use crate::traffic::{Probes, Route, Sample, Traffic};
use faults::Faults;
use machine::Machine;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::{Generation, Sha256};

/// One call of the daemon on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: &'static str,
    /// What it was called on.
    pub object: String,
    /// False when the caller was told that it failed.
    pub succeeded: bool,
}

/// A machine of plain values.
#[derive(Debug, Default)]
pub struct FakeHost {
    inner: Mutex<Inner>,
}

#[derive(Debug, Clone, Default)]
struct Inner {
    machine: Machine,
    faults: Faults,
    trace: Vec<Call>,
    broken: Vec<String>,
}

impl Clone for FakeHost {
    /// Another machine in the same state.
    fn clone(&self) -> Self {
        Self { inner: Mutex::new(self.inner().clone()) }
    }
}

impl FakeHost {
    /// Makes calls fail from now on, in addition to what was asked before.
    pub fn fail(&self, when: When, fault: Fault) {
        self.inner().faults.add(when, fault);
    }

    /// Lets every call succeed again. Calls go on being numbered.
    pub fn heal(&self) {
        self.inner().faults.heal();
    }

    /// Every call so far, oldest first; its index is the call's number.
    pub fn trace(&self) -> Vec<Call> {
        self.inner().trace.clone()
    }

    /// Calls that left a port with new connections going to something that cannot serve, which did not before.
    pub fn broken(&self) -> Vec<String> {
        self.inner().broken.clone()
    }

    /// What is wrong with the routes at this moment: arms that are not admitted, or whose worker does not run.
    pub fn misrouted(&self) -> Vec<String> {
        self.inner().machine.misrouted()
    }

    /// Sets what the kernel is said to have seen of a generation.
    pub fn set_sample(&self, generation: Generation, sample: Sample) {
        self.inner().machine.samples.insert(generation, sample);
    }

    /// What the kernel is said to have seen of a generation, `None` without a cell. As [`FakeHost::worker`], not a call
    /// of the daemon.
    pub fn seen(&self, generation: Generation) -> Option<Sample> {
        self.inner().machine.sample(generation).ok()
    }

    /// Ends a worker from outside: it crashes, or exits on its own.
    pub fn end_worker(&self, generation: Generation, state: WorkerState) {
        self.inner().machine.end_worker(generation, state);
    }

    /// Gives the worker of a generation a real link, and the worker's end of it to whoever plays that worker.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn link_to(&self, generation: Generation) -> io::Result<OwnedFd> {
        let (link, theirs) = machine::Link::new()?;
        self.inner().machine.links.insert(generation, Arc::new(link));
        Ok(theirs)
    }

    /// Sets what this machine can hold a cell to; all of it, until told otherwise.
    pub fn set_enforcement(&self, enforcement: Enforcement) {
        self.inner().machine.enforcement = enforcement;
    }

    /// Lets the kernel hold stored files to their content, or not; it does not until told.
    pub fn set_verity(&self, holds: bool) {
        self.inner().machine.verity = holds;
    }

    /// What a cell was made with. As [`FakeHost::worker`], not a call of the daemon.
    pub fn profile(&self, generation: Generation) -> Option<Profile> {
        self.inner().machine.cells.get(&generation).map(|cell| cell.profile)
    }

    /// Plugs a device in.
    pub fn add_device(&self, path: &DevicePath) {
        self.inner().machine.devices.insert(path.as_str().to_owned());
    }

    /// What a cell may open besides what every cell may. As [`FakeHost::worker`], not a call of the daemon.
    pub fn devices(&self, generation: Generation) -> Vec<DevicePath> {
        self.inner().machine.cells.get(&generation).map(|cell| cell.devices.clone()).unwrap_or_default()
    }

    /// For how long a cell was put behind the others, each time. As [`FakeHost::worker`], not a call of the daemon.
    pub fn behind(&self, generation: Generation) -> Vec<Duration> {
        self.inner().machine.cells.get(&generation).map(|cell| cell.behind.clone()).unwrap_or_default()
    }

    /// Restarts the machine: all is gone but the store.
    pub fn reboot(&self) {
        self.inner().machine.reboot();
    }

    /// Ends the daemon's process: the ports that it claimed are anybody's again, all else stays.
    pub fn end_daemon(&self) {
        self.inner().machine.claims.clear();
    }

    /// Has another process listen on a public address.
    pub fn occupy(&self, address: SocketAddr) {
        self.inner().machine.occupied.insert(address);
    }

    /// Changes the first byte of a stored file, as a failing disk or a tampering root would.
    pub fn damage(&self, name: &StoredName, path: &str) {
        self.inner().machine.damage(name, path);
    }

    /// What a cell's worker does, `None` without a cell. Not a call of the daemon: never fails and leaves no trace.
    pub fn worker(&self, generation: Generation) -> Option<WorkerState> {
        self.inner().machine.cells.get(&generation).map(|cell| cell.worker)
    }

    /// What a running worker finds where it has its model. As [`FakeHost::worker`], not a call of the daemon.
    pub fn mounted(&self, generation: Generation) -> Option<StoredName> {
        self.inner().machine.cells.get(&generation)?.model.clone()
    }

    /// Whether the router runs. As [`FakeHost::worker`], not a call of the daemon.
    pub fn router(&self) -> bool {
        self.inner().machine.router
    }

    /// Ends the router from outside.
    pub fn end_router(&self) {
        self.inner().machine.end_router();
    }

    /// The split in force on a port. As [`FakeHost::worker`], not a call of the daemon.
    pub fn route_of(&self, port: u16) -> Option<Route> {
        self.inner().machine.routes.get(&port).cloned()
    }

    /// Generations that are eligible for routes. As [`FakeHost::worker`], not a call of the daemon.
    pub fn admitted(&self) -> Vec<Generation> {
        self.inner().machine.admitted.keys().copied().collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gate that every call of the daemon passes.
    fn call<T>(
        &self,
        (method, object): (&'static str, String),
        act: impl FnOnce(&mut Machine) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let mut inner = self.inner();
        let whole = inner.machine.misrouted().is_empty();
        let outcome = match inner.faults.due(method) {
            Some(Fault::Refused) => Err(faults::injected(method, &object)),
            Some(Fault::HalfDone) => act(&mut inner.machine).and(Err(faults::injected(method, &object))),
            None => act(&mut inner.machine),
        };
        let wrong = inner.machine.misrouted();
        if whole && !wrong.is_empty() {
            inner.broken.push(format!("{method} `{object}`: {}", wrong.join(", ")));
        }
        inner.trace.push(Call { method, object, succeeded: outcome.is_ok() });
        outcome
    }
}

impl Store for FakeHost {
    fn import(&self, incoming: &Incoming<'_>, content: &mut dyn Read) -> Result<ImportOutcome, HostError> {
        let files = machine::read_files(incoming.files, content)?;
        self.call(("import", incoming.name.to_string()), |machine| Ok(machine.import(incoming, files)))
    }

    fn versions(&self) -> Result<Vec<StoredName>, HostError> {
        self.call(("versions", String::new()), |machine| Ok(machine.versions.keys().cloned().collect()))
    }

    fn envelope(&self, name: &StoredName) -> Result<Vec<u8>, HostError> {
        self.call(("envelope", name.to_string()), |machine| Ok(machine.version(name)?.envelope.clone()))
    }

    fn verify(&self, name: &StoredName, files: &[FileEntry]) -> Result<(), HostError> {
        self.call(("verify", name.to_string()), |machine| machine.verify(name, files))
    }

    fn measure(&self, name: &StoredName, files: &[FileEntry]) -> Result<Option<Sha256>, HostError> {
        self.call(("measure", name.to_string()), |machine| machine.measure(name, files))
    }

    fn check(
        &self,
        name: &StoredName,
        files: &[FileEntry],
        measured: Option<Sha256>,
    ) -> Result<Held, HostError> {
        self.call(("check", name.to_string()), |machine| machine.check(name, files, measured))
    }

    fn checked(&self, name: &StoredName) -> Option<Held> {
        self.inner().machine.checked.get(name).copied()
    }

    fn snapshot(&self, name: &str, evidence: &Evidence) -> Result<SnapshotInfo, HostError> {
        self.call(("snapshot", name.to_owned()), |machine| machine.snapshot(name, evidence))
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, HostError> {
        self.call(("snapshots", String::new()), |machine| Ok(machine.snapshots.clone()))
    }
}

impl Cells for FakeHost {
    fn create_cell(&self, generation: Generation, profile: Profile) -> Result<(), HostError> {
        self.call(("create_cell", generation.to_string()), |machine| machine.create_cell(generation, profile))
    }

    fn set_tenant(&self, tenant: &Tenant) -> Result<(), HostError> {
        self.call(("set_tenant", tenant.name.as_str().to_owned()), |machine| {
            machine.set_tenant(tenant);
            Ok(())
        })
    }

    fn enforcement(&self) -> Result<Enforcement, HostError> {
        self.call(("enforcement", String::new()), |machine| Ok(machine.enforcement))
    }

    fn exclusive_cpus(&self) -> Result<Vec<(Generation, u64)>, HostError> {
        self.call(("exclusive_cpus", String::new()), |machine| Ok(machine.exclusive_cpus()))
    }

    fn start_worker(&self, generation: Generation, version: &StoredName) -> Result<StartedWorker, HostError> {
        let object = generation.to_string();
        self.call(("start_worker", object), |machine| machine.start_worker(generation, version))
    }

    fn background(&self, generation: Generation, time: Duration) -> Result<(), HostError> {
        let object = generation.to_string();
        self.call(("background", object), |machine| machine.background(generation, time))
    }

    fn swap_model(&self, generation: Generation, version: &StoredName) -> Result<(), HostError> {
        self.call(("swap_model", generation.to_string()), |machine| machine.swap_model(generation, version))
    }

    /// Plain values have no descriptors: who supervises workers in tests asks [`FakeHost::worker`] instead, or plays the
    /// worker behind [`FakeHost::link_to`].
    fn link(&self, generation: Generation) -> Result<Option<WorkerLink>, HostError> {
        self.call(("link", generation.to_string()), |machine| {
            if let Some(link) = machine.links.get(&generation).filter(|_| machine.runs(generation)) {
                return link.descriptors().map(Some).map_err(HostError::os("dup", generation));
            }
            if machine.runs(generation) {
                let remedy = "supervise the workers of a fake host without links";
                return Err(HostError::Unsupported {
                    what: format!("no descriptors of {generation}"),
                    remedy,
                });
            }
            Ok(None)
        })
    }

    fn kill_worker(&self, generation: Generation) -> Result<(), HostError> {
        self.call(("kill_worker", generation.to_string()), |machine| {
            machine.end_worker(generation, WorkerState::Killed(9));
            Ok(())
        })
    }

    fn destroy_cell(&self, generation: Generation) -> Result<(), HostError> {
        self.call(("destroy_cell", generation.to_string()), |machine| machine.destroy_cell(generation))
    }

    fn cells(&self) -> Result<Vec<(Generation, WorkerState)>, HostError> {
        self.call(("cells", String::new()), |machine| {
            Ok(machine.cells.iter().map(|(generation, cell)| (*generation, cell.worker)).collect())
        })
    }
}

impl Devices for FakeHost {
    fn find_device(&self, path: &DevicePath) -> Result<(), HostError> {
        self.call(("find_device", path.as_str().to_owned()), |machine| machine.find_device(path))
    }

    fn grant_devices(&self, generation: Generation, devices: &[DevicePath]) -> Result<(), HostError> {
        let object = generation.to_string();
        self.call(("grant_devices", object), |machine| machine.grant_devices(generation, devices))
    }
}

impl Router for FakeHost {
    fn start_router(&self, cpus: u64) -> Result<StartedWorker, HostError> {
        self.call(("start_router", format!("{cpus:b}")), |machine| {
            machine.router = true;
            Ok(StartedWorker { pid: 999, enforcement: machine.enforcement })
        })
    }

    /// Plain values have no descriptors: who supervises the router in tests asks [`FakeHost::router`] instead.
    fn router_link(&self) -> Result<Option<WorkerLink>, HostError> {
        self.call(("router_link", String::new()), |machine| {
            if machine.router {
                let remedy = "supervise the router of a fake host without a link";
                return Err(HostError::Unsupported { what: "no descriptors of the router".into(), remedy });
            }
            Ok(None)
        })
    }

    fn kill_router(&self) -> Result<(), HostError> {
        self.call(("kill_router", String::new()), |machine| {
            machine.end_router();
            Ok(())
        })
    }
}

impl Traffic for FakeHost {
    fn admit_router(&self) -> Result<(), HostError> {
        self.call(("admit_router", String::new()), |machine| {
            machine.router_admitted = machine.router;
            if machine.router {
                return Ok(());
            }
            Err(HostError::Missing { kind: "router", name: String::new() })
        })
    }

    fn endpoint(&self, generation: Generation) -> Result<SocketAddr, HostError> {
        self.call(("endpoint", generation.to_string()), |machine| machine.endpoint(generation))
    }

    fn claim(&self, addresses: &[SocketAddr]) -> Result<(), HostError> {
        self.call(("claim", format!("{addresses:?}")), |machine| machine.claim(addresses))
    }

    fn give_up(&self, addresses: &[SocketAddr]) {
        self.inner().machine.claims.retain(|address| !addresses.contains(address));
    }

    fn admit(&self, generation: Generation, port: u16) -> Result<(), HostError> {
        self.call(("admit", generation.to_string()), |machine| machine.admit(generation, port))
    }

    fn dismiss(&self, generation: Generation) -> Result<(), HostError> {
        self.call(("dismiss", generation.to_string()), |machine| {
            machine.admitted.remove(&generation);
            Ok(())
        })
    }

    fn set_route(&self, addresses: &[SocketAddr], route: &Route) -> Result<(), HostError> {
        let arms: Vec<String> =
            route.arms.iter().map(|(generation, percent)| format!("{generation} {percent}")).collect();
        self.call(("set_route", arms.join(", ")), |machine| machine.set_route(addresses, route))
    }

    fn clear_route(&self, addresses: &[SocketAddr]) -> Result<(), HostError> {
        self.call(("clear_route", format!("{addresses:?}")), |machine| {
            let port = machine::port_of(addresses)?;
            machine.routes.remove(&port);
            Ok(())
        })
    }

    fn routed(&self) -> Result<Vec<u16>, HostError> {
        self.call(("routed", String::new()), |machine| Ok(machine.routes.keys().copied().collect()))
    }

    fn route(&self, port: u16) -> Result<Option<Route>, HostError> {
        self.call(("route", port.to_string()), |machine| Ok(machine.route(port)))
    }
}

impl Meters for FakeHost {
    fn usage(&self, _: Generation) -> Usage {
        Usage { cpu_us: Some(1), ..Usage::default() }
    }
}

impl Probes for FakeHost {
    fn sample(&self, generation: Generation) -> Result<Sample, HostError> {
        self.call(("sample", generation.to_string()), |machine| machine.sample(generation))
    }

    fn queued(&self, generation: Generation) -> Result<u32, HostError> {
        // A fake worker takes each connection at once.
        self.call(("queued", generation.to_string()), |_| Ok(0))
    }
}
