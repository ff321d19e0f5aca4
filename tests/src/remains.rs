//! What a daemon of a test leaves on the machine, and how to take it away: processes, mounts, loop devices, cgroups.
//! Everything is found by the folder and the cgroup of the instance, so that an instance whose test was killed can be
//! cleaned by the next one. Nothing else on the machine is touched.

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest wait for processes to end after they were told to.
const END_DEADLINE: Duration = Duration::from_secs(10);
/// How often their end is looked for: they are nobody's children here, so nothing reports it.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Programs that may belong to an instance.
const PROGRAMS: [&str; 4] = ["turnoutd", "turnout-launcher", "turnout-worker", "turnout-router"];

/// What belongs to one instance.
#[derive(Debug, Clone)]
pub struct Remains {
    /// Everything on disk, mounts and loop devices' files included.
    pub folder: PathBuf,
    /// Root of its cgroups.
    pub cgroup: PathBuf,
}

impl Remains {
    /// Takes everything away but the folder itself; repeating it is harmless.
    ///
    /// # Errors
    /// What could not be taken away, with the reason.
    pub fn clear(&self) -> Result<()> {
        self.end_processes()?;
        for point in self.mounts()?.iter().rev() {
            unmount(point, UnmountFlags::DETACH)
                .with_context(|| format!("cannot unmount `{}`", point.display()))?;
        }
        for device in self.loops()? {
            let detached = Command::new("losetup").arg("-d").arg(&device).status();
            if !detached.context("cannot start `losetup`")?.success() && self.loops()?.contains(&device) {
                bail!("cannot detach `{}`", device.display());
            }
        }
        remove_cgroup(&self.cgroup)
    }

    /// Processes of this instance: all in its cgroups, and Turnout's programs that name its folder.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut found = pids_below(&self.cgroup);
        for entry in fs::read_dir("/proc").context("cannot read `/proc`")? {
            let pid = entry?.file_name().to_string_lossy().parse::<i32>();
            found.extend(pid.ok().filter(|pid| self.names_folder(*pid)));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn names_folder(&self, pid: i32) -> bool {
        let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.trim_end_matches(" (deleted)");
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let folder = self.folder.to_string_lossy();
        let names = |word: &[u8]| {
            let word = String::from_utf8_lossy(word);
            word.split('=').any(|part| Path::new(part).starts_with(&*folder))
        };
        PROGRAMS.contains(&name) && line.split(|byte| *byte == 0).any(names)
    }

    fn end_processes(&self) -> Result<()> {
        let deadline = Instant::now() + END_DEADLINE;
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("processes {left:?} do not end");
            }
            for pid in left {
                end(pid, Signal::KILL);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Mount points in the folder, outermost first.
    fn mounts(&self) -> Result<Vec<PathBuf>> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
        let points = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(|point| PathBuf::from(unescape(point)));
        Ok(points.filter(|point| point.starts_with(&self.folder)).collect())
    }

    /// Loop devices whose file lies in the folder.
    fn loops(&self) -> Result<Vec<PathBuf>> {
        let mut devices = Vec::new();
        for entry in fs::read_dir("/sys/block").context("cannot read `/sys/block`")? {
            let entry = entry?;
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if Path::new(file.trim_end()).starts_with(&self.folder) {
                devices.push(Path::new("/dev").join(entry.file_name()));
            }
        }
        Ok(devices)
    }
}

/// Sends a signal to a process that is known by its id alone; one that has ended meanwhile is fine.
fn end(pid: i32, signal: Signal) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => drop(pidfd_send_signal(process, signal)),
        Err(_) => drop(kill_process(pid, signal)),
    }
}

/// Processes in a cgroup and all below it.
pub(crate) fn pids_below(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> =
        text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect();
    for child in child_folders(cgroup) {
        found.extend(pids_below(&child));
    }
    found
}

fn remove_cgroup(cgroup: &Path) -> Result<()> {
    for child in child_folders(cgroup) {
        remove_cgroup(&child)?;
    }
    let deadline = Instant::now() + END_DEADLINE;
    while let Err(error) = fs::remove_dir(cgroup) {
        if error.kind() == std::io::ErrorKind::NotFound {
            break;
        }
        // The kernel frees a cgroup a moment after its last process has ended.
        if error.kind() != std::io::ErrorKind::ResourceBusy || Instant::now() > deadline {
            return Err(error).with_context(|| format!("cannot remove cgroup `{}`", cgroup.display()));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn child_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Undoes the mount table's octal escapes.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::copy_program;

    /// The cgroup2 root, wherever this machine has it.
    fn cgroup_root() -> PathBuf {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
        PathBuf::from(line.split(' ').nth(4).unwrap())
    }

    #[test]
    fn processes_mounts_and_cgroups_of_an_instance_are_taken_away_and_nothing_else() {
        let folder = tempfile::Builder::new().prefix("turnout-remains-").tempdir_in("/var/tmp").unwrap();
        let cgroup = cgroup_root().join(format!("turnout-remains-{}", std::process::id()));
        fs::create_dir_all(cgroup.join("inner")).unwrap();
        let point = folder.path().join("a mount");
        fs::create_dir(&point).unwrap();
        rustix::mount::mount("remains", &point, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        let mut inside = Command::new("sleep").arg("600").spawn().unwrap();
        let mut outside = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(cgroup.join("inner/cgroup.procs"), inside.id().to_string()).unwrap();

        let remains = Remains { folder: folder.path().to_owned(), cgroup: cgroup.clone() };
        assert_eq!(remains.processes().unwrap(), [inside.id() as i32]);
        assert_eq!(remains.mounts().unwrap(), [point]);
        // The child is this test's own: somebody must take its exit, or it stays in the cgroup as a zombie.
        let reaper = std::thread::spawn(move || inside.wait());
        remains.clear().unwrap();
        remains.clear().unwrap();

        assert!(!reaper.join().unwrap().unwrap().success());
        assert!(remains.mounts().unwrap().is_empty());
        assert!(!cgroup.exists());
        assert!(outside.try_wait().unwrap().is_none(), "a process outside the instance was ended");
        outside.kill().unwrap();
        outside.wait().unwrap();
    }

    #[test]
    fn only_turnouts_programs_that_name_the_folder_belong_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("turnoutd");
        copy_program(Path::new("/bin/sleep"), &program).unwrap();
        let mut inside = Command::new(&program).arg("600").spawn().unwrap();
        let remains = |folder: &Path| Remains { folder: folder.to_owned(), cgroup: "/nonexistent".into() };
        // `spawn` may return a moment before the kernel has set the new program's command line.
        let deadline = Instant::now() + END_DEADLINE;
        while remains(folder.path()).processes().unwrap() != [inside.id() as i32] {
            assert!(Instant::now() < deadline, "{:?}", remains(folder.path()).processes());
            std::thread::sleep(LOOK_EVERY);
        }
        assert!(remains(&folder.path().join("turn")).processes().unwrap().is_empty());
        inside.kill().unwrap();
        inside.wait().unwrap();
    }
}
