//! The outer file: a sigstore bundle with one DSSE envelope in it. From bytes to its parts, or the first thing that is
//! wrong with them. Nothing in it is believed yet; what the payload says is left to `statement`.

use super::members::{Members, ShapeError};
use crate::canonical::{CanonicalError, Value};
use crate::document::printable;
use crate::envelope::pre_authentication_encoding;
use crate::key::{SIGNATURE_MAX, strict_der};
use crate::strict_json::{self, Numbers};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::Signature;

/// The media type of a bundle.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The payload type of the statement inside.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Greatest size of a bundle, bytes.
pub const BUNDLE_MAX: usize = 8 * 1024 * 1024;
/// Greatest number of certificates in a bundle.
pub const CERTIFICATES_MAX: usize = 8;
/// Greatest length of a certificate, bytes.
pub const CERTIFICATE_MAX: usize = 16 * 1024;
/// The only value of `keyDetails` that the keys here can have.
const KEY_DETAILS: &str = "PKIX_ECDSA_P256_SHA_256";

/// Why bytes are no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// More bytes than [`BUNDLE_MAX`].
    #[error("bundle of {0} bytes is larger than {BUNDLE_MAX}")]
    TooLarge(usize),
    /// Not strict JSON.
    #[error("not strict JSON")]
    Json(#[source] CanonicalError),
    /// A member is missing, unknown or of another kind.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Not standard base64 in its one form.
    #[error("`{0}` is not standard base64 with padding and without white space")]
    Base64(&'static str),
    /// Not exactly one signature.
    #[error("bundle has {0} signatures: exactly one is allowed")]
    SignatureCount(usize),
    /// Not the one DER encoding of two numbers below the order of P-256.
    #[error("the signature is not strict DER of ECDSA over P-256")]
    SignatureForm,
    /// None, several or an unknown kind of key material.
    #[error("bundle must name one of `publicKey` or `x509CertificateChain`, and only one: {0}")]
    Material(&'static str),
    /// None, too many or too long certificates.
    #[error("a chain has 1 to {CERTIFICATES_MAX} certificates of at most {CERTIFICATE_MAX} bytes each")]
    Certificates,
}

/// What the bundle says about who signed it: a hint for looking up, never an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// Fingerprint of a key as the signer wrote it; empty when they wrote none.
    Hint(String),
    /// The signer's public key itself, DER, as older signers write it: good for finding the same key in a store.
    Key(Vec<u8>),
    /// DER certificates, the signer's first.
    Chain(Vec<Vec<u8>>),
}

/// A well-formed bundle. Nothing is known yet of whether its signature holds.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Who is said to have signed it.
    pub material: Material,
    /// The payload's type, not yet held against [`PAYLOAD_TYPE`].
    pub payload_type: String,
    /// The statement as it was signed.
    pub payload: Vec<u8>,
    pub(super) signature: Signature,
}

impl Bundle {
    /// Reads a bundle.
    ///
    /// # Errors
    /// Any [`BundleError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > BUNDLE_MAX {
            return Err(BundleError::TooLarge(bytes.len()));
        }
        let value = strict_json::read(bytes, Numbers::PointZero).map_err(BundleError::Json)?;
        let mut bundle = Members::of(value, "")?;
        bundle.constant("mediaType", MEDIA_TYPE)?;
        let material = read_material(bundle.object("verificationMaterial")?)?;
        if bundle.take("messageSignature").is_some() {
            return Err(
                ShapeError::new("messageSignature", "stands beside or in place of `dsseEnvelope`").into()
            );
        }
        let mut envelope = bundle.object("dsseEnvelope")?;
        bundle.nothing_more()?;
        let payload_type = envelope.text("payloadType")?;
        let payload = decode("payload", &envelope.text("payload")?)?;
        let signature = read_signature(envelope.list("signatures")?)?;
        envelope.nothing_more()?;
        Ok(Self { material, payload_type, payload, signature })
    }

    /// The bytes that the signature is over.
    pub fn signed_bytes(&self) -> Vec<u8> {
        pre_authentication_encoding(&self.payload_type, &self.payload)
    }
}

fn decode(name: &'static str, text: &str) -> Result<Vec<u8>, BundleError> {
    STANDARD.decode(text).map_err(|_| BundleError::Base64(name))
}

fn read_signature(mut signatures: Vec<Value>) -> Result<Signature, BundleError> {
    let count = signatures.len();
    let (Some(only), 1) = (signatures.pop(), count) else { return Err(BundleError::SignatureCount(count)) };
    let mut signature = Members::of(only, "dsseEnvelope.signatures[0]")?;
    // Absent, empty or anything else: the format does not use it, and what it does not use is no authority.
    signature.optional_text("keyid")?;
    let text = signature.text("sig")?;
    signature.nothing_more()?;
    let der = decode("sig", &text)?;
    if der.len() > SIGNATURE_MAX {
        return Err(BundleError::SignatureForm);
    }
    strict_der(&der).ok_or(BundleError::SignatureForm)
}

fn read_material(mut material: Members) -> Result<Material, BundleError> {
    // Evidence of time and transparency logs: not needed with keys that are pinned, and not looked at.
    material.optional_list("tlogEntries")?;
    material.take("timestampVerificationData");
    if material.take("certificate").is_some() {
        return Err(BundleError::Material("keyless signatures (`certificate`) are not supported"));
    }
    let (key, chain) = (material.take("publicKey"), material.take("x509CertificateChain"));
    material.nothing_more()?;
    match (key, chain) {
        (Some(key), None) => read_key(Members::of(key, "verificationMaterial.publicKey")?),
        (None, Some(chain)) => {
            read_chain(Members::of(chain, "verificationMaterial.x509CertificateChain")?).map(Material::Chain)
        }
        (Some(_), Some(_)) => Err(BundleError::Material("it has both")),
        (None, None) => Err(BundleError::Material("it has neither")),
    }
}

fn read_key(mut key: Members) -> Result<Material, BundleError> {
    let hint = key.optional_text("hint")?.unwrap_or_default();
    let raw = key.optional_text("rawBytes")?;
    if let Some(details) = key.optional_text("keyDetails")?
        && details != KEY_DETAILS
    {
        let what = format!("is `{}`: only `{KEY_DETAILS}` is supported", printable(&details));
        return Err(ShapeError::new("verificationMaterial.publicKey.keyDetails", what).into());
    }
    key.nothing_more()?;
    match raw {
        Some(raw) if hint.is_empty() => decode("rawBytes", &raw).map(Material::Key),
        _ => Ok(Material::Hint(hint)),
    }
}

fn read_chain(mut chain: Members) -> Result<Vec<Vec<u8>>, BundleError> {
    let items = chain.list("certificates")?;
    chain.nothing_more()?;
    if items.is_empty() || items.len() > CERTIFICATES_MAX {
        return Err(BundleError::Certificates);
    }
    let mut certificates = Vec::with_capacity(items.len());
    for item in items {
        let mut item = Members::of(item, "verificationMaterial.x509CertificateChain.certificates[]")?;
        let der = decode("rawBytes", &item.text("rawBytes")?)?;
        item.nothing_more()?;
        if der.len() > CERTIFICATE_MAX {
            return Err(BundleError::Certificates);
        }
        certificates.push(der);
    }
    Ok(certificates)
}
