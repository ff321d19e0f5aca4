//! Names in a statement: which may be signed at all, which may be left out of a signature, and that no two of them fall
//! together on any file system.

use crate::document::{fold, printable};
use crate::section::hostile;
use std::collections::BTreeSet;

/// What a signer leaves out by default, at the root of the folder only.
pub const GIT_NAMES: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];
/// Greatest number of names that a statement leaves out.
pub const IGNORED_MAX: usize = 64;

/// A name that is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It must not be created on any host.
    #[error("name `{name}` {reason}")]
    Hostile {
        /// The name, escaped.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// It is listed more than once.
    #[error("`{0}` is listed twice")]
    Twice(String),
    /// It falls together with another one on some file systems.
    #[error("`{0}` differs from another name in case or Unicode normalization alone")]
    FoldsTogether(String),
    /// It is a file and a folder.
    #[error("`{0}` is a file and a folder")]
    FileAndFolder(String),
    /// It is a pattern; the format has none.
    #[error("ignored path `{0}` has a character of a pattern")]
    Pattern(String),
    /// The local policy does not let a signature leave it out.
    #[error(
        "the signature leaves out `{0}`, and only the git names and the signature's own file may be left out: \
         have it signed again with it, or allow it with `--allow-ignored`"
    )]
    NotAllowed(String),
    /// More than [`IGNORED_MAX`] of them.
    #[error("the signature leaves out {0} paths: at most {IGNORED_MAX} are allowed")]
    TooManyIgnored(usize),
    /// It is both signed and left out.
    #[error("`{0}` is listed among the files and left out by `ignore_paths`")]
    SignedAndIgnored(String),
}

/// Refuses a name that must not be created on any host.
pub(super) fn check(name: &str) -> Result<(), NameError> {
    match hostile(name) {
        Some(reason) => Err(NameError::Hostile { name: printable(name), reason }),
        None => Ok(()),
    }
}

/// Refuses names that are the same, that some file system takes for the same, or of which one is the other's folder.
pub(super) fn check_apart(names: &BTreeSet<&str>) -> Result<(), NameError> {
    let mut folded = BTreeSet::new();
    for name in names {
        if let Some(parent) = parents(name).find(|parent| names.contains(parent)) {
            return Err(NameError::FileAndFolder(printable(parent)));
        }
        if !folded.insert(fold(name)) {
            return Err(NameError::FoldsTogether(printable(name)));
        }
    }
    Ok(())
}

/// The paths of the folders above a name, outermost first.
pub(super) fn parents(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[..at])
}

/// The paths that a signature leaves out; each covers what is below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored(BTreeSet<String>);

impl Ignored {
    /// The paths a statement lists, each of which `allowed` or [`GIT_NAMES`] must hold.
    pub(super) fn new(paths: Vec<String>, allowed: &BTreeSet<String>) -> Result<Self, NameError> {
        if paths.len() > IGNORED_MAX {
            return Err(NameError::TooManyIgnored(paths.len()));
        }
        let mut ignored = BTreeSet::new();
        for path in paths {
            check(&path)?;
            if path.contains(['*', '?', '[', ']', '{', '}']) {
                return Err(NameError::Pattern(printable(&path)));
            }
            if !GIT_NAMES.contains(&path.as_str()) && !allowed.contains(&path) {
                return Err(NameError::NotAllowed(printable(&path)));
            }
            if !ignored.insert(path.clone()) {
                return Err(NameError::Twice(printable(&path)));
            }
        }
        Ok(Self(ignored))
    }

    /// True if the path, or a folder above it, is left out.
    pub fn covers(&self, path: &str) -> bool {
        self.0.contains(path) || parents(path).any(|parent| self.0.contains(parent))
    }

    /// The paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}
