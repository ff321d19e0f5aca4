//! What the loop has to do at a later time. A timer that no longer matters fires all the same: who takes it checks.

use std::time::{Duration, Instant};
use turnout_manifest::{Generation, ModelName, ReleaseId};

/// The longest wait without any timer.
const IDLE: Duration = Duration::from_secs(3600);

/// Something due at a later time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timer {
    /// Look at all versions for `status`.
    Look,
    /// A dead live worker is to be brought up again.
    Restart(ModelName),
    /// A worker should have been ready by now.
    ReadyDeadline(Generation),
    /// A window of the observation at this position of the release ends.
    WindowEnd(ReleaseId, u32),
}

/// The timers that are armed. There are a handful, so a list serves.
#[derive(Debug, Default)]
pub struct Timers(Vec<(Instant, Timer)>);

impl Timers {
    /// Arms a timer; one that is armed already is moved.
    pub fn arm(&mut self, timer: Timer, at: Instant) {
        self.0.retain(|(_, armed)| *armed != timer);
        self.0.push((at, timer));
    }

    /// How long until the next one.
    pub fn until_next(&self, now: Instant) -> Duration {
        self.0.iter().map(|(at, _)| at.saturating_duration_since(now)).min().unwrap_or(IDLE)
    }

    /// Takes out one that is due, the earliest first.
    pub fn due(&mut self, now: Instant) -> Option<Timer> {
        let earliest = self.0.iter().enumerate().min_by_key(|(_, (at, _))| *at)?;
        let (index, (at, _)) = earliest;
        (*at <= now).then(|| self.0.swap_remove(index).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_rearming_moves_them() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.arm(Timer::Look, now + Duration::from_secs(5));
        timers.arm(Timer::ReadyDeadline(Generation(1)), now + Duration::from_secs(1));
        timers.arm(Timer::Look, now);
        assert_eq!(timers.due(now), Some(Timer::Look));
        assert_eq!(timers.due(now), None);
        assert_eq!(timers.until_next(now), Duration::from_secs(1));
        assert_eq!(timers.due(now + Duration::from_secs(2)), Some(Timer::ReadyDeadline(Generation(1))));
        assert_eq!(timers.due(now + Duration::from_secs(9)), None);
    }
}
