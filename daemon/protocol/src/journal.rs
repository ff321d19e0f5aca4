//! How long the journal's records stay, as the control API speaks of it; and how whoever reads a pruned journal knows that
//! what is left of the pruned records is what was written. Held against `openapi.yaml` as the types in [`crate::control`].

use serde::{Deserialize, Serialize};
use turnout_manifest::Sha256;

/// Most records about prunings that are looked at in one journal.
const CLAIMS_MAX: usize = 4096;

/// Reply to `GET /v1/audit/journal`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalState {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// Number of records, those that were pruned among them.
    pub size: u64,
    /// Number of the first record that is there.
    pub first: u64,
    /// Number of segment files.
    pub segments: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Since when its segments go back, by the clock of that time; absent in an empty journal.
    pub since_ms: Option<u64>,
    /// The rules of the configuration, one a line; empty when everything is kept.
    pub retention: Vec<String>,
    /// The first record that would stay if it was pruned now; absent when nothing would go.
    pub next_first: Option<u64>,
    /// What keeps records that the rules would let go, one line each.
    pub kept_by: Vec<String>,
    /// Those who read it and keep their place.
    pub readers: Vec<JournalReader>,
    /// The legal hold on it, if there is one.
    pub hold: Option<JournalHold>,
    /// Prunings, oldest first.
    pub pruned: Vec<PrunedLog>,
}

/// Somebody who reads the journal and keeps their place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalReader {
    /// The file that holds the place.
    pub cursor: String,
    /// The first record that they may still have to read; absent when that cannot be told.
    pub next: Option<u64>,
    /// Why it cannot be told.
    pub why: Option<String>,
}

/// A legal hold on the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalHold {
    /// The first record that is held; all after it are too.
    pub from: u64,
    /// Who placed it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at_ms: u64,
}

/// A pruning of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrunedLog {
    /// The first record that stayed.
    pub minimum_index: u64,
    /// When it was decided.
    pub at_ms: u64,
    /// Who, or what rule.
    pub by: String,
    /// Why.
    pub why: String,
    /// SHA-256 of what the records before it came to.
    pub base: Sha256,
}

/// `POST /v1/audit/journal/hold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldJournal {
    /// Why, kept in the journal.
    pub reason: String,
    /// The first record to hold; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
}

/// What a journal's records say about its prunings.
#[derive(Debug, Default)]
pub struct Prunings {
    /// Each with the number of its record.
    claims: Vec<(u64, PrunedLog)>,
}

/// The members of records about prunings that matter here.
#[derive(Deserialize)]
struct Claim {
    event: String,
    by: String,
    minimum_index: Option<u64>,
    base: Option<Sha256>,
    why: Option<String>,
    reason: Option<String>,
    pruned: Option<Taken>,
}

/// A base that a new log took over.
#[derive(Deserialize)]
struct Taken {
    minimum_index: u64,
    base: Sha256,
}

impl Prunings {
    /// Looks at the body of a record with this number, which was written then.
    pub fn see(&mut self, (seq, at_ms): (u64, u64), body: &[u8]) {
        // Records are canonical: the name of the event stands there like this, or not at all.
        let may_tell = std::str::from_utf8(body).is_ok_and(|text| text.contains("\"event\":\"log-"));
        if !may_tell || self.claims.len() >= CLAIMS_MAX {
            return;
        }
        let Ok(claim) = serde_json::from_slice::<Claim>(body) else { return };
        let (found, why) = match claim.event.as_str() {
            "log-pruned" => (claim.minimum_index.zip(claim.base), claim.why),
            "log-opened" => (claim.pruned.map(|taken| (taken.minimum_index, taken.base)), claim.reason),
            _ => return,
        };
        let (by, why) = (claim.by, why.unwrap_or_default());
        self.claims.extend(
            found.map(|(minimum_index, base)| (seq, PrunedLog { minimum_index, at_ms, by, why, base })),
        );
    }

    /// The pruning after which a journal that begins with this record has this base, or why there is none. Where it is known
    /// how many records are signed, only these count: what follows them anybody can have written.
    ///
    /// # Errors
    /// [`Unvouched`]: the base was not written by whoever wrote the journal.
    pub fn vouch(self, (first, base): (u64, Sha256), signed: Option<u64>) -> Result<PrunedLog, Unvouched> {
        let of_first = self.claims.into_iter().filter(|(_, claim)| claim.minimum_index == first);
        let (counting, unsigned): (Vec<_>, Vec<_>) =
            of_first.partition(|(seq, _)| signed.is_none_or(|signed| *seq < signed));
        let mut refused =
            if unsigned.is_empty() { Unvouched::Nobody { first } } else { Unvouched::Unsigned { first } };
        for (_, claim) in counting {
            if claim.base == base {
                return Ok(claim);
            }
            refused = Unvouched::Other { first, written: claim.base, found: base };
        }
        Err(refused)
    }
}

/// Why the base of a pruned journal does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unvouched {
    /// A record names another one.
    #[error(
        "the base `{first:012}.base`, which stands for the records before {first}, was altered: it is {found}, but the \
         journal names {written}"
    )]
    Other {
        /// The first record that is there.
        first: u64,
        /// What the journal says.
        written: Sha256,
        /// What is there.
        found: Sha256,
    },
    /// The record that names one is under no signed checkpoint.
    #[error(
        "the records before {first} are gone, and the record that says that they were pruned is under no signed checkpoint"
    )]
    Unsigned {
        /// The first record that is there.
        first: u64,
    },
    /// No record names any.
    #[error("the records before {first} are gone, but no record says that they were pruned")]
    Nobody {
        /// The first record that is there.
        first: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_base_counts_when_a_record_names_it_and_its_place() {
        let (base, other) = (Sha256::of(b"base"), Sha256::of(b"other"));
        let read = |records: &[serde_json::Value]| {
            let mut prunings = Prunings::default();
            (0..).zip(records).for_each(|(seq, body)| prunings.see((seq, 7), body.to_string().as_bytes()));
            prunings
        };
        let pruned = |first: u64, base: Sha256| json!({"event": "log-pruned", "minimum_index": first, "base": base, "by": "root", "why": "old"});
        let opened = json!({"event": "log-opened", "by": "root", "reason": "restored",
                            "pruned": {"minimum_index": 9, "base": base}});
        let found = read(&[pruned(5, other), pruned(9, base)]).vouch((9, base), Some(2)).unwrap();
        assert_eq!((found.why.as_str(), found.at_ms), ("old", 7));
        assert_eq!(read(&[opened]).vouch((9, base), None).unwrap().why, "restored");
        let altered = read(&[pruned(9, base)]).vouch((9, other), Some(1));
        assert_eq!(altered, Err(Unvouched::Other { first: 9, written: base, found: other }));
        let unsigned = read(&[pruned(5, other), pruned(9, base)]).vouch((9, base), Some(1));
        assert_eq!(unsigned, Err(Unvouched::Unsigned { first: 9 }));
        let appended = read(&[pruned(9, base), pruned(9, other)]).vouch((9, other), Some(1));
        assert_eq!(appended, Err(Unvouched::Other { first: 9, written: base, found: other }));
        let telling = json!({"event": "refused", "by": "x", "what": "\"event\":\"log-pruned\""});
        for records in [vec![], vec![pruned(5, base)], vec![telling], vec![json!({"event": "log-held"})]] {
            assert_eq!(read(&records).vouch((9, base), None), Err(Unvouched::Nobody { first: 9 }));
        }
    }
}
