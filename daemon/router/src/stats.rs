//! What the router counts, shared by its threads.

use std::sync::atomic::{AtomicU64, Ordering};
use turnout_protocol::router::Stats;

/// Running totals.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicU64,
    to_candidate: AtomicU64,
    to_stable: AtomicU64,
    stood_in: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
}

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken to the candidate.
    ToCandidate,
    /// It was taken to the stable or only version.
    ToStable,
    /// It was the candidate's and was taken to the stable version.
    StoodIn,
    /// The router refused it.
    Refused,
    /// Its version did not answer.
    Unanswered,
}

impl Counters {
    /// Counts one.
    pub fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::ToCandidate => &self.to_candidate,
            Outcome::ToStable => &self.to_stable,
            Outcome::StoodIn => &self.stood_in,
            Outcome::Refused => &self.refused,
            Outcome::Unanswered => &self.unanswered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of a client began.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of a client ended.
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// As the daemon is told.
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: read(&self.connections),
            to_candidate: read(&self.to_candidate),
            to_stable: read(&self.to_stable),
            stood_in: read(&self.stood_in),
            refused: read(&self.refused),
            unanswered: read(&self.unanswered),
        }
    }
}
