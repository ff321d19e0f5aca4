//! The keys that a trust root knows: whose each is, whether it still counts, and when.

use crate::document::printable;
use crate::key::{KeyId, PublicKey};
use crate::key_window::KeyWindow;
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
    /// When it counts. The keys of the root's own quorum always do.
    pub window: KeyWindow,
}

impl RootKey {
    /// A key that counts, at any time.
    pub fn active(owner: String, public_key: PublicKey) -> Self {
        let (key_id, state, window) = (public_key.id(), KeyState::Active, KeyWindow::default());
        Self { owner, key_id, public_key, state, window }
    }

    /// Why its window keeps it from counting at this moment, and what to do about it. `of` says what the moment is, where
    /// it is not now.
    pub(crate) fn outside(&self, (at_ms, of): (u64, &str)) -> Option<String> {
        let outside = self.window.outside(at_ms)?;
        Some(format!(
            "{} is {outside}{of}: {}; have another key sign, or change its window with `turnoutctl trust window`",
            self.owner,
            outside.bound()
        ))
    }
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before_ms: Option<u64>,
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
        let WireKey { key_id, not_after_ms, not_before_ms, owner, public_key, reason, since_ms, state } =
            wire;
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
        let window = KeyWindow::new(not_before_ms, not_after_ms)
            .map_err(|error| format!("key `{key_id}` of `{}`: {error}", printable(&owner)))?;
        Ok(Self { owner, key_id, public_key, state, window })
    }
}

impl From<RootKey> for WireKey {
    fn from(key: RootKey) -> Self {
        let RootKey { owner, key_id, public_key, state, window } = key;
        let (not_before_ms, not_after_ms) = (window.not_before_ms(), window.not_after_ms());
        let (state, since_ms, reason) = match state {
            KeyState::Active => (WireState::Active, None, None),
            KeyState::Retired { since_ms } => (WireState::Retired, Some(since_ms), None),
            KeyState::Revoked { since_ms, reason } => (WireState::Revoked, Some(since_ms), Some(reason)),
        };
        Self { key_id, not_after_ms, not_before_ms, owner, public_key, reason, since_ms, state }
    }
}
