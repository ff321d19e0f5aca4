//! What the loop does before its first turn: the journal says what should be there, the host what is.

use super::{Driver, Timer};
use crate::chain;
use std::time::Instant;
use turnout_engine::{Event, Progress, Record, Release, Step};
use turnout_host::pointer::Shown;
use turnout_manifest::ModelName;

impl Driver {
    /// After a start: what the journal says is the state; the host is asked what is still there, and what is missing
    /// becomes an event. The open step of a release, if any, is done again.
    pub fn recover(&mut self) {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let _ = self.write(vec![Record::DaemonStarted { version }], None);
        self.sweep();
        let models: Vec<ModelName> = self.parts.world.models.keys().cloned().collect();
        for model in &models {
            self.take_back(model);
        }
        self.free_ports();
        self.move_ports();
        self.restore_sets();
        if let Err(why) = self.parts.executor.router.supervise() {
            // Nothing follows when no release needs it.
            let _ = self.decide(&Event::RouterDied { why }, None);
        }
        for model in &models {
            self.begin(model);
        }
        self.go_on();
        self.publish();
    }

    /// Listens again to a model's workers. One that is gone has died while nobody listened.
    fn take_back(&mut self, name: &ModelName) {
        let Some(model) = self.parts.world.models.get(name).cloned() else { return };
        let addresses = self.parts.executor.config.addresses(model.port);
        if let Err(error) = self.host().claim(&addresses) {
            tracing::error!(model = %name, "{}", chain(&error));
        }
        let release = self.parts.world.current(name).cloned();
        let started = |release: &Release| {
            let generation = release.planned.to.generation;
            release.touched.contains(&Step::AwaitReady(generation)).then_some(generation)
        };
        let candidate = release.as_ref().filter(|r| r.progress == Progress::Forward).and_then(started);
        let live = model.live.as_ref().filter(|_| !model.live_died).map(|live| live.generation);
        // An undo that was on its way to one that had died already needs another, too.
        if let (true, Some(dead), Some(_)) = (model.live_died, &model.live, &release) {
            let why = "it had died before".to_owned();
            let _ = self.decide(&Event::Lost { generation: dead.generation, why }, None);
        }
        for generation in live.into_iter().chain(candidate) {
            if let Err(why) = self.workers().supervise(generation) {
                let _ = self.decide(&Event::Lost { generation, why }, None);
            }
        }
        self.restore_route(name);
        self.restore_pointer(name);
        if self.parts.world.awaits_restart(name) {
            self.timers.arm(Timer::Restart(name.clone()), Instant::now());
        }
    }

    /// Outside of a release the live version has everything, on the addresses that are configured now. The kernel is told so
    /// again, whatever it knows.
    pub(super) fn restore_route(&self, name: &ModelName) {
        let Some(model) = self.parts.world.models.get(name) else { return };
        let Some(live) = model.undisturbed() else { return };
        if let Err(why) = self.parts.executor.restore(live.generation, model.port) {
            tracing::error!(model = %name, "{name}: port {} cannot be served: {why}", model.port);
        }
    }

    /// A pointer that shows nothing was lost with the machine's mounts; one that shows something is a release's matter.
    fn restore_pointer(&self, name: &ModelName) {
        let Some(live) = self.parts.world.models.get(name).and_then(|model| model.live.as_ref()) else {
            return;
        };
        let restored = match self.host().pointed(name) {
            Ok(Some(_)) => return,
            Ok(None) => self.host().point(&crate::executor::stored(name, live)),
            Err(error) => Err(error),
        };
        if let Err(error) = restored {
            tracing::error!(model = %name, "{}", chain(&error));
        }
    }

    /// The same for sets, once the pointers of their models are there: what they show is what those show.
    fn restore_sets(&self) {
        for (set, models) in &self.parts.world.sets {
            let restored = match self.host().pointed_set(set) {
                Ok(shown) if !shown.is_empty() => continue,
                Ok(_) => {
                    let shown: Vec<Shown> = models.iter().cloned().map(Shown::AsPointed).collect();
                    self.host().point_set(set, &shown)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = restored {
                tracing::error!(%set, "{}", chain(&error));
            }
        }
    }

    /// Removes cells that belong to nothing: left by a start that was killed half-way, or by a retirement that failed.
    fn sweep(&self) {
        let wanted = self.parts.publisher.generations(&self.parts.world);
        let cells = match self.host().cells() {
            Ok(cells) => cells,
            Err(error) => return tracing::error!("{}", chain(&error)),
        };
        for (generation, _) in cells.into_iter().filter(|(generation, _)| !wanted.contains(generation)) {
            tracing::warn!(%generation, "removing a cell that belongs to no release");
            let removed = self
                .host()
                .dismiss(generation)
                .and_then(|()| self.host().kill_worker(generation))
                .and_then(|()| self.host().destroy_cell(generation));
            if let Err(error) = removed {
                tracing::error!(%generation, "{}", chain(&error));
            }
        }
    }
}
