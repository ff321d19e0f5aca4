//! The process that serves snapshots: it gives up every right, then accepts. One connection, one task; a client that
//! does not send or does not read is dropped.

use super::answer;
use super::digests::Digests;
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
use tokio::runtime::{Builder, Runtime};
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
    runtime().map_err(failed)?.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
        let folder = Arc::new(Folder::from(folder));
        tokio::select! {
            () = accept(listener, folder) => {}
            () = orphaned(parent) => {}
        }
        Ok(())
    })
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().max_blocking_threads(READERS).enable_all().build()
}

async fn accept(listener: tokio::net::TcpListener, folder: Arc<Folder>) {
    let (places, digests) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Digests::default());
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: waiting for a place to come free is all that helps.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let served = (Arc::clone(&folder), digests.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer::answer(served.clone(), request));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use tokio::sync::oneshot;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn ask(at: SocketAddr, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let fields = "host: x\r\nconnection: close\r\nwant-repr-digest: sha-256=1";
        stream.write_all(format!("{request} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()).unwrap();
        stream
    }

    fn answered(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn digests_of_large_files_keep_nobody_from_reading_and_end_when_their_clients_leave() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..READERS {
            File::create(place.path().join(number.to_string())).unwrap().set_len(1 << 40).unwrap();
        }
        fs::create_dir(place.path().join("folder")).unwrap();
        fs::write(place.path().join("small"), "x").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (at, folder) = (listener.local_addr().unwrap(), Arc::new(Folder::open(place.path()).unwrap()));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = std::thread::spawn(move || {
            let runtime = runtime().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, folder) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });

        let large: Vec<TcpStream> = (0..READERS).map(|number| ask(at, &format!("HEAD /{number}"))).collect();
        for _ in 0..5 {
            let listed = answered(ask(at, "GET /folder/"));
            assert!(listed.starts_with("HTTP/1.1 200 "), "{listed}");
        }
        drop(large);
        let small = answered(ask(at, "GET /small"));
        // echo -n x | openssl dgst -sha256 -binary | base64
        let digest = "repr-digest: sha-256=:LXEWQrcmsEQBYnyp+6wy9chTD7GQPMTbAiWHF5IaSIE=:\r\n";
        assert!(small.contains(digest) && small.ends_with("\r\n\r\nx"), "{small}");
        stop.send(()).unwrap();
        serving.join().unwrap();
    }
}
