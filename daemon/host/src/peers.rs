//! Who is at the other end of a socket, beyond what every socket tells (SO_PEERCRED).

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

/// What the kernel shows for a process that belongs to no login (audit(7)).
const NO_LOGIN: u32 = u32::MAX;

/// The user whose login session the process at the other end belongs to: `/proc/PID/loginuid`, which `sudo` and `su` leave
/// as it is. `None` outside of a login, and where the kernel keeps no such thing.
///
/// The process is asked for by its number. Where the kernel hands out the peer's own descriptor (SO_PEERPIDFD, since 6.5),
/// a number that was given to another process meanwhile is noticed and nothing is said.
pub fn login_uid(socket: BorrowedFd<'_>, pid: i32) -> Option<u32> {
    if pid <= 0 {
        return None;
    }
    let process = getsockopt(&socket, sockopt::PeerPidfd).ok();
    let said = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    if process.is_some_and(|process| has_ended(process.as_fd())) {
        return None;
    }
    said.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}

/// A descriptor of a process can be read once the process has ended (pidfd_open(2)).
fn has_ended(process: BorrowedFd<'_>) -> bool {
    let mut waits = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // What cannot be asked is taken for ended: better no login than another's.
    poll(&mut waits, Some(&at_once)).map_or(true, |ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn own(text: &str) -> Option<u32> {
        text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
    }

    #[test]
    fn a_peer_has_the_login_that_its_process_has() {
        let (one, _other) = UnixStream::pair().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let expected = fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| own(&text));
        assert_eq!(login_uid(one.as_fd(), pid), expected);
        assert_eq!(login_uid(one.as_fd(), 0), None);
    }

    #[test]
    fn a_process_that_has_ended_is_noticed() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(has_ended(process.as_fd()));
        let own =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        assert!(!has_ended(own.unwrap().as_fd()));
    }
}
