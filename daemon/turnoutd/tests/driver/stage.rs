//! What a run needs: a machine that outlives the daemon, traffic on it, a daemon that can be stopped and started, and
//! the invariants that hold after every turn of its loop.

pub use crate::plans::{in_place, plan};
use crate::power::Cut;
use crate::router::FakeRouter;
use crate::shelf::SHELF;
pub use crate::shelf::{bundle, stored};
use crate::workers::FakeWorkers;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use turnout_engine::advance::{Start, Wish};
use turnout_engine::record::{End, Kind};
use turnout_engine::world::Model;
use turnout_engine::{Event, Progress, Release};
use turnout_host::cells::WorkerState;
use turnout_host::fake::FakeHost;
use turnout_host::histogram;
use turnout_host::traffic::{Route, Sample};
use turnout_journal::{Journal, JournalError, OpenOptions};
use turnout_manifest::{AuditContext, Generation, ModelName, Operator, Percent, Plan};
use turnout_protocol::frame;
use turnout_protocol::worker::{FromWorker, ToWorker};
use turnoutd::config::Config;
use turnoutd::driver::{Denial, Driver, Input, Parts, Spawn};
use turnoutd::executor::Executor;
use turnoutd::intake::Intake;
use turnoutd::recover::replay;
use turnoutd::supervise::{LinkedWorkers, Workers};
use turnoutd::view::{Publisher, View};

pub const PORT: u16 = 8700;
/// Of the second model.
pub const SECOND_PORT: u16 = 8701;
/// Set in a process whose disk is small: its journals keep a reserve.
pub const SMALL_DISK: &str = "TURNOUT_TEST_SMALL_DISK";
const SMALL_RESERVE: u64 = 1 << 20;
/// The first version, live from the start on most stages.
pub const V1: Generation = Generation(1);
/// The version that most releases bring.
pub const V2: Generation = Generation(2);
/// Longest a run may take; only a run that hangs comes near.
const DEADLINE: Duration = Duration::from_secs(10);

pub fn model() -> ModelName {
    "digits".parse().unwrap()
}

/// What each look at a version's arm finds more of.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub requests: u64,
    pub errors: u64,
    pub latency: Duration,
}

pub const GOOD: Load = Load { requests: 20, errors: 0, latency: Duration::from_millis(1) };

/// The files of a journal by name.
type JournalFiles = BTreeMap<OsString, Vec<u8>>;

/// A machine on which version 1 was released, and its journal, to copy from.
static LIVE: LazyLock<(FakeHost, JournalFiles)> = LazyLock::new(|| {
    let mut stage = Stage::fresh();
    stage.open();
    stage.ask(Stage::start("1", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    stage.close();
    let files = fs::read_dir(stage.folder.path().join("journal")).unwrap().map(|file| {
        let file = file.unwrap();
        (file.file_name(), fs::read(file.path()).unwrap())
    });
    ((*stage.host).clone(), files.collect())
});

/// The audit context of everything that a test asks for.
pub fn asked() -> AuditContext {
    let operator = Operator::Peer { uid: 0, gid: 0, pid: 1, login_uid: None };
    AuditContext::begin(operator, 1_790_000_000_000, [1; 10])
}

/// Steps that are not run but kept, so that a state between two records can be looked at.
#[derive(Default)]
pub struct Freezer {
    pub closed: AtomicBool,
    works: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

pub struct Running {
    pub driver: Driver,
    pub sender: Sender<Input>,
    pub views: watch::Receiver<Arc<View>>,
    pub journal: Arc<Journal>,
    pub intake: Arc<Intake>,
}

pub struct Stage {
    pub folder: TempDir,
    pub host: Arc<FakeHost>,
    pub workers: Arc<FakeWorkers>,
    /// Workers are spoken to over real links: tests play them.
    pub linked: bool,
    pub router: Arc<FakeRouter>,
    pub config: Arc<Config>,
    pub freezer: Arc<Freezer>,
    pub loads: BTreeMap<Generation, Load>,
    /// Workers have died on purpose: their arms cannot serve for a moment.
    pub mourning: bool,
    /// Called where a release begins, is promoted or ends.
    pub turning_point: Arc<dyn Fn() + Send + Sync>,
    running: Option<Running>,
    pub cut: Arc<Cut>,
    /// A segment of the journal is sealed before it gets longer.
    segment_bytes: u64,
}

impl Stage {
    /// The same machine with this in its configuration too.
    pub fn configured(self, lines: &str) -> Self {
        let path = self.folder.path().display();
        let text = format!("state = \"{path}\"\nruntime = \"{path}\"\nready_seconds = 1\n{lines}");
        Self { config: Arc::new(Config::parse(&text).unwrap()), ..self }
    }

    /// The same machine, whose journal has short segments.
    pub fn with_short_segments(self) -> Self {
        Self { segment_bytes: 4096, ..self }
    }

    /// A machine with its versions in its store, and no daemon yet.
    pub fn fresh() -> Self {
        Self::on(SHELF.host.clone(), &JournalFiles::new())
    }

    /// A machine with nothing in its store.
    pub fn bare() -> Self {
        Self::on(FakeHost::default(), &JournalFiles::new())
    }

    /// A machine on which version 1 is live and its daemon runs.
    pub fn live() -> Self {
        let mut stage = Self::on(LIVE.0.clone(), &LIVE.1);
        stage.workers.answers_by(V1, stored("1").digest);
        stage.open();
        stage
    }

    /// As [`Stage::live`], with real links. The live version's worker is honest: it leaves when it is told to.
    pub fn linked() -> Self {
        Self::linked_to(|_| Vec::new())
    }

    /// The same, where the live version's worker says this to what it is told.
    pub fn linked_to(answer: fn(&ToWorker) -> Vec<FromWorker>) -> Self {
        let mut stage = Self { linked: true, ..Self::on(LIVE.0.clone(), &LIVE.1) };
        let (link, host) = (stage.host.link_to(V1).unwrap(), Arc::clone(&stage.host));
        std::thread::spawn(move || {
            while let Ok(order) = frame::receive::<ToWorker>(&link) {
                if matches!(order, ToWorker::Drain { .. }) {
                    return host.end_worker(V1, WorkerState::Exited(0));
                }
                for word in answer(&order) {
                    frame::send(&link, &word).unwrap();
                }
            }
        });
        stage.open();
        stage
    }

    fn on(host: FakeHost, journal: &JournalFiles) -> Self {
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("turnout-driver-").tempdir_in(place).unwrap();
        let path = folder.path().display();
        let text = format!("state = \"{path}\"\nruntime = \"{path}\"\nready_seconds = 1\n");
        fs::write(folder.path().join("trust.json"), &SHELF.trust).unwrap();
        fs::create_dir(folder.path().join("journal")).unwrap();
        for (name, bytes) in journal {
            fs::write(folder.path().join("journal").join(name), bytes).unwrap();
        }
        let host = Arc::new(host);
        Self {
            workers: Arc::new(FakeWorkers::new(Arc::clone(&host))),
            router: Arc::new(FakeRouter::new(Arc::clone(&host))),
            config: Arc::new(Config::parse(&text).unwrap()),
            linked: false,
            freezer: Arc::default(),
            loads: BTreeMap::new(),
            mourning: false,
            running: None,
            cut: Arc::default(),
            turning_point: Arc::new(|| ()),
            segment_bytes: OpenOptions::default().segment_bytes,
            folder,
            host,
        }
    }

    /// Puts a daemon together as `serve` does, without running its loop.
    pub fn assemble(&self) -> Running {
        let journal_folder = self.folder.path().join("journal");
        let journal = Arc::new(open_journal_by(&journal_folder, self.segment_bytes));
        let world = replay(&journal_folder).unwrap();
        let host = Arc::clone(&self.host);
        let intake = Arc::new(Intake::open(host.clone(), &self.config, Arc::clone(&world.trust)).unwrap());
        let (sender, inbox) = channel();
        self.workers.attach(sender.clone());
        self.router.attach(sender.clone());
        let (publisher, views) = Publisher::new();
        let workers: Arc<dyn Workers> = match self.linked {
            false => self.workers.clone(),
            true => {
                let inbox = Mutex::new(sender.clone());
                let sink = move |event| drop(inbox.lock().unwrap().send(Input::Event(event)));
                Arc::new(LinkedWorkers::new(host.clone(), Arc::new(sink)))
            }
        };
        let executor = Executor {
            host,
            workers,
            router: self.router.clone(),
            journal: Arc::clone(&journal),
            intake: Arc::clone(&intake),
            config: Arc::clone(&self.config),
        };
        let spawn = self.spawn();
        let parts = Parts {
            world,
            journal: journal.clone(),
            executor,
            spawn,
            publisher,
            inbox,
            sender: sender.clone(),
            turning_point: Box::new({
                let turning_point = Arc::clone(&self.turning_point);
                move || turning_point()
            }),
        };
        Running { driver: Driver::new(parts), sender, views, journal, intake }
    }

    fn spawn(&self) -> Spawn {
        let (freezer, cut) = (Arc::clone(&self.freezer), Arc::clone(&self.cut));
        Arc::new(move |work| {
            if freezer.closed.load(Ordering::Relaxed) {
                return freezer.works.lock().unwrap().push(work);
            }
            work();
            cut.after_effect();
        })
    }

    /// Starts the daemon.
    pub fn open(&mut self) {
        let running = self.assemble();
        self.running = Some(running);
        self.running().driver.recover();
        self.check();
    }

    /// Stops the daemon as `kill -9` would: nothing is cleaned up.
    pub fn close(&mut self) {
        self.freezer.works.lock().unwrap().clear();
        self.running = None;
        self.host.end_daemon();
    }

    pub fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    /// Runs the steps that were kept back, and lets later ones run at once.
    pub fn thaw(&mut self) {
        self.freezer.closed.store(false, Ordering::Relaxed);
        let works: Vec<_> = std::mem::take(&mut *self.freezer.works.lock().unwrap());
        works.into_iter().for_each(|work| work());
    }

    /// Runs the steps that were kept back, and keeps back those that follow.
    pub fn step(&self) {
        let works: Vec<_> = std::mem::take(&mut *self.freezer.works.lock().unwrap());
        works.into_iter().for_each(|work| work());
    }

    pub fn freeze(&self) {
        self.freezer.closed.store(true, Ordering::Relaxed);
    }

    pub fn start(version: &str, plan: Plan) -> Event {
        Event::Start(Box::new(Self::start_of(&model(), version, plan)))
    }

    /// The same as a part of a wish, of any model on the shelf.
    pub fn start_of(of: &ModelName, version: &str, plan: Plan) -> Start {
        Start {
            model: of.clone(),
            kind: Kind::Release,
            version: version.parse().unwrap(),
            digest: SHELF.stored(of, version).digest,
            signed_by: vec!["ci".to_owned()],
            plan,
            port: if *of == model() { PORT } else { SECOND_PORT },
            salt: 7,
            by: "root (pid 1)".to_owned(),
            order: None,
            audit_context: Some(asked().id()),
        }
    }

    pub fn wish(wish: Wish) -> Event {
        Event::Operator { model: model(), wish, by: "root (pid 1)".to_owned(), reason: "a test".to_owned() }
    }

    /// Asks the loop and gives its answer.
    pub fn ask(&mut self, event: Event) -> Result<(), Denial> {
        let (reply, mut answer) = oneshot::channel();
        self.running().sender.send(Input::Ask(event, Some(asked()), reply)).unwrap();
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.turn();
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            assert!(Instant::now() < deadline, "the loop does not answer");
        }
    }

    /// One turn of the loop, with the traffic and the deaths before it and the invariants after it.
    pub fn turn(&mut self) {
        self.workers.notice();
        self.router.notice();
        self.traffic();
        assert!(self.running().driver.turn(Some(Duration::from_millis(5))));
        self.check();
    }

    /// Turns until no release is under way and the live version is up, or the release is stuck.
    pub fn settle(&mut self) -> End {
        self.until(|_, model, release| match release.map(|release| release.progress) {
            Some(Progress::Ended(End::Stuck)) => Some(End::Stuck),
            Some(Progress::Ended(end)) if model.current.is_none() && !model.live_died => Some(end),
            _ => None,
        })
    }

    /// Turns until something is seen.
    pub fn until<T>(&mut self, wanted: impl Fn(&Self, &Model, Option<&Release>) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let world = self.running.as_ref().unwrap().driver.world();
            if let Some(model) = world.models.get(&model()) {
                let release = model.last.and_then(|id| world.releases.get(&id)).map(Arc::as_ref);
                if let Some(found) = wanted(self, model, release) {
                    return found;
                }
            }
            if Instant::now() > deadline {
                let last = self.release();
                panic!(
                    "hangs: {:?} at {:?} open {}\n{:#?}",
                    last.progress,
                    last.step(),
                    last.open,
                    self.tail()
                );
            }
            self.turn();
        }
    }

    pub fn tail(&self) -> Vec<turnout_host::fake::Call> {
        let trace = self.host.trace();
        trace[trace.len().saturating_sub(25)..].to_vec()
    }

    /// The model as the loop knows it.
    pub fn known(&self) -> Model {
        self.running.as_ref().unwrap().driver.world().models[&model()].clone()
    }

    /// The newest release as the loop knows it.
    pub fn release(&self) -> Release {
        let world = self.running.as_ref().unwrap().driver.world();
        (*world.releases[&world.models[&model()].last.unwrap()]).clone()
    }

    pub fn records(&mut self) -> u64 {
        self.running().journal.size()
    }

    /// The split in force.
    pub fn arms(&self) -> Vec<(Generation, Percent)> {
        self.host.route_of(PORT).map(|route: Route| route.arms).unwrap_or_default()
    }

    fn traffic(&self) {
        let routed = self.router.candidate(PORT).map(|candidate| (candidate, Percent::NONE));
        let second = self.host.route_of(SECOND_PORT).map(|route: Route| route.arms).unwrap_or_default();
        for (generation, _) in self.arms().into_iter().chain(routed).chain(second) {
            let load = self.loads.get(&generation).copied().unwrap_or(GOOD);
            let Some(mut sample) = self.host.seen(generation) else { continue };
            add(&mut sample, load);
            self.host.set_sample(generation, sample);
        }
    }

    /// What holds at every moment, whatever failed.
    pub fn check(&self) {
        if self.mourning {
            return;
        }
        assert_eq!(self.host.broken(), Vec::<String>::new(), "{:#?}", self.tail());
        assert_eq!(self.host.misrouted(), Vec::<String>::new(), "{:#?}", self.tail());
        let Some(live) = self.running.as_ref().and_then(|running| {
            running.driver.world().models.get(&model()).and_then(|model| model.live.clone())
        }) else {
            return;
        };
        let arms = self.arms();
        assert!(!arms.is_empty(), "nothing serves");
        assert!(
            self.host.admitted().contains(&live.generation),
            "{} is live and not admitted",
            live.generation
        );
    }
}

/// A process that another test starts has the lock too, from its fork until its exec.
pub fn open_journal(folder: &Path) -> Journal {
    open_journal_by(folder, OpenOptions::default().segment_bytes)
}

fn open_journal_by(folder: &Path, segment_bytes: u64) -> Journal {
    let deadline = Instant::now() + DEADLINE;
    let reserve_bytes = if std::env::var_os(SMALL_DISK).is_some() { SMALL_RESERVE } else { 0 };
    let options = OpenOptions { segment_bytes, reserve_bytes, ..OpenOptions::default() };
    loop {
        match Journal::open(folder, options.clone()) {
            Err(JournalError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.unwrap().0,
        }
    }
}

fn add(sample: &mut Sample, load: Load) {
    sample.requests += load.requests;
    sample.success += load.requests - load.errors;
    sample.server_errors += load.errors;
    sample.opened += 1;
    sample.closed += 1;
    let nanoseconds = u64::try_from(load.latency.as_nanos()).unwrap();
    sample.latencies[histogram::bucket(nanoseconds) as usize] += load.requests;
}
