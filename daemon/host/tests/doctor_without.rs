//! The examination on a host that lacks each requirement in turn. What is taken away is taken away for real, from a
//! process of its own: by mounts in its own namespace, by its capabilities, by a network of its own, or by the kernel
//! refusing a call as one that lacks it does. The host itself is not touched.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "doctor_without/cases.rs"]
mod cases;

use cases::{Case, NOTHING, cases};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use turnout_host::doctor::{Finding, Places, examine};
use turnout_host::mounts::cgroup2_root;
use turnout_host::volume::StoreKind;
use turnout_launcher_wire::{Enforcement, Reply, receive, send};

/// Set in the process that examines: calls that its kernel refuses, `NAME=ERRNO`, separated by spaces.
const REFUSED: &str = "TURNOUT_TEST_REFUSED";
/// Where that process looks, as [`Places`].
const STATE: &str = "TURNOUT_TEST_STATE";
/// What is configured there: words, separated by spaces.
const ASKED: &str = "TURNOUT_TEST_ASKED";
/// A cgroup of the case's own.
const GROUP: &str = "GROUP";
/// Flag of move_mount(2).
const MOVE_MOUNT_BENEATH: u64 = 0x200;
/// Of `linux/fsverity.h`.
const FS_IOC_ENABLE_VERITY: u64 = 0x4080_6685;
/// Begins a line that tells of a finding.
const MARK: &str = "finding\t";

#[test]
fn each_requirement_that_is_taken_away_is_named_with_its_remedy() {
    let whole = found(&NOTHING);
    let mut wrong = Vec::new();
    for case in cases() {
        let told = found(&case);
        let (standing, said, remedy) = &told[case.name];
        let Case { before, through, refused, asked, .. } = case;
        let how = format!("{} without [{before}{through}{refused}] asked [{asked}]", case.name);
        println!("{how}: {standing} {said}");
        if *standing != format!("{:?}", case.standing) || !said.contains(case.said) {
            wrong.push(format!("{how}: {standing} {said}; wanted {:?} {}", case.standing, case.said));
        }
        if !remedy.contains(case.remedy) {
            wrong.push(format!("{how}: remedy {remedy}; wanted {}", case.remedy));
        }
        if whole[case.name].0 == *standing && whole[case.name].1 == *said {
            // A host that lacks it anyway cannot show that the line changes.
            println!("  this host says so as it is");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_requirement_is_taken_away_by_some_case() {
    let whole = found(&NOTHING);
    for name in whole.keys() {
        assert!(cases().iter().any(|case| case.name == name), "nothing takes `{name}` away");
    }
}

/// Not a test of its own: examines in the process that [`found`] makes.
#[test]
fn child() {
    let Some(state) = std::env::var_os(STATE) else { return };
    let state = Path::new(&state);
    std::env::var(REFUSED).unwrap_or_default().split_whitespace().for_each(refuse);
    let asked = std::env::var(ASKED).unwrap_or_default();
    let _held = hold_socket(&state.join("launcher.sock"), &asked);
    let word = |key: &str| asked.split(' ').find_map(|word| word.strip_prefix(key));
    let (worker, launcher) = (state.join("worker"), state.join("launcher"));
    let (onnxruntime, group) = (state.join("onnxruntime"), std::env::var_os(GROUP).unwrap_or_default());
    let instance = Path::new(&group).join("instance");
    let places = Places {
        state,
        runtime: state,
        store: word("folder").map_or(StoreKind::Btrfs, |_| StoreKind::Folder),
        image_bytes: word("image=").map(|bytes| bytes.parse().unwrap()),
        lowest_port: word("port=").map_or(8700, |port| port.parse().unwrap()),
        group: word("group="),
        cgroup: word("cgroup").map(|_| instance.as_path()),
        worker: &worker,
        launcher: &launcher,
        launcher_unit: word("unit").map(|_| "turnout-launcher.service"),
        onnxruntime: &onnxruntime,
    };
    for Finding { name, standing, found, why, remedy } in examine(&places) {
        assert!(!found.is_empty() && !why.is_empty() && !remedy.is_empty(), "{name}");
        let line = format!("{name}\t{standing:?}\t{}\t{remedy}", found.replace('\t', " "));
        println!("{MARK}{}", line.replace('\n', " "));
    }
}

/// The launcher's socket as it is found where a unit or a launcher holds it: without one that answers, with one, or left by
/// one that has ended.
fn hold_socket(path: &Path, asked: &str) -> Option<OwnedFd> {
    let is = |word: &str| asked.split(' ').any(|given| given == word);
    if !["held", "answering", "left"].into_iter().any(is) {
        return None;
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    if is("left") {
        return None;
    }
    listen(&socket, 4).unwrap();
    if is("answering") {
        let listener = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let peer = accept(&listener).unwrap();
            let enforcement = Enforcement { landlock: 6, shortfall: 0 };
            for reply in [Reply::Done, Reply::Enforcement(enforcement)] {
                receive(&peer).unwrap();
                send(&peer, &reply.encode(), &[]).unwrap();
            }
        });
    }
    Some(socket)
}

/// A cgroup that ends with the value.
struct Group(PathBuf);

impl Group {
    /// Makes it, without anything handed down to what is made in it.
    fn make(name: &Path) -> Self {
        let path = cgroup2_root().unwrap().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for below in ["instance/launcher", "instance", ""] {
            let _ = std::fs::remove_dir(self.0.join(below));
        }
    }
}

/// Standing, words and remedy of each requirement, as a process finds them from which this case was taken away.
fn found(case: &Case) -> BTreeMap<String, (String, String, String)> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["worker", "launcher", "turnout-router", "onnxruntime"] {
        std::fs::copy("/bin/true", folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("controllers"), "cpuset cpu memory pids\n").unwrap();
    let group = Group::make(Path::new(folder.path().file_name().unwrap()));
    let before = if case.before.is_empty() { "true" } else { case.before };
    let script = format!("set -e; {before}; exec {} \"$0\" --exact child --nocapture", case.through);
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("STATE", folder.path())
        .env(GROUP, &group.0)
        .env(ASKED, case.asked)
        .env(STATE, folder.path())
        .env(REFUSED, case.refused)
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&done.stderr));
    let lines = text.lines().filter_map(|line| line.split_once(MARK).map(|(_, told)| told));
    lines
        .map(|told| {
            let mut parts = told.splitn(4, '\t').map(str::to_owned);
            let mut part = || parts.next().unwrap();
            (part(), (part(), part(), part()))
        })
        .collect()
}

/// Lets the kernel refuse a call to this thread and all it starts: `NAME=ERRNO`.
fn refuse(word: &str) {
    let (call, errno) = word.split_once('=').unwrap();
    let errno = match errno {
        "EPERM" => libc::EPERM,
        "EINVAL" => libc::EINVAL,
        "ENODEV" => libc::ENODEV,
        "ENOSYS" => libc::ENOSYS,
        "EOPNOTSUPP" => libc::EOPNOTSUPP,
        other => panic!("{other}"),
    };
    let net = libc::CLONE_NEWNET as u64;
    let with_net =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(net), net).unwrap();
    let private = libc::MS_PRIVATE;
    let no_private =
        SeccompCondition::new(3, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(private), 0).unwrap();
    let beneath = SeccompCondition::new(
        4,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::MaskedEq(MOVE_MOUNT_BENEATH),
        MOVE_MOUNT_BENEATH,
    )
    .unwrap();
    let verity =
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, FS_IOC_ENABLE_VERITY).unwrap();
    let (number, rules) = match call {
        // Not the call that only makes a namespace private.
        "mount:kind" => (libc::SYS_mount, vec![SeccompRule::new(vec![no_private]).unwrap()]),
        "move_mount" => (libc::SYS_move_mount, vec![]),
        "move_mount:beneath" => (libc::SYS_move_mount, vec![SeccompRule::new(vec![beneath]).unwrap()]),
        "ioctl:verity" => (libc::SYS_ioctl, vec![SeccompRule::new(vec![verity]).unwrap()]),
        "unshare:net" => (libc::SYS_unshare, vec![SeccompRule::new(vec![with_net]).unwrap()]),
        "bpf" => (libc::SYS_bpf, vec![]),
        "fsopen" => (libc::SYS_fsopen, vec![]),
        "landlock_create_ruleset" => (libc::SYS_landlock_create_ruleset, vec![]),
        "seccomp" => (libc::SYS_seccomp, vec![]),
        "pidfd_getfd" => (libc::SYS_pidfd_getfd, vec![]),
        "adjtimex" => (libc::SYS_adjtimex, vec![]),
        "clock_adjtime" => (libc::SYS_clock_adjtime, vec![]),
        other => panic!("{other}"),
    };
    let refusing = SeccompAction::Errno(errno.cast_unsigned());
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(BTreeMap::from([(number, rules)]), SeccompAction::Allow, refusing, architecture);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}
