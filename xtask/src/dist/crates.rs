//! Which crates of others the packaged programs are built from, and the texts of licences in their sources. What is made
//! of it is in `notices.rs`.

use crate::metadata::{self, Resolve};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the programs run.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where what they load into the kernel runs.
const KERNEL_TARGET: &str = "bpfel-unknown-none";
/// What a file with a licence, a notice or names of authors is called, in any case of letters.
const TEXTS: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];

/// A crate that others wrote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Foreign {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it says its licence is: an SPDX expression.
    pub licence: String,
    /// Whom it names as its authors.
    pub authors: Vec<String>,
    /// Texts in its source, each with the name of its file.
    pub texts: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<PathBuf>,
    authors: Vec<String>,
    manifest_path: PathBuf,
    /// Absent for a crate of this project.
    source: Option<String>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Every crate of others that these programs, or what they load into the kernel, reach by normal dependencies.
///
/// # Errors
/// When cargo cannot say, or a crate does not say what its licence is.
pub fn foreign(root: &Path, programs: &[&str]) -> Result<BTreeSet<Foreign>> {
    let mut found = Metadata::read(root, "Cargo.toml", TARGET)?.reached(programs)?;
    found.extend(Metadata::read(root, "ebpf/Cargo.toml", KERNEL_TARGET)?.reached(&["turnout"])?);
    Ok(found)
}

impl Metadata {
    fn read(root: &Path, manifest: &str, target: &str) -> Result<Self> {
        metadata::read(root, &["--filter-platform", target, "--manifest-path", manifest])
    }

    fn reached(&self, programs: &[&str]) -> Result<BTreeSet<Foreign>> {
        let packages: BTreeMap<&str, &Package> = self.packages.iter().map(|p| (&*p.id, p)).collect();
        let built = programs.iter().map(|program| self.builder(program)).collect::<Result<Vec<_>>>()?;
        let seen = self.resolve.reached(&built, |kind| kind.is_none());
        let seen = seen.into_iter().filter_map(|id| packages.get(id));
        seen.filter(|package| package.source.is_some()).map(|package| package.foreign()).collect()
    }

    /// The crate that a program is built from.
    fn builder(&self, program: &str) -> Result<&str> {
        let builds = |target: &Target| target.name == program && target.kind.iter().any(|kind| kind == "bin");
        let package = self.packages.iter().find(|package| package.targets.iter().any(builds));
        package.map(|package| &*package.id).with_context(|| format!("no crate builds `{program}`"))
    }
}

impl Package {
    fn foreign(&self) -> Result<Foreign> {
        let licence = self.license.clone().with_context(|| {
            format!("`{}` {} names no SPDX licence: look whether it may be packaged", self.name, self.version)
        })?;
        Ok(Foreign {
            name: self.name.clone(),
            version: self.version.clone(),
            licence,
            authors: self.authors.clone(),
            texts: self.texts()?,
        })
    }

    /// In the order of their names.
    fn texts(&self) -> Result<Vec<(String, String)>> {
        let folder = self.manifest_path.parent().unwrap_or(Path::new("."));
        let mut files: BTreeSet<PathBuf> = self.license_file.iter().map(|file| folder.join(file)).collect();
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
            let path = entry?.path();
            if path.is_file() && is_text(&path) {
                files.insert(path);
            }
        }
        let read = |file: PathBuf| {
            let content = fs::read(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, String::from_utf8_lossy(&content).into_owned()))
        };
        files.into_iter().map(read).collect()
    }
}

fn is_text(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
    TEXTS.iter().any(|text| name.starts_with(text)) && !name.ends_with(".RS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_normal_dependencies_of_a_program_are_reached() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let package = |name: &str, source: Option<&str>| {
            let targets = serde_json::json!([{"name": name, "kind": ["bin"]}]);
            serde_json::json!({"id": name, "name": name, "version": "1.0.0", "license": "MIT", "license_file": null,
                "authors": [], "manifest_path": manifest, "source": source, "targets": targets})
        };
        let edge =
            |to: &str, kind: Option<&str>| serde_json::json!({"pkg": to, "dep_kinds": [{"kind": kind}]});
        let metadata = serde_json::json!({
            "packages": [package("ours", None), package("used", Some("r")), package("behind", Some("r")),
                package("built-with", Some("r")), package("tested-with", Some("r"))],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [edge("used", None), edge("tested-with", Some("dev"))]},
                {"id": "used", "deps": [edge("behind", None), edge("built-with", Some("build"))]},
            ]}
        });
        let metadata: Metadata = serde_json::from_value(metadata).unwrap();
        let found = metadata.reached(&["ours"]).unwrap();
        assert_eq!(found.iter().map(|found| &*found.name).collect::<Vec<_>>(), ["behind", "used"]);
        assert!(metadata.reached(&["theirs"]).is_err());
    }

    #[test]
    fn texts_are_known_by_their_names() {
        for (name, expected) in [
            ("LICENSE", true),
            ("license-mit.md", true),
            ("LICENCE.txt", true),
            ("COPYING", true),
            ("NOTICE", true),
            ("UNLICENSE", true),
            ("licenses.rs", false),
            ("README.md", false),
        ] {
            assert_eq!(is_text(Path::new(name)), expected, "{name}");
        }
    }
}
