//! The manifest: what one version is, file by file, and what it promises.

use crate::assertion::Assertion;
use crate::contract::Contract;
use crate::digest::Sha256;
use crate::ids::{ModelName, Version, VersionRef};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One file of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative path with `/`, canonical: no empty, `.` or `..` component.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Digest of the content.
    pub sha256: Sha256,
}

/// How a worker of this version runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// The ONNX file among the files.
    pub model_file: String,
    /// Serving threads, each with its own session and CPU: 1 to 64.
    pub threads: u32,
    /// Greatest memory of the worker, bytes.
    pub memory_bytes: u64,
}

/// A checked manifest. Its canonical JSON is what is signed; the digest of that JSON names the version's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `turnout.manifest/v1`.
    pub schema: String,
    /// The model this is a version of.
    pub model: ModelName,
    /// The version's label.
    pub version: Version,
    /// Every file, sorted by path, none missing and none more.
    pub files: Vec<FileEntry>,
    /// How a worker runs it.
    pub runtime: Runtime,
    /// What requests and answers look like.
    pub contract: Contract,
    /// What a good answer is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assertions: Vec<Assertion>,
    /// Statistics of known-good data, by name, as decimal texts; kept for drift checks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baseline: BTreeMap<String, String>,
    /// Free text for people and tools: training run, data set, owner.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The schema name that [`Manifest::schema`] must hold.
pub const SCHEMA: &str = "turnout.manifest/v1";

impl Manifest {
    /// `model@version`.
    pub fn reference(&self) -> VersionRef {
        VersionRef { model: self.model.clone(), version: self.version.clone() }
    }
}
