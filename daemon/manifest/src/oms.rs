//! Models signed in the OpenSSF Model Signing format (OMS 1.0): verification with pinned keys or given roots, strict
//! where the reference implementation is lax, and export. One detached sigstore bundle signs a statement that lists
//! every file. Parsing is in `bundle` and `statement`; listing and opening files is left to others.

mod bundle;
mod certificate;
pub(crate) mod evidence;
mod export;
mod folder;
mod members;
mod names;
mod shards;
mod statement;

use crate::digest::Sha256;
use crate::key::PublicKey;
use crate::trust::{CheckResult, Outcome, Refusal, Verdict, rejected, untrusted};
use std::collections::BTreeSet;

pub use bundle::{
    BUNDLE_MAX, Bundle, BundleError, CERTIFICATE_MAX, CERTIFICATES_MAX, MEDIA_TYPE, Material, PAYLOAD_TYPE,
};
pub use certificate::{Authorities, CertificateError, ROOTS_MAX, ROOTS_TEXT_MAX};
pub use evidence::{ASIDE, EVIDENCE_SCHEMA, Evidence};
pub use export::{Export, ExportError, Signable};
pub use folder::{FOLDER_BYTES_MAX, Found, INERT_EMPTY, Open, compare};
pub use members::ShapeError;
pub use names::{GIT_NAMES, IGNORED_MAX, Ignored, NameError};
pub use shards::{Shard, ShardError, Shards};
pub use statement::{
    Coverage, PREDICATE_TYPE, RESOURCES_MAX, STATEMENT_TYPE, SUBJECT_MAX, Statement, StatementError,
};

/// A key whose signatures count, under the name it is told by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// Whose key it is.
    pub name: String,
    /// The key.
    pub key: PublicKey,
}

/// Whose signatures count.
#[derive(Debug, Clone)]
pub enum Signers {
    /// These keys.
    Keys(Vec<Signer>),
    /// Whoever has a certificate of these authorities.
    Authorities(Authorities),
}

/// What came of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The word.
    pub verdict: Verdict,
    /// Every check, in the order in which they were made.
    pub checks: Vec<CheckResult>,
    /// SHA-256 of the signed statement, once there is one.
    pub digest: Option<Sha256>,
    /// Whose signature holds.
    pub signed_by: Option<String>,
    /// The key that signed.
    pub key: Option<PublicKey>,
    statement: Option<Statement>,
}

const CHECKS: [&str; 6] = ["bundle", "payload-type", "key", "signature", "statement", "files"];

impl Verification {
    /// The statement, once its signature holds and it is well-formed.
    pub fn statement(&self) -> Option<&Statement> {
        self.statement.as_ref()
    }

    /// The same with the result of comparing the files; a failed one rejects the whole.
    #[must_use]
    pub fn with_files(mut self, files: CheckResult) -> Self {
        if files.result == Outcome::Fail {
            self.verdict = Verdict::Rejected;
        }
        self.checks.retain(|check| check.name != files.name);
        self.checks.push(files);
        self
    }

    /// A verification that ended before its first check: what was at hand could not even be looked at.
    pub fn refused(check: &'static str, detail: impl Into<String>) -> Self {
        let mut verification = Self::begun();
        verification.end(rejected(check, detail));
        verification.note_skipped();
        verification
    }

    fn begun() -> Self {
        Self {
            verdict: Verdict::Valid,
            checks: Vec::new(),
            digest: None,
            signed_by: None,
            key: None,
            statement: None,
        }
    }

    fn note(&mut self, name: &str, result: Outcome, detail: impl Into<String>) {
        self.checks.push(CheckResult { name: name.to_owned(), result, detail: detail.into() });
    }

    fn end(&mut self, refusal: Refusal) {
        self.verdict = refusal.verdict;
        self.note(refusal.check, Outcome::Fail, refusal.detail);
    }

    fn note_skipped(&mut self) {
        for name in CHECKS {
            if self.checks.iter().all(|check| check.name != name) {
                let detail =
                    if name == "files" { "not compared" } else { "not made: an earlier check failed" };
                self.note(name, Outcome::Skipped, detail);
            }
        }
        let place = |check: &CheckResult| CHECKS.iter().position(|name| *name == check.name);
        self.checks.sort_by_key(place);
    }
}

/// Verifies a bundle: its form, who signed, the signature over the raw payload, and only then the statement. The files
/// are compared by [`compare`]. `allowed` are paths that the signature may leave out besides the git names.
pub fn verify(bundle: &[u8], signers: &Signers, allowed: &BTreeSet<String>) -> Verification {
    let mut verification = Verification::begun();
    if let Err(refusal) = examine(bundle, signers, allowed, &mut verification) {
        verification.end(refusal);
    }
    verification.note_skipped();
    verification
}

fn examine(
    bytes: &[u8],
    signers: &Signers,
    allowed: &BTreeSet<String>,
    so_far: &mut Verification,
) -> Result<(), Refusal> {
    let bundle = Bundle::parse(bytes).map_err(|error| rejected("bundle", chain(&error)))?;
    so_far.digest = Some(Sha256::of(&bundle.payload));
    so_far.note("bundle", Outcome::Pass, format!("one signature over {} bytes", bundle.payload.len()));

    if bundle.payload_type != PAYLOAD_TYPE {
        let found = crate::document::printable(&bundle.payload_type);
        return Err(rejected("payload-type", format!("`{found}` is not `{PAYLOAD_TYPE}`")));
    }
    so_far.note("payload-type", Outcome::Pass, PAYLOAD_TYPE);

    let candidates = candidates(&bundle.material, signers)?;
    so_far.note("key", Outcome::Pass, candidates.how);
    let signer = signer(&bundle, candidates.signers, candidates.named)?;
    so_far.note("signature", Outcome::Pass, format!("ECDSA P-256 of {} ({})", signer.name, signer.key.id()));
    so_far.signed_by = Some(signer.name);
    so_far.key = Some(signer.key);

    let statement =
        Statement::parse(&bundle.payload, allowed).map_err(|error| rejected("statement", chain(&error)))?;
    let count = statement.names().count();
    let subject = crate::document::printable(&statement.subject);
    so_far.note("statement", Outcome::Pass, format!("`{subject}`, {count} file(s)"));
    so_far.statement = Some(statement);
    Ok(())
}

/// Keys that may have signed.
struct Candidates {
    signers: Vec<Signer>,
    /// Whether the bundle names the key: one that is named and does not verify is a forgery.
    named: Named,
    how: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Yes,
    No,
}

fn candidates(material: &Material, signers: &Signers) -> Result<Candidates, Refusal> {
    match (material, signers) {
        (Material::Hint(hint), Signers::Keys(keys)) if hint.is_empty() => Ok(Candidates {
            signers: keys.clone(),
            named: Named::No,
            how: format!("the bundle names no key: {} trusted key(s) are tried", keys.len()),
        }),
        (Material::Hint(hint), Signers::Keys(keys)) => {
            let meant = |signer: &&Signer| {
                signer.key.pem_fingerprint().hex() == *hint || Sha256::of(&signer.key.to_der()).hex() == *hint
            };
            let hint = crate::document::printable(hint);
            named(
                keys.iter().find(meant),
                format!("the bundle names the key with fingerprint `sha256:{hint}`"),
            )
        }
        (Material::Key(der), Signers::Keys(keys)) => {
            let found = keys.iter().find(|signer| signer.key.to_der() == *der);
            named(found, format!("the bundle holds the key `sha256:{}`", Sha256::of(der).hex()))
        }
        (Material::Chain(chain_der), Signers::Authorities(authorities)) => {
            let (key, name) = authorities.signer(chain_der).map_err(|error| Refusal {
                verdict: error.verdict(),
                check: "key",
                detail: chain(&error),
            })?;
            let pinned =
                if authorities.pins_identity() { "" } else { "; any name counts: none was asked for" };
            let how = format!("certificate of `{name}` from a given root{pinned}");
            Ok(Candidates { signers: vec![Signer { name, key }], named: Named::Yes, how })
        }
        (Material::Chain(_), Signers::Keys(_)) => Err(untrusted(
            "key",
            "the bundle names its signer by a certificate: give its root with `--cert-root`",
        )),
        (_, Signers::Authorities(_)) => {
            Err(untrusted("key", "the bundle names its signer by a key: give the public key with `--key`"))
        }
    }
}

fn named(found: Option<&Signer>, how: String) -> Result<Candidates, Refusal> {
    match found {
        Some(signer) => Ok(Candidates {
            how: format!("{how}, of {}", signer.name),
            signers: vec![signer.clone()],
            named: Named::Yes,
        }),
        None => Err(untrusted("key", format!("{how}, which is not trusted here"))),
    }
}

fn signer(bundle: &Bundle, candidates: Vec<Signer>, named: Named) -> Result<Signer, Refusal> {
    let signed = bundle.signed_bytes();
    let holds = |signer: &Signer| signer.key.verifies_either_s(&signed, &bundle.signature);
    let names: Vec<String> = candidates.iter().map(|signer| signer.name.clone()).collect();
    match (candidates.into_iter().find(holds), named) {
        (Some(signer), _) => Ok(signer),
        (None, Named::Yes) => {
            Err(rejected("signature", format!("the signature of {} does not hold", names.join(", "))))
        }
        (None, Named::No) => {
            Err(untrusted("signature", "no trusted key made the signature, and the bundle names none"))
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
