//! A bundle of our own making, which every verifier of the format takes: one signature over the files of a folder.

use super::bundle::{MEDIA_TYPE, PAYLOAD_TYPE};
use super::names::{self, NameError};
use super::statement::{PREDICATE_TYPE, RESOURCES_MAX, STATEMENT_TYPE};
use crate::digest::{Hasher, Sha256};
use crate::document::printable;
use crate::envelope::pre_authentication_encoding;
use crate::key::PublicKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Why a folder cannot be signed in this format.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A name that a verifier would refuse.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No file, or more than a verifier reads.
    #[error("{0} files: a signature covers 1 to {RESOURCES_MAX}")]
    FileCount(usize),
    /// The subject is empty.
    #[error("the model needs a name")]
    Subject,
}

/// What is to be signed.
#[derive(Debug, Clone)]
pub struct Export<'a> {
    /// What the model is called; informative.
    pub subject: &'a str,
    /// Every file with its digest.
    pub files: &'a BTreeMap<String, Sha256>,
    /// Paths that the signature leaves out.
    pub ignored: &'a [String],
}

/// What a key has yet to sign.
#[derive(Debug, Clone)]
pub struct Signable {
    payload: Vec<u8>,
}

impl Export<'_> {
    /// The statement over the files.
    ///
    /// # Errors
    /// [`ExportError`]: what the verifier here would refuse is not signed.
    pub fn signable(&self) -> Result<Signable, ExportError> {
        if self.subject.is_empty() {
            return Err(ExportError::Subject);
        }
        if self.files.is_empty() || self.files.len() > RESOURCES_MAX {
            return Err(ExportError::FileCount(self.files.len()));
        }
        for name in self.files.keys() {
            names::check(name)?;
            if self.ignored.contains(name) {
                return Err(NameError::SignedAndIgnored(printable(name)).into());
            }
        }
        names::check_apart(&self.files.keys().map(String::as_str).collect())?;
        let payload = serde_json::to_vec_pretty(&statement(self)).expect("texts and lists always serialize");
        Ok(Signable { payload })
    }
}

impl Signable {
    /// The bytes that are signed.
    pub fn signed_bytes(&self) -> Vec<u8> {
        pre_authentication_encoding(PAYLOAD_TYPE, &self.payload)
    }

    /// The bundle as JSON, with this key's signature (DER) over [`Signable::signed_bytes`].
    pub fn bundle(&self, key: &PublicKey, signature: &[u8]) -> Vec<u8> {
        let bundle = json!({
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": { "hint": key.pem_fingerprint().hex() },
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": STANDARD.encode(&self.payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{ "sig": STANDARD.encode(signature), "keyid": "" }],
            },
        });
        serde_json::to_vec(&bundle).expect("texts and lists always serialize")
    }
}

/// The resources stand in the order of their names' code points, as the written specification wants it.
fn statement(export: &Export<'_>) -> Value {
    let mut root = Hasher::default();
    let mut resources = Vec::with_capacity(export.files.len());
    for (name, digest) in export.files {
        root.update(&digest.0);
        resources.push(json!({ "algorithm": "sha256", "digest": digest.hex(), "name": name }));
    }
    json!({
        "_type": STATEMENT_TYPE,
        "subject": [{ "name": export.subject, "digest": { "sha256": root.finish().hex() } }],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": false,
                "ignore_paths": export.ignored,
            },
            "resources": resources,
        },
    })
}
