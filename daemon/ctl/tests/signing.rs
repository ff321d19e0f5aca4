//! Signing with every kind of key that `--key` takes, and what another tool makes of the signature: openssl, and SoftHSM in
//! the place of a token. What is signed is the draft of a trust root, which needs no daemon.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The module of SoftHSM 2, where Debian has it.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A secret file, mode 0600.
    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path());
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf")).env("TURNOUT_SOCKET", self.path("no.sock"));
        command.env("CREDENTIALS_DIRECTORY", self.path("credentials")).env("PASS", "of the key");
        command
    }

    fn ctl(&self, line: &str) -> Output {
        let arguments: Vec<&str> = line.split(' ').collect();
        self.command(env!("CARGO_BIN_EXE_turnoutctl"), &arguments).output().unwrap()
    }

    /// Runs a command that must succeed.
    fn ok(&self, line: &str) -> String {
        let (program, arguments) = line.split_once(' ').unwrap();
        let arguments: Vec<&str> = arguments.split(' ').collect();
        let program = if program == "turnoutctl" { env!("CARGO_BIN_EXE_turnoutctl") } else { program };
        let output =
            self.command(program, &arguments).output().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A draft that this public key may sign.
    fn draft(&self, name: &str, public: &str) {
        self.ok(&format!("turnoutctl trust init --draft {name} --root-key alice={public}"));
    }

    /// openssl agrees that the key has signed the draft, and not something else.
    fn openssl_agrees(&self, draft: &str, public: &str) {
        self.ok(&format!("turnoutctl manifest export-signature {draft} --to {draft}.out"));
        let out = self.path(&format!("{draft}.out"));
        let signature = only_signature(&out);
        let verify = format!("openssl dgst -sha256 -verify {public} -signature {} ", signature.display());
        assert!(self.ok(&(verify.clone() + &format!("{draft}.out/signed.bin"))).contains("Verified OK"));
        let mut other = fs::read(out.join("signed.bin")).unwrap();
        other[30] ^= 1;
        fs::write(self.path("other.bin"), other).unwrap();
        let (program, arguments) = verify.split_once(' ').unwrap();
        let arguments: Vec<&str> =
            arguments.split(' ').filter(|word| !word.is_empty()).chain(["other.bin"]).collect();
        assert!(!self.command(program, &arguments).output().unwrap().status.success());
    }
}

fn only_signature(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let signatures: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|kind| kind == "sig")).collect();
    assert_eq!(signatures.len(), 1);
    signatures[0].clone()
}

fn refused(output: &Output, exit: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

#[test]
fn what_is_signed_here_openssl_verifies() {
    let place = Place::new();
    place.ok("turnoutctl key generate release.pem");
    place.draft("root.json", "release.pub.pem");
    place.ok("turnoutctl trust sign root.json --key release.pem");
    place.openssl_agrees("root.json", "release.pub.pem");
    refused(&place.ctl("trust sign root.json --key release.pem"), 3, &["has signed this already"]);
}

#[test]
fn an_encrypted_key_opens_with_its_passphrase_from_file_variable_or_credential() {
    let place = Place::new();
    place.ok("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out plain.pem");
    place.ok("openssl pkey -in plain.pem -pubout -out public.pem");
    place.ok("openssl pkcs8 -topk8 -in plain.pem -v2 aes-256-cbc -passout env:PASS -out sealed.pem");
    fs::set_permissions(place.path("sealed.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    place.secret("pass", "of the key\n");
    fs::create_dir(place.path("credentials")).unwrap();
    place.secret("credentials/release.pass", "of the key");
    fs::rename(place.path("sealed.pem"), place.path("credentials/release")).unwrap();
    for (index, source) in ["file:pass", "env:PASS", "credential:release.pass"].into_iter().enumerate() {
        let draft = format!("root-{index}.json");
        place.draft(&draft, "public.pem");
        place.ok(&format!("turnoutctl trust sign {draft} --key credential:release --passphrase {source}"));
        place.openssl_agrees(&draft, "public.pem");
    }
    place.draft("root.json", "public.pem");
    let sign = "trust sign root.json --key credential:release";
    refused(&place.ctl(sign), 3, &["is encrypted", "`--passphrase file:PATH`"]);
    place.secret("wrong", "of another");
    refused(&place.ctl(&format!("{sign} --passphrase file:wrong")), 3, &["does not open"]);
    refused(&place.ctl(&format!("{sign} --passphrase hunter2")), 2, &["never the secret itself"]);
    let said = place.ctl(&format!("{sign} --passphrase env:NOBODY_SET_THIS"));
    refused(&said, 1, &["no text `NOBODY_SET_THIS`"]);
    fs::set_permissions(place.path("credentials/release"), fs::Permissions::from_mode(0o604)).unwrap();
    let open = place.ctl(&format!("{sign} --passphrase file:pass"));
    refused(&open, 3, &["open to every user", "chmod 600"]);
    refused(&place.ctl("trust sign root.json --key credential:../release"), 2, &["no name of a credential"]);
}

#[test]
fn a_key_that_is_made_encrypted_here_openssl_opens() {
    let place = Place::new();
    place.ok("turnoutctl key generate release.pem --passphrase env:PASS");
    let text = fs::read_to_string(place.path("release.pem")).unwrap();
    assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));
    let public = place.ok("openssl pkey -in release.pem -passin env:PASS -pubout");
    assert_eq!(public, fs::read_to_string(place.path("release.pub.pem")).unwrap());
    let shown = place.ok("turnoutctl key public --key release.pem --passphrase env:PASS");
    assert_eq!(shown, public);
    refused(&place.ctl("key public --key release.pub.pem --passphrase env:PASS"), 3, &["public key where"]);
}

#[test]
fn a_key_in_a_token_signs_and_stays_there() {
    let place = Place::new();
    fs::create_dir(place.path("tokens")).unwrap();
    let tokens = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        place.path("tokens").display()
    );
    fs::write(place.path("softhsm2.conf"), tokens).unwrap();
    place.ok("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out plain.pem");
    place.ok("openssl pkey -in plain.pem -pubout -out public.pem");
    place.ok("softhsm2-util --init-token --free --label release-token --pin 123456 --so-pin 654321");
    place.ok("softhsm2-util --import plain.pem --token release-token --label release --id a1 --pin 123456");
    fs::remove_file(place.path("plain.pem")).unwrap();
    let pin = place.secret("pin", "123456\n").display().to_string();
    let uri = |token: &str, object: &str, pin: &str| {
        format!("pkcs11:token={token};object={object}?module-path={MODULE}&pin-source={pin}")
    };
    let key = uri("release-token", "release", &pin);
    assert_eq!(
        place.ok(&format!("turnoutctl key public --key {key}")),
        fs::read_to_string(place.path("public.pem")).unwrap()
    );
    // A token draws its own nonces: about half of its signatures are high-S, and all of ours are low-S.
    for round in 0..8 {
        let draft = format!("root-{round}.json");
        place.draft(&draft, "public.pem");
        place.ok(&format!("turnoutctl trust sign {draft} --key {key}"));
        place.openssl_agrees(&draft, "public.pem");
    }
    place.draft("root.json", "public.pem");
    let by_id = format!("pkcs11:token=release-token;id=%A1?module-path={MODULE}&pin-source=file:{pin}");
    place.ok(&format!("turnoutctl trust sign root.json --key {by_id}"));

    fs::create_dir(place.path("folder")).unwrap();
    fs::write(place.path("folder/labels.txt"), "bytes").unwrap();
    place.ok(&format!("turnoutctl oms export folder --signature folder.sig --key {key}"));
    place.ok("turnoutctl oms verify folder --signature folder.sig --key public.pem");

    place.draft("other.json", "public.pem");
    let sign = |key: &str| place.ctl(&format!("trust sign other.json --key {key}"));
    refused(&sign(&uri("nowhere", "release", &pin)), 1, &["no token fits"]);
    refused(&sign(&uri("release-token", "nothing", &pin)), 1, &["no key of this name"]);
    let wrong = place.secret("wrong", "000000").display().to_string();
    refused(&sign(&uri("release-token", "release", &wrong)), 3, &["does not take the PIN"]);
    let valued = format!("pkcs11:object=release?module-path={MODULE}&pin-value=123456");
    let said = sign(&valued);
    refused(&said, 2, &["can be read by everybody"]);
    assert!(!String::from_utf8_lossy(&said.stderr).contains("123456"));
    let missing = format!("pkcs11:object=release?module-path=/nowhere.so&pin-source={pin}");
    refused(&sign(&missing), 1, &["cannot load the PKCS#11 module `/nowhere.so`"]);
    let output = place.ctl("trust show other.json");
    assert!(String::from_utf8_lossy(&output.stdout).contains("by nobody yet"), "{output:?}");
}
