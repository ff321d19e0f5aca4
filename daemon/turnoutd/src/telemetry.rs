//! What operators read: the log, to journald when the service manager started us, to stderr otherwise; and the line
//! that the service manager shows. What the log says of a record is in `telemetry/lines.rs`.

mod lines;

pub use lines::Told;

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
use turnout_engine::{Entry, World};

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
    *teller() = Some(Teller::start(lines::say));
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
fn teller() -> MutexGuard<'static, Option<Teller<Told>>> {
    static TELLER: Mutex<Option<Teller<Told>>> = Mutex::new(None);
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
pub fn tell(entry: &Entry, world: &World) {
    if let Some(teller) = &*teller() {
        teller.take(Told::of(entry, world));
    }
}

/// Says why the daemon ends: on standard error, whose lines the journal takes for mere information unless they say that
/// they are errors (sd-daemon(3)).
pub fn say_failure(message: &str, hint: &str) {
    let failure = failure(message, hint);
    if stderr_is_the_journal() { eprint!("{}", as_errors(&failure)) } else { eprint!("{failure}") }
}

fn failure(message: &str, hint: &str) -> String {
    format!("error: {message}\nhint: {hint}\n")
}

fn as_errors(text: &str) -> String {
    text.lines().map(|line| format!("<3>{line}\n")).collect()
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
    fn each_line_of_a_failure_is_an_error_for_the_journal() {
        assert_eq!(
            as_errors(&failure("config: two\nproblems", "mend them")),
            "<3>error: config: two\n<3>problems\n<3>hint: mend them\n"
        );
    }

    #[test]
    fn where_nobody_asks_nobody_is_told() {
        assert!(notify_socket(b"/nowhere").is_none());
        assert!(notify_socket(b"@turnout-test-that-nobody-has-bound").is_none());
    }
}
