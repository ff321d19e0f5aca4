//! `[audit.http]`: the daemon's side of the read-only view of snapshots. It opens the port and the folder, gives both to
//! a process without rights, and starts that again when it dies. The daemon itself never reads a stranger's bytes.
//! Where systemd fences the daemon, it may not do that; `turnout-audit-view.socket` and its service do the same there.

mod answer;
mod digests;
mod process;
mod request;

pub use process::{ServeSnapshotsError, View, serve};

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use turnout_host::Host;

/// The sub-command that the process is started with.
pub const SUBCOMMAND: &str = "serve-snapshots";
/// First pause before a process that died is started again; doubles each time.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A process that lived this long begins with the first pause again.
const HEALTHY: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where the view is served, and as whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHttp {
    /// The address.
    pub listen: SocketAddr,
    /// The uid of the process; nobody else should have it.
    pub uid: u32,
}

/// Opens the port.
///
/// # Errors
/// The OS's own.
pub fn bind(view: &AuditHttp) -> io::Result<TcpListener> {
    TcpListener::bind(view.listen)
}

/// Keeps a process serving until told to stop.
pub async fn keep(
    (view, listener): (AuditHttp, TcpListener),
    host: Arc<dyn Host>,
    mut stop: watch::Receiver<bool>,
) {
    let mut pause = PAUSE_FIRST;
    loop {
        let begun = Instant::now();
        match start(view, &listener, host.as_ref()) {
            Ok(mut child) => {
                tracing::info!(pid = child.id(), listen = %view.listen, "snapshots can be read over HTTP");
                if stopped_or_died(&mut child, &mut stop).await {
                    let _ = child.kill();
                    let _ = child.wait();
                    return;
                }
            }
            Err(error) => tracing::error!("snapshots over HTTP: {error}"),
        }
        pause = if begun.elapsed() > HEALTHY { PAUSE_FIRST } else { pause };
        if tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// True when told to stop.
async fn stopped_or_died(child: &mut Child, stop: &mut watch::Receiver<bool>) -> bool {
    loop {
        if tokio::time::timeout(LOOK_EVERY, stop.wait_for(|stop| *stop)).await.is_ok() {
            return true;
        }
        if let Ok(Some(status)) = child.try_wait() {
            tracing::error!(
                "the process that serves snapshots over HTTP ended: {status}; where systemd runs the daemon, \
                 `systemctl enable --now turnout-audit-view.socket` serves them in place of `[audit.http]`"
            );
            return false;
        }
    }
}

/// Standard input is the port, standard output the folder: nothing else is open in the process but its log.
fn start(view: AuditHttp, listener: &TcpListener, host: &dyn Host) -> io::Result<Child> {
    let folder = host.snapshots_tree().map_err(|error| io::Error::other(crate::chain(&error)))?;
    Command::new(std::env::current_exe()?)
        .arg(SUBCOMMAND)
        .args(["--uid", &view.uid.to_string()])
        .args(["--parent", &std::process::id().to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)))
        .stdout(Stdio::from(folder))
        .spawn()
}
