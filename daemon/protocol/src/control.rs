//! The control API's requests and replies, held against `openapi.yaml` by a test.
//! Times are milliseconds since the Unix epoch, durations say their unit in the name.

use crate::journal::PrunedLog;
pub use crate::release::ReleaseKind;
use crate::router::Stats;
use crate::set::{ReleaseSet, SetStatus};
use serde::{Deserialize, Serialize};
use turnout_manifest::plan::Strategy;
use turnout_manifest::trust::CheckResult;
use turnout_manifest::{
    AuditContextId, ModelName, Percent, Plan, ReleaseId, Sha256, TenantName, Version, VersionRef,
};

/// Version of this API, sent in every reply as `schema`: `turnout/v1`.
pub const SCHEMA: &str = "turnout/v1";

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of the daemon.
    pub daemon_version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// When the daemon started.
    pub started_ms: u64,
    /// Why changes are refused at present, if they are.
    pub read_only: Option<String>,
    /// What this host could not enforce, one line each.
    pub degraded: Vec<String>,
    /// What somebody should look at at present, one line each: a trust root that expires soon, blocks that are lost.
    #[serde(default)]
    pub concerns: Vec<String>,
    /// Journal head.
    pub journal: JournalHead,
    /// What the router has done since it started; none runs on most instances.
    pub router: Option<Stats>,
    /// Every model that is live or being released.
    pub models: Vec<ModelStatus>,
    /// Every tenant of the configuration.
    #[serde(default)]
    pub tenants: Vec<TenantStatus>,
    /// Every set of models that is shown in one folder, or being released.
    #[serde(default)]
    pub sets: Vec<SetStatus>,
}

/// One tenant: what it has of this host and may have. What is absent has no limit, or is not known here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantStatus {
    /// Its name.
    pub tenant: TenantName,
    /// Patterns of the names of its models.
    pub models: Vec<String>,
    /// Cells that it has.
    pub cells: u32,
    /// Most cells.
    pub cells_limit: Option<u32>,
    /// Bytes of its versions in the store.
    pub store_bytes: u64,
    /// Most bytes in the store.
    pub store_limit_bytes: Option<u64>,
    /// Memory that its cells use, bytes; absent without the cgroup controller `memory`.
    pub memory_bytes: Option<u64>,
    /// Most memory of all its cells, bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Most processes and threads of all its cells.
    pub processes_limit: Option<u32>,
    /// Most CPU time of all its cells, CPUs, as a decimal number.
    pub cpu_limit: Option<String>,
    /// First user of its cells; 64 are its own.
    pub uid_base: u32,
}

/// Where the journal stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalHead {
    /// Number of records, those that were pruned among them.
    pub size: u64,
    /// Number of the first record that was not pruned.
    pub first: u64,
    /// RFC 6962 root over them, hex.
    pub root: String,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// Its name.
    pub model: ModelName,
    /// Whose it is, if it is a tenant's.
    #[serde(default)]
    pub tenant: Option<TenantName>,
    /// Where clients reach it: `127.0.0.1:8700`.
    pub endpoints: Vec<String>,
    /// Every version with a worker.
    pub versions: Vec<LiveVersion>,
    /// The release under way, or the last one.
    pub release: Option<ReleaseStatus>,
    /// What happens next, for people.
    pub next: String,
}

/// One version with a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveVersion {
    /// Its label.
    pub version: Version,
    /// Digest of its manifest.
    pub digest: Sha256,
    /// Names of the issuers whose signatures counted.
    pub signed_by: Vec<String>,
    /// Ordinal of this worker's start.
    pub generation: u32,
    /// The audit context that made it live or a candidate; its answers carry it too.
    pub audit_context: Option<AuditContextId>,
    /// `stable` or `candidate`.
    pub role: Role,
    /// `starting`, `ready`, `draining`, `dead`.
    pub worker: String,
    /// Share of new connections asked for.
    pub asked: Percent,
    /// Why it has this share, for people.
    pub why: String,
    /// What was asked for its cell and what holds it; `None` when the release that made it is not in memory any more.
    pub cell: Option<CellStatus>,
    /// What the kernel saw of it in the last window, or in the last second outside a release.
    pub seen: Seen,
}

/// What a cell was asked to be, and what makes it so. Texts for people, as the journal has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellStatus {
    /// Its class, memory, processes and CPUs; where there are any, its limit on CPU time, its devices and its tenant.
    pub asked: String,
    /// What holds it and what this host could not enforce; `None` while no worker was started in it.
    pub enforced: Option<String>,
}

/// What a version is to its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is what traffic returns to.
    Stable,
    /// It is being released.
    Candidate,
}

/// Measured figures of one version over one window. Percentiles are upper bounds of histogram buckets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Length of the window, milliseconds.
    pub window_ms: u64,
    /// Connections that made their first request in the window.
    pub connections: u64,
    /// Requests.
    pub requests: u64,
    /// 5xx answers, aborted requests and answers that are not HTTP.
    pub errors: u64,
    /// Answers withheld by an assertion, as the worker counts them.
    pub assertion_failures: u64,
    /// Share of this model's requests in the window, thousandths of a percent.
    pub share_thousandths: u32,
    /// Median time to last byte, microseconds; absent without requests.
    pub p50_us: Option<u64>,
    /// 95th percentile, microseconds.
    pub p95_us: Option<u64>,
    /// 99th percentile, microseconds.
    pub p99_us: Option<u64>,
}

/// State of a release, stable names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// Steps forward are under way.
    Running,
    /// An operator or a breach with `on_breach: pause` holds it.
    Paused,
    /// Undo is under way.
    RollingBack,
    /// The new version has all traffic.
    Promoted,
    /// The old version has all traffic again.
    RolledBack,
    /// An operator ended it before it was done; traffic is home.
    Cancelled,
    /// An undo failed; an operator must look.
    Stuck,
}

impl ReleaseState {
    /// Nothing more will happen by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack | Self::Cancelled | Self::Stuck)
    }
}

/// One release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseStatus {
    /// [`SCHEMA`].
    pub schema: String,
    /// Its id.
    pub release_id: ReleaseId,
    /// Why it exists. A daemon of an earlier version does not say.
    #[serde(default)]
    pub kind: ReleaseKind,
    /// The model.
    pub model: ModelName,
    /// The version that was live before, if any.
    pub from: Option<Version>,
    /// The version being released.
    pub to: Version,
    /// Who decides which version a request meets.
    pub strategy: Strategy,
    /// Where it stands.
    pub state: ReleaseState,
    /// The step under way, for people: `observe at 25 %`.
    pub step: String,
    /// Ordinal of that step, from 1, and how many there are.
    pub step_number: u32,
    /// How many steps the plan has.
    pub step_count: u32,
    /// Share of the new version asked for at present.
    pub asked: Percent,
    /// The last windows of the step under way, newest last.
    pub windows: Vec<WindowStatus>,
    /// Why it ended or is held, for people: `p95 31.2 ms exceeds 10 ms in 3 of 5 windows at 5 %`.
    pub cause: Option<String>,
    /// Every cause of a stuck release: what ended it, then each undo that failed.
    pub causes: Vec<String>,
    /// Who asked for it.
    pub asked_by: String,
    /// Under which audit context.
    pub audit_context: Option<AuditContextId>,
    /// What it is promoted together with; `None` for a release of its own.
    pub set: Option<ReleaseSet>,
    /// How long things took.
    pub timings: Timings,
}

/// One judged window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// When it ended.
    pub at_ms: u64,
    /// Share asked for in it.
    pub asked: Percent,
    /// `met`, `missed`, `insufficient`.
    pub verdict: String,
    /// The objective that was missed or why it is insufficient, for people.
    pub why: Option<String>,
    /// The new version's figures.
    pub candidate: Seen,
    /// The old version's figures over the same time.
    pub stable: Option<Seen>,
}

/// How long things took, milliseconds; absent where it did not happen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// When it was asked for.
    pub asked_at_ms: u64,
    /// When it became final.
    pub ended_at_ms: Option<u64>,
    /// From asked to the worker being ready.
    pub ready_ms: Option<u64>,
    /// From the end of the first missed window to the route pointing home.
    pub breach_to_home_ms: Option<u64>,
    /// From the end of the first missed window to the last connection on the bad version being closed.
    pub breach_to_last_connection_ms: Option<u64>,
}

/// `POST /v1/releases`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartRelease {
    /// What to release: `fraud@1.4.0`.
    pub version: VersionRef,
    /// How; absent: straight to 100 % when nothing is live, the default plan otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Only say which steps it would take.
    #[serde(default)]
    pub dry_run: bool,
    /// The signed order to release it, where one is brought: the canonical JSON of its envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// Reply to `POST /v1/releases` with `dry_run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DryRun {
    /// [`SCHEMA`].
    pub schema: String,
    /// Who would decide which version a request meets.
    pub strategy: Strategy,
    /// The steps in order, for people.
    pub steps: Vec<String>,
}

/// `POST /v1/models/{model}/{rollback|promote|pause|resume}`: the reply is the [`ReleaseStatus`].
/// What is asked of one release of a set is asked of all of them.
/// `rollback` after a promotion starts a new release of the version that was live before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervene {
    /// Why, kept in the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Reply to `POST /v1/bundles`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Imported {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was imported.
    pub version: VersionRef,
    /// Digest of its manifest.
    pub digest: Sha256,
    /// The same content was in the store already.
    pub already_there: bool,
    /// Every check with its result.
    pub checks: Vec<CheckResult>,
    /// The read-only snapshot made after it.
    pub snapshot: Option<String>,
    /// Under which audit context its records are.
    pub audit_context: AuditContextId,
}

/// One version in the store, in `GET /v1/versions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredVersion {
    /// What it is.
    pub version: VersionRef,
    /// Digest of its manifest.
    pub digest: Sha256,
    /// Size of its files, bytes.
    pub bytes: u64,
    /// When it was imported.
    pub imported_ms: u64,
    /// Names of the issuers whose signatures counted at import.
    pub signed_by: Vec<String>,
    /// It has a worker at present.
    pub live: bool,
}

/// `POST /v1/trust`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddTrust {
    /// PEM of the public key (SubjectPublicKeyInfo, P-256).
    pub public_key: String,
    /// Whose key it is.
    pub issuer: String,
    /// Models it may sign, globs with `*`.
    pub models: Vec<String>,
}

/// One line of `GET /v1/audit/log`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// [`SCHEMA`].
    #[serde(default = "schema")]
    pub schema: String,
    /// Position in the journal, from 0.
    pub seq: u64,
    /// When it was written.
    pub time_ms: u64,
    /// The record's own words: `event` names it.
    pub body: serde_json::Value,
    /// RFC 6962 leaf hash, hex.
    pub leaf: String,
}

/// What a daemon meant that did not say it yet.
fn schema() -> String {
    SCHEMA.to_owned()
}

/// One line of `GET /v1/doctor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requirement {
    /// What is needed: `btrfs`, `sk_lookup`.
    pub name: String,
    /// `ok`, `degraded`, `missing`, or `untried` where only root can try it.
    pub state: String,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do about it, when not `ok`.
    pub remedy: Option<String>,
}

/// Reply to `GET /v1/releases`, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Releases {
    /// [`SCHEMA`].
    pub schema: String,
    /// Every release this journal knows.
    pub releases: Vec<ReleaseStatus>,
}

/// Reply to `GET /v1/versions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// [`SCHEMA`].
    pub schema: String,
    /// Every version in the store.
    pub versions: Vec<StoredVersion>,
}

/// Reply to `GET`, `POST` and `DELETE` of `/v1/trust`: the trust store as it is (then).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// Schema of the trust store, the same as in its file.
    pub schema: String,
    /// Every key that counts.
    pub keys: Vec<TrustedKey>,
}

/// One key whose signature counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustedKey {
    /// Whose key it is.
    pub issuer: String,
    /// Its fingerprint, as envelopes name it.
    pub key_id: String,
    /// PEM of the public key.
    pub public_key: String,
    /// Models it may sign, globs with `*`.
    pub models: Vec<String>,
}

/// One line of `GET /v1/events`: everything as it is now. The first line comes at once, the next ones when something
/// changed, at most every 100 ms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// [`SCHEMA`].
    pub schema: String,
    /// When this was the state.
    pub time_ms: u64,
    /// The state; with `?model=` only that model's.
    pub status: Status,
}

/// Reply to `POST /v1/audit/verify`: every record was read again, its checksum and the tree over all of them hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditVerified {
    /// [`SCHEMA`].
    pub schema: String,
    /// Number of records, those that were pruned among them.
    pub size: u64,
    /// RFC 6962 root over them, hex.
    pub root: String,
    /// Number of segment files.
    pub segments: u64,
    /// Number of the first record that is there.
    pub first: u64,
    /// The pruning that took those before it: their hashes and what they came to were verified. Absent where none were.
    pub pruned: Option<PrunedLog>,
    /// When the first record that is there was written; absent in an empty journal.
    pub first_ms: Option<u64>,
    /// When the last record was written; absent in an empty journal.
    pub last_ms: Option<u64>,
    /// The log's name in its checkpoints.
    pub origin: String,
    /// Signed checkpoints, all of them a beginning of this journal.
    pub checkpoints: u64,
    /// Of these, signed by a key that was checked.
    pub checkpoints_signed: u64,
    /// Records under the newest one; absent where nothing was ever signed.
    pub signed_size: Option<u64>,
}

/// Reply to `GET /v1/doctor`, and what `turnoutd doctor --output json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Doctor {
    /// [`SCHEMA`].
    pub schema: String,
    /// Every requirement with what was found.
    pub requirements: Vec<Requirement>,
}
