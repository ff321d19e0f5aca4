//! What the kernel says of a process, its CPU time and its memory, and the statistics over several rounds.

use anyhow::{Context, Result};
use std::fs;
use std::time::Duration;

/// CPU time a process has used, all its threads together, in nanoseconds' resolution.
///
/// # Errors
/// When it has ended.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        sum += text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

/// Memory of a process, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// All that is resident.
    pub rss: u64,
    /// The same with each shared page divided by its users.
    pub pss: u64,
}

/// What a process has in memory.
///
/// # Errors
/// When it has ended.
pub fn memory(pid: i32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{path}`"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kilobytes.map(|kilobytes| kilobytes * 1024).with_context(|| format!("`{path}` has no `{name}`"))
    };
    Ok(Memory { rss: field("Rss:")?, pss: field("Pss:")? })
}

/// Values of several rounds, sorted.
#[derive(Debug, Clone, Default)]
pub struct Values(Vec<f64>);

impl FromIterator<f64> for Values {
    fn from_iter<Source: IntoIterator<Item = f64>>(source: Source) -> Self {
        let mut values: Vec<f64> = source.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}

impl Values {
    /// The value that this share of all did not exceed; 0 without values.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or_default()
    }

    /// The middle one, or the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let half = self.0.len() / 2;
        if self.0.len().is_multiple_of(2) && half > 0 {
            return (self.0[half - 1] + self.0[half]) / 2.0;
        }
        self.0.get(half).copied().unwrap_or_default()
    }

    /// The smallest and the greatest.
    pub fn range(&self) -> (f64, f64) {
        (self.0.first().copied().unwrap_or_default(), self.0.last().copied().unwrap_or_default())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// p99 without something and beside it, a pair from each round, microseconds.
#[derive(Debug, Clone, Default)]
pub struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// Takes in what a round gave: without, beside.
    pub fn push(&mut self, without: f64, beside: f64) {
        self.0.push((without, beside));
    }

    /// Median of the ratios within each round.
    pub fn ratio(&self) -> f64 {
        self.0.iter().map(|(without, beside)| beside / without.max(1e-9)).collect::<Values>().median()
    }

    /// The median without, and the median beside.
    pub fn medians(&self) -> (f64, f64) {
        let without: Values = self.0.iter().map(|pair| pair.0).collect();
        let beside: Values = self.0.iter().map(|pair| pair.1).collect();
        (without.median(), beside.median())
    }

    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quantiles_of_few_values() {
        let values: Values = [3.0, 1.0, 2.0, 10.0].into_iter().collect();
        assert_eq!((values.median(), values.quantile(0.99), values.range()), (2.5, 10.0, (1.0, 10.0)));
        let values: Values = [5.0, 1.0, 2.0].into_iter().collect();
        assert_eq!((values.median(), values.quantile(0.5)), (2.0, 2.0));
        assert_eq!((Values::default().median(), Values::default().quantile(0.5)), (0.0, 0.0));
    }

    #[test]
    fn the_kernel_tells_time_and_memory_of_this_process() {
        let pid = std::process::id() as i32;
        let before = cpu_time(pid).unwrap();
        let sum: u64 = (0..20_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        assert!(cpu_time(pid).unwrap() > before, "{sum}");
        let memory = memory(pid).unwrap();
        assert!(memory.rss >= memory.pss && memory.pss > 1 << 20, "{memory:?}");
    }
}
