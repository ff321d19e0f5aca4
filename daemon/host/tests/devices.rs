//! The fence around devices, on the real kernel with a real launcher: what a cell may open is what it was given, even where
//! more is shown to it; without the program the same is opened. Needs root and a cgroup2 file system.
#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod machine;

use machine::{FIRST, Machine, PROFILE, SECOND, connection, hear};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, mount_change, open_tree};
use rustix::net::SendFlags;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use turnout_host::cells::{Cells, Tenant, TenantName};
use turnout_host::devices::{DevicePath, grant};
use turnout_host::linux_cells::LinuxCells;
use turnout_host::steering::{LinuxTraffic, TrafficConfig};
use turnout_host::{HostError, programs};
use turnout_launcher_wire::{Reply, Request, WIRE_VERSION, receive, send};
use turnout_manifest::Generation;

const ZERO: &str = "/dev/zero";
const FULL: &str = "/dev/full";

/// A launcher's cells behind the fence, with pins that nobody else sees.
struct Fenced {
    cells: Arc<LinuxCells>,
    traffic: LinuxTraffic,
    pins: PathBuf,
    host: Machine,
}

impl Fenced {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root");
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
        let host = Machine::new();
        let cells = Arc::new(host.open());
        let pins = host.directory.path().join("bpf");
        let config = TrafficConfig { pin_directory: pins.clone(), cgroup: host.config.cgroup.clone() };
        let traffic = LinuxTraffic::open(&config, cells.clone()).unwrap();
        Self { cells, traffic, pins, host }
    }

    fn grant(&self, generation: Generation, nodes: &[&str]) -> Result<(), HostError> {
        let nodes: Vec<_> = nodes.iter().map(|node| DevicePath::new(node).unwrap()).collect();
        grant((&self.cells, &self.traffic), &self.host.config.cgroup, generation, &nodes)
    }

    /// Has the launcher show a node to a cell behind the daemon's back.
    fn show(&self, generation: Generation, node: &str) {
        let launcher = connection(&self.host.config.socket).unwrap();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, node, flags).unwrap();
        let request = Request::GrantDevice { generation: generation.0, path: DevicePath::new(node).unwrap() };
        let asked = [(Request::Hello { version: WIRE_VERSION }, vec![]), (request, vec![mount.as_fd()])];
        for (request, descriptors) in asked {
            send(&launcher, &request.encode(), &descriptors).unwrap();
            assert_eq!(Reply::decode(&receive(&launcher).unwrap().bytes).unwrap(), Reply::Done);
        }
    }

    fn worker(&self, generation: Generation) -> OwnedFd {
        self.cells.start_worker(generation, &self.host.version("known")).unwrap();
        let link = self.cells.link(generation).unwrap().unwrap().link;
        assert_eq!(hear(&link), "hello");
        link
    }

    fn cell(&self, generation: Generation) -> PathBuf {
        self.host.config.cgroup.join(format!("cell-{}", generation.0))
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let _ = programs::detach(&self.pins);
    }
}

fn uses(link: &OwnedFd, node: &str) -> String {
    rustix::net::send(link, format!("attack use {node}").as_bytes(), SendFlags::NOSIGNAL).unwrap();
    hear(link)
}

/// Whether root, with all rights, can do this inside a cgroup: the fence alone is left.
fn root_can(cgroup: &Path, what: &str) -> bool {
    let script = format!("echo 0 > {}/cgroup.procs && {what}", cgroup.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().unwrap().success()
}

const REFUSED: &str = "refused Operation not permitted (os error 1)";

#[test]
fn a_cell_opens_what_it_was_given_and_nothing_else_that_is_shown_to_it() {
    let fenced = Fenced::new();
    for (generation, given, other) in [(FIRST, ZERO, FULL), (SECOND, FULL, ZERO)] {
        fenced.cells.create_cell(generation, PROFILE).unwrap();
        for _ in 0..2 {
            fenced.grant(generation, &[given]).unwrap();
        }
        fenced.show(generation, other);
    }
    let links = [FIRST, SECOND].map(|generation| fenced.worker(generation));
    for (link, given, other) in [(&links[0], ZERO, FULL), (&links[1], FULL, ZERO)] {
        assert_eq!((uses(link, given).as_str(), uses(link, other).as_str()), ("allowed ", REFUSED));
    }
    // Taken back from one: the other keeps its own.
    fenced.grant(FIRST, &[]).unwrap();
    assert_eq!((uses(&links[0], ZERO).as_str(), uses(&links[1], FULL).as_str()), (REFUSED, "allowed "));
    // Without the program the same node is opened: nothing else has held it.
    programs::detach(&fenced.pins).unwrap();
    assert_eq!((uses(&links[0], FULL).as_str(), uses(&links[1], ZERO).as_str()), ("allowed ", "allowed "));
}

#[test]
fn not_even_root_opens_or_makes_another_device_in_a_cell() {
    let fenced = Fenced::new();
    fenced.cells.create_cell(FIRST, PROFILE).unwrap();
    fenced.grant(FIRST, &[ZERO]).unwrap();
    let cell = fenced.cell(FIRST);
    let node = fenced.host.directory.path().join("made");
    let make = |numbers: &str| format!("mknod {} c {numbers} && rm {0}", node.display());
    assert!(root_can(&cell, "head -c 1 /dev/zero"), "what was given");
    assert!(root_can(&cell, "head -c 1 /dev/null; echo > /dev/null"), "what every cell has");
    let refused = [
        "head -c 1 /dev/full".to_owned(),
        "echo > /dev/full".to_owned(),
        make("1 7"),
        make("1 5"),
        make("1 3"),
    ];
    for what in &refused {
        assert!(!root_can(&cell, what), "{what}");
    }
    programs::detach(&fenced.pins).unwrap();
    // Writing there fails on any host.
    for what in refused.iter().filter(|what| !what.contains("> /dev/full")) {
        assert!(root_can(&cell, what), "void: `{what}` fails without the fence too");
    }
}

#[test]
fn the_fence_follows_a_launcher_that_made_its_cgroup_anew() {
    let fenced = Fenced::new();
    fenced.cells.create_cell(FIRST, PROFILE).unwrap();
    fenced.grant(FIRST, &[FULL]).unwrap();
    fenced.cells.shutdown().unwrap();
    assert!(!fenced.host.config.cgroup.exists());
    fenced.cells.create_cell(FIRST, PROFILE).unwrap();
    assert!(root_can(&fenced.cell(FIRST), "head -c 1 /dev/full"), "void: the fence has no need to follow");
    fenced.traffic.follow().unwrap();
    assert!(
        !root_can(&fenced.cell(FIRST), "head -c 1 /dev/full"),
        "nor does it keep what the old cell was given"
    );
}

#[test]
fn a_tenants_cell_is_fenced_as_any_other_and_what_is_missing_is_named() {
    let fenced = Fenced::new();
    let missing = |result: Result<(), HostError>, wanted: &str| {
        let Err(HostError::Missing { kind, name }) = result else { panic!("{result:?}") };
        assert_eq!(format!("{kind} {name}"), wanted);
    };
    missing(fenced.grant(FIRST, &[ZERO]), &format!("cell {FIRST}"));
    let uid_base = fenced.host.config.uid_base + 10_000_000;
    let name = TenantName::new("risk").unwrap();
    let tenant = Tenant { uid_base, memory_bytes: 0, pids_max: 0, cpu_thousandths: 0, cells_max: 0, name };
    fenced.cells.set_tenant(&tenant).unwrap();
    fenced.cells.create_cell(FIRST, turnout_host::cells::Profile { tenant: uid_base, ..PROFILE }).unwrap();
    missing(fenced.grant(FIRST, &[ZERO, "/dev/no-such-gpu"]), "device /dev/no-such-gpu");
    fenced.grant(FIRST, &[ZERO]).unwrap();
    fenced.show(FIRST, FULL);
    let link = fenced.worker(FIRST);
    assert_eq!((uses(&link, ZERO).as_str(), uses(&link, FULL).as_str()), ("allowed ", REFUSED));
    assert!(fs::exists(fenced.host.config.cgroup.join(format!("tenant-risk/cell-{}", FIRST.0))).unwrap());
}
