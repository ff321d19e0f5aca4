//! Swaps of a model's pointer, and of a set's, while readers hammer it. Each test has a mount namespace of its own, which takes every mount
//! with it. How a swap is recovered after each single step is tested beside its steps.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod sets;
mod subject;

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use subject::{Subject, config, name, open_pointer, own_mounts};
use turnout_host::linux_pointer::{LinuxPointer, Method, dismantle};
use turnout_host::mounts::{in_private_namespace, mount_table};
use turnout_host::pointer::Pointer;

const SWAPS: u32 = 1000;
/// How many swaps instead, where a machine is emulated and slow: an even number, the tests end as they began.
const FEWER_SWAPS: &str = "TURNOUT_TEST_SWAPS";
const READERS: usize = 4;
/// As many as workers or containers may follow on a host.
const NAMESPACES: usize = 100;
/// Daemons that are killed among their swaps.
const KILLS: u32 = 60;
/// Set in the process that swaps until it is killed: by which method, and what.
const SWAPS_BY: &str = "TURNOUT_TEST_SWAPS_BY";
const SWAPS_WHAT: &str = "TURNOUT_TEST_SWAPS_WHAT";

/// Stops the readers, also when the test fails: they would read for ever.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads until it is told to stop, and counts. Returns what went wrong.
fn read_until(stop: &AtomicBool, (subject, reads): (Subject, &AtomicU64)) -> Vec<String> {
    let mut faults = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        faults.extend(subject.read_once().err());
        reads.fetch_add(1, Ordering::Relaxed);
    }
    faults
}

fn swaps_without_gap_or_mix(method: Method, subject: Subject) {
    let body = || {
        let pointer = open_pointer(method);
        subject.show(&pointer, 1);
        let mounts = own_mounts();
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let (times, faults) = std::thread::scope(|scope| {
            let stops = Stops(&stop);
            let readers: Vec<_> =
                (0..READERS).map(|_| scope.spawn(|| read_until(&stop, (subject, &reads)))).collect();
            let times = swap_often(&pointer, (subject, &reads));
            drop(stops);
            (times, readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect::<Vec<_>>())
        });
        assert!(faults.is_empty(), "{method:?}: {} faults, first: {}", faults.len(), faults[0]);
        assert_eq!(own_mounts(), mounts, "{method:?} leaves no mount behind");
        let median = times[times.len() / 2];
        println!("{method:?}, {subject:?}: median swap {median:?} beside {reads:?} reads");
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

/// Swaps to and fro, each time after the readers have read again. Returns the sorted durations.
fn swap_often(pointer: &LinuxPointer, (subject, reads): (Subject, &AtomicU64)) -> Vec<Duration> {
    let mut times = Vec::new();
    let swaps = std::env::var(FEWER_SWAPS).map_or(SWAPS, |swaps| swaps.parse().unwrap());
    for swap in 0..swaps {
        let before = reads.load(Ordering::Relaxed);
        let (byte, start) = (if swap % 2 == 0 { 2 } else { 1 }, Instant::now());
        subject.show(pointer, byte);
        times.push(start.elapsed());
        assert_eq!(subject.shown(pointer), Some(byte));
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
    if_beneath_works(|| swaps_without_gap_or_mix(Method::Beneath, Subject::Model));
}

#[test]
fn readers_meet_no_gap_and_no_mix_when_tucked() {
    swaps_without_gap_or_mix(Method::Tuck, Subject::Model);
}

/// However models are swapped: a set is swapped in one way everywhere.
#[test]
fn readers_of_a_set_meet_all_its_models_old_or_all_new() {
    swaps_without_gap_or_mix(Method::Tuck, Subject::Set);
}

fn if_beneath_works(test: impl FnOnce()) {
    if Method::Beneath.works() { test() } else { println!("skipped: this kernel cannot mount beneath") }
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
            Subject::Set.show(&pointer, 1);
            assert!(below().len() > before.len(), "{method:?}");
            assert!(dismantle(&config(method).dir).is_empty());
            assert!(dismantle(&config(method).dir).is_empty(), "nothing is there any more");
            // The table still lists what the test's own file system covers.
            let left: Vec<_> = below()
                .into_iter()
                .filter(|point| {
                    let point = point.to_string_lossy();
                    point.starts_with("/run/models") || point.starts_with("/run/sets")
                })
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
fn a_hundred_namespaces_follow(method: Method, subject: Subject) {
    let body = || {
        let pointer = open_pointer(method);
        subject.show(&pointer, 1);
        let own = own_mounts();
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        let (ready, end) = (Barrier::new(NAMESPACES + 1), Barrier::new(NAMESPACES + 1));
        let follow = |reader: bool| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).unwrap();
            let mounts = own_mounts();
            ready.wait();
            let faults = if reader { read_until(&stop, (subject, &reads)) } else { Vec::new() };
            end.wait();
            let last = subject.read_once().unwrap();
            (faults, own_mounts() == mounts, last)
        };
        std::thread::scope(|scope| {
            let (follow, stops) = (&follow, Stops(&stop));
            let followers: Vec<_> =
                (0..NAMESPACES).map(|number| scope.spawn(move || follow(number < READERS))).collect();
            ready.wait();
            let times = swap_often(&pointer, (subject, &reads));
            drop(stops);
            end.wait();
            for follower in followers {
                let (faults, constant, last) = follower.join().unwrap();
                assert!(faults.is_empty(), "{method:?}: {} faults, first: {}", faults.len(), faults[0]);
                assert!(constant, "{method:?} leaves mounts in a namespace that follows");
                assert_eq!(last, 1);
            }
            let median = times[times.len() / 2];
            println!("{method:?}, {subject:?}, {NAMESPACES} namespaces: median {median:?}, {reads:?} reads");
        });
        assert_eq!(own_mounts(), own, "{method:?} leaves no mount behind");
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

#[test]
fn a_hundred_namespaces_follow_a_thousand_swaps_beneath() {
    if_beneath_works(|| a_hundred_namespaces_follow(Method::Beneath, Subject::Model));
}

#[test]
fn a_hundred_namespaces_follow_a_thousand_tucks() {
    a_hundred_namespaces_follow(Method::Tuck, Subject::Model);
}

#[test]
fn a_hundred_namespaces_follow_a_thousand_swaps_of_a_set() {
    a_hundred_namespaces_follow(Method::Tuck, Subject::Set);
}

/// Not a test of its own: the daemon that [`killed_among_swaps`] kills.
#[test]
fn child() {
    let method = match std::env::var(SWAPS_BY).as_deref() {
        Ok("Beneath") => Method::Beneath,
        Ok("Tuck") => Method::Tuck,
        _ => return,
    };
    let subject =
        if std::env::var(SWAPS_WHAT).is_ok_and(|what| what == "Set") { Subject::Set } else { Subject::Model };
    let pointer = LinuxPointer::open(&config(method)).unwrap();
    for byte in [1, 2].into_iter().cycle() {
        subject.show(&pointer, byte);
        // Whoever listens knows that swaps go on.
        println!("{byte}");
    }
}

/// Kills a daemon that swaps without a pause, with `kill -9`, again and again; the next one opens the pointers. Readers
/// meet whole versions all the time, and no mount is left.
fn killed_among_swaps(method: Method, subject: Subject) {
    let body = || {
        let pointer = open_pointer(method);
        subject.show(&pointer, 1);
        drop(pointer);
        let mounts = own_mounts();
        let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..READERS).map(|_| scope.spawn(|| read_until(&stop, (subject, &reads)))).collect();
            let (stops, mut half_way) = (Stops(&stop), 0);
            for kill in 0..KILLS {
                kill_a_daemon(method, subject, kill);
                half_way += usize::from(own_mounts() != mounts);
                let pointer = LinuxPointer::open(&config(method)).unwrap();
                assert!(subject.shown(&pointer).is_some(), "{method:?}: nothing is shown");
                assert_eq!(own_mounts(), mounts, "{method:?} after kill {kill}");
            }
            drop(stops);
            let faults: Vec<_> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
            assert!(faults.is_empty(), "{method:?}: {} faults, first: {}", faults.len(), faults[0]);
            println!("{method:?}, {subject:?}: {half_way} of {KILLS} kills half-way, {reads:?} reads");
        });
        Ok(())
    };
    in_private_namespace(body).unwrap();
}

fn kill_a_daemon(method: Method, subject: Subject, kill: u32) {
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(SWAPS_BY, format!("{method:?}"))
        .env(SWAPS_WHAT, format!("{subject:?}"))
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
    if_beneath_works(|| killed_among_swaps(Method::Beneath, Subject::Model));
}

#[test]
fn daemons_killed_among_tucks_leave_one_whole_version() {
    killed_among_swaps(Method::Tuck, Subject::Model);
}

#[test]
fn daemons_killed_among_swaps_of_a_set_leave_one_whole_set() {
    killed_among_swaps(Method::Tuck, Subject::Set);
}
