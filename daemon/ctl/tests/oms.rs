//! `turnoutctl oms verify` over a table of bundles, good and hostile, each with what a strict verifier must say. The
//! table, the bundles and the signed folder are in `daemon/manifest/tests/oms`; the private keys no longer exist.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use turnout_manifest::Sha256;
use turnout_manifest::key::PrivateKey;
use turnout_manifest::oms::{BUNDLE_MAX, Export, RESOURCES_MAX};

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

/// A folder, a bundle over it and its key, made here.
struct Signed {
    place: tempfile::TempDir,
}

impl Signed {
    fn new() -> Self {
        let signed = Self { place: tempfile::tempdir().unwrap() };
        fs::create_dir_all(signed.folder().join("sub")).unwrap();
        fs::write(signed.folder().join("a.txt"), "alpha").unwrap();
        fs::write(signed.folder().join("sub/b.bin"), [7; 5000]).unwrap();
        let key = PrivateKey::generate().unwrap();
        fs::write(signed.path("key.pem"), key.to_pem().as_bytes()).unwrap();
        fs::set_permissions(signed.path("key.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(signed.path("key.pub.pem"), key.public_key().to_pem()).unwrap();
        let status = Command::new(env!("CARGO_BIN_EXE_turnoutctl"))
            .args(["oms", "export", "m", "--signature", "m.sig", "--key", "key.pem"])
            .current_dir(signed.place.path())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
        signed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn folder(&self) -> PathBuf {
        self.path("m")
    }

    fn verify(&self) -> (i32, Value) {
        verify(&self.folder(), &self.path("m.sig"), &["--key", self.path("key.pub.pem").to_str().unwrap()])
    }

    /// Demands that the folder is rejected, and told why.
    fn rejected(&self, told: &str) {
        let (exit, json) = self.verify();
        let checks = json["checks"].to_string();
        assert!(
            exit == 3 && json["verdict"] == "rejected" && checks.contains(told),
            "{told}: {exit} {json:#}"
        );
    }
}

#[test]
fn whatever_is_no_plain_file_of_the_folder_alone_is_rejected() {
    let signed = Signed::new();
    assert_eq!(signed.verify().0, 0);
    let (folder, extra) = (signed.folder(), signed.folder().join("extra"));
    let made = |make: &dyn Fn(&Path), told: &str| {
        make(&extra);
        signed.rejected(told);
        fs::remove_file(&extra).unwrap();
        assert_eq!(signed.verify().0, 0);
    };
    made(&|at| symlink("a.txt", at).unwrap(), "`extra` is a symbolic link");
    made(&|at| symlink("/etc/passwd", at).unwrap(), "`extra` is a symbolic link");
    made(&|at| symlink("extra", at).unwrap(), "`extra` is a symbolic link");
    made(&|at| symlink("..", at).unwrap(), "`extra` is a symbolic link");
    made(&|at| drop(UnixListener::bind(at).unwrap()), "`extra` is a socket");
    let run = |program: &str, arguments: &[&str], at: &Path| {
        assert!(Command::new(program).arg(at).args(arguments).status().unwrap().success());
    };
    made(&|at| run("mkfifo", &[], at), "`extra` is a named pipe");
    // Only root makes devices; the tests of this project run as root.
    made(&|at| run("mknod", &["c", "1", "5"], at), "`extra` is a device");

    // A second name of a signed file, through which it can be changed after the check.
    fs::hard_link(folder.join("a.txt"), signed.path("outside.txt")).unwrap();
    signed.rejected("`a.txt` has a second name");
    fs::remove_file(signed.path("outside.txt")).unwrap();

    let foreign = folder.join(OsStr::from_bytes(b"\xff\xfe"));
    fs::write(&foreign, "").unwrap();
    signed.rejected("is not UTF-8");
    fs::remove_file(foreign).unwrap();

    // More than is ever read, and nothing of it is.
    fs::rename(folder.join("a.txt"), signed.path("aside")).unwrap();
    fs::File::create(folder.join("a.txt")).unwrap().set_len(10 << 40).unwrap();
    signed.rejected("at most 1099511627776 are read");
    fs::remove_file(folder.join("a.txt")).unwrap();
    symlink(signed.path("aside"), folder.join("a.txt")).unwrap();
    signed.rejected("`a.txt` is a symbolic link");
}

#[test]
fn a_bundle_that_is_no_plain_file_is_rejected() {
    let signed = Signed::new();
    let key = signed.path("key.pub.pem");
    let link = signed.path("link.sig");
    symlink("/dev/zero", &link).unwrap();
    let pipe = signed.path("pipe.sig");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let endless = signed.path("endless.sig");
    fs::File::create(&endless).unwrap().set_len(2 << 30).unwrap();
    for (path, told) in [
        (link.as_path(), "no plain file"),
        (&pipe, "no plain file"),
        (Path::new("/dev/zero"), "no plain file"),
        (&signed.folder(), "no plain file"),
        (&endless, "larger than"),
    ] {
        let (exit, json) = verify(&signed.folder(), path, &["--key", key.to_str().unwrap()]);
        assert!(exit == 3 && json["checks"].to_string().contains(told), "{}: {json:#}", path.display());
    }
}

#[test]
fn a_model_that_runs_code_is_rejected_though_its_signature_holds() {
    let signed = Signed::new();
    let export = |arguments: &[&str]| {
        let status = Command::new(env!("CARGO_BIN_EXE_turnoutctl"))
            .args(["oms", "export", "m", "--signature", "m.sig", "--key", "key.pem", "--force"])
            .args(arguments)
            .current_dir(signed.place.path())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    };
    fs::write(signed.folder().join("weights.bin"), b"\x80\x04\x95\x01\0\0\0\0\0\0\0N.").unwrap();
    export(&[]);
    signed.rejected("`weights.bin` is a pickle");
    let key = signed.path("key.pub.pem");
    let allowed = ["--key", key.to_str().unwrap(), "--allow-format", "pickle"];
    assert_eq!(verify(&signed.folder(), &signed.path("m.sig"), &allowed).0, 0);
}

/// Each under the caps, each built to blow up in memory. Everything that the process allocates counts (RLIMIT_DATA): one
/// allocation more than 64 MiB ends it with a signal in place of a verdict.
#[test]
fn no_bundle_under_the_caps_takes_more_than_64_mib() {
    let signed = Signed::new();
    let key = PrivateKey::from_pem(&fs::read_to_string(signed.path("key.pem")).unwrap()).unwrap();
    let many: BTreeMap<String, Sha256> =
        (0..RESOURCES_MAX).map(|at| (format!("{at:0>200}"), Sha256::of(b""))).collect();
    let signable = Export { subject: "m", files: &many, ignored: &[] }.signable().unwrap();
    let large = signable.bundle(&key.public_key(), &key.sign(&signable.signed_bytes()));
    assert!(large.len() > BUNDLE_MAX * 3 / 4 && large.len() <= BUNDLE_MAX, "{}", large.len());
    let fill = |item: &str| format!("[{}0]", item.repeat((BUNDLE_MAX - 2) / item.len())).into_bytes();
    let text = format!("{{\"mediaType\":\"{}\"}}", "x".repeat(BUNDLE_MAX - 20)).into_bytes();
    for (what, bundle) in [
        ("lists", fill("[],")),
        ("objects", fill("{\"\":0},")),
        ("nested objects", fill("{\"\":{\"\":{}}},")),
        ("chains of objects", fill(&format!("{}0{},", "{\"\":".repeat(29), "}".repeat(29)))),
        ("texts", fill("\"\",")),
        ("escapes", fill("\"\\u0041\",")),
        ("one text", text),
        ("signed resources", large),
    ] {
        fs::write(signed.path("m.sig"), bundle).unwrap();
        let line = "ulimit -c 0 && ulimit -d 65536 && exec \"$0\" oms verify m --signature m.sig --key key.pub.pem --output json";
        let output = Command::new("/bin/sh")
            .args(["-c", line, env!("CARGO_BIN_EXE_turnoutctl")])
            .current_dir(signed.place.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{what}: {told}");
    }
}
