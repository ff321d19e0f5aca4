#![no_std]
//! Keys and values of the eBPF maps, shared by the programs and the host. Plain `repr(C)`, no padding left unnamed,
//! so that both sides see the same bytes; the layout version is part of the pin path.

pub mod choice;

/// Changes whenever a key or value below changes: maps of another layout are never reused.
pub const LAYOUT_VERSION: u32 = 1;
/// Versions that can be measured and steered to at one time.
pub const SLOTS: u32 = 64;
/// Versions one route can split between.
pub const ARMS: usize = 8;
/// The mark (socket(7), `SO_MARK`) of what the router sends to workers. Setting one takes a capability that neither
/// workers nor strangers without privileges have.
pub const ROUTER_MARK: u32 = 0x74;
/// Addresses one route can be limited to.
pub const ADDRESSES: usize = 4;

/// Key of `ROUTES`: a public port in host byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteKey {
    /// TCP port.
    pub port: u32,
}

/// How a route picks.
pub mod mode {
    /// By the keyed hash of both addresses and both ports.
    pub const WEIGHT: u32 = 0;
    /// By the keyed hash of the client's address.
    pub const SOURCE_HASH: u32 = 1;
}

/// Value of `ROUTES`: one public port's split, replaced as a whole.
/// Arm `i` gets the hashes from `upto[i - 1]` (0 for the first) to below `upto[i]`; the last arm's `upto` is 2^32.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Key of the hash.
    pub salt: u64,
    /// Upper bounds of the arms, rising, 0 to 2^32.
    pub upto: [u64; ARMS],
    /// Slot of each arm in `LISTENERS`.
    pub slot: [u32; ARMS],
    /// Local addresses this route answers on, IPv4 as `[0, 0, 0xffff (big-endian), a.b.c.d]`, each word in network order.
    pub addresses: [[u32; 4]; ADDRESSES],
    /// How many addresses count; 0 is every local address.
    pub address_count: u32,
    /// How many arms count, 1 to [`ARMS`].
    pub arm_count: u32,
    /// One of [`mode`].
    pub mode: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// Value of `CONNECTIONS` (socket storage, inherited from the tagged listener by each accepted socket).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connection {
    /// When the last byte so far of the request under way came, ns (`bpf_ktime_get_ns`); 0 when it was not seen coming.
    pub last_in: u64,
    /// When the last byte of the answer so far went.
    pub last_out: u64,
    /// Slot of the version, set by the tag.
    pub slot: u32,
    /// Public port: connections that came neither through it nor from the router are not measured. Set by the tag.
    pub port: u32,
    /// Next TCP sequence number expected from the client: retransmissions are not new requests.
    pub in_end: u32,
    /// Next TCP sequence number expected from the worker.
    pub out_end: u32,
    /// What the connection is in the middle of: one of [`phase`].
    pub phase: u32,
    /// What happened on it already: bits of [`seen`].
    pub seen: u32,
}

/// What happened on a connection already.
pub mod seen {
    /// A byte from the client: `in_end` counts.
    pub const INPUT: u32 = 1;
    /// A byte from the worker: `out_end` counts.
    pub const OUTPUT: u32 = 2;
    /// The client said it will send no more.
    pub const CLIENT_END: u32 = 4;
    /// A request: the connection was counted as opened.
    pub const REQUEST: u32 = 8;
    /// The end: if it ever had a request, the connection was counted as closed.
    pub const END: u32 = 16;
    /// It comes from the router.
    pub const ROUTED: u32 = 32;
    /// The client said it will send no more before it had an answer: what it had waited by then is booked.
    pub const WAITED: u32 = 64;
}

/// Phases of a connection.
pub mod phase {
    /// Nothing under way.
    pub const IDLE: u32 = 0;
    /// A request has begun and no byte of its answer was seen.
    pub const ASKED: u32 = 1;
    /// The answer has begun.
    pub const ANSWERING: u32 = 2;
}

/// Key of `DEVICES`: one device node for the processes of one cgroup.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceKey {
    /// The cgroup's id (`bpf_get_current_cgroup_id`), which is its directory's inode number.
    pub cgroup: u64,
    /// One of [`device::BLOCK`] and [`device::CHARACTER`].
    pub kind: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// Kinds of devices, and what may be done with one: the value of `DEVICES`. Numbers as the kernel has them (`BPF_DEVCG_*`).
pub mod device {
    /// A block device.
    pub const BLOCK: u32 = 1;
    /// A character device.
    pub const CHARACTER: u32 = 2;
    /// Making a node.
    pub const MAKE: u32 = 1;
    /// Opening it to read.
    pub const READ: u32 = 2;
    /// Opening it to write.
    pub const WRITE: u32 = 4;
    /// Nodes that can be given to all cells together.
    pub const MOST: u32 = 4096;
}

/// Counters of a slot: index `slot * counter::COUNT + kind` in `COUNTERS`.
pub mod counter {
    /// Requests that began.
    pub const REQUESTS: u32 = 0;
    /// Final answers 2xx and 3xx.
    pub const SUCCESS: u32 = 1;
    /// Final answers 4xx.
    pub const CLIENT_ERROR: u32 = 2;
    /// Final answers 5xx.
    pub const SERVER_ERROR: u32 = 3;
    /// Answers that do not begin like HTTP.
    pub const NOT_HTTP: u32 = 4;
    /// Requests whose connection was closed by the worker without a whole answer having begun.
    pub const ABORTED: u32 = 5;
    /// Requests that the client gave up: it reset the connection, or said it will send no more and the worker then
    /// closed without an answer. A client that only closes its half and still gets its answer has not gone.
    pub const CLIENT_GONE: u32 = 6;
    /// Connections that made their first request.
    pub const OPENED: u32 = 7;
    /// Connections that made a request and were closed.
    pub const CLOSED: u32 = 8;
    /// Interim answers 1xx.
    pub const INTERIM: u32 = 9;
    /// Counters a slot has, a power of two.
    pub const COUNT: u32 = 16;
}

/// The latency histogram: index `slot * histogram::BUCKETS + bucket` in `LATENCIES`, nanoseconds to the last byte.
pub mod histogram {
    /// Buckets a slot has.
    pub const BUCKETS: u32 = 512;
    /// Linear sub-buckets per power of two, as a power of two: a bucket is at most 12.5 % wide.
    pub const SUB_BITS: u32 = 3;

    /// The bucket a value in nanoseconds falls into.
    #[inline(always)]
    pub const fn bucket(nanoseconds: u64) -> u32 {
        if nanoseconds < 1 << SUB_BITS {
            return nanoseconds as u32;
        }
        let exponent = 63 - nanoseconds.leading_zeros();
        let sub = (nanoseconds >> (exponent - SUB_BITS)) as u32 & ((1 << SUB_BITS) - 1);
        ((exponent - SUB_BITS + 1) << SUB_BITS) + sub
    }

    /// The greatest value, in nanoseconds, that falls into the bucket.
    pub const fn upper_bound(bucket: u32) -> u64 {
        if bucket < 1 << SUB_BITS {
            return bucket as u64;
        }
        let exponent = (bucket >> SUB_BITS) - 1;
        let sub = (bucket & ((1 << SUB_BITS) - 1)) as u64;
        let width = 1u64 << exponent;
        (((1 << SUB_BITS) + sub) << exponent) + (width - 1)
    }
}

const _: () = assert!(size_of::<Route>() == 8 + 64 + 32 + 64 + 16);
const _: () = assert!(size_of::<Connection>() == 40);
const _: () = assert!(size_of::<DeviceKey>() == 24);
const _: () = assert!(histogram::bucket(u64::MAX) < histogram::BUCKETS);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::histogram::{bucket, upper_bound};

    #[test]
    fn buckets_are_contiguous_and_at_most_an_eighth_wide() {
        let octaves = (6..64).flat_map(|exponent| (0..64).map(move |part| (64 + part) << (exponent - 6)));
        let mut last = None;
        for value in (0..64).chain(octaves) {
            let value: u64 = value;
            let index = bucket(value);
            assert!(upper_bound(index) >= value, "{value} above its bucket {index}");
            assert!(last.is_none_or(|l| index == l || index == l + 1), "gap before {value}");
            assert!(upper_bound(index) as f64 <= value as f64 * 1.125 + 1.0);
            last = Some(index);
        }
    }
}
