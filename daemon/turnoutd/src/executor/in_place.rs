//! The steps that change what a running worker serves: the mount, which is the launcher's, then the session, which is the
//! worker's own. Their undo finds nothing to do where the worker has ended: the old version's new start has its own mount.

use super::{Executor, stored};
use crate::chain;
use std::time::Duration;
use turnout_engine::record::Target;
use turnout_engine::{Release, Step};
use turnout_manifest::Generation;

/// How long a worker may take to change over to the new version: a run of the model that is under way ends first.
const SWITCH: Duration = Duration::from_secs(10);
/// The same on the way home: after that, the old version gets another worker.
const SWITCH_HOME: Duration = Duration::from_secs(3);
/// How long the news of a worker's end may take to get here.
const NEWS: Duration = Duration::from_secs(1);

impl Executor {
    /// Executes one of them.
    pub(super) fn in_place(&self, release: &Release, step: Step) -> Result<String, String> {
        let (old, new) = (release.planned.from.as_ref(), &release.planned.to);
        let old = old.ok_or("there is no old version whose worker could be taken over")?;
        match step {
            Step::SwapModel(worker) => self.swap_model(release, worker, new),
            Step::LoadModel(worker) => {
                let assignment = self.assignment(&release.planned.model, new)?;
                self.workers.supervise(worker)?;
                self.workers.load(worker, &assignment).map(|()| String::new())
            }
            Step::SwitchModel(worker) => self.switch(worker, new, SWITCH),
            Step::SwitchHome(worker) => self.unless_ended(worker, || self.switch(worker, old, SWITCH_HOME)),
            Step::UnloadModel(worker) => {
                self.workers.unload(worker);
                Ok(String::new())
            }
            Step::SwapHome(worker) => self.unless_ended(worker, || self.swap_model(release, worker, old)),
            _ => Err(format!("`{step}` does not change a running worker")),
        }
    }

    fn swap_model(&self, release: &Release, worker: Generation, to: &Target) -> Result<String, String> {
        let files = self.held(&release.planned.model, to)?;
        let stored = stored(&release.planned.model, to);
        self.host.swap_model(worker, &stored).map_err(|error| chain(&error))?;
        Ok(format!("{} is mounted in the cell; {files}", to.version))
    }

    fn switch(&self, worker: Generation, to: &Target, limit: Duration) -> Result<String, String> {
        self.workers.supervise(worker)?;
        self.workers.switch(worker, to.digest, limit)?;
        Ok(format!("{} answers", to.version))
    }

    fn unless_ended(
        &self,
        worker: Generation,
        undo: impl FnOnce() -> Result<String, String>,
    ) -> Result<String, String> {
        let ended = |within| self.workers.ended_within(worker, within);
        let nothing = || Ok("nothing to do: the worker has ended".to_owned());
        if ended(Duration::ZERO) {
            return nothing();
        }
        undo().or_else(|why| if ended(NEWS) { nothing() } else { Err(why) })
    }
}
