//! Signs the journal's checkpoints with the host's key, keeps its tiles, and writes down what the clock does. A thread
//! beside the loop: what is due is decided in `Schedule` and `ClockWatch`, which see no clock of their own.

use crate::{chain, evidence};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use turnout_engine::log::ClockReason;
use turnout_engine::{ArchiveRecord, LogRecord, Record};
use turnout_host::clock::Reading;
use turnout_journal::{
    Checkpoint, Checkpoints, ECDSA, Journal, JournalError, Note, NoteKey, Signer, Tiles, check_signed,
};
use turnout_manifest::key::{PrivateKey, PublicKey};

/// What is signed last stands in this file of the state directory, outside of the journal's folder.
pub const MARK_FILE: &str = "journal-signed";
/// How often it is looked what is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Records are under a checkpoint after this time,
const SIGN_WITHIN: Duration = Duration::from_secs(60);
/// or when there are so many of them.
const SIGN_RECORDS: u64 = 10_000;
/// After so long without a record, one is written as a sign of life.
const IDLE: Duration = Duration::from_secs(3600);
/// The clock was set when it moved by so much more or less than the time that passed.
const STEP_MS: i64 = 500;

/// The journal's signer. Shared by the thread and by whoever asks for a checkpoint.
pub struct Notary {
    journal: Arc<Journal>,
    key: Arc<PrivateKey>,
    name: NoteKey,
    checkpoints: Mutex<Checkpoints>,
    bell: Mutex<Bell>,
    rung: Condvar,
}

/// What the thread was told.
#[derive(Default)]
struct Bell {
    now: bool,
    stop: bool,
}

impl Notary {
    /// Takes up the checkpoints of the journal in this state directory. [`check`] has looked at them before.
    ///
    /// # Errors
    /// [`JournalError`], when a file cannot be read or is none of ours.
    pub fn open(state: &Path, journal: Arc<Journal>, key: Arc<PrivateKey>) -> Result<Self, JournalError> {
        let checkpoints = Checkpoints::open(&state.join(evidence::JOURNAL_DIR), &state.join(MARK_FILE))?;
        let name = note_key(checkpoints.origin(), &key.public_key());
        let (checkpoints, bell, rung) = (Mutex::new(checkpoints), Mutex::default(), Condvar::new());
        Ok(Self { journal, key, name, checkpoints, bell, rung })
    }

    /// The key that signs, as verifiers of notes take it.
    pub fn key(&self) -> &NoteKey {
        &self.name
    }

    /// Signs what is in the journal now, unless that is signed already.
    ///
    /// # Errors
    /// [`JournalError`]; nothing was signed then.
    pub fn sign(&self) -> Result<Note, JournalError> {
        let mut checkpoints = lock(&self.checkpoints);
        let sign = |message: &[u8]| self.key.sign(message);
        checkpoints.sign(self.journal.head(), &Signer { key: &self.name, sign: &sign })
    }

    /// The checkpoint signed last if it has at least so many records, or else one of what is there now.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn covering(&self, records: u64) -> Result<Note, JournalError> {
        let newest = lock(&self.checkpoints).newest().cloned();
        let covers = |note: &Note| Checkpoint::unverified(note).is_ok_and(|it| it.head.size >= records);
        newest.filter(covers).map_or_else(|| self.sign(), Ok)
    }

    /// Number of records under the newest checkpoint beside the journal.
    pub fn covers(&self) -> u64 {
        let checkpoints = lock(&self.checkpoints);
        let newest = checkpoints.newest().and_then(|note| Checkpoint::unverified(note).ok());
        newest.map_or(0, |checkpoint| checkpoint.head.size)
    }

    /// Keeps a note of the checkpoint signed last that witnesses have signed too.
    ///
    /// # Errors
    /// [`JournalError`], for instance when a newer one was signed meanwhile.
    pub fn keep_cosigned(&self, note: &Note) -> Result<(), JournalError> {
        lock(&self.checkpoints).keep_cosigned(note)
    }

    /// Has the thread sign at once: a release begins, is promoted or ends.
    pub fn ring(&self) {
        lock(&self.bell).now = true;
        self.rung.notify_all();
    }

    /// Has the thread sign a last time and end.
    pub fn stop(&self) {
        lock(&self.bell).stop = true;
        self.rung.notify_all();
    }

    /// The thread. `clock` reads the clock, `write` has the loop write a record.
    pub fn run(&self, journal: &Path, clock: impl Fn() -> Option<Reading>, write: impl Fn(LogRecord)) {
        let mut watch = ClockWatch::default();
        let mut tiles =
            Tiles::open(journal).inspect_err(|error| tracing::error!("tiles: {}", chain(error))).ok();
        let mut tiled = false;
        let mut schedule = Schedule::new(Instant::now(), lock(&self.checkpoints).signed_size());
        loop {
            if let Some(record) = clock().and_then(|reading| watch.look(&reading)) {
                write(record);
            }
            let Bell { now, stop } = self.heard();
            let size = self.journal.size();
            match schedule.due(Instant::now(), size, now || stop) {
                Due::Nothing => {}
                Due::SignOfLife => {
                    if let Some(record) = clock().map(|reading| read_record(&reading, ClockReason::Idle, 0)) {
                        write(record);
                    }
                }
                Due::Sign => match self.sign() {
                    Ok(note) => {
                        schedule.signed(Instant::now(), size);
                        // The log is one more place that holds it.
                        let text = note.text().trim_end().replace('\n', " ");
                        tracing::info!("checkpoint signed: {text}");
                        tiled = false;
                    }
                    Err(error) => {
                        schedule.failed(Instant::now());
                        tracing::error!("the journal's checkpoint is not signed: {}", chain(&error));
                    }
                },
            }
            if stop {
                return;
            }
            if !tiled && let Some(making) = &mut tiles {
                match making.extend(self.journal.size()) {
                    Ok(all) => tiled = all,
                    Err(error) => {
                        // Proofs are made from the records then.
                        tracing::error!("tiles: {}", chain(&error));
                        tiles = None;
                    }
                }
            }
        }
    }

    /// What was told since the last time; waits for it, but not for long.
    fn heard(&self) -> Bell {
        let quiet = |bell: &mut Bell| !bell.now && !bell.stop;
        let waited = self.rung.wait_timeout_while(lock(&self.bell), LOOK_EVERY, quiet);
        let (mut bell, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut bell, Bell { now: false, stop: false })
    }
}

/// Nothing that is behind these locks is left half-way by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that the journal in this state directory is what this host has signed last, or goes on from it.
///
/// # Errors
/// [`JournalError`] that says what is missing or other.
pub fn check(state: &Path) -> Result<(), JournalError> {
    check_signed(&state.join(evidence::JOURNAL_DIR), &state.join(MARK_FILE))
}

/// The key under which a log's checkpoints are signed.
pub fn note_key(origin: &str, key: &PublicKey) -> NoteKey {
    NoteKey::new(origin, ECDSA, key.to_der()).expect("the origin of a log is a legal name")
}

/// Whether the journal is signed at once with this record: a release begins, is promoted or ends, or older records go.
pub fn turns(record: &Record) -> bool {
    matches!(
        record,
        Record::Planned(_)
            | Record::Promoted { .. }
            | Record::Ended { .. }
            | Record::Archive(ArchiveRecord::LogPruned { .. })
    )
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Sign,
    SignOfLife,
}

/// When a checkpoint is due.
struct Schedule {
    signed_size: u64,
    /// When it was last signed, or a sign of life was last asked for.
    since: Instant,
    /// When a record was first seen that no checkpoint has.
    written: Option<Instant>,
    not_before: Option<Instant>,
}

impl Schedule {
    fn new(now: Instant, signed_size: u64) -> Self {
        Self { signed_size, since: now, written: None, not_before: None }
    }

    fn due(&mut self, now: Instant, size: u64, asked: bool) -> Due {
        if size <= self.signed_size {
            if now.duration_since(self.since) < IDLE {
                return Due::Nothing;
            }
            // One is asked for; where it cannot be written, the next one is asked for in an hour.
            self.since = now;
            return Due::SignOfLife;
        }
        let written = *self.written.get_or_insert(now);
        let late = now.duration_since(written) >= SIGN_WITHIN;
        let many = size - self.signed_size >= SIGN_RECORDS;
        let held_back = self.not_before.is_some_and(|at| now < at) && !asked;
        if (asked || late || many) && !held_back { Due::Sign } else { Due::Nothing }
    }

    fn signed(&mut self, now: Instant, size: u64) {
        *self = Self::new(now, size);
    }

    fn failed(&mut self, now: Instant) {
        self.not_before = Some(now + SIGN_WITHIN);
    }
}

/// Sees what a clock does from one reading to the next.
#[derive(Default)]
struct ClockWatch {
    before: Option<Reading>,
}

impl ClockWatch {
    /// The record that this reading is worth, if it is.
    fn look(&mut self, now: &Reading) -> Option<LogRecord> {
        let before = self.before.replace(now.clone());
        let Some(before) = before else { return Some(read_record(now, ClockReason::Start, 0)) };
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let passed = ms(now.since_boot).saturating_sub(ms(before.since_boot));
        let stepped = ms(now.shown).saturating_sub(ms(before.shown)).saturating_sub(passed);
        if stepped.abs() >= STEP_MS {
            return Some(read_record(now, ClockReason::Stepped, stepped));
        }
        (now.synchronized != before.synchronized).then(|| read_record(now, ClockReason::Changed, 0))
    }
}

/// Greatest number that canonical JSON carries.
const NUMBER_MAX: u64 = (1 << 53) - 1;

fn read_record(reading: &Reading, reason: ClockReason, stepped_ms: i64) -> LogRecord {
    LogRecord::ClockRead {
        reason,
        boot: reading.boot.clone(),
        since_boot_ms: u64::try_from(reading.since_boot.as_millis()).unwrap_or(NUMBER_MAX).min(NUMBER_MAX),
        synchronized: reading.synchronized,
        error_us: reading.error_us.min(NUMBER_MAX),
        stepped_ms: stepped_ms.clamp(-NUMBER_MAX.cast_signed(), NUMBER_MAX.cast_signed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_after_a_minute_or_many_records_or_when_asked_but_never_twice() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut schedule = Schedule::new(begin, 5);
        assert_eq!(schedule.due(at(1), 5, true), Due::Nothing, "all is signed");
        assert_eq!(schedule.due(at(2), 6, false), Due::Nothing);
        assert_eq!(schedule.due(at(61), 7, false), Due::Nothing, "counted from the first unsigned record");
        assert_eq!(schedule.due(at(62), 7, false), Due::Sign);
        schedule.signed(at(62), 7);
        assert_eq!(schedule.due(at(63), 10_006, false), Due::Nothing);
        assert_eq!(schedule.due(at(63), 10_007, false), Due::Sign);
        schedule.failed(at(63));
        assert_eq!(
            schedule.due(at(64), 10_008, false),
            Due::Nothing,
            "a disk that fails is not asked each second"
        );
        assert_eq!(schedule.due(at(64), 10_008, true), Due::Sign, "but when a release ends it is");
        assert_eq!(schedule.due(at(123), 10_008, false), Due::Sign);
    }

    #[test]
    fn an_idle_hour_ends_with_a_sign_of_life() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(begin, 5);
        assert_eq!(schedule.due(begin + IDLE - Duration::from_secs(1), 5, false), Due::Nothing);
        assert_eq!(schedule.due(begin + IDLE, 5, false), Due::SignOfLife);
        assert_eq!(schedule.due(begin + IDLE, 5, false), Due::Nothing, "one an hour");
        let written = begin + IDLE + Duration::from_secs(1);
        assert_eq!(schedule.due(written, 6, false), Due::Nothing);
        assert_eq!(schedule.due(written + SIGN_WITHIN, 6, false), Due::Sign);
    }

    #[test]
    fn a_clock_that_is_set_or_loses_what_keeps_it_right_is_written_down_and_one_that_runs_is_not() {
        let reading = |since_boot, shown, synchronized| Reading {
            boot: "b".to_owned(),
            since_boot: Duration::from_millis(since_boot),
            shown: Duration::from_millis(shown),
            synchronized,
            error_us: 7,
        };
        let mut watch = ClockWatch::default();
        let mut look = |reading: Reading| match watch.look(&reading) {
            Some(LogRecord::ClockRead { reason, stepped_ms, .. }) => Some((reason, stepped_ms)),
            _ => None,
        };
        assert_eq!(look(reading(1_000, 50_000, true)), Some((ClockReason::Start, 0)));
        assert_eq!(look(reading(2_000, 51_010, true)), None);
        assert_eq!(look(reading(60_000, 109_400, true)), None, "slewed by less than what counts as set");
        assert_eq!(look(reading(61_000, 50_400, true)), Some((ClockReason::Stepped, -60_000)));
        assert_eq!(look(reading(62_000, 3_651_400, true)), Some((ClockReason::Stepped, 3_600_000)));
        assert_eq!(look(reading(63_000, 3_652_400, false)), Some((ClockReason::Changed, 0)));
        assert_eq!(look(reading(64_000, 3_653_400, false)), None);
    }
}
