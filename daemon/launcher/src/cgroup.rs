//! The instance's delegated cgroup and the cells below it: `launcher` for the launcher itself, because a cgroup with
//! controllers below it may hold no process, and `cell-<generation>` for each cell; those of a tenant lie below the
//! tenant's own, `tenant-<name>`.

use crate::wait::wait;
use rustix::event::{PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use turnout_launcher_wire::{Class, Profile, Tenant, TenantName};

/// How long killed processes may take to go.
const EMPTY_DEADLINE: Duration = Duration::from_secs(5);
/// How long a cgroup whose last process has just gone may refuse to be removed before it is asked again.
const REMOVE_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
/// Magic number of the cgroup2 file system.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// Share of a CPU against the others' 100, where a guaranteed cell meets the host's own processes on it.
const WEIGHT_GUARANTEED: &str = "1000";
const LAUNCHER: &str = "launcher";
const CELL: &str = "cell-";
const TENANT: &str = "tenant-";
/// Over which CPU time is limited, microseconds: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
const NO_LIMIT: &str = "max";

/// A failed operation on a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The directory is not part of a cgroup2 file system.
    #[error("`{0}` is not on a cgroup2 file system")]
    NotCgroup2(PathBuf),
    /// Another launcher holds this cgroup.
    #[error("another launcher owns `{0}`")]
    Owned(PathBuf),
    /// A file or directory of the hierarchy refused.
    #[error("cgroup `{path}`")]
    Os {
        /// Which.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
}

/// Which controllers the cells have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Controllers {
    /// `memory.max` and its kin.
    pub memory: bool,
    /// `pids.max`.
    pub pids: bool,
    /// `cpuset.cpus`.
    pub cpuset: bool,
    /// `cpu.weight` and `cpu.max`.
    pub cpu: bool,
}

/// The instance's cgroup, owned by this process as long as the value lives.
#[derive(Debug)]
pub struct Hierarchy {
    path: PathBuf,
    controllers: Controllers,
    home: Option<PathBuf>,
    _owned: OwnedFd,
}

/// One cell's cgroup.
#[derive(Debug)]
pub struct CellGroup {
    path: PathBuf,
    directory: OwnedFd,
}

impl Hierarchy {
    /// Takes the cgroup, made when missing: moves this process into its `launcher` sub-cgroup, enables the controllers,
    /// and ends what an earlier launcher left, whose workers nobody can speak to any more.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn take(path: &Path) -> Result<Self, CgroupError> {
        fs::create_dir_all(path).map_err(os(path))?;
        let kind = rustix::fs::statfs(path).map_err(os(path))?.f_type;
        if kind != CGROUP2_MAGIC {
            return Err(CgroupError::NotCgroup2(path.to_owned()));
        }
        let owned = open_directory(path)?;
        flock(&owned, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => CgroupError::Owned(path.to_owned()),
            errno => os(path)(errno),
        })?;
        let home = own_cgroup(path);
        let launcher = path.join(LAUNCHER);
        fs::create_dir_all(&launcher).map_err(os(&launcher))?;
        write(&launcher.join("cgroup.procs"), "0")?;
        let controllers = enable_controllers(path);
        let hierarchy = Self { path: path.to_owned(), controllers, home, _owned: owned };
        hierarchy.end_leftovers()?;
        Ok(hierarchy)
    }

    /// Which controllers its cells have.
    pub fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// Makes a cell's cgroup with its limits, below its tenant's where it has one.
    ///
    /// # Errors
    /// [`CgroupError`]; the cgroup then does not exist.
    pub fn create_cell(
        &self,
        generation: u32,
        profile: Profile,
        tenant: Option<TenantName>,
    ) -> Result<CellGroup, CgroupError> {
        let above = tenant.map_or_else(|| self.path.clone(), |tenant| self.tenant(tenant));
        let path = above.join(format!("{CELL}{generation}"));
        fs::create_dir(&path).map_err(os(&path))?;
        self.limit(&path, profile).and_then(|()| CellGroup::open(path.clone())).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })
    }

    /// Makes a tenant's cgroup, or changes its limits. Lowering one ends nothing that runs, but for want of memory.
    ///
    /// # Errors
    /// [`CgroupError`]; a cgroup that was not there then does not exist.
    pub fn set_tenant(&self, tenant: &Tenant) -> Result<(), CgroupError> {
        let path = self.tenant(tenant.name);
        let made = match fs::create_dir(&path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(os(&path)(error)),
        };
        let enabled = enable_controllers(&path);
        let limited = if enabled == self.controllers {
            self.limit_tenant(&path, tenant)
        } else {
            Err(os(&path)(io::ErrorKind::Unsupported))
        };
        limited.inspect_err(|_| {
            if made {
                let _ = fs::remove_dir(&path);
            }
        })
    }

    /// Removes tenants' cgroups in which there is no cell, but those of the names to keep.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove_tenants(&self, kept: impl Fn(&str) -> bool) -> Result<(), CgroupError> {
        for path in named(&self.path, TENANT)? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let is_kept = name.strip_prefix(TENANT).is_some_and(&kept);
            if !is_kept && named(&path, CELL)?.is_empty() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    fn tenant(&self, tenant: TenantName) -> PathBuf {
        self.path.join(format!("{TENANT}{}", tenant.as_str()))
    }

    fn limit_tenant(&self, path: &Path, tenant: &Tenant) -> Result<(), CgroupError> {
        if self.controllers.memory {
            write(&path.join("memory.max"), &limit(tenant.memory_bytes))?;
        }
        if self.controllers.pids {
            write(&path.join("pids.max"), &limit(tenant.pids_max.into()))?;
        }
        if self.controllers.cpu {
            write(&path.join("cpu.max"), &cpu_max(tenant.cpu_thousandths))?;
        }
        Ok(())
    }

    /// Gives the cgroup back as far as the kernel lets: what stays is an empty directory.
    pub fn give_back(&self) {
        let Some(home) = &self.home else { return };
        for controller in ["-memory", "-pids", "-cpuset", "-cpu"] {
            let _ = write(&self.path.join("cgroup.subtree_control"), controller);
        }
        let _ = write(&home.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(self.path.join(LAUNCHER));
        let _ = fs::remove_dir(&self.path);
    }

    fn limit(&self, path: &Path, profile: Profile) -> Result<(), CgroupError> {
        if self.controllers.memory {
            write(&path.join("memory.max"), &profile.memory_bytes.to_string())?;
            if profile.class == Class::Guaranteed {
                write(&path.join("memory.min"), &profile.memory_bytes.to_string())?;
            }
            write(&path.join("memory.oom.group"), "1")?;
            let swap = path.join("memory.swap.max");
            // A kernel without swap support has no such file.
            if swap.exists() {
                write(&swap, "0")?;
            }
        }
        if self.controllers.pids {
            write(&path.join("pids.max"), &profile.pids_max.to_string())?;
        }
        if self.controllers.cpuset && profile.cpus != 0 {
            write(&path.join("cpuset.cpus"), &cpu_list(profile.cpus))?;
        }
        if self.controllers.cpu && profile.class == Class::Guaranteed {
            write(&path.join("cpu.weight"), WEIGHT_GUARANTEED)?;
        }
        if self.controllers.cpu && profile.cpu_thousandths != 0 {
            write(&path.join("cpu.max"), &cpu_max(profile.cpu_thousandths))?;
        }
        Ok(())
    }

    fn end_leftovers(&self) -> Result<(), CgroupError> {
        end_cells(&self.path)?;
        for tenant in named(&self.path, TENANT)? {
            end_cells(&tenant)?;
            remove(&tenant)?;
        }
        Ok(())
    }
}

impl CellGroup {
    fn open(path: PathBuf) -> Result<Self, CgroupError> {
        let directory = open_directory(&path)?;
        Ok(Self { path, directory })
    }

    /// Kills every process in it and waits until they are gone; a zombie that awaits its parent is gone.
    ///
    /// # Errors
    /// [`CgroupError`], `TimedOut` within it when they do not go.
    pub fn kill(&self) -> Result<(), CgroupError> {
        // Absent before 5.14, which also lacks what the cells need.
        write(&self.path.join("cgroup.kill"), "1")?;
        let events = self.path.join("cgroup.events");
        let watched = open(&events, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(os(&events))?;
        let deadline = Instant::now() + EMPTY_DEADLINE;
        while fs::read_to_string(&events).map_err(os(&events))?.contains("populated 1") {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(os(&self.path)(io::ErrorKind::TimedOut));
            }
            wait(&watched, PollFlags::PRI, left).map_err(os(&events))?;
            drain(&watched).map_err(os(&events))?;
        }
        Ok(())
    }

    /// Whether it gets CPU time only where no cgroup beside it wants any. Its weight is the kernel's default afterwards.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn set_idle(&self, is_idle: bool) -> Result<(), CgroupError> {
        write(&self.path.join("cpu.idle"), if is_idle { "1" } else { "0" })
    }

    /// Removes it. It must be empty.
    ///
    /// # Errors
    /// [`CgroupError`], `ResourceBusy` within it when a process lives in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove(&self.path)
    }
}

impl AsFd for CellGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Ends what runs in the cells below a cgroup, and removes them.
fn end_cells(above: &Path) -> Result<(), CgroupError> {
    for cell in named(above, CELL)? {
        let group = CellGroup::open(cell)?;
        group.kill()?;
        group.remove()?;
    }
    Ok(())
}

/// What lies below a cgroup and begins so.
fn named(above: &Path, prefix: &str) -> Result<Vec<PathBuf>, CgroupError> {
    let entries =
        fs::read_dir(above).map_err(os(above))?.collect::<Result<Vec<_>, _>>().map_err(os(above))?;
    let found = entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(found.map(fs::DirEntry::path).collect())
}

fn remove(path: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + EMPTY_DEADLINE;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel takes the last dying task off the list a moment after it reports the cgroup empty.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && !populated(path) => {
                if Instant::now() >= deadline {
                    return Err(os(path)(error));
                }
                let _ = poll(&mut [], Some(&REMOVE_PAUSE));
            }
            Err(error) => return Err(os(path)(error)),
        }
    }
}

fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// A limit in the kernel's words, 0 for none.
fn limit(most: u64) -> String {
    if most == 0 { NO_LIMIT.to_owned() } else { most.to_string() }
}

/// Thousandths of a CPU as a share of [`CPU_PERIOD`], 0 for no limit.
fn cpu_max(thousandths: u32) -> String {
    format!("{} {CPU_PERIOD}", limit(u64::from(thousandths) * CPU_PERIOD / 1000))
}

/// Enables what the parent offers and says what the kernel took: a missing controller is reported with each cell.
fn enable_controllers(path: &Path) -> Controllers {
    let control = path.join("cgroup.subtree_control");
    for controller in ["+memory", "+pids", "+cpuset", "+cpu"] {
        let _ = write(&control, controller);
    }
    let enabled = fs::read_to_string(&control).unwrap_or_default();
    let has = |name: &str| enabled.split_ascii_whitespace().any(|enabled| enabled == name);
    Controllers { memory: has("memory"), pids: has("pids"), cpuset: has("cpuset"), cpu: has("cpu") }
}

/// The cgroup this process is in, as a directory of the hierarchy that holds `inside`.
fn own_cgroup(inside: &Path) -> Option<PathBuf> {
    let is_cgroup = |path: &Path| rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == CGROUP2_MAGIC);
    let mount = inside.ancestors().take_while(|path| is_cgroup(path)).last()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(own)).filter(|path| path.is_dir())
}

/// The kernel's list format of a mask: `0,2,3`.
fn cpu_list(mask: u64) -> String {
    let cpus = (0..64).filter(|cpu| mask & (1 << cpu) != 0).map(|cpu: u32| cpu.to_string());
    cpus.collect::<Vec<_>>().join(",")
}

fn open_directory(path: &Path) -> Result<OwnedFd, CgroupError> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(os(path))
}

/// Reading the events file is what rearms its readiness.
fn drain(watched: &OwnedFd) -> Result<(), Errno> {
    let mut bytes = [0; 256];
    rustix::io::pread(watched, &mut bytes, 0).map(drop)
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(os(path))
}

fn os<Source: Into<io::Error>>(path: &Path) -> impl FnOnce(Source) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Os { path, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_becomes_the_kernels_list() {
        for (mask, list) in [(0b1, "0"), (0b1101, "0,2,3"), (1 << 63, "63")] {
            assert_eq!(cpu_list(mask), list);
        }
    }

    #[test]
    fn a_limit_on_cpu_time_becomes_the_kernels_quota() {
        for (thousandths, text) in [(0, "max 100000"), (10, "1000 100000"), (1500, "150000 100000")] {
            assert_eq!(cpu_max(thousandths), text);
        }
    }

    #[test]
    fn a_directory_outside_cgroup2_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(Hierarchy::take(directory.path()), Err(CgroupError::NotCgroup2(_))));
    }
}
