//! Every map: its size, who writes it and who reads it. All are pinned by the host and outlive it.

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_sock};
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{HashMap, PerCpuArray, SockMap};
use turnout_ebpf_layout::{Connection, DeviceKey, Route, RouteKey, SLOTS, counter, device, histogram};

/// Public ports that can be steered at one time.
const ROUTES_MAX: u32 = 1024;

/// Public port -> split. Written by the host, one element at a time; read by `steer`.
#[map]
pub static ROUTES: HashMap<RouteKey, Route> = HashMap::with_max_entries(ROUTES_MAX, 0);

/// Slot -> listener. Filled by the host, emptied by the host or, when a listener closes, by the kernel; read by `steer`.
#[map]
pub static LISTENERS: SockMap = SockMap::with_max_entries(SLOTS, 0);

/// Socket -> its account. The host tags listeners; accepted sockets inherit; `observe` keeps the books.
#[btf_map]
pub static CONNECTIONS: InheritedStorage = InheritedStorage::new();

/// Latency histograms. Written by `observe`, read and zeroed by the host.
#[map]
pub static LATENCIES: PerCpuArray<u64> = PerCpuArray::with_max_entries(SLOTS * histogram::BUCKETS, 0);

/// Counters. Written by `observe`, read and zeroed by the host.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(SLOTS * counter::COUNT, 0);

/// Node and cgroup -> what may be done with it. Written by the host; read by `fence`.
#[map]
pub static DEVICES: HashMap<DeviceKey, u32> = HashMap::with_max_entries(device::MOST, 0);

/// Flags of [`CONNECTIONS`]: accepted sockets get a copy of their listener's value.
const STORAGE_FLAGS: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// Socket storage that is inherited: the library's own type cannot say `BPF_F_CLONE`. Only its type information
/// counts (the fields are read by the loader, in this order), so every pointer is null.
#[repr(C)]
pub struct InheritedStorage {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const Connection,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; STORAGE_FLAGS],
}

// SAFETY: the fields are null and never read; the kernel serialises access to the map itself.
unsafe impl Sync for InheritedStorage {}

impl InheritedStorage {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }

    /// The account of a socket, when it has one.
    #[inline(always)]
    pub fn of(&self, socket: *mut bpf_sock) -> Option<*mut Connection> {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: `map` is this map, `socket` a full socket that the kernel holds while the program runs.
        let value = unsafe { bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), 0) };
        if value.is_null() { None } else { Some(value.cast()) }
    }
}
