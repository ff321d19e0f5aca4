//! `setup`: finds out what is missing, says so, and installs it; a second run installs nothing.
//! How each need is met is in the files beside this one.

mod model_signing;
mod onnxruntime;
mod packages;
mod prometheus;
mod rpmlint;
mod tools;

use anyhow::{Context, Result};
use std::path::Path;

pub use onnxruntime::library as onnxruntime_library;
pub use rpmlint::program as rpmlint;

/// Something a verb cannot do without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Compilers and libraries from Debian's own archive.
    DebianPackages,
    /// What makes the systems that are booted, from the same archive.
    VmPackages,
    /// The linker of the eBPF programs.
    BpfLinker,
    /// The library that runs models.
    OnnxRuntime,
    /// What scrapes the metrics, in a test.
    Prometheus,
    /// rustfmt and clippy of the toolchain in use.
    RustComponents,
    /// The checker of licences, bans and advisories.
    CargoDeny,
    /// The reference implementation of OpenSSF Model Signing.
    ModelSigning,
    /// What makes and checks packages, from Debian's own archive.
    PackagingPackages,
    /// The checker of .rpm files, which Debian does not have.
    Rpmlint,
}

impl Need {
    /// What `cargo xtask ebpf` needs.
    pub const EBPF: [Self; 2] = [Self::DebianPackages, Self::BpfLinker];
    /// What searching parsers needs.
    pub const FUZZ: [Self; 1] = [Self::DebianPackages];
    /// What building and running everything needs.
    pub const BUILD: [Self; 3] = [Self::DebianPackages, Self::BpfLinker, Self::OnnxRuntime];
    /// What the tests need.
    pub const TEST: [Self; 5] =
        [Self::DebianPackages, Self::BpfLinker, Self::OnnxRuntime, Self::Prometheus, Self::ModelSigning];
    /// What making packages needs.
    pub const DIST: [Self; 5] =
        [Self::DebianPackages, Self::BpfLinker, Self::OnnxRuntime, Self::PackagingPackages, Self::Rpmlint];
    /// What booting whole systems needs on top.
    pub const VM: [Self; 4] = [Self::DebianPackages, Self::BpfLinker, Self::OnnxRuntime, Self::VmPackages];
    /// What the tests and the checks need.
    pub const ALL: [Self; 7] = [
        Self::DebianPackages,
        Self::BpfLinker,
        Self::OnnxRuntime,
        Self::Prometheus,
        Self::ModelSigning,
        Self::RustComponents,
        Self::CargoDeny,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::DebianPackages => "Debian packages",
            Self::VmPackages => "Debian packages for booted systems",
            Self::BpfLinker => "bpf-linker",
            Self::OnnxRuntime => "ONNX Runtime",
            Self::Prometheus => "Prometheus",
            Self::RustComponents => "clippy and rustfmt",
            Self::CargoDeny => "cargo-deny",
            Self::ModelSigning => "model-signing",
            Self::PackagingPackages => "Debian packages for packaging",
            Self::Rpmlint => "rpmlint",
        }
    }

    fn look(self, root: &Path) -> Result<State> {
        match self {
            Self::DebianPackages => packages::look(root, packages::BUILD),
            Self::VmPackages => packages::look(root, packages::VM),
            Self::BpfLinker => tools::look(root, &tools::BPF_LINKER),
            Self::OnnxRuntime => onnxruntime::look(root),
            Self::Prometheus => prometheus::look(root),
            Self::RustComponents => tools::look_components(root),
            Self::CargoDeny => tools::look(root, &tools::CARGO_DENY),
            Self::ModelSigning => model_signing::look(root),
            Self::PackagingPackages => packages::look(root, packages::PACKAGING),
            Self::Rpmlint => rpmlint::look(root),
        }
    }

    fn install(self, root: &Path) -> Result<()> {
        match self {
            Self::DebianPackages => packages::install(root, packages::BUILD),
            Self::VmPackages => packages::install(root, packages::VM),
            Self::BpfLinker => tools::install(root, &tools::BPF_LINKER),
            Self::OnnxRuntime => onnxruntime::install(root),
            Self::Prometheus => prometheus::install(root),
            Self::RustComponents => tools::install_components(root),
            Self::CargoDeny => tools::install(root, &tools::CARGO_DENY),
            Self::ModelSigning => model_signing::install(root),
            Self::PackagingPackages => packages::install(root, packages::PACKAGING),
            Self::Rpmlint => rpmlint::install(root),
        }
    }
}

/// Whether a need is met.
pub enum State {
    /// It is there: what was found.
    Present(String),
    /// It is not: what will be installed.
    Missing(String),
}

/// Meets the needs in their order, one line per need.
///
/// # Errors
/// The first need that cannot be met, with its remedy.
pub fn run(root: &Path, needs: &[Need]) -> Result<()> {
    let mut installed = 0;
    for need in needs {
        let name = need.name();
        match need.look(root)? {
            State::Present(found) => println!("setup: {name}: {found}: nothing to do"),
            State::Missing(what) => {
                println!("setup: {name}: installing {what}");
                need.install(root).with_context(|| format!("{name} could not be set up"))?;
                installed += 1;
            }
        }
    }
    match installed {
        0 => println!("setup: all there, nothing installed"),
        count => println!("setup: done, {count} of {} installed", needs.len()),
    }
    Ok(())
}
