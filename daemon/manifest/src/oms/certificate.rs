//! A signer named by a certificate: the chain in a bundle, held against roots that the verifier brings, at the time the
//! verifier says it is. No root comes from a bundle, no time from a certificate, and only code signing counts.

use crate::key::{KeyError, PublicKey, strict_der};
use crate::trust::Verdict;
use p256::pkcs8::ObjectIdentifier;
use std::collections::BTreeSet;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

/// Greatest length of the text that roots are read from, bytes.
pub const ROOTS_TEXT_MAX: usize = 64 * 1024;
/// Greatest number of roots.
pub const ROOTS_MAX: usize = 16;

const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const NAME_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.30");

/// Why a chain names no signer who counts, or a text holds no roots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not one well-formed certificate in its one DER encoding.
    #[error("{0} is not one well-formed X.509 certificate in strict DER")]
    Malformed(String),
    /// Another signature algorithm than ECDSA with SHA-256.
    #[error("{0} is signed with another algorithm than ECDSA with SHA-256")]
    Algorithm(String),
    /// Its key is none that signatures are checked with.
    #[error("{0}: its key is unsupported")]
    Key(String, #[source] KeyError),
    /// It has an extension that must be understood, and is not.
    #[error("{0} has the extension {1}, which is not understood here")]
    Extension(String, String),
    /// The time is before or after its validity.
    #[error("{0} is {1} at the time of this check")]
    Validity(String, &'static str),
    /// The signer's certificate may not sign code.
    #[error("{0} is not for signing: {1}")]
    Purpose(String, &'static str),
    /// A certificate that may not sign certificates stands above another.
    #[error("{0} may not sign certificates: {1}")]
    Authority(String, &'static str),
    /// A certificate was not signed by the next.
    #[error("{0} was not signed by the next certificate of the chain")]
    Broken(String),
    /// No root signed the chain's last certificate.
    #[error("{0} leads to none of the given roots")]
    Unanchored(String),
    /// The signer is another than the one that was asked for.
    #[error("the signer is `{found}`, not `{wanted}`")]
    Identity {
        /// The subject of the certificate.
        found: String,
        /// The subject that was asked for.
        wanted: String,
    },
    /// The text of the roots is unusable.
    #[error("expected 1 to {ROOTS_MAX} PEM certificates and nothing else, each of a P-256 authority")]
    Roots,
}

impl CertificateError {
    /// What it makes of the whole: a chain to somebody else's root is nobody's fault, anything else is wrong.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Unanchored(_) | Self::Identity { .. } => Verdict::Untrusted,
            _ => Verdict::Rejected,
        }
    }
}

/// Whose certificates count, and when.
#[derive(Debug, Clone)]
pub struct Authorities {
    roots: Vec<Checked>,
    /// Seconds since the epoch: the time that validity is held against.
    now: u64,
    identity: Option<String>,
}

impl Authorities {
    /// Reads roots from PEM text; `now` is the time to check at, in seconds since the epoch.
    ///
    /// # Errors
    /// [`CertificateError`] about the text or the first root that is no authority.
    pub fn from_pem(text: &str, now: u64) -> Result<Self, CertificateError> {
        if text.len() > ROOTS_TEXT_MAX || !text.trim_start().starts_with("-----BEGIN CERTIFICATE-----") {
            return Err(CertificateError::Roots);
        }
        let roots =
            Certificate::load_pem_chain(text.trim().as_bytes()).map_err(|_| CertificateError::Roots)?;
        if roots.is_empty() || roots.len() > ROOTS_MAX {
            return Err(CertificateError::Roots);
        }
        let roots =
            roots.into_iter().map(|root| Checked::new(root, "root")).collect::<Result<Vec<_>, _>>()?;
        roots.iter().try_for_each(|root| root.check_authority(usize::MAX))?;
        Ok(Self { roots, now, identity: None })
    }

    /// The same, with only this subject (RFC 4514, as in `CN=release-signer`) as a signer.
    #[must_use]
    pub fn only(mut self, identity: Option<String>) -> Self {
        self.identity = identity;
        self
    }

    /// True if the signer's name is pinned.
    pub fn pins_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// The key and the subject of the certificate that signed, if the chain leads from it to one of the roots.
    pub(super) fn signer(&self, chain: &[Vec<u8>]) -> Result<(PublicKey, String), CertificateError> {
        let mut checked = Vec::with_capacity(chain.len());
        for (index, der) in chain.iter().enumerate() {
            let what = format!("certificate {index}");
            let certificate =
                Certificate::from_der(der).map_err(|_| CertificateError::Malformed(what.clone()))?;
            if certificate.to_der().ok().as_ref() != Some(der) {
                return Err(CertificateError::Malformed(what));
            }
            checked.push(Checked::new(certificate, &what)?);
        }
        let [leaf, above @ ..] = checked.as_slice() else {
            return Err(CertificateError::Malformed("an empty chain".to_owned()));
        };
        leaf.check_signer()?;
        self.check_chain(leaf, above)?;
        let found = leaf.subject();
        match &self.identity {
            Some(wanted) if *wanted != found => {
                Err(CertificateError::Identity { found, wanted: wanted.clone() })
            }
            _ => Ok((leaf.key.clone(), found)),
        }
    }

    fn check_chain(&self, leaf: &Checked, above: &[Checked]) -> Result<(), CertificateError> {
        let mut seen = BTreeSet::from([leaf.key.id()]);
        leaf.check_time(self.now)?;
        let mut child = leaf;
        for (below, parent) in above.iter().enumerate() {
            parent.check_time(self.now)?;
            parent.check_authority(below)?;
            // A key that comes again makes the chain a loop.
            if !parent.signed(child) || !seen.insert(parent.key.id()) {
                return Err(CertificateError::Broken(child.name.clone()));
            }
            child = parent;
        }
        let anchor =
            self.roots.iter().find(|root| root.certificate == child.certificate || root.signed(child));
        let Some(root) = anchor else { return Err(CertificateError::Unanchored(child.name.clone())) };
        root.check_time(self.now)?;
        if root.certificate == child.certificate { Ok(()) } else { root.check_authority(above.len()) }
    }
}

/// A certificate whose algorithm, key and extensions are ones that can be judged.
#[derive(Debug, Clone)]
struct Checked {
    certificate: Certificate,
    key: PublicKey,
    basic: Option<BasicConstraints>,
    usage: Option<KeyUsage>,
    purposes: Option<ExtendedKeyUsage>,
    name: String,
}

impl Checked {
    fn new(certificate: Certificate, what: &str) -> Result<Self, CertificateError> {
        let body = certificate.tbs_certificate();
        let subject: String = crate::document::printable(&body.subject().to_string());
        let name = format!("{what} (`{subject}`)");
        let malformed = || CertificateError::Malformed(name.clone());
        let algorithm = certificate.signature_algorithm();
        let plain = algorithm.oid == ECDSA_SHA256 && algorithm.parameters.is_none();
        if !plain || body.signature() != algorithm {
            return Err(CertificateError::Algorithm(name));
        }
        let mut seen = BTreeSet::new();
        for extension in body.extensions().into_iter().flatten() {
            let oid = extension.extn_id;
            if !seen.insert(oid) {
                return Err(malformed());
            }
            let known = [BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED_KEY_USAGE].contains(&oid);
            if (extension.critical && !known) || oid == NAME_CONSTRAINTS {
                return Err(CertificateError::Extension(name, oid.to_string()));
            }
        }
        let spki = body.subject_public_key_info().to_der().map_err(|_| malformed())?;
        let key = PublicKey::from_der(&spki).map_err(|error| CertificateError::Key(name.clone(), error))?;
        let basic = body.get_extension().map_err(|_| malformed())?.map(|(_, extension)| extension);
        let usage = body.get_extension().map_err(|_| malformed())?.map(|(_, extension)| extension);
        let purposes = body.get_extension().map_err(|_| malformed())?.map(|(_, extension)| extension);
        Ok(Self { key, basic, usage, purposes, name, certificate })
    }

    fn subject(&self) -> String {
        self.certificate.tbs_certificate().subject().to_string()
    }

    fn check_time(&self, now: u64) -> Result<(), CertificateError> {
        let validity = self.certificate.tbs_certificate().validity();
        let refused = |what| Err(CertificateError::Validity(self.name.clone(), what));
        if now < validity.not_before.to_unix_duration().as_secs() {
            return refused("not yet valid");
        }
        if now > validity.not_after.to_unix_duration().as_secs() { refused("expired") } else { Ok(()) }
    }

    fn check_signer(&self) -> Result<(), CertificateError> {
        let refused = |what| Err(CertificateError::Purpose(self.name.clone(), what));
        if self.basic.as_ref().is_some_and(|basic| basic.ca) {
            return refused("it is an authority's");
        }
        if !self.usage.is_some_and(|usage| usage.digital_signature()) {
            return refused("its key usage lacks digitalSignature");
        }
        match &self.purposes {
            Some(purposes) if purposes.0.contains(&CODE_SIGNING) => Ok(()),
            _ => refused("its extended key usage lacks codeSigning"),
        }
    }

    /// Holds it against standing above `below` authorities.
    fn check_authority(&self, below: usize) -> Result<(), CertificateError> {
        let refused = |what| Err(CertificateError::Authority(self.name.clone(), what));
        let Some(basic) = self.basic.as_ref().filter(|basic| basic.ca) else {
            return refused("it is no authority's");
        };
        if !self.usage.is_some_and(|usage| usage.key_cert_sign()) {
            return refused("its key usage lacks keyCertSign");
        }
        match basic.path_len_constraint {
            Some(most) if below != usize::MAX && below > usize::from(most) => {
                refused("the chain below it is longer than it allows")
            }
            _ => Ok(()),
        }
    }

    fn signed(&self, child: &Self) -> bool {
        let body = child.certificate.tbs_certificate();
        let named = body.issuer() == self.certificate.tbs_certificate().subject();
        let signature = child.certificate.signature().as_bytes().and_then(strict_der);
        let (Some(signature), Ok(signed), true) = (signature, body.to_der(), named) else { return false };
        self.key.verifies_either_s(&signed, &signature)
    }
}
