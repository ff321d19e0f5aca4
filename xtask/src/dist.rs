//! `dist`: the .deb and the .rpm out of one list of files, `packaging/files.toml`. Two runs give the same bytes, also in
//! two checkouts: every time in a package is that of the last commit, owners are root, archives are packed by one thread
//! in one order, and no program names the folder that it was built in.

mod configuration;
mod crates;
mod deb;
mod licence;
mod list;
mod made;
mod notices;
mod page;
mod programs;
mod rpm;
mod stage;

use crate::setup::{self, Need};
use crate::{command, ebpf};
use anyhow::{Context, Result, ensure};
use list::{Kind, List};
use programs::Purpose;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// What goes into a package.
const LIST: &str = "packaging/files.toml";
/// That of the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a package is made from and carries in its name.
pub struct Job<'a> {
    /// The workspace.
    pub root: &'a Path,
    /// Where everything is made, `target/dist`.
    pub folder: PathBuf,
    /// Where cargo put the programs.
    pub programs: PathBuf,
    /// What they were built for.
    pub purpose: Purpose,
    /// Version of what is packaged.
    pub version: String,
    /// Seconds since the epoch that every file is said to be of.
    pub epoch: String,
    /// How the content is packed.
    pub packing: Packing,
}

/// How the content of a package is packed.
#[derive(Clone, Copy, Default)]
pub enum Packing {
    /// As small as it gets.
    #[default]
    Compressed,
    /// As it is: packed and unpacked in no time.
    Plain,
}

/// Quickly built packages, which nobody has checked, for booted systems that only try them out.
pub struct Quick {
    /// The .deb of this version.
    pub deb: PathBuf,
    /// The same programs as a later version.
    pub next: PathBuf,
    /// The .rpm of this version.
    pub rpm: PathBuf,
}

/// How it was asked for.
#[derive(clap::Args)]
pub struct Arguments {
    /// Profile of the programs: `dev` is quick to build, for trying packages out
    #[arg(long, default_value = "release")]
    profile: String,
    /// Version of the packages, when it is not the workspace's: for trying upgrades out
    #[arg(long, value_name = "VERSION")]
    package_version: Option<String>,
    #[arg(skip)]
    packing: Packing,
}

/// Sets up, builds, packs, checks with lintian and rpm, and says what came out.
///
/// # Errors
/// When set-up, build or packing fails, or a checker finds an error.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    setup::run(root, &Need::DIST)?;
    ebpf::run(root)?;
    configuration::refresh(root)?;
    let list = List::read(&root.join(LIST))?;
    if arguments.package_version.is_none() {
        made::ensure_told(root, &list)?;
    }
    let job = prepare(root, arguments)?;
    let packages = pack(&job, &list)?;
    programs::check(&job, &list)?;
    deb::check(&job, &packages[0])?;
    rpm::check(&job, &packages[1])?;
    for package in &packages {
        println!("dist: {}  {}", sha256(package)?, package.strip_prefix(root).unwrap_or(package).display());
    }
    Ok(())
}

/// Makes the packages for booted systems; `next` is the version that is later than this one.
///
/// # Errors
/// When build or packing fails.
pub fn quick(root: &Path, next: &str) -> Result<Quick> {
    let arguments = Arguments { profile: "dev".to_owned(), package_version: None, packing: Packing::Plain };
    let list = List::read(&root.join(LIST))?;
    let job = prepare(root, &arguments)?;
    let [deb, rpm] = pack(&job, &list)?;
    let later = Job { version: next.to_owned(), ..job };
    made::make(&later, &list)?;
    Ok(Quick { deb, next: deb::pack(&later, &list)?, rpm })
}

/// Makes both packages of what was built, twice: a second run must give the same bytes.
fn pack(job: &Job, list: &List) -> Result<[PathBuf; 2]> {
    let once = || -> Result<_> {
        made::make(job, list)?;
        let packages = [deb::pack(job, list)?, rpm::pack(job, list)?];
        let digests = [sha256(&packages[0])?, sha256(&packages[1])?];
        Ok((packages, digests))
    };
    let (packages, first) = once()?;
    let (_, second) = once()?;
    for ((package, first), second) in packages.iter().zip(first).zip(second) {
        ensure!(
            first == second,
            "`{}` was packed twice, and came out as {first} and as {second}",
            package.display()
        );
    }
    println!("dist: packed twice, with the same bytes");
    Ok(packages)
}

/// Builds the programs.
fn prepare<'a>(root: &'a Path, arguments: &Arguments) -> Result<Job<'a>> {
    Ok(Job {
        root,
        folder: root.join("target/dist"),
        programs: programs::build(root, &arguments.profile)?,
        purpose: Purpose::of(&arguments.profile),
        version: arguments.package_version.clone().unwrap_or_else(|| VERSION.to_owned()),
        epoch: last_commit(root)?,
        packing: arguments.packing,
    })
}

impl Job<'_> {
    /// Stages the files of one kind of package in a folder of its own.
    fn stage(&self, list: &List, kind: Kind) -> Result<PathBuf> {
        let into = self.folder.join(kind.name());
        stage::fill(self, list.of(kind), &into)?;
        Ok(into)
    }

    /// The version as packages carry it.
    fn package_version(&self) -> String {
        package_version(&self.version)
    }

    /// Where what `dist` itself makes lies.
    fn made(&self) -> PathBuf {
        self.folder.join("made")
    }
}

/// What comes before a version is lower than it for dpkg and rpm after a tilde, not after a dash, which for rpm parts
/// version and release.
fn package_version(version: &str) -> String {
    version.replace('-', "~")
}

/// The time of the last commit: the same for everybody who builds it.
fn last_commit(root: &Path) -> Result<String> {
    let answer = command::capture(command::program(root, "git").args(["log", "-1", "--format=%ct"]))?;
    let time = answer.stdout.trim().to_owned();
    if !answer.success || time.is_empty() {
        anyhow::bail!(
            "git knows no commit; remedy: `dist` needs a checkout, its packages carry the commit's time"
        );
    }
    Ok(time)
}

fn sha256(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Makes a folder anew, empty.
fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))
}

/// Writes a file and the folders above it.
fn write(file: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(above) = file.parent() {
        fs::create_dir_all(above).with_context(|| format!("cannot make `{}`", above.display()))?;
    }
    fs::write(file, content).with_context(|| format!("cannot write `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pre_release_is_lower_than_its_release() {
        let release = package_version("0.2.0");
        for version in ["0.2.0-rc.1", "0.2.0-alpha"] {
            let before = package_version(version);
            let mut dpkg = command::program(Path::new("/"), "dpkg");
            let answer =
                command::capture(dpkg.args(["--compare-versions", &before, "lt", &release])).unwrap();
            assert!(answer.success, "{before} {}", answer.stderr);
            assert!(!before.contains('-'), "{before}");
        }
    }
}
