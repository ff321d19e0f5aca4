//! The keys that a trust root knows: whose each is, and whether it still counts.

use crate::document::printable;
use crate::key::{KeyId, PublicKey};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A key that a root knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WireKey", into = "WireKey")]
pub struct RootKey {
    /// Whose it is.
    pub owner: String,
    /// Its id.
    pub key_id: KeyId,
    /// The key.
    pub public_key: PublicKey,
    /// Whether it still counts.
    pub state: KeyState,
}

/// Whether a key still counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It counts.
    Active,
    /// It signs nothing new; what this host first saw before counts on.
    Retired {
        /// From when on, milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// It does not count.
    Revoked {
        /// From when on, milliseconds since the Unix epoch.
        since_ms: u64,
        /// Why.
        reason: RevocationReason,
    },
}

/// Why a key was revoked: the reasons of RFC 5280, 5.3.1, as far as they matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationReason {
    /// Somebody else may have it: whatever it signed is rejected.
    Compromise,
    /// Another key has taken its place.
    Superseded,
    /// Its owner signs no more.
    Cessation,
}

impl RevocationReason {
    /// True if no signature of the key is worth anything, whenever it is said to have been made.
    pub fn voids_everything(self) -> bool {
        self == Self::Compromise
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Compromise => "compromise",
            Self::Superseded => "superseded",
            Self::Cessation => "cessation",
        })
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => out.pad("active"),
            Self::Retired { .. } => out.pad("retired"),
            Self::Revoked { reason, .. } => out.pad(&format!("revoked: {reason}")),
        }
    }
}

/// A key as it is written: flat, with a state and what belongs to it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireKey {
    key_id: KeyId,
    owner: String,
    public_key: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<RevocationReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    state: WireState,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WireState {
    Active,
    Retired,
    Revoked,
}

impl TryFrom<WireKey> for RootKey {
    type Error = String;
    fn try_from(wire: WireKey) -> Result<Self, String> {
        let WireKey { key_id, owner, public_key, reason, since_ms, state } = wire;
        if public_key.id() != key_id {
            return Err(format!(
                "key of `{}` has the id `{}`, but `{key_id}` stands beside it",
                printable(&owner),
                public_key.id()
            ));
        }
        let state = match (state, since_ms, reason) {
            (WireState::Active, None, None) => KeyState::Active,
            (WireState::Retired, Some(since_ms), None) => KeyState::Retired { since_ms },
            (WireState::Revoked, Some(since_ms), Some(reason)) => KeyState::Revoked { since_ms, reason },
            _ => {
                return Err(format!(
                    "key `{key_id}`: an active key has no `since_ms` and `reason`, a retired one `since_ms`, a revoked one both"
                ));
            }
        };
        Ok(Self { owner, key_id, public_key, state })
    }
}

impl From<RootKey> for WireKey {
    fn from(key: RootKey) -> Self {
        let RootKey { owner, key_id, public_key, state } = key;
        let (state, since_ms, reason) = match state {
            KeyState::Active => (WireState::Active, None, None),
            KeyState::Retired { since_ms } => (WireState::Retired, Some(since_ms), None),
            KeyState::Revoked { since_ms, reason } => (WireState::Revoked, Some(since_ms), Some(reason)),
        };
        Self { key_id, owner, public_key, reason, since_ms, state }
    }
}
