//! Swaps of the pointer while readers hammer it. Each test has a mount namespace of its own, which takes every mount
//! with it. How a swap is recovered after each single step is tested beside its steps.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use turnout_host::linux_pointer::{LinuxPointer, Method, PointerConfig};
use turnout_host::mounts::{Mount, in_private_namespace, mount_table};
use turnout_host::pointer::Pointer;
use turnout_host::store::StoredName;
use turnout_manifest::Sha256;

const SWAPS: u32 = 1000;
/// How many swaps instead, where a machine is emulated and slow: an even number, the tests end as they began.
const FEWER_SWAPS: &str = "TURNOUT_TEST_SWAPS";
const READERS: usize = 4;
/// As many as workers or containers may follow on a host.
const NAMESPACES: usize = 100;
/// Daemons that are killed among their swaps.
const KILLS: u32 = 60;
/// Set in the process that swaps until it is killed: by which method.
const SWAPS_BY: &str = "TURNOUT_TEST_SWAPS_BY";

fn name(byte: u8) -> StoredName {
    StoredName { model: "fraud".parse().unwrap(), digest: Sha256([byte; 32]) }
}

fn open_pointer(method: Method) -> LinuxPointer {
    mount(c"test", c"/run", c"tmpfs", MountFlags::empty(), None).unwrap();
    // As on a host with systemd.
    mount_change("/run", MountPropagationFlags::SHARED).unwrap();
    for byte in [1, 2] {
        let files = format!("/run/versions/{}/files", name(byte));
        fs::create_dir_all(&files).unwrap();
        for file in ["a", "b"] {
            fs::write(format!("{files}/{file}"), [byte; 16]).unwrap();
        }
    }
    LinuxPointer::open(&config(method)).unwrap()
}

fn config(method: Method) -> PointerConfig {
    PointerConfig { dir: "/run/models".into(), versions: "/run/versions".into(), method: Some(method) }
}

/// Mounts of the pointers and of what a swap may leave, in this thread's namespace; others mount on this machine too.
fn own_mounts() -> usize {
    let own = |mount: &Mount| mount.point.to_string_lossy().starts_with("/run/models");
    mount_table().unwrap().iter().filter(|mount| own(mount)).count()
}

/// One read as a careful reader does it: the folder once, then two files through it. `Err` says what went wrong.
fn read_once(point: &Path) -> Result<(), String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let folder =
        openat(CWD, point, flags, Mode::empty()).map_err(|error| format!("gap at the point: {error}"))?;
    let mut seen = Vec::new();
    for file in ["files/a", "files/b"] {
        let file =
            openat(&folder, file, OFlags::RDONLY, Mode::empty()).map_err(|error| format!("gap: {error}"))?;
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).map_err(|error| format!("read: {error}"))?;
        seen.extend(bytes);
    }
    let whole = seen.len() == 32 && seen.iter().all(|byte| *byte == seen[0]);
    if whole { Ok(()) } else { Err(format!("mix: {seen:?}")) }
}

/// Stops the readers, also when the test fails: they would read for ever.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads until it is told to stop, and counts. Returns what went wrong.
fn read_until(stop: &AtomicBool, (point, reads): (&Path, &AtomicU64)) -> Vec<String> {
    let mut faults = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        faults.extend(read_once(point).err());
        reads.fetch_add(1, Ordering::Relaxed);
    }
    faults
}

fn swaps_without_gap_or_mix(method: Method) {
    let body = || {
        let pointer = open_pointer(method);
        pointer.point(&name(1)).unwrap();
        let (point, mounts) = (pointer.point_of(&name(1).model), own_mounts());
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let (times, faults) = std::thread::scope(|scope| {
            let stops = Stops(&stop);
            let readers: Vec<_> =
                (0..READERS).map(|_| scope.spawn(|| read_until(&stop, (&point, &reads)))).collect();
            let times = swap_often(&pointer, &reads);
            drop(stops);
            (times, readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect::<Vec<_>>())
        });
        assert!(faults.is_empty(), "{method:?}: {} faults, first: {}", faults.len(), faults[0]);
        assert_eq!(own_mounts(), mounts, "{method:?} leaves no mount behind");
        println!("{method:?}: median swap {:?} beside {reads:?} reads", times[times.len() / 2]);
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

/// Swaps to and fro, each time after the readers have read again. Returns the sorted durations.
fn swap_often(pointer: &LinuxPointer, reads: &AtomicU64) -> Vec<Duration> {
    let mut times = Vec::new();
    let swaps = std::env::var(FEWER_SWAPS).map_or(SWAPS, |swaps| swaps.parse().unwrap());
    for swap in 0..swaps {
        let before = reads.load(Ordering::Relaxed);
        let (target, start) = (name(if swap % 2 == 0 { 2 } else { 1 }), Instant::now());
        pointer.point(&target).unwrap();
        times.push(start.elapsed());
        assert_eq!(pointer.pointed(&target.model).unwrap(), Some(target));
        while reads.load(Ordering::Relaxed) == before {
            assert!(start.elapsed() < Duration::from_secs(30), "the readers stand still");
            std::thread::yield_now();
        }
    }
    times.sort();
    times
}

#[test]
fn readers_meet_no_gap_and_no_mix_when_swapped_beneath() {
    if Method::Beneath.works() {
        swaps_without_gap_or_mix(Method::Beneath);
    } else {
        println!("skipped: this kernel cannot mount beneath");
    }
}

#[test]
fn readers_meet_no_gap_and_no_mix_when_tucked() {
    swaps_without_gap_or_mix(Method::Tuck);
}

#[test]
fn what_is_shown_is_read_only_and_what_was_opened_stays() {
    let body = || {
        let pointer = open_pointer(Method::Tuck);
        let model = name(1).model;
        assert_eq!(pointer.pointed(&model).unwrap(), None);
        pointer.point(&name(1)).unwrap();
        let point = pointer.point_of(&model);
        let refused = fs::write(point.join("files/a"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let mut old = File::open(point.join("files/a")).unwrap();
        pointer.point(&name(2)).unwrap();
        pointer.point(&name(2)).unwrap();
        let mut bytes = Vec::new();
        old.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [1; 16]);
        assert!(pointer.point(&name(3)).is_err(), "an unknown version");
        assert_eq!(pointer.pointed(&model).unwrap(), Some(name(2)));
        pointer.unpoint(&model).unwrap();
        pointer.unpoint(&model).unwrap();
        assert_eq!(pointer.pointed(&model).unwrap(), None);
        assert!(!point.exists());
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

#[test]
fn after_dismantling_no_mount_is_left() {
    let below = || {
        let table = mount_table().unwrap().into_iter();
        table.map(|mount| mount.point).filter(|point| point.starts_with("/run/")).collect::<Vec<_>>()
    };
    for method in [Method::Beneath, Method::Tuck, Method::Stack].into_iter().filter(|method| method.works()) {
        let body = || {
            let pointer = open_pointer(method);
            let before = below();
            pointer.point(&name(1)).unwrap();
            pointer.point(&name(2)).unwrap();
            assert!(below().len() > before.len(), "{method:?}");
            pointer.dismantle().unwrap();
            // The table still lists what the test's own file system covers.
            let left: Vec<_> = below()
                .into_iter()
                .filter(|point| point.to_string_lossy().starts_with("/run/models"))
                .collect();
            assert!(left.is_empty(), "{method:?}: {left:?}");
            Ok(())
        };
        in_private_namespace(body).unwrap();
    }
}

/// A container that was started before the swap, with mounts that follow the host's.
fn a_follower_sees_each_swap(method: Method) {
    let body = || {
        let pointer = open_pointer(method);
        let point = pointer.point_of(&name(1).model);
        let (ask, asked) = channel::<u8>();
        let (answer, answers) = channel();
        std::thread::scope(|scope| {
            let follow = move || {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).unwrap();
                answer.send(true).unwrap();
                for byte in asked {
                    let mounts = mount_table().unwrap().iter().filter(|mount| mount.point == point).count();
                    answer
                        .send(mounts == 1 && fs::read(point.join("files/a")).unwrap() == [byte; 16])
                        .unwrap();
                }
            };
            scope.spawn(follow);
            assert!(answers.recv().unwrap());
            for byte in [1, 2, 1, 2] {
                pointer.point(&name(byte)).unwrap();
                ask.send(byte).unwrap();
                assert!(answers.recv().unwrap(), "{method:?}: version {byte} and nothing else");
            }
            drop(ask);
        });
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

#[test]
fn a_namespace_that_follows_sees_each_swap_at_once() {
    a_follower_sees_each_swap(Method::Tuck);
    if Method::Beneath.works() {
        a_follower_sees_each_swap(Method::Beneath);
    }
}

/// A hundred namespaces, four of them with a reader, none of which may be late, meet a gap or keep a mount.
fn a_hundred_namespaces_follow(method: Method) {
    let body = || {
        let pointer = open_pointer(method);
        pointer.point(&name(1)).unwrap();
        let (point, own) = (pointer.point_of(&name(1).model), own_mounts());
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let (ready, end) = (Barrier::new(NAMESPACES + 1), Barrier::new(NAMESPACES + 1));
        let follow = |reader: bool| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).unwrap();
            let mounts = own_mounts();
            ready.wait();
            let faults = if reader { read_until(&stop, (&point, &reads)) } else { Vec::new() };
            end.wait();
            let last = fs::read(point.join("files/a")).unwrap();
            (faults, own_mounts() == mounts, last)
        };
        std::thread::scope(|scope| {
            let (follow, stops) = (&follow, Stops(&stop));
            let followers: Vec<_> =
                (0..NAMESPACES).map(|number| scope.spawn(move || follow(number < READERS))).collect();
            ready.wait();
            let times = swap_often(&pointer, &reads);
            drop(stops);
            end.wait();
            for follower in followers {
                let (faults, constant, last) = follower.join().unwrap();
                assert!(faults.is_empty(), "{method:?}: {} faults, first: {}", faults.len(), faults[0]);
                assert!(constant, "{method:?} leaves mounts in a namespace that follows");
                assert_eq!(last, [1; 16]);
            }
            println!(
                "{method:?}, {NAMESPACES} namespaces: median {:?}, {reads:?} reads",
                times[times.len() / 2]
            );
        });
        assert_eq!(own_mounts(), own, "{method:?} leaves no mount behind");
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

#[test]
fn a_hundred_namespaces_follow_a_thousand_swaps_beneath() {
    if Method::Beneath.works() {
        a_hundred_namespaces_follow(Method::Beneath);
    } else {
        println!("skipped: this kernel cannot mount beneath");
    }
}

#[test]
fn a_hundred_namespaces_follow_a_thousand_tucks() {
    a_hundred_namespaces_follow(Method::Tuck);
}

/// Not a test of its own: the daemon that [`killed_among_swaps`] kills.
#[test]
fn child() {
    let method = match std::env::var(SWAPS_BY).as_deref() {
        Ok("Beneath") => Method::Beneath,
        Ok("Tuck") => Method::Tuck,
        _ => return,
    };
    let pointer = LinuxPointer::open(&config(method)).unwrap();
    for byte in [1, 2].into_iter().cycle() {
        pointer.point(&name(byte)).unwrap();
        // Whoever listens knows that swaps go on.
        println!("{byte}");
    }
}

/// Kills a daemon that swaps without a pause, with `kill -9`, again and again; the next one opens the pointers. Readers
/// meet whole versions all the time, and no mount is left.
fn killed_among_swaps(method: Method) {
    let body = || {
        let pointer = open_pointer(method);
        pointer.point(&name(1)).unwrap();
        let (point, model) = (pointer.point_of(&name(1).model), name(1).model);
        drop(pointer);
        let mounts = own_mounts();
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..READERS).map(|_| scope.spawn(|| read_until(&stop, (&point, &reads)))).collect();
            let (stops, mut half_way) = (Stops(&stop), 0);
            for kill in 0..KILLS {
                kill_a_daemon(method, kill);
                half_way += usize::from(own_mounts() != mounts);
                let pointer = LinuxPointer::open(&config(method)).unwrap();
                assert!(pointer.pointed(&model).unwrap().is_some(), "{method:?}: nothing is shown");
                assert_eq!(own_mounts(), mounts, "{method:?} after kill {kill}");
            }
            drop(stops);
            let faults: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
            assert!(faults.is_empty(), "{method:?}: {} faults, first: {}", faults.len(), faults[0]);
            println!("{method:?}: {half_way} of {KILLS} kills half-way, {reads:?} reads");
        });
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

fn kill_a_daemon(method: Method, kill: u32) {
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(SWAPS_BY, format!("{method:?}"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let begun = |line: &str| line == "1" || line.ends_with(" 1");
    assert!(lines.any(|line| begun(&line.unwrap())), "the daemon does not swap");
    // Another moment of the next swaps each time.
    std::thread::sleep(Duration::from_micros(u64::from(kill * 37 % 400)));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
}

#[test]
fn daemons_killed_among_swaps_beneath_leave_one_whole_version() {
    if Method::Beneath.works() {
        killed_among_swaps(Method::Beneath);
    } else {
        println!("skipped: this kernel cannot mount beneath");
    }
}

#[test]
fn daemons_killed_among_tucks_leave_one_whole_version() {
    killed_among_swaps(Method::Tuck);
}
