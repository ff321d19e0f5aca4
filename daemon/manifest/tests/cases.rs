//! One document per file below `cases/`. Beside a valid one stands its canonical JSON (`.json` for `.yaml`),
//! beside an invalid one the problems that must be found, all of them, in `.problems`.

#![expect(clippy::unwrap_used, reason = "a test stops where its ground is missing")]

use std::fs;
use std::path::{Path, PathBuf};
use turnout_manifest::canonical::{self, to_canonical};
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::{Description, Manifest, Plan, Problems, Sha256};

/// Reads one document as its name says, and gives its canonical JSON.
fn read(path: &Path) -> Result<String, Problems> {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let json = if name.ends_with(".plan.yaml") {
        to_canonical(&Plan::from_yaml(&text)?)
    } else if name.ends_with(".description.yaml") {
        let description = Description::from_yaml(&text)?;
        assert_eq!(Description::from_yaml(&description.to_yaml()).unwrap(), description, "{name}: own text");
        let path = description.runtime.model_file.clone();
        description.into_manifest(vec![FileEntry { path, size: 0, sha256: Sha256::of(b"") }])?.to_canonical()
    } else {
        let manifest = Manifest::from_value(canonical::parse(text.as_bytes()).unwrap())?;
        let bytes = manifest.to_canonical().unwrap();
        assert_eq!(Manifest::from_canonical(&bytes).unwrap(), manifest, "{name}: own JSON");
        Ok(bytes)
    };
    Ok(String::from_utf8(json.unwrap()).unwrap())
}

fn documents(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| {
        path.to_str().unwrap().ends_with(".manifest.json") || path.extension().unwrap() == "yaml"
    });
    paths.sort();
    assert!(paths.len() >= 6, "the cases are there");
    paths
}

#[test]
fn valid_documents_have_the_canonical_json_beside_them() {
    for path in documents("valid") {
        let found = read(&path).unwrap_or_else(|problems| panic!("{}:\n{problems}", path.display()));
        let expected = if path.extension().unwrap() == "yaml" {
            fs::read_to_string(path.with_extension("json")).unwrap().trim_end().to_owned()
        } else {
            let value = canonical::parse(&fs::read(&path).unwrap()).unwrap();
            String::from_utf8(value.to_bytes()).unwrap()
        };
        assert_eq!(found, expected, "{}", path.display());
    }
}

#[test]
fn invalid_documents_have_every_problem_beside_them() {
    for path in documents("invalid") {
        let found = read(&path).expect_err(&format!("{} is invalid", path.display()));
        let expected = fs::read_to_string(path.with_extension("problems")).unwrap();
        assert_eq!(found.to_string(), expected.trim_end(), "{}", path.display());
    }
}
