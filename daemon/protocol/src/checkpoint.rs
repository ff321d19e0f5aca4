//! Signed checkpoints of the journal, and proofs under them, as the control API carries them: texts in the formats of
//! C2SP, which tools of others read too.

use serde::{Deserialize, Serialize};

/// Reply to `GET /v1/audit/checkpoint` and `POST /v1/audit/cosignatures`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// The control API's.
    pub schema: String,
    /// Number of records under it.
    pub size: u64,
    /// The signed note (c2sp.org/tlog-checkpoint).
    pub checkpoint: String,
    /// The key that signs, as verifiers of notes take it: `NAME+ID+BASE64`.
    pub key: String,
}

/// Reply to `GET /v1/audit/proofs/{seq}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordProof {
    /// The control API's.
    pub schema: String,
    /// Number of the record.
    pub seq: u64,
    /// The proof with the record in it (c2sp.org/tlog-proof).
    pub proof: String,
    /// The key that has signed the checkpoint in it.
    pub key: String,
}

/// Reply to `GET /v1/audit/consistency`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consistency {
    /// The control API's.
    pub schema: String,
    /// Number of records in the older tree.
    pub from: u64,
    /// Root over them as they are now, hex.
    pub root: String,
    /// The consistency proof (RFC 6962 section 2.1.2), hex.
    pub hashes: Vec<String>,
    /// The newest signed checkpoint, which the proof leads to.
    pub checkpoint: String,
    /// The key that has signed it.
    pub key: String,
}

/// Body of `POST /v1/audit/cosignatures`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepCosigned {
    /// The newest checkpoint, with the signatures of witnesses beside the host's.
    pub checkpoint: String,
}
