//! Which denials are recorded: whoever lacks a right can ask for it as often as they like, and each record is on disk before
//! its answer. A few of each user are recorded in a minute; how many more there were is told once, when the next begins.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Denials of one user that are recorded in one minute.
pub const RECORDED_MAX: u32 = 20;
/// The minute, which begins with the first denial in it.
const PERIOD: Duration = Duration::from_secs(60);
/// Greatest number of users that are remembered.
const USERS_MAX: usize = 64;

/// The users who were denied something lately.
#[derive(Debug, Default)]
pub struct Denials {
    /// Whoever was denied the longest ago comes first.
    users: VecDeque<User>,
}

/// What one user was denied in their minute.
#[derive(Debug)]
struct User {
    uid: u32,
    began: Instant,
    recorded: u32,
    left_out: u64,
}

/// What becomes of a denial.
#[derive(Debug, PartialEq, Eq)]
pub struct Noted {
    /// It is recorded.
    pub recorded: bool,
    /// Denials that the last minute of this user left out, which is to be told first.
    pub left_out: u64,
}

impl Denials {
    /// Counts a denial.
    pub fn note(&mut self, uid: u32, now: Instant) -> Noted {
        let at = self.users.iter().position(|user| user.uid == uid);
        let known = at.and_then(|at| self.users.remove(at));
        let (mut user, left_out) = match known {
            Some(user) if now.saturating_duration_since(user.began) < PERIOD => (user, 0),
            over => (User::new(uid, now), over.map_or(0, |user| user.left_out)),
        };
        let recorded = user.recorded < RECORDED_MAX;
        user.recorded += u32::from(recorded);
        user.left_out += u64::from(!recorded);
        self.users.push_back(user);
        if self.users.len() > USERS_MAX {
            self.users.pop_front();
        }
        Noted { recorded, left_out }
    }
}

impl User {
    fn new(uid: u32, now: Instant) -> Self {
        Self { uid, began: now, recorded: 0, left_out: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: u32 = 1000;
    const RECORDED: Noted = Noted { recorded: true, left_out: 0 };
    const LEFT_OUT: Noted = Noted { recorded: false, left_out: 0 };

    fn flood(denials: &mut Denials, uid: u32, now: Instant, count: u32) -> usize {
        (0..count).filter(|_| denials.note(uid, now).recorded).count()
    }

    #[test]
    fn twenty_of_a_minute_are_recorded_and_the_rest_is_told_once_when_the_next_begins() {
        let now = Instant::now();
        let mut denials = Denials::default();
        assert_eq!(flood(&mut denials, UID, now, 20), 20);
        assert_eq!(denials.note(UID, now), LEFT_OUT);
        assert_eq!(denials.note(UID, now + PERIOD - Duration::from_nanos(1)), LEFT_OUT);
        assert_eq!(denials.note(UID, now + PERIOD), Noted { recorded: true, left_out: 2 });
        assert_eq!(flood(&mut denials, UID, now + PERIOD, 30), 19, "the new minute has twenty as well");
        assert_eq!(denials.note(UID, now + PERIOD * 90), Noted { recorded: true, left_out: 11 });
        assert_eq!(denials.note(UID, now + PERIOD * 91), RECORDED);
    }

    #[test]
    fn who_asks_now_and_then_is_always_recorded() {
        let now = Instant::now();
        let mut denials = Denials::default();
        for number in 0..1000 {
            assert_eq!(denials.note(UID, now + number * Duration::from_secs(3)), RECORDED, "{number}");
        }
    }

    #[test]
    fn nobody_uses_up_what_is_recorded_of_another() {
        let now = Instant::now();
        let mut denials = Denials::default();
        assert_eq!(flood(&mut denials, UID, now, 1000), 20);
        assert_eq!(flood(&mut denials, UID + 1, now, 1000), 20);
        let later = denials.note(UID + 2, now + PERIOD);
        assert_eq!(later, RECORDED, "nothing of others is told with it");
    }

    #[test]
    fn few_users_are_remembered_and_a_flood_is_not_forgotten_for_others() {
        let now = Instant::now();
        let mut denials = Denials::default();
        assert_eq!(flood(&mut denials, 0, now, 21), 20);
        assert_eq!(flood(&mut denials, 1, now, 21), 20);
        for uid in 2..1000 {
            assert_eq!(denials.note(uid, now), RECORDED);
            assert_eq!(denials.note(1, now), LEFT_OUT, "it comes with every other");
            assert!(denials.users.len() <= USERS_MAX);
        }
        assert_eq!(denials.note(0, now), RECORDED, "it was denied the longest ago, and is forgotten");
        assert_eq!(denials.note(1, now + PERIOD), Noted { recorded: true, left_out: 999 });
    }

    #[test]
    fn time_that_seems_to_run_back_begins_no_minute() {
        let now = Instant::now();
        let mut denials = Denials::default();
        assert_eq!(flood(&mut denials, UID, now + PERIOD, 21), 20);
        assert_eq!(denials.note(UID, now), LEFT_OUT);
    }
}
