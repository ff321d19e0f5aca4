//! Cells that come up behind the others: for a time that was asked for, the kernel gives them the CPU time that nobody
//! beside them wants. It ends by itself.

use super::{Cells, CellsError, Entry};
use std::io::{self, Write};
use std::time::{Duration, Instant};
use turnout_launcher_wire::{Class, Reply};

impl Cells {
    /// Puts a cell behind the others for so long, or no longer. Where nothing can hold it there, nothing changes.
    ///
    /// # Errors
    /// [`CellsError::NoCell`], [`CellsError::Cgroup`].
    pub fn background(&mut self, generation: u32, time: Duration) -> Result<Reply, CellsError> {
        let can_hold = self.hierarchy.controllers().cpu;
        let entry = self.cells.get_mut(&generation).ok_or(CellsError::NoCell)?;
        // Making a cgroup idle would take its weight from it; one with CPUs of its own is in nobody's way.
        if can_hold && entry.profile.class == Class::Burstable {
            entry.put_behind((!time.is_zero()).then(|| Instant::now() + time))?;
        }
        Ok(Reply::Done)
    }

    /// How long until the first of them is behind the others no longer.
    pub fn background_left(&self) -> Option<Duration> {
        let first = self.cells.values().filter_map(|entry| entry.behind_until).min();
        first.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Ends it for those whose time is over. A cgroup that refuses is asked once: it goes with its cell.
    pub fn end_backgrounds(&mut self) {
        let now = Instant::now();
        let is_over = |entry: &&mut Entry| entry.behind_until.is_some_and(|until| until <= now);
        for entry in self.cells.values_mut().filter(is_over) {
            if let Err(error) = entry.put_behind(None) {
                // A log that takes no more is no reason to end.
                let _ = writeln!(io::stderr(), "turnout-launcher: a cell stays behind the others: {error}");
                entry.behind_until = None;
            }
        }
    }
}

impl Entry {
    fn put_behind(&mut self, until: Option<Instant>) -> Result<(), CellsError> {
        if until.is_some() != self.behind_until.is_some() {
            self.group.set_idle(until.is_some())?;
        }
        self.behind_until = until;
        Ok(())
    }
}
