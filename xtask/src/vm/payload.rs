//! What the host brings into every guest, as one read-only disk: programs, tests, models and scenarios at the paths they
//! have in this checkout, because tests find them there.

use super::{bounded, system};
use crate::dist::{self, Quick};
use crate::{command, ebpf, setup, test};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest time for making the disk.
const MAKE_LIMIT: Duration = Duration::from_secs(120);
/// Room on the disk beside the files themselves.
const SPARE_BYTES: u64 = 64 << 20;
/// A version that any package is upgraded to.
const NEXT: &str = "999.0.0";
/// How much tests do where less is enough, in place of a thousand swaps, twenty thousand connections and four reboots.
const QUICK: &str =
    "export TURNOUT_TEST_SWAPS=100\nexport TURNOUT_TEST_CONNECTIONS=2000\nexport TURNOUT_TEST_REBOOTS=1\n";
/// Folders that go as they are.
const FOLDERS: [&str; 2] = ["tests/models", "tests/vm"];

/// A line of `cargo --message-format=json`, as far as it is of use.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
    package_id: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// A built program.
#[derive(Debug, PartialEq)]
struct Built {
    file: PathBuf,
    /// The test's name below its crate's folder, if it is one: `host/store`.
    test: Option<String>,
}

/// Builds everything and makes the disk; gives its file. `quick` is what [`QUICK`] says.
///
/// # Errors
/// When the build fails or the disk cannot be made.
pub fn make(root: &Path, quick: bool) -> Result<PathBuf> {
    ebpf::run(root)?;
    let packages = dist::quick(root, NEXT)?;
    let built = build(root)?;
    let folder = system::folder(root);
    let (staging, disk) = (folder.join("payload"), folder.join("payload.img"));
    super::remove(&staging)?;
    let checkout = staging.join("checkout");
    fs::create_dir_all(checkout.join("target/tmp"))?;
    for program in &built {
        bring(root, &program.file, &checkout)?;
        if let Some(name) = &program.test {
            let link = staging.join("tests").join(name);
            fs::create_dir_all(link.parent().context("a test is in its crate's folder")?)?;
            symlink(&program.file, &link)?;
        }
    }
    for file in [&packages.deb, &packages.next, &packages.rpm, &setup::onnxruntime_library(root)] {
        bring(root, file, &checkout)?;
    }
    for folder in FOLDERS {
        bring_folder(root, &root.join(folder), &checkout)?;
    }
    let less = if quick { QUICK } else { "" };
    fs::write(staging.join("environment"), environment(root, &packages) + less)?;
    make_disk(root, &staging, &disk)?;
    super::remove(&staging)?;
    Ok(disk)
}

/// What every scenario finds in its environment; read by the guest's agent too.
fn environment(root: &Path, packages: &Quick) -> String {
    let checkout = root.display();
    format!(
        "export TURNOUT_CHECKOUT='{checkout}'\n\
         export TURNOUT_PROGRAMS='{checkout}/target/debug'\n\
         export TURNOUT_TESTS=/run/turnout-vm/tests\n\
         export TURNOUT_MODELS='{checkout}/tests/models'\n\
         export TURNOUT_ONNXRUNTIME='{}'\n\
         export TURNOUT_DEB='{}'\n\
         export TURNOUT_DEB_NEXT='{}'\n\
         export TURNOUT_RPM='{}'\n\
         export TURNOUT_TEST_PREBUILT=1\n",
        setup::onnxruntime_library(root).display(),
        packages.deb.display(),
        packages.next.display(),
        packages.rpm.display()
    )
}

/// Builds as `cargo xtask test` does, so that after it nothing is built again.
fn build(root: &Path) -> Result<Vec<Built>> {
    let mut tests = test::cargo(root, &["test", "--workspace", "--locked", "--no-run"]);
    println!("  $ {}", command::shown(&tests));
    let answer = command::capture(tests.arg("--message-format=json"))?;
    ensure!(answer.success, "the tests do not build:\n{}", answer.stderr);
    let mut built = programs(&answer.stdout)?;
    let folder = root.join("target/debug");
    for entry in fs::read_dir(&folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("turnout") && !name.contains('.') {
            built.push(Built { file: entry.path(), test: None });
        }
    }
    Ok(built)
}

/// Integration tests by their names, and the examples that they start.
fn programs(messages: &str) -> Result<Vec<Built>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("cargo's message is no JSON")?;
        let (Some(file), Some(target)) = (message.executable, message.target) else { continue };
        match target.kind.first().map(String::as_str) {
            Some("test") => {
                let package = message.package_id.unwrap_or_default();
                let test = format!("{}/{}", folder_of(&package), target.name);
                found.push(Built { file, test: Some(test) });
            }
            Some("example") => found.push(Built { file, test: None }),
            _ => {}
        }
    }
    Ok(found)
}

/// The last part of a crate's folder: `path+file:///CHECKOUT/daemon/host#turnout-host@0.1.0` is `host`.
fn folder_of(package_id: &str) -> &str {
    let folder = package_id.split('#').next().unwrap_or(package_id);
    folder.rsplit('/').next().unwrap_or(folder)
}

/// Puts a file of this checkout at the same place of the staged one.
fn bring(root: &Path, file: &Path, checkout: &Path) -> Result<()> {
    let place = file.strip_prefix(root).with_context(|| format!("`{}` is not below here", file.display()))?;
    let staged = checkout.join(place);
    fs::create_dir_all(staged.parent().context("a file is in a folder")?)?;
    // The same file, while it can be: the disk gets its content.
    if fs::hard_link(file, &staged).is_err() {
        fs::copy(file, &staged).with_context(|| format!("cannot copy `{}`", file.display()))?;
    }
    Ok(())
}

fn bring_folder(root: &Path, folder: &Path, checkout: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bring_folder(root, &entry.path(), checkout)?;
        } else {
            bring(root, &entry.path(), checkout)?;
        }
    }
    Ok(())
}

fn make_disk(root: &Path, staging: &Path, disk: &Path) -> Result<()> {
    let size = (size_of(staging)? * 5 / 4 + SPARE_BYTES).next_multiple_of(1 << 20);
    super::remove(disk)?;
    fs::File::create(disk)?.set_len(size)?;
    let mut make = bounded::within(root, MAKE_LIMIT, "mkfs.ext4");
    make.args(["-q", "-F", "-O", "^has_journal", "-d"]).arg(staging).arg(disk);
    let made = command::capture(&mut make)?;
    ensure!(made.success, "the disk for guests cannot be made: {}", made.stderr.trim());
    Ok(())
}

fn size_of(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let facts = entry.path().symlink_metadata()?;
        // A block at least for each.
        sum +=
            if facts.is_dir() { size_of(&entry.path())? + 4096 } else { facts.len().next_multiple_of(4096) };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_examples_are_taken_and_nothing_else() {
        let messages = r#"{"reason":"compiler-artifact","package_id":"path+file:///c/daemon/launcher#turnout-launcher@0.1.0","executable":"/t/deps/cell-1","target":{"name":"cell","kind":["test"]}}
{"reason":"compiler-artifact","executable":"/t/examples/inside","target":{"name":"inside","kind":["example"]}}
{"reason":"compiler-artifact","executable":"/t/deps/host-2","target":{"name":"turnout_host","kind":["lib"]}}
{"reason":"compiler-artifact","executable":null,"target":{"name":"serde","kind":["lib"]}}
{"reason":"build-finished","success":true}
"#;
        let test = Built { file: "/t/deps/cell-1".into(), test: Some("launcher/cell".into()) };
        let example = Built { file: "/t/examples/inside".into(), test: None };
        assert_eq!(programs(messages).unwrap(), [test, example]);
    }
}
