//! The signed statement: which files a model has, and how they were hashed. From signed bytes to a checked value, or the
//! first thing that is wrong with them. It is read only after its signature held.

use super::members::{Members, ShapeError};
use super::names::{self, Ignored, NameError};
use super::shards::{Shard, ShardError, Shards};
use crate::Sha256;
use crate::canonical::{CanonicalError, Value};
use crate::digest::Hasher;
use crate::document::{deceptive, printable};
use crate::strict_json::{self, Numbers};
use std::collections::{BTreeMap, BTreeSet};

/// The type of an in-toto statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate.
pub const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
/// Greatest number of resources: files, or shards of files.
pub const RESOURCES_MAX: usize = 16_384;
/// Greatest length of the subject's name, bytes.
pub const SUBJECT_MAX: usize = 1024;

/// Why a signed payload is no statement that can be held against a folder.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// Not strict JSON.
    #[error("not strict JSON")]
    Json(#[source] CanonicalError),
    /// A member is missing, unknown or of another kind.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A name that is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Shards that do not make up their files.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Not exactly one subject with one SHA-256 digest.
    #[error("`subject` must be one entry with a name and one `sha256` digest")]
    Subject,
    /// A method of serialization that is not known.
    #[error("unsupported serialization method `{0}`: only `files` and `shards` are")]
    Method(String),
    /// A hash other than SHA-256.
    #[error("unsupported hash `{0}`: only `sha256` is")]
    Hash(String),
    /// Links were followed when it was signed.
    #[error(
        "`allow_symlinks` is true: what is behind a link is not part of the model; have it signed without links"
    )]
    Links,
    /// No resources: a signature over nothing.
    #[error("`resources` is empty: the signature covers no file")]
    Nothing,
    /// More than [`RESOURCES_MAX`] resources.
    #[error("{0} resources: at most {RESOURCES_MAX} are allowed")]
    TooMany(usize),
    /// A resource with another algorithm than the serialization names.
    #[error("`{name}` has the algorithm `{found}`, the serialization says `{expected}`")]
    Algorithm {
        /// The resource.
        name: String,
        /// What stands beside it.
        found: String,
        /// What is due.
        expected: String,
    },
    /// A digest that is not 64 lower-case hexadecimal digits.
    #[error("digest of `{0}` is not 64 lower-case hexadecimal digits")]
    Digest(String),
    /// The digest over all resources is not the subject's.
    #[error("the subject's digest is not that of the listed resources")]
    Root,
}

/// How the files of the model are covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coverage {
    /// One digest for each file, by name.
    Files(BTreeMap<String, Sha256>),
    /// One digest for each shard of each file.
    Shards(Shards),
}

/// A checked statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What the signer called the model; informative.
    pub subject: String,
    /// The files.
    pub coverage: Coverage,
    /// What the signature leaves out.
    pub ignored: Ignored,
}

/// What is hashed how, before the resources are looked at.
struct Serialization {
    shard_size: Option<u64>,
    ignored: Vec<String>,
}

impl Statement {
    /// Reads a signed payload. `allowed` are paths that a signature may leave out besides the git names.
    ///
    /// # Errors
    /// Any [`StatementError`].
    pub fn parse(payload: &[u8], allowed: &BTreeSet<String>) -> Result<Self, StatementError> {
        let value = strict_json::read(payload, Numbers::PointZero).map_err(StatementError::Json)?;
        let mut statement = Members::of(value, "statement")?;
        statement.constant("_type", STATEMENT_TYPE)?;
        statement.constant("predicateType", PREDICATE_TYPE)?;
        let (subject, root) = read_subject(statement.list("subject")?)?;
        let mut predicate = statement.object("predicate")?;
        let serialization = read_serialization(predicate.object("serialization")?)?;
        let resources = read_resources(predicate.list("resources")?, &serialization)?;
        check_root(&resources, root)?;
        let ignored = Ignored::new(serialization.ignored, allowed)?;
        let coverage = cover(resources, serialization.shard_size)?;
        let statement = Self { subject, coverage, ignored };
        if let Some(name) = statement.names().find(|name| statement.ignored.covers(name)) {
            return Err(NameError::SignedAndIgnored(printable(name)).into());
        }
        Ok(statement)
    }

    /// The names of the covered files, sorted.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.coverage {
            Coverage::Files(files) => Box::new(files.keys().map(String::as_str)),
            Coverage::Shards(shards) => Box::new(shards.files.keys().map(String::as_str)),
        }
    }
}

fn read_subject(mut subjects: Vec<Value>) -> Result<(String, Sha256), StatementError> {
    let (Some(only), true) = (subjects.pop(), subjects.is_empty()) else {
        return Err(StatementError::Subject);
    };
    let mut subject = Members::of(only, "subject[0]")?;
    let name = subject.text("name")?;
    let mut digests = subject.object("digest")?;
    let digest = digests.text("sha256")?;
    digests.nothing_more()?;
    if name.is_empty() || name.len() > SUBJECT_MAX || name.chars().any(deceptive) {
        return Err(StatementError::Subject);
    }
    Ok((name, read_digest(&digest, "subject")?))
}

fn read_serialization(mut serialization: Members) -> Result<Serialization, StatementError> {
    let method = serialization.text("method")?;
    let hash = serialization.text("hash_type")?;
    let size = serialization.take("shard_size");
    let ignored = serialization.optional_list("ignore_paths")?;
    let links = serialization.take("allow_symlinks");
    // An unknown member may change what the known ones mean.
    serialization.nothing_more()?;
    if hash != "sha256" {
        return Err(StatementError::Hash(printable(&hash)));
    }
    match links {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => return Err(StatementError::Links),
        Some(_) => {
            return Err(ShapeError::new("serialization.allow_symlinks", "is neither true nor false").into());
        }
    }
    let text = |path| match path {
        Value::String(path) => Ok(path),
        _ => Err(ShapeError::new("serialization.ignore_paths", "holds something that is no text")),
    };
    let ignored = ignored.into_iter().map(text).collect::<Result<_, _>>()?;
    let shard_size = match (method.as_str(), size) {
        ("files", None | Some(Value::Null)) => None,
        ("files", Some(_)) => {
            return Err(ShapeError::new("serialization.shard_size", "has no place beside `files`").into());
        }
        ("shards", Some(Value::Integer(size))) if size > 0 => Some(size.unsigned_abs()),
        ("shards", _) => {
            return Err(ShapeError::new("serialization.shard_size", "is no whole number above 0").into());
        }
        _ => return Err(StatementError::Method(printable(&method))),
    };
    Ok(Serialization { shard_size, ignored })
}

fn read_resources(
    items: Vec<Value>,
    serialization: &Serialization,
) -> Result<Vec<(String, Sha256)>, StatementError> {
    if items.is_empty() {
        return Err(StatementError::Nothing);
    }
    if items.len() > RESOURCES_MAX {
        return Err(StatementError::TooMany(items.len()));
    }
    let mut resources = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let mut resource = Members::of(item, format!("resources[{index}]"))?;
        let name = resource.text("name")?;
        let algorithm = resource.text("algorithm")?;
        let digest = resource.text("digest")?;
        // Other members are allowed: the format's descriptors may carry more, and none of it changes these three.
        let sharded = serialization.shard_size.map(|size| format!("sha256-sharded-{size}"));
        if algorithm != "sha256" && sharded.as_ref() != Some(&algorithm) {
            return Err(StatementError::Algorithm {
                name: printable(&name),
                found: printable(&algorithm),
                expected: "sha256".to_owned(),
            });
        }
        let digest = read_digest(&digest, &name)?;
        resources.push((name, digest));
    }
    Ok(resources)
}

fn read_digest(hex: &str, of: &str) -> Result<Sha256, StatementError> {
    format!("sha256:{hex}").parse().map_err(|_| StatementError::Digest(printable(of)))
}

/// The subject's digest is SHA-256 over the resources' digests in their listed order. It does not bind names: only the
/// signature over the whole does.
fn check_root(resources: &[(String, Sha256)], root: Sha256) -> Result<(), StatementError> {
    let mut hasher = Hasher::default();
    for (_, digest) in resources {
        hasher.update(&digest.0);
    }
    if hasher.finish() == root { Ok(()) } else { Err(StatementError::Root) }
}

fn cover(resources: Vec<(String, Sha256)>, shard_size: Option<u64>) -> Result<Coverage, StatementError> {
    let coverage = match shard_size {
        None => {
            let mut files = BTreeMap::new();
            for (name, digest) in resources {
                names::check(&name)?;
                if files.contains_key(&name) {
                    return Err(NameError::Twice(printable(&name)).into());
                }
                files.insert(name, digest);
            }
            names::check_apart(&files.keys().map(String::as_str).collect())?;
            Coverage::Files(files)
        }
        Some(size) => {
            let mut shards = Shards::of_size(size);
            for (name, digest) in resources {
                let (file, shard) = Shard::parse(&name, digest)?;
                names::check(file)?;
                shards.add(file, shard)?;
            }
            names::check_apart(&shards.files.keys().map(String::as_str).collect())?;
            Coverage::Shards(shards)
        }
    };
    Ok(coverage)
}
