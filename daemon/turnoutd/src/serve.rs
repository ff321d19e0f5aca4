//! Puts the daemon together: folders, journal, host, loop, door; and takes it apart again at SIGTERM. Workers and
//! routes stay when the daemon ends.

use crate::audit::LongReads;
use crate::audit_http::AuditHttp;
use crate::condition::Condition;
use crate::config::{Config, USUAL_READER};
use crate::driver::{Driver, Input, Parts};
use crate::executor::Executor;
use crate::handlers::Desk;
use crate::intake::Intake;
use crate::notary::{self, Notary};
use crate::recover::replay;
use crate::router_link::LinkedRouter;
use crate::supervise::{LinkedWorkers, Sink};
use crate::view::{Daemon, Publisher};
use crate::{
    api, audit_http, evidence, examine, host_key, keeping, notify, now_ms, own_cpus, settings, telemetry,
};
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use turnout_engine::{ArchiveRecord, Entry, LogRecord, Record, World};
use turnout_host::linux_cells::CellsConfig;
use turnout_host::mounts::cgroup2_root;
use turnout_host::volume::VolumeConfig;
use turnout_host::{Host, HostConfig, LinuxHost, clock};
use turnout_journal::{Cut, Journal, JournalError, OpenOptions};
use turnout_manifest::{Sha256, canonical};

mod error;

pub use error::ServeError;
use error::{CONTROL_SOCKET, PORT};

/// Space kept for the journal's last records: some ten thousand, many times what a release that is undone takes.
const RESERVE_BYTES: u64 = 16 << 20;
/// How long what a daemon that has just ended had started may still hold the journal's lock: it examines the host in
/// processes of its own, which end by themselves.
/// When the host is examined for the second time: by then a clock is set and the live versions are up.
const EXAMINE_SOON: Duration = Duration::from_secs(120);
/// And from then on. Not often: some of it is tried on an image of its own, and the kernel's log has each mount.
const EXAMINE_EVERY: Duration = Duration::from_secs(24 * 3600);
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Told once, by the daemon that found it so.
const TORN: &str = "store: the superblock of its image was torn, as by a power cut, and was restored from a copy: \
                    `turnoutctl store scrub` reads everything else";

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config) -> Result<(), ServeError> {
    let given = notify::inherited_socket().map_err(|source| control_socket(&config, source))?;
    telemetry::init(config.live.get().log);
    own_cpus::keep_off(&config);
    let config = Arc::new(config);
    folder(&config.state, 0o700)?;
    folder(&config.runtime, 0o755)?;
    // The journal's lock comes first: a second daemon on the same state must change nothing.
    let (journal, world) = open_journal(&config)?;
    let host = open_host(&config)?;
    let (torn, host) = (host.store_was_torn().then_some(TORN), Arc::new(host) as Arc<dyn Host>);
    let socket = open_door(&config, given)?;
    let view = config.audit_http.map(open_view).transpose()?;
    let intake = Intake::open(Arc::clone(&host), &config, Arc::clone(&world.trust));
    let intake = Arc::new(intake.map_err(ServeError::Intake)?);
    let host_key = Arc::new(host_key::open(&config.state).map_err(ServeError::HostKey)?);
    let known_key = world.archive.host_key.clone();
    let notary = Notary::open(&config.state, Arc::clone(&journal), Arc::clone(&host_key));
    let notary = Arc::new(notary.map_err(ServeError::Journal)?);
    let (sender, inbox) = mpsc::channel();
    let events = sender.clone();
    let sink: Sink = Arc::new(move |event| drop(events.send(Input::Event(event))));
    let (publisher, views) = Publisher::new();
    let executor = executor((&host, &journal), &intake, &config, sink);
    let spawn = Arc::new(|work: Box<dyn FnOnce() + Send>| drop(std::thread::spawn(work)));
    let driver = Driver::new(Parts {
        world,
        journal: Arc::clone(&journal),
        executor,
        spawn,
        publisher,
        inbox,
        sender: sender.clone(),
        turning_point: Box::new({
            let notary = Arc::clone(&notary);
            move || notary.ring()
        }),
    });
    let (readers, condition, signer) = (readers(&config), Condition::default(), Arc::clone(&notary));
    let daemon = Arc::new(Daemon { started_ms: now_ms(), condition, torn, readers, config });
    let desk = Desk {
        driver: sender,
        views,
        daemon,
        intake,
        host,
        journal,
        host_key,
        notary,
        long_reads: LongReads::default(),
        denials: Arc::default(),
        starting: Arc::default(),
    };
    let mut heart = notify::Heartbeat::from_environment();
    let looping = thread("driver", move || driver.run(|| heart.beat()))?;
    tell_key(&desk, known_key.as_deref());
    let signing = sign_beside(&desk)?;
    examine_beside(&desk);
    serve((socket, view), desk)?;
    end(looping, signing, &signer);
    telemetry::finish();
    Ok(())
}

/// The loop has written everything that it decided; steps under way are found open at the next start.
fn end(looping: JoinHandle<()>, signing: JoinHandle<()>, signer: &Notary) {
    looping.join().unwrap_or_else(|_| tracing::error!("the loop ended with a panic"));
    signer.stop();
    signing.join().unwrap_or_else(|_| tracing::error!("the notary ended with a panic"));
}

fn executor(
    (host, journal): (&Arc<dyn Host>, &Arc<Journal>),
    intake: &Arc<Intake>,
    config: &Arc<Config>,
    sink: Sink,
) -> Executor {
    Executor {
        host: Arc::clone(host),
        workers: Arc::new(LinkedWorkers::new(Arc::clone(host), Arc::clone(&sink))),
        router: Arc::new(LinkedRouter::new(Arc::clone(host), sink)),
        journal: Arc::clone(journal),
        intake: Arc::clone(intake),
        config: Arc::clone(config),
    }
}

/// Opens the journal and reads the state back from it.
fn open_journal(config: &Config) -> Result<(Arc<Journal>, World), ServeError> {
    // Before anything is changed: a journal that is not what was signed is evidence.
    notary::check(&config.state).map_err(ServeError::Journal)?;
    let dir = config.state.join(evidence::JOURNAL_DIR);
    let journal = once_free(|| open_and_tell(&dir)).map_err(ServeError::Journal)?;
    let world = replay(&dir).map_err(ServeError::Recover)?;
    Ok((Arc::new(journal), world))
}

/// Takes the journal's lock by this as soon as nobody else has it.
pub(crate) fn once_free<Taken>(
    take: impl Fn() -> Result<Taken, JournalError>,
) -> Result<Taken, JournalError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match take() {
            Err(JournalError::Locked { .. }) if Instant::now() < until => std::thread::sleep(LOCK_RETRY),
            taken => return taken,
        }
    }
}

/// Opens the journal. What an interrupted write had left at its end is told by the next record.
fn open_and_tell(dir: &Path) -> Result<Journal, JournalError> {
    let (journal, recovered) = Journal::open(dir, journal_options())?;
    if let Some(Cut { bytes, sha256, kept_in }) = recovered.cut {
        tracing::warn!(bytes, kept_in = %kept_in.display(), "cut a torn end off the journal");
        let kept_in = kept_in.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sha256 = Sha256(*sha256.as_bytes());
        let record = Record::Log(LogRecord::LogRecovered { bytes, sha256, kept_in });
        let body = canonical::to_canonical(&record).expect("texts and numbers below 2^53");
        // A disk without room keeps nobody from serving: changes are refused then, as after any write that failed.
        if let Err(error) = journal.append(&body) {
            tracing::error!("the journal does not say so: {}", crate::chain(&error));
        }
    }
    Ok(journal)
}

fn open_host(config: &Config) -> Result<LinuxHost, ServeError> {
    let cgroup = cgroup(config).ok_or(ServeError::NoCgroup)?;
    LinuxHost::open(host_config(config, cgroup)).map_err(ServeError::Host)
}

/// Signs the journal's checkpoints on a thread of its own: the loop does not wait for the disk twice.
fn sign_beside(desk: &Desk) -> Result<JoinHandle<()>, ServeError> {
    let (notary, driver) = (Arc::clone(&desk.notary), desk.driver.clone());
    let journal = desk.daemon.config.state.join(evidence::JOURNAL_DIR);
    let work = move || {
        notary.run(
            &journal,
            || clock::read().ok(),
            |record| {
                // Waited for, so that what is signed next has it; a loop that has ended answers at once.
                let (reply, answer) = oneshot::channel();
                let entry = Entry { record: Record::Log(record), audit_context: None };
                let _ = driver.send(Input::Note(Box::new(entry), reply));
                let _ = answer.blocking_recv();
            },
        );
    };
    thread("notary", work)
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ServeError> {
    let started = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map_err(|source| ServeError::Os { what: "thread", path: name.into(), source })
}

/// Writes down which key this host signs with, unless it is the one that the journal knows.
fn tell_key(desk: &Desk, known: Option<&str>) {
    let key_id = desk.host_key.public_key().id().to_string();
    if known != Some(&key_id) {
        note(&desk.driver, Record::Archive(ArchiveRecord::HostKeyMade { key_id }));
    }
}

/// Examines the host on a thread of its own: it takes half a second, and traffic is not to wait for it. And again while the
/// daemon runs, for a host changes: a clock is set right, a launcher dies. The record says also what else somebody should
/// look at; the status asks for that anew each time.
fn examine_beside(desk: &Desk) {
    let (daemon, driver, intake) = (Arc::clone(&desk.daemon), desk.driver.clone(), Arc::clone(&desk.intake));
    std::thread::spawn(move || {
        let pauses = std::iter::once(EXAMINE_SOON).chain(std::iter::repeat(EXAMINE_EVERY));
        for pause in pauses {
            let found = examine::degraded(&daemon.config);
            if daemon.condition.examined(found.clone()) {
                let concerns = intake.concerns().into_iter().chain(daemon.torn.map(str::to_owned));
                note(&driver, Record::Examined { degraded: found.into_iter().chain(concerns).collect() });
            }
            std::thread::sleep(pause);
        }
    });
}

/// Writes down what the daemon found by itself. Nobody waits for the answer: a journal that cannot be written says so.
fn note(driver: &mpsc::Sender<Input>, record: Record) {
    let entry = Entry { record, audit_context: None };
    let _ = driver.send(Input::Note(Box::new(entry), oneshot::channel().0));
}

/// The control socket: the one that the service manager hands over, or one for its group.
fn open_door(config: &Config, given: Option<UnixListener>) -> Result<UnixListener, ServeError> {
    let group = config.group.as_deref().and_then(|name| id_of(name, "/etc/group"));
    let socket = given.map_or_else(|| api::bind(&config.socket, group), Ok);
    socket.map_err(|source| control_socket(config, source))
}

/// The port of the view of snapshots.
fn open_view(view: AuditHttp) -> Result<(AuditHttp, TcpListener), ServeError> {
    let failed = |source| ServeError::Os { what: PORT, path: view.listen.to_string().into(), source };
    audit_http::bind(&view).map(|listener| (view, listener)).map_err(failed)
}

/// Reads the configuration again, at SIGHUP.
fn reload(config: &Config) {
    notify::reloading();
    settings::reload_and_tell(config);
    notify::ready();
}

fn control_socket(config: &Config, source: io::Error) -> ServeError {
    ServeError::Os { what: CONTROL_SOCKET, path: config.socket.clone(), source }
}

/// The door, until a signal; then the loop is told to stop.
fn serve(
    (socket, view): (UnixListener, Option<(AuditHttp, TcpListener)>),
    desk: Desk,
) -> Result<(), ServeError> {
    let failed = |source| ServeError::Os { what: "runtime", path: "tokio".into(), source };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    let (driver, config) = (desk.driver.clone(), Arc::clone(&desk.daemon.config));
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::from_std(socket).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let showing =
            view.map(|view| tokio::spawn(audit_http::keep(view, Arc::clone(&desk.host), stopped.clone())));
        let mut views = desk.views.clone();
        tokio::spawn(telemetry::tell_status(std::env::var_os("NOTIFY_SOCKET"), desk.views.clone()));
        let door = tokio::spawn(async move {
            // Before the loop has published for the first time, it would answer that nothing is stored or live.
            if views.changed().await.is_ok() {
                let caring = tokio::spawn(keeping::look_after(desk.clone(), stopped.clone()));
                let host = Arc::clone(&desk.host);
                notify::ready();
                api::serve(listener, desk, stopped).await;
                caring.abort();
                host.stop_scrub();
            }
        });
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => reload(&config),
            }
        }
        notify::stopping();
        tracing::info!("stopping; workers and routes stay");
        let _ = stop.send(true);
        let _ = door.await;
        if let Some(showing) = showing {
            let _ = showing.await;
        }
        let _ = driver.send(Input::Stop);
        Ok(())
    })?;
    // Followers of the audit log may still wait for records.
    runtime.shutdown_background();
    Ok(())
}

/// Prints what `turnoutctl doctor` would, for a host without a daemon. Exit code 1 when something is missing, or was not
/// tried.
pub fn doctor(config: &Config, output: &str) -> ExitCode {
    use turnout_protocol::control::{Doctor, SCHEMA};
    let requirements = examine::requirements(config);
    let ready =
        requirements.iter().all(|requirement| !["missing", "untried"].contains(&requirement.state.as_str()));
    if output == "json" {
        let document = Doctor { schema: SCHEMA.to_owned(), requirements };
        println!("{}", serde_json::to_string(&document).expect("wire types serialize"));
    } else {
        for line in &requirements {
            println!("{:8} {:18} {}", line.state, line.name, line.found);
            if let Some(remedy) = &line.remedy {
                println!("{:27} why: {}; remedy: {remedy}", "", line.why);
            }
        }
    }
    if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How the daemon writes its journal.
fn journal_options() -> OpenOptions {
    OpenOptions { reserve_bytes: RESERVE_BYTES, ..OpenOptions::default() }
}

/// The cgroup of this instance, where a cgroup2 tree is mounted or the configuration names one.
pub(crate) fn cgroup(config: &Config) -> Option<PathBuf> {
    config.cgroup.clone().or_else(|| Some(cgroup2_root()?.join("turnout")))
}

/// Where everything of an instance lies.
pub(crate) fn host_config(config: &Config, cgroup: PathBuf) -> HostConfig {
    HostConfig {
        volume: VolumeConfig {
            kind: config.keep.store,
            root: config.state.join("store"),
            image: config.state.join("store.img"),
            image_bytes: config.store_image_bytes,
        },
        cells: CellsConfig {
            socket: config.runtime.join("launcher.sock"),
            launcher: config.launcher.clone(),
            unit: config.launcher_unit.clone(),
            cgroup,
            worker: config.worker.clone(),
            onnxruntime: config.onnxruntime.clone(),
            uid_base: config.worker_uid_base,
            cell_log: Some(config.state.join("workers.log")),
        },
        pointers: config.runtime.join("models"),
        pins: config.runtime.join("bpf"),
    }
}

fn folder(path: &Path, mode: u32) -> Result<(), ServeError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| ServeError::Os { what: "folder", path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// The ids of those who may only read: who serves metrics always, and those that are configured. A name that is nobody's
/// takes no right away, so it is said.
fn readers(config: &Config) -> Vec<u32> {
    let id = |name: &String| {
        let id = name.parse().ok().or_else(|| id_of(name, "/etc/passwd"));
        if id.is_none() {
            tracing::error!(
                "`readers`: `/etc/passwd` has no user `{name}`, who may operate if in the group; give the uid instead"
            );
        }
        id
    };
    id_of(USUAL_READER, "/etc/passwd").into_iter().chain(config.readers.iter().filter_map(id)).collect()
}

/// The id of a user or group: the third field of passwd(5) as of group(5).
fn id_of(name: &str, file: &str) -> Option<u32> {
    let names = std::fs::read_to_string(file).ok()?;
    let line = names.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_journal::{Hash, Reader};

    #[test]
    fn a_reader_is_named_or_numbered_and_who_serves_metrics_is_always_one() {
        let config = Config::parse("readers = [\"root\", \"70123\", \"nobody of this name\"]").unwrap();
        let usual = id_of(USUAL_READER, "/etc/passwd").into_iter();
        assert_eq!(readers(&config), usual.chain([0, 70123]).collect::<Vec<_>>());
    }

    #[test]
    fn a_torn_end_that_was_cut_off_is_told_by_the_next_record() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        open_and_tell(dir).unwrap().append(br#"{"event":"reserve-restored"}"#).unwrap();
        let segment = dir.join("000000000000.seg");
        std::fs::write(&segment, [std::fs::read(&segment).unwrap(), vec![0x55; 70]].concat()).unwrap();
        drop(open_and_tell(dir).unwrap());
        drop(open_and_tell(dir).unwrap());
        let records: Vec<_> = Reader::open(dir, 1).unwrap().map(Result::unwrap).collect();
        let [recovered] = &records[..] else { panic!("{records:?}") };
        let told: Record = serde_json::from_slice(&recovered.body).unwrap();
        let Record::Log(LogRecord::LogRecovered { bytes, sha256, kept_in }) = told else {
            panic!("{told:?}")
        };
        assert_eq!((bytes, sha256.0), (70, *Hash::of(&[0x55; 70]).as_bytes()));
        assert_eq!(std::fs::read(dir.join(kept_in)).unwrap(), [0x55; 70]);
    }
}
