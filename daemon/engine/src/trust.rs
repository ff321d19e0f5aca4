//! What the journal says about trust: which signed root is in force, which orders were used, which exceptions hold, and
//! when each manifest was first seen. Its records, and their fold. Signatures are verified before a record is written.

use crate::world::Stamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use turnout_manifest::order::UsedOrder;
use turnout_manifest::trust::{CheckResult, History};
use turnout_manifest::{Channel, ModelName, Sha256, VersionRef};

/// Greatest number of exceptions that are remembered; the one that expires first goes first.
pub const EXCEPTIONS_MAX: usize = 256;

/// A record about trust. On the wire it stands among the others, by its own `event`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum TrustRecord {
    /// A signed trust root is in force from now on.
    RootAccepted {
        /// Who brought it.
        by: String,
        /// Its version.
        root: u64,
        /// SHA-256 of its signed payload.
        digest: Sha256,
        /// Every check with its result.
        checks: Vec<CheckResult>,
    },
    /// A signed exception holds from now on.
    ExceptionAccepted {
        /// Who brought it.
        by: String,
        /// Digest of the manifest that it is for.
        manifest: Sha256,
        /// Its model.
        model: ModelName,
        /// Its channel.
        channel: Channel,
        /// Why, in the words that were signed.
        reason: String,
        /// When it expires, milliseconds since the epoch.
        expires_ms: u64,
        /// The signed exception as it came: it is verified again whenever it is used.
        envelope: String,
        /// Version of the trust root that it was verified against.
        root: u64,
        /// Every check with its result.
        checks: Vec<CheckResult>,
    },
    /// A signed order is used up by the release that is planned next.
    OrderUsed {
        /// Who brought it.
        by: String,
        /// What it orders.
        version: VersionRef,
        /// Digest of the version's manifest.
        manifest: Sha256,
        /// Its channel.
        channel: Channel,
        /// Its place in the series.
        order: UsedOrder,
        /// Version of the trust root that it was verified against.
        root: u64,
        /// Every check with its result.
        checks: Vec<CheckResult>,
    },
}

/// A signed order with what was found of it, brought with the wish for a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its channel.
    pub channel: Channel,
    /// Its place in the series.
    pub order: UsedOrder,
    /// Version of the trust root that it was verified against.
    pub root: u64,
    /// Every check with its result.
    pub checks: Vec<CheckResult>,
}

/// The signed root in force, as far as the journal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRoot {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its signed payload.
    pub digest: Sha256,
}

/// An exception that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownException {
    /// Its model.
    pub model: ModelName,
    /// Its channel.
    pub channel: Channel,
    /// Why.
    pub reason: String,
    /// When it expires, milliseconds since the epoch.
    pub expires_ms: u64,
    /// The signed exception.
    pub envelope: String,
}

/// Everything that the journal says about trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustLog {
    /// The highest root that was ever accepted.
    pub root: Option<KnownRoot>,
    /// The last order of each channel.
    pub orders: BTreeMap<Channel, UsedOrder>,
    /// Exceptions by manifest, the newest of each.
    pub exceptions: BTreeMap<Sha256, KnownException>,
    /// When each manifest was first taken in, milliseconds since the epoch.
    pub first_seen: BTreeMap<Sha256, u64>,
}

impl History for TrustLog {
    fn first_seen_ms(&self, manifest: Sha256) -> Option<u64> {
        self.first_seen.get(&manifest).copied()
    }

    fn exception(&self, manifest: Sha256) -> Option<&str> {
        self.exceptions.get(&manifest).map(|known| known.envelope.as_str())
    }
}

impl TrustLog {
    /// Takes in that a version was imported.
    pub(crate) fn saw(&mut self, manifest: Sha256, stamp: Stamp) {
        self.first_seen.entry(manifest).or_insert(stamp.at_ms);
    }

    /// Takes in one record.
    pub(crate) fn apply(&mut self, record: &TrustRecord) {
        match record {
            TrustRecord::RootAccepted { root, digest, .. } => {
                let known = KnownRoot { version: *root, digest: *digest };
                if self.root.is_none_or(|before| before.version < known.version) {
                    self.root = Some(known);
                }
            }
            TrustRecord::ExceptionAccepted {
                manifest, model, channel, reason, expires_ms, envelope, ..
            } => {
                let known = KnownException {
                    model: model.clone(),
                    channel: channel.clone(),
                    reason: reason.clone(),
                    expires_ms: *expires_ms,
                    envelope: envelope.clone(),
                };
                self.exceptions.insert(*manifest, known);
                self.forget_exceptions();
            }
            TrustRecord::OrderUsed { channel, order, .. } => {
                let last = self.orders.entry(channel.clone()).or_insert(*order);
                if (last.epoch, last.counter) < (order.epoch, order.counter) {
                    *last = *order;
                }
            }
        }
    }

    fn forget_exceptions(&mut self) {
        while self.exceptions.len() > EXCEPTIONS_MAX {
            let first = self.exceptions.iter().min_by_key(|(_, known)| known.expires_ms);
            let Some(manifest) = first.map(|(manifest, _)| *manifest) else { return };
            self.exceptions.remove(&manifest);
        }
    }
}
