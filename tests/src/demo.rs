//! The demo: a person's walk through Turnout on this machine, with live traffic from beginning to end. Drives the real
//! programs by their command line alone, and ends with a table in which every line must be good.

mod acts;
pub(crate) mod measure;
mod stage;
mod table;

use crate::daemon::clear_by_name;
use anyhow::Result;
use stage::Stage;
use std::path::PathBuf;
use std::time::Instant;

/// Name of the demo's instance of the daemon.
const NAME: &str = "demo";

/// What the demo needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the built programs.
    pub programs: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
    /// Where reports are left.
    pub reports: PathBuf,
    /// What becomes of the daemon at the end.
    pub end: End,
}

/// What becomes of the demo's daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is ended and cleared up after.
    Clear,
    /// It keeps running, to play on.
    Keep,
}

/// How the demo came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every line of the table is good.
    Good,
    /// At least one is not.
    Bad,
}

/// Plays the whole demo.
///
/// # Errors
/// When an act cannot be played at all, with the reason; a line that is not good is a [`Verdict`].
pub fn run(settings: &Settings) -> Result<Verdict> {
    let began = Instant::now();
    let mut stage = Stage::set(settings)?;
    if let Err(error) = play(&mut stage) {
        let log = stage.instance.log_end();
        return Err(
            error.context(format!("the demo broke off; the daemon's log ends so:\n{log}\nand the reason is"))
        );
    }
    let tallies = stage.end_traffic();
    table::print(&mut stage, &tallies);
    let verdict = table::verdict(&stage, began.elapsed());
    if settings.end == End::Keep {
        stage.keep()?;
    }
    Ok(verdict)
}

fn play(stage: &mut Stage) -> Result<()> {
    acts::refusals(stage)?;
    acts::first_versions(stage)?;
    stage.traffic()?;
    acts::take_over(stage)?;
    acts::throw_out(stage, "slow")?;
    acts::throw_out(stage, "errors")?;
    acts::proof(stage)
}

/// Ends the daemon that an earlier demo kept, and clears up after it.
///
/// # Errors
/// What could not be cleared.
pub fn stop() -> Result<()> {
    clear_by_name(NAME)
}
