//! How long the journal's own records stay: which of the oldest segments may go, and what keeps them. Only a beginning ever
//! goes; what it came to is kept as a [`crate::base`]. Each pruning is decided once more by the loop, against the hold.

use crate::archive::{Archive, ArchiveRecord};
use crate::guard::{ArchiveRefusal, Guard};
use crate::world::Stamp;
use serde::{Deserialize, Serialize};
use turnout_manifest::Sha256;

/// Greatest number of prunings that are remembered, the newest.
const PRUNED_KEPT: usize = 256;
/// Segments that always stay, the newest: the one being written, and the one before it.
const SEGMENTS_KEPT: usize = 2;
const DAY_MS: u64 = 86_400_000;

/// A legal hold on the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHold {
    /// The first record that it keeps; all after it are kept too.
    pub from: u64,
    /// Who placed it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
}

/// A pruning of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// The first record that stayed.
    pub minimum_index: u64,
    /// SHA-256 of the base that stands for the records before it.
    pub base: Sha256,
    /// Who, or what rule.
    pub by: String,
    /// Why.
    pub why: String,
    /// When it was decided, milliseconds since the epoch.
    pub at_ms: u64,
}

/// What the journal says of its own holds and prunings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// The hold, if there is one.
    pub hold: Option<LogHold>,
    /// Prunings, oldest first, the newest 256.
    pub pruned: Vec<Pruned>,
}

impl LogState {
    /// The first record that stayed at the last pruning; 0 before the first one.
    pub fn minimum_index(&self) -> u64 {
        self.pruned.last().map_or(0, |pruned| pruned.minimum_index)
    }

    /// The pruning that took this record, if it was pruned.
    pub fn pruning_of(&self, seq: u64) -> Option<&Pruned> {
        self.pruned.iter().find(|pruned| seq < pruned.minimum_index)
    }

    /// Takes in a record; those about other things change nothing.
    pub(crate) fn apply(&mut self, record: &ArchiveRecord, stamp: Stamp) {
        match record {
            ArchiveRecord::LogHeld { from, by, reason } => {
                let (by, reason) = (by.clone(), reason.clone());
                self.hold = Some(LogHold { from: *from, by, reason, at_ms: stamp.at_ms });
            }
            ArchiveRecord::LogHoldReleased { .. } => self.hold = None,
            ArchiveRecord::LogPruned { minimum_index, base, by, why, .. } => {
                let (minimum_index, base, at_ms) = (*minimum_index, *base, stamp.at_ms);
                self.pruned.push(Pruned { minimum_index, base, by: by.clone(), why: why.clone(), at_ms });
                if self.pruned.len() > PRUNED_KEPT {
                    self.pruned.remove(0);
                }
            }
            _ => {}
        }
    }
}

/// How long records stay. What one rule keeps is kept; without any, everything is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogPolicy {
    /// Records younger than this, milliseconds.
    pub keep_within_ms: Option<u64>,
    /// The newest so many records.
    pub keep_records: Option<u64>,
    /// The newest segments, so many bytes of them at least.
    pub keep_bytes: Option<u64>,
}

impl LogPolicy {
    /// Whether anything may ever go.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

/// What there is of the journal, as its folder and its readers tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundLog {
    /// Every segment, oldest first.
    pub segments: Vec<FoundSegment>,
    /// Number of records.
    pub size: u64,
    /// Records under a signed checkpoint.
    pub signed: u64,
    /// Records whose hashes are kept apart from them.
    pub hashed: u64,
    /// Those who read the journal and keep their place.
    pub readers: Vec<FoundReader>,
}

/// One segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundSegment {
    /// Its first record.
    pub first: u64,
    /// Length of its file.
    pub bytes: u64,
    /// When it was begun, milliseconds since the epoch, by the clock of that time.
    pub begun_ms: u64,
}

/// Somebody who reads the journal and keeps their place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundReader {
    /// The file that holds the place.
    pub cursor: String,
    /// The first record that may still have to be read; or why that cannot be told.
    pub next: Result<u64, String>,
}

/// What a policy lets go of the journal, and what keeps more from going.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPlan {
    /// The first record that would stay, and the rule that lets those before it go.
    pub prune: Option<(u64, String)>,
    /// What keeps records that the rule would let go.
    pub kept: Vec<Guard>,
}

/// Which records the policy lets go now; with `before_ms`, which it lets somebody delete who asks for all from before then.
pub fn plan(
    policy: &LogPolicy,
    (now_ms, before_ms): (u64, Option<u64>),
    (log, found): (&LogState, &FoundLog),
) -> LogPlan {
    let Some(wanted) = let_go(policy, (now_ms, before_ms), found) else { return LogPlan::default() };
    let kept: Vec<(u64, Guard)> =
        guards(log, found).into_iter().filter(|(first, _)| *first < wanted).collect();
    let most = kept.iter().map(|(first, _)| *first).min().unwrap_or(wanted).min(wanted);
    let first = borders(found).take_while(|(_, segment)| segment.first <= most).last();
    let prune = first.map(|(_, segment)| (segment.first, rule(policy, before_ms)));
    LogPlan { prune, kept: kept.into_iter().map(|(_, guard)| guard).collect() }
}

/// The segments that the journal could begin with, and their places in the list.
fn borders(found: &FoundLog) -> impl Iterator<Item = (usize, &FoundSegment)> {
    let beyond = found.segments.len().saturating_sub(SEGMENTS_KEPT - 1);
    found.segments.iter().enumerate().take(beyond).skip(1)
}

/// The furthest record that every rule lets the journal begin with.
fn let_go(policy: &LogPolicy, (now_ms, before_ms): (u64, Option<u64>), found: &FoundLog) -> Option<u64> {
    if !policy.is_set() {
        return None;
    }
    let bytes_from = |at: usize| found.segments[at..].iter().map(|segment| segment.bytes).sum::<u64>();
    // A clock that was set back must not make records older than those before them.
    let ended_ms =
        |at: usize| found.segments[..=at].iter().map(|segment| segment.begun_ms).max().unwrap_or(0);
    let lets_go = |(at, segment): &(usize, &FoundSegment)| {
        policy.keep_within_ms.is_none_or(|age| ended_ms(*at).saturating_add(age) <= now_ms)
            && before_ms.is_none_or(|before| ended_ms(*at) <= before)
            && policy.keep_records.is_none_or(|count| segment.first.saturating_add(count) <= found.size)
            && policy.keep_bytes.is_none_or(|bytes| bytes_from(*at) >= bytes)
    };
    borders(found).take_while(lets_go).last().map(|(_, segment)| segment.first)
}

/// What keeps records whatever the policy says, each with the first record it keeps.
fn guards(log: &LogState, found: &FoundLog) -> Vec<(u64, Guard)> {
    let mut guards: Vec<(u64, Guard)> = held(log).into_iter().collect();
    for reader in &found.readers {
        let first = reader.next.as_ref().copied().unwrap_or(0);
        guards.push((first, Guard::Reader { cursor: reader.cursor.clone(), next: reader.next.clone() }));
    }
    guards.push((found.signed, Guard::Unsigned(found.signed)));
    guards.push((found.hashed, Guard::Unhashed(found.hashed)));
    guards
}

fn held(log: &LogState) -> Option<(u64, Guard)> {
    let hold = log.hold.as_ref()?;
    let (from, by, reason) = (hold.from, hold.by.clone(), hold.reason.clone());
    Some((from, Guard::LogHeld { from, by, reason }))
}

fn rule(policy: &LogPolicy, before_ms: Option<u64>) -> String {
    let asked = before_ms.map(|_| "they are from before the time that was asked for".to_owned());
    let age = policy.keep_within_ms.map(|age| format!("they are older than {} days", age / DAY_MS));
    let count = policy.keep_records.map(|count| format!("they are not among the newest {count}"));
    let bytes = policy.keep_bytes.map(|bytes| format!("they are not in the newest {bytes} bytes"));
    asked.into_iter().chain(age).chain(count).chain(bytes).collect::<Vec<_>>().join(", and ")
}

/// What a hold on the journal is called where a snapshot would be named.
const JOURNAL: &str = "the journal";

/// Decides on a hold of the journal.
pub(crate) fn hold(archive: &Archive, hold: (u64, &str, &str)) -> Result<ArchiveRecord, ArchiveRefusal> {
    if let Some(LogHold { by, reason, from, .. }) = &archive.log.hold {
        let (from, by, reason) = (*from, by.clone(), reason.clone());
        return Err(ArchiveRefusal::LogHeld { from, by, reason });
    }
    let (from, by, reason) = hold;
    Ok(ArchiveRecord::LogHeld { from, by: by.to_owned(), reason: reason.to_owned() })
}

/// Decides on the end of a hold of the journal.
pub(crate) fn release_hold(archive: &Archive, by: &str) -> Result<ArchiveRecord, ArchiveRefusal> {
    match archive.log.hold {
        Some(_) => Ok(ArchiveRecord::LogHoldReleased { by: by.to_owned() }),
        None => Err(ArchiveRefusal::LogNotHeld),
    }
}

/// Decides on a pruning whose base is written.
pub(crate) fn prune(
    archive: &Archive,
    (minimum_index, base): (u64, Sha256),
    (by, why): (&str, &str),
) -> Result<ArchiveRecord, ArchiveRefusal> {
    if minimum_index <= archive.log.minimum_index() {
        return Err(ArchiveRefusal::LogPruned(archive.log.minimum_index()));
    }
    if let Some((_, guard)) = held(&archive.log).filter(|(from, _)| *from < minimum_index) {
        return Err(ArchiveRefusal::Guarded { what: JOURNAL.to_owned(), why: vec![guard] });
    }
    let held_from = archive.log.hold.as_ref().map(|hold| hold.from);
    let (by, why) = (by.to_owned(), why.to_owned());
    Ok(ArchiveRecord::LogPruned { minimum_index, base, by, why, held_from })
}
