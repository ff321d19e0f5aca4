//! Step -> calls on the host -> outcome: the sole file that knows both. Every arm can be repeated after a crash, and
//! every undo can run when nothing was done. Runs outside the driver's loop; the outcome comes back as an event.

mod in_place;
mod pointers;

use crate::chain;
use crate::config::Config;
use crate::evidence::{self, snapshot_name};
use crate::intake::Intake;
use crate::profile;
use crate::router_link::RouterLink;
use crate::supervise::Workers;
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnout_engine::record::{Kind, Target};
use turnout_engine::{Progress, Release, Step};
use turnout_host::Host;
use turnout_host::cells::WorkerState;
use turnout_host::store::{Held, StoredName};
use turnout_host::traffic::{Route, Spread};
use turnout_host::volume::StoreKind;
use turnout_journal::Journal;
use turnout_manifest::plan::Strategy;
use turnout_manifest::{Generation, Manifest, ModelName, Percent};
use turnout_protocol::router::{Arm, PortRoute, Split};
use turnout_protocol::worker::Assignment;

/// How long an idle connection of a retired version is left open: long enough for a client that is about to use it.
const IDLE_RETIRED: Duration = Duration::from_millis(1000);
/// The same for a version that is thrown out.
const IDLE_THROWN_OUT: Duration = Duration::from_millis(100);
/// How long a version that is thrown out may take to answer what it has, before its connections are cut.
const DRAIN_THROWN_OUT: Duration = Duration::from_secs(3);
/// How long a handshake under way may take to reach the accept queue after its listener left the route.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(1000);
/// How often the kernel's connection count is read while a version drains.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// What every step may need.
#[derive(Clone)]
pub struct Executor {
    /// The machine.
    pub host: Arc<dyn Host>,
    /// The workers.
    pub workers: Arc<dyn Workers>,
    /// The router.
    pub router: Arc<dyn RouterLink>,
    /// The journal, for the auditor's copy.
    pub journal: Arc<Journal>,
    /// Stored manifests, verified again.
    pub intake: Arc<Intake>,
    /// The configuration.
    pub config: Arc<Config>,
}

/// One step of one release.
pub struct Job {
    /// The release as it was when the intent was written.
    pub release: Release,
    /// The step.
    pub step: Step,
    /// What the loop knew when the step began, for a snapshot.
    pub moment: Option<evidence::Moment>,
}

impl Executor {
    /// Executes one step. Gives what was found, or why it failed, for people.
    ///
    /// # Errors
    /// The whole chain of causes as text.
    pub fn execute(&self, job: &Job) -> Result<String, String> {
        let release = &job.release;
        match job.step {
            Step::Snapshot(_) => self.snapshot(job),
            Step::VerifyFiles => self.verify_files(release),
            Step::CreateCell(generation) => self.create_cell(release, generation),
            Step::StartWorker(generation) => self.start_worker(release, generation),
            Step::AwaitReady(generation) => self.assign(release, generation),
            Step::SwapModel(_)
            | Step::LoadModel(_)
            | Step::SwitchModel(_)
            | Step::SwitchHome(_)
            | Step::UnloadModel(_)
            | Step::SwapHome(_) => self.in_place(release, job.step),
            Step::Admit(generation) => self.admit(release, generation),
            Step::StartRouter => self.start_router(),
            Step::Shift(percent) => self.shift(release, percent),
            Step::Observe(_) | Step::AwaitSet => Ok(String::new()),
            Step::Home => self.home(release),
            Step::Point | Step::PointHome | Step::PointSet | Step::PointSetHome => {
                self.pointers(release, job.step)
            }
            Step::Dismiss(generation) => {
                self.host.dismiss(generation).map_err(|e| chain(&e)).map(|()| String::new())
            }
            Step::Drain(generation) => self.drain(release, generation),
            Step::KillWorker(generation) => {
                self.workers.expect_end(generation);
                self.host.kill_worker(generation).map_err(|e| chain(&e)).map(|()| String::new())
            }
            Step::DestroyCell(generation) => {
                self.host.destroy_cell(generation).map_err(|e| chain(&e)).map(|()| String::new())
            }
        }
    }

    fn snapshot(&self, job: &Job) -> Result<String, String> {
        if self.config.keep.store == StoreKind::Folder {
            return Ok("none: a store in a plain folder keeps no snapshots".to_owned());
        }
        let moment = job.moment.as_ref().ok_or("the step came without its moment")?;
        let evidence = moment.evidence(&self.intake, &self.config);
        let name = snapshot_name(self.journal.size());
        self.host.snapshot(&name, &evidence).map_err(|error| chain(&error)).map(|made| made.name)
    }

    fn verify_files(&self, release: &Release) -> Result<String, String> {
        let (model, target) = (&release.planned.model, &release.planned.to);
        let manifest = self.manifest(model, target)?;
        let count = manifest.files.len();
        Ok(match self.check(model, target, &manifest)? {
            Held::ByReading => format!("{count} files match the signed manifest"),
            Held::ByKernel => format!("{count} files are as they were imported, and held so by fs-verity"),
        })
    }

    /// The signed manifest of a version, verified again: its key may have been removed since.
    fn manifest(&self, model: &ModelName, target: &Target) -> Result<Manifest, String> {
        self.intake.stored_manifest(&stored(model, target))
    }

    /// Holds the files of a version to what was signed, through the mount that its next worker gets.
    fn check(&self, model: &ModelName, target: &Target, manifest: &Manifest) -> Result<Held, String> {
        let checked = self.host.check(&stored(model, target), &manifest.files, target.measured);
        checked.map_err(|error| chain(&error))
    }

    fn create_cell(&self, release: &Release, generation: Generation) -> Result<String, String> {
        let model = &release.planned.model;
        let manifest = self.manifest(model, version_of(release, generation))?;
        let profile = profile::of((model, &manifest.runtime), &self.config, self.host.as_ref())?;
        let tenant = self.config.tenants.of(model);
        if let Some(tenant) = tenant {
            self.host.set_tenant(&tenant.to_cells()).map_err(|error| chain(&error))?;
        }
        self.host.create_cell(generation, profile).map_err(|error| chain(&error))?;
        Ok(profile::asked(profile, &manifest.runtime, tenant))
    }

    fn start_worker(&self, release: &Release, generation: Generation) -> Result<String, String> {
        let (model, target) = (&release.planned.model, version_of(release, generation));
        let files = self.held(model, target)?;
        self.grant_devices(model, target, generation)?;
        let started =
            self.host.start_worker(generation, &stored(model, target)).map_err(|error| chain(&error))?;
        self.workers.supervise(generation)?;
        if comes_up(release, generation) {
            // Half of what it has to become ready: where the others leave it nothing, it gets its share for the rest.
            let time = self.config.live.get().ready / 2;
            self.host.background(generation, time).map_err(|error| chain(&error))?;
        }
        Ok(format!("pid {}; {files}; {}", started.pid, profile::enforced(started.enforcement)))
    }

    /// Before the worker is started: what it opens, it keeps.
    fn grant_devices(
        &self,
        model: &ModelName,
        target: &Target,
        generation: Generation,
    ) -> Result<(), String> {
        let runtime = self.manifest(model, target)?.runtime;
        let devices = profile::devices(&runtime, &self.config, self.host.as_ref())?;
        if devices.is_empty() {
            return Ok(());
        }
        self.host.grant_devices(generation, &devices).map_err(|error| chain(&error))
    }

    /// What holds the files of a version to what was signed when they are given to a worker, in words.
    fn held(&self, model: &ModelName, target: &Target) -> Result<&'static str, String> {
        let held = match self.host.checked(&stored(model, target)) {
            Some(held) => held,
            None => self.check(model, target, &self.manifest(model, target)?)?,
        };
        Ok(match held {
            Held::ByReading => "files compared at its start",
            Held::ByKernel => "files held by fs-verity",
        })
    }

    fn assign(&self, release: &Release, generation: Generation) -> Result<String, String> {
        let assignment = self.assignment(&release.planned.model, version_of(release, generation))?;
        self.workers.supervise(generation)?;
        self.workers.assign(generation, &assignment)?;
        Ok(String::new())
    }

    fn assignment(&self, model: &ModelName, target: &Target) -> Result<Assignment, String> {
        let manifest = self.manifest(model, target)?;
        Ok(Assignment {
            model: manifest.model,
            version: manifest.version,
            digest: target.digest,
            audit_context: target.audit_context,
            model_file: manifest.runtime.model_file,
            threads: manifest.runtime.threads,
            contract: manifest.contract,
            assertions: manifest.assertions,
            allowed_domains: self.config.allowed_domains.clone(),
            allowed_formats: self.config.allowed_formats.clone(),
        })
    }

    /// Lets traffic reach a version, which is behind no other from now on.
    fn admit(&self, release: &Release, generation: Generation) -> Result<String, String> {
        if comes_up(release, generation) {
            self.host.background(generation, Duration::ZERO).map_err(|error| chain(&error))?;
        }
        self.host.admit(generation, release.planned.port).map_err(|error| chain(&error))?;
        Ok(String::new())
    }

    fn start_router(&self) -> Result<String, String> {
        // Where every CPU is set aside it has to share them, as the daemon does.
        let cpus = profile::shared(&self.config).unwrap_or_default();
        let started = self.host.start_router(cpus).map_err(|error| chain(&error))?;
        self.router.supervise()?;
        Ok(format!("pid {}; {}", started.pid, profile::enforced(started.enforcement)))
    }

    fn shift(&self, release: &Release, percent: Percent) -> Result<String, String> {
        let candidate = release.planned.to.generation;
        self.claim(release)?;
        let Some(home) = release.home().filter(|_| percent != Percent::ALL) else {
            self.route(release, vec![(candidate, Percent::ALL)])?;
            self.workers.connection_life(candidate, None);
            self.leave_router(release, candidate);
            return Ok(String::new());
        };
        let life = Some(release.planned.plan.connection_life());
        if release.planned.plan.strategy.needs_router() {
            self.route_by_request(release, home, percent)?;
        } else {
            self.route(release, vec![(candidate, percent), (home, percent.rest())])?;
            self.workers.connection_life(candidate, life);
        }
        self.workers.connection_life(home, life);
        Ok(String::new())
    }

    /// The router is told first: a connection must not reach one that does not know where to take it. Should it die, the
    /// kernel finds the old version behind it.
    fn route_by_request(&self, release: &Release, home: Generation, share: Percent) -> Result<(), String> {
        let split = Split::Between {
            strategy: release.planned.plan.strategy.clone(),
            salt: release.planned.salt.clone(),
            share,
            candidate: self.arm(release, release.planned.to.generation)?,
            stable: self.arm(release, home)?,
        };
        self.router.supervise()?;
        self.router.tell(&[port_route(release, split)])?;
        self.host.admit_router().map_err(|error| chain(&error))?;
        self.set_route(release, Spread::Router, vec![(home, Percent::ALL)])
    }

    fn arm(&self, release: &Release, generation: Generation) -> Result<Arm, String> {
        let address = self.host.endpoint(generation).map_err(|error| chain(&error))?;
        Ok(Arm { generation, version: version_of(release, generation).version.clone(), address })
    }

    /// Connections that clients still hold to the router go to this version and close with their next answer. A router
    /// that cannot be told so is ended: its clients find the version by themselves, and the way home fails for nothing.
    fn leave_router(&self, release: &Release, to: Generation) {
        if !self.router.is_linked() {
            return;
        }
        let told =
            self.arm(release, to).and_then(|to| self.router.tell(&[port_route(release, Split::Home { to })]));
        if let Err(why) = told {
            tracing::error!(release = %release.planned.release, "the router is ended, it cannot be told: {why}");
            if let Err(error) = self.host.kill_router() {
                tracing::error!("{}", chain(&error));
            }
        }
    }

    fn home(&self, release: &Release) -> Result<String, String> {
        let Some(home) = release.home() else {
            let addresses = self.config.addresses(release.planned.port);
            return self
                .host
                .clear_route(&addresses)
                .map_err(|e| chain(&e))
                .map(|()| "no version serves".into());
        };
        self.route(release, vec![(home, Percent::ALL)])?;
        self.workers.connection_life(home, None);
        self.leave_router(release, home);
        Ok(format!("{home} serves all"))
    }

    /// Gives the live version everything on this port, outside of a release: where the kernel has lost the route, or never
    /// had it, or has it for other addresses.
    ///
    /// # Errors
    /// Why it could not, for people.
    pub fn restore(&self, live: Generation, port: u16) -> Result<(), String> {
        let addresses = self.config.addresses(port);
        // With all of it at one version there is nothing that a hash could choose.
        let route = Route { spread: Spread::Weight, salt: 0, arms: vec![(live, Percent::ALL)] };
        let restored = self.host.admit(live, port).and_then(|()| self.host.set_route(&addresses, &route));
        restored.map_err(|error| chain(&error))
    }

    /// Keeps others off the public port before traffic is shifted. The way home never asks for it: it must not fail for
    /// want of what the old version serves without.
    fn claim(&self, release: &Release) -> Result<(), String> {
        let addresses = self.config.addresses(release.planned.port);
        self.host.claim(&addresses).map_err(|error| chain(&error))
    }

    /// The kernel's own split.
    fn route(&self, release: &Release, arms: Vec<(Generation, Percent)>) -> Result<(), String> {
        let spread = match release.planned.plan.strategy {
            Strategy::SourceHash => Spread::SourceHash,
            // With all shares at one version there is nothing that a request could choose.
            Strategy::Weight
            | Strategy::Header { .. }
            | Strategy::UserHash { .. }
            | Strategy::Expression { .. }
            | Strategy::InPlace => Spread::Weight,
        };
        self.set_route(release, spread, arms)
    }

    fn set_route(
        &self,
        release: &Release,
        spread: Spread,
        arms: Vec<(Generation, Percent)>,
    ) -> Result<(), String> {
        let addresses = self.config.addresses(release.planned.port);
        let salt = u64::from_str_radix(&release.planned.salt, 16).map_err(|error| error.to_string())?;
        let route = Route { spread, salt, arms };
        self.host.set_route(&addresses, &route).map_err(|error| chain(&error))
    }

    /// Lets a version go without cutting an answer: its connections close with their next answer, handshakes under
    /// way still reach it, and it exits when nothing is left or the time is over.
    fn drain(&self, release: &Release, generation: Generation) -> Result<String, String> {
        let thrown_out = release.progress == Progress::Backward;
        let (idle, limit) = if thrown_out {
            (IDLE_THROWN_OUT, DRAIN_THROWN_OUT)
        } else {
            (IDLE_RETIRED, self.config.live.get().drain)
        };
        let begun = Instant::now();
        // A daemon that was started since this version lost its traffic has no link to it yet.
        let linked = self.workers.supervise(generation);
        self.workers.expect_end(generation);
        // After a reboot nothing is left of it, and nobody has said so.
        let runs = |cells: Vec<_>| cells.contains(&(generation, WorkerState::Running));
        if !self.host.cells().map_or(true, runs) {
            return Ok("nothing to do: the worker has ended".to_owned());
        }
        if let Err(why) = linked {
            tracing::warn!(%generation, "a version that is to leave cannot be told: {why}");
        }
        self.workers.drain(generation, idle);
        let Some(closed) = self.last_connection(generation, begun + limit) else {
            return Ok(format!("connections are still open after {} ms and will be cut", limit.as_millis()));
        };
        let left = (begun + limit).saturating_duration_since(Instant::now()).max(HANDSHAKE_GRACE * 2);
        let ended = self.workers.ended_within(generation, left);
        let stays = if ended { "" } else { "; the worker does not leave by itself" };
        Ok(format!("last connection closed after {} ms{stays}", closed.as_millis()))
    }

    /// When the kernel saw the version's last connection close, counted from now; `None` at the deadline.
    fn last_connection(&self, generation: Generation, deadline: Instant) -> Option<Duration> {
        let begun = Instant::now();
        loop {
            let sample = self.host.sample(generation).ok()?;
            if sample.opened <= sample.closed {
                return Some(begun.elapsed());
            }
            if Instant::now() >= deadline || self.workers.ended_within(generation, DRAIN_LOOK) {
                return self.workers.ended_within(generation, Duration::ZERO).then(|| begun.elapsed());
            }
        }
    }
}

fn port_route(release: &Release, split: Split) -> PortRoute {
    PortRoute { port: release.planned.port, model: release.planned.model.clone(), split }
}

/// The stored version behind a target.
pub fn stored(model: &ModelName, target: &Target) -> StoredName {
    StoredName { model: model.clone(), digest: target.digest }
}

/// Whether a generation is a new version's, which comes up behind those that serve. One that is gone back to is not, nor one
/// that serves again: they are waited for.
fn comes_up(release: &Release, generation: Generation) -> bool {
    release.planned.kind == Kind::Release
        && release.progress != Progress::Backward
        && release.planned.to.generation == generation
}

/// The version a generation of this release is a start of: the new one, or a new start of the old one.
fn version_of(release: &Release, generation: Generation) -> &Target {
    match &release.planned.from {
        Some(from) if from.generation == generation => from,
        _ => &release.planned.to,
    }
}
