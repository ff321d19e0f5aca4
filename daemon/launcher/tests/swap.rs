//! Other files where a running worker has its model, looked at from inside and from outside. Needs root and cgroup2.

mod fixture;

use fixture::{Client, Launcher};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use std::fs;
use std::os::fd::OwnedFd;
use turnout_launcher_wire::{Failure, ROUTER_CELL, Reply, Request, detail_text};

const GENERATION: u32 = 7;
const SWAPS: usize = 200;

/// Another version's files as a detached mount, writable: the cell has to lock it itself.
fn version(launcher: &Launcher, name: &str) -> OwnedFd {
    let folder = launcher.directory.path().join(name);
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join("model.onnx"), name).expect("file");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, &folder, flags).expect("open_tree")
}

fn mounts_of(pid: u32) -> usize {
    fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mountinfo").lines().count()
}

fn model_of(seen: &str) -> &str {
    seen.lines().find_map(|line| line.strip_prefix("read model=")).expect("what it read")
}

#[test]
fn a_running_worker_finds_the_new_files_and_can_do_no_more_than_before() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let worker = client.started(GENERATION, &launcher.model());
    let (first, mounts) = (worker.ask("look"), mounts_of(worker.pid));
    assert_eq!(model_of(&first), "weights");
    for swap in 0..SWAPS {
        let name = ["blue", "green"][swap % 2];
        // As after a daemon that was killed before the answer: the same once more.
        for _ in 0..2 {
            assert_eq!(client.swap_model(GENERATION, &version(&launcher, name)), Reply::Done);
        }
        if swap % 50 < 2 {
            let seen = worker.ask("look");
            assert_eq!(seen.replace(&format!("read model={name}"), "read model=weights"), first);
        }
    }
    assert_eq!(mounts_of(worker.pid), mounts, "{SWAPS} swaps leave no mount");
    let seen = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = launcher.directory.path().display().to_string();
    assert!(!seen.contains(&own), "the host sees nothing of it: {seen}");
    // A worker that is started again has what it is started with.
    client.done(Request::KillWorker { generation: GENERATION });
    let failed = client.swap_model(GENERATION, &version(&launcher, "blue"));
    refused(&failed, Failure::Swap, "no worker runs");
}

#[test]
fn who_has_no_model_to_swap_is_told_so() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let model = version(&launcher, "blue");
    refused(&client.swap_model(GENERATION, &model), Failure::NoCell, "no such cell");
    client.create(GENERATION);
    refused(&client.swap_model(GENERATION, &model), Failure::Swap, "no worker runs");
    client.create(ROUTER_CELL);
    client.start_router().unwrap_or_else(|reply| panic!("{reply:?}"));
    refused(&client.swap_model(ROUTER_CELL, &model), Failure::Swap, "no worker runs");
    let mut other: Client = launcher.client();
    refused(&other.ask(Request::SwapModel { generation: GENERATION }), Failure::Request, "descriptors");
}

fn refused(reply: &Reply, wanted: Failure, why: &str) {
    let Reply::Failed { failure, detail, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((*failure, detail_text(detail)), (wanted, why));
}
