//! The cores of this machine, as far as tests and benchmarks need them: one to give away, and the rest.

use anyhow::{Context, Result};
use std::fs;

/// The CPUs of the last core, and all others; `None` on a machine of one core.
///
/// # Errors
/// When the kernel does not say.
pub fn last_core() -> Result<Option<(Vec<u32>, Vec<u32>)>> {
    let folder = "/sys/devices/system/cpu";
    let all = cpus(&fs::read_to_string(format!("{folder}/online"))?)?;
    let last = all.last().context("no CPU is online")?;
    let own = cpus(&fs::read_to_string(format!("{folder}/cpu{last}/topology/thread_siblings_list"))?)?;
    let rest: Vec<u32> = all.into_iter().filter(|cpu| !own.contains(cpu)).collect();
    Ok((!rest.is_empty()).then_some((own, rest)))
}

/// A list of CPUs as the kernel writes it, `0-3,8`.
///
/// # Errors
/// When it is none.
pub fn cpus(list: &str) -> Result<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>()?..=last.parse()?);
    }
    Ok(cpus)
}
