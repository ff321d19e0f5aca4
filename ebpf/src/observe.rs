//! The accounts of a version, kept at the border of its cgroup: requests, answers by class, time to the last byte, ends.
//! Nothing a worker does or leaves undone keeps a request out of them. Never blocks a packet.
//!
//! A request begins with its first byte and its clock starts with its last. Its latency is booked with the first bytes
//! of the answer and moved to the bucket of each later byte, so that an answer counts as soon as it is out, also on
//! a connection that then idles, and one that dribbles counts as slow as it is. Blind to: requests that a client
//! pipelines into one segment (counted as one), and what an answer says beyond its status.

use crate::maps::{CONNECTIONS, COUNTERS, LATENCIES};
use crate::segment::Segment;
use aya_ebpf::bindings::{BPF_TCP_LISTEN, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_sk_fullsock, bpf_tcp_sock};
use aya_ebpf::programs::SkBuffContext;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use turnout_ebpf_layout::{Connection, ROUTER_MARK, SLOTS, counter, histogram, phase, seen};

const ALLOW: i32 = 1;
/// Length of `HTTP/1.1 100 Continue` and the blank line: a final answer may follow in the same segment.
const CONTINUE: u32 = 25;
/// A client that says it will send no more so long after its request, nanoseconds, has given up waiting; one that says
/// so at once has only closed its half.
const GIVES_UP: u64 = 1_000_000;
/// Length of `HTTP/1.1 200`.
const STATUS: usize = 12;

/// A packet to a worker.
#[inline(always)]
pub fn request_in(context: &SkBuffContext) -> i32 {
    let Some(segment) = Segment::read(context).filter(|segment| !segment.is_bare()) else { return ALLOW };
    let Some((connection, _)) = account(context, segment.destination) else { return ALLOW };
    if segment.advances(&mut connection.in_end, connection.seen & seen::INPUT != 0) {
        connection.seen |= seen::INPUT;
        ask(connection, context, &segment);
    }
    if segment.ends() {
        connection.seen |= seen::CLIENT_END;
        wait_in_vain(connection);
    }
    if segment.resets() {
        connection.seen |= seen::CLIENT_END;
        end(connection);
    }
    ALLOW
}

/// A packet from a worker.
#[inline(always)]
pub fn answer_out(context: &SkBuffContext) -> i32 {
    let Some(segment) = Segment::read(context).filter(|segment| !segment.is_bare()) else { return ALLOW };
    let Some((connection, socket)) = account(context, segment.source) else { return ALLOW };
    if segment.advances(&mut connection.out_end, connection.seen & seen::OUTPUT != 0) {
        connection.seen |= seen::OUTPUT;
        if connection.phase == phase::IDLE && connection.seen & seen::INPUT == 0 && has_received(socket) {
            begin(connection, 0);
        }
        if connection.phase == phase::ASKED {
            answer(connection, class(context, &segment));
        } else if connection.phase == phase::ANSWERING {
            prolong(connection);
        }
    }
    if segment.ends() || segment.resets() {
        end(connection);
    }
    ALLOW
}

/// The account of the packet's connection, when it came through the public port of a tagged listener, or from the
/// router to the listener itself: a stranger's that goes there is nobody's. What arrives at
/// the listener itself has no connection yet: written there, it would be inherited by every later one.
#[inline(always)]
fn account(context: &SkBuffContext, port: u32) -> Option<(&'static mut Connection, *mut bpf_sock)> {
    // SAFETY: the kernel hands in a valid context, and its socket is null or held while the program runs.
    let socket = unsafe { (*context.skb.skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: `socket` is not null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    // SAFETY: read only when it is not null.
    if socket.is_null() || unsafe { (*socket).state } == BPF_TCP_LISTEN {
        return None;
    }
    // SAFETY: the storage lives as long as its socket. Two CPUs may write it at once (a packet each way): fields are
    // single words, and the worst outcome is one miscounted end or wait.
    let connection = unsafe { &mut *CONNECTIONS.of(socket)? };
    let counts = connection.port == port || routed(context, connection);
    (counts && connection.slot < SLOTS).then_some((connection, socket))
}

/// Whether the connection is the router's: its packets carry the mark, the worker's answers do not.
#[inline(always)]
fn routed(context: &SkBuffContext, connection: &mut Connection) -> bool {
    // SAFETY: the kernel hands in a valid context.
    if unsafe { (*context.skb.skb).mark } == ROUTER_MARK {
        connection.seen |= seen::ROUTED;
    }
    connection.seen & seen::ROUTED != 0
}

/// Whether the client's bytes came with the handshake, where only the listener sees them: such a request is counted,
/// its time is not known.
#[inline(always)]
fn has_received(socket: *mut bpf_sock) -> bool {
    // SAFETY: `socket` is a full socket; the result is checked before it is read.
    unsafe {
        let tcp = bpf_tcp_sock(socket);
        !tcp.is_null() && (*tcp).bytes_received > 0
    }
}

/// Whether bytes that come after an answer has begun are a new request: they begin like a method. Other bytes
/// are the rest of a body that was answered early.
#[inline(always)]
fn begins_request(context: &SkBuffContext, segment: &Segment) -> bool {
    match segment.payload_bytes::<4>(context, 0) {
        Some(bytes) => {
            bytes[0].is_ascii_uppercase()
                && bytes.iter().all(|&b| b.is_ascii_uppercase() || b == b' ' || b == b'-')
        }
        None => segment.payload_bytes::<1>(context, 0).is_some_and(|bytes| bytes[0].is_ascii_uppercase()),
    }
}

/// Bytes of a request. After the worker's end they are unanswerable: the first request of a connection was
/// refused by its worker, a later one has only crossed the end of an idle connection (HTTP says: try again).
#[inline(always)]
fn ask(connection: &mut Connection, context: &SkBuffContext, segment: &Segment) {
    let over = connection.seen & seen::END != 0;
    if over && connection.seen & seen::REQUEST != 0 {
        return;
    }
    take_back(connection);
    if connection.phase == phase::ASKED {
        connection.last_in = now();
    } else if connection.phase == phase::IDLE || begins_request(context, segment) {
        begin(connection, now());
    }
    if over {
        connection.seen &= !seen::END;
        end(connection);
    }
}

#[inline(always)]
fn begin(connection: &mut Connection, at: u64) {
    if connection.seen & seen::REQUEST == 0 {
        connection.seen |= seen::REQUEST;
        count(connection, counter::OPENED);
    }
    count(connection, counter::REQUESTS);
    connection.last_in = at;
    connection.phase = phase::ASKED;
}

#[inline(always)]
fn answer(connection: &mut Connection, class: u32) {
    count(connection, class);
    if class == counter::INTERIM {
        return;
    }
    take_back(connection);
    connection.phase = phase::ANSWERING;
    connection.last_out = now();
    if connection.last_in != 0 {
        book(connection, connection.last_out, 1);
    }
}

/// A client that leaves without an answer has waited at least so long. It may only have closed its half: an answer then
/// takes the place of this, and so does the connection's end. A worker that does nothing comes to neither.
#[inline(always)]
fn wait_in_vain(connection: &mut Connection) {
    let waits = connection.phase == phase::ASKED && connection.last_in != 0;
    if waits && connection.seen & seen::WAITED == 0 {
        let now = now();
        if now.saturating_sub(connection.last_in) >= GIVES_UP {
            connection.last_out = now;
            connection.seen |= seen::WAITED;
            book(connection, now, 1);
        }
    }
}

/// Takes back what [`wait_in_vain`] has booked, before either end of that time changes.
#[inline(always)]
fn take_back(connection: &mut Connection) {
    if connection.seen & seen::WAITED != 0 {
        connection.seen &= !seen::WAITED;
        book(connection, connection.last_out, -1);
    }
}

#[inline(always)]
fn prolong(connection: &mut Connection) {
    let now = now();
    if connection.last_in != 0 {
        book(connection, connection.last_out, -1);
        book(connection, now, 1);
    }
    connection.last_out = now;
}

/// The connection is over. An unanswered request is the fault of whoever left first.
#[inline(always)]
fn end(connection: &mut Connection) {
    if connection.phase == phase::ASKED {
        let client_left = connection.seen & seen::CLIENT_END != 0;
        count(connection, if client_left { counter::CLIENT_GONE } else { counter::ABORTED });
        take_back(connection);
        // A client that has waited in vain has waited at least so long.
        if client_left && connection.last_in != 0 {
            book(connection, now(), 1);
        }
    }
    connection.phase = phase::IDLE;
    if connection.seen & (seen::REQUEST | seen::END) == seen::REQUEST {
        count(connection, counter::CLOSED);
    }
    connection.seen |= seen::END;
}

/// The counter of an answer, by its first bytes.
#[inline(always)]
fn class(context: &SkBuffContext, segment: &Segment) -> u32 {
    let class = class_at(context, segment, 0);
    let blank_line = segment.payload_bytes::<4>(context, CONTINUE - 4);
    if class == counter::INTERIM && segment.payload > CONTINUE && blank_line == Some(*b"\r\n\r\n") {
        return class_at(context, segment, CONTINUE);
    }
    class
}

#[inline(always)]
fn class_at(context: &SkBuffContext, segment: &Segment, offset: u32) -> u32 {
    let Some(line) = segment.payload_bytes::<STATUS>(context, offset) else { return counter::NOT_HTTP };
    let begins = u64::from_be_bytes([line[0], line[1], line[2], line[3], line[4], line[5], line[6], line[8]]);
    if begins != u64::from_be_bytes(*b"HTTP/1. ") || !line[10].is_ascii_digit() || !line[11].is_ascii_digit()
    {
        return counter::NOT_HTTP;
    }
    match line[9] {
        b'1' => counter::INTERIM,
        b'2' | b'3' => counter::SUCCESS,
        b'4' => counter::CLIENT_ERROR,
        b'5' => counter::SERVER_ERROR,
        _ => counter::NOT_HTTP,
    }
}

#[inline(always)]
fn count(connection: &Connection, kind: u32) {
    add(COUNTERS.get_ptr_mut(connection.slot * counter::COUNT + kind), 1);
}

/// Adds to the bucket of an answer whose last byte went at `out`. Sums over CPUs are right although what one CPU
/// added another may take away.
#[inline(always)]
fn book(connection: &Connection, out: u64, amount: i64) {
    let bucket = histogram::bucket(out.saturating_sub(connection.last_in));
    add(LATENCIES.get_ptr_mut(connection.slot * histogram::BUCKETS + bucket), amount);
}

/// Atomic, although the element is this CPU's own: a worker's packet is sent in process context, where another
/// process or a packet that comes in may take the CPU between the read and the write.
#[inline(always)]
fn add(element: Option<*mut u64>, amount: i64) {
    if let Some(element) = element {
        let amount = amount.cast_unsigned();
        // SAFETY: an aligned element of the map, which lives as long as the program.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(element, amount) };
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and only reads the clock.
    unsafe { bpf_ktime_get_ns() }
}
