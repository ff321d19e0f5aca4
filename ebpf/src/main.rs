//! Turnout inside the kernel: the entry points. What they do is in `steer` and `observe`; what they know is in `maps`.
#![no_std]
#![no_main]
// The kernel's target has atomic addition and no compare-and-swap, so `core::sync::atomic` offers it nothing.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the intrinsic is the only way to an atomic addition")]

mod fence;
mod maps;
mod observe;
mod segment;
mod steer;

use aya_ebpf::macros::{cgroup_device, cgroup_skb, cgroup_sock_addr, sk_lookup};
use aya_ebpf::programs::{DeviceContext, SkBuffContext, SkLookupContext, SockAddrContext};

/// Runs for each new connection of the network namespace.
#[sk_lookup]
pub fn steer(context: SkLookupContext) -> u32 {
    steer::steer(&context)
}

/// Runs for each packet on its way to a worker.
#[cgroup_skb(ingress)]
pub fn request_in(context: SkBuffContext) -> i32 {
    observe::request_in(&context)
}

/// Runs for each packet on its way from a worker.
#[cgroup_skb(egress)]
pub fn answer_out(context: SkBuffContext) -> i32 {
    observe::answer_out(&context)
}

/// Runs for each IPv4 connection that a process of the instance opens.
#[cgroup_sock_addr(connect4)]
pub fn connect_out(context: SockAddrContext) -> i32 {
    fence::connect_out(&context)
}

/// Runs for each device that a process of the instance opens or makes.
#[cgroup_device]
pub fn device_open(context: DeviceContext) -> i32 {
    fence::device_open(&context)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
