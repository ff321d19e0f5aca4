//! The ONNX Runtime library out of the official wheel: pinned version, checked by SHA-256 before and after unpacking.
//! Only the library and its licence texts are kept, in `target/onnxruntime`.

use super::State;
use crate::command;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

const VERSION: &str = "1.31.1";
const WHEEL_SHA256: &str = "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f";
const LIBRARY_SHA256: &str = "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3";
/// The wheel is made for one Python; any Python can fetch and unpack it, because only its C library is used.
const WHEEL_TAGS: [&str; 6] =
    ["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp"];
/// What is kept: path in the wheel, name here.
const KEPT: [(&str, &str); 3] = [
    ("onnxruntime/capi/libonnxruntime.so.1.31.1", "libonnxruntime.so"),
    ("onnxruntime/LICENSE", "LICENSE"),
    ("onnxruntime/ThirdPartyNotices.txt", "ThirdPartyNotices.txt"),
];

/// Where the library is after set-up.
pub fn library(root: &Path) -> PathBuf {
    folder(root).join(KEPT[0].1)
}

/// Says whether the library is there and unchanged.
///
/// # Errors
/// When the file is there but cannot be read.
pub fn look(root: &Path) -> Result<State> {
    let all_there = KEPT.iter().all(|(_, name)| folder(root).join(name).is_file());
    if all_there && sha256(&library(root))? == LIBRARY_SHA256 {
        return Ok(State::Present(format!("{VERSION}, checksum matches")));
    }
    Ok(State::Missing(format!("{VERSION} into target/onnxruntime (wheel from the Python registry, 24 MB)")))
}

/// Fetches the wheel, checks it, unpacks what is kept and checks the library.
///
/// # Errors
/// When the registry cannot be reached or a checksum differs; nothing is left behind then.
pub fn install(root: &Path) -> Result<()> {
    let work = root.join("target/onnxruntime.part");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).with_context(|| format!("cannot create `{}`", work.display()))?;
    let outcome =
        fetch(root, &work).and_then(|wheel| unpack(root, &work, &wheel)).and_then(|()| keep(root, &work));
    let _ = fs::remove_dir_all(&work);
    outcome
}

fn folder(root: &Path) -> PathBuf {
    root.join("target/onnxruntime")
}

fn fetch(root: &Path, work: &Path) -> Result<PathBuf> {
    let requirement = work.join("requirement.txt");
    fs::write(&requirement, format!("onnxruntime=={VERSION} --hash=sha256:{WHEEL_SHA256}\n"))?;
    let mut pip = command::program(root, "python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--require-hashes",
    ]);
    pip.args(["--only-binary=:all:"]).args(WHEEL_TAGS).arg("--dest").arg(work).arg("-r").arg(&requirement);
    command::run(&mut pip)
        .context("remedy: check that the Python registry can be reached, then run it again")?;
    let files = fs::read_dir(work)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut wheels = files.filter(|path| path.extension().is_some_and(|e| e == "whl"));
    let wheel = wheels.next().context("pip reported success but left no wheel")?;
    expect_sha256(&wheel, WHEEL_SHA256)?;
    Ok(wheel)
}

fn unpack(root: &Path, work: &Path, wheel: &Path) -> Result<()> {
    let mut python = command::program(root, "python3");
    command::run(python.args(["-m", "zipfile", "-e"]).arg(wheel).arg(work.join("unpacked")))
}

fn keep(root: &Path, work: &Path) -> Result<()> {
    let chosen = work.join("chosen");
    fs::create_dir_all(&chosen)?;
    for (inside, name) in KEPT {
        let from = work.join("unpacked").join(inside);
        fs::rename(&from, chosen.join(name)).with_context(|| format!("the wheel has no `{inside}`"))?;
    }
    expect_sha256(&chosen.join(KEPT[0].1), LIBRARY_SHA256)?;
    let _ = fs::remove_dir_all(folder(root));
    fs::rename(&chosen, folder(root)).context("cannot move the library into place")
}

fn expect_sha256(file: &Path, wanted: &str) -> Result<()> {
    let found = sha256(file)?;
    if found != wanted {
        bail!("`{}` has SHA-256 {found}, but {wanted} is pinned: it is not used", file.display());
    }
    Ok(())
}

fn sha256(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_from_its_pin_is_refused() {
        let folder = std::env::temp_dir().join(format!("turnout-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("library");
        fs::write(&file, b"abc").unwrap();
        let pinned = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(expect_sha256(&file, pinned).is_ok());
        fs::write(&file, b"abd").unwrap();
        let refusal = expect_sha256(&file, pinned).unwrap_err().to_string();
        assert!(refusal.contains("it is not used"), "{refusal}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
