//! Is this host ready? Each requirement is probed by trying it, never by version.

use std::path::Path;

/// How a requirement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It works.
    Ok,
    /// It works with less than it could; said in `found`.
    Degraded,
    /// Turnout cannot run without it.
    Missing,
}

/// One requirement and what was found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What is needed: `btrfs`, `sk_lookup`.
    pub name: &'static str,
    /// How it stands.
    pub standing: Standing,
    /// What was found, for people.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The state directory, or the nearest one above it that exists.
    pub state: &'a Path,
    /// The cgroup2 directory, when configured.
    pub cgroup: Option<&'a Path>,
    /// The worker's binary.
    pub worker: &'a Path,
    /// The launcher's binary.
    pub launcher: &'a Path,
    /// The ONNX Runtime library.
    pub onnxruntime: &'a Path,
}
