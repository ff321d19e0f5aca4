//! `[journal]`: how long the journal's records stay, and whose place in it counts.

use super::keep::DAYS_MAX;
use serde::Deserialize;
use std::path::PathBuf;
use turnout_engine::pruning::LogPolicy;

/// Days that records stay when they may go at all, unless told otherwise: half a year, the least that the duties to keep
/// such records ask for.
const KEEP_DAYS: u32 = 183;
/// Most readers whose place can be named.
const CURSORS_MAX: usize = 16;
/// Where the exporter of the packages keeps its place.
const USUAL_CURSOR: &str = "/var/lib/turnout-export/cursor";

/// How long the journal's records stay. What one key keeps is kept; without any, everything is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawJournal {
    /// Records younger than this stay. Default all, and 183 where another key lets older ones go; such as `365`.
    keep_within_days: Option<u32>,
    /// The newest so many records stay. Default all, such as `1000000`.
    keep_records: Option<u64>,
    /// The newest segments stay, so many bytes of them at least. Default all, such as `1073741824`.
    keep_bytes: Option<u64>,
    /// Files in which readers of the journal keep their place: no record goes before they have it on disk. One that is
    /// named and not there keeps everything, but for the default one. Default `["/var/lib/turnout-export/cursor"]`, where
    /// it exists.
    cursors: Option<Vec<PathBuf>>,
}

/// How long the journal's records stay, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalKeep {
    /// What may be pruned.
    pub policy: LogPolicy,
    /// Where readers keep their place.
    pub cursors: Vec<CursorFile>,
}

/// A file with a reader's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorFile {
    /// Where.
    pub path: PathBuf,
    /// Without it nothing is pruned: its reader is expected.
    pub expected: bool,
}

impl JournalKeep {
    pub(super) fn check(raw: RawJournal, problems: &mut Vec<String>) -> Self {
        let RawJournal { keep_within_days: days, keep_records, keep_bytes, cursors } = raw;
        if days.is_some_and(|days| days > DAYS_MAX) {
            problems.push(format!("journal.keep_within_days must be at most {DAYS_MAX}"));
        }
        let any = days.is_some() || keep_records.is_some() || keep_bytes.is_some();
        let keep_within_ms = any.then(|| milliseconds(days.unwrap_or(KEEP_DAYS)));
        let policy = LogPolicy { keep_within_ms, keep_records, keep_bytes };
        Self { policy, cursors: cursor_files(cursors, problems) }
    }

    /// The rules for who asks for records from before a time: the configured ones, or the least that there is.
    pub fn policy_for_request(&self) -> LogPolicy {
        if self.policy.is_set() {
            return self.policy;
        }
        LogPolicy { keep_within_ms: Some(milliseconds(KEEP_DAYS)), ..LogPolicy::default() }
    }

    /// The policy in words, one rule a line.
    pub fn rules(&self) -> Vec<String> {
        let LogPolicy { keep_within_ms, keep_records, keep_bytes } = self.policy;
        let days = keep_within_ms.map(|ms| format!("records younger than {} days stay", ms / 86_400_000));
        let records = keep_records.map(|count| format!("the newest {count} records stay"));
        let bytes = keep_bytes.map(|bytes| format!("the newest {bytes} bytes stay"));
        days.into_iter().chain(records).chain(bytes).collect()
    }
}

fn milliseconds(days: u32) -> u64 {
    u64::from(days) * 86_400_000
}

fn cursor_files(named: Option<Vec<PathBuf>>, problems: &mut Vec<String>) -> Vec<CursorFile> {
    let Some(named) = named else {
        return vec![CursorFile { path: USUAL_CURSOR.into(), expected: false }];
    };
    if named.len() > CURSORS_MAX {
        problems.push(format!("journal.cursors: {} files; at most {CURSORS_MAX}", named.len()));
    }
    if let Some(path) = named.iter().find(|path| !path.is_absolute()) {
        problems.push(format!("journal.cursors `{}` must be an absolute path", path.display()));
    }
    // The packages name the usual one in words, which changes nothing.
    let expected = |path: &PathBuf| path.as_os_str() != USUAL_CURSOR;
    named.into_iter().map(|path| CursorFile { expected: expected(&path), path }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> (JournalKeep, Vec<String>) {
        let mut problems = Vec::new();
        let keep = JournalKeep::check(toml::from_str(text).unwrap(), &mut problems);
        (keep, problems)
    }

    #[test]
    fn nothing_goes_unless_asked_for_and_then_not_within_half_a_year_unless_that_is_said() {
        let days = |text: &str| checked(text).0.policy.keep_within_ms.map(|ms| ms / 86_400_000);
        assert!(!checked("").0.policy.is_set());
        assert!(!checked("cursors = []").0.policy.is_set());
        assert_eq!(days("keep_records = 5"), Some(183));
        assert_eq!(days("keep_within_days = 7"), Some(7));
        assert_eq!(checked("").0.policy_for_request().keep_within_ms, Some(183 * 86_400_000));
        let rules = checked("keep_bytes = 5").0.rules();
        assert_eq!(rules, ["records younger than 183 days stay", "the newest 5 bytes stay"]);
    }

    #[test]
    fn a_reader_that_is_named_is_expected_and_bad_places_are_named() {
        let (keep, problems) = checked("cursors = [\"/var/lib/turnout-export/cursor\", \"/x\"]");
        assert_eq!(keep.cursors.iter().map(|cursor| cursor.expected).collect::<Vec<_>>(), [false, true]);
        assert!(problems.is_empty());
        let (_, problems) = checked("cursors = [\"x\"]\nkeep_within_days = 99999");
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
