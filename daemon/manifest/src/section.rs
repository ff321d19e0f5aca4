//! The sections that the signed manifest and the `turnout.yaml` that people write have in common: how they are read
//! from a document, and what must hold of them.

use crate::assertion::{ASSERTIONS_MAX, Assertion, Check};
use crate::contract::{Contract, DIMENSIONS_MAX, Datatype, Decimal, TENSORS_MAX, TensorContract};
use crate::document::{Group, Place, Reader, deceptive, fold, printable};
use crate::ids::{Channel, DeviceGroup, ModelName, Version};
use crate::manifest::{FileEntry, Runtime};
use crate::problem::Problems;
use crate::profile::{self, Class, CpuLimit, DEVICES_MAX, REQUIREMENTS_MAX, Requirement};
use std::collections::{BTreeMap, BTreeSet};

/// Serving threads where a description does not say.
pub const THREADS_DEFAULT: u32 = 1;
/// Memory of a worker where a description does not say, bytes: 512 MiB.
pub const MEMORY_DEFAULT: u64 = 512 << 20;
/// Greatest number of serving threads.
pub const THREADS_MAX: u32 = 64;
/// Smallest memory of a worker, bytes: 16 MiB.
pub const MEMORY_MIN: u64 = 16 << 20;
/// Greatest memory of a worker, bytes: 1 TiB.
pub const MEMORY_MAX: u64 = 1 << 40;
/// Greatest number of files.
pub const FILES_MAX: usize = 4096;
/// Greatest sum of the files' sizes, bytes: 1 TiB.
pub const FILES_BYTES_MAX: u64 = 1 << 40;
/// Greatest length of a path, bytes.
pub const PATH_MAX: usize = 4096;
/// Greatest length of one component of a path, bytes.
pub const PATH_COMPONENT_MAX: usize = 255;
/// Greatest number of components of a path.
pub const PATH_DEPTH_MAX: usize = 32;
/// Greatest number of annotations, and of baseline entries.
pub const ENTRIES_MAX: usize = 256;
/// Greatest length of the name of an annotation or baseline entry, bytes.
pub const ENTRY_NAME_MAX: usize = 128;
/// Greatest length of an annotation's text, bytes.
pub const ANNOTATION_MAX: usize = 4096;

/// What was read of a document; a part that could not be read is absent, and its problem is with the reader.
pub(crate) struct Sections {
    pub model: Option<ModelName>,
    pub version: Option<Version>,
    pub channel: Option<Channel>,
    pub contract: Option<Contract>,
    pub assertions: Option<Vec<Assertion>>,
    pub baseline: Option<BTreeMap<String, String>>,
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Sections {
    pub fn read(reader: &mut Reader, group: &Group<'_>) -> Self {
        let model = group.require(reader, "model");
        let version = group.require(reader, "version");
        let contract = group.require(reader, "contract");
        Self {
            model: model.and_then(|place| reader.parsed(&place, "choose another name")),
            version: version.and_then(|place| reader.parsed(&place, "choose another label")),
            channel: match group.get("channel") {
                Some(place) => reader.parsed(&place, "write prod, staging or another short name"),
                None => Some(Channel::default()),
            },
            contract: contract.and_then(|place| read_contract(reader, &place)),
            assertions: group.get("assertions").map_or(Some(Vec::new()), |place| {
                let items = reader.list(&place, ASSERTIONS_MAX)?;
                all(items.iter().map(|item| read_assertion(reader, item)))
            }),
            baseline: read_texts(reader, group.get("baseline")),
            annotations: read_texts(reader, group.get("annotations")),
        }
    }

    pub fn check(&self, problems: &mut Problems) {
        if let Some(contract) = &self.contract {
            contract.check(problems);
            crate::assertion::check_all(self.assertions.as_deref().unwrap_or_default(), contract, problems);
        }
        check_baseline(self.baseline.iter().flatten(), problems);
        check_annotations(self.annotations.iter().flatten(), problems);
    }
}

/// All items, or none if one could not be read; every item is tried.
pub(crate) fn all<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    // Collected first: collecting into an `Option` at once would stop at the first that failed.
    let items: Vec<Option<T>> = items.collect();
    items.into_iter().collect()
}

fn read_contract(reader: &mut Reader, place: &Place<'_>) -> Option<Contract> {
    let group = reader.group(place, &["inputs", "outputs"])?;
    let mut side = |name| {
        let place = group.require(reader, name)?;
        let items = reader.list(&place, TENSORS_MAX)?;
        all(items.iter().map(|item| read_tensor(reader, item)))
    };
    let (inputs, outputs) = (side("inputs"), side("outputs"));
    Some(Contract { inputs: inputs?, outputs: outputs? })
}

fn read_tensor(reader: &mut Reader, place: &Place<'_>) -> Option<TensorContract> {
    let group = reader.group(place, &["name", "datatype", "shape", "minimum", "maximum"])?;
    let name = group.require(reader, "name").and_then(|place| reader.text(&place));
    let datatype =
        group.require(reader, "datatype").and_then(|place| reader.choice(&place, &Datatype::NAMES));
    let shape = group.require(reader, "shape").and_then(|place| {
        let items = reader.list(&place, DIMENSIONS_MAX)?;
        all(items.iter().map(|item| reader.integer(item)))
    });
    // What could not be read has left its problem behind and counts as the most permissive value, so that the rest
    // of the contract can be checked all the same.
    let minimum = read_decimal(reader, group.get("minimum"));
    let maximum = read_decimal(reader, group.get("maximum"));
    Some(TensorContract {
        name: name?,
        datatype: datatype.unwrap_or(Datatype::Fp32),
        shape: shape.unwrap_or_else(|| vec![-1]),
        minimum,
        maximum,
    })
}

fn read_decimal(reader: &mut Reader, place: Option<Place<'_>>) -> Option<Decimal> {
    reader.parsed(&place?, "write it without exponent")
}

fn read_assertion(reader: &mut Reader, place: &Place<'_>) -> Option<Assertion> {
    let group = reader.group(place, &["name", "output", "check", "minimum", "maximum", "tolerance"])?;
    let name = group.require(reader, "name").and_then(|place| reader.text(&place));
    let output = group.require(reader, "output").and_then(|place| reader.text(&place));
    let kinds: [(&str, &[&str]); 3] =
        [("finite", &[]), ("range", &["minimum", "maximum"]), ("sums-to-one", &["tolerance"])];
    let kind =
        group.require(reader, "check").and_then(|place| reader.choice(&place, &kinds.map(|k| (k.0, k))));
    let (kind, parameters) = kind?;
    for name in ["minimum", "maximum", "tolerance"] {
        if let Some(stray) = group.get(name).filter(|_| !parameters.contains(&name)) {
            reader.refuse(
                &stray,
                format!("check `{kind}` has no `{name}`"),
                "remove it, or change the check",
            );
        }
    }
    let mut number = |name| {
        let place = group.require(reader, name);
        read_decimal(reader, place)
    };
    let check = match kind {
        "finite" => Check::Finite,
        "range" => {
            let (minimum, maximum) = (number("minimum"), number("maximum"));
            Check::Range { minimum: minimum?, maximum: maximum? }
        }
        _ => Check::SumsToOne { tolerance: number("tolerance")? },
    };
    Some(Assertion { name: name?, output: output?, check })
}

fn read_texts(reader: &mut Reader, place: Option<Place<'_>>) -> Option<BTreeMap<String, String>> {
    let Some(place) = place else { return Some(BTreeMap::new()) };
    let entries = reader.entries(&place)?;
    if entries.len() > ENTRIES_MAX {
        let what = format!("{} entries", entries.len());
        reader.refuse(&place, what, format!("at most {ENTRIES_MAX} are allowed"));
        return None;
    }
    let read = entries.into_iter().map(|(name, place)| Some((name.to_owned(), reader.text(&place)?)));
    all(read).map(|entries| entries.into_iter().collect())
}

/// The part of `runtime` that says what a cell is.
pub(crate) struct ProfileSection {
    pub class: Class,
    pub cpu_limit: Option<CpuLimit>,
    pub devices: Vec<DeviceGroup>,
    pub require: Vec<Requirement>,
}

/// Each has a default; what could not be read has left its problem behind.
pub(crate) fn read_profile(reader: &mut Reader, group: &Group<'_>) -> ProfileSection {
    let class = group.get("class").and_then(|place| reader.choice(&place, &Class::NAMES));
    let require = group.get("require").and_then(|place| {
        let items = reader.list(&place, REQUIREMENTS_MAX)?;
        let remedy = "write seccomp, cgroup, landlock>=4, memory, pids, cpuset, cpu or devices";
        all(items.iter().map(|item| reader.parsed(item, remedy)))
    });
    let devices = group.get("devices").and_then(|place| {
        let items = reader.list(&place, DEVICES_MAX)?;
        let remedy = "write a name that the host's configuration has in `[devices]`, such as gpu0";
        all(items.iter().map(|item| reader.parsed(item, remedy)))
    });
    let cpu_limit = group.get("cpu_limit");
    let cpu_limit = cpu_limit.and_then(|place| reader.parsed(&place, "write CPUs, such as 1.5"));
    ProfileSection {
        class: class.unwrap_or_default(),
        cpu_limit,
        devices: devices.unwrap_or_default(),
        require: require.unwrap_or_default(),
    }
}

pub(crate) fn check_runtime(runtime: &Runtime, problems: &mut Problems) {
    if !(1..=THREADS_MAX).contains(&runtime.threads) {
        let what = format!("{} threads", runtime.threads);
        problems.push("runtime.threads", what, format!("write 1 to {THREADS_MAX}"));
    }
    if !(MEMORY_MIN..=MEMORY_MAX).contains(&runtime.memory_bytes) {
        let what = format!("a memory of {} bytes", runtime.memory_bytes);
        problems.push("runtime.memory", what, "write 16 MiB to 1 TiB");
    }
    profile::check(runtime, problems);
    if let Some(reason) = hostile(&runtime.model_file) {
        let what = format!("`{}` {reason}", printable(&runtime.model_file));
        problems.push("runtime.model_file", what, "write a plain relative path with `/`");
    }
}

pub(crate) fn check_files(files: &[FileEntry], problems: &mut Problems) {
    if files.is_empty() || files.len() > FILES_MAX {
        let what = format!("{} files", files.len());
        problems.push("files", what, format!("a version has 1 to {FILES_MAX} files"));
    }
    let total = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
    if total > FILES_BYTES_MAX {
        problems.push("files", format!("{total} bytes in all"), "at most 1 TiB is allowed");
    }
    let paths: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let mut folded = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        let path = format!("files[{index}].path");
        let shown = printable(&file.path);
        if let Some(reason) = hostile(&file.path) {
            problems.push(&path, format!("`{shown}` {reason}"), "name the file otherwise");
        } else {
            let parents = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
            for parent in parents.filter(|parent| paths.contains(parent)) {
                let what = format!("`{}` is a file and a folder", printable(parent));
                problems.push(&path, what, "remove one of them");
            }
            if **folded.entry(fold(&file.path)).or_insert(&file.path) != file.path {
                let what =
                    format!("`{shown}` differs from another name in case or Unicode normalization alone");
                problems.push(&path, what, "name one of them otherwise: some file systems take them for one");
            }
        }
        match index.checked_sub(1).map(|before| file.path.cmp(&files[before].path)) {
            Some(std::cmp::Ordering::Equal) => {
                problems.push(&path, format!("`{shown}` is listed twice"), "list each file once");
            }
            Some(std::cmp::Ordering::Less) => {
                problems.push(
                    &path,
                    format!("`{shown}` is out of order"),
                    "sort the files by the bytes of their path",
                );
            }
            Some(std::cmp::Ordering::Greater) | None => {}
        }
    }
}

pub(crate) fn check_model_file(runtime: &Runtime, files: &[FileEntry], problems: &mut Problems) {
    if !files.iter().any(|file| file.path == runtime.model_file) {
        let what = format!("`{}` is not among the files", printable(&runtime.model_file));
        problems.push("runtime.model_file", what, "add the file, or name another");
    }
}

/// Why a path must not be created on any host, if so.
pub fn hostile(path: &str) -> Option<&'static str> {
    let components = || path.split('/');
    if path.is_empty() {
        Some("is empty")
    } else if path.len() > PATH_MAX || components().count() > PATH_DEPTH_MAX {
        Some("is too long or too deep")
    } else if path.starts_with('/') {
        Some("is absolute")
    } else if components().any(|component| matches!(component, "." | "..")) {
        Some("has a `.` or `..` component")
    } else if components().any(str::is_empty) {
        Some("has an empty component")
    } else if components().any(|component| component.len() > PATH_COMPONENT_MAX) {
        Some("has a component of more than 255 bytes")
    } else if path.contains('\\') {
        Some("has a backslash")
    } else if path.chars().any(deceptive) {
        Some("has a control or invisible character")
    } else {
        None
    }
}

pub(crate) fn check_baseline<'a>(
    entries: impl IntoIterator<Item = (&'a String, &'a String)>,
    problems: &mut Problems,
) {
    let mut count = 0;
    for (name, text) in entries {
        count += 1;
        check_entry_name("baseline", name, problems);
        if let Err(error) = text.parse::<Decimal>() {
            problems.push(
                format!("baseline.{}", printable(name)),
                error.to_string(),
                "write it without exponent",
            );
        }
    }
    check_count("baseline", count, problems);
}

pub(crate) fn check_annotations<'a>(
    entries: impl IntoIterator<Item = (&'a String, &'a String)>,
    problems: &mut Problems,
) {
    let mut count = 0;
    for (name, text) in entries {
        count += 1;
        check_entry_name("annotations", name, problems);
        let unprintable = |character: char| deceptive(character) && !matches!(character, '\n' | '\t');
        if text.len() > ANNOTATION_MAX || text.chars().any(unprintable) {
            let remedy =
                format!("write at most {ANNOTATION_MAX} bytes without control or invisible characters");
            problems.push(format!("annotations.{}", printable(name)), "not a plain text", remedy);
        }
    }
    check_count("annotations", count, problems);
}

fn check_count(section: &str, count: usize, problems: &mut Problems) {
    if count > ENTRIES_MAX {
        problems.push(section, format!("{count} entries"), format!("at most {ENTRIES_MAX} are allowed"));
    }
}

fn check_entry_name(section: &str, name: &str, problems: &mut Problems) {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    if name.is_empty() || name.len() > ENTRY_NAME_MAX || !name.bytes().all(legal) {
        let remedy = format!("write 1 to {ENTRY_NAME_MAX} of a-z A-Z 0-9 . _ - / :");
        problems.push(section, format!("`{}` is no name of an entry", printable(name)), remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn hostile_paths_are_known_by_their_reason() {
        let long = "x".repeat(256);
        let deep = ["d"; 33].join("/");
        for (path, reason) in [
            ("", "empty"),
            ("/etc/passwd", "absolute"),
            ("../x", ".."),
            ("a/../x", ".."),
            ("./x", "`.`"),
            ("a//b", "empty component"),
            ("a/", "empty component"),
            ("a\\b", "backslash"),
            ("a\0b", "control"),
            ("a\nb", "control"),
            ("a\u{202e}gpj.exe", "invisible"),
            ("a\u{200b}b", "invisible"),
            (&long, "255"),
            (&deep, "deep"),
        ] {
            assert!(
                hostile(path).is_some_and(|found| found.contains(reason)),
                "{path:?} {:?}",
                hostile(path)
            );
        }
        for path in ["model.onnx", "a/b.txt", "..x", "x..", "ünï/モデル.onnx", "a b", &long[..255]] {
            assert_eq!(hostile(path), None, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_that_passes_stays_inside_the_folder(path in "[./a\\\\\u{0}-\u{3}]{1,12}") {
            if hostile(&path).is_none() {
                prop_assert!(Path::new(&path).components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(Path::new(&path).components().count(), path.split('/').count());
            }
        }
    }
}
