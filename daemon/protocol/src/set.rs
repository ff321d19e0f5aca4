//! Sets in the control API: models whose versions are released together, promoted in one step, and shown in one folder.

use crate::control::ReleaseStatus;
use serde::{Deserialize, Serialize};
use turnout_manifest::plan::Strategy;
use turnout_manifest::{ModelName, Plan, ReleaseId, SetName, Version, VersionRef};

/// `POST /v1/sets`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartSet {
    /// The set: from the promotion on it shows these models and no others.
    pub set: SetName,
    /// What to release, a version each of 2 to 16 models. One that is live already is shown with the others.
    pub members: Vec<WantedMember>,
    /// How, the same for each; absent: as with a single release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// Only say which steps it would take.
    #[serde(default)]
    pub dry_run: bool,
}

/// One version that a set is to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedMember {
    /// `fraud@1.4.0`.
    pub version: VersionRef,
    /// The signed order to release it, where one is brought: the canonical JSON of its envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
}

/// Reply to `POST /v1/sets`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetStarted {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// The set.
    pub set: SetName,
    /// Its releases, which are promoted together or not at all.
    pub releases: Vec<ReleaseStatus>,
    /// Models that are live with their version already, and are shown with the others.
    pub stays: Vec<ModelName>,
    /// Models that the set shows until the promotion, and not after it.
    pub leaves: Vec<ModelName>,
}

/// Reply to `POST /v1/sets` with `dry_run`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetDryRun {
    /// [`crate::control::SCHEMA`].
    pub schema: String,
    /// The set.
    pub set: SetName,
    /// The releases that it would have.
    pub releases: Vec<PlannedMember>,
    /// As in [`SetStarted`].
    pub stays: Vec<ModelName>,
    /// As in [`SetStarted`].
    pub leaves: Vec<ModelName>,
}

/// One release that a set would have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedMember {
    /// The version.
    pub version: VersionRef,
    /// Who would decide which version a request meets.
    pub strategy: Strategy,
    /// The steps in order, for people.
    pub steps: Vec<String>,
}

/// What a release is promoted together with, in its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseSet {
    /// The set.
    pub set: SetName,
    /// All its releases.
    pub releases: Vec<MemberRelease>,
}

/// One release of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRelease {
    /// Its model.
    pub model: ModelName,
    /// Its id.
    pub release_id: ReleaseId,
}

/// One set, in `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetStatus {
    /// Its name.
    pub set: SetName,
    /// Where readers find it; below it, each model's version lies in a folder by the model's name.
    pub folder: String,
    /// The models that it shows; none before its first promotion.
    pub models: Vec<ShownModel>,
    /// Its releases under way.
    pub releases: Vec<ReleaseId>,
}

/// One model that a set shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownModel {
    /// The model.
    pub model: ModelName,
    /// Its live version.
    pub version: Option<Version>,
}
