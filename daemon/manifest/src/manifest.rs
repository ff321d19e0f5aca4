//! The manifest: what one version is, file by file, and what it promises. From bytes to a checked value, or to
//! everything that is wrong with them. Whether anybody signed it is left to `trust`.

use crate::assertion::Assertion;
use crate::canonical::{self, CanonicalError, Value};
use crate::contract::Contract;
use crate::digest::Sha256;
use crate::document::{Node, Place, Reader};
use crate::ids::{Channel, DeviceGroup, ModelName, Version, VersionRef};
use crate::problem::{Problem, Problems};
use crate::profile::{Class, CpuLimit, Requirement};
use crate::section::{self, FILES_MAX, MEMORY_DEFAULT, Sections, THREADS_DEFAULT, all};
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
    /// How its cell shares the machine.
    #[serde(default, skip_serializing_if = "Class::is_burstable")]
    pub class: Class,
    /// Most CPU time of a burstable cell, CPUs; `None` where only the host's configuration limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<CpuLimit>,
    /// Groups of devices that its cell gets, by the names that the host's configuration gives them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceGroup>,
    /// What must hold its cell; where a host cannot, the release is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Requirement>,
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
    /// What it is meant for; `prod` is not written.
    #[serde(default, skip_serializing_if = "Channel::is_prod")]
    pub channel: Channel,
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

const KEYS: &[&str] = &[
    "schema",
    "model",
    "version",
    "channel",
    "files",
    "runtime",
    "contract",
    "assertions",
    "baseline",
    "annotations",
];

impl Manifest {
    /// Reads the canonical JSON of a manifest.
    ///
    /// # Errors
    /// Everything that is wrong with it; one problem alone if it is not canonical JSON.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, Problems> {
        let value = canonical::parse_canonical(bytes).map_err(|error| {
            Problems(vec![Problem::new("", error.to_string(), "sign the manifest again with `turnoutctl`")])
        })?;
        Self::from_value(value)
    }

    /// Reads a manifest from strict JSON.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn from_value(value: Value) -> Result<Self, Problems> {
        let root = Node::from(value);
        let mut reader = Reader::default();
        let manifest = read(&mut reader, &root);
        reader.finish().unless_any(manifest)
    }

    /// The canonical JSON: what is signed.
    ///
    /// # Errors
    /// [`CanonicalError`] when a number or the whole is too large.
    pub fn to_canonical(&self) -> Result<Vec<u8>, CanonicalError> {
        canonical::to_canonical(self)
    }

    /// `model@version`.
    pub fn reference(&self) -> VersionRef {
        VersionRef { model: self.model.clone(), version: self.version.clone() }
    }

    /// Everything that is wrong with these values, however they came together.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        if self.schema != SCHEMA {
            problems.push("schema", "another schema", format!("write `{SCHEMA}`"));
        }
        section::check_files(&self.files, &mut problems);
        section::check_runtime(&self.runtime, &mut problems);
        section::check_model_file(&self.runtime, &self.files, &mut problems);
        self.contract.check(&mut problems);
        crate::assertion::check_all(&self.assertions, &self.contract, &mut problems);
        section::check_baseline(&self.baseline, &mut problems);
        section::check_annotations(&self.annotations, &mut problems);
        problems.0
    }
}

fn read(reader: &mut Reader, root: &Node) -> Option<Manifest> {
    let group = reader.group(&Place::root(root), KEYS)?;
    let schema = group.require(reader, "schema").and_then(|place| reader.choice(&place, &[(SCHEMA, SCHEMA)]));
    let sections = Sections::read(reader, &group);
    let runtime = group.require(reader, "runtime").and_then(|place| read_runtime(reader, &place));
    let files = group.require(reader, "files").and_then(|place| {
        let items = reader.list(&place, FILES_MAX)?;
        all(items.iter().map(|item| read_file(reader, item)))
    });

    let mut found = Problems::default();
    sections.check(&mut found);
    if let Some(files) = &files {
        section::check_files(files, &mut found);
    }
    if let Some(runtime) = &runtime {
        section::check_runtime(runtime, &mut found);
    }
    if let (Some(runtime), Some(files)) = (&runtime, &files) {
        section::check_model_file(runtime, files, &mut found);
    }
    reader.locate(root, found.0);

    Some(Manifest {
        schema: schema?.to_owned(),
        model: sections.model?,
        version: sections.version?,
        channel: sections.channel?,
        files: files?,
        runtime: runtime?,
        contract: sections.contract?,
        assertions: sections.assertions?,
        baseline: sections.baseline?,
        annotations: sections.annotations?,
    })
}

fn read_runtime(reader: &mut Reader, place: &Place<'_>) -> Option<Runtime> {
    let known = &["model_file", "threads", "memory_bytes", "class", "cpu_limit", "devices", "require"];
    let group = reader.group(place, known)?;
    let model_file = group.require(reader, "model_file").and_then(|place| reader.text(&place));
    let threads = group.require(reader, "threads").and_then(|place| reader.integer(&place));
    let memory_bytes = group.require(reader, "memory_bytes").and_then(|place| reader.integer(&place));
    let profile = section::read_profile(reader, &group);
    // A part that could not be read has left its problem behind; the others can be checked all the same.
    Some(Runtime {
        model_file: model_file?,
        threads: threads.unwrap_or(THREADS_DEFAULT),
        memory_bytes: memory_bytes.unwrap_or(MEMORY_DEFAULT),
        class: profile.class,
        cpu_limit: profile.cpu_limit,
        devices: profile.devices,
        require: profile.require,
    })
}

fn read_file(reader: &mut Reader, place: &Place<'_>) -> Option<FileEntry> {
    let group = reader.group(place, &["path", "size", "sha256"])?;
    let path = group.require(reader, "path").and_then(|place| reader.text(&place));
    let size = group.require(reader, "size").and_then(|place| reader.integer(&place));
    let sha256 =
        group.require(reader, "sha256").and_then(|place| reader.parsed(&place, "hash the file again"));
    Some(FileEntry { path: path?, size: size?, sha256: sha256? })
}
