//! One thread, one socket, one request at a time. A peer is root or the launcher's own user; a request outside the list
//! or the order is answered once and the connection closed.

use crate::cells::{Cells, CellsError, Started};
use crate::wait::timespec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use turnout_launcher_wire::{
    Failure, Received, Reply, Request, TransportError, UNKNOWN, WIRE_VERSION, receive, send,
};

/// Most connections at one time: the daemon's, and a few of people who look.
const CONNECTIONS: usize = 16;
const BACKLOG: i32 = 16;

/// The launcher's door.
pub struct Server {
    listener: OwnedFd,
    /// Where it was bound; a socket that was handed over is its owner's to remove.
    path: Option<PathBuf>,
    signals: OwnedFd,
    connections: Vec<Connection>,
    cells: Cells,
}

struct Connection {
    socket: OwnedFd,
    greeted: bool,
}

/// What follows on an answer.
#[derive(PartialEq, Eq)]
enum After {
    Stay,
    Close,
    Exit,
}

struct Answer {
    reply: Reply,
    descriptors: Vec<OwnedFd>,
    after: After,
}

impl Server {
    /// Binds the socket, 0600. The caller owns the instance's cgroup, so a socket that is there has no owner.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn bind(path: &Path, signals: OwnedFd, cells: Cells) -> io::Result<Self> {
        if let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = bind(&listener, &SocketAddrUnix::new(path)?);
        rustix::process::umask(before);
        bound?;
        listen(&listener, BACKLOG)?;
        Ok(Self { listener, path: Some(path.to_owned()), signals, connections: Vec::new(), cells })
    }

    /// Takes a listening socket over that the service manager holds open.
    ///
    /// # Errors
    /// The kernel's own, for what is no such socket.
    pub fn take_over(listener: OwnedFd, signals: OwnedFd, cells: Cells) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&listener, true)?;
        if !sockopt::socket_acceptconn(&listener)?
            || sockopt::socket_type(&listener)? != SocketType::SEQPACKET
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "what was handed over is not the launcher's socket",
            ));
        }
        Ok(Self { listener, path: None, signals, connections: Vec::new(), cells })
    }

    /// Serves until it is told to shut down, by a request or a signal.
    ///
    /// # Errors
    /// poll(2) or accept(2) failed, or not everything could be ended.
    pub fn serve(mut self) -> Result<(), ServeError> {
        loop {
            let ready = self.wait().map_err(ServeError::Poll)?;
            self.cells.reap();
            self.cells.pass_on();
            self.cells.end_backgrounds();
            if ready.signal {
                self.cells.end().map_err(ServeError::End)?;
                break;
            }
            if self.answer_all(&ready.connections) == After::Exit {
                break;
            }
            if ready.listener {
                self.accept().map_err(ServeError::Accept)?;
            }
        }
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn wait(&self) -> Result<Ready, Errno> {
        let fixed = [self.listener.as_fd(), self.signals.as_fd()];
        let connections = self.connections.iter().map(|connection| connection.socket.as_fd());
        let now = Instant::now();
        let workers = self.cells.pidfds().chain(self.cells.outputs(now));
        let all = fixed.into_iter().chain(connections).chain(workers);
        let mut polled: Vec<_> =
            all.map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN)).collect();
        let until = self.cells.background_left().into_iter().chain(self.cells.output_left(now)).min();
        rustix::io::retry_on_intr(|| poll(&mut polled, until.map(timespec).as_ref()))?;
        let ready: Vec<bool> = polled.iter().map(|entry| !entry.revents().is_empty()).collect();
        let connections = ready[2..2 + self.connections.len()].to_vec();
        Ok(Ready { listener: ready[0], signal: ready[1], connections })
    }

    /// Answers one request of each ready connection.
    fn answer_all(&mut self, ready: &[bool]) -> After {
        let mut kept = Vec::new();
        let mut ready = ready.iter();
        for mut connection in std::mem::take(&mut self.connections) {
            let after =
                if ready.next() == Some(&true) { connection.answer(&mut self.cells) } else { After::Stay };
            match after {
                After::Stay => kept.push(connection),
                After::Close => {}
                After::Exit => return After::Exit,
            }
        }
        self.connections = kept;
        After::Stay
    }

    fn accept(&mut self) -> Result<(), Errno> {
        let socket = match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            // The peer has gone meanwhile.
            Err(Errno::WOULDBLOCK | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        let peer = sockopt::socket_peercred(&socket)?.uid;
        let refusal = if !peer.is_root() && peer != rustix::process::geteuid() {
            Some(Reply::failed(Failure::Denied, 0, "root only"))
        } else if self.connections.len() >= CONNECTIONS {
            Some(Reply::failed(Failure::Request, 0, "too many connections"))
        } else {
            None
        };
        match refusal {
            Some(reply) => drop(send(&socket, &reply.encode(), &[])),
            None => self.connections.push(Connection { socket, greeted: false }),
        }
        Ok(())
    }
}

/// Why the launcher stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// poll(2) failed.
    #[error("poll")]
    Poll(#[source] Errno),
    /// accept(2) failed.
    #[error("accept")]
    Accept(#[source] Errno),
    /// Not everything could be ended.
    #[error("end of all cells")]
    End(#[source] CellsError),
}

struct Ready {
    listener: bool,
    signal: bool,
    connections: Vec<bool>,
}

impl Connection {
    fn answer(&mut self, cells: &mut Cells) -> After {
        let received = match receive(&self.socket) {
            Ok(received) => received,
            Err(TransportError::Io(Errno::WOULDBLOCK)) => return After::Stay,
            Err(TransportError::Closed | TransportError::Io(_)) => return After::Close,
            Err(TransportError::TooLarge) => return self.send(&Answer::refused("too large")),
        };
        let answer = self.judge(received, cells);
        self.send(&answer)
    }

    /// The order of requests and the descriptors each may bring.
    fn judge(&mut self, received: Received, cells: &mut Cells) -> Answer {
        let Ok(request) = Request::decode(&received.bytes) else { return Answer::refused(UNKNOWN) };
        let brings_files = matches!(
            request,
            Request::StartWorker { .. } | Request::SwapModel { .. } | Request::GrantDevice { .. }
        );
        let due = usize::from(brings_files);
        if received.descriptors.len() != due {
            return Answer::refused("descriptors");
        }
        match request {
            Request::Hello { version } if version != WIRE_VERSION => {
                Answer::refused("another version of the list")
            }
            Request::Hello { .. } if self.greeted => Answer::refused("hello twice"),
            Request::Hello { .. } => {
                self.greeted = true;
                Answer::of(Ok(Reply::Done))
            }
            _ if !self.greeted => Answer::refused("no hello yet"),
            request => perform(request, received.descriptors, cells),
        }
    }

    /// A peer that does not take its answer is not waited for.
    fn send(&self, answer: &Answer) -> After {
        let descriptors: Vec<BorrowedFd<'_>> = answer.descriptors.iter().map(AsFd::as_fd).collect();
        match (send(&self.socket, &answer.reply.encode(), &descriptors), &answer.after) {
            (_, After::Exit) => After::Exit,
            (Ok(()), After::Stay) => After::Stay,
            (Ok(()), After::Close) | (Err(_), _) => After::Close,
        }
    }
}

fn perform(request: Request, mut descriptors: Vec<OwnedFd>, cells: &mut Cells) -> Answer {
    match request {
        Request::Hello { .. } => Answer::refused("hello twice"),
        Request::CreateCell { generation, profile } => Answer::of(cells.create(generation, profile)),
        Request::StartWorker { generation } => match descriptors.as_slice() {
            [model] => Answer::started(cells.start(generation, model)),
            _ => Answer::refused("descriptors"),
        },
        Request::SwapModel { generation } => match descriptors.as_slice() {
            [model] => Answer::of(cells.swap_model(generation, model)),
            _ => Answer::refused("descriptors"),
        },
        Request::GrantDevice { generation, path } => match descriptors.pop() {
            Some(node) => Answer::of(cells.grant(generation, path, node)),
            None => Answer::refused("descriptors"),
        },
        Request::SetTenant(tenant) => Answer::of(cells.set_tenant(&tenant)),
        Request::Background { generation, milliseconds } => {
            Answer::of(cells.background(generation, Duration::from_millis(milliseconds.into())))
        }
        Request::StartRouter => Answer::started(cells.start_router()),
        Request::Adopt { generation } => match cells.adopt(generation) {
            Ok(Some(started)) => Answer::started(Ok(started)),
            Ok(None) => Answer::of(cells.described(generation)),
            Err(error) => Answer::of(Err(error)),
        },
        Request::KillWorker { generation } => Answer::of(cells.kill(generation)),
        Request::DestroyCell { generation } => Answer::of(cells.destroy(generation)),
        Request::CellAt { index } => Answer::of(cells.at(index)),
        Request::Enforcement => Answer::of(Ok(Reply::Enforcement(cells.enforcement()))),
        Request::Shutdown => Answer { after: After::Exit, ..Answer::of(cells.end()) },
    }
}

impl Answer {
    fn of(result: Result<Reply, CellsError>) -> Self {
        let reply = result.unwrap_or_else(|error| error.reply());
        Self { reply, descriptors: Vec::new(), after: After::Stay }
    }

    fn started(result: Result<Started, CellsError>) -> Self {
        match result {
            Ok(started) => {
                Self { reply: started.reply, descriptors: started.descriptors.into(), after: After::Stay }
            }
            Err(error) => Self::of(Err(error)),
        }
    }

    fn refused(why: &str) -> Self {
        Self { reply: Reply::failed(Failure::Request, 0, why), descriptors: Vec::new(), after: After::Close }
    }
}
