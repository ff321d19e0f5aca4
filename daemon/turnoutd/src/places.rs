//! Who may be connected to the control socket at one time, and what those are told for whom there is no place. Root has
//! places of its own and nobody else can have all of the others, so that no user keeps another one out.

use crate::handlers::problem;
use axum::http::StatusCode;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use turnout_protocol::error::ErrorCode;

/// Connections of root, which nobody else can take.
pub const ROOT_MAX: usize = 64;
/// Connections of everybody else together.
pub const OTHERS_MAX: usize = 128;
/// Connections of one of them.
pub const USER_MAX: usize = 32;

/// How often refusals are logged at most.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long a refusal waits for the request: some clients take an answer that is there before it for a broken connection.
const REQUEST_WAIT: Duration = Duration::from_millis(100);
/// Refusals that may wait at one time; all others are given at once.
const WAITING_MAX: usize = 32;
/// Bytes of a request that are taken off the connection before it is closed, as its client would read a reset otherwise.
const UNREAD_MAX: usize = 16 << 10;

/// All places at the door.
#[derive(Debug, Clone, Default)]
pub struct Places(Arc<Mutex<BTreeMap<u32, usize>>>);

/// One connection's place, free again once it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Places,
    uid: u32,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Root has all of its own.
    Root,
    /// This user has as many as one may have.
    User(u32),
    /// All users but root have as many as they may have together.
    Others,
}

impl Places {
    /// Takes a place for this user.
    ///
    /// # Errors
    /// [`Full`] when there is none; nobody is waited for.
    pub fn take(&self, uid: u32) -> Result<Place, Full> {
        let mut held = self.held();
        let own = held.get(&uid).copied().unwrap_or(0);
        let others: usize = held.iter().filter(|(uid, _)| **uid != 0).map(|(_, count)| count).sum();
        match uid {
            0 if own >= ROOT_MAX => return Err(Full::Root),
            0 => {}
            uid if own >= USER_MAX => return Err(Full::User(uid)),
            _ if others >= OTHERS_MAX => return Err(Full::Others),
            _ => {}
        }
        held.insert(uid, own + 1);
        Ok(Place { places: self.clone(), uid })
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u32, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        match held.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.uid)),
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => write!(out, "root has {ROOT_MAX} connections open, the most it may have"),
            Self::User(uid) => {
                write!(out, "uid {uid} has {USER_MAX} connections open, the most one may have")
            }
            Self::Others => write!(out, "all users but root have {OTHERS_MAX} connections open, the most"),
        }
    }
}

impl Full {
    /// The whole answer, as every other refusal looks.
    fn answer(self) -> String {
        let hint = match self {
            Self::Root | Self::User(_) => "end some of them: each that follows events or a log holds one",
            Self::Others => "try again later, or as root, which has connections of its own",
        };
        let refused = problem(ErrorCode::Limit, self.to_string()).hint(hint);
        let body = serde_json::to_string(&refused).expect("wire types serialize");
        let status = refused.code.http_status();
        let known = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        format!(
            "HTTP/1.1 {status} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
             server: {}\r\nconnection: close\r\n\r\n{body}",
            known.unwrap_or_default(),
            body.len(),
            crate::api::SERVER
        )
    }
}

/// Tells those who got no place, and the log.
#[derive(Debug)]
pub struct Refusals {
    waiting: Arc<Semaphore>,
    told: Told,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { waiting: Arc::new(Semaphore::new(WAITING_MAX)), told: Told::default() }
    }
}

impl Refusals {
    /// Answers on a connection that got no place and closes it. Never waits itself.
    pub fn refuse(&mut self, stream: UnixStream, full: Full) {
        if let Some(count) = self.told.count(Instant::now()) {
            tracing::warn!("control socket: {count} connections refused, the last because {full}");
        }
        let answer = full.answer();
        match Arc::clone(&self.waiting).try_acquire_owned() {
            Ok(waiting) => {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REQUEST_WAIT, stream.readable()).await;
                    let _ = stream.try_read(&mut vec![0; UNREAD_MAX]);
                    answer_and_close(stream, &answer);
                    drop(waiting);
                });
            }
            Err(_) => answer_and_close(stream, &answer),
        }
    }
}

/// One write that does not wait: into a fresh socket it fits.
fn answer_and_close(stream: UnixStream, answer: &str) {
    // tokio's own would first wait until the kernel has said that the socket takes something.
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(answer.as_bytes());
    }
}

/// When the log was told last, and of how many it was not: whoever is refused may come as often as they like.
#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    since: u64,
}

impl Told {
    /// Counts one; gives how many are to be told now.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < TELL_EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(places: &Places, uid: u32) -> (Vec<Place>, Full) {
        let mut taken = Vec::new();
        loop {
            match places.take(uid) {
                Ok(place) => taken.push(place),
                Err(full) => return (taken, full),
            }
        }
    }

    #[test]
    fn each_user_has_a_limit_the_others_one_together_and_root_its_own() {
        let places = Places::default();
        let mut all = Vec::new();
        for uid in [1, 2, 3, 4] {
            let (taken, full) = take_all(&places, uid);
            assert_eq!((taken.len(), full), (USER_MAX, Full::User(uid)));
            all.push(taken);
        }
        assert_eq!(places.take(5).unwrap_err(), Full::Others);
        let (root, full) = take_all(&places, 0);
        assert_eq!((root.len(), full), (ROOT_MAX, Full::Root));
        all[0].pop();
        let freed = places.take(5).unwrap();
        assert_eq!(places.take(1).unwrap_err(), Full::Others, "another one has it now");
        drop((freed, all, root));
        assert!(places.held().is_empty(), "nothing is kept of who left");
    }

    #[test]
    fn refusals_are_logged_at_most_once_in_a_period_and_all_are_counted() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert_eq!(told.count(now), Some(1));
        assert!((0..100).all(|_| told.count(now + TELL_EVERY / 2).is_none()));
        assert_eq!(told.count(now + TELL_EVERY), Some(101));
    }
}
