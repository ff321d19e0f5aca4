//! Links to the workers: what they say becomes events, what the daemon has to say goes out. One thread a worker waits
//! on its link and its pidfd; a worker that lies can only end its own release.

use crate::pace::{MESSAGES_PER_SECOND, Pace};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use turnout_engine::Event;
use turnout_host::Host;
use turnout_host::cells::WorkerState;
use turnout_manifest::{Generation, Sha256};
use turnout_protocol::frame::{self, FrameError};
use turnout_protocol::worker::{Assignment, Counts, FromWorker, LINK_VERSION, ToWorker};

/// Longest reason of a worker that is kept, in characters: it goes into the journal.
const REASON_MAX: usize = 1000;
/// Workers that have ended of which the last words are kept.
const ENDED_KEPT: usize = 64;

/// What the daemon can ask of workers. The second implementation, in tests, needs no process.
pub trait Workers: Send + Sync {
    /// Begins to listen to a running worker. Repeating it is no error.
    ///
    /// # Errors
    /// Why there is no link, for people.
    fn supervise(&self, generation: Generation) -> Result<(), String>;

    /// Tells a worker what to serve. A worker that serves it already says so again.
    ///
    /// # Errors
    /// Why it could not be told, for people.
    fn assign(&self, generation: Generation, assignment: &Assignment) -> Result<(), String>;

    /// Has a worker that serves load another version beside that, out of what is mounted for it now. Its answer becomes
    /// [`Event::Loaded`].
    ///
    /// # Errors
    /// Why it could not be told, for people.
    fn load(&self, generation: Generation, assignment: &Assignment) -> Result<(), String>;

    /// Has a worker answer by a version that it has loaded, and waits until it does, at most for so long.
    ///
    /// # Errors
    /// Why it does not, for people.
    fn switch(&self, generation: Generation, digest: Sha256, limit: Duration) -> Result<(), String>;

    /// Has a worker let go of what it does not answer by.
    fn unload(&self, generation: Generation);

    /// Bounds the life of a worker's connections, or lifts the bound.
    fn connection_life(&self, generation: Generation, life: Option<Duration>);

    /// Lets a worker finish: connections close with their next answer, or when idle for this long.
    fn drain(&self, generation: Generation, idle: Duration);

    /// From now on its end is expected and no event.
    fn expect_end(&self, generation: Generation);

    /// Waits until the worker has ended. False when the time is over first.
    fn ended_within(&self, generation: Generation, limit: Duration) -> bool;

    /// The worker's own running totals; `None` of one that was taken over and has not said them yet.
    fn counts(&self, generation: Generation) -> Option<Counts>;
}

/// Where a worker is, as its link and pidfd tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    counts: Option<Counts>,
    /// What it said of the last change of version: the digest that was asked for, and why not where it was not done.
    switched: Option<(Sha256, Result<(), String>)>,
    end_expected: bool,
    ended: bool,
}

struct Line {
    /// Open as long as the worker runs.
    link: Option<Arc<OwnedFd>>,
    known: Known,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<BTreeMap<Generation, Line>>,
    changed: Condvar,
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, BTreeMap<Generation, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a line in, and forgets the oldest of those whose worker has ended: nobody asks for more than the last.
    fn take(&self, generation: Generation, line: Line) {
        let mut lines = self.lines();
        lines.insert(generation, line);
        let ended = lines.iter().filter(|(_, line)| line.known.ended).map(|(generation, _)| *generation);
        let ended: Vec<Generation> = ended.collect();
        for oldest in ended.iter().take(ended.len().saturating_sub(ENDED_KEPT)) {
            lines.remove(oldest);
        }
    }

    fn update(&self, generation: Generation, change: impl FnOnce(&mut Known)) {
        if let Some(line) = self.lines().get_mut(&generation) {
            change(&mut line.known);
        }
        self.changed.notify_all();
    }
}

/// Where events go.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// Links to real workers.
pub struct LinkedWorkers {
    host: Arc<dyn Host>,
    events: Sink,
    shared: Arc<Shared>,
}

impl LinkedWorkers {
    /// Links are taken from the host, events go to the sink.
    pub fn new(host: Arc<dyn Host>, events: Sink) -> Self {
        Self { host, events, shared: Arc::default() }
    }

    fn say(&self, generation: Generation, message: &ToWorker) -> Result<(), String> {
        let link = self.shared.lines().get(&generation).and_then(|line| line.link.clone());
        let link = link.ok_or_else(|| format!("no link to {generation}"))?;
        frame::send(&link, message).map_err(|error| format!("link to {generation}: {error}"))
    }
}

impl Workers for LinkedWorkers {
    fn supervise(&self, generation: Generation) -> Result<(), String> {
        if self.shared.lines().get(&generation).is_some_and(|line| !line.known.ended) {
            return Ok(());
        }
        let found = self.host.link(generation).map_err(|error| crate::chain(&error))?;
        let Some(found) = found else { return Err(format!("the worker of {generation} does not run")) };
        // A worker that does not read its link must not hold anybody up.
        rustix::io::ioctl_fionbio(&found.link, true)
            .map_err(|error| format!("link to {generation}: {error}"))?;
        let link = Arc::new(found.link);
        let line = Line { link: Some(Arc::clone(&link)), known: Known::default() };
        self.shared.take(generation, line);
        let listener = Listener {
            generation,
            link,
            pidfd: found.pidfd,
            host: Arc::clone(&self.host),
            events: Arc::clone(&self.events),
            shared: Arc::clone(&self.shared),
        };
        let spawned =
            std::thread::Builder::new().name(format!("link-{generation}")).spawn(move || listener.run());
        spawned.map(drop).map_err(|error| format!("thread for {generation}: {error}"))
    }

    fn assign(&self, generation: Generation, assignment: &Assignment) -> Result<(), String> {
        self.say(generation, &ToWorker::Assign(Box::new(assignment.clone())))
    }

    fn load(&self, generation: Generation, assignment: &Assignment) -> Result<(), String> {
        self.say(generation, &ToWorker::Load(Box::new(assignment.clone())))
    }

    fn switch(&self, generation: Generation, digest: Sha256, limit: Duration) -> Result<(), String> {
        self.shared.update(generation, |known| known.switched = None);
        self.say(generation, &ToWorker::Switch { digest })?;
        let deadline = Instant::now() + limit;
        let mut lines = self.shared.lines();
        loop {
            let Some(known) = lines.get(&generation).map(|line| &line.known).filter(|known| !known.ended)
            else {
                return Err(format!("the worker of {generation} has ended"));
            };
            if let Some((_, outcome)) = known.switched.as_ref().filter(|(answered, _)| *answered == digest) {
                return outcome.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the worker has not changed over within {} s", limit.as_secs()));
            }
            let waited = self.shared.changed.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn unload(&self, generation: Generation) {
        let _ = self.say(generation, &ToWorker::Unload);
    }

    fn connection_life(&self, generation: Generation, life: Option<Duration>) {
        let milliseconds = life.map(|life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        // A worker that cannot be told has died: its pidfd says so.
        let _ = self.say(generation, &ToWorker::ConnectionLife { milliseconds });
    }

    fn drain(&self, generation: Generation, idle: Duration) {
        let idle_ms = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        let _ = self.say(generation, &ToWorker::Drain { idle_ms });
    }

    fn expect_end(&self, generation: Generation) {
        self.shared.update(generation, |known| known.end_expected = true);
    }

    fn ended_within(&self, generation: Generation, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut lines = self.shared.lines();
        loop {
            if lines.get(&generation).is_none_or(|line| line.known.ended) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn counts(&self, generation: Generation) -> Option<Counts> {
        self.shared.lines().get(&generation).and_then(|line| line.known.counts)
    }
}

/// Hears a process until it has ended, and all that it had sent before. `hear` takes one message; it answers false when the
/// link says nothing more, or nothing that is listened to.
pub(crate) fn attend(link: &OwnedFd, pidfd: &OwnedFd, mut hear: impl FnMut() -> bool) {
    let mut linked = true;
    loop {
        let mut waited = vec![PollFd::new(pidfd, PollFlags::IN)];
        if linked {
            waited.push(PollFd::new(link, PollFlags::IN));
        }
        if poll(&mut waited, None).is_err() {
            continue;
        }
        let ended = !waited[0].revents().is_empty();
        let spoke = waited.get(1).is_some_and(|link| !link.revents().is_empty());
        if spoke {
            linked = hear();
        } else if ended {
            return;
        }
    }
}

/// The thread behind one link.
struct Listener {
    generation: Generation,
    link: Arc<OwnedFd>,
    pidfd: OwnedFd,
    host: Arc<dyn Host>,
    events: Sink,
    shared: Arc<Shared>,
}

impl Listener {
    fn run(self) {
        let mut pace = Pace::default();
        attend(&self.link, &self.pidfd, || match pace.allows(Instant::now()) {
            true => self.hear(),
            false => self.silence(),
        });
        self.end();
    }

    /// Takes one message. False when the link says nothing more.
    fn hear(&self) -> bool {
        match frame::receive::<FromWorker>(&self.link) {
            Ok(FromWorker::Hello { link_version }) if link_version != LINK_VERSION => {
                self.ready(Err(format!("worker speaks link version {link_version}, not {LINK_VERSION}")));
            }
            // It has counted nothing yet.
            Ok(FromWorker::Hello { .. }) => self.count(Counts::default()),
            Ok(FromWorker::Ready { load_ms }) => self.ready(Ok(format!("ready after {load_ms} ms"))),
            Ok(FromWorker::Failed { reason }) => self.ready(Err(kept(&reason))),
            Ok(FromWorker::Loaded { digest, load_ms }) => {
                self.loaded(digest, Ok(format!("loaded beside the old one after {load_ms} ms")));
            }
            Ok(FromWorker::LoadFailed { digest, reason }) => self.loaded(digest, Err(kept(&reason))),
            Ok(FromWorker::Switched { digest }) => self.switched(digest, Ok(())),
            Ok(FromWorker::SwitchFailed { digest, reason }) => self.switched(digest, Err(kept(&reason))),
            Ok(FromWorker::Counts(counts)) => self.count(counts),
            Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(FrameError::Closed | FrameError::Io(_)) => return false,
            Err(error @ (FrameError::Language(_) | FrameError::TooLarge(_))) => {
                self.ready(Err(format!("worker sent no message of the link: {error}")));
            }
        }
        true
    }

    fn count(&self, counts: Counts) {
        self.shared.update(self.generation, |known| known.counts = Some(counts));
    }

    /// A worker that floods its link is not heard any more. False, as after the link's end.
    fn silence(&self) -> bool {
        let why = format!("more than {MESSAGES_PER_SECOND} messages in a second");
        (self.events)(Event::Silenced { generation: self.generation, why });
        false
    }

    fn loaded(&self, digest: Sha256, outcome: Result<String, String>) {
        (self.events)(Event::Loaded { generation: self.generation, digest, outcome });
    }

    fn switched(&self, digest: Sha256, outcome: Result<(), String>) {
        self.shared.update(self.generation, |known| known.switched = Some((digest, outcome)));
    }

    fn ready(&self, outcome: Result<String, String>) {
        (self.events)(Event::Ready { generation: self.generation, outcome });
    }

    fn end(self) {
        let why = self.how_it_ended();
        let mut expected = false;
        if let Some(line) = self.shared.lines().get_mut(&self.generation) {
            line.link = None;
            line.known.ended = true;
            expected = line.known.end_expected;
        }
        self.shared.changed.notify_all();
        if !expected {
            (self.events)(Event::Died { generation: self.generation, why });
        }
    }

    fn how_it_ended(&self) -> String {
        let cells = self.host.cells().unwrap_or_default();
        match cells.into_iter().find(|(generation, _)| *generation == self.generation).map(|(_, state)| state)
        {
            Some(WorkerState::Exited(code)) => format!("exited with code {code}"),
            Some(WorkerState::Killed(signal)) => format!("killed by {}", signal_name(signal)),
            Some(WorkerState::Running | WorkerState::None) | None => "its process is gone".to_owned(),
        }
    }
}

/// The words of a worker or router, as long as a person reads and on one line.
pub(crate) fn kept(reason: &str) -> String {
    reason.chars().take(REASON_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The name of a signal, signal(7).
fn signal_name(number: u8) -> String {
    let name = match number {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}
