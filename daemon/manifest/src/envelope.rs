//! The DSSE envelope: a payload as it was signed, its type, and signatures over both.
//! Whose signature counts, and what the payload says, is left to `trust` and `manifest`.

use crate::canonical::{self, CanonicalError};
use crate::key::{KeyId, PrivateKey, PublicKey, SIGNATURE_MAX, strict_signature};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The payload type of a manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.turnout.manifest.v1+json";
/// Greatest number of signatures.
pub const SIGNATURES_MAX: usize = 16;
/// Longest signed manifest that is written, sent, kept or read, bytes.
pub const ENVELOPE_MAX: u64 = 8 << 20;
/// Greatest length of a payload type, bytes.
pub const PAYLOAD_TYPE_MAX: usize = 128;

/// Why bytes are no envelope, or an envelope cannot take a signature.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the canonical JSON of an envelope.
    #[error("not an envelope in canonical JSON")]
    Json(#[source] CanonicalError),
    /// A member is not standard base64 with padding, or not in its one form.
    #[error("`{0}` is not standard base64 with padding")]
    Base64(&'static str),
    /// The payload type is empty, too long or not printable ASCII.
    #[error("`payloadType` must be 1 to {PAYLOAD_TYPE_MAX} printable ASCII characters")]
    PayloadType,
    /// No signature, or more than [`SIGNATURES_MAX`].
    #[error("envelope has {0} signatures: 1 to {SIGNATURES_MAX} are allowed")]
    SignatureCount(usize),
    /// Two signatures name one key.
    #[error("envelope has two signatures of key `{0}`")]
    KeyTwice(KeyId),
    /// A signature that is not strict DER of P-256, or is high-S.
    #[error("signature of key `{0}` is not a strict DER, low-S signature over P-256")]
    SignatureForm(KeyId),
    /// A signature that the key it is given for did not make over these bytes.
    #[error("signature of key `{0}` does not hold over this payload")]
    SignatureWrong(KeyId),
    /// The key has signed already.
    #[error("key `{0}` has signed this already")]
    SignedAlready(KeyId),
}

/// One signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeSignature {
    /// Which key is said to have made it: a hint for looking up, not signed.
    pub key_id: KeyId,
    /// Strict DER, low-S.
    pub signature: Vec<u8>,
}

/// A well-formed envelope. Nothing is known yet of whether its signatures hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<EnvelopeSignature>,
}

/// What is signed: the payload bound to its type (DSSE v1, pre-authentication encoding).
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    /// Wraps a payload and signs it.
    ///
    /// # Errors
    /// [`EnvelopeError::PayloadType`].
    pub fn sign(payload_type: &str, payload: Vec<u8>, key: &PrivateKey) -> Result<Self, EnvelopeError> {
        let mut envelope = Self::unsigned(payload_type, payload)?;
        envelope.add_signature(key)?;
        Ok(envelope)
    }

    /// Wraps a payload that others are to sign. Only [`Envelope::parse_draft`] reads it as long as nobody has.
    ///
    /// # Errors
    /// [`EnvelopeError::PayloadType`].
    pub fn unsigned(payload_type: &str, payload: Vec<u8>) -> Result<Self, EnvelopeError> {
        check_payload_type(payload_type)?;
        Ok(Self { payload_type: payload_type.to_owned(), payload, signatures: Vec::new() })
    }

    /// Takes in a signature that was made elsewhere, over [`Envelope::signed_bytes`].
    ///
    /// # Errors
    /// [`EnvelopeError`] when the key has signed already, the envelope is full or the signature does not hold.
    pub fn attach(&mut self, key: &PublicKey, signature: Vec<u8>) -> Result<(), EnvelopeError> {
        let key_id = key.id();
        if self.signatures.iter().any(|earlier| earlier.key_id == key_id) {
            return Err(EnvelopeError::SignedAlready(key_id));
        }
        if self.signatures.len() == SIGNATURES_MAX {
            return Err(EnvelopeError::SignatureCount(SIGNATURES_MAX + 1));
        }
        if !key.verifies(&self.signed_bytes(), &signature) {
            return Err(EnvelopeError::SignatureWrong(key_id));
        }
        self.signatures.push(EnvelopeSignature { key_id, signature });
        Ok(())
    }

    /// Adds the signature of one more key, in place of an earlier one of the same key.
    ///
    /// # Errors
    /// [`EnvelopeError::SignatureCount`] when the envelope is full.
    pub fn add_signature(&mut self, key: &PrivateKey) -> Result<(), EnvelopeError> {
        let key_id = key.public_key().id();
        self.signatures.retain(|signature| signature.key_id != key_id);
        if self.signatures.len() == SIGNATURES_MAX {
            return Err(EnvelopeError::SignatureCount(SIGNATURES_MAX + 1));
        }
        let signature = key.sign(&self.signed_bytes());
        self.signatures.push(EnvelopeSignature { key_id, signature });
        Ok(())
    }

    /// Reads the canonical JSON form.
    ///
    /// # Errors
    /// Any [`EnvelopeError`]: whatever is not in its one form is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope = Self::parse_draft(bytes)?;
        if envelope.signatures.is_empty() { Err(EnvelopeError::SignatureCount(0)) } else { Ok(envelope) }
    }

    /// Reads the canonical JSON form of an envelope that nobody may have signed yet.
    ///
    /// # Errors
    /// Any [`EnvelopeError`]: whatever is not in its one form is refused.
    pub fn parse_draft(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire = canonical::from_canonical(bytes).map_err(EnvelopeError::Json)?;
        check_payload_type(&wire.payload_type)?;
        if wire.signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::SignatureCount(wire.signatures.len()));
        }
        let mut signatures: Vec<EnvelopeSignature> = Vec::with_capacity(wire.signatures.len());
        for WireSignature { keyid, sig } in wire.signatures {
            if signatures.iter().any(|earlier| earlier.key_id == keyid) {
                return Err(EnvelopeError::KeyTwice(keyid));
            }
            let signature = STANDARD.decode(sig).map_err(|_| EnvelopeError::Base64("sig"))?;
            if signature.len() > SIGNATURE_MAX || strict_signature(&signature).is_none() {
                return Err(EnvelopeError::SignatureForm(keyid));
            }
            signatures.push(EnvelopeSignature { key_id: keyid, signature });
        }
        let payload = STANDARD.decode(wire.payload).map_err(|_| EnvelopeError::Base64("payload"))?;
        Ok(Self { payload_type: wire.payload_type, payload, signatures })
    }

    /// The canonical JSON form.
    ///
    /// # Errors
    /// [`EnvelopeError::Json`] when it would be larger than a document may be.
    pub fn to_json(&self) -> Result<Vec<u8>, EnvelopeError> {
        let signatures = self.signatures.iter().map(|EnvelopeSignature { key_id, signature }| {
            WireSignature { keyid: *key_id, sig: STANDARD.encode(signature) }
        });
        let wire = Wire {
            payload: STANDARD.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: signatures.collect(),
        };
        canonical::to_canonical(&wire).map_err(EnvelopeError::Json)
    }

    /// The payload's type.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload as it was signed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signatures, each of another key; none in a draft that nobody has signed.
    pub fn signatures(&self) -> &[EnvelopeSignature] {
        &self.signatures
    }

    /// The bytes that the signatures are over.
    pub fn signed_bytes(&self) -> Vec<u8> {
        pre_authentication_encoding(&self.payload_type, &self.payload)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<WireSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    keyid: KeyId,
    sig: String,
}

fn check_payload_type(text: &str) -> Result<(), EnvelopeError> {
    let printable =
        (1..=PAYLOAD_TYPE_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if printable { Ok(()) } else { Err(EnvelopeError::PayloadType) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PublicKey;
    use p256::elliptic_curve::sec1::ToSec1Point;

    const TYPE: &str = "http://example.com/HelloWorld";

    #[test]
    fn the_test_vector_of_the_dsse_protocol_holds() {
        let signed = pre_authentication_encoding(TYPE, b"hello world");
        assert_eq!(signed, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");

        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let secret = p256::SecretKey::from_slice(&hex(
            "d73ec437fd6346e3619c5ebfdfff0f6916804955ad32ac9ac492b0ede1f6ffb7",
        ))
        .unwrap();
        let point = secret.public_key().to_sec1_point(false);
        let spki =
            [&hex("3059301306072a8648ce3d020106082a8648ce3d030107034200")[..], point.as_bytes()].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", {
            let text = STANDARD.encode(spki);
            format!("{}\n{}", &text[..64], &text[64..])
        });
        let raw = STANDARD
            .decode(
                "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==",
            )
            .unwrap();
        let der = p256::ecdsa::Signature::from_slice(&raw).unwrap().to_der();
        assert!(PublicKey::from_pem(&pem).unwrap().verifies(&signed, der.as_bytes()));
    }

    #[test]
    fn an_envelope_survives_its_json_with_every_signature() {
        let keys = [PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap()];
        let mut envelope = Envelope::sign(TYPE, b"{}".to_vec(), &keys[0]).unwrap();
        envelope.add_signature(&keys[1]).unwrap();
        envelope.add_signature(&keys[0]).unwrap();
        let read = Envelope::parse(&envelope.to_json().unwrap()).unwrap();
        assert_eq!(read, envelope);
        assert_eq!(read.signatures().len(), 2, "a key signs once");
        for key in &keys {
            let of_key = read.signatures().iter().find(|s| s.key_id == key.public_key().id()).unwrap();
            assert!(key.public_key().verifies(&read.signed_bytes(), &of_key.signature));
        }
    }

    #[test]
    fn only_sixteen_keys_fit() {
        let mut envelope = Envelope::sign(TYPE, b"{}".to_vec(), &PrivateKey::generate().unwrap()).unwrap();
        for _ in 1..SIGNATURES_MAX {
            envelope.add_signature(&PrivateKey::generate().unwrap()).unwrap();
        }
        assert!(envelope.add_signature(&PrivateKey::generate().unwrap()).is_err());
        assert!(Envelope::parse(&envelope.to_json().unwrap()).is_ok());
    }

    #[test]
    fn envelopes_not_in_their_one_form_are_refused() {
        let key = PrivateKey::generate().unwrap();
        let good = String::from_utf8(Envelope::sign(TYPE, b"ab".to_vec(), &key).unwrap().to_json().unwrap())
            .unwrap();
        let id = key.public_key().id().to_string();
        let one = good[good.find("[{").unwrap() + 1..good.len() - 2].to_owned();
        let sig = one[one.rfind(":\"").unwrap() + 2..one.len() - 2].to_owned();
        let low = p256::ecdsa::Signature::from_der(&STANDARD.decode(&sig).unwrap()).unwrap();
        let other = (p256::Scalar::ZERO - *low.s()).to_bytes();
        let high = p256::ecdsa::Signature::from_scalars(low.r().to_bytes(), other).unwrap();
        let (raw, high) = (low.to_bytes(), STANDARD.encode(high.to_der().as_bytes()));
        for (bad, expected) in [
            (format!("{good}\n"), "canonical"),
            (good.replace("\"payload\":\"YWI=\"", "\"payload\": \"YWI=\""), "canonical"),
            (good.replace("YWI=", "YWI"), "`payload` is not standard base64"),
            (good.replace("YWI=", "YWJ="), "`payload` is not standard base64"),
            (good.replace("YWI=", "YW\\nI="), "`payload` is not standard base64"),
            (good.replace("YWI=", "_-8="), "`payload` is not standard base64"),
            (good.replace(TYPE, ""), "payloadType"),
            (good.replace(TYPE, &"t".repeat(PAYLOAD_TYPE_MAX + 1)), "payloadType"),
            (good.replace(&one, ""), "0 signatures"),
            (good.replace(&one, &format!("{one},{one}")), "two signatures"),
            // The other S of the same signature: one key twice, or the only signature.
            (good.replace(&one, &format!("{one},{}", one.replace(&sig, &high))), "two signatures"),
            (good.replace(&sig, &high), "strict DER"),
            (good.replace(&id, "sha256:00"), "canonical"),
            (good.replace(&sig, &STANDARD.encode(raw)), "strict DER"),
            (good.replace(&sig, ""), "strict DER"),
            (good.replace("\"keyid\"", "\"keyId\""), "canonical"),
            (good.replacen('{', "{\"extra\":1,", 1), "canonical"),
        ] {
            assert_ne!(bad, good);
            let found = Envelope::parse(bad.as_bytes()).expect_err(&bad).to_string();
            assert!(found.contains(expected), "{bad}\n{found}");
        }
        for length in 0..good.len() {
            assert!(Envelope::parse(&good.as_bytes()[..length]).is_err(), "cut at {length}");
        }
    }
}
