//! The border that the instance's processes may not cross. The only one of them that can open a connection is the router
//! (workers have no network): it reaches loopback alone, and what it sends carries the mark by which `observe` knows it.
//! A device can be opened by the cells that were given it; `/dev/null` by all, and no node can be made.

use crate::maps::DEVICES;
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_setsockopt};
use aya_ebpf::programs::{DeviceContext, SockAddrContext};
use core::ptr::addr_of;
use turnout_ebpf_layout::{DeviceKey, ROUTER_MARK, device};

const DENY: i32 = 0;
const ALLOW: i32 = 1;
const LOOPBACK: u8 = 127;
const SOL_SOCKET: u32 = 1;
const SO_MARK: u32 = 36;
/// `/dev/null`: 1:3 on every Linux (Documentation/admin-guide/devices.txt).
const NULL: (u32, u32) = (1, 3);

/// Denies every address but loopback's, and a connection that cannot be marked: its requests would be nobody's.
#[inline(always)]
pub fn connect_out(context: &SockAddrContext) -> i32 {
    // SAFETY: the kernel hands in a valid context; the field lies within it. Volatile, because the verifier knows the
    // context by whole fields only.
    let address = unsafe { addr_of!((*context.sock_addr).user_ip4).read_volatile() };
    if address.to_ne_bytes()[0] != LOOPBACK {
        return DENY;
    }
    let mut mark = ROUTER_MARK;
    let value = (&raw mut mark).cast();
    // SAFETY: the context is the kernel's own, and `mark` is as long as is said.
    let marked = unsafe {
        bpf_setsockopt(context.sock_addr.cast(), SOL_SOCKET as _, SO_MARK as _, value, size_of::<u32>() as _)
    };
    if marked == 0 { ALLOW } else { DENY }
}

/// Denies every device but `/dev/null` and what the process' cgroup was given, to read and to write as it was given.
#[inline(always)]
pub fn device_open(context: &DeviceContext) -> i32 {
    // SAFETY: the kernel hands in a valid context; the fields lie within it. Volatile, because the verifier knows the
    // context by whole fields only.
    let (access, major, minor) = unsafe {
        (
            addr_of!((*context.device).access_type).read_volatile(),
            addr_of!((*context.device).major).read_volatile(),
            addr_of!((*context.device).minor).read_volatile(),
        )
    };
    let (kind, wanted) = (access & 0xffff, access >> 16);
    if (kind, major, minor) == (device::CHARACTER, NULL.0, NULL.1) {
        return allowed(wanted, device::READ | device::WRITE);
    }
    // SAFETY: the helper takes nothing and reads the current task, which is the one that opens.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let key = DeviceKey { cgroup, kind, major, minor, reserved: 0 };
    // SAFETY: the value is one number, which the host replaces as a whole; a removed one may be read a moment longer.
    match unsafe { DEVICES.get(&key) } {
        Some(rights) => allowed(wanted, *rights),
        None => DENY,
    }
}

#[inline(always)]
fn allowed(wanted: u32, rights: u32) -> i32 {
    if wanted & !rights == 0 { ALLOW } else { DENY }
}
