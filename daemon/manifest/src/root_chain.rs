//! The chain of trust roots: each signed by the thresholds of the one before and of itself, each greater by exactly one.
//! Whoever holds all of them can replay the chain from the first. Where they are kept is left to others.

use crate::digest::Sha256;
use crate::envelope::Envelope;
use crate::quorum::{self, Checks, Examined, named};
use crate::root::{KeyState, ROOT_TYPE, RootKey, TrustRoot};
use crate::trust::{Refusal, chain, rejected, untrusted};

/// Greatest length of a signed root, bytes.
pub const SIGNED_ROOT_MAX: usize = 512 * 1024;
/// The one file of each version below a folder of roots.
pub const ROOT_FILE_SUFFIX: &str = ".dsse.json";

const CHECKS: [&str; 9] = [
    "envelope",
    "payload-type",
    "signature",
    "old-threshold",
    "canonical",
    "document",
    "version",
    "new-threshold",
    "successor",
];

/// A root that whoever may has signed: the first one, or one whose forerunners are all known. Only [`SignedRoot::first`]
/// and [`SignedRoot::next`] make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRoot {
    root: TrustRoot,
    digest: Sha256,
    bytes: Vec<u8>,
}

impl SignedRoot {
    /// The root.
    pub fn root(&self) -> &TrustRoot {
        &self.root
    }

    /// SHA-256 of its signed payload.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// The envelope as it came.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The first root: version 1, signed by its own threshold. Nothing vouches for it but whoever brings it.
    pub fn first(bytes: &[u8]) -> Examined<Self> {
        Examined::of(
            &CHECKS.map(|name| if name == "old-threshold" { "new-threshold" } else { name }),
            |checks| {
                let envelope = open(checks, bytes)?;
                // Its keys stand in it alone: it has to be read before its signatures can be checked.
                let root = parse(checks, &envelope)?;
                if root.version != 1 {
                    let detail =
                        format!("version {} where the first is due: apply version 1 before it", root.version);
                    return Err(rejected("version", detail));
                }
                checks.pass("version", "1, the first");
                let signers = quorum::signers(&envelope, &root.keys)?;
                checks.pass("signature", format!("ECDSA P-256 of {}", named(&signers)));
                let found = root.root.demand("new-threshold", &signers)?;
                checks.pass("new-threshold", found);
                checks.pass("successor", "of none");
                Ok(Self::new(root, &envelope, bytes))
            },
        )
    }

    /// The root after this one: its version is greater by exactly one, and the thresholds of both have signed it.
    pub fn next(&self, bytes: &[u8]) -> Examined<Self> {
        Examined::of(&CHECKS, |checks| {
            let envelope = open(checks, bytes)?;
            let old = quorum::signers(&envelope, &self.root.keys)?;
            checks.pass("signature", format!("ECDSA P-256 of {}", named(&old)));
            match self.root.root.demand("old-threshold", &old) {
                Ok(found) => checks.pass("old-threshold", found),
                Err(refusal) => return Err(self.takeover(&envelope, &old).unwrap_or(refusal)),
            }
            let root = parse(checks, &envelope)?;
            self.check_version(&root)?;
            checks.pass("version", format!("{} after {}", root.version, self.root.version));
            let new = quorum::signers(&envelope, &root.keys)?;
            let found = root.root.demand("new-threshold", &new)?;
            checks.pass("new-threshold", found);
            self.check_successor(&root)?;
            checks.pass("successor", format!("of {}", self.digest));
            Ok(Self::new(root, &envelope, bytes))
        })
    }

    fn new(root: TrustRoot, envelope: &Envelope, bytes: &[u8]) -> Self {
        Self { root, digest: Sha256::of(envelope.payload()), bytes: bytes.to_vec() }
    }

    /// A root that nobody of the old root's keys has signed, only keys that nobody knows: not short of signatures, but an
    /// attempt to take the root over.
    fn takeover(&self, envelope: &Envelope, known: &[&RootKey]) -> Option<Refusal> {
        let stranger = envelope.signatures().iter().any(|s| self.root.find(s.key_id).is_none());
        let none = known.is_empty() && stranger;
        none.then(|| rejected("old-threshold", "signed by keys alone that the root in force does not know"))
    }

    fn check_version(&self, root: &TrustRoot) -> Result<(), Refusal> {
        let (old, new) = (self.root.version, root.version);
        let next = old + 1;
        let detail = match new {
            _ if new == next => return Ok(()),
            _ if new == old => format!("another document of version {new}, which is in force"),
            _ if new < old => format!("version {new} is older than {old}, which is in force"),
            _ => format!("version {new} where {next} is due: apply the ones between first"),
        };
        Err(rejected("version", detail))
    }

    /// What one version must not take back from another.
    fn check_successor(&self, root: &TrustRoot) -> Result<(), Refusal> {
        let epoch = |root: &TrustRoot| root.orders.as_ref().map_or(0, |orders| orders.epoch);
        let (before, after) = (epoch(&self.root), epoch(root));
        if root.orders.is_some() && after < before {
            let detail = format!("the epoch of orders goes back from {before} to {after}");
            return Err(rejected("successor", detail));
        }
        for key in &self.root.keys {
            let void = |key: &RootKey| matches!(key.state, KeyState::Revoked { reason, .. } if reason.voids_everything());
            let again = root.find(key.key_id).is_none_or(|now| !void(now));
            if void(key) && again {
                let detail =
                    format!("{} ({}) was revoked for compromise and must stay so", key.owner, key.key_id);
                return Err(rejected("successor", detail));
            }
        }
        Ok(())
    }
}

fn open(checks: &mut Checks, bytes: &[u8]) -> Result<Envelope, Refusal> {
    quorum::open(checks, bytes, (ROOT_TYPE, SIGNED_ROOT_MAX))
}

fn parse(checks: &mut Checks, envelope: &Envelope) -> Result<TrustRoot, Refusal> {
    let root: TrustRoot = quorum::canonical_document(checks, envelope.payload())?;
    root.check().map_err(|error| rejected("document", chain(&error)))?;
    checks.pass("document", format!("trust root {}, {} key(s)", root.version, root.keys.len()));
    Ok(root)
}

/// Whether a clock can be right, seen from a root: it is not before this program was made, nor before the root was.
pub(crate) fn check_clock(root: &TrustRoot, now_ms: u64) -> Result<(), Refusal> {
    if now_ms < EARLIEST_MS || now_ms + DAY_MS < root.created_ms {
        return Err(untrusted("expiry", "clock: it is behind the trust root or this program; set it right"));
    }
    Ok(())
}

/// 1 November 2026: no clock that is right shows an earlier time.
const EARLIEST_MS: u64 = 1_793_491_200_000;
/// How far the clocks of whoever signs and of this host may be apart.
const DAY_MS: u64 = 86_400_000;
