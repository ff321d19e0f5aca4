//! How much of the log is let through: whoever may ask can be refused as often as they like, and each refusal is a line.
//! Nothing is lost by it that counts: what was refused is in the journal, or how much of it was.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Lines that are let through in one period; as many again for errors, which no flood of others may hide.
const LINES: u32 = 1000;
/// The period.
const PERIOD: Duration = Duration::from_secs(10);

/// Lets so many lines through in each period.
#[derive(Debug)]
pub struct LogRate(Mutex<Budget>);

impl LogRate {
    /// A period that begins now.
    pub fn from_now() -> Self {
        Self(Mutex::new(Budget::new(Instant::now())))
    }
}

impl<S: Subscriber> Filter<S> for LogRate {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let mut budget = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = budget.take(*event.metadata().level(), Instant::now());
        drop(budget);
        if let Some(left_out) = taken.left_out {
            // Not through the log itself, which is asking.
            eprintln!(
                "{left_out} lines of the log were left out: more than {LINES} came in {} s",
                PERIOD.as_secs()
            );
        }
        taken.through
    }
}

/// What may still be told in a period.
#[derive(Debug)]
struct Budget {
    began: Instant,
    errors: u32,
    others: u32,
    left_out: u64,
}

/// What became of a line.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// It is let through.
    through: bool,
    /// Lines that the last period left out, once it is over.
    left_out: Option<u64>,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { began: now, errors: LINES, others: LINES, left_out: 0 }
    }

    fn take(&mut self, level: Level, now: Instant) -> Taken {
        let mut left_out = None;
        if now.saturating_duration_since(self.began) >= PERIOD {
            left_out = Some(self.left_out).filter(|lines| *lines > 0);
            *self = Self::new(now);
        }
        let left = if level == Level::ERROR { &mut self.errors } else { &mut self.others };
        let through = *left > 0;
        *left = left.saturating_sub(1);
        self.left_out += u64::from(!through);
        Taken { through, left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_off_said_and_hides_no_error() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let through = (0..LINES + 5).filter(|_| budget.take(Level::WARN, now).through).count();
        assert_eq!(through, LINES as usize);
        assert!(budget.take(Level::ERROR, now).through, "errors have lines of their own");
        let later = budget.take(Level::INFO, now + PERIOD);
        assert_eq!(later, Taken { through: true, left_out: Some(5) });
        assert_eq!(budget.take(Level::INFO, now + PERIOD * 2).left_out, None, "said once");
    }
}
