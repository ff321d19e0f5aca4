//! The version in force and the one beside it: loaded on a thread of its own, changed over to and back between two
//! requests, let go of. What a load or a change costs is paid beside the requests.

use crate::loaded::{Loaded, Loader};
use crate::state::State;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Instant;
use tokio::sync::watch;
use turnout_manifest::Sha256;
use turnout_protocol::worker::{Assignment, FromWorker};

/// Most messages that wait until the daemon reads; older ones are lost, and a daemon that misses one asks again.
const UNSAID_MAX: usize = 16;

/// What the serving threads answer by.
#[derive(Clone)]
pub struct InForce {
    /// Counts changes.
    ordinal: u64,
    /// The version.
    pub version: Arc<Loaded>,
}

/// Where the serving threads find what they answer by, and say that they have.
pub struct Board {
    in_force: watch::Sender<InForce>,
    /// The last change that each thread has followed.
    followed: Vec<AtomicU64>,
    state: Arc<State>,
}

impl Board {
    /// How many threads serve.
    pub fn threads(&self) -> usize {
        self.followed.len()
    }

    /// Follows the version in force.
    pub fn follow(&self) -> watch::Receiver<InForce> {
        self.in_force.subscribe()
    }

    /// The version in force.
    pub fn in_force(&self) -> InForce {
        self.in_force.borrow().clone()
    }

    /// A thread answers by this from now on.
    pub fn followed_by(&self, thread: usize, now: &InForce) {
        self.followed[thread].store(now.ordinal, Ordering::Release);
        self.state.wake_main_thread();
    }

    fn is_followed(&self) -> bool {
        let ordinal = self.in_force.borrow().ordinal;
        self.followed.iter().all(|followed| followed.load(Ordering::Acquire) == ordinal)
    }
}

/// A load under way.
struct Loading {
    assignment: Assignment,
    began: Instant,
    /// Nobody took it back in the meantime. One that was taken back may have met the files of two versions.
    is_wanted: bool,
    outcome: Receiver<Result<Loaded, String>>,
}

/// All versions of this process.
pub struct Versions {
    loader: Arc<Loader>,
    board: Arc<Board>,
    state: Arc<State>,
    beside: Option<Arc<Loaded>>,
    loading: Option<Loading>,
    /// To load once the load under way, which nobody wants any more, is over.
    next: Option<Assignment>,
    is_switching: bool,
    unsaid: VecDeque<FromWorker>,
}

impl Versions {
    /// Begins with this one in force.
    pub fn new(loader: Loader, version: Loaded, state: &Arc<State>) -> Self {
        let followed = (0..version.threads()).map(|_| AtomicU64::new(0)).collect();
        let in_force = watch::Sender::new(InForce { ordinal: 0, version: Arc::new(version) });
        Self {
            loader: Arc::new(loader),
            board: Arc::new(Board { in_force, followed, state: Arc::clone(state) }),
            state: Arc::clone(state),
            beside: None,
            loading: None,
            next: None,
            is_switching: false,
            unsaid: VecDeque::new(),
        }
    }

    /// Where the serving threads look.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Loads a version beside the one in force; says so once it is there, at once where it is there already.
    pub fn load(&mut self, assignment: Assignment) {
        let digest = assignment.digest;
        let beside = self.beside.as_ref().map(|beside| beside.digest);
        if beside == Some(digest) || self.board.in_force().version.digest == digest {
            return self.say(FromWorker::Loaded { digest, load_ms: 0 });
        }
        self.beside = None;
        match &mut self.loading {
            Some(loading) if loading.is_wanted && loading.assignment == assignment => {}
            Some(loading) => {
                loading.is_wanted = false;
                self.next = Some(assignment);
            }
            None => self.begin(assignment),
        }
    }

    /// Changes over to the version beside, which is then the one in force.
    pub fn switch(&mut self, digest: Sha256) {
        let now = self.board.in_force();
        if now.version.digest == digest {
            if !self.is_switching {
                self.say(FromWorker::Switched { digest });
            }
            return;
        }
        match self.beside.take_if(|beside| beside.digest == digest) {
            None => self.say(FromWorker::SwitchFailed { digest, reason: "it is not loaded".to_owned() }),
            Some(version) => {
                self.beside = Some(now.version);
                self.is_switching = true;
                self.board.in_force.send_replace(InForce { ordinal: now.ordinal + 1, version });
            }
        }
    }

    /// Lets go of what is not in force.
    pub fn unload(&mut self) {
        self.beside = None;
        self.next = None;
        if let Some(loading) = &mut self.loading {
            loading.is_wanted = false;
        }
    }

    /// Takes note of what has happened since.
    pub fn look(&mut self) {
        if self.is_switching && self.board.is_followed() {
            self.is_switching = false;
            self.say(FromWorker::Switched { digest: self.board.in_force().version.digest });
        }
        let outcome = match self.loading.as_ref().map(|loading| loading.outcome.try_recv()) {
            Some(Ok(outcome)) => outcome,
            Some(Err(TryRecvError::Disconnected)) => Err("the loading thread ended on its own".to_owned()),
            Some(Err(TryRecvError::Empty)) | None => return,
        };
        let Some(loading) = self.loading.take() else { return };
        if loading.is_wanted {
            self.loaded(&loading, outcome);
        }
        if let Some(next) = self.next.take() {
            self.begin(next);
        }
    }

    /// The oldest message that was not said yet.
    pub fn unsaid(&self) -> Option<&FromWorker> {
        self.unsaid.front()
    }

    /// That one was said.
    pub fn said(&mut self) {
        self.unsaid.pop_front();
    }

    fn say(&mut self, message: FromWorker) {
        if self.unsaid.len() == UNSAID_MAX {
            self.unsaid.pop_front();
        }
        self.unsaid.push_back(message);
    }

    fn loaded(&mut self, loading: &Loading, outcome: Result<Loaded, String>) {
        let digest = loading.assignment.digest;
        match outcome {
            Ok(version) => {
                self.beside = Some(Arc::new(version));
                let load_ms = loading.began.elapsed().as_millis() as u64;
                self.say(FromWorker::Loaded { digest, load_ms });
            }
            Err(reason) => self.say(FromWorker::LoadFailed { digest, reason }),
        }
    }

    fn begin(&mut self, assignment: Assignment) {
        let (sender, outcome) = channel();
        let (loader, wake) = (Arc::clone(&self.loader), Wake(Arc::clone(&self.state)));
        let (wanted, threads) = (assignment.clone(), self.board.threads());
        let body = move || {
            // Dropped last, also after a panic: the main thread then finds the outcome, or that there is none.
            let _wake = wake;
            let sender = sender;
            let loaded = loader.load(&wanted).map_err(|error| crate::with_causes(&error));
            let fits = loaded.and_then(|loaded| match loaded.threads() == threads {
                true => Ok(loaded),
                false => Err(format!("it asks for {} threads, this worker has {threads}", wanted.threads)),
            });
            let _ = sender.send(fits);
        };
        let digest = assignment.digest;
        match std::thread::Builder::new().name("load".to_owned()).spawn(body) {
            Ok(_) => {
                let began = Instant::now();
                self.loading = Some(Loading { assignment, began, is_wanted: true, outcome });
            }
            Err(error) => {
                let reason = format!("cannot start a thread to load it: {error}");
                self.say(FromWorker::LoadFailed { digest, reason });
            }
        }
    }
}

/// Wakes the main thread when it is dropped.
struct Wake(Arc<State>);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.wake_main_thread();
    }
}
