//! Whose signature counts for which model, and what that makes of a manifest: valid, untrusted or rejected.

use serde::{Deserialize, Serialize};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// It was not made, because an earlier one failed.
    Skipped,
}

/// One check of a verification, as it is printed and recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Its stable name: `envelope`, `signature`, `canonical`, `manifest`, `trust`, `files`.
    pub name: String,
    /// How it ended.
    pub result: Outcome,
    /// What was found, for people.
    pub detail: String,
}
