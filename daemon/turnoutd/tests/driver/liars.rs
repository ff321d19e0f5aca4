//! Workers that lie in every message they may send, say too much, or say nothing: the real link, the real driver. A lie
//! ends the liar's own release at most; the version that is live serves all the while, and the reason is on record.

use crate::stage::{PORT, Stage, V1, V2, model, plan};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use turnout_engine::Event;
use turnout_engine::record::End;
use turnout_host::cells::{Cells, WorkerState};
use turnout_host::fake::FakeHost;
use turnout_manifest::plan::Windows;
use turnout_manifest::{Generation, Percent, Plan};
use turnout_protocol::frame::{self, FRAME_MAX};
use turnout_protocol::worker::{Counts, FromWorker, LINK_VERSION, ToWorker};
use turnoutd::pace::MESSAGES_PER_SECOND;
use turnoutd::supervise::{LinkedWorkers, Workers};

pub type Lie = fn(&OwnedFd);

/// What a liar does when it is told to leave.
#[derive(PartialEq, Eq)]
pub enum Told {
    Leaves,
    Stays,
}

/// The worker of version 2, played: it waits for its assignment, lies, and lives on until it is told to leave or ended.
pub fn play(stage: &Stage, lie: Lie, told: Told) -> JoinHandle<()> {
    let link = stage.host.link_to(V2).unwrap();
    let host = Arc::clone(&stage.host);
    std::thread::spawn(move || {
        let assigned: ToWorker = frame::receive(&link).unwrap();
        assert!(matches!(assigned, ToWorker::Assign(_)));
        lie(&link);
        rustix::io::ioctl_fionbio(&link, true).unwrap();
        while host.worker(V2) == Some(WorkerState::Running) {
            let drain = matches!(frame::receive(&link), Ok(ToWorker::Drain { .. }));
            if drain && told == Told::Leaves {
                host.end_worker(V2, WorkerState::Exited(0));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    })
}

/// A release of version 2 with this worker: how it ended, and why. Version 1 served all the while: every turn of the
/// stage checks that.
fn release_of(lie: Lie) -> (End, Vec<String>) {
    release_with(plan(), lie)
}

/// No window has enough requests: the release stays where it is until something happens.
fn waiting() -> Plan {
    Plan { minimum_requests: 1_000_000, ..plan() }
}

fn release_with(plan: Plan, lie: Lie) -> (End, Vec<String>) {
    let mut stage = Stage::linked();
    let liar = play(&stage, lie, Told::Leaves);
    stage.ask(Stage::start("2", plan)).unwrap();
    let end = stage.settle();
    if end == End::RolledBack {
        assert_eq!(stage.arms(), [(V1, Percent::ALL)]);
        liar.join().unwrap();
    }
    assert_eq!(stage.running().driver.world().models[&model()].port, PORT, "the loop goes on");
    (end, stage.release().causes)
}

pub fn say(link: &OwnedFd, message: &FromWorker) {
    frame::send(link, message).unwrap();
}

pub fn ready(link: &OwnedFd) {
    say(link, &FromWorker::Ready { load_ms: 1 });
}

/// Far more than is allowed, as fast as the daemon takes it; a link that stays full is one that nobody reads any more.
fn flood(link: &OwnedFd, bytes: &[u8]) {
    let (mut sent, mut refused) = (0, 0);
    while sent < 10 * MESSAGES_PER_SECOND && refused < 200 {
        match send(link, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => (sent, refused) = (sent + 1, 0),
            Err(_) => {
                refused += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[test]
fn a_lie_on_the_way_to_readiness_ends_the_liars_release_with_the_reason() {
    let cases: [(&str, Lie, &str); 6] = [
        (
            "a version",
            |link| say(link, &FromWorker::Hello { link_version: LINK_VERSION + 1 }),
            "link version",
        ),
        (
            "a reason",
            |link| say(link, &FromWorker::Failed { reason: "no weights\n\u{7}".into() }),
            "no weights  ",
        ),
        ("no JSON", |link| assert!(send(link, b"{]", SendFlags::empty()).is_ok()), "no message of the link"),
        (
            "an order",
            |link| frame::send(link, &ToWorker::Drain { idle_ms: 0 }).unwrap(),
            "no message of the link",
        ),
        (
            "too long",
            |link| assert!(send(link, &[b' '; FRAME_MAX + 1], SendFlags::empty()).is_ok()),
            "exceeds the limit",
        ),
        ("silence", |_| (), "not ready within 1 s"),
    ];
    for (what, lie, why) in cases {
        let (end, causes) = release_of(lie);
        assert_eq!(end, End::RolledBack, "{what}");
        assert!(causes[0].contains(why) && causes.len() == 1, "{what}: {causes:?}");
    }
}

#[test]
fn a_reason_is_kept_as_long_as_a_person_reads() {
    let (_, causes) =
        release_of(|link| say(link, &FromWorker::Failed { reason: "x".repeat(FRAME_MAX - 100) }));
    assert!(causes[0].len() < 1100, "{} bytes went into the journal", causes[0].len());
}

#[test]
fn a_flood_before_readiness_is_stopped_and_recorded() {
    let floods: [Lie; 2] = [|link| flood(link, b"{]"), |link| flood(link, br#"{"say":"ready","load_ms":1}"#)];
    for flood_of in floods {
        let (end, causes) = release_with(waiting(), flood_of);
        assert_eq!(end, End::RolledBack);
        // The first message may have ended the release before the flood was one.
        let named = ["more than 200 messages in a second", "no message of the link"];
        assert!(named.iter().any(|why| causes[0].contains(why)), "{causes:?}");
    }
}

#[test]
fn a_flood_of_a_version_with_traffic_ends_its_release() {
    let (end, causes) = release_with(waiting(), |link| {
        ready(link);
        flood(
            link,
            br#"{"say":"counts","requests":1,"contract_refusals":0,"assertion_failures":0,"run_failures":0}"#,
        );
    });
    assert_eq!(end, End::RolledBack);
    assert_eq!(
        causes,
        ["the new version's worker broke the rules of its link: more than 200 messages in a second"]
    );
}

#[test]
fn counts_beyond_measure_are_held_to_what_the_kernel_saw() {
    let mut stage = Stage::linked();
    let most = u64::MAX;
    let lie: Lie = |link| {
        ready(link);
        let most = Counts { requests: u64::MAX, assertion_failures: u64::MAX, ..Counts::default() };
        for number in 0..100 {
            let counts = if number % 2 == 0 { Counts::default() } else { most };
            say(link, &FromWorker::Counts(counts));
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let _liar = play(&stage, lie, Told::Leaves);
    let long = Plan { windows: Windows { look_back: 40, consecutive: 40 }, ..plan() };
    stage.ask(Stage::start("2", long)).unwrap();
    // The plan has no objective for assertions: all that could go wrong is the record itself.
    assert_eq!(stage.settle(), End::Promoted);
    for judged in &stage.release().windows {
        let figures = &judged.window.candidate;
        assert!(figures.assertion_failures <= figures.requests && figures.requests < most, "{figures:?}");
    }
}

#[test]
fn a_worker_that_stays_when_told_to_leave_is_killed() {
    let mut stage = Stage::linked();
    let lie: Lie = |link| say(link, &FromWorker::Failed { reason: "no".into() });
    let liar = play(&stage, lie, Told::Stays);
    stage.ask(Stage::start("2", plan())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    liar.join().unwrap();
    assert_eq!(stage.host.worker(V2), None);
    assert!(!stage.host.admitted().contains(&V2), "its listener is still in the route");
}

#[test]
fn a_worker_that_never_reads_holds_nobody_up() {
    let (workers, host, link) = alone();
    workers.supervise(V1).unwrap();
    // Far more than the link's queue takes: each call returns at once.
    for _ in 0..20_000 {
        workers.connection_life(V1, Some(Duration::from_millis(1)));
    }
    workers.drain(V1, Duration::ZERO);
    host.kill_worker(V1).unwrap();
    assert!(workers.ended_within(V1, Duration::from_secs(10)));
    drop(link);
}

#[test]
fn descriptors_that_a_worker_sends_along_are_not_kept() {
    let (workers, _host, link) = alone();
    workers.supervise(V1).unwrap();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    let file = std::fs::File::open("/dev/null").unwrap();
    for requests in 1..=100 {
        let counts = FromWorker::Counts(Counts { requests, ..Counts::default() });
        let bytes = serde_json::to_vec(&counts).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        let sent = [file.as_fd()];
        assert!(beside.push(SendAncillaryMessage::ScmRights(&sent)));
        sendmsg(&link, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL).unwrap();
    }
    while workers.counts(V1).is_none_or(|counts| counts.requests < 100) {
        std::thread::yield_now();
    }
    // Other tests of this process open files too: a leak would be a hundred.
    assert!(open() < before + 100, "{before} before, {} now", open());
}

#[test]
fn a_link_that_is_closed_is_no_end_and_no_event() {
    let (workers, host, link) = alone();
    workers.supervise(V1).unwrap();
    drop(link);
    assert!(!workers.ended_within(V1, Duration::from_millis(50)), "the process lives");
    host.kill_worker(V1).unwrap();
    assert!(workers.ended_within(V1, Duration::from_secs(10)));
}

#[test]
fn a_worker_that_has_ended_keeps_no_descriptor_of_the_daemon() {
    let (workers, host, link) = alone();
    workers.supervise(V1).unwrap();
    host.kill_worker(V1).unwrap();
    assert!(workers.ended_within(V1, Duration::from_secs(10)));
    // The host's own copy goes when another link takes its place.
    drop(host.link_to(V1).unwrap());
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut closed = [PollFd::new(&link, PollFlags::empty())];
    assert_eq!(poll(&mut closed, Some(&limit)).unwrap(), 1, "its end is still open");
    assert!(closed[0].revents().contains(PollFlags::HUP));
}

/// The real links over a host with one running worker, and the worker's end.
fn alone() -> (LinkedWorkers, Arc<FakeHost>, OwnedFd) {
    let stage = Stage::linked();
    let host = Arc::new((*stage.host).clone());
    let link = host.link_to(V1).unwrap();
    let sink = |event| assert!(matches!(event, Event::Died { generation: Generation(1), .. }), "{event:?}");
    (LinkedWorkers::new(host.clone(), Arc::new(sink)), host, link)
}
