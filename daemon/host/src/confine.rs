//! Taking everything away from the calling process but what lies below one folder, before it speaks with strangers.
//! What it serves then is left to it.

use crate::{HostError, sys};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::process::{DumpableBehavior, Resource, Rlimit, chroot, fchdir, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;
use std::os::fd::BorrowedFd;

/// Most descriptors that a confined process has open.
const DESCRIPTORS_MAX: u64 = 256;
/// Most memory that it may address, bytes.
const ADDRESS_SPACE_MAX: u64 = 2 << 30;

/// Closes every descriptor above standard error: what the process that started this one had open without meaning to hand
/// it over, for instance inside a library that does not open close-on-exec. For the first lines of `main`.
pub fn close_inherited() {
    sys::close_from(3);
}

/// Makes a folder this process's root and gives up all rights: groups, uid, capabilities, network, core dumps, and the
/// way back to any of them. Open descriptors stay, sockets in their network included. To be called by the one thread of
/// a young process.
///
/// # Errors
/// The kernel's own: then the process must end, because it has more than it should.
pub fn confine(root: BorrowedFd<'_>, uid: u32) -> Result<(), HostError> {
    let apart = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(apart).map_err(HostError::os("unshare", "network"))?;
    fchdir(root).map_err(HostError::os("fchdir", "root"))?;
    chroot(".").map_err(HostError::os("chroot", "root"))?;
    for (resource, most) in
        [(Resource::Nofile, DESCRIPTORS_MAX), (Resource::As, ADDRESS_SPACE_MAX), (Resource::Core, 0)]
    {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(HostError::os("setrlimit", format!("{resource:?}")))?;
    }
    setgroups(&[]).map_err(HostError::os("setgroups", "none"))?;
    let (group, user) = (Gid::from_raw(uid), Uid::from_raw(uid));
    setresgid(group, group, group).map_err(HostError::os("setresgid", uid))?;
    // With the last uid of root, every capability goes (capabilities(7)).
    setresuid(user, user, user).map_err(HostError::os("setresuid", uid))?;
    set_no_new_privs(true).map_err(HostError::os("prctl", "PR_SET_NO_NEW_PRIVS"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(HostError::os("prctl", "PR_SET_DUMPABLE"))
}
