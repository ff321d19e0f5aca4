//! P-256 keys as text: PKCS#8 PEM for the private one, SubjectPublicKeyInfo PEM for the public one, and nothing else.
//! Where keys are kept, and under which file mode, is left to others.

use crate::digest::{DigestError, Sha256};
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::Generate;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::pkcs8::der::Decode;
use p256::pkcs8::der::asn1::{ObjectIdentifier, OctetStringRef};
use p256::pkcs8::der::pem::{self, LineEnding};
use p256::pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use p256::pkcs8::{EncodePrivateKey, PrivateKeyInfoRef};
use pkcs8::EncryptedPrivateKeyInfoRef;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use zeroize::Zeroizing;

/// Greatest accepted length of a key's PEM text, bytes.
pub const PEM_MAX: usize = 4096;
/// Greatest length of a DER signature over P-256, bytes.
pub const SIGNATURE_MAX: usize = 72;

const PUBLIC_LABEL: &str = "PUBLIC KEY";
const PRIVATE_LABEL: &str = "PRIVATE KEY";
const ENCRYPTED_LABEL: &str = "ENCRYPTED PRIVATE KEY";
/// What precedes the 64 bytes of X and Y in every P-256 SubjectPublicKeyInfo: named curve, uncompressed point.
const SPKI_PREFIX: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const CURVE_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// Why a text is no key of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Longer than [`PEM_MAX`].
    #[error("key text is longer than {PEM_MAX} bytes")]
    TooLong,
    /// No PEM block, several, or text around the one.
    #[error("expected one PEM block `{expected}` and nothing else in the text")]
    NotOneBlock {
        /// The label that was due.
        expected: &'static str,
    },
    /// A private key where a public one is due.
    #[error(
        "this is a private key where a public one is due: keep it secret, use the `.pub.pem` file beside it"
    )]
    PrivateNotPublic,
    /// A public key where a private one is due.
    #[error("this is a public key where a private one is due")]
    PublicNotPrivate,
    /// A private key behind a password.
    #[error("private key is encrypted: give its passphrase with `--passphrase`")]
    Encrypted,
    /// A passphrase for a key that is not behind one.
    #[error(
        "private key is not encrypted: leave the passphrase away, or encrypt the key with `openssl pkcs8 -topk8`"
    )]
    NotEncrypted,
    /// A passphrase that does not open the key, or an encryption that is not supported.
    #[error("the passphrase does not open the private key, or it is encrypted otherwise than by PBES2")]
    Passphrase,
    /// A private key in the older SEC1 form.
    #[error("private key is in SEC1 form: convert it, `openssl pkcs8 -topk8 -nocrypt -in KEY -out PKCS8`")]
    Sec1,
    /// Any other PEM label.
    #[error("PEM block `{found}` where `{expected}` is due")]
    Label {
        /// The label in the text, cut to a printable length.
        found: String,
        /// The label that was due.
        expected: &'static str,
    },
    /// The inside of the block is not canonical base64 of one DER key without trailing bytes.
    #[error("PEM block does not hold exactly one well-formed DER key")]
    Malformed,
    /// RSA, Ed25519 and others.
    #[error("key algorithm {0} is not supported: only ECDSA on P-256 is")]
    Algorithm(String),
    /// An elliptic curve by name, but another one.
    #[error("curve {0} is not supported: only P-256 is")]
    Curve(String),
    /// A curve spelled out, which may differ from the named one unseen.
    #[error("curve is given by explicit parameters: only the named curve P-256 is accepted")]
    ExplicitCurve,
    /// A point in compressed form, or the point at infinity.
    #[error(
        "public point is not in uncompressed form: convert it, `openssl ec -pubin -conv_form uncompressed`"
    )]
    PointForm,
    /// Coordinates that are no point of P-256, or a private number out of range.
    #[error("key is not a point of the curve P-256")]
    OffCurve,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// SHA-256 over the DER SubjectPublicKeyInfo. It finds a key in a store; it is never an authority by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Sha256);

impl fmt::Display for KeyId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0.to_string())
    }
}

impl FromStr for KeyId {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// A P-256 public key. Serialized as its PEM text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in PEM; white space after the block is allowed.
    ///
    /// # Errors
    /// Any [`KeyError`] that says what the text is instead.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_der(&one_block(text, PUBLIC_LABEL)?)
    }

    /// The PEM text, 64 columns, with a final newline.
    pub fn to_pem(&self) -> String {
        pem::encode_string(PUBLIC_LABEL, LineEnding::LF, &self.to_der())
            .expect("91 bytes and a constant label always encode")
    }

    /// The DER SubjectPublicKeyInfo.
    pub fn to_der(&self) -> Vec<u8> {
        let point = self.0.as_affine().to_sec1_point(false);
        [&SPKI_PREFIX[..SPKI_PREFIX.len() - 1], point.as_bytes()].concat()
    }

    /// The key's id.
    pub fn id(&self) -> KeyId {
        KeyId(Sha256::of(&self.to_der()))
    }

    /// The digest of the PEM text: how bundles of the OpenSSF Model Signing format name a key.
    pub fn pem_fingerprint(&self) -> Sha256 {
        Sha256::of(self.to_pem().as_bytes())
    }

    /// Reads a DER SubjectPublicKeyInfo, for instance out of a certificate.
    ///
    /// # Errors
    /// Any [`KeyError`] that says what the bytes are instead.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let Some(point) = der.strip_prefix(&SPKI_PREFIX).filter(|point| point.len() == 64) else {
            return Err(diagnose_public(der));
        };
        let mut encoded = [4; 65];
        encoded[1..].copy_from_slice(point);
        VerifyingKey::from_sec1_bytes(&encoded).map(Self).map_err(|_| KeyError::OffCurve)
    }

    /// Reads what a PKCS#11 token says of a public key: CKA_EC_PARAMS and CKA_EC_POINT, both DER (PKCS #11, 6.3.3).
    ///
    /// # Errors
    /// Any [`KeyError`] that says what the key is instead.
    pub fn from_token(curve: &[u8], point: &[u8]) -> Result<Self, KeyError> {
        let curve = ObjectIdentifier::from_der(curve).map_err(|_| KeyError::ExplicitCurve)?;
        if curve != CURVE_P256 {
            return Err(KeyError::Curve(named(curve)));
        }
        let point = <&OctetStringRef>::from_der(point).map_err(|_| KeyError::Malformed)?;
        Self::from_der(&[&SPKI_PREFIX[..SPKI_PREFIX.len() - 1], point.as_bytes()].concat())
    }

    /// True if `signature` is a signature of this key over SHA-256 of the message, whichever of the two equivalent S it
    /// has. Only for formats of others, which do not pin one of the two.
    pub(crate) fn verifies_either_s(&self, message: &[u8], signature: &Signature) -> bool {
        self.0.verify(message, signature).is_ok()
    }

    /// True if `signature` is the strict DER encoding of a low-S signature of this key over SHA-256 of the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        strict_signature(signature).is_some_and(|signature| self.0.verify(message, &signature).is_ok())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<Self, KeyError> {
        Self::from_pem(&text)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_pem()
    }
}

/// A P-256 private key. Its memory is wiped when it is dropped; it never prints itself.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// A fresh key from the system's random numbers.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        SigningKey::try_generate().map(Self).map_err(|_| KeyError::NoRandomness)
    }

    /// Reads an unencrypted PKCS#8 key in PEM; white space after the block is allowed.
    ///
    /// # Errors
    /// Any [`KeyError`] that says what the text is instead.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_pkcs8(&one_block(text, PRIVATE_LABEL)?)
    }

    /// Reads a PKCS#8 key in PEM that a passphrase protects (RFC 5958, section 3; PBES2 of RFC 8018).
    ///
    /// # Errors
    /// Any [`KeyError`] that says what the text is instead; [`KeyError::Passphrase`] when it does not open.
    pub fn from_encrypted_pem(text: &str, passphrase: &[u8]) -> Result<Self, KeyError> {
        let der = one_block(text, ENCRYPTED_LABEL)?;
        let sealed = EncryptedPrivateKeyInfoRef::try_from(der.as_slice()).map_err(|_| KeyError::Malformed)?;
        let plain = sealed.decrypt(passphrase).map_err(|_| KeyError::Passphrase)?;
        Self::from_pkcs8(plain.as_bytes())
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let info = PrivateKeyInfoRef::try_from(der).map_err(|_| KeyError::Malformed)?;
        check_algorithm(&info.algorithm)?;
        SigningKey::try_from(info).map(Self).map_err(|_| KeyError::OffCurve)
    }

    /// The PKCS#8 PEM text that only the passphrase opens (PBES2 with scrypt and AES-256-CBC); wiped when dropped.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn to_encrypted_pem(&self, passphrase: &[u8]) -> Result<Zeroizing<String>, KeyError> {
        let plain = self.0.to_pkcs8_der().expect("a key in memory always encodes");
        let info =
            PrivateKeyInfoRef::try_from(plain.as_bytes()).expect("what was encoded a line above decodes");
        let sealed = info.encrypt(passphrase).map_err(|_| KeyError::NoRandomness)?;
        Ok(sealed.to_pem(ENCRYPTED_LABEL, LineEnding::LF).expect("a sealed key and a constant label encode"))
    }

    /// The PKCS#8 PEM text; wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.0.to_pkcs8_pem(LineEnding::LF).expect("a key in memory always encodes")
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// The strict DER, low-S signature over SHA-256 of the message, with a deterministic nonce (RFC 6979).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(message);
        signature.normalize_s().to_der().as_bytes().to_vec()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PrivateKey({})", self.public_key().id())
    }
}

/// The strict DER, low-S form of a signature as PKCS#11 tokens give it: r and s, 32 bytes each (PKCS #11, 6.3.12).
///
/// # Errors
/// [`KeyError::Malformed`] when it is no signature.
pub fn signature_of_token(raw: &[u8]) -> Result<Vec<u8>, KeyError> {
    let signature = Signature::from_slice(raw).map_err(|_| KeyError::Malformed)?;
    Ok(signature.normalize_s().to_der().as_bytes().to_vec())
}

/// The signature in these bytes, if they are its one DER encoding and its S is the lower of the two equivalent ones.
pub(crate) fn strict_signature(der: &[u8]) -> Option<Signature> {
    strict_der(der).filter(|signature| signature.normalize_s() == *signature)
}

/// The signature in these bytes, if they are its one DER encoding.
pub(crate) fn strict_der(der: &[u8]) -> Option<Signature> {
    let signature = Signature::from_der(der).ok()?;
    (signature.to_der().as_bytes() == der).then_some(signature)
}

fn one_block(text: &str, expected: &'static str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if text.len() > PEM_MAX {
        return Err(KeyError::TooLong);
    }
    if text.contains("-----BEGIN EC PARAMETERS-----") {
        return Err(KeyError::Sec1);
    }
    let body = text.trim_end_matches([' ', '\t', '\r', '\n']);
    if !body.starts_with("-----BEGIN ") || body.matches("-----BEGIN ").count() != 1 {
        return Err(KeyError::NotOneBlock { expected });
    }
    let found = pem::decode_label(body.as_bytes()).map_err(|_| KeyError::Malformed)?;
    if found != expected {
        return Err(wrong_label(found, expected));
    }
    pem::decode_vec(body.as_bytes()).map(|(_, der)| Zeroizing::new(der)).map_err(|_| KeyError::Malformed)
}

fn wrong_label(found: &str, expected: &'static str) -> KeyError {
    match (found, expected) {
        (PUBLIC_LABEL, PRIVATE_LABEL | ENCRYPTED_LABEL) => KeyError::PublicNotPrivate,
        (found, PUBLIC_LABEL) if found.ends_with(PRIVATE_LABEL) => KeyError::PrivateNotPublic,
        (ENCRYPTED_LABEL, _) => KeyError::Encrypted,
        (PRIVATE_LABEL, ENCRYPTED_LABEL) => KeyError::NotEncrypted,
        ("EC PRIVATE KEY", _) => KeyError::Sec1,
        _ => KeyError::Label { found: found.chars().take(40).collect(), expected },
    }
}

fn diagnose_public(der: &[u8]) -> KeyError {
    let Ok(info) = SubjectPublicKeyInfoRef::try_from(der) else { return KeyError::Malformed };
    if let Err(error) = check_algorithm(&info.algorithm) {
        return error;
    }
    match info.subject_public_key.raw_bytes() {
        [0, ..] | [2 | 3, ..] => KeyError::PointForm,
        _ => KeyError::Malformed,
    }
}

fn check_algorithm(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<(), KeyError> {
    if algorithm.oid != EC_PUBLIC_KEY {
        return Err(KeyError::Algorithm(named(algorithm.oid)));
    }
    match algorithm.parameters_oid() {
        Ok(CURVE_P256) => Ok(()),
        Ok(other) => Err(KeyError::Curve(named(other))),
        Err(_) => Err(KeyError::ExplicitCurve),
    }
}

fn named(oid: ObjectIdentifier) -> String {
    let dotted = oid.to_string();
    let name = match dotted.as_str() {
        "1.2.840.113549.1.1.1" => "RSA",
        "1.3.101.112" => "Ed25519",
        "1.3.132.0.34" => "P-384",
        "1.3.132.0.35" => "P-521",
        "1.3.132.0.10" => "secp256k1",
        _ => return format!("`{dotted}`"),
    };
    format!("`{name}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::Scalar;

    fn pem(label: &str, body: &str) -> String {
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    }

    const GOOD: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEkDc3JVlUozxr/+5Czz1IJklrPjmW\n\
                        yxtbkEQTphuGZU/Wy99cOm6u321E9sf8i2b+NXwrAYIf7ngtDA81t7/DjA==";

    #[test]
    fn keys_survive_their_text_and_the_id_is_the_digest_of_the_der() {
        let key = PrivateKey::generate().unwrap();
        let public = PublicKey::from_pem(&key.public_key().to_pem()).unwrap();
        assert_eq!(PrivateKey::from_pem(&key.to_pem()).unwrap().public_key(), public);
        let signature = key.sign(b"message");
        assert!(public.verifies(b"message", &signature) && !public.verifies(b"massage", &signature));

        let good = PublicKey::from_pem(&pem("PUBLIC KEY", GOOD)).unwrap();
        assert_eq!(good.to_pem(), pem("PUBLIC KEY", GOOD));
        assert_eq!(good.to_der().len(), 91);
        // openssl pkey -pubin -outform DER | sha256sum
        assert_eq!(
            good.id().to_string(),
            "sha256:99abd542b1013b91de884cf0543ea0e0cabbddb8e518f7148a17260db4e6863a"
        );
        assert_eq!(good.id().to_string().parse::<KeyId>().unwrap(), good.id());
    }

    #[test]
    fn public_texts_that_are_not_one_p256_key_are_refused_with_their_reason() {
        let flipped = GOOD.replacen("kDc3", "kDc4", 1);
        let trailing = GOOD.replace("DjA==", "DjAA");
        let good = pem("PUBLIC KEY", GOOD);
        for (text, expected) in [
            ("x".repeat(PEM_MAX + 1), "longer than"),
            (String::new(), "one PEM block"),
            (format!("hello\n{good}"), "one PEM block"),
            (format!("{good}{good}"), "one PEM block"),
            (format!("{good}tail"), "well-formed"),
            (pem("PRIVATE KEY", GOOD), "private key where a public one is due"),
            (pem("EC PRIVATE KEY", GOOD), "private key where a public one is due"),
            (pem("CERTIFICATE", GOOD), "`CERTIFICATE`"),
            (pem("PUBLIC KEY", "!!!!"), "well-formed"),
            (pem("PUBLIC KEY", &flipped), "not a point"),
            (pem("PUBLIC KEY", &trailing), "well-formed"),
            (pem("PUBLIC KEY", RSA), "`RSA`"),
            (pem("PUBLIC KEY", ED25519), "`Ed25519`"),
            (pem("PUBLIC KEY", P384), "curve `P-384`"),
            (pem("PUBLIC KEY", SECP256K1), "curve `secp256k1`"),
            (pem("PUBLIC KEY", COMPRESSED), "uncompressed"),
            (pem("PUBLIC KEY", INFINITY), "uncompressed"),
            (pem("PUBLIC KEY", EXPLICIT), "explicit parameters"),
        ] {
            let found = PublicKey::from_pem(&text).expect_err(&text).to_string();
            assert!(found.contains(expected), "{text}\n{found}");
        }
    }

    #[test]
    fn private_texts_that_are_not_plain_pkcs8_are_refused_with_their_reason() {
        for (text, expected) in [
            (pem("PUBLIC KEY", GOOD), "public key where a private one is due"),
            (pem("ENCRYPTED PRIVATE KEY", GOOD), "encrypted"),
            (pem("EC PRIVATE KEY", GOOD), "SEC1"),
            (pem("EC PARAMETERS", "BggqhkjOPQMBBw==") + &pem("EC PRIVATE KEY", GOOD), "SEC1"),
            (pem("PRIVATE KEY", GOOD), "well-formed"),
            (
                pem("PRIVATE KEY", "MC4CAQAwBQYDK2VwBCIEIM3nKLdOwzmsA/ugS33H14h6dYuRTATw6cjF407Bw7FJ"),
                "`Ed25519`",
            ),
        ] {
            let found = PrivateKey::from_pem(&text).expect_err(&text).to_string();
            assert!(found.contains(expected), "{text}\n{found}");
        }
        let key = PrivateKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(key.to_pem().lines().nth(1).unwrap()));
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_alone() {
        let key = PrivateKey::generate().unwrap();
        let sealed = key.to_encrypted_pem(b"of the key").unwrap();
        let opened = PrivateKey::from_encrypted_pem(&sealed, b"of the key").unwrap();
        assert_eq!(opened.public_key(), key.public_key());
        for (text, passphrase, expected) in [
            (sealed.as_str(), &b"of another"[..], KeyError::Passphrase),
            (&sealed, b"", KeyError::Passphrase),
            (&key.to_pem(), b"of the key", KeyError::NotEncrypted),
            (&pem(ENCRYPTED_LABEL, GOOD), b"of the key", KeyError::Malformed),
            (&pem(PUBLIC_LABEL, GOOD), b"of the key", KeyError::PublicNotPrivate),
        ] {
            assert_eq!(PrivateKey::from_encrypted_pem(text, passphrase).unwrap_err(), expected);
        }
        assert_eq!(PrivateKey::from_pem(&sealed).unwrap_err(), KeyError::Encrypted);
    }

    #[test]
    fn only_the_low_s_strict_der_form_of_a_signature_verifies() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public_key();
        for message in 0..16u8 {
            let der = key.sign(&[message]);
            assert!(der.len() <= SIGNATURE_MAX && public.verifies(&[message], &der));
            let low = Signature::from_der(&der).unwrap();
            let high =
                Signature::from_scalars(low.r().to_bytes(), (Scalar::ZERO - *low.s()).to_bytes()).unwrap();
            assert!(
                public.0.verify(&[message], &high).is_ok(),
                "the other signature is as good to the curve"
            );
            assert!(!public.verifies(&[message], high.to_der().as_bytes()));
            let mut longer = der.clone();
            longer.push(0);
            assert!(!public.verifies(&[message], &longer));
            let mut padded = vec![0x30, der[1] + 1, 2, der[3] + 1, 0];
            padded.extend_from_slice(&der[4..]);
            assert!(!public.verifies(&[message], &padded), "an integer with a needless zero");
            assert!(!public.verifies(&[message], &low.to_bytes()), "raw r and s");
        }
        assert!(!public.verifies(b"", &[]));
    }

    #[test]
    fn scalars_out_of_their_range_verify_nothing() {
        let key = PrivateKey::generate().unwrap();
        let der = key.sign(b"message");
        assert!(key.public_key().verifies(b"message", &der));
        // Two integers: tag, length, content each (X.690, 8.3).
        let (r, s) = der[2..].split_at(2 + usize::from(der[3]));
        let (zero, minus_one): (&[u8], &[u8]) = (&[2, 1, 0], &[2, 1, 0xff]);
        // The order of the curve, and beyond it (SEC 2, 2.4.2): r + n is as good as r modulo n.
        let order = [&[2, 33, 0][..], &ORDER].concat();
        let mut beyond = vec![0; 33];
        beyond[33 - r[2..].len().min(33)..].copy_from_slice(&r[2..]);
        let mut carry = 0;
        for (at, digit) in beyond.iter_mut().enumerate().rev() {
            let sum = u16::from(*digit) + at.checked_sub(1).map_or(0, |at| u16::from(ORDER[at])) + carry;
            (*digit, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        let beyond = [&[2, 33][..], &beyond].concat();
        for (what, r, s) in [
            ("r = 0", zero, s),
            ("s = 0", r, zero),
            ("both 0", zero, zero),
            ("r < 0", minus_one, s),
            ("s < 0", r, minus_one),
            ("r = n", &order, s),
            ("s = n", r, &order),
            ("r + n", &beyond, s),
        ] {
            let length = u8::try_from(r.len() + s.len()).unwrap();
            let forged = [&[0x30, length][..], r, s].concat();
            assert!(!key.public_key().verifies(b"message", &forged), "{what}");
            assert!(strict_der(&forged).is_none(), "{what}");
        }
    }

    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    const SECP256K1: &str = "MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAE/xx6yGkPAF+0tjw/3OcVEw+m0JN7e+Ty\n\
                             +xrq3AUgUXpalfa/WqF1DRjaYcTxlJ87QOzDDCW/bFVHqNYBNR8J1g==";
    const INFINITY: &str = "MBkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDAgAA";

    const RSA: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDt/ILdgGA+B0Ok+Q5jsUGGEeQt\n\
                       D/d3V2UesNmI+LMXTPd2Om2tUisbL2wnlmpIWzSSNvOLUJvq+dCIH8HWLXWRBSbj\n\
                       Puu15Xttlz6hxLmO3rN39zfNncbzVyrN/dS2sDfV2y5MNZkmtknclAlJ2Vk0nRz+\n\
                       0/Bj2ue/phF1fzlfqQIDAQAB";
    const ED25519: &str = "MCowBQYDK2VwAyEApI+RWl2Dx2l0/SbevyVLv9biqB+NxZ5WpAJ7ZZblkZ0=";
    const P384: &str = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEAzvqKsdJ+KMiPlV0/qonwl4koii1cAJM\n\
                        8UEar6xddDAC2J6XDtONbfkHpboCUrRKO+pysTYPIrcbqrUIIewsVe+S+di21Cjm\n\
                        Ok/kUj0uFk1s9DIEx2S5eXiGfd5xyKWy";
    const COMPRESSED: &str = "MDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgACkDc3JVlUozxr/+5Czz1IJklrPjmW\n\
                              yxtbkEQTphuGZU8=";
    const EXPLICIT: &str = "MIIBSzCCAQMGByqGSM49AgEwgfcCAQEwLAYHKoZIzj0BAQIhAP////8AAAABAAAA\n\
                            AAAAAAAAAAAA////////////////MFsEIP////8AAAABAAAAAAAAAAAAAAAA////\n\
                            ///////////8BCBaxjXYqjqT57PrvVV2mIa8ZR0GsMxTsPY7zjw+J9JgSwMVAMSd\n\
                            NgiG5wSTamZ44ROdJreBn36QBEEEaxfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5\n\
                            RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9QIhAP////8AAAAA\n\
                            //////////+85vqtpxeehPO5ysL8YyVRAgEBA0IABJA3NyVZVKM8a//uQs89SCZJ\n\
                            az45lssbW5BEE6YbhmVP1svfXDpurt9tRPbH/Itm/jV8KwGCH+54LQwPNbe/w4w=";
}
