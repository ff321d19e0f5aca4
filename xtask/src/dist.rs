//! `dist`: the .deb and the .rpm out of one list of files, `packaging/files.toml`. Two runs give the same bytes: every
//! time in a package is that of the last commit, owners are root, and archives are packed by one thread in one order.

mod configuration;
mod deb;
mod list;
mod made;
mod page;
mod rpm;
mod stage;

use crate::setup::{self, Need};
use crate::{command, ebpf, test};
use anyhow::{Context, Result, ensure};
use list::{Kind, List};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// What a package is made from and carries in its name.
pub struct Job<'a> {
    /// The workspace.
    pub root: &'a Path,
    /// Where everything is made, `target/dist`.
    pub folder: PathBuf,
    /// Where cargo put the programs.
    pub programs: PathBuf,
    /// Version of the packages.
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
    let (job, list) = prepare(root, arguments)?;
    let packages = pack(&job, &list)?;
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
    let (job, list) = prepare(root, &arguments)?;
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

/// Builds the programs and reads the list of what goes into a package.
fn prepare<'a>(root: &'a Path, arguments: &Arguments) -> Result<(Job<'a>, List)> {
    // All of the workspace, as the other verbs build it: otherwise other features of libraries would be built anew.
    let build = ["build", "--locked", "--workspace", "--bins", "--profile", &arguments.profile];
    command::run(&mut test::cargo(root, &build))?;
    let profile = if arguments.profile == "dev" { "debug" } else { &arguments.profile };
    let job = Job {
        root,
        folder: root.join("target/dist"),
        programs: root.join("target").join(profile),
        version: arguments.package_version.clone().unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
        epoch: last_commit(root)?,
        packing: arguments.packing,
    };
    let list = List::read(&root.join("packaging/files.toml"))?;
    Ok((job, list))
}

impl Job<'_> {
    /// Stages the files of one kind of package in a folder of its own.
    fn stage(&self, list: &List, kind: Kind) -> Result<PathBuf> {
        let into = self.folder.join(kind.name());
        stage::fill(self, list.of(kind), &into)?;
        Ok(into)
    }

    /// Where what `dist` itself makes lies.
    fn made(&self) -> PathBuf {
        self.folder.join("made")
    }
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
