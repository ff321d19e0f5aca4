//! THE loop: take an event, decide, write, apply, execute, publish. It alone owns the state and the journal's pen;
//! everything else sends it events or reads the published copy. It never waits for the host: steps run beside it
//! and come back as events.

mod full_disk;
mod moves;
mod recovery;

pub use full_disk::FULL;

use crate::executor::{Executor, Job};
use crate::failing::Failing;
use crate::supervise::Workers;
use crate::timers::{Timer, Timers};
use crate::totals::Totals;
use crate::view::{Publisher, TotalsByGeneration, View};
use crate::windows::{Eyes, Looks};
use crate::{chain, evidence};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use turnout_engine::advance::proceed;
use turnout_engine::{
    Entry, Event, Progress, Reason, Record, Refusal, Release, Stamp, Step, Window, World, decide,
};
use turnout_host::Host;
use turnout_journal::{Journal, JournalError};
use turnout_manifest::plan::Objectives;
use turnout_manifest::{AuditContext, Generation, ModelName, Percent, ReleaseId, canonical};

/// How often versions are looked at for `status` outside of a release's windows.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// First pause before a dead live worker is brought up again; doubles with each attempt.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Doublings of that pause.
const RESTART_DOUBLINGS: u32 = 8;

/// What reaches the loop.
pub enum Input {
    /// A fact.
    Event(Event),
    /// A wish of somebody who waits for the answer, and the audit context of the request.
    Ask(Event, Option<AuditContext>, oneshot::Sender<Result<(), Denial>>),
    /// A record that changes no release: a trust change, an import, a refusal. Answered once it is on disk.
    Note(Box<Entry>, oneshot::Sender<Result<(), Denial>>),
    /// The end of the daemon; workers and routes stay.
    Stop,
}

/// Why the loop did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// The state does not allow it.
    Refusal(Refusal),
    /// The journal cannot be written: nothing is changed.
    ReadOnly(String),
    /// It would make a record longer than the journal takes: nothing is changed.
    TooLong(String),
}

/// How steps run: each on a thread of its own, or at once, in tests.
pub type Spawn = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// What the loop works with.
pub struct Parts {
    /// State as replayed from the journal.
    pub world: World,
    /// The journal.
    pub journal: Arc<Journal>,
    /// Executes steps.
    pub executor: Executor,
    /// Runs them.
    pub spawn: Spawn,
    /// Where readers look.
    pub publisher: Publisher,
    /// Where events come from.
    pub inbox: Receiver<Input>,
    /// Where steps send their events.
    pub sender: Sender<Input>,
    /// Called once a record is on disk that is a turning point: the journal is signed then.
    pub turning_point: Box<dyn Fn() + Send>,
}

/// The loop's state.
pub struct Driver {
    parts: Parts,
    timers: Timers,
    looks: Looks,
    windows: Looks,
    totals: TotalsByGeneration,
    journal_bytes: u64,
    synced_ms: u64,
    read_only: Option<String>,
    /// The journal is written on its reserve: nothing new is begun.
    on_reserve: bool,
    /// Why there is none again.
    failing: Failing,
    /// Why a model's port stays.
    staying: Failing,
}

impl Driver {
    /// A loop that has not begun.
    pub fn new(parts: Parts) -> Self {
        let windows = Looks::at_start(&parts.world);
        Self {
            parts,
            timers: Timers::default(),
            looks: Looks::default(),
            windows,
            totals: TotalsByGeneration::default(),
            journal_bytes: 0,
            synced_ms: 0,
            read_only: None,
            on_reserve: false,
            failing: Failing::default(),
            staying: Failing::default(),
        }
    }

    /// [Recovers](Self::recover), then loops until told to stop. `turned` is called after each turn, at least once
    /// a second: it is the proof that the loop is alive.
    pub fn run(mut self, mut turned: impl FnMut()) {
        self.recover();
        self.timers.arm(Timer::Look, Instant::now());
        while self.turn(None) {
            turned();
        }
    }

    /// Takes up to one input and everything that follows from it. False after [`Input::Stop`]. `limit` bounds the wait
    /// for tests that drive the loop by hand.
    pub fn turn(&mut self, limit: Option<Duration>) -> bool {
        let wait = self.timers.until_next(Instant::now());
        let wait = limit.map_or(wait, |limit| wait.min(limit));
        match self.parts.inbox.recv_timeout(wait) {
            Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Ok(input) => self.take(input),
            Err(RecvTimeoutError::Timeout) => {}
        }
        // What becomes due meanwhile waits for its turn: the inbox must have one too.
        let now = Instant::now();
        while let Some(timer) = self.timers.due(now) {
            self.fire(timer);
        }
        self.go_on();
        self.publish();
        true
    }

    /// The state, for tests.
    pub fn world(&self) -> &World {
        &self.parts.world
    }

    fn host(&self) -> &dyn Host {
        self.parts.executor.host.as_ref()
    }

    fn workers(&self) -> &dyn Workers {
        self.parts.executor.workers.as_ref()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(event) => drop(self.decide(&event, None)),
            Input::Ask(event, context, reply) => {
                let answer = self.grant(&event, context);
                self.go_on();
                self.publish();
                let _ = reply.send(answer);
            }
            Input::Note(entry, reply) => {
                let answer = self.note(*entry);
                self.publish();
                let _ = reply.send(answer);
            }
            Input::Stop => {}
        }
    }

    fn decide(&mut self, event: &Event, asked: Option<AuditContext>) -> Result<(), Denial> {
        let records = decide(&self.parts.world, event).map_err(Denial::Refusal)?;
        self.write(records, asked)
    }

    /// Writes the records as one batch and, once they are on disk, takes them in. Nothing happens when they are not.
    /// Those that answer no request have the audit context of what they belong to.
    fn write(&mut self, records: Vec<Record>, asked: Option<AuditContext>) -> Result<(), Denial> {
        if let Some(why) = &self.read_only {
            return Err(Denial::ReadOnly(why.clone()));
        }
        if records.is_empty() {
            return Ok(());
        }
        let entry = |record| {
            let audit_context = asked.or_else(|| self.parts.world.context_of(&record));
            Entry { record, audit_context }
        };
        let entries: Vec<Entry> = records.into_iter().map(entry).collect();
        let bodies: Result<Vec<Vec<u8>>, _> = entries.iter().map(canonical::to_canonical).collect();
        let bodies = bodies.map_err(|error| Denial::TooLong(chain(&error)))?;
        let slices: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        match self.parts.journal.append_all(&slices) {
            Ok(receipts) => {
                self.synced_ms = crate::now_ms();
                for (entry, receipt) in entries.iter().zip(receipts) {
                    tracing::debug!(seq = receipt.seq, record = ?entry.record, "written");
                    let stamp = Stamp { seq: receipt.seq, at_ms: crate::millis(receipt.time_ns) };
                    self.parts.world.take(entry, stamp);
                    self.after(entry);
                }
                self.note_reserve();
                Ok(())
            }
            // Nothing was written, and the next record can be.
            Err(error @ (JournalError::BodyTooLarge { .. } | JournalError::BatchTooLarge { .. })) => {
                Err(Denial::TooLong(chain(&error)))
            }
            Err(error) => {
                let why = format!("journal: {}", chain(&error));
                tracing::error!("{why}; changes are refused, serving goes on");
                self.read_only = Some(why.clone());
                Err(Denial::ReadOnly(why))
            }
        }
    }

    /// What a record makes due besides steps.
    fn after(&mut self, entry: &Entry) {
        crate::telemetry::tell(entry, &self.parts.world);
        if matches!(&entry.record, Record::Trust(_) | Record::Imported { .. }) {
            self.parts.executor.intake.learn(Arc::clone(&self.parts.world.trust));
        }
        if crate::notary::turns(&entry.record) {
            (self.parts.turning_point)();
        }
        let model = match &entry.record {
            Record::WorkerDied { model, .. } => Some(model.clone()),
            Record::Ended { release, .. } => {
                self.parts.world.releases.get(release).map(|release| release.planned.model.clone())
            }
            _ => None,
        };
        let Some(name) = model else { return };
        let Some(model) = self.parts.world.models.get(&name) else { return };
        if self.parts.world.awaits_restart(&name) {
            let pause = RESTART_FIRST * 2u32.pow(model.restarts.min(RESTART_DOUBLINGS));
            self.timers.arm(Timer::Restart(name), Instant::now() + pause);
        }
    }

    /// Lets every model go as far as it can without another event.
    fn go_on(&mut self) {
        let models: Vec<ModelName> = self.parts.world.models.keys().cloned().collect();
        // What one release of a set does may be what another one waits for.
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for model in &models {
                let records = proceed(&self.parts.world, model);
                if records.is_empty() {
                    continue;
                }
                moved = true;
                let intent = matches!(records[..], [Record::Intent { .. }]);
                if self.write(records, None).is_err() {
                    return;
                }
                if intent {
                    self.begin(model);
                }
            }
        }
    }

    /// Executes the open step of a model's release, or arms what it waits for.
    fn begin(&mut self, model: &ModelName) {
        let Some(release) = self.parts.world.current(model).filter(|release| release.open).cloned() else {
            return;
        };
        let Some(step) = release.step() else { return };
        let at = u32::try_from(release.cursor).unwrap_or(u32::MAX);
        match step {
            Step::Observe(_) => return self.watch(&release, at),
            // Where nothing is asked of it or has moved yet, it only waits.
            Step::AwaitSet => {
                let judged = release.planned.plan.objectives != Objectives::default();
                if judged && release.asked != Percent::NONE {
                    self.watch(&release, at);
                }
                return;
            }
            Step::AwaitReady(generation) | Step::LoadModel(generation) => {
                let deadline = Instant::now() + self.parts.executor.config.live.get().ready;
                self.timers.arm(Timer::ReadyDeadline(generation), deadline);
            }
            _ => {}
        }
        self.execute(release, step, at);
    }

    fn execute(&mut self, release: Release, step: Step, at: u32) {
        let id = release.planned.release;
        let moment = match step {
            Step::Snapshot(moment) => Some(self.moment(&Reason::Release { release: id, moment })),
            _ => None,
        };
        let (executor, sender) = (self.parts.executor.clone(), self.parts.sender.clone());
        (self.parts.spawn)(Box::new(move || {
            let outcome = executor.execute(&Job { release, step, moment });
            let event = match (step, outcome) {
                // The worker's own word ends this step.
                (Step::AwaitReady(_) | Step::LoadModel(_), Ok(_)) => return,
                (Step::AwaitReady(generation) | Step::LoadModel(generation), Err(why)) => {
                    Event::Ready { generation, outcome: Err(why) }
                }
                (_, outcome) => Event::Finished { release: id, at, outcome },
            };
            // A loop that has stopped finds the open intent at its next start.
            let _ = sender.send(Input::Event(event));
        }));
    }

    /// What a snapshot of this moment holds of the state.
    fn moment(&self, reason: &Reason) -> evidence::Moment {
        let head = self.parts.journal.head();
        let position = evidence::Position { size: head.size, root: head.root.to_string() };
        evidence::Moment::of(&self.parts.world, &position, reason)
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Look => {
                self.timers.arm(Timer::Look, Instant::now() + LOOK_EVERY);
                self.look();
                if self.on_reserve {
                    self.look_for_room();
                }
            }
            Timer::Restart(model) => {
                let event = Event::Restart { model, salt: crate::salt() };
                let _ = self.decide(&event, None);
            }
            Timer::ReadyDeadline(generation) => {
                let seconds = self.parts.executor.config.live.get().ready.as_secs();
                let outcome = Err(format!("worker was not ready within {seconds} s"));
                let _ = self.decide(&Event::Ready { generation, outcome }, None);
            }
            Timer::WindowEnd(id, at) => self.end_window(id, at),
        }
    }

    /// A window is over: measure it, tell the engine, and begin the next one if it still waits.
    fn end_window(&mut self, id: ReleaseId, at: u32) {
        let waiting = |release: &&Arc<Release>| release.open && release.cursor == at as usize;
        let Some(release) = self.parts.world.releases.get(&id).filter(waiting).cloned() else { return };
        if release.progress != Progress::Forward {
            return;
        }
        let length = release.planned.plan.window();
        self.timers.arm(Timer::WindowEnd(id, at), Instant::now() + length);
        if let Some(window) = self.measure(&release) {
            self.judge(&release, window);
        }
    }

    fn measure(&mut self, release: &Release) -> Option<Window> {
        let eyes =
            Eyes { host: self.parts.executor.host.as_ref(), workers: self.parts.executor.workers.as_ref() };
        let candidate = self.windows.since_last(release.planned.to.generation, &eyes);
        // In place there is one worker, and what it did in this window is the new version's.
        let home = release.home().filter(|home| *home != release.planned.to.generation);
        let stable = home.and_then(|home| self.windows.since_last(home, &eyes));
        Some(Window {
            at_ms: crate::now_ms(),
            length_ms: release.planned.plan.window_ms,
            asked: release.asked,
            candidate: candidate?,
            stable,
        })
    }

    /// The first window is counted from a look now.
    fn watch(&mut self, release: &Release, at: u32) {
        let _ = self.measure(release);
        let end = Instant::now() + release.planned.plan.window();
        self.timers.arm(Timer::WindowEnd(release.planned.release, at), end);
    }

    /// Looks at every version that has a worker, as the loop does each second. For tests too.
    pub fn look(&mut self) {
        let alive: Vec<Generation> = self.parts.publisher.generations(&self.parts.world);
        self.looks.keep(&alive);
        self.windows.keep(&alive);
        self.totals.retain(|generation, _| alive.contains(generation));
        self.journal_bytes = evidence::journal_bytes(&self.parts.executor.config.state);
        let eyes =
            Eyes { host: self.parts.executor.host.as_ref(), workers: self.parts.executor.workers.as_ref() };
        let mut seen = Vec::new();
        for generation in self.parts.publisher.counted(&self.parts.world) {
            if let Some(figures) = self.looks.since_last(generation, &eyes) {
                self.parts.publisher.saw(generation, LOOK_EVERY, figures);
                seen.push(generation);
            }
            if let Some((sample, counts)) = self.looks.last(generation).cloned() {
                let usage = eyes.host.usage(generation);
                let before = self.totals.get(&generation).map(Arc::as_ref);
                let totals = Totals::after(before, sample, counts, usage);
                self.totals.insert(generation, Arc::new(totals));
            }
        }
        // What was seen of a worker that is gone, or that cannot be looked at any more, is not the last second's.
        self.parts.publisher.keep(&seen);
        self.move_ports();
    }

    fn publish(&mut self) {
        let head = self.parts.journal.head();
        self.parts.publisher.publish(View {
            world: self.parts.world.clone(),
            read_only: self.why_refusing(),
            journal_size: head.size,
            journal_root: head.root.to_string(),
            journal_bytes: self.journal_bytes,
            journal_synced_ms: self.synced_ms,
            seen: self.parts.publisher.seen().clone(),
            router: self.parts.executor.router.stats(),
            totals: self.totals.clone(),
        });
    }
}
