//! What the loop does while the journal is written on its reserve: it ends what is under way and begins nothing. What
//! may be written then is the engine's to say.

use super::{Denial, Driver};
use crate::chain;
use turnout_engine::{Entry, Event, LogRecord, Record, Release, Window, decide, reserve};
use turnout_manifest::AuditContext;

/// Why nothing new is begun.
pub const FULL: &str = "journal: its disk is full; what is under way can be ended and rolled back";

impl Driver {
    /// Decides a wish, unless it would begin something.
    pub(super) fn grant(&mut self, wish: &Event, asked: Option<AuditContext>) -> Result<(), Denial> {
        if self.is_full() && !reserve::may_grant(wish) {
            return Err(Denial::ReadOnly(FULL.to_owned()));
        }
        self.decide(wish, asked)
    }

    /// Takes in a window that was measured, unless it is not worth the reserve.
    pub(super) fn judge(&mut self, release: &Release, window: Window) {
        let measured = Event::Measured { release: release.planned.release, window: Box::new(window) };
        let led_to = decide(&self.parts.world, &measured).unwrap_or_default();
        if !self.on_reserve || reserve::may_observe(release, &led_to) {
            let _ = self.write(led_to, None);
        }
    }

    /// Writes a record that stands for itself, unless it announces something.
    pub(super) fn note(&mut self, Entry { record, audit_context }: Entry) -> Result<(), Denial> {
        if self.is_full() && !reserve::may_note(&record) {
            return Err(Denial::ReadOnly(FULL.to_owned()));
        }
        self.write(vec![record], audit_context)
    }

    /// Whether there is still no room, now that somebody asks.
    fn is_full(&mut self) -> bool {
        if self.on_reserve {
            self.look_for_room();
        }
        self.on_reserve
    }

    /// Writes down when the reserve is given up, and when there is one again.
    pub(super) fn note_reserve(&mut self) {
        let on_reserve = self.parts.journal.is_on_reserve();
        if on_reserve != self.on_reserve {
            self.on_reserve = on_reserve;
            let record = if on_reserve { LogRecord::ReserveSpent } else { LogRecord::ReserveRestored };
            let _ = self.write(vec![Record::Log(record)], None);
        }
    }

    /// Tries to keep space for the last records again.
    pub(super) fn look_for_room(&mut self) {
        match self.parts.journal.restore_reserve() {
            Ok(_) => {
                self.failing.keep(|_| false);
                self.note_reserve();
            }
            // Asked each second while there is no room.
            Err(error) => self.failing.say("no reserve for the journal", &chain(&error)),
        }
    }

    /// Why changes are refused, if they are.
    pub(super) fn why_refusing(&self) -> Option<String> {
        self.read_only.clone().or_else(|| self.on_reserve.then(|| FULL.to_owned()))
    }
}
