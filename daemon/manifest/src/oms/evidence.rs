//! A version that only a bundle vouches for: the bundle as it was signed, and beside it the manifest that whoever imports
//! it states. The bundle says which files there are; the manifest says what the version is called and what its contract
//! is, and may say nothing of the files that the bundle does not. It is kept where a signed manifest would be.

use super::{Coverage, Signer, Signers, Statement};
use crate::canonical::{self, CanonicalError, Value};
use crate::digest::Sha256;
use crate::document::printable;
use crate::judgement::{Authority, Case, Counted, Occasion};
use crate::key::PublicKey;
use crate::manifest::Manifest;
use crate::trust::{CheckResult, Outcome, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// The schema name of the evidence's JSON.
pub const EVIDENCE_SCHEMA: &str = "turnout.oms-evidence/v1";
/// Files of a signed folder that are about the version and no part of it.
pub const ASIDE: [&str; 2] = ["turnout.yaml", "turnout.dsse.json"];
/// The canonical form begins with its first member, and no envelope's does.
const BEGIN: &[u8] = b"{\"bundle\":";

/// A bundle with a manifest that it vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The bundle as it was signed.
    pub bundle: String,
    /// Paths, besides the git names, that the signature is allowed to leave out.
    pub allowed: Vec<String>,
    /// What the version is, as stated by who imports it.
    pub manifest: Manifest,
}

/// What came of looking at an evidence.
pub(crate) struct Examined {
    pub verdict: Verdict,
    pub checks: Vec<CheckResult>,
    pub digest: Option<Sha256>,
    pub signed_by: Option<String>,
    pub key: Option<PublicKey>,
    /// Set when the version may be acted on.
    pub counted: Option<Counted>,
    pub manifest: Option<Manifest>,
}

/// True for what can only be an evidence, whether or not it is well-formed.
pub(crate) fn is_evidence(bytes: &[u8]) -> bool {
    bytes.starts_with(BEGIN)
}

impl Evidence {
    /// The canonical JSON form.
    ///
    /// # Errors
    /// [`CanonicalError`] when it would be larger than a document may be.
    pub fn to_json(&self) -> Result<Vec<u8>, CanonicalError> {
        let manifest = canonical::parse(&self.manifest.to_canonical()?)?;
        let allowed = self.allowed.iter().cloned().map(Value::String).collect();
        let members = BTreeMap::from([
            ("bundle".to_owned(), Value::String(self.bundle.clone())),
            ("ignored".to_owned(), Value::Array(allowed)),
            ("manifest".to_owned(), manifest),
            ("schema".to_owned(), Value::String(EVIDENCE_SCHEMA.to_owned())),
        ]);
        let bytes = Value::Object(members).to_bytes();
        if bytes.len() > canonical::DOCUMENT_MAX {
            Err(CanonicalError::TooLarge(bytes.len()))
        } else {
            Ok(bytes)
        }
    }
}

/// Verifies an evidence: the bundle as any other, then the manifest beside it, then that both speak of the same files,
/// then whether the signer counts for this model.
pub(crate) fn examine(bytes: &[u8], authority: Authority<'_>, occasion: &Occasion<'_>) -> Examined {
    let (bundle, allowed, manifest) = match read(bytes) {
        Ok(parts) => parts,
        Err(what) => {
            let mut examined = Examined::after(super::Verification::refused("bundle", what));
            examined.skip_the_rest(authority);
            return examined;
        }
    };
    let signer = |(name, key): (&str, &PublicKey)| Signer { name: name.to_owned(), key: key.clone() };
    let signers = Signers::Keys(authority.keys().into_iter().map(signer).collect());
    let verification = super::verify(bundle.as_bytes(), &signers, &allowed);
    let statement = verification.statement().cloned();
    let mut examined = Examined::after(verification);
    if let (Verdict::Valid, Some(statement)) = (examined.verdict, statement)
        && let Err((verdict, check, detail)) = examined.hold(manifest, &statement, (authority, occasion))
    {
        examined.verdict = verdict;
        examined.note(check, Outcome::Fail, detail);
    }
    examined.skip_the_rest(authority);
    examined
}

/// A verdict, the check it comes from and what was found.
type Refusal = (Verdict, &'static str, String);

impl Examined {
    /// Takes over the checks of the bundle; the files are compared later, against the manifest.
    fn after(verification: super::Verification) -> Self {
        let mut checks = verification.checks;
        checks.retain(|check| check.name != "files");
        let (verdict, signed_by, key) = (verification.verdict, verification.signed_by, verification.key);
        Self { verdict, checks, digest: None, signed_by, key, counted: None, manifest: None }
    }

    fn note(&mut self, name: &str, result: Outcome, detail: impl Into<String>) {
        self.checks.push(CheckResult { name: name.to_owned(), result, detail: detail.into() });
    }

    fn skip_the_rest(&mut self, authority: Authority<'_>) {
        for name in ["manifest", "coverage"].iter().chain(authority.checks()).chain(&["files"]) {
            if self.checks.iter().all(|check| check.name != *name) {
                let detail =
                    if *name == "files" { "not compared" } else { "not made: an earlier check failed" };
                self.note(name, Outcome::Skipped, detail);
            }
        }
    }

    fn hold(
        &mut self,
        manifest: Value,
        statement: &Statement,
        (authority, occasion): (Authority<'_>, &Occasion<'_>),
    ) -> Result<(), Refusal> {
        let refused = |check, detail: String| (Verdict::Rejected, check, detail);
        let digest = Sha256::of(&manifest.to_bytes());
        self.digest = Some(digest);
        let manifest = Manifest::from_value(manifest)
            .map_err(|problems| refused("manifest", problems.to_string().replace('\n', "; ")))?;
        let (reference, count) = (manifest.reference(), manifest.files.len());
        self.note("manifest", Outcome::Pass, format!("{reference}, {count} file(s), stated at import"));
        self.manifest = Some(manifest.clone());
        check_coverage(&manifest, statement).map_err(|what| refused("coverage", what))?;
        self.note("coverage", Outcome::Pass, "the manifest lists the signed files and no others");
        let signers: Vec<_> = self.key.iter().map(PublicKey::id).collect();
        let judgement = authority.judge(&Case { manifest: &manifest, digest, signers: &signers }, occasion);
        self.verdict = judgement.verdict;
        self.checks.extend(judgement.checks);
        self.counted = judgement.counted;
        Ok(())
    }
}

fn read(bytes: &[u8]) -> Result<(String, BTreeSet<String>, Value), String> {
    let value = canonical::parse_canonical(bytes).map_err(|error| super::chain(&error))?;
    let shape = |error: super::ShapeError| error.to_string();
    let mut members = super::members::Members::of(value, "").map_err(shape)?;
    members.constant("schema", EVIDENCE_SCHEMA).map_err(shape)?;
    let bundle = members.text("bundle").map_err(shape)?;
    let ignored = members.list("ignored").map_err(shape)?;
    let manifest = members.take("manifest").ok_or("`manifest` is missing")?;
    members.nothing_more().map_err(shape)?;
    let text = |value| match value {
        Value::String(text) => Ok(text),
        _ => Err("`ignored` holds something that is no text".to_owned()),
    };
    Ok((bundle, ignored.into_iter().map(text).collect::<Result<_, _>>()?, manifest))
}

fn check_coverage(manifest: &Manifest, statement: &Statement) -> Result<(), String> {
    let Coverage::Files(signed) = &statement.coverage else {
        return Err(
            "the signature covers shards, not whole files: have it signed with the method `files`".to_owned()
        );
    };
    let mut stated = BTreeMap::new();
    for file in &manifest.files {
        stated.insert(file.path.as_str(), file.sha256);
    }
    for (path, digest) in signed.iter().filter(|(path, _)| !ASIDE.contains(&path.as_str())) {
        match stated.remove(path.as_str()) {
            Some(found) if found == *digest => {}
            Some(_) => {
                return Err(format!(
                    "`{}` has another digest in the manifest than is signed",
                    printable(path)
                ));
            }
            None => return Err(format!("`{}` is signed, and the manifest leaves it out", printable(path))),
        }
    }
    match stated.keys().next() {
        None => Ok(()),
        Some(path) => Err(format!("`{}` is in the manifest, and is not signed", printable(path))),
    }
}
