//! What the trusted keys make of a signed manifest: valid, untrusted or rejected, with the list of checks.
//! The signature is checked over the raw bytes before any of them is parsed as a manifest.
//! Which keys are trusted is said by `trust_store`; where files are kept is left to others.

use crate::canonical;
use crate::digest::Sha256;
use crate::document::printable;
use crate::envelope::{Envelope, MANIFEST_TYPE};
use crate::judgement::{Case, Counted, Judgement};
use crate::key::KeyId;
use crate::manifest::{FileEntry, Manifest};
use crate::oms::evidence;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::io;

pub use crate::judgement::{Authority, CHANNELS_KEY, History, NoHistory, Occasion, Purpose};
pub use crate::trust_store::{ModelGlob, TRUST_SCHEMA, TrustError, TrustStore, TrustedKey};

/// Greatest number of differing files that a check names.
const FILES_NAMED_MAX: usize = 16;

/// What a signed manifest is worth. A worse one beats a better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All of it holds.
    Valid,
    /// Nothing is wrong with it, but nobody who counts for this model has signed it.
    Untrusted,
    /// It is malformed, altered, or not what its signer signed. No operator can override this.
    Rejected,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Valid => "valid",
            Self::Untrusted => "untrusted",
            Self::Rejected => "rejected",
        })
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// It was not made, because an earlier one failed or its subject was not at hand.
    Skipped,
}

/// One check of a verification, as it is printed and recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Its stable name: `envelope`, `payload-type`, `signature`, `canonical`, `manifest`, `trust`, `files`; by a signed
    /// trust root also `deny-list`, `key-state`, `channel`, `threshold`, `roles`, `expiry`, `exception`; of a bundle in
    /// the OpenSSF Model Signing format `bundle`, `payload-type`, `key`, `signature`, `statement`, `manifest`,
    /// `coverage`, `trust`, `files`.
    pub name: String,
    /// How it ended.
    pub result: Outcome,
    /// What was found, for people.
    pub detail: String,
}

/// A manifest whose signature, form and trust have been checked. Only [`verify_by`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedManifest {
    manifest: Manifest,
    digest: Sha256,
    signed_by: Vec<String>,
    key_ids: Vec<KeyId>,
}

impl VerifiedManifest {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the signed payload: the name of the version's content.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// The issuers whose signatures counted, each once.
    pub fn signed_by(&self) -> &[String] {
        &self.signed_by
    }

    /// The distinct keys whose signatures counted.
    pub fn key_ids(&self) -> &[KeyId] {
        &self.key_ids
    }
}

/// What came of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The word.
    pub verdict: Verdict,
    /// Every check, in the order in which they were made.
    pub checks: Vec<CheckResult>,
    /// SHA-256 of the payload, once there is one.
    pub digest: Option<Sha256>,
    /// Issuers whose signatures hold, whether or not they count for this model.
    pub signed_by: Vec<String>,
    manifest: Option<Manifest>,
    verified: Option<VerifiedManifest>,
}

impl Verification {
    /// The manifest, once a signature of a known key holds and it is well-formed; it may still be untrusted.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The manifest as something to act on: if the verdict is valid, or if it is untrusted and a signed exception for it
    /// holds. A rejected one never is.
    pub fn into_verified(self) -> Option<VerifiedManifest> {
        self.verified.filter(|_| self.verdict != Verdict::Rejected)
    }

    /// No verification: what whose signatures count is not known at present, and nobody can tell.
    pub fn without_authority(why: String) -> Self {
        let refused = CheckResult { name: "trust-root".to_owned(), result: Outcome::Fail, detail: why };
        Self {
            verdict: Verdict::Untrusted,
            checks: vec![refused],
            digest: None,
            signed_by: Vec::new(),
            manifest: None,
            verified: None,
        }
    }

    /// The same with the result of comparing the files; a failed one rejects the whole.
    pub fn with_files(mut self, files: CheckResult) -> Self {
        if files.result == Outcome::Fail {
            self.verdict = Verdict::Rejected;
            self.verified = None;
        }
        self.checks.retain(|check| check.name != files.name);
        self.checks.push(files);
        self
    }
}

/// Verifies a signed manifest against a plain trust store, whatever the time and the channel.
pub fn verify(envelope_bytes: &[u8], trust: &TrustStore) -> Verification {
    verify_by(envelope_bytes, Authority::Store(trust), &Occasion::plain())
}

/// Verifies a signed manifest: envelope, payload type and signature over the raw bytes, and only then its content.
/// A signature of a known key that fails rejects it; those of unknown keys neither help nor harm. In place of a signed
/// manifest there may be the [`Evidence`](crate::oms::Evidence) of a version that is signed in another format.
pub fn verify_by(envelope_bytes: &[u8], authority: Authority<'_>, occasion: &Occasion<'_>) -> Verification {
    if evidence::is_evidence(envelope_bytes) {
        return of_evidence(evidence::examine(envelope_bytes, authority, occasion));
    }
    let mut verification = Verification {
        verdict: Verdict::Valid,
        checks: Vec::new(),
        digest: None,
        signed_by: Vec::new(),
        manifest: None,
        verified: None,
    };
    if let Err(refusal) = examine(envelope_bytes, (authority, occasion), &mut verification) {
        verification.fail(refusal);
    }
    let names = ["envelope", "payload-type", "signature", "canonical", "manifest"];
    for name in names.iter().chain(authority.checks()).chain(&["files"]) {
        if verification.checks.iter().any(|check| check.name == *name) {
            continue;
        }
        let detail = if *name == "files" { "not compared" } else { "not made: an earlier check failed" };
        verification.note(name, Outcome::Skipped, detail);
    }
    verification
}

fn of_evidence(examined: evidence::Examined) -> Verification {
    let evidence::Examined { verdict, checks, digest, signed_by, counted, manifest, .. } = examined;
    let signed_by: Vec<String> = signed_by.into_iter().collect();
    let verified = match (&manifest, digest, counted) {
        (Some(manifest), Some(digest), Some(counted)) => Some(VerifiedManifest {
            manifest: manifest.clone(),
            digest,
            signed_by: counted.signed_by,
            key_ids: counted.key_ids,
        }),
        _ => None,
    };
    Verification { verdict, checks, digest, signed_by, manifest, verified }
}

/// Holds files against the manifest: none missing, none more, each of the stated length and digest. `present` are the
/// paths that exist; `read` gives digest and length of one of them.
pub fn check_files(
    manifest: &Manifest,
    present: &BTreeSet<String>,
    read: &mut dyn FnMut(&FileEntry) -> io::Result<(Sha256, u64)>,
) -> CheckResult {
    let listed: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let mut wrong: Vec<String> = present
        .iter()
        .filter(|path| !listed.contains(path.as_str()))
        .map(|path| format!("`{}` is not in the manifest", printable(path)))
        .collect();
    for file in &manifest.files {
        let path = printable(&file.path);
        if !present.contains(&file.path) {
            wrong.push(format!("`{path}` is missing"));
            continue;
        }
        match read(file) {
            Err(error) => wrong.push(format!("`{path}` cannot be read: {error}")),
            Ok((_, size)) if size != file.size => {
                wrong.push(format!("`{path}` has {size} bytes in place of {}", file.size));
            }
            Ok((digest, _)) if digest != file.sha256 => {
                wrong.push(format!("`{path}` has digest {digest} in place of {}", file.sha256));
            }
            Ok(_) => {}
        }
    }
    let name = "files".to_owned();
    if wrong.is_empty() {
        let detail = format!("{} files are as signed", manifest.files.len());
        return CheckResult { name, result: Outcome::Pass, detail };
    }
    let more = wrong.len().saturating_sub(FILES_NAMED_MAX);
    wrong.truncate(FILES_NAMED_MAX);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    CheckResult { name, result: Outcome::Fail, detail: wrong.join("; ") + &tail }
}

/// A check that failed, and what that makes of the whole.
pub(crate) struct Refusal {
    pub(crate) verdict: Verdict,
    pub(crate) check: &'static str,
    pub(crate) detail: String,
}

pub(crate) fn rejected(check: &'static str, detail: impl Into<String>) -> Refusal {
    Refusal { verdict: Verdict::Rejected, check, detail: detail.into() }
}

pub(crate) fn untrusted(check: &'static str, detail: impl Into<String>) -> Refusal {
    Refusal { verdict: Verdict::Untrusted, check, detail: detail.into() }
}

impl Verification {
    fn fail(&mut self, Refusal { verdict, check, detail }: Refusal) {
        self.verdict = self.verdict.max(verdict);
        self.verified = None;
        self.note(check, Outcome::Fail, detail);
    }

    fn note(&mut self, name: &str, result: Outcome, detail: impl Into<String>) {
        self.checks.push(CheckResult { name: name.to_owned(), result, detail: detail.into() });
    }
}

/// What follows of each check is on the ledger; a refusal ends the examination.
fn examine(
    bytes: &[u8],
    (authority, occasion): (Authority<'_>, &Occasion<'_>),
    so_far: &mut Verification,
) -> Result<(), Refusal> {
    let envelope = Envelope::parse(bytes).map_err(|error| rejected("envelope", chain(&error)))?;
    let digest = Sha256::of(envelope.payload());
    so_far.digest = Some(digest);
    let count = envelope.signatures().len();
    so_far.note(
        "envelope",
        Outcome::Pass,
        format!("{count} signature(s) over {} bytes", envelope.payload().len()),
    );

    if envelope.payload_type() != MANIFEST_TYPE {
        let detail = format!("`{}` is not `{MANIFEST_TYPE}`", envelope.payload_type());
        return Err(rejected("payload-type", detail));
    }
    so_far.note("payload-type", Outcome::Pass, MANIFEST_TYPE);

    // Whoever excepts a manifest vouches for its bytes, as its signers would: only then it is read without them.
    let excepted = matches!(authority.exception(digest, occasion), Some(Ok(_)));
    let signers = match known_signers(&envelope, authority) {
        Err(refusal) if refusal.verdict == Verdict::Untrusted && excepted => {
            so_far.fail(refusal);
            Vec::new()
        }
        found => found?,
    };
    so_far.signed_by = names(&signers);
    if !signers.is_empty() {
        let names: Vec<String> = signers.iter().map(|(name, key)| format!("{name} ({key})")).collect();
        so_far.note("signature", Outcome::Pass, format!("ECDSA P-256 of {}", names.join(", ")));
    }

    let value = canonical::parse_canonical(envelope.payload())
        .map_err(|error| rejected("canonical", chain(&error)))?;
    so_far.note("canonical", Outcome::Pass, "the payload is canonical JSON");

    let manifest = Manifest::from_value(value)
        .map_err(|problems| rejected("manifest", problems.to_string().replace('\n', "; ")))?;
    so_far.note(
        "manifest",
        Outcome::Pass,
        format!("{}, {} file(s)", manifest.reference(), manifest.files.len()),
    );
    so_far.manifest = Some(manifest.clone());

    let key_ids: Vec<KeyId> = signers.iter().map(|(_, key)| *key).collect();
    let case = Case { manifest: &manifest, digest, signers: &key_ids };
    let Judgement { verdict, checks, counted } = authority.judge(&case, occasion);
    so_far.verdict = so_far.verdict.max(verdict);
    so_far.checks.extend(checks);
    so_far.verified = counted.map(|Counted { signed_by, key_ids }| VerifiedManifest {
        manifest,
        digest,
        signed_by,
        key_ids,
    });
    Ok(())
}

/// The known keys among the signers, every one of whose signatures holds, and whose they are. They are distinct, as the
/// envelope allows each key once and an authority knows each key once.
fn known_signers<'a>(
    envelope: &Envelope,
    authority: Authority<'a>,
) -> Result<Vec<(&'a str, KeyId)>, Refusal> {
    let signed_bytes = envelope.signed_bytes();
    let mut signers = Vec::new();
    for signature in envelope.signatures() {
        let Some((name, key)) = authority.find(signature.key_id) else { continue };
        if !key.verifies(&signed_bytes, &signature.signature) {
            let detail = format!("the signature of {name} ({}) does not hold", signature.key_id);
            return Err(rejected("signature", detail));
        }
        signers.push((name, signature.key_id));
    }
    if signers.is_empty() {
        let ids: Vec<String> = envelope.signatures().iter().map(|s| s.key_id.to_string()).collect();
        let remedy = match authority {
            Authority::Store(_) => "add one with `turnoutctl trust add`",
            Authority::Root(_) => {
                "have a key that the trust root names sign it too, with `turnoutctl manifest sign DIR --append`, or \
                 name one in the next root, with `turnoutctl trust add --draft FILE`"
            }
        };
        let detail = format!("no trusted key among {}: {remedy}", ids.join(", "));
        return Err(untrusted("signature", detail));
    }
    Ok(signers)
}

/// Whose they are, in order, each once.
fn names(keys: &[(&str, KeyId)]) -> Vec<String> {
    let names: BTreeSet<&str> = keys.iter().map(|(name, _)| *name).collect();
    names.into_iter().map(str::to_owned).collect()
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
