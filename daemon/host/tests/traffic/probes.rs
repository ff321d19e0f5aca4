//! What the kernel saw of a version: exact counts, whole times, and nothing a worker can hide.

use crate::scene::*;
use crate::worker;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use turnout_ebpf_layout::histogram;
use turnout_host::traffic::{Probes, Sample, Spread, Traffic};

/// Lower bounds are exact: nothing makes an answer faster. Upper bounds leave room for a busy machine.
const SLACK: Duration = Duration::from_secs(2);

/// How many answers took `least` to `least + SLACK`.
fn within(sample: &Sample, least: Duration) -> u64 {
    let least_bucket = histogram::bucket(least.as_nanos() as u64);
    let most_bucket = histogram::bucket((least + SLACK).as_nanos() as u64);
    sample.latencies[least_bucket as usize..=most_bucket as usize].iter().sum()
}

#[test]
fn answers_are_counted_by_class() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    let mut stream = TcpStream::connect(public()).unwrap();
    for (status, times) in [(200, 5), (204, 1), (302, 2), (404, 3), (500, 4), (503, 1)] {
        for _ in 0..times {
            assert_eq!(ask(&mut stream, &format!("status/{status}")).unwrap().0, status);
        }
    }
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.success, seen.client_errors, seen.server_errors], [16, 8, 3, 5]);
    assert_eq!(
        [seen.opened, seen.closed, seen.not_http, seen.aborted],
        [1, 0, 0, 0],
        "one connection kept alive"
    );
    drop(stream);
    let seen = sample_when(&traffic, |sample| sample.closed == 1);
    assert_eq!([seen.opened, seen.aborted, seen.client_gone], [1, 0, 0]);
}

#[test]
fn time_runs_to_the_last_byte_also_on_a_connection_that_then_idles() {
    let wait = Duration::from_millis(80);
    for path in ["slow/80", "late/80"] {
        let mut scene = Scene::in_order();
        let traffic = scene.single("127.0.0.1:0");
        let mut stream = TcpStream::connect(public()).unwrap();
        for _ in 0..4 {
            ask(&mut stream, path).unwrap();
        }
        let seen = traffic.sample(STABLE).unwrap();
        assert_eq!([within(&seen, wait), seen.latencies.iter().sum()], [4, 4], "{path}");
        assert!(ask(&mut stream, "").is_ok());
        let fast = traffic.sample(STABLE).unwrap().since(&seen);
        assert_eq!([fast.requests, fast.latencies.iter().sum()], [1, 1], "{path}");
    }
}

#[test]
fn an_answer_of_many_segments_counts_once() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    for _ in 0..20 {
        assert_eq!(ask_once(public(), "large/500000").unwrap().1.len(), 500_000);
    }
    let seen = sample_when(&traffic, |sample| sample.closed == 20);
    assert_eq!([seen.requests, seen.success, seen.latencies.iter().sum()], [20, 20, 20]);
}

#[test]
fn a_slow_client_is_no_slow_version() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    let mut stream = TcpStream::connect(public()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"POST /slow/20 HTTP/1.1\r\ncontent-length: 6\r\n\r\nabc").unwrap();
    thread::sleep(SLACK + Duration::from_millis(500));
    stream.write_all(b"def").unwrap();
    assert_eq!(answer(&mut stream).unwrap().0, 200);
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.success], [1, 1]);
    let fast = histogram::bucket(SLACK.as_nanos() as u64) as usize;
    assert_eq!(
        seen.latencies[..fast].iter().sum::<u64>(),
        1,
        "the clock starts with the last byte of the request"
    );
}

#[test]
fn interim_answers_are_no_answers() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    let mut stream = TcpStream::connect(public()).unwrap();
    stream
        .write_all(b"POST /continue/60 HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        .unwrap();
    assert_eq!(answer(&mut stream).unwrap().0, 100);
    stream.write_all(b"body").unwrap();
    assert_eq!(answer(&mut stream).unwrap().0, 200);
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.success, within(&seen, Duration::from_millis(60))], [1, 1, 1]);
    assert_eq!(ask(&mut stream, "both").unwrap().0, 100);
    assert_eq!(answer(&mut stream).unwrap().0, 503);
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!(
        [seen.requests, seen.success, seen.server_errors],
        [2, 1, 1],
        "the final one in the same segment"
    );
}

#[test]
fn a_body_that_is_answered_early_is_one_request() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    let mut stream = TcpStream::connect(public()).unwrap();
    stream.write_all(b"POST /early-status HTTP/1.1\r\ncontent-length: 8\r\n\r\n").unwrap();
    assert_eq!(answer(&mut stream).unwrap().0, 200);
    stream.write_all(b"{\"a\": 1}").unwrap();
    ask(&mut stream, "").unwrap();
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.success], [2, 2]);
}

#[test]
fn what_is_no_http_is_an_error() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    let mut stream = TcpStream::connect(public()).unwrap();
    stream.write_all(b"GET /garbage HTTP/1.1\r\n\r\n").unwrap();
    stream.peek(&mut [0]).unwrap();
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.success, seen.not_http], [1, 0, 1]);
}

#[test]
fn requests_without_an_answer_are_the_fault_of_who_left_first() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    for _ in 0..10 {
        assert!(ask_once(public(), "abort").is_err());
    }
    let seen = sample_when(&traffic, |sample| sample.closed == 10);
    assert_eq!([seen.requests, seen.aborted, seen.client_gone], [10, 10, 0]);
    assert_eq!(seen.latencies.iter().sum::<u64>(), 0);

    let mut impatient = TcpStream::connect(public()).unwrap();
    impatient.write_all(b"GET /slow/60000 HTTP/1.1\r\n\r\n").unwrap();
    sample_when(&traffic, |sample| sample.requests == 11);
    drop_with_reset(impatient);
    let seen = sample_when(&traffic, |sample| sample.closed == 11);
    assert_eq!([seen.aborted, seen.client_gone, seen.success], [10, 1, 0]);
    assert_eq!(seen.latencies.iter().sum::<u64>(), 1, "it has waited at least so long");

    let mut half_closed = TcpStream::connect(public()).unwrap();
    half_closed.write_all(b"GET /slow/20 HTTP/1.1\r\n\r\n").unwrap();
    half_closed.shutdown(Shutdown::Write).unwrap();
    assert_eq!(answer(&mut half_closed).unwrap().0, 200);
    let seen = sample_when(&traffic, |sample| sample.closed == 12);
    assert_eq!(
        [seen.success, seen.aborted, seen.client_gone],
        [1, 10, 1],
        "a half-closed client gets its answer"
    );
    let slowest = seen.latencies.iter().rposition(|count| *count > 0).unwrap();
    assert_eq!(seen.latencies.iter().sum::<u64>(), 2);
    assert!(slowest as u32 >= histogram::bucket(20_000_000), "the time of the answer, not of its leaving");
}

#[test]
fn a_client_that_leaves_a_worker_that_does_nothing_has_waited_in_vain() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    let mut patient = TcpStream::connect(public()).unwrap();
    let asked = Instant::now();
    patient.write_all(b"GET /slow/60000 HTTP/1.1\r\n\r\n").unwrap();
    sample_when(&traffic, |sample| sample.requests == 1);
    thread::sleep(Duration::from_millis(50));
    // Without a reset: to the worker the connection is half open, for as long as it likes.
    drop(patient);
    let seen = sample_when(&traffic, |sample| sample.latencies.iter().sum::<u64>() == 1);
    assert_eq!([seen.closed, seen.aborted, seen.client_gone, seen.success], [0, 0, 0, 0]);
    let bucket = seen.latencies.iter().position(|count| *count > 0).unwrap();
    let longest = u64::try_from(asked.elapsed().as_nanos()).unwrap();
    let possible = histogram::bucket(50_000_000)..=histogram::bucket(longest);
    assert!(possible.contains(&(bucket as u32)), "bucket {bucket} is not in {possible:?}");

    // One that closes its half at once has not given up: what it waits is known at the end alone.
    let mut half_closed = TcpStream::connect(public()).unwrap();
    half_closed.write_all(b"GET /slow/60000 HTTP/1.1\r\n\r\n").unwrap();
    half_closed.shutdown(Shutdown::Write).unwrap();
    sample_when(&traffic, |sample| sample.requests == 2);
    thread::sleep(Duration::from_millis(50));
    scene.kill(STABLE);
    let seen = sample_when(&traffic, |sample| sample.closed == 2);
    assert_eq!([seen.aborted, seen.client_gone], [0, 2]);
    let waits = || seen.latencies.iter().enumerate().filter(|(_, count)| **count > 0);
    assert_eq!(waits().map(|(_, count)| count).sum::<u64>(), 2, "each is booked once");
    assert!(
        waits().all(|(bucket, _)| bucket as u32 >= histogram::bucket(50_000_000)),
        "{:?}",
        seen.latencies
    );
}

#[test]
fn a_killed_worker_aborts_what_it_had_in_hand() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    let mut waiting: Vec<_> = (0..5).map(|_| TcpStream::connect(public()).unwrap()).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET /slow/60000 HTTP/1.1\r\n\r\n").unwrap();
    }
    sample_when(&traffic, |sample| sample.requests == 5);
    scene.kill(STABLE);
    let seen = sample_when(&traffic, |sample| sample.aborted > 4);
    assert_eq!([seen.requests, seen.aborted, seen.closed], [5, 5, 5]);
}

#[test]
fn a_request_that_comes_with_the_handshake_is_counted_and_spoils_no_later_one() {
    let mut scene = Scene::in_order();
    // Client and server, no cookies needed, every listener (ip-sysctl, tcp_fastopen).
    std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1543").unwrap();
    let traffic = scene.single("127.0.0.1:0");
    for _ in 0..10 {
        assert_eq!(ask_with_handshake(public(), "status/500").unwrap().0, 500);
    }
    let handshakes = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    assert_eq!(fast_opens(&handshakes), 10, "the kernel really carried the data in the handshake");
    assert_eq!(ask_once(public(), "").unwrap().0, 200);
    let seen = sample_when(&traffic, |sample| sample.closed == 11);
    assert_eq!([seen.requests, seen.opened, seen.server_errors, seen.success], [11, 11, 10, 1]);
    assert_eq!(seen.latencies.iter().sum::<u64>(), 1, "when they came is not known");
}

/// `TCPFastOpenPassive` of a netstat table: a line of names, a line of numbers.
fn fast_opens(table: &str) -> u64 {
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:")).map(|line| line.split(' '));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let found = names.zip(numbers).find(|(name, _)| *name == "TCPFastOpenPassive");
    found.unwrap().1.parse().unwrap()
}

#[test]
fn direct_connections_do_not_count() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:9999");
    let direct = SocketAddr::from(([127, 0, 0, 1], 9999));
    for _ in 0..20 {
        assert_eq!(ask_once(direct, "").unwrap().0, 200);
    }
    assert_eq!(ask_once(public(), "").unwrap().0, 200);
    let seen = sample_when(&traffic, |sample| sample.closed == 1);
    assert_eq!([seen.requests, seen.opened], [1, 1]);
}

#[test]
fn ipv6_and_ipv4_are_measured_alike_at_one_listener() {
    for listener in ["[::ffff:127.0.0.1]:0", "[::]:0"] {
        let mut scene = Scene::in_order();
        let traffic = scene.single(listener);
        for address in ["[::1]:8700", "127.0.0.1:8700"] {
            for path in ["status/200", "status/500", "late/10"] {
                ask_once(address.parse().unwrap(), path).unwrap();
            }
        }
        let seen = sample_when(&traffic, |sample| sample.closed == 6);
        assert_eq!([seen.requests, seen.success, seen.server_errors], [6, 4, 2], "{listener}");
        assert!(within(&seen, Duration::from_millis(10)) >= 2, "{listener}");
    }
}

#[test]
fn a_new_generation_in_the_same_slot_starts_at_zero() {
    let mut scene = Scene::in_order();
    let traffic = scene.pair(Spread::Weight, 0);
    ask_once(public(), "").unwrap();
    traffic.admit(STABLE, PORT).unwrap();
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.latencies.iter().sum()], [1, 1], "admitted again, nothing changes");
    scene.replace(STABLE, "127.0.0.1:0");
    traffic.admit(STABLE, PORT).unwrap();
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.opened, seen.latencies.iter().sum()], [0, 0, 0]);
}

#[test]
fn what_the_router_takes_to_a_worker_is_counted_and_what_a_stranger_takes_there_is_not() {
    let mut scene = Scene::in_order();
    let traffic = scene.single("127.0.0.1:0");
    // Any process in the instance's cgroup that opens a connection is the router to the kernel.
    scene.start(ROUTER, worker::ROUTER, "127.0.0.1:0");
    let (router, worker) = (traffic.endpoint(ROUTER).unwrap(), traffic.endpoint(STABLE).unwrap());
    assert_eq!(ask_once(worker, "").unwrap().1, "stable");
    let seen = traffic.sample(STABLE).unwrap();
    assert_eq!([seen.requests, seen.opened], [0, 0], "a stranger's");
    for _ in 0..5 {
        assert_eq!(ask_once(router, &format!("fetch/{}", worker.port())).unwrap().1, "stable");
    }
    let seen = sample_when(&traffic, |sample| sample.closed == 5);
    assert_eq!([seen.requests, seen.success, seen.opened, seen.latencies.iter().sum()], [5, 5, 5, 5]);
    assert_eq!([seen.aborted, seen.client_gone, seen.not_http], [0, 0, 0]);
    // Both ways to one worker at one time.
    ask_once(public(), "").unwrap();
    ask_once(worker, "").unwrap();
    let seen = sample_when(&traffic, |sample| sample.closed == 6);
    assert_eq!([seen.requests, seen.success], [6, 6]);
}

#[test]
fn the_router_reaches_loopback_alone() {
    let mut scene = Scene::in_order();
    let traffic = scene.open();
    scene.start(ROUTER, worker::ROUTER, "127.0.0.1:0");
    let router = traffic.endpoint(ROUTER).unwrap();
    let reached = ask_once(router, "reach/0").unwrap().1;
    assert_eq!(reached, libc::EPERM.to_string(), "without the fence: no route to there");
}
