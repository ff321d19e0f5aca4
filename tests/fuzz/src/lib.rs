//! A target for every parser of bytes that come from outside: what it does with any bytes, and what a search starts from.
//! A parser's table row here is all that it needs to be searched by `cargo xtask fuzz` and tried in `cargo xtask test`.

mod journals;
mod manifests;
mod messages;
mod models;
mod notes;
mod trust_roots;

pub use peak_alloc::PeakAlloc;

use std::fs;
use std::path::{Path, PathBuf};

/// What a parser may take at one time for one input, bytes: beyond what the input itself takes.
pub const MEMORY_MAX: usize = 64 << 20;

/// A parser under search.
pub struct Target {
    /// Its name on the command line and of its folders.
    pub name: &'static str,
    /// Gives the parser these bytes: whether they were accepted. Panics when the parser does, or broke a promise.
    pub run: fn(&[u8]) -> bool,
    /// Inputs to start from; one at least is accepted.
    pub starts: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: [Target; 22] = [
    Target { name: "audit_context", run: messages::audit_context, starts: messages::audit_contexts },
    Target { name: "base", run: journals::base, starts: journals::bases },
    Target { name: "canonical_json", run: manifests::canonical_json, starts: manifests::documents },
    Target { name: "checkpoint", run: notes::checkpoint, starts: notes::checkpoints },
    Target { name: "cursor", run: journals::cursor, starts: journals::cursors },
    Target { name: "description", run: manifests::description, starts: manifests::descriptions },
    Target { name: "envelope", run: manifests::envelope, starts: manifests::envelopes },
    Target { name: "expression", run: manifests::expression, starts: manifests::expressions },
    Target { name: "infer_request", run: messages::infer_request, starts: messages::infer_requests },
    Target { name: "journal", run: journals::segment, starts: journals::segments },
    Target { name: "launcher_wire", run: messages::launcher_wire, starts: messages::launcher_messages },
    Target { name: "manifest", run: manifests::manifest, starts: manifests::documents },
    Target { name: "oms_bundle", run: manifests::oms_bundle, starts: manifests::oms_bundles },
    Target { name: "oms_evidence", run: manifests::oms_evidence, starts: manifests::oms_evidences },
    Target { name: "onnx", run: models::file, starts: models::files },
    Target { name: "order", run: trust_roots::order, starts: trust_roots::orders },
    Target { name: "plan", run: manifests::plan, starts: manifests::plans },
    Target { name: "router_link", run: messages::router_link, starts: messages::router_messages },
    Target { name: "tlog_proof", run: notes::proof, starts: notes::proofs },
    Target { name: "trust_root", run: trust_roots::trust_root, starts: trust_roots::trust_roots },
    Target { name: "trust_store", run: manifests::trust_store, starts: manifests::trust_stores },
    Target { name: "worker_link", run: messages::worker_link, starts: messages::worker_messages },
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    static EVERY: [Target; TARGETS.len()] = TARGETS;
    EVERY.iter().find(|target| target.name == name)
}

impl Target {
    /// What a search starts from, and every finding of the past, which stays mended.
    ///
    /// # Panics
    /// When a past finding cannot be read.
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        let mut seeds = (self.starts)();
        seeds.extend(files_of(&findings().join(self.name)).iter().map(|file| read(file)));
        seeds
    }

    /// Runs the target and holds it to its memory. The allocator is the process's own.
    ///
    /// # Panics
    /// As [`run`](Self::run), and when the parser took more than [`MEMORY_MAX`].
    pub fn run_within(&self, allocator: &PeakAlloc, bytes: &[u8]) -> bool {
        allocator.reset_peak_usage();
        let before = allocator.current_usage();
        let accepted = (self.run)(bytes);
        let taken = allocator.peak_usage().saturating_sub(before);
        assert!(
            taken <= MEMORY_MAX,
            "{}: {taken} bytes of memory for an input of {} bytes; {MEMORY_MAX} are allowed",
            self.name,
            bytes.len()
        );
        accepted
    }
}

/// Inputs that once broke a parser, in a folder for each target.
pub fn findings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("findings")
}

/// A file of this repository.
fn fixture(path: &str) -> Vec<u8> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path))
}

/// The files of a folder of this repository that end so.
fn fixtures(folder: &str, end: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let ends = |file: &&PathBuf| file.to_string_lossy().ends_with(end);
    files_of(&folder).iter().filter(ends).map(|file| read(file)).collect()
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap_or_else(|error| panic!("`{}`: {error}", file.display()))
}

/// The files of a folder, sorted; none where there is no folder.
fn files_of(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect();
    files.sort();
    files
}
