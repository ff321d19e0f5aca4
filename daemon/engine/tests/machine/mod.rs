//! The machine of the property tests: a second, tiny host, on which calls fail as the test says.

use std::collections::{BTreeMap, BTreeSet};
use turnout_engine::{Release, Step};
use turnout_manifest::{Generation, Percent, Sha256};

/// How the machine treats one call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Works,
    FailsClean,
    FailsHalfDone,
}

#[derive(Default)]
pub struct Machine {
    pub cells: BTreeSet<Generation>,
    pub workers: BTreeSet<Generation>,
    pub admitted: BTreeSet<Generation>,
    pub route: Vec<(Generation, Percent)>,
    pub router: bool,
    /// What each worker answers by, and what it has mounted and loaded besides.
    pub models: BTreeMap<Generation, Models>,
}

/// The versions in one worker, by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Models {
    pub mounted: Sha256,
    pub answers: Sha256,
    pub beside: Option<Sha256>,
}

impl Machine {
    pub fn execute(&mut self, release: &Release, step: Step, fate: Fate) -> Result<String, String> {
        if fate == Fate::FailsClean {
            return Err("injected".into());
        }
        let result = self.perform(release, step);
        if fate == Fate::FailsHalfDone { Err("injected after the effect".into()) } else { result }
    }

    pub fn perform(&mut self, release: &Release, step: Step) -> Result<String, String> {
        match step {
            Step::CreateCell(generation) => drop(self.cells.insert(generation)),
            Step::StartWorker(generation) => {
                if !self.cells.contains(&generation) {
                    return Err("no cell".into());
                }
                self.workers.insert(generation);
                let from = release.planned.from.as_ref().filter(|from| from.generation == generation);
                let digest = from.unwrap_or(&release.planned.to).digest;
                let models = Models { mounted: digest, answers: digest, beside: None };
                self.models.entry(generation).or_insert(models);
            }
            step if step.is_in_place() => self.reload(release, step)?,
            Step::Admit(generation) => {
                if !self.workers.contains(&generation) {
                    return Err("no worker".into());
                }
                self.admitted.insert(generation);
            }
            Step::StartRouter => self.router = true,
            Step::Shift(percent) => {
                let by_request = release.planned.plan.strategy.needs_router() && percent != Percent::ALL;
                if by_request && !self.router {
                    return Err("no router".into());
                }
                let candidate = release.planned.to.generation;
                let home = release.home().map(|home| (home, percent.rest()));
                self.send(std::iter::once((candidate, percent)).chain(home).collect())?;
            }
            Step::Home => self.send(release.home().map(|home| (home, Percent::ALL)).into_iter().collect())?,
            Step::Dismiss(generation) => drop(self.admitted.remove(&generation)),
            Step::KillWorker(generation) => self.dies(generation),
            Step::DestroyCell(generation) => {
                if self.workers.contains(&generation) {
                    return Err("cell is not empty".into());
                }
                self.cells.remove(&generation);
            }
            Step::AwaitReady(_) | Step::Observe(_) | Step::AwaitSet => {
                unreachable!("waiting steps are not executed")
            }
            Step::SwapModel(_)
            | Step::LoadModel(_)
            | Step::SwitchModel(_)
            | Step::SwitchHome(_)
            | Step::UnloadModel(_)
            | Step::SwapHome(_) => unreachable!("done above"),
            Step::Snapshot(_)
            | Step::VerifyFiles
            | Step::Point
            | Step::PointHome
            | Step::PointSet
            | Step::PointSetHome
            | Step::Drain(_) => {}
        }
        Ok(String::new())
    }

    /// As the launcher and the worker do. The undo finds nothing to do in a worker that has ended.
    pub fn reload(&mut self, release: &Release, step: Step) -> Result<(), String> {
        let old = release.planned.from.as_ref().unwrap().digest;
        let (new, worker) = (release.planned.to.digest, release.planned.to.generation);
        let undo = matches!(step, Step::SwitchHome(_) | Step::UnloadModel(_) | Step::SwapHome(_));
        let Some(models) = self.models.get_mut(&worker).filter(|_| self.workers.contains(&worker)) else {
            return if undo { Ok(()) } else { Err("no worker".into()) };
        };
        let switch = |models: &mut Models, to| {
            if models.answers != to {
                let beside = models.beside.replace(models.answers);
                models.answers = beside.filter(|beside| *beside == to).ok_or("not loaded")?;
            }
            Ok(())
        };
        match step {
            Step::SwapModel(_) => models.mounted = new,
            Step::SwapHome(_) => models.mounted = old,
            Step::UnloadModel(_) => models.beside = None,
            Step::SwitchModel(_) => return switch(models, new),
            Step::SwitchHome(_) => return switch(models, old),
            _ => unreachable!("a load is waited for"),
        }
        Ok(())
    }

    pub fn load(&mut self, release: &Release) {
        if let Some(models) = self.models.get_mut(&release.planned.to.generation) {
            assert_eq!(models.mounted, release.planned.to.digest, "what is loaded is what is mounted");
            models.beside = Some(models.mounted);
        }
    }

    /// As the real host does: a route to a worker that cannot serve is refused, and nothing changes.
    pub fn send(&mut self, arms: Vec<(Generation, Percent)>) -> Result<(), String> {
        let serves = |g: &Generation| self.admitted.contains(g) && self.workers.contains(g);
        if let Some((dead, _)) = arms.iter().find(|(g, percent)| *percent != Percent::NONE && !serves(g)) {
            return Err(format!("{dead} is not ready"));
        }
        self.route = arms;
        Ok(())
    }

    pub fn dies(&mut self, generation: Generation) {
        self.workers.remove(&generation);
        self.admitted.remove(&generation);
        self.models.remove(&generation);
    }
}
