//! `turnoutctl oms verify` over a table of bundles, good and hostile, each with what a strict verifier must say. The
//! table, the bundles and the signed folder are in `daemon/manifest/tests/oms`; the private keys no longer exist.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Deserialize)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    bundle: String,
    public_key: Option<String>,
    trust_root: Option<String>,
    mutate_model: Vec<Change>,
    expect: String,
}

/// What is done to a copy of the signed folder first.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
enum Change {
    Write { path: String, text: String },
    Swap { a: String, b: String },
    Symlink { path: String, target: String },
    Fifo { path: String },
    Mkdir { path: String },
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifest/tests/oms")
}

/// A copy of the signed folder. The git files are written here: in the repository they would act on the repository.
fn model(parent: &Path) -> PathBuf {
    let model = parent.join("model");
    copy(&fixtures().join("model"), &model);
    fs::write(model.join(".gitattributes"), "*.bin filter=lfs\n").unwrap();
    fs::create_dir(model.join(".github")).unwrap();
    fs::write(model.join(".github/owners"), "*\n").unwrap();
    model
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn change(model: &Path, change: &Change) {
    match change {
        Change::Write { path, text } => fs::write(model.join(path), text).unwrap(),
        Change::Swap { a, b } => {
            let (a, b, aside) = (model.join(a), model.join(b), model.join("aside"));
            fs::rename(&a, &aside).unwrap();
            fs::rename(&b, &a).unwrap();
            fs::rename(&aside, &b).unwrap();
        }
        Change::Symlink { path, target } => symlink(target, model.join(path)).unwrap(),
        Change::Fifo { path } => {
            assert!(Command::new("mkfifo").arg(model.join(path)).status().unwrap().success());
        }
        Change::Mkdir { path } => fs::create_dir(model.join(path)).unwrap(),
    }
}

/// Exit code and JSON of `oms verify`.
fn verify(model: &Path, signature: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_turnoutctl"))
        .args(["oms", "verify", "--output", "json"])
        .arg(model)
        .arg("--signature")
        .arg(signature)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {error}"));
    (output.status.code().unwrap(), json)
}

/// The verdict the table's word stands for, and a word that must be told where a policy decides.
fn due(expect: &str, name: &str) -> (&'static str, Option<&'static str>) {
    match (expect, name) {
        ("valid", _) | ("policy", "sig-high-s" | "sig-hint-der-sha256") => ("valid", None),
        ("valid-if-p384-allowed", _) => ("rejected", Some("curve `P-384` is not supported")),
        ("valid-if-blake3-allowed", _) => ("rejected", Some("unsupported hash `blake3`")),
        ("policy-reject", _) => ("rejected", Some("allow_symlinks")),
        ("reject", _) => ("rejected", None),
        ("untrusted", _) => ("untrusted", None),
        other => panic!("the table says {other:?}, which this test does not know"),
    }
}

#[test]
fn every_case_of_the_table_gets_its_verdict() {
    let table: Table = serde_json::from_slice(&fs::read(fixtures().join("cases.json")).unwrap()).unwrap();
    assert!(table.cases.len() >= 57);
    let mut wrong = Vec::new();
    for case in &table.cases {
        let place = tempfile::tempdir().unwrap();
        let model = model(place.path());
        case.mutate_model.iter().for_each(|step| change(&model, step));
        let at = |name: &String| fixtures().join(name).to_str().unwrap().to_owned();
        let (option, file) = match (&case.public_key, &case.trust_root) {
            (Some(key), None) => ("--key", at(key)),
            (None, Some(root)) => ("--cert-root", at(root)),
            _ => panic!("{}: neither key nor root", case.name),
        };
        let (exit, json) = verify(&model, &fixtures().join(&case.bundle), &[option, &file]);
        let (verdict, word) = due(&case.expect, &case.name);
        let told = json["checks"].to_string();
        let as_due = json["verdict"] == verdict
            && exit == if verdict == "valid" { 0 } else { 3 }
            && word.is_none_or(|word| told.contains(word));
        if !as_due {
            wrong.push(format!("{}: {verdict} is due, found exit {exit}, {json:#}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
