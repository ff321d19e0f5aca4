//! The release report as sent and printed: text, JSON and HTML come from this one value.

use crate::control::{ReleaseStatus, WindowStatus};
use crate::journal::PrunedLog;
use serde::{Deserialize, Serialize};
use turnout_manifest::{AuditContext, Plan, Sha256};

/// Everything about one release, made from its journal records alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `turnout/v1`.
    pub schema: String,
    /// How it stands or ended.
    pub release: ReleaseStatus,
    /// The plan, fixed when the release was created.
    pub plan: Plan,
    /// Manifest digest of the version released.
    pub to_digest: Sha256,
    /// Manifest digest of the version that was live before.
    pub from_digest: Option<Sha256>,
    /// Issuers whose signatures counted for the version released.
    pub signed_by: Vec<String>,
    /// Under which audit contexts: that of who asked for it, then those of who changed its course.
    pub audit_contexts: Vec<AuditContext>,
    /// Every step with its times and outcome, undo steps included.
    pub steps: Vec<StepReport>,
    /// Every judged window.
    pub windows: Vec<WindowStatus>,
    /// Audit snapshots made for it.
    pub snapshots: Vec<String>,
    /// First and last journal record of this release.
    pub journal_range: (u64, u64),
    /// The pruning that took the first of them; absent where all are there.
    pub pruned: Option<PrunedLog>,
}

/// One step that was touched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// For people: `start worker g7`.
    pub step: String,
    /// It was an undo.
    pub undo: bool,
    /// When its intent was on disk.
    pub started_ms: u64,
    /// How long until its outcome, milliseconds; absent when none was recorded.
    pub took_ms: Option<u64>,
    /// `done`, `failed`, or absent.
    pub outcome: Option<String>,
    /// Why it failed, or what was found.
    pub detail: Option<String>,
}
