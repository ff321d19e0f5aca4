//! One conversation with the launcher: connecting, starting it where no service does, asking, and connecting again
//! when it was restarted. What the answers mean for the daemon is left to `linux_cells.rs`.

use crate::HostError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use turnout_launcher_wire::{
    DETAIL_MAX, Failure, Reply, Request, TransportError, UNKNOWN, WIRE_VERSION, detail_text, receive, send,
};

/// Longest wait for an answer: the launcher itself waits up to 10 s for a cell to be built.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Most connections tried in a row.
const ATTEMPTS: u32 = 3;
/// Longest wait for a launcher that was just started.
const START_DEADLINE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Where the launcher is, and how to start it when it is not there.
#[derive(Debug, Clone)]
pub struct CellsConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// Its program.
    pub launcher: PathBuf,
    /// The unit that runs it, where the service manager does: one that does not answer is then not started from here.
    pub unit: Option<String>,
    /// The instance's cgroup2 directory.
    pub cgroup: PathBuf,
    /// The worker's program.
    pub worker: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
    /// User and group of the cell in slot 0.
    pub uid_base: u32,
    /// Where a started launcher and its workers write their errors; `None` is the daemon's own standard error.
    pub cell_log: Option<PathBuf>,
}

/// An answer with what came beside it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The answer; never [`Reply::Failed`].
    pub reply: Reply,
    /// A worker's pidfd and link, when it started or was adopted.
    pub descriptors: Vec<OwnedFd>,
}

/// A refusal as the launcher gave it, or the loss of the launcher.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is no such cell.
    NoCell,
    /// The launcher does not know this request.
    Unknown,
    /// Anything else.
    Other(HostError),
}

/// The daemon's side of the launcher's socket. One request at a time, as the launcher takes them.
#[derive(Debug)]
pub(crate) struct LauncherClient {
    config: CellsConfig,
    state: Mutex<State>,
    /// Counts connections; outside the lock, which is held as long as the launcher takes to answer.
    epoch: AtomicU64,
    /// Longest wait for an answer.
    patience: Duration,
}

#[derive(Debug)]
struct State {
    connection: Option<OwnedFd>,
    /// A launcher this process started: kept so that its end leaves no zombie.
    started: Option<Child>,
}

impl LauncherClient {
    /// Connects to the launcher, which is started when nobody answers.
    pub fn open(config: CellsConfig) -> Result<Self, HostError> {
        let state = Mutex::new(State { connection: None, started: None });
        let client = Self { config, state, epoch: AtomicU64::new(0), patience: ANSWER_DEADLINE };
        let mut state = client.state();
        client.connected(&mut state)?;
        drop(state);
        Ok(client)
    }

    /// How many connections there have been: a launcher that was restarted has forgotten its cells.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Asks, once more over a new connection when the old one is gone: every request may be repeated.
    pub fn ask(&self, request: Request, descriptors: &[BorrowedFd<'_>]) -> Result<Answer, Refusal> {
        let mut state = self.state();
        let answer = match self.ask_once(&mut state, request, descriptors)? {
            Err(TransportError::Closed) => self.ask_once(&mut state, request, descriptors)?,
            answer => answer,
        };
        answer.map_err(|error| Refusal::Other(self.lost(error)))
    }

    /// Lets go of a launcher that was told to shut down and waits for its end, where it is a child of this process.
    pub fn part(&self) -> Result<(), HostError> {
        let mut state = self.state();
        state.connection = None;
        match state.started.take() {
            Some(mut child) => {
                child.wait().map(drop).map_err(HostError::os("wait", self.config.launcher.display()))
            }
            None => Ok(()),
        }
    }

    fn ask_once(
        &self,
        state: &mut State,
        request: Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Result<Answer, TransportError>, Refusal> {
        let connection = self.connected(state).map_err(Refusal::Other)?;
        match exchange(connection, request, descriptors) {
            Ok(answer) => answer.map(Ok),
            Err(error) => {
                state.connection = None;
                Ok(Err(error))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves a connection that is either whole or found to be broken at its next use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected<'state>(&self, state: &'state mut State) -> Result<&'state OwnedFd, HostError> {
        let mut attempts = 0;
        while state.connection.is_none() {
            let connection = self.reach_or_start(state)?;
            attempts += 1;
            match exchange(&connection, Request::Hello { version: WIRE_VERSION }, &[]) {
                Ok(Ok(_)) => {
                    self.epoch.fetch_add(1, Ordering::Release);
                    state.connection = Some(connection);
                }
                Ok(Err(Refusal::Other(error))) => return Err(error),
                Ok(Err(Refusal::NoCell)) => return Err(failed(Failure::NoCell, 0, "hello")),
                Ok(Err(Refusal::Unknown)) => return Err(failed(Failure::Request, 0, "hello")),
                // A launcher that is ending takes connections until its last descriptor is closed.
                Err(TransportError::Closed) if attempts < ATTEMPTS => {}
                Err(error) => return Err(self.unanswered(error)),
            }
        }
        Ok(state.connection.as_ref().expect("the loop ends with a connection"))
    }

    fn reach_or_start(&self, state: &mut State) -> Result<OwnedFd, HostError> {
        let failed = || HostError::os("connect", self.config.socket.display());
        match reach(&self.config.socket, self.patience) {
            Err(errno @ (Errno::NOENT | Errno::CONNREFUSED)) if self.config.unit.is_some() => {
                Err(self.not_running(errno.into()))
            }
            Err(Errno::NOENT | Errno::CONNREFUSED) => {
                state.started = self.start(state.started.take())?;
                reach(&self.config.socket, self.patience).map_err(failed())
            }
            reached => reached.map_err(failed()),
        }
    }

    /// Starts the launcher and waits for its word that it listens. It makes a session of its own and outlives this process.
    fn start(&self, earlier: Option<Child>) -> Result<Option<Child>, HostError> {
        if let Some(mut ended) = earlier {
            ended.wait().map_err(HostError::os("wait", self.config.launcher.display()))?;
        }
        let config = &self.config;
        let log = config.cell_log.as_ref().map(|path| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(HostError::os("open", path.display()))
        });
        let mut command = Command::new(&config.launcher);
        command.arg("--socket").arg(&config.socket).arg("--cgroup").arg(&config.cgroup);
        command.arg("--worker").arg(&config.worker).arg("--onnxruntime").arg(&config.onnxruntime);
        command.arg("--uid-base").arg(config.uid_base.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(log.transpose()?.map_or_else(Stdio::inherit, Stdio::from));
        // It begins with setsid(2), which a leader of a process group may not call: it is left in this group until then.
        command.current_dir("/");
        let mut child = command.spawn().map_err(HostError::os("execute", config.launcher.display()))?;
        if listens(&mut child).map_err(HostError::os("read", config.launcher.display()))? {
            return Ok(Some(child));
        }
        let _ = child.kill();
        let status = child.wait().map_err(HostError::os("wait", config.launcher.display()))?;
        // Another daemon may have been quicker; then it can be reached.
        if reach(&config.socket, self.patience).is_ok() {
            return Ok(None);
        }
        let log = config.cell_log.as_ref().map_or("standard error".into(), |path| path.display().to_string());
        Err(HostError::Launcher {
            failure: format!("did not start, {status}; see"),
            detail: log,
            source: None,
        })
    }

    /// A first word that nobody answered. The service manager holds the socket open whether its launcher runs or not.
    fn unanswered(&self, error: TransportError) -> HostError {
        if self.config.unit.is_some() {
            return self.not_running(io::Error::other(error));
        }
        self.lost(error)
    }

    fn not_running(&self, error: io::Error) -> HostError {
        let unit = self.config.unit.as_deref().unwrap_or_default();
        HostError::Launcher {
            failure: "does not answer; see".into(),
            detail: format!("systemctl status {unit}"),
            source: Some(error),
        }
    }

    fn lost(&self, error: TransportError) -> HostError {
        let detail = self.config.socket.display().to_string();
        HostError::Launcher { failure: "lost".into(), detail, source: Some(io::Error::other(error)) }
    }
}

/// Asks the launcher behind a socket what it can hold a cell to, over a connection of its own, and starts none.
///
/// # Errors
/// [`HostError::Os`] when nobody listens, [`HostError::Launcher`] without an answer in time or with a refusal.
pub(crate) fn greet(socket: &Path, patience: Duration) -> Result<(), HostError> {
    let connection = reach(socket, patience).map_err(HostError::os("connect", socket.display()))?;
    for request in [Request::Hello { version: WIRE_VERSION }, Request::Enforcement] {
        let answer = exchange(&connection, request, &[]).map_err(|error| HostError::Launcher {
            failure: "does not answer".into(),
            detail: socket.display().to_string(),
            source: Some(io::Error::other(error)),
        })?;
        match answer {
            Ok(_) => {}
            Err(Refusal::Other(error)) => return Err(error),
            Err(Refusal::NoCell | Refusal::Unknown) => return Err(failed(Failure::Request, 0, UNKNOWN)),
        }
    }
    Ok(())
}

/// A refusal in the daemon's words.
pub(crate) fn failed(failure: Failure, errno: i32, detail: &str) -> HostError {
    let words = match failure {
        Failure::Request => "request refused",
        Failure::Denied => "denied",
        Failure::Slots => "no free slot",
        Failure::NoCell => "no such cell",
        Failure::Cgroup => "cgroup",
        Failure::Clone => "process not made",
        Failure::Root => "root not built",
        Failure::Listener => "listener not made",
        Failure::Lock => "lock not put on",
        Failure::Exec => "worker not executed",
        Failure::Swap => "model not swapped",
    };
    let source = (errno != 0).then(|| io::Error::from_raw_os_error(errno));
    HostError::Launcher { failure: words.into(), detail: detail.into(), source }
}

fn reach(path: &Path, patience: Duration) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(patience))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    Ok(socket)
}

fn exchange(
    connection: &OwnedFd,
    request: Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Result<Answer, Refusal>, TransportError> {
    send(connection, &request.encode(), descriptors)?;
    let received = receive(connection)?;
    let answer = match Reply::decode(&received.bytes) {
        Ok(Reply::Failed { failure: Failure::NoCell, .. }) => Err(Refusal::NoCell),
        Ok(Reply::Failed { failure: Failure::Request, detail, .. }) if detail_text(&detail) == UNKNOWN => {
            Err(Refusal::Unknown)
        }
        Ok(Reply::Failed { failure, errno, detail }) => {
            let detail: &[u8; DETAIL_MAX] = &detail;
            Err(Refusal::Other(failed(failure, errno, detail_text(detail))))
        }
        Ok(reply) => Ok(Answer { reply, descriptors: received.descriptors }),
        Err(error) => Err(Refusal::Other(HostError::Launcher {
            failure: "answer not of the list".into(),
            detail: format!("{request:?}"),
            source: Some(io::Error::other(error)),
        })),
    };
    Ok(answer)
}

/// Waits for the launcher's first word; false when it ends or stays silent.
fn listens(child: &mut Child) -> io::Result<bool> {
    let mut output = child.stdout.take().expect("standard output is piped");
    let mut word = [0; 6];
    if poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&START_DEADLINE))? == 0 {
        return Ok(false);
    }
    match output.read_exact(&mut word) {
        Ok(()) => Ok(&word == b"ready\n"),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{bind, listen};

    #[test]
    fn a_socket_that_its_unit_holds_without_a_launcher_is_said_to_be_the_units() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("launcher.sock");
        let held =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        bind(&held, &SocketAddrUnix::new(&socket).unwrap()).unwrap();
        listen(&held, 1).unwrap();
        let client = |unit: Option<&str>| LauncherClient {
            config: CellsConfig {
                unit: unit.map(str::to_owned),
                launcher: "/nowhere".into(),
                cgroup: "/nowhere".into(),
                worker: "/nowhere".into(),
                onnxruntime: "/nowhere".into(),
                socket: socket.clone(),
                uid_base: 0,
                cell_log: None,
            },
            state: Mutex::new(State { connection: None, started: None }),
            epoch: AtomicU64::new(0),
            patience: Duration::from_millis(10),
        };
        let said = |unit| {
            let client = client(unit);
            client.ask(Request::Enforcement, &[]).map(drop)
        };
        let Err(Refusal::Other(error)) = said(Some("launcher.service")) else { panic!("nobody answers") };
        assert!(error.to_string().contains(" `systemctl status launcher.service`"), "{error}");
        let Err(Refusal::Other(error)) = said(None) else { panic!("nobody answers") };
        assert!(error.to_string().contains("lost"), "{error}");
    }
}
