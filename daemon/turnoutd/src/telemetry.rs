//! What operators read: the log, to journald when the service manager started us, to stderr otherwise; and the line
//! that the service manager shows.

use crate::log_rate::LogRate;
use crate::status_line::status_line;
use crate::teller::Teller;
use crate::view::View;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tracing::Level;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};
use turnout_engine::log::ClockReason;
use turnout_engine::{ArchiveRecord, Entry, LogRecord, Record, TrustRecord};

/// Shortest time between two status lines.
const STATUS_PAUSE: Duration = Duration::from_millis(250);

/// What is let through by its level, once there is a log; none where `TURNOUT_LOG` decides.
static THRESHOLD: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to log, at this level unless `TURNOUT_LOG` says otherwise (`debug`, `warn,turnoutd::driver=debug`).
pub fn init(level: Level) {
    let fixed = EnvFilter::try_from_env("TURNOUT_LOG").ok();
    let changes = fixed.is_none();
    let (filter, handle) = reload::Layer::new(fixed.unwrap_or_else(|| EnvFilter::new(level.as_str())));
    if changes {
        let _ = THRESHOLD.set(handle);
    }
    let registry = tracing_subscriber::registry().with(filter);
    match stderr_is_the_journal().then(tracing_journald::layer).and_then(Result::ok) {
        Some(journald) => {
            let journald =
                journald.with_field_prefix(Some("TURNOUT".to_owned())).with_priority_mappings(priorities());
            registry.with(journald.with_filter(LogRate::from_now())).init();
        }
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_target(false)
                    .with_filter(LogRate::from_now()),
            )
            .init(),
    }
    *teller() = Some(Teller::start(say));
}

/// From now on, log at this level, unless `TURNOUT_LOG` said otherwise at the start.
pub fn set_level(level: Level) {
    if let Some(threshold) = THRESHOLD.get()
        && let Err(error) = threshold.reload(EnvFilter::new(level.as_str()))
    {
        tracing::error!("the level of the log stays as it is: {error}");
    }
}

/// The levels as syslog(3) has them; the layer's own take `info` for something to notice.
fn priorities() -> PriorityMappings {
    PriorityMappings {
        error: Priority::Error,
        warn: Priority::Warning,
        info: Priority::Informational,
        debug: Priority::Debug,
        trace: Priority::Debug,
    }
}

/// Says what is still on its way into the log.
pub fn finish() {
    if let Some(teller) = teller().take()
        && !teller.finish()
    {
        eprintln!("the log was not read: its last lines are missing");
    }
}

/// The log is one for the whole process, and so is the way into it.
fn teller() -> MutexGuard<'static, Option<Teller>> {
    static TELLER: Mutex<Option<Teller>> = Mutex::new(None);
    TELLER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The service manager says which stream is the journal's (systemd.exec(5)); a program below may have inherited the
/// words without the stream.
fn stderr_is_the_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM");
    let own = rustix::fs::fstat(std::io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    stream.ok().zip(own.ok()).is_some_and(|(journal, own)| journal == own)
}

/// Tells of a record, without waiting for the log. Nothing is told before the log has begun.
pub fn tell(entry: &Entry) {
    if let Some(teller) = &*teller() {
        teller.take(entry);
    }
}

/// Says a record, and under which audit context: `TURNOUT_AUDIT_CONTEXT` in journald.
fn say(entry: &Entry) {
    let Some(context) = entry.audit_context else { return say_record(&entry.record) };
    // As a span, every line of every kind of record has it; at this level, no filter takes it from a line that is shown.
    let span = tracing::error_span!("asked", audit_context = %context.id());
    span.in_scope(|| say_record(&entry.record));
}

/// One line for each record that an operator wants to see go by.
fn say_record(record: &Record) {
    match record {
        Record::DaemonStarted { version } => tracing::info!(%version, "started"),
        Record::Examined { degraded } => {
            degraded.iter().for_each(|line| tracing::warn!("degraded: {line}"));
        }
        Record::Refused { by, what, why } => tracing::warn!(%by, %what, "refused: {}", why.join("; ")),
        Record::TrustAdded { by, issuer, key_id, .. } => tracing::info!(%by, %issuer, %key_id, "key trusted"),
        Record::TrustRemoved { by, key_id } => tracing::info!(%by, %key_id, "key no longer trusted"),
        Record::Importing { .. } => {}
        Record::Imported { by, version, digest, .. } => tracing::info!(%by, %version, %digest, "imported"),
        Record::Planned(planned) => tracing::info!(
            release = %planned.release, model = %planned.model, version = %planned.to.version, by = %planned.by,
            "release planned"
        ),
        Record::Intent { release, step, .. } => tracing::debug!(%release, "{step}"),
        Record::Done { release, step, detail, .. } if detail.is_empty() => {
            tracing::info!(%release, "{step}: done")
        }
        Record::Done { release, step, detail, .. } => tracing::info!(%release, "{step}: {detail}"),
        Record::Failed { release, step, why, .. } => tracing::error!(%release, "{step} failed: {why}"),
        Record::Observed { release, window, verdict } => tracing::info!(
            %release, requests = window.candidate.requests, errors = window.candidate.errors,
            p95_us = window.candidate.p95_us, "window {verdict:?}"
        ),
        Record::Held { release, why } => tracing::warn!(%release, "held: {why}"),
        Record::Resumed { release, by } => tracing::info!(%release, %by, "resumed"),
        Record::Interrupted { release, cause } => tracing::warn!(%release, "will be undone: {cause}"),
        Record::RollingBack { release, cause, .. } => tracing::warn!(%release, "rolling back: {cause}"),
        Record::Promoted { release } => tracing::info!(%release, "promoted"),
        Record::Ended { release, state, causes } if causes.is_empty() => {
            tracing::info!(%release, ?state, "release ended");
        }
        Record::Ended { release, state, causes } => {
            tracing::info!(%release, ?state, "release ended: {}", causes.join("; "));
        }
        Record::WorkerDied { model, generation, why } => {
            tracing::error!(%model, %generation, "worker died: {why}")
        }
        Record::WorkerSilenced { model, generation, why } => {
            tracing::warn!(%model, %generation, "worker is not listened to any more: {why}")
        }
        Record::Archive(record) => tell_kept(record),
        Record::Trust(record) => tell_trust(record),
        Record::Log(record) => tell_log(record),
    }
}

fn tell_trust(record: &TrustRecord) {
    match record {
        TrustRecord::RootAccepted { by, root, digest, .. } => {
            tracing::info!(%by, root, %digest, "trust root in force");
        }
        TrustRecord::ExceptionAccepted { by, model, manifest, reason, .. } => {
            tracing::warn!(%by, %model, %manifest, "excepted for a time: {reason}");
        }
        TrustRecord::OrderUsed { by, version, channel, order, .. } => {
            tracing::info!(%by, %version, %channel, epoch = order.epoch, counter = order.counter, "order used");
        }
    }
}

fn tell_log(record: &LogRecord) {
    match record {
        LogRecord::ClockRead { reason: ClockReason::Stepped, stepped_ms, .. } => {
            tracing::warn!("the clock was set by {stepped_ms} ms")
        }
        LogRecord::ClockRead { reason: ClockReason::Changed, synchronized, .. } => {
            tracing::warn!(synchronized, "what keeps the clock right has changed")
        }
        LogRecord::ClockRead { synchronized, error_us, .. } => {
            tracing::debug!(synchronized, error_us, "clock read")
        }
        LogRecord::LogOpened { by, reason, taken, .. } => {
            tracing::warn!(%by, taken, "a new log was opened: {reason}")
        }
        LogRecord::ReserveSpent => {
            tracing::error!("the journal's disk is full: nothing new is begun until there is room")
        }
        LogRecord::ReserveRestored => tracing::info!("the journal's disk has room again"),
        LogRecord::LogRecovered { bytes, kept_in, .. } => {
            tracing::warn!(bytes, %kept_in, "cut a torn end off the journal")
        }
    }
}

fn tell_kept(record: &ArchiveRecord) {
    use ArchiveRecord as R;
    match record {
        R::SnapshotTaken { snapshot, .. } => tracing::info!(%snapshot, "snapshot taken"),
        R::SnapshotHeld { snapshot, by, reason } => tracing::info!(%snapshot, %by, "held: {reason}"),
        R::HoldReleased { snapshot, by } => tracing::info!(%snapshot, %by, "hold released"),
        R::MountGranted { snapshot, at, by, .. } => tracing::info!(%snapshot, %by, "mounted at `{at}`"),
        R::MountEnded { snapshot, at, why, .. } => tracing::info!(%snapshot, "not mounted at `{at}`: {why}"),
        R::SnapshotExported { snapshot, by, list: None } => tracing::info!(%snapshot, %by, "exported"),
        R::SnapshotExported { snapshot, by, .. } => tracing::info!(%snapshot, %by, "list of files exported"),
        R::SnapshotDeleting { snapshot, by, why } => tracing::info!(%snapshot, %by, "deleting: {why}"),
        R::VersionDeleting { version, by, why, .. } => tracing::info!(%version, %by, "deleting: {why}"),
        R::SnapshotKept { snapshot, why } => tracing::error!(%snapshot, "not deleted: {why}"),
        R::VersionKept { version, why } => tracing::error!(%version, "not deleted: {why}"),
        R::Scrubbed { found } if found.errors > 0 => tracing::error!(
            errors = found.errors,
            corrected = found.corrected,
            lost = found.uncorrectable,
            "scrub found damage"
        ),
        R::Scrubbed { found } => tracing::info!(bytes = found.bytes, "scrubbed, no damage"),
        R::StoreGrown { bytes } => tracing::info!(bytes, "store grown"),
        R::ArchiveFailed { what, why } => tracing::error!("{what} failed: {why}"),
        R::LogHeld { from, by, reason } => {
            tracing::info!(%by, "the journal is held from record {from} on: {reason}")
        }
        R::LogHoldReleased { by } => tracing::info!(%by, "the hold on the journal is over"),
        R::LogPruned { minimum_index, by, why, .. } => {
            tracing::info!(%by, "pruning the journal's records before {minimum_index}: {why}")
        }
        R::HostKeyMade { key_id } => tracing::info!(%key_id, "host key made"),
        R::SnapshotRequested { .. }
        | R::SnapshotDeleted { .. }
        | R::VersionDeleted { .. }
        | R::Scrubbing { .. }
        | R::StoreGrowing { .. } => tracing::debug!(?record, "written"),
    }
}

/// Tells the service manager, where one asks to be told, in one line what is served: now, and whenever it changed.
pub async fn tell_status(notify: Option<OsString>, mut views: watch::Receiver<Arc<View>>) {
    let Some(socket) = notify.and_then(|path| notify_socket(path.as_bytes())) else { return };
    let mut last = String::new();
    loop {
        let line = status_line(&views.borrow_and_update());
        // A service manager that does not read at present is told again.
        let told = line == last || socket.send(format!("STATUS={line}").as_bytes()).is_ok();
        if told {
            last = line;
        }
        tokio::time::sleep(STATUS_PAUSE).await;
        if told && views.changed().await.is_err() {
            return;
        }
    }
}

/// A path, or a name in the abstract namespace after an `@` (sd_notify(3)). Never waited for.
fn notify_socket(path: &[u8]) -> Option<UnixDatagram> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_told_each_line_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let (publisher, views) = watch::channel(Arc::new(View::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let telling = std::thread::spawn(move || {
            runtime.block_on(tell_status(Some(path.into_os_string()), views));
        });
        let mut bytes = [0; 256];
        let mut next = || {
            let length = manager.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        assert_eq!(next(), "STATUS=no model is live; journal 0 records");
        publisher.send_replace(Arc::new(View { journal_bytes: 1, ..View::default() }));
        publisher.send_replace(Arc::new(View { journal_size: 7, ..View::default() }));
        assert_eq!(next(), "STATUS=no model is live; journal 7 records", "what did not change is not told");
        drop(publisher);
        telling.join().unwrap();
    }

    #[test]
    fn where_nobody_asks_nobody_is_told() {
        assert!(notify_socket(b"/nowhere").is_none());
        assert!(notify_socket(b"@turnout-test-that-nobody-has-bound").is_none());
    }
}
