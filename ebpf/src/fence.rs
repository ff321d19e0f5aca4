//! The border that the instance's processes may not cross. The only one of them that can open a connection is the router
//! (workers have no network): it reaches loopback alone, and what it sends carries the mark by which `observe` knows it.

use aya_ebpf::helpers::generated::bpf_setsockopt;
use aya_ebpf::programs::SockAddrContext;
use core::ptr::addr_of;
use turnout_ebpf_layout::ROUTER_MARK;

const DENY: i32 = 0;
const ALLOW: i32 = 1;
const LOOPBACK: u8 = 127;
const SOL_SOCKET: u32 = 1;
const SO_MARK: u32 = 36;

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
