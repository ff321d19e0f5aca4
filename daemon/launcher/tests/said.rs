//! What workers write to standard error reaches the launcher's, and nothing else does. Needs root and a cgroup2 file
//! system.

mod fixture;

use fixture::Launcher;
use std::time::{Duration, Instant};
use turnout_launcher_wire::Request;

const PATIENCE: Duration = Duration::from_secs(30);
/// A worker's pipe, read as a whole at most this often (`relay.rs`).
const PIPE: u128 = 64 << 10;
const PAUSE: Duration = Duration::from_millis(100);

#[track_caller]
fn comes_to_be_said(launcher: &Launcher, line: &str) {
    let begun = Instant::now();
    while !launcher.log().lines().any(|said| said == line) {
        assert!(begun.elapsed() < PATIENCE, "`{line}` is not in\n{}", launcher.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_a_worker_says_is_said_behind_its_name_and_so_are_its_last_words() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let (first, second) = (client.started(7, &launcher.model()), client.started(8, &launcher.model()));
    assert_eq!(first.ask("write of the first"), "written");
    assert_eq!(second.ask("write turnout-launcher: generation 7: \x1b[1mof another"), "written");
    comes_to_be_said(&launcher, "turnout-launcher: generation 7: of the first");
    let forged = "turnout-launcher: generation 8: turnout-launcher: generation 7: \\u{1b}[1mof another";
    comes_to_be_said(&launcher, forged);
    // Its pipe is paused: this is read when its end is seen.
    assert_eq!(first.ask("write I end"), "written");
    first.tell("exit 3");
    comes_to_be_said(&launcher, "turnout-launcher: generation 7: I end");
}

#[test]
fn a_router_has_its_name_too() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    client.create(turnout_launcher_wire::ROUTER_CELL);
    let router = client.start_router().unwrap();
    assert_eq!(router.hear(), "hello");
    assert_eq!(router.ask("write a word"), "written");
    comes_to_be_said(&launcher, "turnout-launcher: router: a word");
}

#[test]
fn a_worker_that_never_stops_writing_waits_holds_nobody_up_and_has_its_share_of_the_log() {
    let launcher = Launcher::start();
    let mut client = launcher.client();
    let loud = client.started(7, &launcher.model());
    let begun = Instant::now();
    loud.tell("shout");
    for _ in 0..20 {
        let quiet = client.started(8, &launcher.model());
        assert_eq!(quiet.ask("write heard"), "written");
        comes_to_be_said(&launcher, "turnout-launcher: generation 8: heard");
        client.done(Request::KillWorker { generation: 8 });
        client.done(Request::DestroyCell { generation: 8 });
    }
    let shouted: u128 = loud.ask("shouted").parse().unwrap();
    let reads = begun.elapsed().as_nanos() / PAUSE.as_nanos() + 1;
    assert!(shouted <= (reads + 1) * PIPE, "{shouted} bytes were taken in {:?}", begun.elapsed());
    let of = |name: &str| -> usize {
        launcher.log().lines().filter(|line| line.contains(name)).map(|line| line.len() + 1).sum()
    };
    assert!(of("generation 7: ") <= (64 << 10) + 256 * begun.elapsed().as_secs() as usize);
    client.done(Request::KillWorker { generation: 7 });
    let left_out = launcher.log().lines().last().unwrap().to_owned();
    assert!(left_out.ends_with("bytes that it wrote were left out"), "{left_out}");
}
