//! The process that serves snapshots: it gives up every right, then accepts. One connection, one task; a client that
//! does not send or does not read is dropped.

use super::answer;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use listenfd::ListenFd;
use rustix::process::{Pid, getppid};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use turnout_host::HostError;
use turnout_host::beneath::Folder;
use turnout_host::confine::{close_inherited, confine};
use turnout_host::mounts::detached_tree;

/// Most connections at one time.
const CONNECTIONS_MAX: usize = 32;
/// How long a request's head may take to arrive.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(3600);
/// How often the process looks whether its daemon still runs.
const PARENT_LOOK: Duration = Duration::from_secs(1);
/// Threads that read files.
const READERS: usize = 8;

/// Why the process ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeSnapshotsError {
    /// What its daemon gave it is not there.
    #[error("standard input is no port, or standard output no folder")]
    Given(#[source] io::Error),
    /// What the service manager gave it is no port.
    #[error("the service manager handed over no listening TCP socket")]
    Handed(#[source] io::Error),
    /// There is no such folder, or no right to it.
    #[error("snapshots in `{}`", .0.display())]
    Snapshots(PathBuf, #[source] HostError),
    /// It could not give up its rights.
    #[error("confinement")]
    Confine(#[source] HostError),
    /// It could not begin to accept.
    #[error("runtime")]
    Runtime(#[source] io::Error),
}

/// What the process serves, and where: opened before it gives up its rights.
#[derive(Debug)]
pub struct View {
    listener: TcpListener,
    folder: OwnedFd,
    /// The daemon without which it ends.
    parent: Option<i32>,
}

impl View {
    /// From a daemon: the port is standard input, the folder standard output. For the first lines of `main`: every other
    /// descriptor that was inherited is closed.
    ///
    /// # Errors
    /// [`ServeSnapshotsError::Given`].
    pub fn from_daemon(parent: i32) -> Result<Self, ServeSnapshotsError> {
        close_inherited();
        let given = ServeSnapshotsError::Given;
        let listener = io::stdin().as_fd().try_clone_to_owned().map_err(given)?;
        let folder = io::stdout().as_fd().try_clone_to_owned().map_err(given)?;
        Ok(Self { listener: TcpListener::from(listener), folder, parent: Some(parent) })
    }

    /// From a service manager, which holds the port (sd_listen_fds(3)) and ends the process with its unit.
    ///
    /// # Errors
    /// [`ServeSnapshotsError::Handed`] or [`ServeSnapshotsError::Snapshots`].
    pub fn from_service_manager(snapshots: &Path) -> Result<Self, ServeSnapshotsError> {
        let listener = ListenFd::from_env()
            .take_tcp_listener(0)
            .and_then(|listener| listener.ok_or_else(|| io::ErrorKind::NotFound.into()))
            .map_err(ServeSnapshotsError::Handed)?;
        let folder = detached_tree(snapshots)
            .map_err(|error| ServeSnapshotsError::Snapshots(snapshots.to_owned(), error))?;
        Ok(Self { listener, folder, parent: None })
    }
}

/// Gives up every right, and serves until the process is ended, or the daemon that started it is gone.
///
/// # Errors
/// [`ServeSnapshotsError`].
pub fn serve(view: View, uid: u32) -> Result<(), ServeSnapshotsError> {
    let View { listener, folder, parent } = view;
    confine(folder.as_fd(), uid).map_err(ServeSnapshotsError::Confine)?;
    let failed = ServeSnapshotsError::Runtime;
    listener.set_nonblocking(true).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(READERS)
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let folder = Arc::new(Folder::from(folder));
        tokio::select! {
            () = accept(listener, folder) => {}
            () = orphaned(parent) => {}
        }
        Ok(())
    })
}

async fn accept(listener: tokio::net::TcpListener, folder: Arc<Folder>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: waiting for a place to come free is all that helps.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let folder = Arc::clone(&folder);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer::answer(Arc::clone(&folder), request));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_DEADLINE)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_DEADLINE, served).await;
            drop(place);
        });
    }
}

/// Waits for the end of the daemon: the view of a store must not outlive who looks after the store.
async fn orphaned(parent: Option<i32>) {
    let Some(parent) = parent else { return std::future::pending().await };
    while getppid().map(Pid::as_raw_pid) == Some(parent) {
        tokio::time::sleep(PARENT_LOOK).await;
    }
}
