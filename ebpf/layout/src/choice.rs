//! Which arm of a route a connection gets. Pure, so that the kernel and user space give the same answer.
//! The hash spreads evenly under any key; it is no secret from a client, which can see which version answered.

use crate::{ADDRESSES, ARMS, Route, mode};

/// What a lookup knows of a connection. Addresses as in [`Route::addresses`], ports in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The client's address.
    pub remote: [u32; 4],
    /// The address the client called.
    pub local: [u32; 4],
    /// The client's port.
    pub remote_port: u32,
    /// The public port.
    pub local_port: u32,
}

/// The form of an IPv4 address given as one word in network order: IPv6-mapped.
#[inline(always)]
pub const fn mapped(address: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), address]
}

/// The point a connection falls on, 0 to below 2^32, as the route's mode says.
#[inline(always)]
pub const fn point(route: &Route, flow: &Flow) -> u32 {
    let mut state = absorb(route.salt, flow.remote[0], flow.remote[1]);
    state = absorb(state, flow.remote[2], flow.remote[3]);
    if route.mode == mode::SOURCE_HASH {
        return (state >> 32) as u32;
    }
    state = absorb(state, flow.local[0], flow.local[1]);
    state = absorb(state, flow.local[2], flow.local[3]);
    (absorb(state, flow.remote_port, flow.local_port) >> 32) as u32
}

/// The arm that owns a point, below `arm_count`.
#[inline(always)]
pub const fn arm_at(route: &Route, point: u32) -> u32 {
    let mut arm = 0;
    let mut i = 0;
    while i < ARMS {
        if (i as u32) + 1 < route.arm_count && point as u64 >= route.upto[i] {
            arm = i as u32 + 1;
        }
        i += 1;
    }
    arm
}

/// Whether the route answers on this local address. The address 0.0.0.0 stands for every IPv4 address.
#[inline(always)]
pub const fn answers(route: &Route, local: &[u32; 4]) -> bool {
    let mut found = route.address_count == 0;
    let mut i = 0;
    while i < ADDRESSES {
        let address = &route.addresses[i];
        let prefix = address[0] == local[0] && address[1] == local[1] && address[2] == local[2];
        let any = address[3] == 0 && address[2] == 0xffff_u32.to_be();
        if (i as u32) < route.address_count && prefix && (any || address[3] == local[3]) {
            found = true;
        }
        i += 1;
    }
    found
}

/// One round: adds two words, then the finaliser of SplitMix64, in which every input bit reaches every output bit.
#[inline(always)]
const fn absorb(state: u64, high: u32, low: u32) -> u64 {
    let mut z = (state ^ ((high as u64) << 32 | low as u64)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    fn route(mode: u32, salt: u64, upto: &[u64]) -> Route {
        let mut route = Route {
            salt,
            upto: [1 << 32; ARMS],
            slot: [0; ARMS],
            addresses: [[0; 4]; ADDRESSES],
            address_count: 0,
            arm_count: upto.len() as u32,
            mode,
            reserved: 0,
        };
        route.upto[..upto.len()].copy_from_slice(upto);
        route
    }

    fn flow(source: u32, port: u32) -> Flow {
        Flow {
            remote: mapped(source.to_be()),
            local: mapped(0x7f00_0001_u32.to_be()),
            remote_port: port,
            local_port: 8700,
        }
    }

    /// Flows as they really come: ports of one client in a row (step 2, as the kernel hands them out), or
    /// neighbouring clients.
    fn flows() -> [(&'static str, u32, vec::Vec<Flow>); 3] {
        [
            ("ports in a row", mode::WEIGHT, (0..28_000).map(|i| flow(0x7f00_0001, 32_768 + i)).collect()),
            (
                "even ports, two clients",
                mode::WEIGHT,
                (0..28_000).map(|i| flow(0x0a00_0001 + i / 14_000, 32_768 + (i % 14_000) * 2)).collect(),
            ),
            (
                "neighbouring clients",
                mode::SOURCE_HASH,
                (0..28_000).map(|i| flow(0x0a00_0000 + i, 40_000)).collect(),
            ),
        ]
    }

    #[test]
    fn points_are_spread_evenly_under_every_key() {
        const CELLS: usize = 256;
        for (name, mode, flows) in flows() {
            let mut sum = 0.0;
            const KEYS: u64 = 20;
            for salt in 0..KEYS {
                let mut cells = [0u32; CELLS];
                for flow in &flows {
                    cells[(point(&route(mode, salt, &[1 << 32]), flow) >> 24) as usize] += 1;
                }
                let expected = flows.len() as f64 / CELLS as f64;
                sum += cells.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum::<f64>();
            }
            // The sum of 20 chi-square values with 255 degrees: mean 5100, deviation 101; 5 deviations either way,
            // because a spread that is too even is no hash either.
            assert!((4595.0..5605.0).contains(&sum), "{name}: chi-square {sum}");
        }
    }

    #[test]
    fn each_input_bit_changes_about_half_of_the_point() {
        let base = flow(0x0a01_0203, 40_001);
        let by_weight = route(mode::WEIGHT, 7, &[1 << 32]);
        for bit in 0..32 {
            let mut changed = 0;
            for trial in 0..256u32 {
                let mut one = base;
                one.remote_port ^= trial << 8;
                let mut other = one;
                other.remote[3] ^= 1 << bit;
                changed += (point(&by_weight, &one) ^ point(&by_weight, &other)).count_ones();
            }
            let share = f64::from(changed) / (256.0 * 32.0);
            assert!((0.46..0.54).contains(&share), "bit {bit} changes {share}");
        }
    }

    #[test]
    fn a_share_is_an_interval_and_raising_it_only_adds() {
        let (five, ten) = (route(0, 3, &[214_748_364, 1 << 32]), route(0, 3, &[429_496_729, 1 << 32]));
        let none = route(0, 3, &[0, 1 << 32]);
        let all = route(0, 3, &[1 << 32, 1 << 32]);
        for (_, _, flows) in flows() {
            let mut taken = 0.0;
            for flow in &flows {
                let at = point(&five, flow);
                taken += f64::from(1 - arm_at(&five, at));
                assert!(arm_at(&ten, at) <= arm_at(&five, at));
                assert_eq!((arm_at(&none, at), arm_at(&all, at)), (1, 0));
            }
            let expected = flows.len() as f64 * 0.05;
            assert!((taken - expected).powi(2) / (expected * 0.95) < 16.0, "{taken} of {expected}");
        }
    }

    #[test]
    fn the_last_arm_owns_the_last_point_and_no_arm_is_beyond_the_count() {
        let eight = route(0, 0, &[1, 2, 3, 4, 5, 6, 7, 1 << 32]);
        for (at, arm) in [(0, 0), (1, 1), (6, 6), (7, 7), (u32::MAX, 7)] {
            assert_eq!(arm_at(&eight, at), arm);
        }
        assert_eq!(arm_at(&route(0, 0, &[1 << 32]), u32::MAX), 0);
        assert_eq!(arm_at(&route(0, 0, &[5, 5, 1 << 32]), 5), 2);
    }

    #[test]
    fn a_route_answers_on_its_addresses_only() {
        let mut route = route(0, 0, &[1 << 32]);
        let here = mapped(0x7f00_0001_u32.to_be());
        let there = mapped(0x7f00_0002_u32.to_be());
        let six = [0, 0, 0, 1_u32.to_be()];
        assert!(answers(&route, &here) && answers(&route, &six));
        route.address_count = 1;
        route.addresses[0] = here;
        assert!(answers(&route, &here) && !answers(&route, &there) && !answers(&route, &six));
        route.addresses[0] = mapped(0);
        assert!(answers(&route, &here) && answers(&route, &there) && !answers(&route, &six));
        route.addresses[0] = six;
        assert!(!answers(&route, &here) && answers(&route, &six));
    }
}
