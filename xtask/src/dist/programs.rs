//! Builds the programs that are packaged. For use, they are built so that they are the same from every checkout and home
//! folder, and looked at whether they are; quickly built ones are those of the tests.

use super::Job;
use super::list::{Kind, List};
use crate::{command, paths, setup, toolchain};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The profile of programs that are only tried out.
const QUICK: &str = "dev";
/// Where the others are built, apart: with other flags, what other verbs built would be built anew, and theirs after it.
const FOLDER: &str = "target/dist/build";
/// Flags of rustc, parted by [`PART`]. Where it is set, cargo takes no others.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";
const PART: char = '\x1f';

/// What the programs are built for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be given away.
    Use,
    /// To try the packages out.
    Trial,
}

impl Purpose {
    /// That of a profile.
    pub fn of(profile: &str) -> Self {
        if profile == QUICK { Self::Trial } else { Self::Use }
    }
}

/// Builds them and says in which folder they are.
///
/// # Errors
/// When the build fails.
pub fn build(root: &Path, profile: &str) -> Result<PathBuf> {
    let mut cargo = command::cargo(root);
    // All of the workspace, as the other verbs build it: otherwise other features of libraries would be built anew.
    cargo.args(["build", "--locked", "--workspace", "--bins", "--profile", profile, "--target-dir"]);
    cargo.env("TURNOUT_ONNXRUNTIME", setup::onnxruntime_library(root));
    let folder = match Purpose::of(profile) {
        Purpose::Trial => {
            command::run(cargo.arg(root.join("target")))?;
            root.join("target/debug")
        }
        Purpose::Use => {
            let before = (env::var(FLAGS).ok(), env::var("RUSTFLAGS").ok());
            cargo.env(FLAGS, flags(before, &own_flags(root)?));
            command::run(cargo.arg(root.join(FOLDER)))?;
            root.join(FOLDER).join(profile)
        }
    };
    Ok(folder)
}

/// Those that make the programs the same everywhere. The linker's id of a build is made from debug information, which is
/// not packaged.
fn own_flags(root: &Path) -> Result<Vec<String>> {
    let toolchain = toolchain::read(root)?;
    let library = toolchain.sysroot.join("lib/rustlib/src/rust");
    let mut own = paths::remapped(root)?;
    // As it is called where the toolchain has no source of it.
    own.push(format!("--remap-path-prefix={}=/rustc/{}", library.display(), toolchain.commit));
    own.push("-Clink-arg=-Wl,--build-id=none".to_owned());
    Ok(own)
}

/// Our flags behind those that are set already, in either variable.
fn flags((encoded, plain): (Option<String>, Option<String>), own: &[String]) -> String {
    let plain = || plain.map(|flags| flags.split_whitespace().map(str::to_owned).collect());
    let encoded = encoded.map(|flags| flags.split(PART).map(str::to_owned).collect());
    let mut all: Vec<String> = encoded.or_else(plain).unwrap_or_default();
    all.retain(|flag| !flag.is_empty());
    all.extend_from_slice(own);
    all.join(&PART.to_string())
}

/// Looks into the staged programs whether any names a folder of whoever built them.
///
/// # Errors
/// When one does, though it is for use.
pub fn check(job: &Job<'_>, list: &List) -> Result<()> {
    if job.purpose == Purpose::Trial {
        return Ok(());
    }
    let tree = job.folder.join(Kind::Deb.name());
    for entry in list.of(Kind::Deb).filter(|entry| entry.from.starts_with("@program/")) {
        let name = entry.from.trim_start_matches("@program/");
        let file = tree.join(entry.to.trim_start_matches('/')).join(name);
        let content = fs::read(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
        paths::ensure_absent(job.root, &file, &content)?;
    }
    println!("dist: no program names the folder it was built in");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_are_set_already_stay() {
        let own = ["-Cown".to_owned()];
        let set = |text: &str| Some(text.to_owned());
        for (before, expected) in [
            ((None, None), "-Cown"),
            ((None, set("-Ca  -Cb")), "-Ca\x1f-Cb\x1f-Cown"),
            ((set("-Cc=x y\x1f-Cd"), set("-Ca")), "-Cc=x y\x1f-Cd\x1f-Cown"),
            ((set(""), None), "-Cown"),
        ] {
            assert_eq!(flags(before, &own), expected);
        }
    }
}
