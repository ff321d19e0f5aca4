//! How a version's cell shares the machine, and what the version demands that the host can hold it to. Part of `runtime`.

use crate::problem::Problems;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Most demands of one version.
pub const REQUIREMENTS_MAX: usize = 16;
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
    /// A cgroup weighs its share of a CPU.
    Cpu,
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

pub(crate) fn check(require: &[Requirement], problems: &mut Problems) {
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
        for word in ["seccomp", "cgroup", "landlock>=4", "memory", "pids", "cpuset", "cpu"] {
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
        check(&[Requirement::Landlock(4), Requirement::Pids, Requirement::Landlock(5)], &mut problems);
        assert_eq!(problems.0.len(), 1, "{problems:?}");
    }
}
