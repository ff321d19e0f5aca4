//! `Traffic` on Linux: public ports are claimed by bound sockets, listeners of ready workers go into the socket map,
//! splits are elements of the route map. What the numbers in the maps mean to the kernel is in `turnout_ebpf_layout`.

use crate::HostError;
use crate::linux_cells::ROUTER;
use crate::programs::{self, Maps, refused};
use crate::sys::Element;
use crate::traffic::{Occupants, Route, Spread, Traffic};
use aya::maps::MapError;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, socket_with, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use turnout_ebpf_layout::{ADDRESSES, ARMS, Connection, DeviceKey, RouteKey, device, mode};
use turnout_ebpf_layout::{Route as RouteElement, choice};
use turnout_manifest::{Generation, Percent};

/// The descriptor every worker has its listener at.
const LISTENER: i32 = 3;
/// What may be done with a device that was given: making another node of it may not.
const DEVICE_RIGHTS: u32 = device::READ | device::WRITE;
/// A slot that nobody has.
const NOBODY: u32 = u32::MAX;
/// The whole of the hash interval.
const WHOLE: u64 = 1 << 32;

/// Where steering and watching happen.
#[derive(Debug, Clone)]
pub struct TrafficConfig {
    /// Directory of the pins; a bpffs is mounted there when it does not lie on one.
    pub pin_directory: PathBuf,
    /// The cgroup2 directory below which all cells lie.
    pub cgroup: PathBuf,
}

/// Steering and watching in the kernel, in the network namespace it was opened in.
pub struct LinuxTraffic {
    pub(crate) maps: Mutex<Maps>,
    config: TrafficConfig,
    /// The cgroup where the programs hang, by its inode.
    place: AtomicU64,
    pub(crate) occupants: Arc<dyn Occupants>,
    claims: Mutex<BTreeMap<SocketAddr, OwnedFd>>,
}

impl LinuxTraffic {
    /// Loads and attaches the programs, or takes over those of an earlier daemon with their routes and counters.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn open(config: &TrafficConfig, occupants: Arc<dyn Occupants>) -> Result<Self, HostError> {
        let place = AtomicU64::new(inode(&config.cgroup)?);
        let maps = Mutex::new(programs::open(&config.pin_directory, &config.cgroup)?);
        Ok(Self { maps, config: config.clone(), place, occupants, claims: Mutex::default() })
    }

    /// Puts the programs on the instance's cgroup again, where a launcher that was restarted has made it anew: before
    /// anything runs in it.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn follow(&self) -> Result<(), HostError> {
        let place = inode(&self.config.cgroup)?;
        if place != self.place.load(Ordering::Acquire) {
            let maps = programs::open(&self.config.pin_directory, &self.config.cgroup)?;
            *self.maps() = maps;
            self.place.store(place, Ordering::Release);
        }
        Ok(())
    }

    /// Lets the processes of a cgroup open these devices, and no others. What was allowed to cgroups that are not alive any
    /// more is forgotten.
    pub(crate) fn allow(&self, cgroup: u64, devices: &[DeviceKey], alive: &[u64]) -> Result<(), HostError> {
        let mut maps = self.maps();
        let known = maps.devices.keys().collect::<Result<Vec<_>, _>>().map_err(refused("read devices"))?;
        let stale = |key: &&Element<DeviceKey>| match key.0.cgroup {
            own if own == cgroup => !devices.contains(&key.0),
            other => !alive.contains(&other),
        };
        for key in known.iter().filter(stale) {
            absent_is_fine(maps.devices.remove(key), &[libc::ENOENT])
                .map_err(refused("take a device back"))?;
        }
        for key in devices {
            maps.devices.insert(Element(*key), DEVICE_RIGHTS, 0).map_err(refused("allow a device"))?;
        }
        Ok(())
    }

    /// The maps. Every change is a single call into the kernel, so a panic elsewhere leaves nothing half-done.
    pub(crate) fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A duplicate of a worker's listener, for the moment: kept, it would make connections to a dead worker hang.
    pub(crate) fn listener(&self, generation: Generation) -> Result<Option<OwnedFd>, HostError> {
        let Some(pidfd) = self.occupants.worker_pidfd(generation)? else { return Ok(None) };
        match pidfd_getfd(&pidfd, LISTENER, PidfdGetfdFlags::empty()) {
            Ok(listener) => Ok(listens(&listener).then_some(listener)),
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::BADF) => Ok(None),
            Err(error) => Err(HostError::os("pidfd_getfd", generation)(error)),
        }
    }

    /// That a generation's worker runs and its listener is tagged as its own: traffic goes nowhere else.
    fn admitted(&self, generation: Generation) -> Result<(), HostError> {
        let slot = self.slot(generation)?;
        let listener = self.listener(generation)?.ok_or_else(|| missing("worker", generation))?;
        match self.maps().connections.get(&listener, 0) {
            Ok(tag) if tag.0.slot == slot => Ok(()),
            Ok(_) | Err(MapError::KeyNotFound) => Err(missing("admitted worker", generation)),
            Err(error) => Err(refused("read tag")(error)),
        }
    }

    fn slot(&self, generation: Generation) -> Result<u32, HostError> {
        self.occupants.slot(generation)?.ok_or_else(|| missing("cell", generation))
    }

    fn element(&self, addresses: &[SocketAddr], route: &Route) -> Result<RouteElement, HostError> {
        let arms = all_arms(route);
        let bounds = bounds(&arms)?;
        let mut element = RouteElement {
            salt: route.salt,
            upto: [WHOLE; ARMS],
            slot: [0; ARMS],
            addresses: [[0; 4]; ADDRESSES],
            address_count: 0,
            arm_count: arms.len() as u32,
            mode: match route.spread {
                Spread::Weight | Spread::Router => mode::WEIGHT,
                Spread::SourceHash => mode::SOURCE_HASH,
            },
            reserved: 0,
        };
        element.upto[..bounds.len()].copy_from_slice(&bounds);
        for (slot, (generation, _)) in element.slot.iter_mut().zip(&arms) {
            *slot = self.slot(*generation)?;
        }
        limit(&mut element, addresses)?;
        Ok(element)
    }
}

impl Traffic for LinuxTraffic {
    fn claim(&self, addresses: &[SocketAddr]) -> Result<(), HostError> {
        port_of(addresses)?;
        let both = addresses.iter().any(SocketAddr::is_ipv4);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            if !claims.contains_key(address) {
                claims.insert(*address, hold(address, both)?);
            }
        }
        Ok(())
    }

    fn give_up(&self, addresses: &[SocketAddr]) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.retain(|address, _| !addresses.contains(address));
    }

    fn admit(&self, generation: Generation, port: u16) -> Result<(), HostError> {
        let slot = self.slot(generation)?;
        let listener = self.listener(generation)?.ok_or_else(|| missing("worker", generation))?;
        let mut maps = self.maps();
        let tag = Connection { slot, port: port.into(), ..Connection::default() };
        let tagged = match maps.connections.get(&listener, 0) {
            Ok(found) => Some(found.0),
            Err(MapError::KeyNotFound) => None,
            Err(error) => return Err(refused("read tag")(error)),
        };
        if tagged.map(|tag| tag.slot) != Some(slot) {
            forget(&mut maps, slot, |_, _| false)?;
            maps.counters.zero(slot)?;
            maps.latencies.zero(slot)?;
        }
        if tagged != Some(tag) {
            maps.connections.insert(&listener, Element(tag), 0).map_err(refused("tag listener"))?;
        }
        maps.listeners.set(slot, &listener, 0).map_err(refused("admit listener"))
    }

    fn admit_router(&self) -> Result<(), HostError> {
        let slot = self.slot(ROUTER)?;
        let listener = self.listener(ROUTER)?.ok_or_else(|| missing("router", ROUTER))?;
        let mut maps = self.maps();
        forget(&mut maps, slot, leads_to_router)?;
        // Without a tag: what the router takes from clients is counted where it takes it to.
        maps.listeners.set(slot, &listener, 0).map_err(refused("admit router"))
    }

    fn endpoint(&self, generation: Generation) -> Result<SocketAddr, HostError> {
        let listener = self.listener(generation)?.ok_or_else(|| missing("worker", generation))?;
        let address = getsockname(&listener).map_err(HostError::os("getsockname", generation))?;
        let address = SocketAddr::try_from(address).map_err(HostError::os("getsockname", generation))?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    fn dismiss(&self, generation: Generation) -> Result<(), HostError> {
        let Some(slot) = self.occupants.slot(generation)? else { return Ok(()) };
        let cleared = self.maps().listeners.clear_index(&slot);
        // An empty slot of a socket map is EINVAL to the kernel.
        absent_is_fine(cleared, &[libc::ENOENT, libc::EINVAL]).map_err(refused("dismiss listener"))
    }

    fn set_route(&self, addresses: &[SocketAddr], route: &Route) -> Result<(), HostError> {
        let key = RouteKey { port: port_of(addresses)?.into() };
        for (generation, _) in route.arms.iter().filter(|(_, share)| *share != Percent::NONE) {
            self.admitted(*generation)?;
        }
        if route.spread == Spread::Router {
            self.listener(ROUTER)?.ok_or_else(|| missing("router", ROUTER))?;
        }
        let element = self.element(addresses, route)?;
        self.maps().routes.insert(Element(key), Element(element), 0).map_err(refused("set route"))
    }

    fn clear_route(&self, addresses: &[SocketAddr]) -> Result<(), HostError> {
        let key = RouteKey { port: port_of(addresses)?.into() };
        let removed = self.maps().routes.remove(&Element(key));
        absent_is_fine(removed, &[libc::ENOENT]).map_err(refused("clear route"))
    }

    fn routed(&self) -> Result<Vec<u16>, HostError> {
        let keys = routed(&self.maps())?;
        Ok(keys.into_iter().filter_map(|key| u16::try_from(key.0.port).ok()).collect())
    }

    fn route(&self, port: u16) -> Result<Option<Route>, HostError> {
        let key = Element(RouteKey { port: port.into() });
        let Some(element) = route_of(&self.maps(), &key)? else { return Ok(None) };
        let mut arms = Vec::new();
        let mut from = 0;
        for (&upto, &slot) in element.upto.iter().zip(&element.slot).take(element.arm_count as usize) {
            if let Some(generation) = self.occupants.generation(slot)? {
                arms.push((generation, share(from, upto)));
            }
            from = upto;
        }
        let spread = if element.mode == mode::SOURCE_HASH { Spread::SourceHash } else { Spread::Weight };
        Ok(Some(routed_or(Route { spread, salt: element.salt, arms })))
    }
}

fn inode(cgroup: &Path) -> Result<u64, HostError> {
    let found = std::fs::metadata(cgroup).map_err(HostError::os("stat", cgroup.display()))?;
    Ok(found.ino())
}

fn routed(maps: &Maps) -> Result<Vec<Element<RouteKey>>, HostError> {
    maps.routes.keys().collect::<Result<_, _>>().map_err(refused("read routes"))
}

fn route_of(maps: &Maps, key: &Element<RouteKey>) -> Result<Option<RouteElement>, HostError> {
    match maps.routes.get(key, 0) {
        Ok(element) => Ok(Some(element.0)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(refused("read route")(error)),
    }
}

/// Takes a slot out of every route that names it, but for the arms that `is_its_own` knows. A route that was left behind by
/// somebody who had the slot before would lead to whoever has it next. What remains of it refuses, or falls over.
fn forget(
    maps: &mut Maps,
    slot: u32,
    is_its_own: impl Fn(&RouteElement, usize) -> bool,
) -> Result<(), HostError> {
    for key in routed(maps)? {
        let Some(mut route) = route_of(maps, &key)? else { continue };
        let arms = (route.arm_count as usize).min(ARMS);
        let stale: Vec<usize> =
            (0..arms).filter(|arm| route.slot[*arm] == slot && !is_its_own(&route, *arm)).collect();
        if stale.is_empty() {
            continue;
        }
        stale.into_iter().for_each(|arm| route.slot[arm] = NOBODY);
        maps.routes.insert(key, Element(route), 0).map_err(refused("take a slot out of a route"))?;
    }
    Ok(())
}

/// Whether an arm is the router's in a route that leads there: it has everything, with others behind it.
fn leads_to_router(route: &RouteElement, arm: usize) -> bool {
    arm == 0 && route.upto[0] == WHOLE && route.arm_count > 1
}

/// The arms as the kernel has them. Where the router picks it comes first and has everything; the others are tried in
/// their order when its listener is gone.
fn all_arms(route: &Route) -> Vec<(Generation, Percent)> {
    if route.spread != Spread::Router {
        return route.arms.clone();
    }
    let others = route.arms.iter().map(|(generation, _)| (*generation, Percent::NONE));
    std::iter::once((ROUTER, Percent::ALL)).chain(others).collect()
}

/// The other way round: of the arms behind the router, the first has what it leaves.
fn routed_or(route: Route) -> Route {
    if route.arms.first().is_none_or(|(generation, _)| *generation != ROUTER) {
        return route;
    }
    let others = route.arms.iter().skip(1).map(|(generation, _)| *generation).enumerate();
    let arms =
        others.map(|(index, other)| (other, if index == 0 { Percent::ALL } else { Percent::NONE })).collect();
    Route { spread: Spread::Router, arms, ..route }
}

pub(crate) fn missing(kind: &'static str, generation: Generation) -> HostError {
    HostError::Missing { kind, name: generation.to_string() }
}

/// Whether a worker's descriptor really is a listening socket: it may have put anything there.
fn listens(descriptor: &OwnedFd) -> bool {
    let is_tcp = sockopt::socket_protocol(descriptor) == Ok(Some(ipproto::TCP));
    is_tcp && sockopt::socket_acceptconn(descriptor) == Ok(true)
}

/// A socket that is bound to the address and never listens, so that nobody else's can. Bound with SO_REUSEADDR,
/// because connections of workers still live on the port after a restart of the daemon; then without, because that
/// is what keeps others from listening.
fn hold(address: &SocketAddr, beside_ipv4: bool) -> Result<OwnedFd, HostError> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))
        .map_err(HostError::os("socket", address))?;
    sockopt::set_socket_reuseaddr(&socket, true).map_err(HostError::os("setsockopt", address))?;
    // An address that comes up later is claimed all the same: nothing is ever sent from here (ip(7), `IP_FREEBIND`).
    if address.is_ipv6() {
        sockopt::set_ipv6_freebind(&socket, true).map_err(HostError::os("setsockopt", address))?;
        sockopt::set_ipv6_v6only(&socket, beside_ipv4).map_err(HostError::os("setsockopt", address))?;
    } else {
        sockopt::set_ip_freebind(&socket, true).map_err(HostError::os("setsockopt", address))?;
    }
    bind(&socket, address).map_err(|error| match error {
        rustix::io::Errno::ADDRINUSE => HostError::AddressInUse { address: address.to_string() },
        other => HostError::os("bind", address)(other),
    })?;
    sockopt::set_socket_reuseaddr(&socket, false).map_err(HostError::os("setsockopt", address))?;
    Ok(socket)
}

fn port_of(addresses: &[SocketAddr]) -> Result<u16, HostError> {
    match addresses {
        [first, rest @ ..] if rest.iter().all(|address| address.port() == first.port()) => Ok(first.port()),
        _ => Err(unfit("addresses", "they must be at least one and share a port")),
    }
}

/// Limits the route to these addresses; `[::]` is every one.
fn limit(element: &mut RouteElement, addresses: &[SocketAddr]) -> Result<(), HostError> {
    if addresses.iter().any(|address| address.is_ipv6() && address.ip().is_unspecified()) {
        return Ok(());
    }
    if addresses.len() > ADDRESSES {
        return Err(unfit("addresses", &format!("a route has at most {ADDRESSES}")));
    }
    for (place, address) in element.addresses.iter_mut().zip(addresses) {
        *place = words(address.ip());
    }
    element.address_count = addresses.len() as u32;
    Ok(())
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => choice::mapped(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let bytes = address.octets();
            std::array::from_fn(|i| u32::from_ne_bytes([0, 1, 2, 3].map(|j| bytes[4 * i + j])))
        }
    }
}

/// Upper bounds of the arms in the hash interval.
fn bounds(arms: &[(Generation, Percent)]) -> Result<Vec<u64>, HostError> {
    if arms.is_empty() || arms.len() > ARMS {
        return Err(unfit("route", &format!("it must have 1 to {ARMS} arms")));
    }
    let mut sum = 0;
    let all = u64::from(Percent::ALL.thousandths());
    let bounds = arms.iter().map(|(_, share)| {
        sum += u64::from(share.thousandths());
        sum * WHOLE / all
    });
    let bounds: Vec<u64> = bounds.collect();
    if sum == all { Ok(bounds) } else { Err(unfit("route", "its shares must add up to 100 %")) }
}

/// The share of an interval, rounded to what it was made of.
fn share(from: u64, upto: u64) -> Percent {
    let all = u64::from(Percent::ALL.thousandths());
    let thousandths = (upto.saturating_sub(from) * all + WHOLE / 2) / WHOLE;
    Percent::from_thousandths(thousandths as u32).unwrap_or(Percent::ALL)
}

fn unfit(what: &str, message: &str) -> HostError {
    HostError::Ebpf { what: what.to_owned(), message: message.to_owned() }
}

fn absent_is_fine(result: Result<(), MapError>, absent: &[i32]) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error().is_some_and(|code| absent.contains(&code)) =>
        {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_survive_the_way_into_the_kernel_and_back() {
        for shares in
            [&[0, 100_000][..], &[5_000, 95_000], &[1, 99_999], &[33_333, 33_333, 33_334], &[100_000]]
        {
            let percents = shares.iter().map(|&s| Percent::from_thousandths(s).unwrap());
            let arms: Vec<_> = percents.map(|percent| (Generation(1), percent)).collect();
            let bounds = bounds(&arms).unwrap();
            assert_eq!(bounds.last(), Some(&WHOLE));
            let mut from = 0;
            for (upto, (_, percent)) in bounds.iter().zip(&arms) {
                assert_eq!(share(from, *upto), *percent);
                from = *upto;
            }
        }
    }

    #[test]
    fn shares_that_do_not_make_a_whole_are_refused() {
        for shares in [&[][..], &[99_999], &[50_000, 60_000], &[0; 9]] {
            let percents = shares.iter().map(|&s| Percent::from_thousandths(s).unwrap());
            let arms: Vec<_> = percents.map(|percent| (Generation(1), percent)).collect();
            assert!(bounds(&arms).is_err(), "{shares:?}");
        }
    }
}
