//! What the workers say, passed on as it comes.

use super::{Cells, Process};
use crate::relay::Output;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use turnout_launcher_wire::ROUTER_CELL;

/// Who says it, as its lines begin.
pub(super) fn name(generation: u32) -> String {
    if generation == ROUTER_CELL { "router".to_owned() } else { format!("generation {generation}") }
}

impl Cells {
    /// What becomes readable when a worker says something, where that may be read by now.
    pub fn outputs(&self, now: Instant) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.running().filter_map(move |output| output.due(now))
    }

    /// How long until the next of the others may be read.
    pub fn output_left(&self, now: Instant) -> Option<Duration> {
        self.running().filter_map(|output| output.due_at(now)).min().map(|from| from - now)
    }

    /// Passes on what workers have said.
    pub fn pass_on(&mut self) {
        for entry in self.cells.values_mut() {
            if let Process::Running { output, .. } = &mut entry.process {
                output.pass_on();
            }
        }
    }

    fn running(&self) -> impl Iterator<Item = &Output> {
        self.cells.values().filter_map(|entry| match &entry.process {
            Process::Running { output, .. } => Some(output),
            Process::Not(_) => None,
        })
    }
}
