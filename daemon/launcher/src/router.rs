//! How a router comes to be alone: a worker's steps, but in the host's network, because it must reach the workers'
//! listeners, without a model, and with the right to connect. Where it may connect to is the kernel's fence: an eBPF
//! program at the instance's cgroup lets it reach loopback alone. The program sees IPv4 sockets as they connect, so the
//! router can make no others, and the list of calls keeps the listener and what it accepts, where these are IPv6, from
//! connecting.

use crate::cell::{
    Ends, Recipe, StepError, listener, pin, place_descriptors, restrict, set_limits, take_identity,
};
use crate::profile::{Allowed, Rule, SOCKET_TYPE, WHOLE};
use crate::root::{Contents, Layout, ROUTER};
use crate::seccomp::Filters;
use crate::sys;
use caps::CapSet;
use landlock::AccessNet;
use rustix::thread::UnshareFlags;
use seccompiler::BackendError;
use std::ffi::CStr;
use std::path::PathBuf;
use turnout_launcher_wire::Profile;

const NAME: &CStr = c"turnout-router";
const CONNECTIONS: &str = "connections to the workers' listeners";

/// Bytes of an IPv4 address with its port and family.
const ADDRESS: u64 = size_of::<libc::sockaddr_in>() as u64;

/// Calls that a router may make beyond a worker's.
const ALLOWED: &[Allowed] = &[
    // TCP, which is what protocol 0 means here: datagrams go out without connecting.
    Allowed {
        call: libc::SYS_socket,
        rule: Rule::Each(&[
            (0, WHOLE, libc::AF_INET as u64),
            (1, SOCKET_TYPE, libc::SOCK_STREAM as u64),
            (2, WHOLE, 0),
        ]),
        needed_by: CONNECTIONS,
    },
    // With an address as long as IPv4's: too short for the listener and what it has accepted, which can be disconnected.
    Allowed { call: libc::SYS_connect, rule: Rule::OneOf(2, &[ADDRESS]), needed_by: CONNECTIONS },
];

/// What is the same for every start of the router.
pub struct RouterRecipe {
    program: PathBuf,
    cell_root: PathBuf,
    filters: Filters,
}

impl RouterRecipe {
    /// The program is looked for at each start: an instance whose plans need no router needs none installed.
    ///
    /// # Errors
    /// A rule that the kernel's language cannot hold.
    pub fn new(program: PathBuf, cell_root: PathBuf) -> Result<Self, BackendError> {
        Ok(Self { program, cell_root, filters: Filters::compile(ALLOWED)? })
    }
}

/// Takes all steps; on success the process is the router and this does not return.
pub fn become_router(
    (recipe, router): (&Recipe, &RouterRecipe),
    profile: Profile,
    (uid, ends): (u32, Ends<'_>),
) -> StepError {
    let locked = || -> Result<(), StepError> {
        let layout = Layout::find_for_router(&router.program, &router.cell_root).map_err(StepError::Root)?;
        // The listener belongs to the cell's cgroup, and so does every socket that the router will make.
        let listener = listener().map_err(StepError::Listener)?;
        sys::unshare(UnshareFlags::NEWCGROUP).map_err(StepError::Namespaces)?;
        layout.enter(&Contents::default(), &recipe.protections).map_err(StepError::Root)?;
        place_descriptors(listener, ends).map_err(StepError::Descriptors)?;
        pin(profile.cpus).map_err(StepError::Affinity)?;
        set_limits(recipe, profile).map_err(StepError::Limit)?;
        caps::clear(None, CapSet::Bounding).map_err(StepError::Capabilities)?;
        take_identity(uid, &[]).map_err(StepError::Identity)?;
        for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
            caps::clear(None, set).map_err(StepError::Capabilities)?;
        }
        rustix::thread::set_no_new_privs(true).map_err(StepError::NoNewPrivileges)?;
        // Connecting stays allowed: workers' ports are the kernel's choice, and Landlock knows no addresses.
        restrict(recipe.landlock_abi, AccessNet::BindTcp.into(), &[])?;
        sys::reset_signals();
        router.filters.apply().map_err(StepError::Seccomp)
    };
    match locked() {
        Err(error) => error,
        Ok(()) => StepError::Exec(sys::execute(ROUTER, NAME, &[])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile;

    #[test]
    fn a_router_may_connect_and_nothing_else_beyond_a_worker() {
        let calls: Vec<_> = ALLOWED.iter().map(|allowed| allowed.call).collect();
        assert_eq!(calls, [libc::SYS_socket, libc::SYS_connect]);
        let worker = profile::ALLOWED.iter().chain(profile::ALLOWED_HERE);
        assert!(worker.into_iter().all(|allowed| !calls.contains(&allowed.call)));
        assert!(RouterRecipe::new("/r".into(), "/".into()).is_ok());
    }
}
