//! The scene of a whole-product test: a network of its own, a daemon of its own, live traffic, and waiting for
//! conditions with a deadline. What a scenario does and demands is in `tests/`.

use crate::daemon::{Answered, Ctl, Instance, Settings};
use crate::load::{Load, Pace, Running};
use crate::models::{self, FIRST, Source};
use crate::remains::pids_below;
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socket_with};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use turnout_journal::Reader;
use turnout_manifest::ModelName;
use turnout_protocol::client::Client;
use turnout_protocol::control::{ModelStatus, ReleaseStatus, Status};

/// A canary that every window decides on.
pub const CANARY: &str = "\
strategy: {kind: weight}
steps: [{percent: 50}, {percent: 100}]
window: 200ms
windows: {look_back: 1, consecutive: 1}
objectives: {p95_ms: 2000, error_rate: 0.05}
minimum_requests: 5
patience: 20s
on_breach: rollback
";
/// A canary that no version passes which fails a part of its requests: each window that counts holds so many that a bad
/// one is among them.
pub const THOROUGH: &str = "\
strategy: {kind: weight}
steps: [{percent: 50}, {percent: 100}]
window: 2s
windows: {look_back: 1, consecutive: 1}
objectives: {error_rate: 0.02}
minimum_requests: 40
patience: 30s
on_breach: rollback
";
/// Port of `digits`. Every scenario has a network of its own, so all may use the same.
pub const PORT: u16 = 8700;
/// Last port that models may be given.
const PORT_LAST: u16 = 8719;
/// First user id of the workers of all scenarios; each scene takes [`UIDS`].
const UID_BASE: u32 = 70_000;
const UIDS: u32 = 64;
/// Longest wait for a release to end.
pub const RELEASE_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for anything else.
pub const LIMIT: Duration = Duration::from_secs(15);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// No request takes longer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Traffic ends by itself after this time, should a scenario hang.
const TRAFFIC_LONGEST: Duration = Duration::from_secs(240);

/// A scene: daemon, command line, signing key, and traffic.
pub struct Scene {
    /// The daemon.
    pub instance: Instance,
    /// The command line, set to it.
    pub ctl: Ctl,
    /// The private key whose signature counts.
    pub key: PathBuf,
    /// Where versions' folders are made.
    pub bundles: PathBuf,
    client: Client,
    runtime: Runtime,
    /// A second run of the same scenario on this machine waits for this one's end.
    _alone: File,
}

/// Plays a scenario in a network of its own, with a daemon that has not been started yet.
///
/// # Panics
/// When the scenario fails; the end of the daemon's log is printed before.
pub fn play(name: &str, scenario: impl FnOnce(&mut Scene) -> Result<()> + Send + 'static) {
    let name = format!("scenario-{name}");
    let played = std::thread::spawn(move || {
        own_network()?;
        let mut scene = Scene::create(&name)?;
        scenario(&mut scene)
    });
    match played.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(panicked) => std::panic::resume_unwind(panicked),
    }
}

/// Waits until `look` finds something.
///
/// # Errors
/// When it finds nothing in time, or fails.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "waited {} ms in vain: {what}", limit.as_millis());
        std::thread::sleep(LOOK_EVERY);
    }
}

impl Scene {
    fn create(name: &str) -> Result<Self> {
        let alone = File::create(std::env::temp_dir().join(format!("turnout-{name}.lock")))?;
        alone.lock().context("cannot wait for another run of this scenario")?;
        // This program lies in `target/<profile>/deps`.
        let own = std::env::current_exe()?;
        let programs = own.ancestors().nth(2).context("this program lies in no target folder")?;
        let target = programs.parent().context("the programs lie in no target folder")?;
        let runtime_library = std::env::var_os("TURNOUT_ONNXRUNTIME").map(PathBuf::from);
        static SCENES: AtomicU32 = AtomicU32::new(0);
        let instance = Instance::create(Settings {
            name: name.to_owned(),
            ports: PORT..=PORT_LAST,
            worker_uid_base: UID_BASE + UIDS * SCENES.fetch_add(1, Ordering::Relaxed),
            models: BTreeMap::from([("digits".to_owned(), PORT)]),
            programs: programs.to_owned(),
            onnxruntime: runtime_library.unwrap_or_else(|| target.join("onnxruntime/libonnxruntime.so")),
        })?;
        let bundles = instance.folder().join("bundles");
        fs::create_dir(&bundles)?;
        // Its threads are made here, and so in this thread's network.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (ctl, client) = (instance.ctl(), Client::new(instance.socket()));
        Ok(Self { instance, ctl, client, runtime, bundles, key: PathBuf::new(), _alone: alone })
    }

    /// Starts the daemon for the first time, and makes a key that counts.
    ///
    /// # Errors
    /// When the daemon does not start, or a command's own message.
    pub fn open(&mut self) -> Result<()> {
        self.instance.start()?;
        self.key = models::trusted_key(&self.ctl, self.instance.folder())?;
        Ok(())
    }

    /// Starts the daemon, imports these versions of `digits`, and releases the first one.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn open_with(&mut self, others: &[&str]) -> Result<()> {
        self.open()?;
        for version in std::iter::once(&FIRST).chain(others) {
            self.import(Source::of("digits", version))?;
        }
        self.ctl.ok(&["release", "start", "digits@1.0.0", "--wait", "--timeout", "30s"])?;
        Ok(())
    }

    /// Makes, signs and imports a version.
    ///
    /// # Errors
    /// A command's own message.
    pub fn import(&self, source: Source<'_>) -> Result<PathBuf> {
        let bundle = self.signed(source)?;
        models::import(&self.ctl, &bundle)?.expect(0)?;
        Ok(bundle)
    }

    /// Makes and signs a version's folder.
    ///
    /// # Errors
    /// A command's own message.
    pub fn signed(&self, source: Source<'_>) -> Result<PathBuf> {
        let bundle = models::unsigned(&self.ctl, &self.bundles, source)?;
        models::sign(&self.ctl, &bundle, &self.key)?;
        Ok(bundle)
    }

    /// Starts a release of a version of `digits` by this plan; does not wait for its end.
    ///
    /// # Errors
    /// A command's own message.
    pub fn release(&self, version: &str, plan: &str) -> Result<ReleaseStatus> {
        let answer = self.try_release(version, plan)?.expect(0)?;
        serde_json::from_value(answer.value).context("the answer is no release")
    }

    /// The same, whatever comes of it.
    ///
    /// # Errors
    /// When the command cannot be started.
    pub fn try_release(&self, version: &str, plan: &str) -> Result<Answered> {
        self.ctl.run(&["release", "start", &format!("digits@{version}"), "--plan", &self.plan(plan)?])
    }

    /// Writes a plan to a file; gives its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn plan(&self, plan: &str) -> Result<String> {
        let file = self.instance.folder().join("plan.yaml");
        fs::write(&file, plan)?;
        models::text(&file).map(str::to_owned)
    }

    /// Waits until the last release of `digits` is over.
    ///
    /// # Errors
    /// When it is not over in time.
    pub fn ended(&self) -> Result<ReleaseStatus> {
        until("the release is over", RELEASE_LIMIT, || {
            Ok(self.last_release()?.filter(|release| release.state.is_final()))
        })
    }

    /// The last release of `digits`.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn last_release(&self) -> Result<Option<ReleaseStatus>> {
        Ok(self.digits()?.and_then(|model| model.release))
    }

    /// Waits until the last release of `digits` is at a step, named as the status does: `observe at 50 %`.
    ///
    /// # Errors
    /// When it is not there in time.
    pub fn at_step(&self, step: &str) -> Result<ReleaseStatus> {
        until(&format!("the release is at `{step}`"), RELEASE_LIMIT, || {
            Ok(self.last_release()?.filter(|release| release.step == step))
        })
    }

    /// What the daemon says of `digits`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn digits(&self) -> Result<Option<ModelStatus>> {
        let is_digits = |model: &ModelStatus| model.model.as_str() == "digits";
        Ok(self.status()?.models.into_iter().find(is_digits))
    }

    /// What the daemon says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> Result<Status> {
        self.wait_for(self.client.status()).context("status")
    }

    /// The client of the control API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Waits for something asynchronous.
    pub fn wait_for<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Begins live traffic on `digits`: keep-alive and short connections.
    ///
    /// # Errors
    /// When the requests cannot be read.
    pub fn traffic(&self) -> Result<Running> {
        self.begin(&Load { short_per_second: 60, pace: Pace::PerSecond(150.0), ..self.load()? })
    }

    /// Begins a load.
    ///
    /// # Errors
    /// None at present; the load's own failures are in its tally.
    pub fn begin(&self, load: &Load) -> Result<Running> {
        let _inside = self.runtime.enter();
        Ok(load.clone().start())
    }

    /// A load on `digits` to choose from.
    ///
    /// # Errors
    /// When the requests cannot be read.
    pub fn load(&self) -> Result<Load> {
        Ok(Load {
            address: SocketAddr::from(([127, 0, 0, 1], PORT)),
            path: "/v2/models/digits/infer".to_owned(),
            bodies: models::bodies("digits")?,
            connections: 8,
            pace: Pace::Closed,
            short_per_second: 0,
            deadline: REQUEST_DEADLINE,
            most_requests: u64::MAX,
            longest: TRAFFIC_LONGEST,
        })
    }

    /// A load on any model, light enough to leave room for others.
    ///
    /// # Errors
    /// When the daemon serves no such model, or the requests cannot be read.
    pub fn load_on(&self, name: &str) -> Result<Load> {
        let models = self.status()?.models;
        let model = models.iter().find(|model| model.model.as_str() == name).context("no such model")?;
        Ok(Load {
            address: model.endpoints[0].parse()?,
            path: format!("/v2/models/{name}/infer"),
            bodies: models::bodies(name)?,
            connections: 4,
            short_per_second: 30,
            pace: Pace::PerSecond(80.0),
            ..self.load()?
        })
    }

    /// Ends traffic.
    pub fn finish(&self, traffic: Running) -> Tally {
        self.runtime.block_on(traffic.finish())
    }

    /// Ends traffic, and demands that every request got an answer and none of them an error.
    ///
    /// # Errors
    /// The first failures.
    pub fn finish_whole(&self, traffic: Running) -> Result<Tally> {
        let tally = self.finish(traffic);
        whole(&tally)?;
        Ok(tally)
    }

    /// Where the journal lies.
    pub fn journal(&self) -> PathBuf {
        self.instance.state().join("journal")
    }

    /// Records of the journal from this one on, read from disk whether or not the daemon runs.
    ///
    /// # Errors
    /// When the journal does not verify.
    pub fn records(&self, from: u64) -> Result<Vec<Value>> {
        let records = Reader::open(&self.journal(), from)?;
        records.map(|record| Ok(serde_json::from_slice(&record?.body)?)).collect()
    }

    /// Processes of the workers in the cells of this daemon, by cell.
    ///
    /// # Errors
    /// When the cgroups cannot be read.
    pub fn workers(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.instance.cgroup()).context("cannot read the cgroups")? {
            let group = entry?.path();
            let named = |kind| group.file_name().is_some_and(|name| name.to_string_lossy().starts_with(kind));
            if named("cell-") || named("tenant-") {
                found.extend(pids_below(&group));
            }
        }
        Ok(found)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        eprintln!("the daemon's log ends so:\n{}", self.instance.log_end());
    }
}

/// Demands that every request got an answer and none of them an error.
///
/// # Errors
/// The first failures.
pub fn whole(tally: &Tally) -> Result<()> {
    let first: Vec<_> = tally.failures.iter().take(3).collect();
    ensure!(tally.failed == 0, "{} of {} requests failed: {first:?}", tally.failed, tally.sent);
    for version in &tally.versions {
        ensure!(version.all.errors == 0, "{} errors from `{}`", version.all.errors, version.version);
    }
    ensure!(tally.sent > 0, "no request was sent");
    Ok(())
}

/// Demands that every answer of the good version was one, and that no connection which it had answered was broken.
///
/// # Errors
/// The first failure.
pub fn good_version_whole(tally: &Tally) -> Result<()> {
    let good = tally.version(FIRST).context("the good version was never asked")?;
    ensure!(good.all.errors == 0, "{} errors from the good version", good.all.errors);
    let failed = tally.failures.iter().find(|failed| failed.version.as_deref() == Some(FIRST));
    ensure!(failed.is_none(), "{failed:?}");
    Ok(())
}

/// Writes a text, for instance out of a command's JSON, into a file of this name.
///
/// # Errors
/// The file system's own.
pub fn keep(scene: &Scene, name: &str, text: &str) -> Result<PathBuf> {
    let path = scene.instance.folder().join(name);
    fs::write(&path, text)?;
    Ok(path)
}

/// A path as an argument.
///
/// # Errors
/// When it is no UTF-8.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// The names in a folder, sorted; empty when there is no folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The name of a model.
///
/// # Errors
/// When it is none.
pub fn model(name: &str) -> Result<ModelName> {
    name.parse().with_context(|| format!("`{name}` is no model's name"))
}

/// Moves this thread, and with it every thread and process it begins from now on, to a new network with loopback alone.
fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("scenarios need root")?;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
        .context("netlink")?;
    // RTM_NEWLINK for interface 1 with IFF_UP, see rtnetlink(7).
    let words: [u32; 8] = [32, 16 | 1 << 16, 1, 0, 0, 1, 1, 1];
    let message: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    if send(&socket, &message, SendFlags::empty())? != message.len() {
        bail!("the loopback interface was not brought up");
    }
    Ok(())
}
