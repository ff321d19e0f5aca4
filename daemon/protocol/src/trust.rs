//! The control API's requests and replies about signed trust roots, exceptions and orders, held against `openapi.yaml`
//! by a test.

use serde::{Deserialize, Serialize};
use turnout_manifest::trust::CheckResult;
use turnout_manifest::{Channel, HostName, ModelName, Sha256, TrustRoot};

/// Reply to `GET /v1/trust/root`, and to what changes it: whose signatures count, and what was used up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustState {
    /// [`SCHEMA`](crate::control::SCHEMA).
    pub schema: String,
    /// What release orders call this host.
    pub host: HostName,
    /// The groups that it belongs to.
    pub groups: Vec<HostName>,
    /// Channels that it serves.
    pub channels: Vec<Channel>,
    /// The signed root in force; none where single keys count.
    pub root: Option<RootInForce>,
    /// Why nothing new is trusted at present, if nothing is.
    pub lost: Option<String>,
    /// The last order of each channel.
    pub orders: Vec<LastOrder>,
    /// Exceptions that were accepted.
    pub exceptions: Vec<AcceptedException>,
}

/// The signed root in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootInForce {
    /// SHA-256 of its signed payload.
    pub digest: Sha256,
    /// What it says.
    pub document: TrustRoot,
}

/// The last order of one channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastOrder {
    /// The channel.
    pub channel: Channel,
    /// Its epoch.
    pub epoch: u64,
    /// Its counter.
    pub counter: u64,
    /// SHA-256 of its signed payload.
    pub digest: Sha256,
}

/// An exception that was accepted. Whether it still holds is decided when it is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AcceptedException {
    /// Digest of the manifest that it is for.
    pub manifest: Sha256,
    /// Its model.
    pub model: ModelName,
    /// Its channel.
    pub channel: Channel,
    /// Why.
    pub reason: String,
    /// When it expires, milliseconds since the Unix epoch.
    pub expires_ms: u64,
    /// The signed exception as it came.
    pub envelope: String,
}

/// `POST /v1/trust/root` and `POST /v1/trust/exceptions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyTrust {
    /// The signed document: the canonical JSON of its envelope.
    pub envelope: String,
}

/// Reply to `POST /v1/trust/root` and `POST /v1/trust/exceptions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustApplied {
    /// [`SCHEMA`](crate::control::SCHEMA).
    pub schema: String,
    /// SHA-256 of the signed payload.
    pub digest: Sha256,
    /// It was in force already, and nothing was changed.
    pub already_there: bool,
    /// Every check with its result.
    pub checks: Vec<CheckResult>,
    /// Versions in the store that cannot be released any more, `model@version: why`.
    pub shut_out: Vec<String>,
}

/// Reply to `GET /v1/trust/root/history`: every signed root, from the first to the one in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustHistory {
    /// [`SCHEMA`](crate::control::SCHEMA).
    pub schema: String,
    /// The envelopes as they came, in order.
    pub roots: Vec<String>,
}
