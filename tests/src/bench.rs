//! The benchmarks: peers and limits side by side, in one run. Ratios of things measured in turn by the same client are
//! what counts, because the machine is shared by server and client; each floor is where `docs/performance.md` says.

mod apart;
mod attack;
mod client;
pub mod figures;
pub mod floor;
mod footprint;
mod journal;
mod kernel;
mod load;
mod machine;
mod peers;
mod pin;
mod reaction;
mod reuseport;
mod router;
mod spawn;
mod split;
mod stage;
mod swap;

use crate::models::FIRST;
use anyhow::{Context, Result};
use apart::{Place, apart};
use figures::Line;
use stage::Stage;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the place for workers without a daemon.
const CELLS: &str = "bench-cells";

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the built programs.
    pub programs: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
}

/// One of the benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Worker against the bare loop.
    Peers,
    /// Resident memory.
    Memory,
    /// Rollback time.
    Rollback,
    /// Through the router against straight to the worker.
    Router,
    /// Steering and probes on against off.
    Kernel,
    /// Steering against plain `SO_REUSEPORT`.
    Reuseport,
    /// Shares of connections as asked.
    Split,
    /// A core of its own beside a noisy neighbour.
    Pin,
    /// A hostile worker in the next cell.
    Attack,
    /// Live traffic while a large model loads.
    Load,
    /// Swap time of the pointer.
    Swap,
    /// Spawn to ready.
    Spawn,
    /// Start to first answer.
    Start,
    /// Durable records per second, and opening a long journal.
    Journal,
}

impl Part {
    /// All of them, in their order on the page: those that need a daemon first.
    pub const ALL: [Self; 14] = [
        Self::Peers,
        Self::Memory,
        Self::Rollback,
        Self::Router,
        Self::Kernel,
        Self::Reuseport,
        Self::Split,
        Self::Pin,
        Self::Attack,
        Self::Load,
        Self::Swap,
        Self::Spawn,
        Self::Start,
        Self::Journal,
    ];

    fn needs_daemon(self) -> bool {
        matches!(self, Self::Peers | Self::Rollback | Self::Memory | Self::Router)
    }
}

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    rounds: usize,
    round: Duration,
    swaps: u32,
    spawns: u32,
    rollbacks: u32,
    starts: u32,
    loads: usize,
    load_side: usize,
    journal_records: u64,
}

impl Effort {
    /// For figures to be quoted.
    pub const FULL: Self = Self {
        rounds: 15,
        round: Duration::from_secs(1),
        swaps: 1000,
        spawns: 20,
        rollbacks: 5,
        starts: 5,
        loads: 5,
        load_side: 16_384,
        journal_records: 10_000_000,
    };
    /// To see that everything works.
    pub const QUICK: Self = Self {
        rounds: 3,
        round: Duration::from_millis(200),
        swaps: 50,
        spawns: 3,
        rollbacks: 1,
        starts: 1,
        loads: 1,
        load_side: 4096,
        journal_records: 300_000,
    };
}

/// Runs these benchmarks one after the other, and says on standard error what it does. One that cannot be measured is a
/// line that says why; a floor that is missed is another.
pub fn run(settings: &Settings, effort: &Effort, parts: &[Part]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut stage = None;
    for part in Part::ALL.into_iter().filter(|part| parts.contains(part)) {
        eprintln!("bench: {part:?}");
        if !part.needs_daemon() {
            // It would be measured too.
            stage = None;
        }
        match measure(part, settings, effort, &mut stage) {
            Ok(found) => lines.extend(found),
            Err(error) => lines.push(Line::failed("not measured", format!("{part:?}"), format!("{error:#}"))),
        }
    }
    lines
}

fn measure(part: Part, settings: &Settings, effort: &Effort, stage: &mut Option<Stage>) -> Result<Vec<Line>> {
    if part.needs_daemon() && stage.is_none() {
        *stage = Some(live(settings)?);
    }
    let stage = || stage.as_ref().context("no daemon was started");
    match part {
        Part::Peers => peers::measure(settings, stage()?, effort),
        Part::Memory => footprint::memory(stage()?),
        Part::Rollback => reaction::measure(stage()?, effort),
        Part::Router => router::measure(stage()?, effort),
        Part::Kernel => in_cells(settings, |place| kernel::measure(place, effort)),
        Part::Reuseport => apart(CELLS, |remains| reuseport::measure(settings, remains, effort)),
        Part::Split => in_cells(settings, |place| split::measure(place, effort)),
        Part::Pin => in_cells(settings, |place| pin::measure(place, effort)),
        Part::Attack => apart(CELLS, |remains| attack::measure(settings, remains, effort)),
        Part::Load => load::measure(settings, effort),
        Part::Swap => swap::measure(effort),
        Part::Spawn => in_cells(settings, |place| spawn::measure(place, effort)),
        Part::Start => footprint::start(settings, effort),
        Part::Journal => journal::measure(effort),
    }
}

fn live(settings: &Settings) -> Result<Stage> {
    let stage = Stage::set(settings, &[FIRST, "errors"])?;
    stage.go_live().with_context(|| stage.instance.log_end())?;
    Ok(stage)
}

fn in_cells(
    settings: &Settings,
    work: impl FnOnce(&Place<'_>) -> Result<Vec<Line>> + Send,
) -> Result<Vec<Line>> {
    apart(CELLS, |remains| work(&Place::open(remains, &settings.programs, &settings.onnxruntime)?))
}
