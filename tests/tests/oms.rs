//! OpenSSF Model Signing both ways, beside its reference implementation: what that signs is imported here and serves,
//! what is signed here verifies there, and neither takes what was changed.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use turnout_scenarios::models::{self, FIRST};
use turnout_scenarios::scenario::{Scene, play};

/// What the reference implementation prints when all is well.
const VERIFIED: &str = "Verification succeeded";

#[test]
fn what_the_reference_implementation_signs_is_imported_and_serves() {
    play("oms-import", |scene| {
        scene.open()?;
        let folder = folder(scene, "theirs")?;
        let signature = scene.bundles.join("theirs.sig");
        let arguments = ["oms", "import", models::text(&folder)?, "--signature", models::text(&signature)?];
        let named =
            |label: &'static str| [&arguments[..], &["--model", "digits", "--version", label]].concat();
        sign(&folder, &signature, &scene.key)?;

        // Nobody has said which model it is.
        scene.ctl.run(&arguments)?.expect(2)?;
        let imported = scene.ctl.run(&named(FIRST))?.expect(0)?;
        ensure!(imported.text("/version")? == "digits@1.0.0", "{imported:?}");
        let again = scene.ctl.run(&named(FIRST))?.expect(0)?;
        ensure!(again.value["already_there"] == true, "{again:?}");

        scene.ctl.ok(&["release", "start", "digits@1.0.0", "--wait", "--timeout", "30s"])?;
        let traffic = scene.traffic()?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        let tally = scene.finish_whole(traffic)?;
        ensure!(tally.sent > 0, "no request was answered");

        // The journal says what was checked, and by whose signature it came in.
        let records = scene.records(0)?;
        let record = records.iter().find(|record| record["event"] == "imported");
        let record = record.context("no import in the journal")?;
        for word in ["coverage", "statement", "demo"] {
            ensure!(record.to_string().contains(word), "no `{word}` in {record}");
        }
        refused_imports(scene, &folder)
    });
}

/// Bundles that do not come in, whoever says so: this command line or the daemon.
fn refused_imports(scene: &Scene, folder: &Path) -> Result<()> {
    let stranger = scene.bundles.join("stranger.pem");
    scene.ctl.ok(&["key", "generate", models::text(&stranger)?])?;
    let signature = scene.bundles.join("refused.sig");
    let import = |model: &str| {
        let (folder, signature) = (models::text(folder)?, models::text(&signature)?);
        let named = ["--model", model, "--version", "2.0.0"];
        scene.ctl.run(&[&["oms", "import", folder, "--signature", signature], &named[..]].concat())
    };
    sign(folder, &signature, &stranger)?;
    let answer = import("digits")?.expect(3)?;
    ensure!(
        answer.stderr.contains("untrusted") && answer.stderr.contains("not trusted here"),
        "{}",
        answer.stderr
    );
    fs::remove_file(&signature)?;

    sign(folder, &signature, &scene.key)?;
    let answer = import("others")?.expect(3)?;
    ensure!(answer.stderr.contains("no signer may sign model `others`"), "{}", answer.stderr);

    fs::write(folder.join("extra.bin"), "x")?;
    let answer = import("digits")?.expect(3)?;
    ensure!(answer.stderr.contains("`extra.bin` is not covered"), "{}", answer.stderr);
    fs::remove_file(folder.join("extra.bin"))?;
    Ok(())
}

#[test]
fn what_is_signed_here_verifies_with_the_reference_implementation() {
    play("oms-export", |scene| {
        let key = scene.bundles.join("release.pem");
        scene.ctl.ok(&["key", "generate", models::text(&key)?])?;
        let public = key.with_extension("pub.pem");
        let folder = folder(scene, "ours")?;
        fs::create_dir(folder.join(".git"))?;
        fs::write(folder.join(".git/config"), "left out by default\n")?;
        for signature in [scene.bundles.join("ours.sig"), folder.join("model.sig")] {
            let (text, at) = (models::text(&folder)?, models::text(&signature)?);
            scene.ctl.ok(&["oms", "export", text, "--signature", at, "--key", models::text(&key)?])?;
            ensure!(verify(&folder, &signature, &public)?.contains(VERIFIED), "it does not verify there");
            fs::write(folder.join("a/b.txt"), "changed")?;
            let told = verify(&folder, &signature, &public)?;
            ensure!(!told.contains(VERIFIED), "the reference takes a changed file: {told}");
            let ours = ["oms", "verify", text, "--signature", at, "--key", models::text(&public)?];
            scene.ctl.run(&ours)?.expect(3)?;
            fs::write(folder.join("a/b.txt"), "b")?;
            scene.ctl.run(&ours)?.expect(0)?;
            fs::remove_file(signature)?;
        }
        Ok(())
    });
}

/// A folder with a model and files whose order the two sides do not agree on.
fn folder(scene: &Scene, name: &str) -> Result<PathBuf> {
    let folder = scene.bundles.join(name);
    fs::create_dir_all(folder.join("a"))?;
    fs::copy(models::file("digits", FIRST), folder.join("model.onnx"))?;
    for (file, text) in [("a/b.txt", "b"), ("a.txt", "a"), ("empty.txt", ""), ("modèle-模型.txt", "x")] {
        fs::write(folder.join(file), text)?;
    }
    Ok(folder)
}

fn sign(folder: &Path, signature: &Path, key: &Path) -> Result<()> {
    let mut command = reference("sign")?;
    command.arg("--private_key").arg(key).arg("--signature").arg(signature).arg(folder);
    let told = told(&mut command)?;
    ensure!(told.contains("Signing succeeded"), "{told}");
    Ok(())
}

fn verify(folder: &Path, signature: &Path, public: &Path) -> Result<String> {
    let mut command = reference("verify")?;
    command.arg("--public_key").arg(public).arg("--signature").arg(signature).arg(folder);
    told(&mut command)
}

fn told(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("cannot start python3")?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// `model_signing VERB key`, as `cargo xtask test` has installed it.
fn reference(verb: &str) -> Result<Command> {
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(3).context("this program lies in no target folder")?;
    let packages = target.join("model-signing");
    ensure!(packages.join("installed.txt").is_file(), "`model-signing` is missing: run `cargo xtask setup`");
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1").args([
        "-m",
        "model_signing",
        verb,
        "key",
    ]);
    Ok(command)
}
