//! The router's side of the link with the daemon, and how both inherited descriptors are taken over. Serving never
//! depends on the link: when it closes or is full, requests go where they went.

use crate::stats::Counters;
use crate::table::Table;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use turnout_protocol::frame::{self, FrameError};
use turnout_protocol::router::{FromRouter, LINK_VERSION, Stats, ToRouter};
use turnout_protocol::worker::{LINK_FD, LISTENER_FD};

/// Stats are sent at most this often.
const STATS_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Why a descriptor, or the link, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The descriptor is not there.
    #[error("descriptor {0} is not there")]
    Descriptor(i32, #[source] Errno),
    /// It is no listening socket.
    #[error("descriptor {0} is not a listening socket")]
    Listener(i32, #[source] io::Error),
    /// poll(2) failed.
    #[error("cannot wait for messages")]
    Poll(#[source] Errno),
    /// The daemon's end was closed before anything was said.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The router's end of the link.
pub struct Link {
    socket: OwnedFd,
}

impl Link {
    /// Takes over the descriptor, makes it non-blocking, so that a daemon that does not read holds nobody up, and says
    /// hello.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn adopt() -> Result<Self, LinkError> {
        let socket = adopt(LINK_FD)?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| LinkError::Descriptor(LINK_FD, error))?;
        frame::send(&socket, &FromRouter::Hello { link_version: LINK_VERSION })?;
        Ok(Self { socket })
    }

    /// Obeys the daemon and tells it the counts, for ever; without a daemon it only waits.
    ///
    /// # Errors
    /// [`LinkError::Poll`].
    pub fn attend(&self, table: &Table, counters: &Counters) -> Result<(), LinkError> {
        let mut told = Stats::default();
        let mut is_open = true;
        loop {
            let now = counters.stats();
            if is_open && now != told && frame::send(&self.socket, &FromRouter::Stats(now)).is_ok() {
                told = now;
            }
            let mut watched = [PollFd::new(&self.socket, PollFlags::IN)];
            let watched = if is_open { &mut watched[..] } else { &mut [] };
            match poll(watched, Some(&STATS_EVERY)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => is_open = self.obey(table),
                Err(error) => return Err(LinkError::Poll(error)),
            }
        }
    }

    /// Takes one message. False when the link says nothing more.
    fn obey(&self, table: &Table) -> bool {
        let answer = match frame::receive(&self.socket) {
            Ok(ToRouter::Routes { revision, routes }) => match table.take(&routes) {
                Ok(()) => FromRouter::InForce { revision },
                Err(error) => FromRouter::Refused { revision, reason: error.to_string() },
            },
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(FrameError::Closed | FrameError::Io(_)) => return false,
            Err(error) => {
                eprintln!("turnout-router: an order was not understood: {error}");
                return true;
            }
        };
        // A daemon that does not read its answer asks again.
        let _ = frame::send(&self.socket, &answer);
        true
    }
}

/// Takes over the listening socket.
///
/// # Errors
/// [`LinkError`].
pub fn adopt_listener() -> Result<TcpListener, LinkError> {
    let listener = TcpListener::from(adopt(LISTENER_FD)?);
    match rustix::net::sockopt::socket_acceptconn(&listener) {
        Ok(true) => Ok(listener),
        Ok(false) => Err(LinkError::Listener(LISTENER_FD, Errno::INVAL.into())),
        Err(error) => Err(LinkError::Listener(LISTENER_FD, error.into())),
    }
}

/// A descriptor that is known by its number only is duplicated through the process's own pidfd: the one way to an owned
/// descriptor that needs no unsafe code.
fn adopt(number: i32) -> Result<OwnedFd, LinkError> {
    let this = pidfd_open(getpid(), PidfdFlags::empty());
    this.and_then(|this| pidfd_getfd(this, number, PidfdGetfdFlags::empty()))
        .map_err(|error| LinkError::Descriptor(number, error))
}
