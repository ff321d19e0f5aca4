//! How often a worker may speak: an honest one sends its counts twenty times in a second, a hostile one as often as it can.

use std::time::{Duration, Instant};

/// Most messages a worker may send in one second.
pub const MESSAGES_PER_SECOND: u32 = 200;
const SECOND: Duration = Duration::from_secs(1);

/// Counts one worker's messages, second by second.
#[derive(Debug, Default)]
pub struct Pace {
    second: Option<Instant>,
    messages: u32,
}

impl Pace {
    /// Counts a message. False when it is one too many.
    pub fn allows(&mut self, now: Instant) -> bool {
        let begun = *self.second.get_or_insert(now);
        if now.duration_since(begun) >= SECOND {
            *self = Self { second: Some(now), messages: 0 };
        }
        self.messages += 1;
        self.messages <= MESSAGES_PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_worker_is_never_stopped_and_a_flood_is_at_once() {
        let begun = Instant::now();
        let mut honest = Pace::default();
        assert!((0..2000).all(|number| honest.allows(begun + number * Duration::from_millis(50))));
        let mut flood = Pace::default();
        let taken =
            (0..1000).take_while(|number| flood.allows(begun + Duration::from_micros(*number))).count();
        assert_eq!(taken, MESSAGES_PER_SECOND as usize);
    }

    #[test]
    fn each_second_begins_anew() {
        let begun = Instant::now();
        let mut pace = Pace::default();
        for second in 0..3 {
            let now = begun + second * SECOND;
            assert!((0..MESSAGES_PER_SECOND).all(|_| pace.allows(now)));
        }
        assert!(!pace.allows(begun + 2 * SECOND));
    }
}
