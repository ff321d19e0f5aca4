//! What the journal holds: every fact that state is made of, as canonical JSON with integers only. A record is on
//! disk before its effect happens; the fold of all records is the state ([`crate::world`]).

use crate::archive::ArchiveRecord;
use crate::log::LogRecord;
use crate::set::Set;
use crate::slo::{Verdict, Window};
use crate::step::Step;
use crate::trust::TrustRecord;
use serde::{Deserialize, Serialize};
use std::fmt;
use turnout_manifest::trust::CheckResult;
use turnout_manifest::{
    AuditContext, AuditContextId, Generation, ModelName, Plan, ReleaseId, Sha256, Version, VersionRef,
};

/// A version with a worker: what it is and which start of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its label.
    pub version: Version,
    /// Digest of its manifest.
    pub digest: Sha256,
    /// Issuers whose signatures counted.
    pub signed_by: Vec<String>,
    /// The start of its worker.
    pub generation: Generation,
    /// What the kernel was found to hold its files to at the import (fs-verity).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Sha256>,
    /// Under which audit context it was asked for; a worker that is brought up again keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_context: Option<AuditContextId>,
}

/// Why a release exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Somebody asked for this version.
    Release,
    /// Somebody asked for the version that was live before.
    Return,
    /// The live version's worker died.
    Restart,
}

/// Why a release is undone or held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// An objective was missed.
    Breach {
        /// Which, by how much, in how many windows.
        why: String,
        /// When the first missed window of the breach ended, milliseconds since the epoch.
        first_missed_ms: u64,
    },
    /// A step failed.
    StepFailed {
        /// The step, for people.
        step: String,
        /// Why.
        why: String,
    },
    /// The new version's worker died.
    Crashed {
        /// How it ended.
        why: String,
    },
    /// The new version's worker broke the rules of its link.
    Silenced {
        /// Which.
        why: String,
    },
    /// The old version's worker died.
    StableDied {
        /// How it ended.
        why: String,
    },
    /// The router, which picks the version of each request, died: all traffic is the old version's since.
    RouterDied {
        /// How it ended.
        why: String,
    },
    /// Another release of the same set is undone.
    Member {
        /// Its model.
        model: ModelName,
        /// Why.
        why: String,
    },
    /// An operator asked for a rollback.
    Operator {
        /// Who.
        by: String,
        /// Why, in the operator's words.
        reason: String,
    },
    /// An operator ended the release.
    Cancelled {
        /// Who.
        by: String,
        /// Why, in the operator's words.
        reason: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |reason: &str| if reason.is_empty() { String::new() } else { format!(": {reason}") };
        match self {
            Self::Breach { why, .. } => write!(out, "{why}"),
            Self::StepFailed { step, why } => write!(out, "{step} failed: {why}"),
            Self::Crashed { why } => write!(out, "the new version's worker died: {why}"),
            Self::Silenced { why } => {
                write!(out, "the new version's worker broke the rules of its link: {why}")
            }
            Self::StableDied { why } => write!(out, "the old version's worker died: {why}"),
            Self::RouterDied { why } => write!(out, "the router died: {why}"),
            Self::Member { model, why } => write!(out, "`{model}`, of the same set: {why}"),
            Self::Operator { by, reason } => write!(out, "rolled back by {by}{}", said(reason)),
            Self::Cancelled { by, reason } => write!(out, "cancelled by {by}{}", said(reason)),
        }
    }
}

/// How a release ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The new version has all traffic.
    Promoted,
    /// The old version has all traffic again.
    RolledBack,
    /// As rolled back, because an operator ended it.
    Cancelled,
    /// An undo failed: an operator must look. A rollback tries the failed undos again.
    Stuck,
}

/// The full, fixed plan of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Its id.
    pub release: ReleaseId,
    /// The model.
    pub model: ModelName,
    /// Why it exists.
    pub kind: Kind,
    /// What is live now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Target>,
    /// What will be.
    pub to: Target,
    /// The plan as it was given.
    pub plan: Plan,
    /// All steps.
    pub steps: Vec<Step>,
    /// Number of steps before the point of no return.
    pub commit: u32,
    /// The model's public port.
    pub port: u16,
    /// Key of the split's hash, 16 hexadecimal digits.
    pub salt: String,
    /// Who asked.
    pub by: String,
    /// What it is promoted together with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Set>,
}

/// One entry of the journal: a record, and the audit context of the request that it follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The record; its members stand beside the context's.
    #[serde(flatten)]
    pub record: Record,
    /// Absent where nobody asked, and in journals of versions that had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_context: Option<AuditContext>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Record {
    /// The daemon began to run on this journal.
    DaemonStarted {
        /// Its version.
        version: String,
    },
    /// The host was examined, once at each start.
    Examined {
        /// What it cannot do or enforce, one line each.
        degraded: Vec<String>,
    },
    /// A request was refused or denied.
    Refused {
        /// Who asked.
        by: String,
        /// For what.
        what: String,
        /// Why, every reason.
        why: Vec<String>,
    },
    /// A key was added to the trust store.
    TrustAdded {
        /// Who asked.
        by: String,
        /// Whose key.
        issuer: String,
        /// `sha256:` of its SubjectPublicKeyInfo.
        key_id: String,
        /// Models it may sign, globs.
        models: Vec<String>,
    },
    /// A key was taken out of the trust store.
    TrustRemoved {
        /// Who asked.
        by: String,
        /// `sha256:` of its SubjectPublicKeyInfo.
        key_id: String,
    },
    /// A verified manifest's files are about to be taken in.
    Importing {
        /// Who asked.
        by: String,
        /// What.
        version: VersionRef,
        /// Digest of its manifest.
        digest: Sha256,
    },
    /// A version is in the store, read-only.
    Imported {
        /// Who asked.
        by: String,
        /// What.
        version: VersionRef,
        /// Digest of its manifest.
        digest: Sha256,
        /// Bytes of its files.
        bytes: u64,
        /// Issuers whose signatures counted.
        signed_by: Vec<String>,
        /// Every check with its result.
        checks: Vec<CheckResult>,
        /// What the kernel holds its files to (fs-verity): one digest over their paths and measures.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        measured: Option<Sha256>,
    },
    /// A release was created.
    Planned(Box<Planned>),
    /// A step is about to be executed.
    Intent {
        /// The release.
        release: ReleaseId,
        /// Position in the list under way, from 0.
        at: u32,
        /// The step.
        step: Step,
    },
    /// A step was executed.
    Done {
        /// The release.
        release: ReleaseId,
        /// Position in the list under way.
        at: u32,
        /// The step.
        step: Step,
        /// What was found or made, for people; may be empty.
        detail: String,
    },
    /// A step failed, perhaps half done.
    Failed {
        /// The release.
        release: ReleaseId,
        /// Position in the list under way.
        at: u32,
        /// The step.
        step: Step,
        /// Why.
        why: String,
    },
    /// A window was judged.
    Observed {
        /// The release.
        release: ReleaseId,
        /// What was measured.
        window: Box<Window>,
        /// What it says.
        verdict: Verdict,
    },
    /// The release is held where it is.
    Held {
        /// The release.
        release: ReleaseId,
        /// Why or by whom.
        why: String,
    },
    /// The release goes on.
    Resumed {
        /// The release.
        release: ReleaseId,
        /// By whom.
        by: String,
    },
    /// The release will be undone as soon as the open step has its outcome.
    Interrupted {
        /// The release.
        release: ReleaseId,
        /// Why.
        cause: Cause,
    },
    /// Undo begins.
    RollingBack {
        /// The release.
        release: ReleaseId,
        /// Why.
        cause: Cause,
        /// The undo list.
        undo: Vec<Step>,
        /// A new start of the old version, when its worker died.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restart: Option<Generation>,
    },
    /// The point of no return is passed: the new version is live. The first of these records passes it for the whole set
    /// of its release; those of the other releases come with it.
    Promoted {
        /// The release.
        release: ReleaseId,
    },
    /// Nothing more will be done.
    Ended {
        /// The release.
        release: ReleaseId,
        /// How.
        state: End,
        /// Every cause, the first one first; undo failures follow.
        causes: Vec<String>,
    },
    /// A worker ended without being told to.
    WorkerDied {
        /// Its model.
        model: ModelName,
        /// Which start.
        generation: Generation,
        /// How it ended.
        why: String,
    },
    /// A worker broke the rules of its link; the daemon does not listen to it any more.
    WorkerSilenced {
        /// Its model.
        model: ModelName,
        /// Which start.
        generation: Generation,
        /// Which rule.
        why: String,
    },
    /// A live model's public port is to be another: the configuration says so.
    PortMoved {
        /// Which model.
        model: ModelName,
        /// The port that it gives up.
        from: u16,
        /// The port that it is served on from now on.
        to: u16,
    },
    /// Something about what is kept: snapshots, stored versions, the store itself.
    #[serde(untagged)]
    Archive(ArchiveRecord),
    /// Something about trust: a signed root, an exception, an order.
    #[serde(untagged)]
    Trust(TrustRecord),
    /// Something about the journal itself, or its clock.
    #[serde(untagged)]
    Log(LogRecord),
}

impl Record {
    /// The release it belongs to, if any.
    pub fn release(&self) -> Option<ReleaseId> {
        match self {
            Self::Planned(planned) => Some(planned.release),
            Self::Intent { release, .. }
            | Self::Done { release, .. }
            | Self::Failed { release, .. }
            | Self::Observed { release, .. }
            | Self::Held { release, .. }
            | Self::Resumed { release, .. }
            | Self::Interrupted { release, .. }
            | Self::RollingBack { release, .. }
            | Self::Promoted { release }
            | Self::Ended { release, .. } => Some(*release),
            Self::DaemonStarted { .. }
            | Self::Examined { .. }
            | Self::Refused { .. }
            | Self::TrustAdded { .. }
            | Self::TrustRemoved { .. }
            | Self::Importing { .. }
            | Self::Imported { .. }
            | Self::WorkerDied { .. }
            | Self::WorkerSilenced { .. }
            | Self::PortMoved { .. }
            | Self::Archive(_)
            | Self::Trust(_)
            | Self::Log(_) => None,
        }
    }
}
