//! How many of whose keys must have signed: a quorum counts distinct keys, never signatures. Also what every signed
//! document besides the manifest has in common: envelope, type and signatures over the raw bytes, then the parse.

use crate::canonical::{self, Value};
use crate::digest::Sha256;
use crate::envelope::Envelope;
use crate::key::KeyId;
use crate::root::{KeyState, RootKey};
use crate::trust::{CheckResult, Outcome, Refusal, Verdict, chain, rejected, untrusted};
use serde::{Deserialize, Serialize};

/// Keys of which a number must have signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quorum {
    /// The keys, each once.
    pub keys: Vec<KeyId>,
    /// How many of them, at least.
    pub threshold: u32,
}

impl Quorum {
    /// The signers that count here: active keys of this quorum, each once.
    pub(crate) fn counted<'a>(&self, signers: &[&'a RootKey]) -> Vec<&'a RootKey> {
        let counts = |key: &RootKey| key.state == KeyState::Active && self.keys.contains(&key.key_id);
        let mut counted: Vec<&RootKey> = Vec::new();
        for key in signers.iter().filter(|key| counts(key)) {
            if counted.iter().all(|other| other.key_id != key.key_id) {
                counted.push(key);
            }
        }
        counted
    }

    /// Whether enough signers count, each only at a moment within its window. Without a moment, windows are not asked about.
    fn demand_at(
        &self,
        check: &'static str,
        signers: &[&RootKey],
        at_ms: Option<u64>,
    ) -> Result<String, Refusal> {
        let why = |key: &&RootKey| at_ms.and_then(|at_ms| key.outside((at_ms, "")));
        let (within, outside): (Vec<&RootKey>, Vec<&RootKey>) =
            self.counted(signers).into_iter().partition(|key| why(key).is_none());
        let told = |found: String| {
            [found].into_iter().chain(outside.iter().filter_map(why)).collect::<Vec<_>>().join("; ")
        };
        match self.demand(check, &within) {
            Ok(found) => Ok(told(found)),
            Err(refusal) => Err(Refusal { detail: told(refusal.detail), ..refusal }),
        }
    }

    /// Whether enough signers count, whatever their windows say.
    pub(crate) fn demand(&self, check: &'static str, signers: &[&RootKey]) -> Result<String, Refusal> {
        let counted = self.counted(signers);
        let found = format!("{} of {} needed: {}", counted.len(), self.threshold, named(&counted));
        if counted.len() >= self.threshold as usize { Ok(found) } else { Err(untrusted(check, found)) }
    }
}

/// `alice (sha256:16ac...), bob (sha256:7f00...)`.
pub(crate) fn named(keys: &[&RootKey]) -> String {
    if keys.is_empty() {
        return "no key that counts".to_owned();
    }
    keys.iter().map(|key| format!("{} ({})", key.owner, key.key_id)).collect::<Vec<_>>().join(", ")
}

/// The known keys that signed, every one of whose signatures holds. One that does not rejects the whole.
pub(crate) fn signers<'a>(envelope: &Envelope, keys: &'a [RootKey]) -> Result<Vec<&'a RootKey>, Refusal> {
    let signed_bytes = envelope.signed_bytes();
    let mut signers = Vec::new();
    for signature in envelope.signatures() {
        let Some(key) = keys.iter().find(|key| key.key_id == signature.key_id) else { continue };
        if !key.public_key.verifies(&signed_bytes, &signature.signature) {
            let detail = format!("the signature of {} ({}) does not hold", key.owner, key.key_id);
            return Err(rejected("signature", detail));
        }
        if let KeyState::Revoked { reason, .. } = key.state
            && reason.voids_everything()
        {
            let detail = format!("{} ({}) is revoked: {reason}", key.owner, key.key_id);
            return Err(rejected("signature", detail));
        }
        signers.push(key);
    }
    Ok(signers)
}

/// What came of verifying a trust root, an order or an exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined<T> {
    /// The word.
    pub verdict: Verdict,
    /// Every check, in the order in which they were made.
    pub checks: Vec<CheckResult>,
    accepted: Option<T>,
}

impl<T> Examined<T> {
    /// What was verified, if and only if the verdict is valid.
    pub fn into_accepted(self) -> Option<T> {
        self.accepted
    }

    /// Makes the checks of these names in order; the first that fails decides, the others are then skipped.
    pub(crate) fn of(names: &[&str], make: impl FnOnce(&mut Checks) -> Result<T, Refusal>) -> Self {
        let mut checks = Checks(Vec::new());
        let (verdict, accepted) = match make(&mut checks) {
            Ok(accepted) => (Verdict::Valid, Some(accepted)),
            Err(Refusal { verdict, check, detail }) => {
                checks.note(check, Outcome::Fail, detail);
                (verdict, None)
            }
        };
        for name in names {
            if checks.0.iter().all(|check| check.name != *name) {
                checks.note(name, Outcome::Skipped, "not made: an earlier check failed");
            }
        }
        Self { verdict, checks: checks.0, accepted }
    }
}

/// Checks as they are made.
pub(crate) struct Checks(Vec<CheckResult>);

impl Checks {
    pub fn pass(&mut self, name: &str, detail: impl Into<String>) {
        self.note(name, Outcome::Pass, detail);
    }

    fn note(&mut self, name: &str, result: Outcome, detail: impl Into<String>) {
        self.0.push(CheckResult { name: name.to_owned(), result, detail: detail.into() });
    }
}

/// Reads an envelope of one type, of at most `most` bytes.
pub(crate) fn open(
    checks: &mut Checks,
    bytes: &[u8],
    (payload_type, most): (&'static str, usize),
) -> Result<Envelope, Refusal> {
    if bytes.len() > most {
        return Err(rejected("envelope", format!("{} bytes: at most {most} are read", bytes.len())));
    }
    let envelope = Envelope::parse(bytes).map_err(|error| rejected("envelope", chain(&error)))?;
    let (count, length) = (envelope.signatures().len(), envelope.payload().len());
    checks.pass("envelope", format!("{count} signature(s) over {length} bytes"));
    if envelope.payload_type() != payload_type {
        let detail = format!("`{}` is not `{payload_type}`", envelope.payload_type());
        return Err(rejected("payload-type", detail));
    }
    checks.pass("payload-type", payload_type);
    Ok(envelope)
}

/// A document whose signatures meet a quorum of the root: signatures first, then the parse. The windows of keys are asked
/// about a moment, if there is one.
pub(crate) fn signed<T: serde::de::DeserializeOwned>(
    checks: &mut Checks,
    envelope: &Envelope,
    (keys, quorum): (&[RootKey], &Quorum),
    at_ms: Option<u64>,
) -> Result<(T, Sha256), Refusal> {
    let signers = signers(envelope, keys)?;
    checks.pass("signature", format!("ECDSA P-256 of {}", named(&signers)));
    let found = quorum.demand_at("threshold", &signers, at_ms)?;
    checks.pass("threshold", found);
    let document = canonical_document(checks, envelope.payload())?;
    Ok((document, Sha256::of(envelope.payload())))
}

/// The payload as its type, if it is canonical JSON of it.
pub(crate) fn canonical_document<T: serde::de::DeserializeOwned>(
    checks: &mut Checks,
    payload: &[u8],
) -> Result<T, Refusal> {
    let _: Value =
        canonical::parse_canonical(payload).map_err(|error| rejected("canonical", chain(&error)))?;
    checks.pass("canonical", "the payload is canonical JSON");
    canonical::from_canonical(payload).map_err(|error| rejected("document", chain(&error)))
}
