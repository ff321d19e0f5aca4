//! A new connection -> the listener of a generation, by the route of its port. Decides nothing about weights:
//! that is the host's, in one map element. The arithmetic is `turnout_ebpf_layout::choice`.

use crate::maps::{LISTENERS, ROUTES};
use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, BPF_SK_LOOKUP_F_REPLACE, bpf_sk_lookup, sk_action};
use aya_ebpf::programs::SkLookupContext;
use core::ptr::addr_of;
use turnout_ebpf_layout::choice::{Flow, answers, arm_at, mapped, point};
use turnout_ebpf_layout::{ARMS, Route, RouteKey};

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
/// The last program that chooses wins, and the choice is not spread again over a reuseport group.
const ASSIGN: u64 = (BPF_SK_LOOKUP_F_REPLACE | BPF_SK_LOOKUP_F_NO_REUSEPORT) as u64;

/// Reads one word of the context. Volatile, because the verifier knows the context by whole fields only and the
/// compiler would merge neighbours.
macro_rules! word {
    ($context:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands in a valid context; the field lies within it.
        unsafe { addr_of!((*$context).$($field)+).read_volatile() }
    };
}

/// Passes everything that no route speaks for. A route without a living listener refuses (the client gets a reset at
/// once), so that no other process can answer in its place.
#[inline(always)]
pub fn steer(context: &SkLookupContext) -> u32 {
    let lookup = context.lookup;
    let port = word!(lookup, local_port);
    if word!(lookup, protocol) != IPPROTO_TCP {
        return sk_action::SK_PASS;
    }
    // SAFETY: an element is replaced as a whole and freed only after this program has ended (RCU).
    let Some(route) = (unsafe { ROUTES.get(RouteKey { port }) }) else { return sk_action::SK_PASS };
    let flow = flow(lookup, port);
    if !answers(route, &flow.local) {
        return sk_action::SK_PASS;
    }
    let first = arm_at(route, point(route, &flow));
    if assign(context, route, first) || fall_over(context, route, first) {
        return sk_action::SK_PASS;
    }
    sk_action::SK_DROP
}

/// Reads both forms of the addresses and then chooses: reads in branches would be merged by the compiler into one read
/// through a moved pointer, which the verifier refuses.
#[inline(always)]
fn flow(lookup: *mut bpf_sk_lookup, local_port: u32) -> Flow {
    let (remote4, local4) = (word!(lookup, remote_ip4), word!(lookup, local_ip4));
    let remote6 = [
        word!(lookup, remote_ip6[0]),
        word!(lookup, remote_ip6[1]),
        word!(lookup, remote_ip6[2]),
        word!(lookup, remote_ip6[3]),
    ];
    let local6 = [
        word!(lookup, local_ip6[0]),
        word!(lookup, local_ip6[1]),
        word!(lookup, local_ip6[2]),
        word!(lookup, local_ip6[3]),
    ];
    let is_ipv4 = word!(lookup, family) == AF_INET;
    let (remote, local) = if is_ipv4 { (mapped(remote4), mapped(local4)) } else { (remote6, local6) };
    let remote_port = u32::from(u16::from_be(word!(lookup, remote_port)));
    Flow { remote, local, remote_port, local_port }
}

/// Whether the arm's listener lives and took the connection.
#[inline(always)]
fn assign(context: &SkLookupContext, route: &Route, arm: u32) -> bool {
    let slot = route.slot[arm as usize & (ARMS - 1)];
    LISTENERS.redirect_sk_lookup(context, slot, ASSIGN).is_ok()
}

/// The other arms in their order, also those without a share: a refused connection helps nobody.
#[inline(always)]
fn fall_over(context: &SkLookupContext, route: &Route, dead: u32) -> bool {
    for arm in 0..ARMS as u32 {
        if arm < route.arm_count && arm != dead && assign(context, route, arm) {
            return true;
        }
    }
    false
}
