//! What the main thread and the serving threads share: orders one way, counts the other.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use turnout_protocol::worker::Counts;

/// No limit on the age of connections.
const NO_LIMIT: u64 = u64::MAX;

/// Orders to the serving threads and their counts.
pub struct State {
    connection_life_ms: AtomicU64,
    /// Once set: how long an idle connection is left open.
    drain: watch::Sender<Option<Duration>>,
    is_draining: AtomicBool,
    requests: AtomicU64,
    contract_refusals: AtomicU64,
    assertion_failures: AtomicU64,
    run_failures: AtomicU64,
    /// The main thread has been told of a change since it last read the counts.
    changed: AtomicBool,
    serving_threads: AtomicUsize,
    a_thread_failed: AtomicBool,
    /// Wakes the main thread.
    wake: OwnedFd,
}

/// How one inference request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer was sent.
    Answered,
    /// The request broke the contract.
    Refused,
    /// The answer was withheld.
    Withheld,
    /// The model or its runtime failed.
    Failed,
}

impl State {
    /// Nothing ordered, nothing counted.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            connection_life_ms: AtomicU64::new(NO_LIMIT),
            drain: watch::Sender::new(None),
            is_draining: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            contract_refusals: AtomicU64::new(0),
            assertion_failures: AtomicU64::new(0),
            run_failures: AtomicU64::new(0),
            changed: AtomicBool::new(false),
            serving_threads: AtomicUsize::new(0),
            a_thread_failed: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Limits the age of connections, or lifts the limit.
    pub fn limit_connection_life(&self, milliseconds: Option<u64>) {
        self.connection_life_ms.store(milliseconds.unwrap_or(NO_LIMIT), Ordering::Relaxed);
    }

    /// Orders the serving threads to end.
    pub fn order_drain(&self, idle: Duration) {
        self.is_draining.store(true, Ordering::Release);
        self.drain.send_replace(Some(idle));
    }

    /// Follows the order to end.
    pub fn follow_drain(&self) -> watch::Receiver<Option<Duration>> {
        self.drain.subscribe()
    }

    /// The worker is on its way out.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// A connection of this age gets no further request after the one under way.
    pub fn is_last_answer(&self, age: Duration) -> bool {
        age.as_millis() as u64 >= self.connection_life_ms.load(Ordering::Relaxed) || self.is_draining()
    }

    /// Counts one inference request, and wakes the main thread unless it knows of a change already.
    pub fn count(&self, outcome: Outcome) {
        let kind = match outcome {
            Outcome::Answered => None,
            Outcome::Refused => Some(&self.contract_refusals),
            Outcome::Withheld => Some(&self.assertion_failures),
            Outcome::Failed => Some(&self.run_failures),
        };
        if let Some(kind) = kind {
            kind.fetch_add(1, Ordering::Relaxed);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        if !self.changed.load(Ordering::Relaxed) && !self.changed.swap(true, Ordering::AcqRel) {
            self.wake_main_thread();
        }
    }

    /// The totals; a change after this wakes the main thread again.
    pub fn take_counts(&self) -> Counts {
        self.changed.swap(false, Ordering::AcqRel);
        Counts {
            requests: self.requests.load(Ordering::Relaxed),
            contract_refusals: self.contract_refusals.load(Ordering::Relaxed),
            assertion_failures: self.assertion_failures.load(Ordering::Relaxed),
            run_failures: self.run_failures.load(Ordering::Relaxed),
        }
    }

    /// Counts a serving thread until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> ThreadGuard {
        self.serving_threads.fetch_add(1, Ordering::AcqRel);
        ThreadGuard(Arc::clone(self))
    }

    /// No serving thread is left.
    pub fn is_over(&self) -> bool {
        self.serving_threads.load(Ordering::Acquire) == 0
    }

    /// A serving thread ended without having been told to.
    pub fn a_thread_failed(&self) -> bool {
        self.a_thread_failed.load(Ordering::Acquire)
    }

    /// Readable when there is something new for the main thread.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes [`State::wake`] unreadable again.
    pub fn clear_wake(&self) {
        let mut count = [0; 8];
        // Nothing to read is fine: that is the state asked for.
        let _ = rustix::io::read(&self.wake, &mut count);
    }

    /// Has the main thread look what is new.
    pub fn wake_main_thread(&self) {
        // Fails only when the counter is full, and then the main thread is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// One serving thread, as long as it lives.
pub struct ThreadGuard(Arc<State>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if !self.0.is_draining() || std::thread::panicking() {
            self.0.a_thread_failed.store(true, Ordering::Release);
        }
        self.0.serving_threads.fetch_sub(1, Ordering::AcqRel);
        self.0.wake_main_thread();
    }
}
