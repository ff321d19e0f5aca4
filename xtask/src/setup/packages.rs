//! Packages from Debian's own archive: what is missing is asked of dpkg, and the index is only refreshed when something is.
//! Programs and libraries that Debian does not have are left to the other files of this folder.

use super::State;
use crate::command;
use anyhow::{Context, Result, bail};
use std::path::Path;

/// Package and who needs it.
pub type Package = (&'static str, &'static str);

/// What building and testing needs.
pub const BUILD: &[Package] = &[
    ("gcc", "linker of Rust programs"),
    ("g++", "bpf-linker links LLVM, which is C++"),
    ("libc6-dev", "start-up code of Rust programs"),
    ("rustc-web", "compiler of the eBPF programs, with its library's source"),
    ("cargo-web", "builds the eBPF programs"),
    ("rust-web-src", "source of `core`, built for the eBPF target"),
    ("llvm-22-dev", "bpf-linker"),
    ("libzstd-dev", "bpf-linker"),
    ("zlib1g-dev", "bpf-linker"),
    ("clang", "headers for libbtrfsutil's bindings"),
    ("libclang-dev", "libbtrfsutil's bindings"),
    ("pkg-config", "finds libbtrfsutil"),
    ("libbtrfsutil-dev", "subvolumes and snapshots"),
    ("btrfs-progs", "formats the store image"),
    ("iproute2", "network namespaces of the tests"),
    ("systemd", "its journald is what the test of the log writes to"),
    ("python3-pip", "fetches the ONNX Runtime wheel"),
    ("openssl", "tests hold signatures against it"),
    ("softhsm2", "stands for a token in the tests of signing"),
];

/// What making and checking packages needs on top.
pub const PACKAGING: &[Package] = &[
    ("binutils", "strips programs"),
    ("dpkg-dev", "finds the packages that programs are linked against"),
    ("lintian", "checks the .deb"),
    ("rpm", "makes and checks the .rpm"),
    ("python3-rpm", "rpmlint reads packages through it"),
    ("python3-venv", "keeps rpmlint apart from the system"),
];

/// What booting whole systems needs on top.
pub const VM: &[Package] = &[
    ("mmdebstrap", "installs the systems that are booted"),
    ("debian-archive-keyring", "keys of the systems' packages"),
    ("e2fsprogs", "makes their disks"),
    ("xz-utils", "unpacks their packages"),
    ("binutils", "strips the programs of the package that is tried there"),
    ("dpkg-dev", "finds the packages that these programs are linked against"),
    ("rpm", "makes the .rpm that is tried there"),
];

/// Says which packages are missing.
///
/// # Errors
/// When this is no Debian system.
pub fn look(root: &Path, packages: &[Package]) -> Result<State> {
    let missing = missing(root, packages)?;
    if missing.is_empty() {
        return Ok(State::Present(format!("{} installed", packages.len())));
    }
    let reasons: Vec<_> = missing.iter().map(|(name, reason)| format!("{name} ({reason})")).collect();
    Ok(State::Missing(reasons.join(", ")))
}

/// Installs the missing packages.
///
/// # Errors
/// When the caller is not root, the archive cannot be reached, or it lacks a package.
pub fn install(root: &Path, packages: &[Package]) -> Result<()> {
    let names: Vec<_> = missing(root, packages)?.into_iter().map(|(name, _)| name).collect();
    if !is_root(root)? {
        bail!(
            "installing packages needs root; remedy: run this as root, or `apt-get install {}`",
            names.join(" ")
        );
    }
    refresh_index(root)?;
    let absent = without_candidate(root, &names)?;
    if !absent.is_empty() {
        bail!(
            "this system's archives have no package {}; remedy: on Debian 12 or 13 enable the security archive \
             (suite `VERSION-security` of `debian-security`) in apt's sources and try again",
            absent.join(", ")
        );
    }
    let mut apt = command::program(root, "apt-get");
    apt.args(["install", "-y", "-q", "--no-install-recommends"]).args(&names);
    command::run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
        .context("remedy: read apt's own message above; often the network or a held package")
}

/// Asks the archive what it has now.
///
/// # Errors
/// When it cannot be reached.
pub fn refresh_index(root: &Path) -> Result<()> {
    command::run(command::program(root, "apt-get").args(["update", "-q"])).context(
        "the package index cannot be refreshed; remedy: check the network and /etc/apt/sources.list*",
    )
}

fn missing(root: &Path, packages: &[Package]) -> Result<Vec<Package>> {
    let mut query = command::program(root, "dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(packages.iter().map(|(name, _)| name));
    let answer = command::capture(&mut query)
        .context("this set-up is for Debian 12 and 13; remedy: use one of these")?;
    let installed =
        |name: &str| answer.stdout.lines().any(|line| line.strip_suffix(" installed") == Some(name));
    let provided = |name: &str| name == "pkg-config" && installed("pkgconf");
    Ok(packages.iter().copied().filter(|(name, _)| !installed(name) && !provided(name)).collect())
}

/// The packages that no configured archive offers.
fn without_candidate(root: &Path, names: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut absent = Vec::new();
    for name in names {
        let policy =
            command::capture(command::program(root, "apt-cache").env("LC_ALL", "C").args(["policy", name]))?;
        if !policy.stdout.lines().any(|line| line.contains("Candidate:") && !line.contains("(none)")) {
            absent.push(*name);
        }
    }
    Ok(absent)
}

fn is_root(root: &Path) -> Result<bool> {
    Ok(command::capture(command::program(root, "id").arg("-u"))?.stdout.trim() == "0")
}
