//! The launcher on the real kernel: cells are looked at from inside, by `examples/inside.rs` in the worker's place, and
//! from outside, as the daemon would. Needs root and a cgroup2 file system.

mod fixture;

use fixture::{Client, Launcher, connect, limits};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::process::{ForeignRawFd, PidfdGetfdFlags, pidfd_getfd};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;
use turnout_launcher_wire::{
    Cell, Class, Failure, MESSAGE_SIZE, Profile, ROUTER_CELL, Reply, Request, SLOTS, Shortfall, WIRE_VERSION,
    WorkerState, detail_text,
};

const GENERATION: u32 = 7;

#[test]
fn a_worker_sees_and_reaches_nothing_but_its_cell() {
    let launcher = Launcher::start();
    let mounts_before = launcher.mounts();
    let mut client = launcher.client();
    let worker = client.started(GENERATION, &launcher.model());
    let seen = worker.ask("look");
    let found: BTreeMap<&str, &str> = seen.lines().filter_map(|line| line.split_once('=')).collect();
    let uid = launcher.uid_base;
    for expected in [
        "status=CapInh: 0000000000000000",
        "status=CapPrm: 0000000000000000",
        "status=CapEff: 0000000000000000",
        "status=CapBnd: 0000000000000000",
        "status=CapAmb: 0000000000000000",
        "status=NoNewPrivs: 1",
        "status=Seccomp: 2",
        "status=Groups:",
        &format!("status=Uid: {uid} {uid} {uid} {uid}"),
        &format!("status=Gid: {uid} {uid} {uid} {uid}"),
        "arguments=turnout-worker",
        "environment=ORT_DISABLE_TELEMETRY=1",
        "cgroup=0::/",
        "host=cell",
        "interfaces=lo",
        "writable mounts=",
        "read model=weights",
    ] {
        assert!(seen.lines().any(|line| line == expected), "{expected} in\n{seen}");
    }
    let root: Vec<&str> = found["root"].split(' ').collect();
    assert!(
        root.iter()
            .all(|name| ["dev", "lib", "lib64", "model", "proc", "sys", "usr", "worker"].contains(name))
    );
    assert_eq!(found["proc"], "1 cpuinfo self");
    // 5 is the directory being listed.
    assert_eq!(found["descriptors"], "0 1 2 3 4 5");
    let (perm, access, missing, read_only) = ("1", "13", "2", "30");
    for (attempt, errors) in [
        ("open /etc/passwd", &[missing][..]),
        ("write /model", &[read_only, access]),
        ("create in /model", &[read_only, access]),
        ("create in /", &[read_only, access]),
        ("write worker", &[read_only, access]),
        ("internet socket", &[perm]),
        ("unix socket", &[perm]),
        ("mount", &[perm]),
        ("unmount", &[perm]),
        ("chroot", &[perm]),
        ("unshare user", &[perm]),
        ("unshare net", &[perm]),
        ("widen affinity", &[perm]),
        ("sethostname", &[perm]),
        ("read another's memory", &[access, perm, read_only]),
    ] {
        assert!(errors.contains(&found[attempt]), "{attempt}: {} in\n{seen}", found[attempt]);
    }
    assert_eq!(launcher.mounts(), mounts_before, "the cell leaked a mount");
}

#[test]
fn a_router_may_connect_in_the_hosts_network_and_has_no_other_right() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    assert!(client.start_router().is_err(), "there is no cell for it yet");
    let cell = client.create(ROUTER_CELL);
    let router = client.start_router().unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(router.hear(), "hello");
    let seen = router.ask("look");
    let found: BTreeMap<&str, &str> = seen.lines().filter_map(|line| line.split_once('=')).collect();
    let uid = launcher.uid_base + cell.slot;
    for expected in [
        "status=CapPrm: 0000000000000000",
        "status=CapBnd: 0000000000000000",
        "status=NoNewPrivs: 1",
        "status=Seccomp: 2",
        "status=Groups:",
        &format!("status=Uid: {uid} {uid} {uid} {uid}"),
        "arguments=turnout-router",
        "environment=",
        "cgroup=0::/",
        "writable mounts=",
        "proc=1 self",
        "internet socket=allowed",
    ] {
        assert!(seen.lines().any(|line| line == expected), "{expected} in\n{seen}");
    }
    let root: Vec<&str> = found["root"].split(' ').collect();
    assert!(
        root.iter().all(|name| ["dev", "lib", "lib64", "proc", "router", "usr"].contains(name)),
        "{root:?}"
    );
    assert_eq!(found["descriptors"], "0 1 2 3 4 5");
    for attempt in ["open /etc/passwd", "create in /", "unix socket", "mount", "unshare user", "unshare net"]
    {
        assert_ne!(found[attempt], "allowed", "{attempt} in\n{seen}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", router.pid)).unwrap();
    assert!(status.lines().any(|line| line == "Cpus_allowed_list:\t0"), "{status}");
    let again = client.start_router().unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(again.pid, router.pid, "there is one router");
}

#[test]
fn a_router_connects_by_tcp_sockets_that_it_made_and_sends_no_datagrams() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    client.create(ROUTER_CELL);
    let router = client.start_router().unwrap_or_else(|reply| panic!("{reply:?}"));
    assert_eq!(router.hear(), "hello");
    let (wanted, other) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (port, datagrams) = (wanted.local_addr().unwrap().port(), other.local_addr().unwrap().port());
    assert_eq!(router.ask(&format!("attack connect {port}")), "allowed ");
    wanted.accept().unwrap();
    wanted.set_nonblocking(true).unwrap();
    // The kernel's fence is at IPv4 sockets that connect: not at a listener of IPv6, and not at datagrams.
    let is_fenced = TcpListener::bind("[::ffff:127.0.0.1]:0").is_err();
    for call in ["connect", "sendto", "sendmsg", "disconnect"].iter().filter(|_| !is_fenced) {
        let said = router.ask(&format!("attack reuse {call} {port}"));
        assert!(said.starts_with("refused") && wanted.accept().is_err(), "{call}: {said}");
    }
    let said = router.ask(&format!("attack send {datagrams}"));
    assert_eq!(said, "refused Operation not permitted (os error 1)");
}

#[test]
fn a_router_that_was_killed_is_started_again_in_its_slot() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    client.create(1);
    let cell = client.create(ROUTER_CELL);
    for _ in 0..3 {
        let router = client.start_router().unwrap_or_else(|reply| panic!("{reply:?}"));
        assert_eq!(router.hear(), "hello");
        client.done(Request::KillWorker { generation: ROUTER_CELL });
    }
    assert_eq!(client.create(ROUTER_CELL).slot, cell.slot);
}

#[test]
fn the_routers_cell_takes_no_worker() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    client.create(ROUTER_CELL);
    let refused = client.start(ROUTER_CELL, &launcher.model()).err().expect("refused");
    assert!(matches!(refused, Reply::Failed { failure: Failure::NoCell, .. }), "{refused:?}");
}

#[test]
fn what_the_host_cannot_enforce_is_said() {
    let launcher = Launcher::start();
    let started = launcher.client().started(GENERATION, &launcher.model());
    let enabled = fs::read_to_string(launcher.cgroup.join("cgroup.subtree_control")).unwrap();
    for (controller, bit) in [
        ("memory", Shortfall::CgroupMemory),
        ("pids", Shortfall::CgroupPids),
        ("cpuset", Shortfall::CgroupCpuset),
        ("cpu", Shortfall::CgroupCpu),
    ] {
        assert_eq!(
            started.enforcement.shortfall & bit as u32 == 0,
            enabled.split_whitespace().any(|name| name == controller)
        );
    }
}

#[test]
fn the_listener_is_the_hosts_and_the_daemon_can_take_it_from_the_worker() {
    let launcher = Launcher::start();
    let worker = launcher.client().started(GENERATION, &launcher.model());
    let listener = pidfd_getfd(&worker.pidfd, 3 as ForeignRawFd, PidfdGetfdFlags::empty()).unwrap();
    let address: SocketAddr = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
    assert!(sockopt::socket_acceptconn(&listener).unwrap());
    if address.is_ipv6() {
        assert!(!sockopt::ipv6_v6only(&listener).unwrap(), "steered IPv4 would not be taken");
    }
    assert!(address.ip().to_canonical().is_loopback(), "{address} can be reached from outside");
    let mut connection = TcpStream::connect(address).unwrap();
    assert_eq!(worker.ask("greet"), "greeted");
    let mut greeting = [0; 11];
    connection.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"from inside");
}

#[test]
fn a_listener_dies_with_its_worker() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let worker = client.started(GENERATION, &launcher.model());
    let listener = pidfd_getfd(&worker.pidfd, 3 as ForeignRawFd, PidfdGetfdFlags::empty()).unwrap();
    let address: SocketAddr = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
    drop(listener);
    client.done(Request::KillWorker { generation: GENERATION });
    // A process of another test may have had it too, from its fork until its exec.
    let deadline = Instant::now() + fixture::PATIENCE;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "the listener outlives its worker");
        std::thread::yield_now();
    }
}

#[test]
fn a_later_connection_adopts_the_running_worker() {
    let launcher = Launcher::start();
    let first = launcher.client().started(GENERATION, &launcher.model());
    let pid = first.pid;
    drop(first);
    let mut later = launcher.client();
    let adopted = later.adopt(GENERATION).expect("it runs");
    assert_eq!((adopted.pid, adopted.ask("threads 1").as_str()), (pid, "1"));
    // Started again, it is the same worker.
    assert_eq!(later.start(GENERATION, &launcher.model()).unwrap().pid, pid);
}

#[test]
fn the_launcher_outlives_whoever_started_it() {
    let mut launcher = Launcher::start_below_shell();
    let worker = launcher.client().started(GENERATION, &launcher.model());
    launcher.kill_parent_and_its_group();
    assert_eq!(worker.ask("threads 1"), "1");
    assert_eq!(launcher.client().adopt(GENERATION).expect("it runs").pid, worker.pid);
}

#[test]
fn how_a_worker_ended_is_kept_until_its_cell_is_destroyed() {
    // As pid 1 of its namespace abort(3)'s signal is not deadly, its trap instruction then is.
    for (order, expected) in [("exit 3", WorkerState::Exited(3)), ("crash", WorkerState::Killed(11))] {
        let launcher = Launcher::start();
        let mut client = launcher.client();
        let worker = client.started(GENERATION, &launcher.model());
        worker.tell(order);
        ends(&worker.pidfd);
        let cell = cell_with(expected);
        assert_eq!(client.ask(Request::CellAt { index: 0 }), Reply::Cell(cell));
        assert_eq!(client.ask(Request::Adopt { generation: GENERATION }), Reply::Cell(cell));
        client.done(Request::KillWorker { generation: GENERATION });
        client.done(Request::DestroyCell { generation: GENERATION });
        assert_eq!(client.ask(Request::CellAt { index: 0 }), Reply::Done);
    }
}

#[test]
fn memory_and_threads_have_their_limits() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let worker = client.started(GENERATION, &launcher.model());
    let threads: u32 = worker.ask("threads 100").parse().unwrap();
    assert_eq!(threads, limits().1 - 1, "the first thread counts");
    worker.tell("hog");
    // A cgroup kills; without one the allocation fails and the worker says how far it came, MiB.
    if worker.enforcement.shortfall & Shortfall::CgroupMemory as u32 == 0 {
        ends(&worker.pidfd);
    } else {
        let taken: u64 = worker.hear().parse().unwrap();
        assert!((32..=limits().0 / (1 << 20) + 512).contains(&taken), "{taken} MiB");
    }
}

#[test]
fn a_kill_is_complete_and_destroying_leaves_nothing() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let worker = client.started(GENERATION, &launcher.model());
    assert_eq!(worker.ask("threads 5"), "5");
    let refused = client.ask(Request::DestroyCell { generation: GENERATION });
    assert!(matches!(refused, Reply::Failed { failure: Failure::Cgroup, .. }), "{refused:?}");
    client.done(Request::KillWorker { generation: GENERATION });
    let cell = launcher.cgroup.join(format!("cell-{GENERATION}"));
    assert_eq!(fs::read_to_string(cell.join("cgroup.procs")).unwrap(), "");
    assert!(!fs::exists(format!("/proc/{}", worker.pid)).unwrap());
    ends(&worker.pidfd);
    let killed = cell_with(WorkerState::Killed(9));
    assert_eq!(client.ask(Request::CellAt { index: 0 }), Reply::Cell(killed));
    for _ in 0..2 {
        client.done(Request::DestroyCell { generation: GENERATION });
        client.done(Request::KillWorker { generation: GENERATION });
    }
    assert!(!cell.exists());
}

#[test]
fn a_step_that_fails_is_named_and_leaves_nothing_half_done() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    client.create(GENERATION);
    // A directory that is no detached mount cannot be moved into the root.
    let directory: OwnedFd = fs::File::open("/").unwrap().into();
    let Err(Reply::Failed { failure, errno, detail }) = client.start(GENERATION, &directory) else {
        panic!("a plain directory was taken for a mount");
    };
    assert_eq!((failure, errno, detail_text(&detail)), (Failure::Root, 22, "move_mount `model`"));
    let procs = fs::read_to_string(launcher.cgroup.join(format!("cell-{GENERATION}/cgroup.procs"))).unwrap();
    assert_eq!(procs, "");
    assert!(client.start(GENERATION, &launcher.model()).is_ok());
}

#[test]
fn no_cpu_is_given_to_two_guaranteed_cells_that_can_run() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let (memory_bytes, pids_max) = limits();
    let creation = |generation, class, cpus| {
        let profile = Profile { cpus, ..Client::profile(class, memory_bytes, pids_max) };
        Request::CreateCell { generation, profile }
    };
    let refused = |reply: Reply, why: &str| match reply {
        Reply::Failed { failure: Failure::Request, detail, .. } => assert_eq!(detail_text(&detail), why),
        other => panic!("{other:?}"),
    };
    refused(client.ask(creation(1, Class::Guaranteed, 0)), "guaranteed, and no CPU named");
    assert!(matches!(client.ask(creation(1, Class::Guaranteed, 1)), Reply::Cell(_)));
    refused(client.ask(creation(2, Class::Guaranteed, 0b11)), "CPU 0 is generation 1's alone");
    assert!(matches!(client.ask(creation(2, Class::Burstable, 0b11)), Reply::Cell(_)));
    let worker = client.start(1, &launcher.model()).unwrap();
    assert_eq!(worker.hear(), "hello");
    refused(client.ask(creation(3, Class::Guaranteed, 1)), "CPU 0 is generation 1's alone");
    client.done(Request::KillWorker { generation: 1 });
    assert!(matches!(client.ask(creation(3, Class::Guaranteed, 1)), Reply::Cell(_)), "the dead hold none");
}

#[test]
fn sixty_four_slots_and_no_more() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    for generation in 1..=SLOTS {
        assert_eq!(client.create(generation).slot, generation - 1);
    }
    assert_eq!(client.create(5).slot, 4, "repeating is no error");
    let reply = client.ask(Client::creation(SLOTS + 1));
    assert!(matches!(reply, Reply::Failed { failure: Failure::Slots, .. }), "{reply:?}");
    client.done(Request::DestroyCell { generation: 9 });
    assert_eq!(client.create(SLOTS + 1).slot, 8);
}

#[test]
fn requests_outside_the_list_or_the_order_close_the_connection() {
    let launcher = Launcher::start();
    let hello = Request::Hello { version: WIRE_VERSION }.encode();
    let stranger = Request::Hello { version: WIRE_VERSION + 1 }.encode();
    let adopt = Request::Adopt { generation: 1 }.encode();
    let start = Request::StartWorker { generation: 1 }.encode();
    let mut trailing = hello;
    trailing[MESSAGE_SIZE - 1] = 1;
    let cases: [(&str, Vec<&[u8]>); 8] = [
        ("no hello", vec![&adopt]),
        ("another version", vec![&stranger]),
        ("hello twice", vec![&hello, &hello]),
        ("unknown kind", vec![&hello, &[0xff; MESSAGE_SIZE]]),
        ("short", vec![&hello, &adopt[..MESSAGE_SIZE - 1]]),
        ("long", vec![&hello, &[0; MESSAGE_SIZE + 1]]),
        ("trailing", vec![&trailing]),
        ("no descriptor", vec![&hello, &start]),
    ];
    for (case, datagrams) in cases {
        let mut client = Client::silent(&launcher.socket);
        let (last, before) = datagrams.split_last().unwrap();
        for datagram in before {
            assert_eq!(client.raw(datagram), Some(Reply::Done), "{case}");
        }
        let refusal = client.raw(last);
        assert!(
            matches!(refusal, Some(Reply::Failed { failure: Failure::Request, .. })),
            "{case}: {refusal:?}"
        );
        assert_eq!(client.raw(&hello), None, "{case}");
    }
    let unknown = launcher.client().ask(Request::Adopt { generation: 1 });
    assert!(matches!(unknown, Reply::Failed { failure: Failure::NoCell, .. }), "{unknown:?}");
}

#[test]
fn another_user_is_denied() {
    let launcher = Launcher::start();
    assert_eq!(fs::metadata(&launcher.socket).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&launcher.socket, fs::Permissions::from_mode(0o666)).unwrap();
    let socket = launcher.socket.clone();
    // Users are an attribute of a thread to the kernel: only this one changes.
    let denied = std::thread::spawn(move || {
        let nobody = 65534;
        let gid = rustix::process::Gid::from_raw(nobody);
        set_thread_res_gid(gid, gid, gid).unwrap();
        let uid = rustix::process::Uid::from_raw(nobody);
        set_thread_res_uid(uid, uid, uid).unwrap();
        let stranger = connect(&socket).unwrap();
        turnout_launcher_wire::receive(&stranger).map(|received| Reply::decode(&received.bytes))
    });
    let denied = denied.join().unwrap().unwrap().unwrap();
    assert!(matches!(denied, Reply::Failed { failure: Failure::Denied, .. }), "{denied:?}");
    assert!(matches!(launcher.client().ask(Request::CellAt { index: 0 }), Reply::Done));
}

#[test]
fn a_second_launcher_on_the_same_cgroup_is_refused_and_a_later_one_cleans_up() {
    let mut launcher = Launcher::start();
    let worker = launcher.client().started(GENERATION, &launcher.model());
    let refusal = launcher.second();
    assert!(refusal.contains("another launcher owns"), "{refusal}");
    launcher.kill_and_restart();
    ends(&worker.pidfd);
    assert_eq!(launcher.client().ask(Request::CellAt { index: 0 }), Reply::Done);
    assert!(!launcher.cgroup.join(format!("cell-{GENERATION}")).exists());
}

#[test]
fn shutting_down_ends_all_cells_and_removes_the_cgroup() {
    let mut launcher = Launcher::start();
    let mut client = launcher.client();
    let worker = client.started(GENERATION, &launcher.model());
    client.done(Request::Shutdown);
    ends(&worker.pidfd);
    launcher.ended();
    assert!(!launcher.socket.exists() && !launcher.cgroup.exists());
}

fn cell_with(worker: WorkerState) -> Cell {
    Cell { generation: GENERATION, slot: 0, worker, class: Class::Burstable, cpus: 1 }
}

/// Waits for the end of a process.
fn ends(pidfd: &OwnedFd) {
    let deadline = Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&deadline)), Ok(1), "the worker lives on");
}
