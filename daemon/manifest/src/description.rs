//! `turnout.yaml`: the manifest as people write it, without the files. Read with every problem and its line at once,
//! written as a commented text. Digests of the files and signing are left to others.

use crate::assertion::{Assertion, Check};
use crate::canonical::INTEGER_MAX;
use crate::contract::{Contract, Datatype, TensorContract};
use crate::document::{Node, Place, Reader};
use crate::ids::{Channel, ModelName, Version};
use crate::manifest::{FileEntry, Manifest, Runtime, SCHEMA};
use crate::problem::Problems;
use crate::profile::Class;
use crate::section::{self, MEMORY_DEFAULT, Sections, THREADS_DEFAULT};
use crate::yaml;
use std::collections::BTreeMap;
use std::fmt::Write;

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const KEYS: &[&str] =
    &["model", "version", "channel", "runtime", "contract", "assertions", "baseline", "annotations"];

/// What people say about a version: a [`Manifest`] without its files. See its fields there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The model this is a version of.
    pub model: ModelName,
    /// The version's label.
    pub version: Version,
    /// What it is meant for.
    pub channel: Channel,
    /// How a worker runs it.
    pub runtime: Runtime,
    /// What requests and answers look like.
    pub contract: Contract,
    /// What a good answer is.
    pub assertions: Vec<Assertion>,
    /// Statistics of known-good data, by name, as decimal texts.
    pub baseline: BTreeMap<String, String>,
    /// Free text for people and tools.
    pub annotations: BTreeMap<String, String>,
}

impl Description {
    /// A description to start from: one input and one output to be replaced, answers must be finite.
    pub fn template(model: ModelName, version: Version, model_file: String) -> Self {
        let tensor = |name: &str, length| TensorContract {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![-1, length],
            minimum: None,
            maximum: None,
        };
        Self {
            model,
            version,
            channel: Channel::default(),
            runtime: Runtime {
                model_file,
                threads: THREADS_DEFAULT,
                memory_bytes: MEMORY_DEFAULT,
                class: Class::default(),
                cpu_limit: None,
                devices: Vec::new(),
                require: Vec::new(),
            },
            contract: Contract { inputs: vec![tensor("input", 4)], outputs: vec![tensor("output", 2)] },
            assertions: vec![Assertion {
                name: "finite".to_owned(),
                output: "output".to_owned(),
                check: Check::Finite,
            }],
            baseline: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Reads `turnout.yaml`.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn from_yaml(text: &str) -> Result<Self, Problems> {
        let root = yaml::parse(text)?;
        let mut reader = Reader::default();
        let description = read(&mut reader, &root);
        reader.finish().unless_any(description)
    }

    /// The manifest of these words and files, in whatever order they are given.
    ///
    /// # Errors
    /// Everything that is wrong with the whole.
    pub fn into_manifest(self, mut files: Vec<FileEntry>) -> Result<Manifest, Problems> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let Self { model, version, channel, runtime, contract, assertions, baseline, annotations } = self;
        let schema = SCHEMA.to_owned();
        let manifest = Manifest {
            schema,
            model,
            version,
            channel,
            files,
            runtime,
            contract,
            assertions,
            baseline,
            annotations,
        };
        let problems = Problems(manifest.problems());
        problems.unless_any(Some(manifest))
    }

    /// The text of `turnout.yaml`, with comments that say what each part means.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        self.write_yaml(&mut out).expect("writing to a String does not fail");
        out
    }

    fn write_yaml(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{HEAD}\nmodel: {}", scalar(self.model.as_str()))?;
        writeln!(out, "{VERSION}\nversion: {}", scalar(self.version.as_str()))?;
        writeln!(out, "{CHANNEL}\nchannel: {}", scalar(self.channel.as_str()))?;
        writeln!(out, "\nruntime:\n{MODEL_FILE}\n  model_file: {}", scalar(&self.runtime.model_file))?;
        writeln!(out, "{THREADS}\n  threads: {}", self.runtime.threads)?;
        writeln!(out, "{MEMORY}\n  memory: {}", memory_text(self.runtime.memory_bytes))?;
        writeln!(out, "{CLASS}\n  class: {}", self.runtime.class)?;
        match self.runtime.cpu_limit {
            Some(limit) => writeln!(out, "{CPU_LIMIT}\n  cpu_limit: {}", scalar(&limit.to_string()))?,
            None => writeln!(out, "{CPU_LIMIT}\n  # cpu_limit: 1.5")?,
        }
        let devices: Vec<String> = self.runtime.devices.iter().map(|group| scalar(group.as_str())).collect();
        writeln!(out, "{DEVICES}\n  devices: [{}]", devices.join(", "))?;
        let require: Vec<String> =
            self.runtime.require.iter().map(|requirement| scalar(&requirement.to_string())).collect();
        writeln!(out, "{REQUIRE}\n  require: [{}]", require.join(", "))?;
        writeln!(out, "\n{CONTRACT}\ncontract:")?;
        for (side, tensors) in [("inputs", &self.contract.inputs), ("outputs", &self.contract.outputs)] {
            writeln!(out, "  {side}:")?;
            for tensor in tensors {
                writeln!(out, "    - {}", tensor_line(tensor))?;
            }
        }
        writeln!(out, "\n{ASSERTIONS}\nassertions:{}", if self.assertions.is_empty() { " []" } else { "" })?;
        for assertion in &self.assertions {
            writeln!(out, "  - {}", assertion_line(assertion))?;
        }
        for (name, comment, entries) in
            [("baseline", BASELINE, &self.baseline), ("annotations", ANNOTATIONS, &self.annotations)]
        {
            writeln!(out, "\n{comment}\n{name}:{}", if entries.is_empty() { " {}" } else { "" })?;
            for (name, text) in entries {
                writeln!(out, "  {}: {}", scalar(name), scalar(text))?;
            }
        }
        Ok(())
    }
}

const HEAD: &str = "# What this version is and promises. Signing adds the digest of every file in this folder.\n\n\
                    # Name of the model: 1 to 64 of a-z A-Z 0-9 - _";
const VERSION: &str = "# Label of this version: 1 to 64 of a-z A-Z 0-9 . + - _";
const CHANNEL: &str = "# What it is meant for: a host serves only the channels of its configuration, `prod` unless it says otherwise.";
const MODEL_FILE: &str = "  # The ONNX file, relative to this folder.";
const THREADS: &str = "  # Serving threads, each with its own CPU and its own session: 1 to 64.";
const MEMORY: &str = "  # Greatest memory of a worker: 16MiB to 1TiB.";
const CLASS: &str =
    "  # burstable: takes what others leave. guaranteed: a core of its own for each thread, memory reserved.";
const CPU_LIMIT: &str =
    "  # Most CPU time of a burstable version, CPUs: 0.01 to 64. Without it, what the host leaves it.";
const DEVICES: &str =
    "  # Devices that its cell gets, by the names in `[devices]` of the host's configuration, such as gpu0.";
const REQUIRE: &str =
    "  # What must hold its cell; where a host cannot, the release is refused instead of weakened:
  # seccomp, cgroup, landlock>=4, memory, pids, cpuset, cpu, devices";
const CONTRACT: &str = "\
# Every input and output of the model; a request that does not fit is refused.
# datatype: BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP32 FP64 BYTES
# shape: one length per dimension, -1 for any; minimum and maximum of the elements may be added.";
const ASSERTIONS: &str = "\
# What a good answer is. One that breaks an assertion is not sent, and counts against the version.
# check: finite | range (with minimum, maximum) | sums-to-one (along the last dimension, with tolerance)";
const BASELINE: &str = "# Statistics of known-good data, by name, as decimal numbers.";
const ANNOTATIONS: &str = "# Free text for people and tools: training run, data set, owner.";

fn tensor_line(tensor: &TensorContract) -> String {
    let shape: Vec<String> = tensor.shape.iter().map(i64::to_string).collect();
    let mut line = format!(
        "{{name: {}, datatype: {}, shape: [{}]",
        scalar(&tensor.name),
        tensor.datatype,
        shape.join(", ")
    );
    for (name, end) in [("minimum", &tensor.minimum), ("maximum", &tensor.maximum)] {
        if let Some(end) = end {
            line.push_str(&format!(", {name}: {end}"));
        }
    }
    line + "}"
}

fn assertion_line(assertion: &Assertion) -> String {
    let check = match &assertion.check {
        Check::Finite => "finite".to_owned(),
        Check::Range { minimum, maximum } => format!("range, minimum: {minimum}, maximum: {maximum}"),
        Check::SumsToOne { tolerance } => format!("sums-to-one, tolerance: {tolerance}"),
    };
    format!("{{name: {}, output: {}, check: {check}}}", scalar(&assertion.name), scalar(&assertion.output))
}

/// A YAML scalar that every reader takes as this text: bare where it is a plain word, else in double quotes.
fn scalar(text: &str) -> String {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/+".contains(&byte);
    let begins = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let ambiguous = reserved.contains(&text.to_ascii_lowercase().as_str()) || text.parse::<f64>().is_ok();
    if begins && text.bytes().all(word) && !ambiguous {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            ' '..='~' => out.push(character),
            _ if character.is_alphanumeric() => out.push(character),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(character))),
        }
    }
    out + "\""
}

fn read(reader: &mut Reader, root: &Node) -> Option<Description> {
    let group = reader.group(&Place::root(root), KEYS)?;
    let sections = Sections::read(reader, &group);
    let runtime = group.require(reader, "runtime").and_then(|place| read_runtime(reader, &place));

    let mut found = Problems::default();
    sections.check(&mut found);
    if let Some(runtime) = &runtime {
        section::check_runtime(runtime, &mut found);
    }
    reader.locate(root, found.0);

    Some(Description {
        model: sections.model?,
        version: sections.version?,
        channel: sections.channel?,
        runtime: runtime?,
        contract: sections.contract?,
        assertions: sections.assertions?,
        baseline: sections.baseline?,
        annotations: sections.annotations?,
    })
}

fn read_runtime(reader: &mut Reader, place: &Place<'_>) -> Option<Runtime> {
    let known = &["model_file", "threads", "memory", "class", "cpu_limit", "devices", "require"];
    let group = reader.group(place, known)?;
    let model_file = group.require(reader, "model_file").and_then(|place| reader.text(&place));
    let threads = group.get("threads").and_then(|place| reader.integer(&place));
    let memory = group.get("memory").and_then(|place| read_memory(reader, &place));
    let profile = section::read_profile(reader, &group);
    Some(Runtime {
        model_file: model_file?,
        threads: threads.unwrap_or(THREADS_DEFAULT),
        memory_bytes: memory.unwrap_or(MEMORY_DEFAULT),
        class: profile.class,
        cpu_limit: profile.cpu_limit,
        devices: profile.devices,
        require: profile.require,
    })
}

fn read_memory(reader: &mut Reader, place: &Place<'_>) -> Option<u64> {
    let text = reader.text(place)?;
    let bytes = UNITS.iter().find_map(|(unit, size)| {
        let digits = text.strip_suffix(unit)?.trim_end();
        let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| whole)?.checked_mul(*size)
    });
    let bytes = bytes.filter(|bytes| *bytes <= INTEGER_MAX.unsigned_abs());
    if bytes.is_none() {
        let what = format!("`{}` is no size in memory", crate::document::printable(&text));
        reader.refuse(place, what, "write a whole number and KiB, MiB, GiB or TiB, such as `512MiB`");
    }
    bytes
}

fn memory_text(bytes: u64) -> String {
    let exact = UNITS.iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    let (unit, size) = exact.unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Decimal;
    use crate::profile::Requirement;
    use proptest::prelude::*;

    #[test]
    fn the_template_is_sound_and_says_what_each_part_means() {
        let template =
            Description::template("fraud".parse().unwrap(), "1.10".parse().unwrap(), "model.onnx".to_owned());
        let text = template.to_yaml();
        assert_eq!(Description::from_yaml(&text).unwrap(), template);
        assert!(text.contains("version: \"1.10\""), "quoted, lest another reader takes it for a number");
        for (_, name) in [("datatype", "FP64"), ("check", "sums-to-one"), ("memory", "16MiB to 1TiB")] {
            assert!(
                text.lines().any(|line| line.trim_start().starts_with('#') && line.contains(name)),
                "{name}"
            );
        }
    }

    #[test]
    fn memory_is_written_in_the_largest_whole_unit() {
        for (bytes, text) in
            [(1 << 40, "1TiB"), (512 << 20, "512MiB"), (1536 << 20, "1536MiB"), (16_777_217, "16777217B")]
        {
            assert_eq!(memory_text(bytes), text);
        }
    }

    fn any_decimal() -> impl Strategy<Value = Decimal> {
        "-?[0-9]{1,4}(\\.[0-9]{1,4})?".prop_map(|text| text.parse().unwrap())
    }

    prop_compose! {
        fn any_description()(
            model in "[a-zA-Z0-9][a-zA-Z0-9_-]{0,8}",
            version in "[a-zA-Z0-9][a-zA-Z0-9.+_-]{0,8}",
            channel in "[a-zA-Z0-9][a-zA-Z0-9_-]{0,8}",
            model_file in "[a-z \"#:é'-]{1,8}",
            threads in 1..=64u32,
            memory_bytes in (16u64 << 20)..=(1 << 40),
            class in prop::sample::select(vec![Class::Burstable, Class::Guaranteed]),
            cpu_limit in proptest::option::of(prop::sample::select(vec!["0.01", "1", "1.5", "64"])),
            devices in prop::collection::btree_set("[a-z][a-z0-9_-]{0,8}", 0..3),
            require in prop::sample::subsequence(vec![Requirement::Landlock(4), Requirement::Memory, Requirement::Cpuset], 0..=3),
            name in "\\PC{1,8}",
            maximum in proptest::option::of(any_decimal()),
            tolerance in "0\\.[0-9]{1,4}",
            annotations in prop::collection::btree_map("[a-z][a-z.:/_-]{0,8}", "[\\PC\n\t]{1,20}", 0..4),
            baseline in prop::collection::btree_map("[a-z]{1,8}", "-?[0-9]{1,3}", 0..4),
        ) -> Description {
            let tensor = TensorContract { name: name.clone(), datatype: Datatype::Fp64, shape: vec![-1, 2], minimum: None, maximum };
            let check = Check::SumsToOne { tolerance: tolerance.parse().unwrap() };
            Description {
                model: model.parse().unwrap(),
                version: version.parse().unwrap(),
                channel: channel.parse().unwrap(),
                runtime: Runtime {
                    model_file,
                    threads,
                    memory_bytes,
                    class,
                    // Two that do not go together are a problem, which is another test's.
                    cpu_limit: cpu_limit.filter(|_| class == Class::Burstable).map(|text| text.parse().unwrap()),
                    devices: devices.iter().map(|name| name.parse().unwrap()).collect(),
                    require,
                },
                contract: Contract { inputs: vec![tensor.clone()], outputs: vec![tensor] },
                assertions: vec![Assertion { name: name.clone(), output: name, check }],
                baseline,
                annotations,
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_written_reads_back_the_same_or_is_refused_for_its_values(description in any_description()) {
            match Description::from_yaml(&description.to_yaml()) {
                Ok(read) => prop_assert_eq!(read, description),
                // Only texts with a line or paragraph separator are beyond the limits here; they are read all the same.
                Err(problems) => for problem in problems.0 {
                    prop_assert!(["a plain text", "no name of"].iter().any(|what| problem.what.contains(what)), "{}\n{}", problem, description.to_yaml());
                }
            }
        }
    }
}
