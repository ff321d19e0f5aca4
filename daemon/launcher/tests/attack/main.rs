//! The cell attacked from inside, one test an attack, on the real kernel. Each attack is tried three ways: in a whole
//! cell, where it must fail; without all that holds it, where it must succeed, or the test shows nothing; and with each
//! of its guards alone, which must hold it. Needs root and a cgroup2 file system.
#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]

mod attempt;
#[path = "../fixture/mod.rs"]
mod fixture;

use attempt::{
    Aim, Attack, Segment, UNLISTED, attack, controllers, cpus, free_port, may_open, named_socket,
    private_memory, program, secret, unconnected, victim,
};
use fixture::{Launcher, cgroup_namespaces_are_borders, limits};
use rustix::net::{SocketType, listen};
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use turnout_launcher::Protection::{self, *};
use turnout_launcher::probe;

/// The cell's.
pub const GENERATION: u32 = 7;
/// CAP_SYS_ADMIN and its like: gone from every set, and gone with the user who had them.
const POWER: [Protection; 2] = [Capabilities, Identity];

// Files.

#[test]
fn the_hosts_files_are_out_of_sight() {
    attack("read").aimed(|_| Aim::at("/etc/passwd")).held_by(&[Root]).check();
}

#[test]
fn the_hosts_secrets_are_not_its_users_to_read() {
    attack("read").aimed(|launcher| Aim::at(secret(launcher).display())).held_by(&[Root, Identity]).check();
}

#[test]
fn the_hosts_files_cannot_be_written() {
    let attack = attack("write").aimed(|launcher| {
        let path = secret(launcher);
        Aim::judged(path.display().to_string(), move |_| fs::read_to_string(&path).unwrap() == "changed")
    });
    attack.held_by(&[Root, Identity]).and_landlock(1).check();
}

#[test]
fn the_model_cannot_be_written() {
    let attack = attack("write").aimed(|launcher| {
        let model = launcher.directory.path().join("model/model.onnx");
        Aim::judged("/model/model.onnx", move |_| fs::read_to_string(&model).unwrap() == "changed")
    });
    attack.held_by(&[ReadOnly, Identity]).and_landlock(1).check();
}

#[test]
fn nothing_can_be_made_in_its_root() {
    attack("write").aimed(|_| Aim::at("/new")).held_by(&[ReadOnly, Identity]).and_landlock(1).check();
}

#[test]
fn its_root_cannot_be_filled() {
    let fill = attack("fill").aimed(|_| Aim::above(1 << 20).with("/new"));
    fill.held_by(&[ReadOnly, Identity, TmpfsSize]).and_landlock(1).check();
}

#[test]
fn no_file_of_the_model_can_be_executed() {
    let attack = attack("execute").aimed(|launcher| {
        program(&launcher.directory.path().join("model/tool"), 0o755);
        Aim::at("/model/tool")
    });
    attack.held_by(&[NoExec]).check();
}

#[test]
fn no_program_makes_it_root() {
    let attack = attack("execute").aimed(|launcher| {
        fs::set_permissions(launcher.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = launcher.directory.path().join("setuid");
        program(&path, 0o4755);
        Aim::judged(path.display(), |said| said == Some("allowed user 0"))
    });
    // The filter and Landlock both set no_new_privs on their way.
    attack.held_by(&[Root, NoNewPrivileges, Seccomp]).and_landlock(1).check();
}

#[test]
fn devices_cannot_be_opened() {
    attack("open").aimed(|_| Aim::at("/dev/loop-control")).held_by(&[Root, Identity]).check();
}

#[test]
fn requests_to_drivers_are_refused_without_a_device() {
    // Of the family of direct rendering; a driver that knows no such request says so, which is an answer.
    let control = attack("control").aimed(|_| {
        Aim::judged("/dev/null 25600", |said| {
            said.is_some_and(|said| said.starts_with("refused Inappropriate"))
        })
    });
    control.held_by(&[Seccomp]).and_landlock(5).check();
}

#[test]
fn devices_cannot_be_made() {
    attack("device").held_by(&[ReadOnly, Seccomp]).held_by(&POWER).and_landlock(1).check();
}

// Mounts and namespaces.

#[test]
fn nothing_can_be_mounted() {
    attack("mount").held_by(&[Seccomp]).held_by(&POWER).and_landlock(1).check();
}

#[test]
fn the_model_cannot_be_mounted_again() {
    attack("remount").held_by(&[Seccomp]).held_by(&POWER).and_landlock(1).check();
}

#[test]
fn a_mount_cannot_be_made_writable() {
    attack("writable").held_by(&[Seccomp]).held_by(&POWER).check();
}

#[test]
fn nothing_can_be_unmounted() {
    attack("unmount").held_by(&[Seccomp]).held_by(&POWER).and_landlock(1).check();
}

#[test]
fn its_root_cannot_be_changed() {
    attack("chroot").held_by(&[Seccomp]).held_by(&POWER).check();
}

#[test]
fn user_namespaces_are_refused_by_all_three_calls() {
    for call in ["unshare", "clone", "clone3"] {
        attack(call).aimed(|_| Aim::at("user")).held_by(&[Seccomp]).check();
    }
}

#[test]
fn other_namespaces_are_refused() {
    for call in ["unshare", "clone", "clone3"] {
        attack(call).aimed(|_| Aim::at("net")).held_by(&[Seccomp]).held_by(&POWER).check();
    }
}

#[test]
fn the_namespaces_of_another_process_cannot_be_joined() {
    let attack = attack("join").aimed(|_| victim(|_| None));
    attack.held_by(&[Seccomp, PidNamespace]).held_by(&POWER).and_landlock(1).check();
}

// Other processes.

#[test]
fn other_processes_cannot_be_killed() {
    let attack = attack("kill").aimed(|_| victim(|child| Some(child.try_wait().unwrap().is_some())));
    attack.held_by(&[PidNamespace, Identity]).and_landlock(6).check();
}

#[test]
fn other_processes_cannot_be_traced() {
    let attack = attack("trace").aimed(|_| victim(|_| None));
    attack.held_by(&[Seccomp, PidNamespace]).held_by(&POWER).and_landlock(1).check();
}

#[test]
fn the_memory_of_other_processes_cannot_be_read() {
    let attack = attack("peek").aimed(|_| victim(|_| None));
    attack.held_by(&[Seccomp, PidNamespace]).held_by(&POWER).and_landlock(1).check();
}

#[test]
fn descriptors_of_other_processes_cannot_be_taken() {
    let attack = attack("descriptor").aimed(|_| victim(|_| None));
    attack.held_by(&[PidNamespace]).held_by(&POWER).and_landlock(1).check();
}

#[test]
fn limits_of_other_processes_cannot_be_changed() {
    attack("limit").aimed(|_| victim(|_| None)).held_by(&[PidNamespace, Identity]).check();
}

#[test]
fn shared_memory_of_the_host_cannot_be_read() {
    let attack = attack("memory-segment").aimed(|_| {
        let segment = Segment::make();
        Aim::at(segment.key).keeping(segment)
    });
    attack.held_by(&[Seccomp, IpcNamespace, Identity]).check();
}

// The network.

#[test]
fn it_cannot_connect() {
    let attack = attack("connect").aimed(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Aim::at(listener.local_addr().unwrap().port()).keeping(listener)
    });
    attack.held_by(&[Seccomp, NetworkNamespace]).and_landlock(4).check();
}

/// It was made in the host's network, and stays there.
#[test]
fn what_it_was_given_to_listen_cannot_connect() {
    let aims: [fn(&Launcher) -> Aim; 2] = [|_| unconnected("sendto"), |_| unconnected("sendmsg")];
    for aim in aims {
        let reuse = attack("reuse").aimed(aim).held_by(&[Seccomp]);
        // Not only because it goes on listening.
        assert_eq!(reuse.attempt(&[Landlock]), (false, Some(UNLISTED.to_owned())));
        // Kernels differ in whether Landlock sees a connection that is not made by connect(2).
        reuse.check_where(&[Landlock]);
    }
    attack("reuse").aimed(|_| unconnected("connect")).held_by(&[Seccomp]).and_landlock(4).check();
}

#[test]
fn what_it_was_given_to_listen_goes_on_listening() {
    attack("stop-listening").held_by(&[Seccomp]).check();
}

#[test]
fn no_option_makes_a_connection_of_what_it_sends() {
    let option = attack("option").held_by(&[Seccomp]);
    assert_eq!(option.attempt(&[]).1.as_deref(), Some(UNLISTED));
    option.check();
}

#[test]
fn it_cannot_send() {
    let attack = attack("send").aimed(|_| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Aim::judged(socket.local_addr().unwrap().port(), move |_| match socket.recv(&mut [0; 8]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            received => received.unwrap() == 3,
        })
    });
    attack.held_by(&[Seccomp, NetworkNamespace]).check();
}

#[test]
fn it_cannot_reach_abstract_sockets() {
    let attack = attack("abstract").aimed(|launcher| {
        let name = launcher.directory.path().file_name().unwrap().to_string_lossy().into_owned();
        let listener = named_socket(&name, SocketType::SEQPACKET);
        listen(&listener, 8).unwrap();
        Aim::at(name).keeping(listener)
    });
    attack.held_by(&[Seccomp, NetworkNamespace]).and_landlock(6).check();
}

#[test]
fn it_cannot_send_to_abstract_sockets() {
    let attack = attack("datagram").aimed(|launcher| {
        let name = launcher.directory.path().file_name().unwrap().to_string_lossy().into_owned();
        let socket = named_socket(&name, SocketType::DGRAM);
        Aim::at(name).keeping(socket)
    });
    attack.held_by(&[Seccomp, NetworkNamespace]).and_landlock(6).check();
}

#[test]
fn it_cannot_reach_the_launcher() {
    let attack = attack("path").aimed(|launcher| Aim::at(launcher.socket.display()));
    attack.held_by(&[Seccomp, Root, Identity]).check();
}

#[test]
fn it_cannot_listen() {
    let attack = attack("bind").aimed(|_| {
        let port = free_port();
        Aim::judged(port, move |_| TcpStream::connect(("127.0.0.1", port)).is_ok())
    });
    attack.held_by(&[Seccomp, NetworkNamespace]).and_landlock(4).check();
}

#[test]
fn it_cannot_make_raw_sockets() {
    attack("raw").held_by(&[Seccomp]).held_by(&POWER).check();
}

// The kernel's surface.

#[test]
fn keys_cannot_be_stored() {
    attack("key").held_by(&[Seccomp]).check();
}

#[test]
fn ebpf_is_refused() {
    attack("bpf").held_by(&[Seccomp]).held_by(&POWER).check();
}

#[test]
fn performance_counters_are_refused() {
    attack("perf").held_by(&[Seccomp]).held_by(&POWER).check();
}

#[test]
fn rings_are_refused() {
    attack("ring").held_by(&[Seccomp]).check();
}

#[test]
fn handling_page_faults_is_refused() {
    attack("faults").held_by(&[Seccomp]).check();
}

#[test]
fn the_hosts_name_is_not_told() {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_ne!(name, "cell");
    let attack = attack("host-name").aimed(|_| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Aim::judged("", move |said| said.and_then(|said| said.strip_prefix("allowed ")) == Some(&host))
    });
    attack.held_by(&[UtsNamespace]).check();
}

#[test]
fn where_its_cgroup_lies_is_not_told() {
    let attack = attack("own-cgroup").aimed(|_| {
        Aim::judged("", |said| said.is_some_and(|said| said.ends_with(&format!("cell-{GENERATION}"))))
    });
    attack.held_by(&[CgroupNamespace]).check();
}

// What it was given.

#[test]
fn it_cannot_leave_its_cgroup() {
    let attack = attack("leave-cgroup").aimed(|launcher| {
        let cell = launcher.cgroup.join(format!("cell-{GENERATION}/cgroup.procs"));
        let out = launcher.cgroup.join("launcher/cgroup.procs");
        Aim::judged(out.display().to_string(), move |_| fs::read_to_string(&cell).unwrap().is_empty())
    });
    let attack = attack.held_by(&[Root, Identity]).and_landlock(1);
    if cgroup_namespaces_are_borders() { attack.held_by(&[CgroupNamespace]).check() } else { attack.check() }
}

#[test]
fn it_runs_on_its_cpus_alone() {
    assert!(cpus() > 1, "with one CPU this shows nothing");
    attack("cpus").aimed(|_| Aim::above(1)).held_by(&[Affinity]).check();
}

#[test]
fn it_cannot_take_more_cpus() {
    let widen = attack("widen").aimed(|_| Aim::above(1));
    if controllers().contains("cpuset") {
        // The controller holds it whatever the list of calls says.
        assert!(!widen.attempt(&[]).0 && !widen.attempt(&[Seccomp]).0);
    } else {
        widen.held_by(&[Seccomp]).check();
    }
}

#[test]
fn it_cannot_take_more_memory() {
    // MiB. Where the address space is limited, half a GiB of it may be reserved.
    attack("memory").aimed(|_| Aim::above((limits().0 >> 20) + 512)).held_by(&[MemoryLimit]).check();
}

#[test]
fn it_cannot_start_more_threads() {
    attack("threads").aimed(|_| Aim::above(u64::from(limits().1))).held_by(&[PidsLimit]).check();
}

#[test]
fn a_fork_bomb_ends_at_its_limit() {
    attack("fork").aimed(|_| Aim::above(u64::from(limits().1))).held_by(&[Seccomp, PidsLimit]).check();
}

#[test]
fn it_cannot_start_a_process() {
    let fork = attack("fork").aimed(|_| Aim::above(0)).held_by(&[Seccomp]);
    fork.check();
}

#[test]
fn processes_together_cannot_take_more_memory_than_one() {
    let crowd = attack("crowd").aimed(|launcher| {
        let cell = launcher.cgroup.join(format!("cell-{GENERATION}"));
        Aim::judged("", move |_| private_memory(&cell) > limits().0)
    });
    let crowd = crowd.held_by(&[Seccomp]);
    // Without the controller nothing counts them together: each has the limit to itself.
    if controllers().contains("memory") { crowd.held_by(&[MemoryLimit]).check() } else { crowd.check() }
}

#[test]
fn it_cannot_open_more_descriptors() {
    let attack = attack("descriptors").aimed(|_| Aim::above(65_536));
    // A limit that is inherited and lower would hold it alone.
    if may_open(70_000) {
        attack.held_by(&[DescriptorLimit]).check();
    } else {
        assert!(!attack.attempt(&[]).0);
    }
}

#[test]
fn a_link_that_nobody_reads_holds_little() {
    let flood = attack("flood").aimed(|_| Aim::above(8 << 20)).unheard();
    flood.held_by(&[Seccomp]).held_by(&POWER).check();
}

#[test]
fn landlock_holds_what_it_is_there_for_without_the_list_of_calls_and_with_all_writable() {
    assert!(probe::landlock_abi() >= 1, "this kernel has no Landlock");
    let absent = [Seccomp, ReadOnly, Identity, Capabilities, NetworkNamespace, PidNamespace];
    let landlock = |name, aim| Attack { aim, ..attack(name) }.held_by(&[Landlock]);
    landlock("write", |_| Aim::at("/new")).check_where(&absent);
    landlock("mount", |_| Aim::at("")).check_where(&absent);
    landlock("trace", |_| victim(|_| None)).check_where(&absent);
    if probe::landlock_abi() >= 4 {
        landlock("bind", |_| Aim::at(free_port())).check_where(&absent);
    }
    if probe::landlock_abi() >= 6 {
        landlock("kill", |_| victim(|_| None)).check_where(&absent);
    }
}

/// Every attack above names what holds it; this holds that no protection is left without one.
#[test]
fn every_protection_is_shown_by_an_attack() {
    let source = include_str!("main.rs");
    for protection in Protection::ALL {
        let name = format!("{protection:?}");
        let named = |line: &&str| line.contains("held_by(") && line.contains(&name);
        let shown =
            source.lines().any(|line| named(&line)) || source.contains(&format!("[{name}, Identity];"));
        assert!(shown || protection == Landlock, "no attack shows {name}");
    }
}
