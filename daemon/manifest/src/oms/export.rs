//! A bundle of our own making, which every verifier of the format takes: one signature over the files of a folder.

use super::bundle::{MEDIA_TYPE, PAYLOAD_TYPE};
use super::names::{self, NameError};
use super::statement::{PREDICATE_TYPE, RESOURCES_MAX, STATEMENT_TYPE};
use crate::digest::{Hasher, Sha256};
use crate::document::printable;
use crate::envelope::pre_authentication_encoding;
use crate::key::PrivateKey;
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

/// Signs the files and gives the bundle as JSON.
///
/// # Errors
/// [`ExportError`]: what the verifier here would refuse is not signed.
pub fn sign(export: &Export<'_>, key: &PrivateKey) -> Result<Vec<u8>, ExportError> {
    if export.subject.is_empty() {
        return Err(ExportError::Subject);
    }
    if export.files.is_empty() || export.files.len() > RESOURCES_MAX {
        return Err(ExportError::FileCount(export.files.len()));
    }
    for name in export.files.keys() {
        names::check(name)?;
        if export.ignored.contains(name) {
            return Err(NameError::SignedAndIgnored(printable(name)).into());
        }
    }
    names::check_apart(&export.files.keys().map(String::as_str).collect())?;
    let payload = serde_json::to_vec_pretty(&statement(export)).expect("texts and lists always serialize");
    let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload));
    let bundle = json!({
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": { "hint": key.public_key().pem_fingerprint().hex() },
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{ "sig": STANDARD.encode(signature), "keyid": "" }],
        },
    });
    Ok(serde_json::to_vec(&bundle).expect("texts and lists always serialize"))
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
