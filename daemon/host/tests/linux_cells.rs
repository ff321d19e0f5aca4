//! The cells through a real launcher, which these tests build and start; `examples/inside.rs` of its crate is the worker.
//! Needs root and a cgroup2 file system.
#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod machine;

use machine::{FIRST, Machine, PROFILE, SECOND, hear};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, getsid, kill_process, waitid};
use turnout_host::HostError;
use turnout_host::cells::{Cells, Profile, Tenant, TenantName, WorkerState};
use turnout_host::linux_cells::{CellsConfig, LinuxCells, end};
use turnout_launcher_wire::{Failure, Reply, UNKNOWN};

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
        // It closes the connection after each refusal.
        for _ in 0..3 {
            let peer = accept(&listener).unwrap();
            for answer in [Reply::Done, Reply::failed(Failure::Request, 0, UNKNOWN)] {
                turnout_launcher_wire::receive(&peer).unwrap();
                turnout_launcher_wire::send(&peer, &answer.encode(), &[]).unwrap();
            }
        }
    });
    let cells = host.open();
    let name = TenantName::new("risk").unwrap();
    let tenant =
        Tenant { uid_base: 70_000, memory_bytes: 0, pids_max: 0, cpu_thousandths: 0, cells_max: 0, name };
    for refused in [
        cells.swap_model(FIRST, &host.version("known")),
        cells.create_cell(FIRST, Profile { cpu_thousandths: 1500, ..PROFILE }),
        cells.set_tenant(&tenant),
    ] {
        assert!(matches!(refused, Err(HostError::Unsupported { .. })), "{refused:?}");
    }
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
fn an_end_starts_no_launcher_where_there_are_no_cells_and_clears_what_a_killed_one_left() {
    let host = Machine::new();
    end(host.config.clone()).unwrap();
    assert!(!host.config.cgroup.exists() && !host.config.socket.exists());

    let cells = host.open();
    cells.create_cell(FIRST, PROFILE).unwrap();
    let launcher = host.launcher();
    kill_process(launcher, Signal::KILL).unwrap();
    waitid(WaitId::Pid(launcher), WaitIdOptions::EXITED).unwrap();
    end(host.config.clone()).unwrap();
    assert!(!host.config.cgroup.exists() && !host.config.socket.exists());
    end(host.config.clone()).unwrap();
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
