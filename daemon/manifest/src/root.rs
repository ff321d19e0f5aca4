//! The trust root: one signed document that says which keys there are, whose signatures count for what and how many of
//! them, and what is denied. Its form and what must hold of it; who may replace it is in `root_chain`, what it makes of a
//! manifest in `judgement`.

use crate::canonical::{self, CanonicalError};
use crate::digest::Sha256;
use crate::document::{deceptive, printable};
use crate::ids::{Channel, ModelName};
use crate::key::KeyId;
pub use crate::key_window::{EmptyWindow, KeyWindow, Outside};
use crate::quorum::Quorum;
pub use crate::root_key::{KeyState, RevocationReason, RootKey};
use crate::trust_store::{GLOBS_MAX, KEYS_MAX, ModelGlob, check_owner};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The payload type of a trust root.
pub const ROOT_TYPE: &str = "application/vnd.turnout.trust-root.v1+json";
/// The schema name of a trust root's JSON.
pub const ROOT_SCHEMA: &str = "turnout.trust-root/v1";
/// Greatest number of issuers.
pub const ISSUERS_MAX: usize = 64;
/// Greatest number of denied manifests.
pub const DENIED_MAX: usize = 1024;
/// Greatest number of channels in one list.
pub const CHANNELS_MAX: usize = 16;
/// Greatest length of a reason, bytes.
pub const REASON_MAX: usize = 256;

/// One signed document that says whose signatures count, for what, and how many of them. Times are milliseconds since the
/// Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    /// [`ROOT_SCHEMA`].
    pub schema: String,
    /// 1 for the first; each next one is greater by exactly one.
    pub version: u64,
    /// When it was written, as its author says.
    pub created_ms: u64,
    /// From when on nothing new may be deployed by it. What runs goes on.
    pub expires_ms: u64,
    /// Every key, each once, with its state.
    pub keys: Vec<RootKey>,
    /// Who may replace this document.
    pub root: Quorum,
    /// Who may sign which versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    /// Who may order releases, and where an order is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orders: Option<OrderPolicy>,
    /// Who may except an untrusted version for a time, and on which channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exceptions: Option<ExceptionPolicy>,
    /// Manifests that must not run, whoever signed them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Denied>,
}

/// What a signer does in a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignerRole {
    /// Made the version.
    Builder,
    /// Looked at it and agrees.
    Approver,
}

impl fmt::Display for SignerRole {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Builder => "builder",
            Self::Approver => "approver",
        })
    }
}

/// A key of an issuer, and what it may sign as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The key.
    pub key_id: KeyId,
    /// What its owner may be in a release; none where the issuer requires no roles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<SignerRole>,
}

/// Whose signatures count for which models on which channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// Its name.
    pub name: String,
    /// Its keys, each once.
    pub keys: Vec<Member>,
    /// How many of them must have signed, at least.
    pub threshold: u32,
    /// The models it may sign.
    pub models: Vec<ModelGlob>,
    /// The channels it may sign for.
    pub channels: Vec<Channel>,
    /// Roles that must each be filled, by keys that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<SignerRole>,
}

impl Issuer {
    /// True if it may sign versions of this model for this channel.
    pub fn covers(&self, model: &ModelName, channel: &Channel) -> bool {
        self.channels.contains(channel) && self.models.iter().any(|glob| glob.matches(model))
    }

    /// True if these keys can fill every required role, each key one role at most.
    pub fn fills_roles(&self, signers: &[KeyId]) -> bool {
        let may = |role: SignerRole| -> Vec<KeyId> {
            let fits = |member: &&Member| member.roles.contains(&role) && signers.contains(&member.key_id);
            self.keys.iter().filter(fits).map(|member| member.key_id).collect()
        };
        match self.require.as_slice() {
            [] => true,
            [only] => !may(*only).is_empty(),
            [first, second, ..] => {
                let (first, second) = (may(*first), may(*second));
                first.iter().any(|one| second.iter().any(|other| one != other))
            }
        }
    }
}

/// Who may order releases, and where an order is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderPolicy {
    /// Who signs orders.
    pub signers: Quorum,
    /// The series that counters belong to. It grows when order keys change, and counting begins anew.
    pub epoch: u64,
    /// Smallest counter that is accepted, by channel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub floors: BTreeMap<Channel, u64>,
    /// Channels on which nothing is released without an order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<Channel>,
}

/// Who may except an untrusted version for a time, and on which channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExceptionPolicy {
    /// Who signs exceptions.
    pub signers: Quorum,
    /// Where they are accepted; `prod` only where it stands here.
    pub channels: Vec<Channel>,
}

/// A manifest that must not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// Its digest.
    pub manifest: Sha256,
    /// Why, for people.
    pub reason: String,
}

/// Why a document is no trust root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Not the canonical JSON of a root.
    #[error("not a trust root in canonical JSON")]
    Json(#[source] CanonicalError),
    /// Another schema than [`ROOT_SCHEMA`].
    #[error("schema `{0}` is not `{ROOT_SCHEMA}`")]
    Schema(String),
    /// Versions begin at 1.
    #[error("version 0: the first trust root has version 1")]
    Version,
    /// It is over before it begins.
    #[error("it expires before it was created")]
    Lifetime,
    /// A name outside its alphabet.
    #[error("`{0}` is no name of an owner or issuer: write 1 to 64 of a-z A-Z 0-9 . - _ @")]
    Name(String),
    /// Something stands twice where it may stand once.
    #[error("{what} `{name}` stands twice")]
    Twice {
        /// What.
        what: String,
        /// Which.
        name: String,
    },
    /// A key that is used and not listed.
    #[error("{role} has key `{key_id}`, which is not among `keys`")]
    UnknownKey {
        /// Who uses it.
        role: String,
        /// The key.
        key_id: KeyId,
    },
    /// A threshold that nobody or everybody meets.
    #[error("{role} has threshold {threshold}, and {keys} key(s) that could meet it")]
    Threshold {
        /// Whose threshold.
        role: String,
        /// What it is.
        threshold: u32,
        /// How many keys there are; of `root`, how many are active.
        keys: usize,
    },
    /// A key that may replace the document, and counts for a time only.
    #[error(
        "`root` has key `{key_id}` of `{owner}`, which has a window: the expiry alone bounds who may change the root; \
         take the window away, or the key out of `root`"
    )]
    RootWindow {
        /// Whose it is.
        owner: String,
        /// The key.
        key_id: KeyId,
    },
    /// Roles are required that no two keys can fill.
    #[error("issuer `{0}` requires roles that its keys cannot fill: give the roles to two keys")]
    Roles(String),
    /// Too many, or none where some are needed.
    #[error("{what}: {count} where {least} to {most} are allowed")]
    Count {
        /// Of what.
        what: String,
        /// How many there are.
        count: usize,
        /// Least.
        least: usize,
        /// Most.
        most: usize,
    },
    /// A reason that is no plain short text.
    #[error("`{0}` is no reason: write 1 to {REASON_MAX} bytes of plain text")]
    Reason(String),
}

impl TrustRoot {
    /// Reads the canonical JSON of a root. Nothing is known yet of who signed it.
    ///
    /// # Errors
    /// Any [`RootError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, RootError> {
        let root: Self = canonical::from_canonical(bytes).map_err(RootError::Json)?;
        root.check()?;
        Ok(root)
    }

    /// The canonical JSON: what is signed.
    ///
    /// # Errors
    /// Any [`RootError`]: what does not hold is not written.
    pub fn to_json(&self) -> Result<Vec<u8>, RootError> {
        self.check()?;
        canonical::to_canonical(self).map_err(RootError::Json)
    }

    /// The key with this id.
    pub fn find(&self, key_id: KeyId) -> Option<&RootKey> {
        self.keys.iter().find(|key| key.key_id == key_id)
    }

    /// Why the manifest must not run, if it must not.
    pub fn denied(&self, manifest: Sha256) -> Option<&str> {
        self.deny.iter().find(|denied| denied.manifest == manifest).map(|denied| denied.reason.as_str())
    }

    /// True if nothing is released on this channel without an order.
    pub fn requires_order(&self, channel: &Channel) -> bool {
        self.orders.as_ref().is_some_and(|orders| orders.required.contains(channel))
    }

    /// What must hold of the values, however they came together.
    ///
    /// # Errors
    /// The first [`RootError`].
    pub fn check(&self) -> Result<(), RootError> {
        if self.schema != ROOT_SCHEMA {
            return Err(RootError::Schema(printable(&self.schema)));
        }
        if self.version == 0 {
            return Err(RootError::Version);
        }
        if self.expires_ms <= self.created_ms {
            return Err(RootError::Lifetime);
        }
        count("keys", self.keys.len(), (1, KEYS_MAX))?;
        once("key", self.keys.iter().map(|key| key.key_id.to_string()))?;
        for key in &self.keys {
            check_owner(&key.owner).map_err(|()| RootError::Name(printable(&key.owner)))?;
        }
        self.check_quorum("`root`", &self.root)?;
        // Fewer that can still sign would shut everybody out for ever.
        let able = self.root.keys.iter().filter(|key| self.is_active(**key)).count();
        if able < self.root.threshold as usize {
            let (role, threshold) = ("`root`".to_owned(), self.root.threshold);
            return Err(RootError::Threshold { role, threshold, keys: able });
        }
        self.check_root_windows()?;
        count("issuers", self.issuers.len(), (0, ISSUERS_MAX))?;
        once("issuer", self.issuers.iter().map(|issuer| issuer.name.clone()))?;
        self.issuers.iter().try_for_each(|issuer| self.check_issuer(issuer))?;
        if let Some(orders) = &self.orders {
            self.check_quorum("`orders`", &orders.signers)?;
            count("`orders.floors`", orders.floors.len(), (0, CHANNELS_MAX))?;
            check_channels("`orders.required`", &orders.required, 0)?;
        }
        if let Some(exceptions) = &self.exceptions {
            self.check_quorum("`exceptions`", &exceptions.signers)?;
            check_channels("`exceptions.channels`", &exceptions.channels, 1)?;
        }
        self.check_deny()
    }

    /// A chain of roots must replay to the same answer at any time, so none of its keys depends on one.
    fn check_root_windows(&self) -> Result<(), RootError> {
        let mut keys = self.root.keys.iter().filter_map(|key| self.find(*key));
        match keys.find(|key| key.window.is_bounded()) {
            Some(key) => Err(RootError::RootWindow { owner: key.owner.clone(), key_id: key.key_id }),
            None => Ok(()),
        }
    }

    fn check_quorum(&self, role: &str, quorum: &Quorum) -> Result<(), RootError> {
        once(&format!("{role}: key"), quorum.keys.iter().map(KeyId::to_string))?;
        self.check_threshold(role, &quorum.keys, quorum.threshold)
    }

    fn check_threshold(&self, role: &str, keys: &[KeyId], threshold: u32) -> Result<(), RootError> {
        if let Some(key_id) = keys.iter().find(|key| self.find(**key).is_none()) {
            return Err(RootError::UnknownKey { role: role.to_owned(), key_id: *key_id });
        }
        if threshold == 0 || threshold as usize > keys.len() {
            return Err(RootError::Threshold { role: role.to_owned(), threshold, keys: keys.len() });
        }
        Ok(())
    }

    fn is_active(&self, key_id: KeyId) -> bool {
        self.find(key_id).is_some_and(|key| key.state == KeyState::Active)
    }

    fn check_issuer(&self, issuer: &Issuer) -> Result<(), RootError> {
        check_owner(&issuer.name).map_err(|()| RootError::Name(printable(&issuer.name)))?;
        let role = format!("issuer `{}`", issuer.name);
        let keys: Vec<KeyId> = issuer.keys.iter().map(|member| member.key_id).collect();
        once(&format!("{role}: key"), keys.iter().map(KeyId::to_string))?;
        self.check_threshold(&role, &keys, issuer.threshold)?;
        count(&format!("{role}: models"), issuer.models.len(), (1, GLOBS_MAX))?;
        check_channels(&format!("{role}: channels"), &issuer.channels, 1)?;
        once(&format!("{role}: role"), issuer.require.iter().map(SignerRole::to_string))?;
        for member in &issuer.keys {
            once(&format!("{role}: role of a key"), member.roles.iter().map(SignerRole::to_string))?;
        }
        if issuer.fills_roles(&keys) { Ok(()) } else { Err(RootError::Roles(issuer.name.clone())) }
    }

    fn check_deny(&self) -> Result<(), RootError> {
        count("`deny`", self.deny.len(), (0, DENIED_MAX))?;
        once("`deny`: manifest", self.deny.iter().map(|denied| denied.manifest.to_string()))?;
        self.deny.iter().try_for_each(|denied| check_reason(&denied.reason))
    }
}

/// A reason is a short plain text.
pub(crate) fn check_reason(reason: &str) -> Result<(), RootError> {
    let plain = (1..=REASON_MAX).contains(&reason.len()) && !reason.chars().any(deceptive);
    if plain { Ok(()) } else { Err(RootError::Reason(printable(reason))) }
}

fn check_channels(what: &str, channels: &[Channel], least: usize) -> Result<(), RootError> {
    count(what, channels.len(), (least, CHANNELS_MAX))?;
    once(&format!("{what}: channel"), channels.iter().map(Channel::to_string))
}

fn count(what: &str, count: usize, (least, most): (usize, usize)) -> Result<(), RootError> {
    if (least..=most).contains(&count) {
        return Ok(());
    }
    Err(RootError::Count { what: what.to_owned(), count, least, most })
}

fn once(what: &str, names: impl Iterator<Item = String>) -> Result<(), RootError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name.clone()) {
            return Err(RootError::Twice { what: what.to_owned(), name });
        }
    }
    Ok(())
}
