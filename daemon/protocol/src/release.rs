//! What a release is, as sent.

use serde::{Deserialize, Serialize};

/// Why a release exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseKind {
    /// Somebody asked for this version.
    #[default]
    Release,
    /// Somebody asked for the version that was live before.
    Return,
    /// The live version's worker died and is brought up again.
    Restart,
}
