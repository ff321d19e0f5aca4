//! The mount table of this thread's namespace, read-only detached trees, and throw-away mount namespaces.
//! Which of them is mounted where is decided by the store and the pointer.

use crate::{HostError, sys};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount_change, open_tree, unmount,
};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// `self` would be the main thread's namespace, which need not be this thread's.
const MOUNT_TABLE: &str = "/proc/thread-self/mountinfo";

/// One line of the mount table (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id.
    pub id: u64,
    /// The id of the mount it lies on.
    pub parent: u64,
    /// What part of its file system it shows.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// Mounts of one peer group follow each other.
    pub peer_group: Option<u64>,
    /// `btrfs`, `cgroup2`.
    pub kind: String,
    /// The device, for file systems that have one.
    pub source: PathBuf,
}

/// Every mount this thread can see.
///
/// # Errors
/// [`HostError::Os`] where `/proc` cannot be read.
pub fn mount_table() -> Result<Vec<Mount>, HostError> {
    let table = fs::read(MOUNT_TABLE).map_err(HostError::os("read", MOUNT_TABLE))?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse_line).collect())
}

/// Every mount that a process can see.
///
/// # Errors
/// [`HostError::Os`] where its entry in `/proc` cannot be read.
pub fn mount_table_of(pid: u32) -> Result<Vec<Mount>, HostError> {
    let table = format!("/proc/{pid}/mountinfo");
    let text = fs::read(&table).map_err(HostError::os("read", table))?;
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse_line).collect())
}

/// The mounts that lie on this point, whichever covers which.
///
/// # Errors
/// As [`mount_table`].
pub fn mounts_at(point: &Path) -> Result<Vec<Mount>, HostError> {
    let mut mounts = mount_table()?;
    mounts.retain(|mount| mount.point == point);
    Ok(mounts)
}

/// The uppermost mount on this point, `None` when nothing is mounted there.
///
/// # Errors
/// As [`mount_table`].
pub fn top_at(point: &Path) -> Result<Option<Mount>, HostError> {
    let mounts = mounts_at(point)?;
    let is_top = |mount: &&Mount| !mounts.iter().any(|other| other.parent == mount.id);
    Ok(mounts.iter().find(is_top).cloned())
}

/// The mounts of every namespace that a process of this machine is in, each namespace once.
///
/// # Errors
/// [`HostError::Os`] where `/proc` cannot be read.
pub fn all_mount_tables() -> Result<Vec<Mount>, HostError> {
    let mut mounts = mount_table()?;
    let mut seen: BTreeSet<PathBuf> = fs::read_link("/proc/thread-self/ns/mnt").into_iter().collect();
    for entry in fs::read_dir("/proc").map_err(HostError::os("readdir", "/proc"))? {
        let process = entry.map_err(HostError::os("readdir", "/proc"))?.path();
        // A process may end at any moment, and with it perhaps its namespace.
        let Ok(namespace) = fs::read_link(process.join("ns/mnt")) else { continue };
        if seen.insert(namespace)
            && let Ok(table) = fs::read(process.join("mountinfo"))
        {
            mounts.extend(table.split(|&byte| byte == b'\n').filter_map(parse_line));
        }
    }
    Ok(mounts)
}

/// Runs `work` in the mount namespace of a process: in place where it is this thread's own, on a thread of its own
/// where it is the host's, which is that of process 1.
///
/// # Errors
/// [`HostError::Unsupported`] for any other namespace, the kernel's own, or what `work` returns.
pub fn within_namespace_of<Outcome: Send>(
    pid: i32,
    work: impl FnOnce() -> Result<Outcome, HostError> + Send,
) -> Result<Outcome, HostError> {
    let link = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt"));
    let wanted = link(&pid.to_string()).map_err(HostError::os("readlink", format!("/proc/{pid}/ns/mnt")))?;
    if wanted == link("thread-self").map_err(HostError::os("readlink", "/proc/thread-self/ns/mnt"))? {
        return work();
    }
    // Within a container, the host's process 1 may be out of sight.
    if link("1").ok() != Some(wanted) {
        return Err(HostError::Unsupported {
            what: format!("process {pid} does not see the mounts of this host"),
            remedy: "ask from a shell of the host, not from within a container or a private mount namespace",
        });
    }
    let host = File::open("/proc/1/ns/mnt").map_err(HostError::os("open", "/proc/1/ns/mnt"))?;
    on_thread(move || {
        // A thread that shares its working directory with others cannot change its namespace (setns(2)).
        unshare(CloneFlags::CLONE_FS).map_err(HostError::os("unshare", "working directory"))?;
        setns(&host, CloneFlags::CLONE_NEWNS).map_err(HostError::os("setns", "/proc/1/ns/mnt"))?;
        work()
    })
}

/// Where the cgroup2 tree is mounted.
pub fn cgroup2_root() -> Option<PathBuf> {
    mount_table().ok()?.into_iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.point)
}

/// Takes every mount at a folder away, with what is mounted below (umount2(2)). No error when there is none.
///
/// # Errors
/// The kernel's own.
pub fn detach_all(folder: &Path) -> Result<(), HostError> {
    loop {
        match unmount(folder, UnmountFlags::DETACH) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(HostError::os("umount2", folder.display())(error)),
        }
    }
}

/// A directory as a detached mount that is read-only from its first moment and holds no devices, no set-uid and
/// no programs. It belongs to no namespace until it is attached, and disappears with its descriptor.
///
/// # Errors
/// The kernel's own.
pub fn detached_tree(directory: &Path) -> Result<OwnedFd, HostError> {
    detached(directory, OpenTreeFlags::empty())
}

/// The same with everything that is mounted below the directory, which is then as read-only as it is.
///
/// # Errors
/// The kernel's own.
pub fn detached_trees(directory: &Path) -> Result<OwnedFd, HostError> {
    detached(directory, OpenTreeFlags::AT_RECURSIVE)
}

fn detached(directory: &Path, reach: OpenTreeFlags) -> Result<OwnedFd, HostError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | reach;
    let tree = open_tree(rustix::fs::CWD, directory, flags)
        .map_err(HostError::os("open_tree", directory.display()))?;
    let locked = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // A clone of a shared mount is in its peer group: what is mounted on the one would appear on the other.
    sys::mount_setattr(tree.as_fd(), locked, MountPropagationFlags::PRIVATE)
        .map_err(HostError::os("mount_setattr", directory.display()))?;
    Ok(tree)
}

/// Runs `work` on a thread with a mount namespace of its own, which disappears with its mounts when `work` returns.
///
/// # Errors
/// The kernel's own, or what `work` returns.
pub fn in_private_namespace<Outcome: Send>(
    work: impl FnOnce() -> Result<Outcome, HostError> + Send,
) -> Result<Outcome, HostError> {
    let body = move || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(HostError::os("unshare", "mount namespace"))?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(HostError::os("mount", "/"))?;
        work()
    };
    on_thread(body)
}

fn on_thread<Outcome: Send>(
    work: impl FnOnce() -> Result<Outcome, HostError> + Send,
) -> Result<Outcome, HostError> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let root = unescape(fields.nth(1)?);
    let point = unescape(fields.next()?);
    // Optional fields follow the options and end with a single dash.
    let mut peer_group = None;
    for field in fields.by_ref().skip(1).take_while(|&field| field != b"-") {
        if let Some(group) = field.strip_prefix(b"shared:") {
            peer_group = number(group);
        }
    }
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    Some(Mount { id, parent, root, point, peer_group, kind, source })
}

/// The kernel writes space, tab, newline, `\` and `#` as `\` and three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        if let Some(digits) = octal {
            let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            bytes.push(u8::try_from(value & 0xff).expect("masked to one byte"));
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Whether a path lies on Btrfs.
///
/// # Errors
/// The file system's own.
pub fn is_btrfs(path: &Path) -> io::Result<bool> {
    const BTRFS_SUPER_MAGIC: i64 = 0x9123_683e;
    #[allow(clippy::unnecessary_cast, reason = "the type of `f_type` differs between architectures")]
    Ok(rustix::fs::statfs(path)?.f_type as i64 == BTRFS_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let line =
            br"36 35 98:0 /ver\040sions/a@1 /mnt/a\134b rw,noatime shared:7 master:1 - btrfs /dev/loop3 rw";
        let mount = parse_line(line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.peer_group), (36, 35, Some(7)));
        assert_eq!(mount.root, Path::new("/ver sions/a@1"));
        assert_eq!(mount.point, Path::new(r"/mnt/a\b"));
        assert_eq!((mount.kind.as_str(), mount.source.as_path()), ("btrfs", Path::new("/dev/loop3")));
    }

    #[test]
    fn lines_cut_anywhere_are_skipped() {
        let line = b"36 35 98:0 / /mnt rw - btrfs /dev/loop3 rw";
        for length in 0..line.len() - 13 {
            assert_eq!(parse_line(&line[..length]), None, "{length}");
        }
        assert!(parse_line(line).is_some_and(|mount| mount.peer_group.is_none()));
    }
}
