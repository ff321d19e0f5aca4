//! What the kernel says of its CPUs, as text; what it means is decided elsewhere.

use crate::HostError;
use std::fs;
use std::path::Path;

/// Most CPUs and nodes that are looked at.
const ENTRIES_MAX: usize = 4096;

/// The kernel's own lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuLists {
    /// `thread_siblings_list` of each CPU.
    pub siblings: Vec<String>,
    /// Each NUMA node with its `cpulist`.
    pub nodes: Vec<(u32, String)>,
}

/// Reads the lists below a folder that is `/sys/devices/system` on a machine.
///
/// # Errors
/// [`HostError::Os`] names the file that could not be read. A kernel without NUMA has no nodes, which is no error.
pub fn read(system: &Path) -> Result<CpuLists, HostError> {
    let mut lists = CpuLists::default();
    for number in numbered(&system.join("cpu"), "cpu")? {
        // A CPU that is offline has no topology.
        if let Some(list) = text(&system.join(format!("cpu/cpu{number}/topology/thread_siblings_list")))? {
            lists.siblings.push(list);
        }
    }
    if system.join("node").is_dir() {
        for number in numbered(&system.join("node"), "node")? {
            if let Some(list) = text(&system.join(format!("node/node{number}/cpulist")))? {
                lists.nodes.push((number, list));
            }
        }
    }
    Ok(lists)
}

/// The numbers of entries such as `cpu12`.
fn numbered(folder: &Path, prefix: &str) -> Result<Vec<u32>, HostError> {
    let failed = || HostError::os("readdir", folder.display());
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())?.take(ENTRIES_MAX) {
        let name = entry.map_err(failed())?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn text(path: &Path) -> Result<Option<String>, HostError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HostError::os("read", path.display())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_which_cpus_share_a_core() {
        let lists = read(Path::new("/sys/devices/system")).unwrap();
        assert!(!lists.siblings.is_empty());
        assert!(
            lists.siblings.iter().all(|list| list.starts_with(|c: char| c.is_ascii_digit())),
            "{lists:?}"
        );
    }

    #[test]
    fn offline_cpus_and_a_kernel_without_numa_are_no_error() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, online) in [(0, true), (1, false), (10, true)] {
            let topology = folder.path().join(format!("cpu/cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            if online {
                fs::write(topology.join("thread_siblings_list"), format!("{cpu}\n")).unwrap();
            }
        }
        fs::create_dir(folder.path().join("cpu/cpufreq")).unwrap();
        let lists = read(folder.path()).unwrap();
        assert_eq!(lists, CpuLists { siblings: vec!["0\n".into(), "10\n".into()], nodes: vec![] });
    }
}
