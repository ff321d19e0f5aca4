//! The content policy, held against a folder before it is signed, verified or sent: what a worker would refuse to load is
//! refused here first, with the file's name.

use crate::args::ContentArguments;
use crate::error::{Exit, Failure, chain};
use crate::files;
use std::collections::BTreeSet;
use std::io::{self, Read, Seek};
use std::path::Path;
use turnout_manifest::Manifest;
use turnout_manifest::trust::{CheckResult, Outcome};
use turnout_onnx::{ContentError, Policy, Role, examine};

/// A file that can be looked into.
pub trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

/// The files of a folder.
pub struct Files<'a> {
    /// Their paths.
    pub paths: BTreeSet<String>,
    /// The one that a worker loads, where that is known.
    pub served: Option<&'a str>,
}

/// Opens a file of the folder.
pub type Open<'a> = dyn Fn(&str) -> io::Result<Box<dyn Source>> + 'a;

impl ContentArguments {
    /// What is allowed on top of what always is.
    pub fn policy(&self) -> Policy {
        Policy { domains: self.allow_domain.clone(), formats: self.allow_format.clone() }
    }
}

/// Examines every file; the first one that is refused decides.
pub fn check(files: &Files<'_>, policy: &Policy, open: &Open<'_>) -> CheckResult {
    let name = "content".to_owned();
    match examine_all(files, policy, open) {
        Ok(()) => {
            let detail = "no file runs code when it is loaded".to_owned();
            CheckResult { name, result: Outcome::Pass, detail }
        }
        Err(error) => CheckResult { name, result: Outcome::Fail, detail: chain(&error) },
    }
}

fn examine_all(files: &Files<'_>, policy: &Policy, open: &Open<'_>) -> Result<(), ContentError> {
    for path in &files.paths {
        let mut source = open(path).map_err(|source| ContentError::Read { path: path.clone(), source })?;
        let role = if Some(path.as_str()) == files.served { Role::Model } else { Role::Beside };
        examine((path, role), &mut source, policy, &|other| files.paths.contains(other))?;
    }
    Ok(())
}

/// Examines the files of a version's folder.
pub fn check_version(dir: &Path, manifest: &Manifest, policy: &Policy) -> CheckResult {
    let paths = manifest.files.iter().map(|entry| entry.path.clone()).collect();
    let files = Files { paths, served: Some(&manifest.runtime.model_file) };
    check(&files, policy, &|path| {
        files::open_regular(&dir.join(path)).map(|file| Box::new(file) as Box<dyn Source>)
    })
}

/// The same, with a refusal in place of a failed check.
pub fn demand(dir: &Path, manifest: &Manifest, policy: &Policy) -> Result<(), Failure> {
    let check = check_version(dir, manifest, policy);
    if check.result != Outcome::Fail {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, format!("`{}`: {}", dir.display(), check.detail)).hint(
        "`--allow-domain` and `--allow-format` allow it here; the daemon's configuration must allow it too",
    ))
}
