//! Everything that can be done to the host for a release, each with its undo. A step can be repeated after a crash,
//! an undo can run when nothing was done. Waiting steps do nothing to the host: they end with an event.

use serde::{Deserialize, Serialize};
use std::fmt;
use turnout_manifest::{Generation, Percent};

/// When an audit snapshot is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Before anything of the release has happened.
    Before,
    /// After it is over, either way.
    After,
}

/// One step. The release it belongs to says which versions are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", content = "of", rename_all = "kebab-case")]
pub enum Step {
    /// Make a read-only audit snapshot. It stays: evidence has no undo.
    Snapshot(Moment),
    /// Read every file of the version again and compare it with the signed manifest.
    VerifyFiles,
    /// Make the cell.
    CreateCell(Generation),
    /// Start the worker in its cell and tell it what to serve.
    StartWorker(Generation),
    /// Wait until it has loaded, checked its contract and warmed up.
    AwaitReady(Generation),
    /// Make it eligible for routes.
    Admit(Generation),
    /// Start the router, which picks the version of each request. It stays: it is the host's, not the release's.
    StartRouter,
    /// Send this share of new connections to the new version, the rest to the old one. One atomic operation.
    Shift(Percent),
    /// Watch windows at this share until enough of them speak.
    Observe(Percent),
    /// Mount the new version's files where the worker, which serves the old one, has that one's.
    SwapModel(Generation),
    /// Wait until the worker has loaded, checked and warmed the new version beside the old one.
    LoadModel(Generation),
    /// Have the worker answer by the new version from the next request on. The old one stays loaded.
    SwitchModel(Generation),
    /// Wait until every release of the set has got so far; the share in force is watched meanwhile.
    AwaitSet,
    /// Make the host-visible pointer show the new version. One atomic operation.
    Point,
    /// Make the set's host-visible pointer show the new versions of all its models, in one atomic operation, and then the
    /// pointers of these models. The first release of the set does it for all.
    PointSet,
    /// Send all new connections to the old version, or to none when there was none. One atomic operation.
    Home,
    /// Make the host-visible pointer show the old version again, or nothing when there was none.
    PointHome,
    /// Make the set's pointer, and those of its models, show again what they showed before.
    PointSetHome,
    /// Have the worker answer by the old version again.
    SwitchHome(Generation),
    /// Have the worker let go of the version that it does not answer by.
    UnloadModel(Generation),
    /// Mount the old version's files where the worker has the new one's.
    SwapHome(Generation),
    /// Make it ineligible for routes.
    Dismiss(Generation),
    /// Let it answer what it has, close its connections and exit.
    Drain(Generation),
    /// Kill what is left of it.
    KillWorker(Generation),
    /// Remove the cell.
    DestroyCell(Generation),
}

impl Step {
    /// What takes it back, in order. Several steps share `Home`: the rollback keeps one and puts it first.
    pub fn undo(self) -> Vec<Self> {
        match self {
            Self::CreateCell(generation) => vec![Self::DestroyCell(generation)],
            Self::StartWorker(generation) => vec![Self::Drain(generation), Self::KillWorker(generation)],
            Self::Admit(generation) => vec![Self::Dismiss(generation)],
            Self::Shift(_) => vec![Self::Home],
            Self::Point => vec![Self::PointHome],
            Self::PointSet => vec![Self::PointSetHome],
            Self::SwapModel(generation) => vec![Self::SwapHome(generation)],
            Self::LoadModel(generation) => vec![Self::UnloadModel(generation)],
            Self::SwitchModel(generation) => vec![Self::SwitchHome(generation)],
            Self::Snapshot(_)
            | Self::VerifyFiles
            | Self::AwaitReady(_)
            | Self::StartRouter
            | Self::AwaitSet
            | Self::Observe(_) => Vec::new(),
            Self::Home
            | Self::PointHome
            | Self::PointSetHome
            | Self::SwitchHome(_)
            | Self::UnloadModel(_)
            | Self::SwapHome(_)
            | Self::Dismiss(_)
            | Self::Drain(_)
            | Self::KillWorker(_)
            | Self::DestroyCell(_) => Vec::new(),
        }
    }

    /// It ends with an event from outside instead of a call that returns.
    pub fn waits(self) -> bool {
        matches!(self, Self::AwaitReady(_) | Self::LoadModel(_) | Self::Observe(_) | Self::AwaitSet)
    }

    /// The start of a worker that it is a part of.
    pub fn brings_up(self) -> Option<Generation> {
        match self {
            Self::CreateCell(generation)
            | Self::StartWorker(generation)
            | Self::AwaitReady(generation)
            | Self::Admit(generation) => Some(generation),
            _ => None,
        }
    }

    /// It changes what a running worker serves.
    pub fn is_in_place(self) -> bool {
        matches!(
            self,
            Self::SwapModel(_)
                | Self::LoadModel(_)
                | Self::SwitchModel(_)
                | Self::SwitchHome(_)
                | Self::UnloadModel(_)
                | Self::SwapHome(_)
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(Moment::Before) => write!(out, "snapshot before"),
            Self::Snapshot(Moment::After) => write!(out, "snapshot after"),
            Self::VerifyFiles => write!(out, "verify files"),
            Self::CreateCell(generation) => write!(out, "create cell {generation}"),
            Self::StartWorker(generation) => write!(out, "start worker {generation}"),
            Self::AwaitReady(generation) => write!(out, "await ready {generation}"),
            Self::Admit(generation) => write!(out, "admit {generation}"),
            Self::StartRouter => write!(out, "start router"),
            Self::Shift(percent) => write!(out, "shift to {percent}"),
            Self::Observe(percent) => write!(out, "observe at {percent}"),
            Self::SwapModel(generation) => write!(out, "swap the model of {generation}"),
            Self::LoadModel(generation) => write!(out, "load the new model in {generation}"),
            Self::SwitchModel(generation) => write!(out, "switch {generation} to the new model"),
            Self::AwaitSet => write!(out, "wait for the rest of the set"),
            Self::Point => write!(out, "point current to the new version"),
            Self::PointSet => write!(out, "point the set to the new versions"),
            Self::Home => write!(out, "all traffic home"),
            Self::PointHome => write!(out, "point current home"),
            Self::PointSetHome => write!(out, "point the set home"),
            Self::SwitchHome(generation) => write!(out, "switch {generation} home"),
            Self::UnloadModel(generation) => write!(out, "unload the idle model of {generation}"),
            Self::SwapHome(generation) => write!(out, "swap the model of {generation} home"),
            Self::Dismiss(generation) => write!(out, "dismiss {generation}"),
            Self::Drain(generation) => write!(out, "drain {generation}"),
            Self::KillWorker(generation) => write!(out, "end worker {generation}"),
            Self::DestroyCell(generation) => write!(out, "destroy cell {generation}"),
        }
    }
}
