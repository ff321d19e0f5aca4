//! The second implementation of `Workers`: no process, no link. A worker runs when the fake host says so; what it
//! answers is what the test has told it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use turnout_engine::Event;
use turnout_host::cells::{Cells, WorkerState};
use turnout_host::fake::FakeHost;
use turnout_manifest::{Generation, Sha256};
use turnout_protocol::worker::{Assignment, Counts};
use turnoutd::driver::Input;
use turnoutd::supervise::Workers;

/// What a worker answers to its assignment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Ready,
    Failed,
    Silent,
}

/// The versions in one worker, by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Models {
    pub answers: Sha256,
    pub beside: Option<Sha256>,
}

#[derive(Default)]
struct Known {
    answer: Answer,
    /// What each worker has loaded. As the workers, it outlives the daemon.
    models: BTreeMap<Generation, Models>,
    /// Workers do not change over to this version.
    shunned: Option<Sha256>,
    /// Whether the end of each worker that is listened to is expected.
    listened: BTreeMap<Generation, bool>,
    life: BTreeMap<Generation, Option<Duration>>,
    /// By this daemon or one before.
    told_to_leave: BTreeSet<Generation>,
    counts: BTreeMap<Generation, Counts>,
    events: Option<Sender<Input>>,
}

/// Workers without processes.
pub struct FakeWorkers {
    host: Arc<FakeHost>,
    known: Mutex<Known>,
}

impl FakeWorkers {
    pub fn new(host: Arc<FakeHost>) -> Self {
        Self { host, known: Mutex::default() }
    }

    /// A new daemon: it listens to nobody yet.
    pub fn attach(&self, events: Sender<Input>) {
        let mut known = self.known();
        known.listened.clear();
        known.events = Some(events);
    }

    /// What workers answer from now on.
    pub fn answer(&self, answer: Answer) {
        self.known().answer = answer;
    }

    /// What a worker has loaded.
    pub fn models(&self, generation: Generation) -> Models {
        self.known().models[&generation]
    }

    /// A worker that was started by another daemon answers by this version.
    pub fn answers_by(&self, generation: Generation, answers: Sha256) {
        self.known().models.insert(generation, Models { answers, beside: None });
    }

    /// From now on workers do not change over to this version.
    pub fn shun(&self, digest: Sha256) {
        self.known().shunned = Some(digest);
    }

    /// What a worker says that it has counted.
    pub fn counted(&self, generation: Generation, counts: Counts) {
        self.known().counts.insert(generation, counts);
    }

    /// The bound on the life of a worker's connections, as it was told last.
    pub fn life(&self, generation: Generation) -> Option<Duration> {
        self.known().life.get(&generation).copied().flatten()
    }

    /// Whether a worker was ever told to leave, and not only killed.
    pub fn was_told_to_leave(&self, generation: Generation) -> bool {
        self.known().told_to_leave.contains(&generation)
    }

    /// Tells of workers that have ended since, as their pidfds would.
    pub fn notice(&self) {
        let mut known = self.known();
        let gone: Vec<Generation> =
            known.listened.keys().copied().filter(|generation| !self.runs(*generation)).collect();
        for generation in gone {
            let expected = known.listened.remove(&generation).unwrap();
            if let (false, Some(events)) = (expected, &known.events) {
                let event = Event::Died { generation, why: "killed by SIGKILL".to_owned() };
                let _ = events.send(Input::Event(event));
            }
        }
    }

    fn runs(&self, generation: Generation) -> bool {
        self.host.worker(generation) == Some(WorkerState::Running)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }
}

impl Workers for FakeWorkers {
    fn supervise(&self, generation: Generation) -> Result<(), String> {
        if self.known().listened.contains_key(&generation) && self.runs(generation) {
            return Ok(());
        }
        let cells = self.host.cells().map_err(|error| turnoutd::chain(&error))?;
        if !cells.contains(&(generation, WorkerState::Running)) {
            return Err(format!("the worker of {generation} does not run"));
        }
        self.known().listened.insert(generation, false);
        Ok(())
    }

    fn assign(&self, generation: Generation, assignment: &Assignment) -> Result<(), String> {
        assert_eq!(assignment.model_file, "model.onnx");
        let mut known = self.known();
        if !known.listened.contains_key(&generation) || !self.runs(generation) {
            return Err(format!("no link to {generation}"));
        }
        let outcome = match known.answer {
            Answer::Ready => Ok("ready after 3 ms".to_owned()),
            Answer::Failed => Err("the model has no input `x`".to_owned()),
            Answer::Silent => return Ok(()),
        };
        known.models.insert(generation, Models { answers: assignment.digest, beside: None });
        let _ = known.events.as_ref().unwrap().send(Input::Event(Event::Ready { generation, outcome }));
        Ok(())
    }

    fn load(&self, generation: Generation, assignment: &Assignment) -> Result<(), String> {
        let digest = assignment.digest;
        assert_eq!(self.host.mounted(generation).map(|mounted| mounted.digest), Some(digest));
        let mut known = self.known();
        if !known.listened.contains_key(&generation) || !self.runs(generation) {
            return Err(format!("no link to {generation}"));
        }
        let outcome = match known.answer {
            Answer::Ready => Ok("loaded beside the old one after 3 ms".to_owned()),
            Answer::Failed => Err("the model has no input `x`".to_owned()),
            Answer::Silent => return Ok(()),
        };
        let models = known.models.get_mut(&generation).unwrap();
        if outcome.is_ok() && models.answers != digest {
            models.beside = Some(digest);
        }
        let event = Event::Loaded { generation, digest, outcome };
        let _ = known.events.as_ref().unwrap().send(Input::Event(event));
        Ok(())
    }

    fn switch(&self, generation: Generation, digest: Sha256, _limit: Duration) -> Result<(), String> {
        let mut known = self.known();
        if !known.listened.contains_key(&generation) || !self.runs(generation) {
            return Err(format!("the worker of {generation} has ended"));
        }
        if known.shunned == Some(digest) {
            return Err("the worker has not changed over within 3 s".to_owned());
        }
        let models = known.models.get_mut(&generation).unwrap();
        if models.answers != digest {
            if models.beside != Some(digest) {
                return Err("it is not loaded".to_owned());
            }
            models.beside = Some(std::mem::replace(&mut models.answers, digest));
        }
        Ok(())
    }

    fn unload(&self, generation: Generation) {
        if let Some(models) = self.known().models.get_mut(&generation) {
            models.beside = None;
        }
    }

    fn connection_life(&self, generation: Generation, life: Option<Duration>) {
        self.known().life.insert(generation, life);
    }

    /// Only a worker that has a link can be told.
    fn drain(&self, generation: Generation, _idle: Duration) {
        let mut known = self.known();
        if known.listened.contains_key(&generation) {
            known.told_to_leave.insert(generation);
            self.host.end_worker(generation, WorkerState::Exited(0));
        }
    }

    fn expect_end(&self, generation: Generation) {
        if let Some(expected) = self.known().listened.get_mut(&generation) {
            *expected = true;
        }
    }

    fn ended_within(&self, generation: Generation, _limit: Duration) -> bool {
        !self.runs(generation)
    }

    fn counts(&self, generation: Generation) -> Option<Counts> {
        Some(self.known().counts.get(&generation).copied().unwrap_or_default())
    }
}
