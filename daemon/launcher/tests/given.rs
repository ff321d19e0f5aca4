//! What a cell is given beyond its profile: devices, looked at from inside, and a tenant's place. Needs root and cgroup2.
#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod fixture;

use fixture::{Client, Launcher, limits};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use turnout_launcher_wire::{
    Class, DEVICES_MAX, Failure, Profile, ROUTER_CELL, Reply, Request, Shortfall, Tenant, TenantName,
    detail_text,
};

const GENERATION: u32 = 7;
/// In the place of an accelerator's: a driver that every kernel has and everybody may open.
const NODE: &str = "/dev/zero";
/// A request of the family of direct rendering, and one that starts a terminal's exclusive mode (`TIOCEXCL`).
const OF_DRIVER: u32 = 0x6400;
const OF_TERMINAL: u32 = 0x540c;

#[test]
fn a_device_that_is_given_can_be_used_and_no_other_is_there() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    client.create(GENERATION);
    for _ in 0..2 {
        assert_eq!(client.grant(GENERATION, NODE), Reply::Done, "repeating is no error");
    }
    assert_eq!(client.grant_at(GENERATION, "/dev/full", "/dev/gpu-caps/cap1"), Reply::Done);
    let worker = client.start(GENERATION, &launcher.model()).unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(worker.hear(), "hello");
    for node in [NODE, "/dev/gpu-caps/cap1"] {
        assert_eq!(worker.ask(&format!("attack use {node}")), "allowed ", "{node}");
    }
    for node in ["/dev/full", "/dev/random", "/dev/loop-control"] {
        assert!(worker.ask(&format!("attack use {node}")).starts_with("refused No such file"), "{node}");
    }
    let seen = worker.ask("look");
    for line in ["writable mounts=", "status=Groups:", "cgroup=0::/"] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    // For a worker that runs, nothing changes.
    assert_eq!(client.grant(GENERATION, "/dev/random"), Reply::Done);
    assert!(worker.ask("attack use /dev/random").starts_with("refused No such file"));
}

#[test]
fn requests_to_drivers_pass_only_in_a_cell_with_devices_and_no_others_do() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    client.create(GENERATION);
    assert_eq!(client.grant(GENERATION, NODE), Reply::Done);
    let with = client.start(GENERATION, &launcher.model()).unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(with.hear(), "hello");
    let without = client.started(GENERATION + 1, &launcher.model());
    let asked = |worker: &fixture::Worker, node: &str, request: u32| {
        worker.ask(&format!("attack control {node} {request}"))
    };
    // The driver's own answer, for this one knows no request; or the filter's.
    let (driver, filter) = ("refused Inappropriate ioctl", "refused Operation not permitted");
    assert!(asked(&with, NODE, OF_DRIVER).starts_with(driver), "{}", asked(&with, NODE, OF_DRIVER));
    assert!(asked(&with, NODE, OF_TERMINAL).starts_with(filter), "{}", asked(&with, NODE, OF_TERMINAL));
    assert!(asked(&without, "/dev/null", OF_DRIVER).starts_with(filter));
    if with.enforcement.landlock >= 5 {
        // Landlock tells the calls on one device from those on another.
        let null = asked(&with, "/dev/null", OF_DRIVER);
        assert!(null.starts_with("refused Permission denied"), "{null}");
    }
}

#[test]
fn a_node_that_its_group_opens_brings_that_group_and_no_other() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let path = launcher.directory.path().join("node");
    let own = 54_321;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o660),
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    std::os::unix::fs::chown(&path, Some(0), Some(own)).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o660)).unwrap();
    if !device_opens(&path) {
        println!("devices cannot be opened where temporary files are: nothing to see");
        return;
    }
    client.create(GENERATION);
    assert_eq!(client.grant_at(GENERATION, path.to_str().unwrap(), "/dev/gpu0"), Reply::Done);
    let worker = client.start(GENERATION, &launcher.model()).unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(worker.hear(), "hello");
    assert_eq!(worker.ask("attack use /dev/gpu0"), "allowed ");
    assert!(worker.ask("look").lines().any(|line| line == format!("status=Groups: {own}")));
}

fn device_opens(path: &std::path::Path) -> bool {
    fs::File::open(path).is_ok()
}

#[test]
fn what_is_no_device_or_has_no_place_is_refused() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    refused(&client.grant(GENERATION, NODE), Failure::NoCell, "no such cell");
    client.create(GENERATION);
    refused(&client.grant_at(GENERATION, "/etc/passwd", "/dev/gpu0"), Failure::Request, "no device node");
    refused(&client.grant_at(GENERATION, "/dev", "/dev/gpu0"), Failure::Request, "no device node");
    for number in 0..DEVICES_MAX {
        assert_eq!(client.grant_at(GENERATION, NODE, &format!("/dev/caps/{number}/node")), Reply::Done);
    }
    refused(&client.grant(GENERATION, NODE), Failure::Request, "16 device nodes, and no more");
    // As many as there can be, each with folders of its own, have room in the root.
    assert!(client.start(GENERATION, &launcher.model()).is_ok());
    client.create(ROUTER_CELL);
    refused(&client.grant(ROUTER_CELL, NODE), Failure::NoCell, "no such cell");
}

#[test]
fn a_tenants_cells_lie_below_its_cgroup_with_users_of_its_own() {
    let mut launcher = Launcher::start();
    let mut client = launcher.client();
    // Beyond what any test's launcher has.
    let tenants = [("risk", launcher.uid_base + 4_000_000), ("search", launcher.uid_base + 4_000_064)];
    for (generation, (name, uid_base)) in (1..).zip(tenants) {
        refused(&client.ask(creation(generation, uid_base)), Failure::Request, "no such tenant");
        for _ in 0..2 {
            assert_eq!(client.ask(tenant(name, uid_base)), Reply::Done, "repeating is no error");
        }
        assert!(matches!(client.ask(creation(generation, uid_base)), Reply::Cell(_)));
        let worker = client.start(generation, &launcher.model()).unwrap_or_else(|reply| panic!("{reply:?}"));
        assert_eq!(worker.hear(), "hello");
        let process = fs::metadata(format!("/proc/{}", worker.pid)).unwrap();
        assert_eq!(process.uid(), uid_base + generation - 1, "by its slot");
        let cell = launcher.cgroup.join(format!("tenant-{name}/cell-{generation}"));
        assert_eq!(fs::read_to_string(cell.join("cgroup.procs")).unwrap(), format!("{}\n", worker.pid));
        assert_eq!(worker.ask("attack own-cgroup"), "allowed 0::/", "it does not learn whose it is");
        if worker.enforcement.shortfall & Shortfall::CgroupCpu as u32 == 0 {
            let above = cell.parent().unwrap();
            assert_eq!(fs::read_to_string(above.join("cpu.max")).unwrap(), "150000 100000\n");
            assert_eq!(fs::read_to_string(cell.join("cpu.max")).unwrap(), "50000 100000\n");
        }
        if worker.enforcement.shortfall & Shortfall::CgroupMemory as u32 == 0 {
            let most = fs::read_to_string(cell.parent().unwrap().join("memory.max")).unwrap();
            assert_eq!(most, format!("{}\n", 256 << 20));
        }
    }
    // A tenant that moves keeps the cell that it has, and gets the next one with other users.
    let moved = launcher.uid_base + 5_000_000;
    let users = "users of another tenant, or of the system";
    refused(&client.ask(tenant("risk", tenants[0].1 - 10)), Failure::Request, users);
    assert_eq!(client.ask(tenant("risk", moved)), Reply::Done);
    assert!(matches!(client.ask(creation(20, moved)), Reply::Cell(_)));
    let of_risk = |generation: u32| launcher.cgroup.join(format!("tenant-risk/cell-{generation}")).exists();
    assert!(of_risk(1) && of_risk(20));
    client.done(Request::DestroyCell { generation: 20 });
    assert_eq!(client.ask(tenant("risk", tenants[0].1)), Reply::Done);
    refused(
        &client.ask(tenant("third", launcher.uid_base + 10)),
        Failure::Request,
        "users of another tenant, or of the system",
    );
    assert!(matches!(client.ask(creation(10, tenants[0].1)), Reply::Cell(_)));
    refused(&client.ask(creation(11, tenants[0].1)), Failure::Request, "the tenant's 2 cells are taken");
    // The worker that replaces one that has ended starts before its cell is gone.
    client.done(Request::KillWorker { generation: 1 });
    assert!(matches!(client.ask(creation(11, tenants[0].1)), Reply::Cell(_)));
    client.done(Request::DestroyCell { generation: 1 });
    refused(&client.ask(creation(12, tenants[0].1)), Failure::Request, "the tenant's 2 cells are taken");
    // What a launcher that was killed has left goes with its tenants.
    launcher.kill_and_restart();
    assert!(!launcher.cgroup.join("tenant-risk").exists() && !launcher.cgroup.join("tenant-search").exists());
    let mut client = launcher.client();
    // One that has no cell can be renamed, and leaves nothing behind.
    for name in ["risk", "hazard", "risk"] {
        assert_eq!(client.ask(tenant(name, tenants[0].1)), Reply::Done);
        let other = if name == "risk" { "hazard" } else { "risk" };
        let exists = |name: &str| launcher.cgroup.join(format!("tenant-{name}")).exists();
        assert!(exists(name) && !exists(other), "{name}");
    }
    client.done(Request::Shutdown);
    launcher.ended();
    assert!(!launcher.cgroup.exists());
}

/// Where the controller is: elsewhere the launcher says that nothing holds it, which `cell.rs` looks at.
#[test]
fn cpu_time_beyond_the_limit_is_not_given() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let (memory_bytes, pids_max) = limits();
    let profile =
        Profile { cpu_thousandths: 50, ..Client::profile(Class::Burstable, memory_bytes, pids_max) };
    let made = client.ask(Request::CreateCell { generation: GENERATION, profile });
    assert!(matches!(made, Reply::Cell(_)), "{made:?}");
    let worker = client.start(GENERATION, &launcher.model()).unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(worker.hear(), "hello");
    if worker.enforcement.shortfall & Shortfall::CgroupCpu as u32 != 0 {
        println!("no cgroup cpu controller here: nothing to see");
        return;
    }
    let cell = launcher.cgroup.join(format!("cell-{GENERATION}"));
    assert_eq!(fs::read_to_string(cell.join("cpu.max")).unwrap(), "5000 100000\n");
    assert_eq!(worker.ask("spin"), "spun");
    let stat = fs::read_to_string(cell.join("cpu.stat")).unwrap();
    let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    assert!(throttled.is_some_and(|periods| periods != "0"), "{stat}");
}

/// Where the controller is: elsewhere the request changes nothing.
#[test]
fn a_cell_is_behind_the_others_for_as_long_as_was_asked_and_no_longer() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let behind = |generation, milliseconds| Request::Background { generation, milliseconds };
    refused(&client.ask(behind(GENERATION, 60_000)), Failure::NoCell, "no such cell");
    let worker = client.started(GENERATION, &launcher.model());
    let can_hold = worker.enforcement.shortfall & Shortfall::CgroupCpu as u32 == 0;
    let cell = launcher.cgroup.join(format!("cell-{GENERATION}"));
    let is_behind = || fs::read_to_string(cell.join("cpu.idle")).is_ok_and(|idle| idle == "1\n");
    for _ in 0..2 {
        client.done(behind(GENERATION, 60_000));
        assert_eq!(is_behind(), can_hold, "repeating is no error");
    }
    assert_eq!(worker.ask("spin"), "spun", "what nobody else wants it gets");
    client.done(behind(GENERATION, 0));
    assert!(!is_behind());
    // One whose daemon asks for nothing more.
    client.done(behind(GENERATION, 50));
    drop(client);
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_behind() {
        assert!(Instant::now() < deadline, "it stays behind");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Its weight is what puts a guaranteed cell before the host's own processes.
    let mut client = launcher.client();
    let (memory_bytes, pids_max) = limits();
    let profile = Client::profile(Class::Guaranteed, memory_bytes, pids_max);
    let made = client.ask(Request::CreateCell { generation: GENERATION + 1, profile });
    assert!(matches!(made, Reply::Cell(_)), "{made:?}");
    client.done(behind(GENERATION + 1, 60_000));
    if can_hold {
        let own = launcher.cgroup.join(format!("cell-{}", GENERATION + 1));
        assert_eq!(fs::read_to_string(own.join("cpu.weight")).unwrap(), "1000\n");
        assert_eq!(fs::read_to_string(own.join("cpu.idle")).unwrap(), "0\n");
    }
}

fn tenant(name: &str, uid_base: u32) -> Request {
    Request::SetTenant(Tenant {
        uid_base,
        memory_bytes: 256 << 20,
        pids_max: 64,
        cpu_thousandths: 1500,
        cells_max: 2,
        name: TenantName::new(name).unwrap(),
    })
}

fn creation(generation: u32, tenant: u32) -> Request {
    let (memory_bytes, pids_max) = limits();
    let profile = Client::profile(Class::Burstable, memory_bytes, pids_max);
    Request::CreateCell { generation, profile: Profile { tenant, cpu_thousandths: 500, ..profile } }
}

fn refused(reply: &Reply, wanted: Failure, why: &str) {
    let Reply::Failed { failure, detail, .. } = reply else { panic!("{reply:?}") };
    // Longer reasons are cut.
    assert_eq!(*failure, wanted);
    assert!(
        why.starts_with(detail_text(detail)) && !detail_text(detail).is_empty(),
        "{}",
        detail_text(detail)
    );
}
