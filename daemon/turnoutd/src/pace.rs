//! How often a worker may speak: an honest one sends its counts twenty times in a second, a hostile one as often as it can.

use std::time::{Duration, Instant};

/// Most messages that a worker may send in one second, in the long run.
pub const MESSAGES_PER_SECOND: u32 = 200;
/// Most messages that are taken at once: what lies on a link that was not read for a while, because the daemon was replaced
/// or held up, is no flood. A link holds about 280, for which `net.core.wmem_default` has room, and never twice as many.
pub const BACKLOG: u32 = 600;
/// What one message uses up of the time that is granted.
const EACH: Duration = Duration::from_nanos(1_000_000_000 / MESSAGES_PER_SECOND as u64);

/// Holds one worker's messages against the time that has passed.
#[derive(Debug, Default)]
pub struct Pace {
    /// When the messages so far would have come, one after the other.
    used_until: Option<Instant>,
}

impl Pace {
    /// Counts a message. False when it is one too many.
    pub fn allows(&mut self, now: Instant) -> bool {
        let used = self.used_until.map_or(now, |used| used.max(now)) + EACH;
        self.used_until = Some(used);
        used.duration_since(now) <= EACH * BACKLOG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many messages are taken, one after each pause.
    fn taken(pace: &mut Pace, from: Instant, count: u32, pause: Duration) -> u32 {
        let taken = (0..count).take_while(|number| pace.allows(from + *number * pause)).count();
        u32::try_from(taken).unwrap()
    }

    #[test]
    fn an_honest_worker_is_never_stopped_and_a_flood_is_at_once() {
        let begun = Instant::now();
        assert_eq!(taken(&mut Pace::default(), begun, 20_000, Duration::from_millis(50)), 20_000);
        let flood = taken(&mut Pace::default(), begun, 10_000, Duration::from_micros(1));
        assert!((BACKLOG..BACKLOG + 10).contains(&flood), "{flood}");
    }

    #[test]
    fn what_lay_on_the_link_while_nobody_read_it_is_no_flood() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        for restart in 0..5 {
            let now = begun + restart * Duration::from_secs(30);
            assert_eq!(taken(&mut pace, now, 550, Duration::ZERO), 550, "restart {restart}");
            assert_eq!(taken(&mut pace, now, 500, Duration::from_millis(50)), 500, "after restart {restart}");
        }
    }

    #[test]
    fn a_little_too_often_is_too_often_in_the_long_run() {
        let pause = EACH * 9 / 10;
        let taken = taken(&mut Pace::default(), Instant::now(), 20_000, pause);
        assert!((BACKLOG..11 * BACKLOG).contains(&taken), "{taken}");
    }
}
