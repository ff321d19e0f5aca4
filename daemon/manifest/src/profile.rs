//! How a version's cell shares the machine, and what the version demands that the host can hold it to. Part of `runtime`.

use crate::ids::DeviceGroup;
use crate::manifest::Runtime;
use crate::problem::Problems;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most demands of one version.
pub const REQUIREMENTS_MAX: usize = 16;
/// Most groups of devices that one version can ask for.
pub const DEVICES_MAX: usize = 16;
/// Greatest Landlock ABI that can be asked for: far beyond any there is.
const LANDLOCK_MAX: u32 = 1000;
const LANDLOCK: &str = "landlock>=";

/// How a cell shares the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It takes what others leave.
    #[default]
    Burstable,
    /// One core for each thread that no other cell runs on, and its memory reserved.
    Guaranteed,
}

impl Class {
    /// Every class by its word.
    pub const NAMES: [(&str, Self); 2] = [("burstable", Self::Burstable), ("guaranteed", Self::Guaranteed)];

    pub(crate) fn is_burstable(&self) -> bool {
        *self == Self::Burstable
    }
}

impl fmt::Display for Class {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Burstable => "burstable",
            Self::Guaranteed => "guaranteed",
        })
    }
}

/// Most CPU time that a burstable cell may use: thousandths of a CPU, 10 to 64000. Written as a decimal number of CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuLimit(u32);

/// A text that is no limit on CPU time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no number of CPUs between 0.01 and 64 with at most three decimals")]
pub struct NoCpuLimit(String);

impl CpuLimit {
    /// Smallest, thousandths of a CPU: below, the kernel's scheduling period has no room for it.
    pub const MIN: u32 = 10;
    /// Greatest, thousandths of a CPU.
    pub const MAX: u32 = 64_000;

    /// Thousandths of a CPU.
    pub fn thousandths(self) -> u32 {
        self.0
    }
}

impl FromStr for CpuLimit {
    type Err = NoCpuLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
            let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            if !digits(whole) || !digits(decimals) || whole.len() > 2 || decimals.len() > 3 {
                return None;
            }
            let thousandths =
                whole.parse::<u32>().ok()? * 1000 + format!("{decimals:0<3}").parse::<u32>().ok()?;
            (Self::MIN..=Self::MAX).contains(&thousandths).then_some(Self(thousandths))
        };
        read().ok_or_else(|| NoCpuLimit(crate::document::printable(text).to_string()))
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        out.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl TryFrom<String> for CpuLimit {
    type Error = NoCpuLimit;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<CpuLimit> for String {
    fn from(limit: CpuLimit) -> Self {
        limit.to_string()
    }
}

/// What must hold the cell: where a host cannot, the release is refused instead of weakened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Requirement {
    /// The list of system calls.
    Seccomp,
    /// A cgroup of its own.
    Cgroup,
    /// Landlock of at least this ABI.
    Landlock(u32),
    /// A cgroup limits its memory.
    Memory,
    /// A cgroup limits its processes and threads.
    Pids,
    /// A cgroup holds it to its CPUs.
    Cpuset,
    /// A cgroup weighs its share of a CPU and limits its CPU time.
    Cpu,
    /// The kernel lets it open no device but those that it was given.
    Devices,
}

/// A word that demands nothing known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is nothing that can be required")]
pub struct NoRequirement(String);

impl FromStr for Requirement {
    type Err = NoRequirement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || NoRequirement(crate::document::printable(text).to_string());
        Ok(match text {
            "seccomp" => Self::Seccomp,
            "cgroup" => Self::Cgroup,
            "memory" => Self::Memory,
            "pids" => Self::Pids,
            "cpuset" => Self::Cpuset,
            "cpu" => Self::Cpu,
            "devices" => Self::Devices,
            _ => {
                let abi: u32 = text
                    .strip_prefix(LANDLOCK)
                    .filter(|digits| !digits.starts_with(['0', '+']))
                    .and_then(|digits| digits.parse().ok())
                    .filter(|abi| *abi <= LANDLOCK_MAX)
                    .ok_or_else(unknown)?;
                Self::Landlock(abi)
            }
        })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seccomp => out.write_str("seccomp"),
            Self::Cgroup => out.write_str("cgroup"),
            Self::Landlock(abi) => write!(out, "{LANDLOCK}{abi}"),
            Self::Memory => out.write_str("memory"),
            Self::Pids => out.write_str("pids"),
            Self::Cpuset => out.write_str("cpuset"),
            Self::Cpu => out.write_str("cpu"),
            Self::Devices => out.write_str("devices"),
        }
    }
}

impl TryFrom<String> for Requirement {
    type Error = NoRequirement;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Requirement> for String {
    fn from(requirement: Requirement) -> Self {
        requirement.to_string()
    }
}

pub(crate) fn check(runtime: &Runtime, problems: &mut Problems) {
    check_requirements(&runtime.require, problems);
    check_devices(&runtime.devices, problems);
    if let (Some(limit), Class::Guaranteed) = (runtime.cpu_limit, runtime.class) {
        let what = format!("a limit of {limit} CPUs for a guaranteed cell, which has its own");
        problems.push("runtime.cpu_limit", what, "leave it away, or write `class: burstable`");
    }
}

fn check_devices(devices: &[DeviceGroup], problems: &mut Problems) {
    if devices.len() > DEVICES_MAX {
        let what = format!("{} groups of devices", devices.len());
        problems.push("runtime.devices", what, format!("at most {DEVICES_MAX} are allowed"));
    }
    for (index, group) in devices.iter().enumerate() {
        if devices[..index].contains(group) {
            let what = format!("`{group}` is asked for twice");
            problems.push(format!("runtime.devices[{index}]"), what, "ask for it once");
        }
    }
}

fn check_requirements(require: &[Requirement], problems: &mut Problems) {
    if require.len() > REQUIREMENTS_MAX {
        let what = format!("{} requirements", require.len());
        problems.push("runtime.require", what, format!("at most {REQUIREMENTS_MAX} are allowed"));
    }
    for (index, requirement) in require.iter().enumerate() {
        let same = |other: &Requirement| std::mem::discriminant(other) == std::mem::discriminant(requirement);
        if require[..index].iter().any(same) {
            let what = format!("`{requirement}` is asked for twice");
            problems.push(format!("runtime.require[{index}]"), what, "ask for it once");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_requirement_reads_back_as_it_is_written() {
        for word in ["seccomp", "cgroup", "landlock>=4", "memory", "pids", "cpuset", "cpu", "devices"] {
            assert_eq!(word.parse::<Requirement>().unwrap().to_string(), word);
        }
        for word in [
            "",
            "landlock",
            "landlock>=",
            "landlock>=0",
            "landlock>=04",
            "landlock>=+4",
            "landlock>=1001",
            "Memory",
        ] {
            assert!(word.parse::<Requirement>().is_err(), "{word}");
        }
    }

    #[test]
    fn each_class_is_written_with_its_word() {
        assert!(Class::NAMES.iter().all(|(name, class)| class.to_string() == *name));
    }

    #[test]
    fn a_demand_made_twice_is_a_problem() {
        let mut problems = Problems::default();
        let twice = [Requirement::Landlock(4), Requirement::Pids, Requirement::Landlock(5)];
        check_requirements(&twice, &mut problems);
        assert_eq!(problems.0.len(), 1, "{problems:?}");
    }

    #[test]
    fn a_limit_on_cpu_time_reads_back_as_it_is_written() {
        for (text, thousandths, shown) in [
            ("1.5", 1500, "1.5"),
            ("2", 2000, "2"),
            ("0.01", 10, "0.01"),
            ("64.000", 64_000, "64"),
            ("0.125", 125, "0.125"),
        ] {
            let limit: CpuLimit = text.parse().unwrap();
            assert_eq!((limit.thousandths(), limit.to_string().as_str()), (thousandths, shown));
        }
        for text in
            ["", ".", "1.", ".5", "0", "0.009", "64.001", "65", "-1", "+1", "1e3", "1.5000", "100", "many"]
        {
            assert!(text.parse::<CpuLimit>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_profile_asks_for_twice_or_in_vain_is_a_problem() {
        let runtime = Runtime {
            model_file: "m.onnx".to_owned(),
            threads: 1,
            memory_bytes: 1 << 30,
            class: Class::Guaranteed,
            cpu_limit: Some("1.5".parse().unwrap()),
            devices: ["gpu0", "gpu1", "gpu0"].map(|name| name.parse().unwrap()).to_vec(),
            require: Vec::new(),
        };
        let mut problems = Problems::default();
        check(&runtime, &mut problems);
        let paths: Vec<_> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["runtime.devices[2]", "runtime.cpu_limit"], "{problems:?}");
    }

    proptest::proptest! {
        #[test]
        fn every_limit_on_cpu_time_reads_back(thousandths in CpuLimit::MIN..=CpuLimit::MAX) {
            proptest::prop_assert_eq!(CpuLimit(thousandths).to_string().parse(), Ok(CpuLimit(thousandths)));
        }
    }
}
