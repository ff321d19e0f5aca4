//! The worker's side of the link with the daemon, and how both inherited descriptors are taken over.
//! Serving never depends on the link: when it closes or is full, requests are answered as before.

use crate::state::State;
use crate::versions::Versions;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use turnout_protocol::frame::{self, FrameError};
use turnout_protocol::worker::{Assignment, FromWorker, LINK_VERSION, ToWorker};

/// Counts are sent at most this often.
const COUNTS_PERIOD: Duration = Duration::from_millis(50);

/// Why the link, or the listening socket given with it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("descriptor {0} is not there")]
    Descriptor(i32, #[source] Errno),
    #[error("descriptor {0} is not a listening socket")]
    Listener(i32, #[source] std::io::Error),
    #[error("cannot wait for messages")]
    Poll(#[source] Errno),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the order does not fit: one assignment, and no other after it")]
    Order,
}

/// The first thing that ends the wait for work.
pub enum Order {
    /// Serve this.
    Assign(Box<Assignment>),
    /// Nothing to do any more.
    Leave,
}

/// The worker's end of the link.
pub struct Link {
    socket: OwnedFd,
    is_open: bool,
    served: Option<Served>,
}

/// What is served, and how that was reported: a daemon that starts again asks once more.
pub struct Served {
    /// The assignment.
    pub assignment: Assignment,
    /// What was said when it was ready.
    pub ready: FromWorker,
}

impl Link {
    /// Takes over the descriptor and makes it non-blocking, so that a daemon that does not read holds nobody up.
    pub fn adopt(number: i32) -> Result<Self, LinkError> {
        let socket = adopt(number)?;
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| LinkError::Descriptor(number, error))?;
        Ok(Self { socket, is_open: true, served: None })
    }

    /// Says that the process runs in its cell.
    pub fn say_hello(&self) -> Result<(), LinkError> {
        self.send(&FromWorker::Hello { link_version: LINK_VERSION })
    }

    /// Sends one message; the link is empty or all but empty whenever this is called.
    pub fn send(&self, message: &FromWorker) -> Result<(), LinkError> {
        frame::send(&self.socket, message).map_err(LinkError::Frame)
    }

    /// Reports readiness, now and whenever the same assignment comes again.
    pub fn say_ready(&mut self, served: Served) -> Result<(), LinkError> {
        self.send(&served.ready)?;
        self.served = Some(served);
        Ok(())
    }

    /// Waits for work. Without it there is nothing to serve: a link that closes here is an error.
    pub fn wait_for_assignment(&self, state: &State) -> Result<Order, LinkError> {
        loop {
            wait(&mut [PollFd::new(&self.socket, PollFlags::IN)], None)?;
            match frame::receive(&self.socket)? {
                ToWorker::Assign(assignment) => return Ok(Order::Assign(assignment)),
                ToWorker::ConnectionLife { milliseconds } => state.limit_connection_life(milliseconds),
                ToWorker::Drain { .. } => return Ok(Order::Leave),
                // Nothing is served that another version could stand beside.
                ToWorker::Load(_) | ToWorker::Switch { .. } | ToWorker::Unload => {
                    return Err(LinkError::Order);
                }
            }
        }
    }

    /// Passes orders to the serving threads and their counts to the daemon, until no serving thread is left.
    pub fn attend(&mut self, state: &State, versions: &mut Versions) -> Result<(), LinkError> {
        let mut sent = Instant::now();
        let mut unsent = false;
        while !state.is_over() {
            let due =
                (unsent || versions.unsaid().is_some()).then(|| COUNTS_PERIOD.saturating_sub(sent.elapsed()));
            let (mut with_link, mut alone);
            let wake = PollFd::from_borrowed_fd(state.wake(), PollFlags::IN);
            let watched: &mut [PollFd<'_>] = if self.is_open {
                with_link = [wake, PollFd::new(&self.socket, PollFlags::IN)];
                &mut with_link
            } else {
                alone = [wake];
                &mut alone
            };
            wait(watched, due)?;
            let (woken, heard) =
                (!watched[0].revents().is_empty(), watched.get(1).is_some_and(|fd| !fd.revents().is_empty()));
            if woken {
                state.clear_wake();
                versions.look();
                unsent = true;
            }
            if heard {
                self.obey(state, versions)?;
            }
            while versions.unsaid().is_some_and(|message| self.is_said(message)) {
                versions.said();
            }
            if sent.elapsed() >= COUNTS_PERIOD {
                unsent = unsent && !self.send_counts(state);
                sent = Instant::now();
            }
        }
        self.send_counts(state);
        Ok(())
    }

    fn obey(&mut self, state: &State, versions: &mut Versions) -> Result<(), LinkError> {
        match frame::receive(&self.socket) {
            Ok(ToWorker::ConnectionLife { milliseconds }) => state.limit_connection_life(milliseconds),
            Ok(ToWorker::Drain { idle_ms }) => state.order_drain(Duration::from_millis(idle_ms)),
            Ok(ToWorker::Load(assignment)) => versions.load(*assignment),
            Ok(ToWorker::Switch { digest }) => versions.switch(digest),
            Ok(ToWorker::Unload) => versions.unload(),
            Ok(ToWorker::Assign(again)) => match &self.served {
                Some(served) if served.assignment == *again => self.send(&served.ready)?,
                _ => return Err(LinkError::Order),
            },
            Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // The daemon is gone: traffic goes on as it last ordered.
            Err(FrameError::Closed | FrameError::Io(_)) => self.is_open = false,
            Err(error) => eprintln!("turnout-worker: an order was not understood: {error}"),
        }
        Ok(())
    }

    /// Returns false when the daemon does not read at present; what it misses is in the next totals.
    fn send_counts(&self, state: &State) -> bool {
        self.is_said(&FromWorker::Counts(state.take_counts()))
    }

    /// Returns false when the daemon does not read at present. One that is gone asks again when it is back.
    fn is_said(&self, message: &FromWorker) -> bool {
        let result = frame::send(&self.socket, message);
        !matches!(result, Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// Takes over the listening socket.
pub fn adopt_listener(number: i32) -> Result<TcpListener, LinkError> {
    let listener = TcpListener::from(adopt(number)?);
    let checked =
        listener.set_nonblocking(true).and_then(|()| {
            match rustix::net::sockopt::socket_acceptconn(&listener)? {
                true => Ok(()),
                false => Err(std::io::Error::from(Errno::INVAL)),
            }
        });
    checked.map(|()| listener).map_err(|error| LinkError::Listener(number, error))
}

/// A descriptor that is known by its number only is duplicated through the process's own pidfd: the one way to an owned
/// descriptor that needs no unsafe code. The original stays open as long as the process, which does no harm.
fn adopt(number: i32) -> Result<OwnedFd, LinkError> {
    let this = pidfd_open(getpid(), PidfdFlags::empty());
    this.and_then(|this| pidfd_getfd(this, number, PidfdGetfdFlags::empty()))
        .map_err(|error| LinkError::Descriptor(number, error))
}

fn wait(watched: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<(), LinkError> {
    let limit =
        limit.map(|limit| Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() });
    match poll(watched, limit.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(LinkError::Poll(error)),
    }
}
