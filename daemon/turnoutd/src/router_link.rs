//! The link to the router: what it says becomes counts and events, what the daemon has to say goes out and is waited for.
//! One thread waits on its link and its pidfd, as for each worker.

use crate::supervise::{Sink, attend, kept};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use turnout_engine::Event;
use turnout_host::Host;
use turnout_protocol::frame::{self, FrameError};
use turnout_protocol::router::{FromRouter, LINK_VERSION, PortRoute, Stats, ToRouter};

/// How long the router may take to put routes in force.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// What the daemon can ask of the router. The second implementation, in tests, needs no process.
pub trait RouterLink: Send + Sync {
    /// Begins to listen to the running router. Repeating it is no error.
    ///
    /// # Errors
    /// Why there is no link, for people.
    fn supervise(&self) -> Result<(), String>;

    /// Whether a router runs and is listened to.
    fn is_linked(&self) -> bool;

    /// Tells the router where requests go, and waits until every new one does.
    ///
    /// # Errors
    /// Why they are not in force, or it is not known, for people.
    fn tell(&self, routes: &[PortRoute]) -> Result<(), String>;

    /// The router's own running totals, `None` when none runs.
    fn stats(&self) -> Option<Stats>;
}

/// What the router has said.
#[derive(Default)]
struct Known {
    link: Option<Arc<OwnedFd>>,
    stats: Stats,
    /// The last answer: a revision, and why it was refused if it was.
    answer: Option<(u64, Option<String>)>,
}

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known());
        self.changed.notify_all();
    }
}

/// The link to the real router.
pub struct LinkedRouter {
    host: Arc<dyn Host>,
    events: Sink,
    shared: Arc<Shared>,
    /// Begins at the clock: an answer to an earlier daemon must not pass for one to this.
    revision: AtomicU64,
}

impl LinkedRouter {
    /// The link is taken from the host, events go to the sink.
    pub fn new(host: Arc<dyn Host>, events: Sink) -> Self {
        Self { host, events, shared: Arc::default(), revision: AtomicU64::new(crate::now_ms() * 1000) }
    }

    fn await_answer(&self, revision: u64) -> Result<(), String> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        let mut known = self.shared.known();
        loop {
            match &known.answer {
                Some((answered, None)) if *answered == revision => return Ok(()),
                Some((answered, Some(why))) if *answered == revision => {
                    return Err(format!("the router refused its routes: {why}"));
                }
                _ if known.link.is_none() => return Err("the router died".to_owned()),
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the router did not answer within {} s", ANSWER_DEADLINE.as_secs()));
            }
            let waited = self.shared.changed.wait_timeout(known, left);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl RouterLink for LinkedRouter {
    fn supervise(&self) -> Result<(), String> {
        let mut known = self.shared.known();
        if known.link.is_some() {
            return Ok(());
        }
        let found = self.host.router_link().map_err(|error| crate::chain(&error))?;
        let Some(found) = found else { return Err("the router does not run".to_owned()) };
        rustix::io::ioctl_fionbio(&found.link, true)
            .map_err(|error| format!("link to the router: {error}"))?;
        let link = Arc::new(found.link);
        let listener = Listener {
            link: Arc::clone(&link),
            pidfd: found.pidfd,
            host: Arc::clone(&self.host),
            events: Arc::clone(&self.events),
            shared: Arc::clone(&self.shared),
        };
        let spawned = std::thread::Builder::new().name("link-router".into()).spawn(move || listener.run());
        spawned.map_err(|error| format!("thread for the router: {error}"))?;
        *known = Known { link: Some(link), ..Known::default() };
        Ok(())
    }

    fn is_linked(&self) -> bool {
        self.shared.known().link.is_some()
    }

    fn tell(&self, routes: &[PortRoute]) -> Result<(), String> {
        let link = self.shared.known().link.clone().ok_or("the router does not run")?;
        let revision = self.revision.fetch_add(1, Ordering::Relaxed);
        let message = ToRouter::Routes { revision, routes: routes.to_vec() };
        frame::send(&link, &message).map_err(|error| format!("link to the router: {error}"))?;
        self.await_answer(revision)
    }

    fn stats(&self) -> Option<Stats> {
        let known = self.shared.known();
        known.link.as_ref().map(|_| known.stats)
    }
}

/// The thread behind the link.
struct Listener {
    link: Arc<OwnedFd>,
    pidfd: OwnedFd,
    host: Arc<dyn Host>,
    events: Sink,
    shared: Arc<Shared>,
}

impl Listener {
    fn run(self) {
        attend(&self.link, &self.pidfd, || self.hear());
        self.shared.update(|known| known.link = None);
        (self.events)(Event::RouterDied { why: "its process ended".to_owned() });
    }

    /// Takes one message. False when the link says nothing more.
    fn hear(&self) -> bool {
        match frame::receive::<FromRouter>(&self.link) {
            Ok(FromRouter::Hello { link_version }) if link_version != LINK_VERSION => {
                self.give_up(&format!("it speaks link version {link_version}, not {LINK_VERSION}"));
            }
            Ok(FromRouter::Hello { .. }) => {}
            Ok(FromRouter::InForce { revision }) => {
                self.shared.update(|known| known.answer = Some((revision, None)));
            }
            Ok(FromRouter::Refused { revision, reason }) => {
                self.shared.update(|known| known.answer = Some((revision, Some(kept(&reason)))));
            }
            Ok(FromRouter::Stats(stats)) => self.shared.update(|known| known.stats = stats),
            Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(FrameError::Closed | FrameError::Io(_)) => return false,
            Err(error @ (FrameError::Language(_) | FrameError::TooLarge(_))) => {
                self.give_up(&format!("it sent no message of the link: {error}"));
            }
        }
        true
    }

    /// A router that is not understood is ended: its end, which the pidfd tells, sends traffic home.
    fn give_up(&self, why: &str) {
        tracing::error!("the router is ended: {why}");
        if let Err(error) = self.host.kill_router() {
            tracing::error!("{}", crate::chain(&error));
        }
    }
}
