//! The test models as users have them: a folder with the model, its manifest and its signature, made by `turnoutctl`.
//! What each version does well or badly is in `tests/models/README.md`.

use crate::daemon::{Answered, Ctl};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The models.
pub const MODELS: [&str; 2] = ["digits", "cancer"];
/// The version that goes live first.
pub const FIRST: &str = "1.0.0";
/// The others: one good, the rest bad in a way of their own.
pub const OTHERS: [&str; 7] = ["better", "slow", "errors", "nan", "swapped", "crash", "greedy"];

#[derive(Deserialize)]
struct Sample<'a> {
    #[serde(borrow)]
    body: &'a RawValue,
}

/// Request bodies of a model, from the rows held out of its training.
///
/// # Errors
/// When the committed file is missing or not as its README says.
pub fn bodies(model: &str) -> Result<Arc<[Bytes]>> {
    let path = folder().join("requests").join(format!("{model}.json"));
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let samples: Vec<Sample> =
        serde_json::from_str(&text).with_context(|| format!("`{}`", path.display()))?;
    Ok(samples.iter().map(|sample| Bytes::copy_from_slice(sample.body.get().as_bytes())).collect())
}

/// The committed file of a model's version.
pub fn file(model: &str, version: &str) -> PathBuf {
    folder().join(model).join(version).join("model.onnx")
}

/// Makes keys and says that their signature counts for the test models; gives the private key's file.
///
/// # Errors
/// The command's own message.
pub fn trusted_key(ctl: &Ctl, folder: &Path) -> Result<PathBuf> {
    let key = folder.join("release.pem");
    ctl.ok(&["key", "generate", text(&key)?])?;
    let public = key.with_extension("pub.pem");
    let mut trust = vec!["trust", "add", text(&public)?, "--issuer", "demo"];
    trust.extend(MODELS.iter().flat_map(|model| ["--models", *model]));
    ctl.ok(&trust)?;
    Ok(key)
}

/// A test model's version, and the label it is given.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// One of [`MODELS`].
    pub model: &'a str,
    /// [`FIRST`] or one of [`OTHERS`].
    pub version: &'a str,
    /// The version's label in its manifest.
    pub label: &'a str,
}

impl<'a> Source<'a> {
    /// A version under its own label.
    pub fn of(model: &'a str, version: &'a str) -> Self {
        Self { model, version, label: version }
    }
}

/// Copies a test model into a folder of its own below `work` and writes its manifest, not yet signed.
///
/// # Errors
/// When the model is not there, or the command's own message.
pub fn unsigned(ctl: &Ctl, work: &Path, source: Source<'_>) -> Result<PathBuf> {
    let Source { model, version, label } = source;
    let file = file(model, version);
    let bundle = work.join(format!("{model}-{label}"));
    fs::create_dir_all(&bundle)?;
    fs::copy(&file, bundle.join("model.onnx"))
        .with_context(|| format!("cannot copy `{}`", file.display()))?;
    ctl.ok(&["manifest", "new", text(&bundle)?, "--model", model, "--version", label])?;
    Ok(bundle)
}

/// Changes a description that is not yet signed: one text in it for another.
///
/// # Errors
/// When it does not hold the text.
pub fn describe(bundle: &Path, from: &str, to: &str) -> Result<()> {
    let path = bundle.join("turnout.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    ensure!(text.contains(from), "no `{from}` in {text}");
    fs::write(&path, text.replace(from, to)).map_err(Into::into)
}

/// Signs the manifest of a version's folder.
///
/// # Errors
/// The command's own message.
pub fn sign(ctl: &Ctl, bundle: &Path, key: &Path) -> Result<()> {
    ctl.ok(&["manifest", "sign", text(bundle)?, "--key", text(key)?]).map(drop)
}

/// Sends a version's folder to the daemon, whatever comes of it.
///
/// # Errors
/// When the command cannot be started.
pub fn import(ctl: &Ctl, bundle: &Path) -> Result<Answered> {
    ctl.run(&["model", "import", text(bundle)?])
}

/// A path as an argument.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}
