//! What a cell may use and uses, as its cgroup says. A controller that this host does not give leaves its figures out.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use turnout_manifest::Generation;

/// What one cell may use and uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in use, bytes, but for pages of files that the kernel would take back first (`memory.current` less
    /// `inactive_file` of `memory.stat`): with those a cell that has read a large model looks full for ever.
    pub memory_bytes: Option<u64>,
    /// Most memory it may use, bytes (`memory.max`); absent also when there is no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Times that it was ended for want of memory (`oom_kill` of `memory.events`).
    pub oom_kills: Option<u64>,
    /// Processes and threads in it (`pids.current`).
    pub processes: Option<u64>,
    /// Most it may have (`pids.max`); absent also when there is no limit.
    pub processes_limit: Option<u64>,
    /// CPU time used, microseconds (`usage_usec` of `cpu.stat`, which needs no controller).
    pub cpu_us: Option<u64>,
    /// CPUs it may run on (`cpuset.cpus.effective`).
    pub cpus: Option<u64>,
    /// Most CPU time it may use, thousandths of a CPU (`cpu.max`); absent also when there is no limit.
    pub cpu_limit_thousandths: Option<u64>,
    /// Periods in which it had used up its CPU time (`nr_throttled` of `cpu.stat`).
    pub cpu_throttled: Option<u64>,
}

/// The meters of the cells.
pub trait Meters {
    /// What a generation's cell uses now; nothing is known of one that is not there.
    fn usage(&self, generation: Generation) -> Usage;
}

/// The cgroup of a cell, below that of the instance or of a tenant.
pub(crate) fn cell(instance: &Path, generation: Generation) -> Option<PathBuf> {
    let name = format!("cell-{}", generation.0);
    let places = std::iter::once(instance.to_owned()).chain(below(instance, "tenant-"));
    places.map(|place| place.join(&name)).find(|cell| cell.is_dir())
}

/// The inode numbers of all cells' cgroups.
pub(crate) fn every_cell(instance: &Path) -> Vec<u64> {
    let places = std::iter::once(instance.to_owned()).chain(below(instance, "tenant-"));
    let cells = places.flat_map(|place| below(&place, "cell-"));
    cells.filter_map(|cell| Some(fs::metadata(cell).ok()?.ino())).collect()
}

fn below(place: &Path, prefix: &'static str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path()).collect()
}

/// Reads the files of a cell's cgroup below that of the instance.
pub(crate) fn read(instance: &Path, generation: Generation) -> Usage {
    cell(instance, generation).map(|cell| read_cgroup(&cell)).unwrap_or_default()
}

fn read_cgroup(cell: &Path) -> Usage {
    let text = |name: &str| fs::read_to_string(cell.join(name)).ok();
    let number = |name: &str| text(name)?.trim_end().parse().ok();
    let keyed = |name: &str, key: &str| value_of(&text(name)?, key);
    let taken_back_first = keyed("memory.stat", "inactive_file").unwrap_or(0);
    Usage {
        // The two files are not of one moment.
        memory_bytes: number("memory.current").map(|bytes: u64| bytes.saturating_sub(taken_back_first)),
        memory_limit_bytes: number("memory.max"),
        oom_kills: keyed("memory.events", "oom_kill"),
        processes: number("pids.current"),
        processes_limit: number("pids.max"),
        cpu_us: keyed("cpu.stat", "usage_usec"),
        cpu_limit_thousandths: text("cpu.max").and_then(|limit| thousandths_of(&limit)),
        cpu_throttled: keyed("cpu.stat", "nr_throttled"),
        cpus: text("cpuset.cpus.effective").and_then(|list| cpus_of(list.trim_end())),
    }
}

/// The value of a key in a flat keyed file (cgroups(7): `KEY VALUE` a line).
fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

/// A quota and its period, microseconds both, as thousandths of a CPU; none for `max`.
fn thousandths_of(limit: &str) -> Option<u64> {
    let (quota, period) = limit.trim_end().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    quota.checked_mul(1000)?.checked_div(period)
}

/// How many CPUs a list such as `0-3,8` names.
fn cpus_of(list: &str) -> Option<u64> {
    list.split(',').try_fold(0_u64, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + u64::from(last.checked_sub(first)?) + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Generation = Generation(3);

    #[test]
    fn every_file_that_is_there_is_read() {
        let instance = tempfile::tempdir().unwrap();
        let cell = instance.path().join("cell-3");
        fs::create_dir(&cell).unwrap();
        for (name, text) in [
            ("memory.current", "1048576\n"),
            ("memory.max", "536870912\n"),
            ("memory.events", "low 0\noom 2\noom_kill 1\noom_group_kill 1\n"),
            ("pids.current", "5\n"),
            ("pids.max", "max\n"),
            ("cpu.stat", "usage_usec 12345\nuser_usec 1\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\n"),
            ("cpu.max", "150000 100000\n"),
            ("cpuset.cpus.effective", "0-1,5\n"),
        ] {
            fs::write(cell.join(name), text).unwrap();
        }
        let wanted = Usage {
            memory_bytes: Some(1 << 20),
            memory_limit_bytes: Some(512 << 20),
            oom_kills: Some(1),
            processes: Some(5),
            processes_limit: None,
            cpu_us: Some(12_345),
            cpus: Some(3),
            cpu_limit_thousandths: Some(1500),
            cpu_throttled: Some(4),
        };
        assert_eq!(read(instance.path(), CELL), wanted);
        let tenant = instance.path().join("tenant-risk");
        fs::create_dir(&tenant).unwrap();
        fs::rename(&cell, tenant.join("cell-3")).unwrap();
        assert_eq!(read(instance.path(), CELL), wanted, "a tenant's cell is found too");
        assert_eq!(every_cell(instance.path()).len(), 1);
    }

    #[test]
    fn pages_of_files_that_are_taken_back_first_are_not_in_use() {
        let cell = tempfile::tempdir().unwrap();
        let used = || read_cgroup(cell.path()).memory_bytes;
        fs::write(cell.path().join("memory.current"), "1000\n").unwrap();
        for (stat, left) in [
            ("anon 100\nfile 900\ninactive_anon 1\nactive_file 300\ninactive_file 600\n", 400),
            ("anon 1000\ninactive_file 0\n", 1000),
            ("inactive_file 1001\n", 0),
            ("", 1000),
        ] {
            fs::write(cell.path().join("memory.stat"), stat).unwrap();
            assert_eq!(used(), Some(left), "{stat}");
        }
        fs::remove_file(cell.path().join("memory.current")).unwrap();
        assert_eq!(used(), None, "no controller, no figure");
    }

    #[test]
    fn a_cell_that_is_gone_uses_nothing_that_is_known() {
        assert_eq!(read(Path::new("/nowhere"), CELL), Usage::default());
    }

    #[test]
    fn a_list_of_cpus_that_is_none_is_not_counted() {
        for (list, count) in
            [("0", Some(1)), ("0-0", Some(1)), ("", None), ("3-1", None), ("0-18446744073709551615", None)]
        {
            assert_eq!(cpus_of(list), count, "{list:?}");
        }
    }
}
