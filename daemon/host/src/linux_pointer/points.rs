//! A folder of points, each `<folder>/<name>/current`, and how what a point shows is swapped. A swap slips the new mount
//! beneath the live one and takes the live one away: a reader finds the one or the other, never neither. A swap that was killed after any of its steps is finished when the folder is opened again.

use crate::HostError;
use crate::mounts::{Mount, detached_trees, mount_table, mounts_at};
use crate::volume::{make_folder, set_mode};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_bind, mount_change, move_mount, unmount,
};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Most mounts that [`Method::Stack`] leaves at one point: each makes every open a little slower.
pub const STACK_MAX: usize = 64;

/// How a swap is done; what works is found by trying, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The kernel mounts beneath the live mount (6.5 and later).
    Beneath,
    /// A mount that propagates onto an occupied point goes beneath what is there.
    Tuck,
    /// The new mount covers the old one, which stays until the pointers are opened again.
    Stack,
}

/// The opened folder.
#[derive(Debug)]
pub(super) struct Points {
    dir: PathBuf,
    scaffold: PathBuf,
    method: Method,
}

/// One step of a swap. After each of them the pointer shows the old version or the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The new mount goes beneath the live one.
    SlipBeneath,
    /// The folder of the pointers gets a second mount, which it follows.
    RaisePeer,
    /// The new mount goes onto the second mount, and so beneath the live one on the first.
    AttachToPeer,
    /// The second mount and all on it are followed no more. Without this, taking them away would take the new
    /// version away too.
    IsolatePeer,
    /// The second mount goes away.
    DropPeer,
    /// The live mount goes away and shows what is beneath it.
    UncoverNew,
    /// The new mount covers the live one.
    Cover,
}

/// One swap on its way. Its new mounts disappear with it unless a step attached them.
pub(super) struct Swap<'a> {
    pub(super) name: &'a str,
    pub(super) tree: &'a OwnedFd,
}

impl Method {
    pub(super) fn steps(self) -> &'static [Step] {
        match self {
            Self::Beneath => &[Step::SlipBeneath, Step::UncoverNew],
            Self::Tuck => {
                &[Step::RaisePeer, Step::AttachToPeer, Step::IsolatePeer, Step::DropPeer, Step::UncoverNew]
            }
            Self::Stack => &[Step::Cover],
        }
    }
}

impl Points {
    /// Makes the folder ready and finishes what a killed swap left.
    pub(super) fn open(dir: &Path, method: Method) -> Result<Self, HostError> {
        let dir = own_folder(dir)?;
        let points = Self { scaffold: scaffold_beside(&dir), dir, method };
        points.raise_folder()?;
        points.clear_scaffold()?;
        for name in names_in(&points.dir)? {
            points.settle(&name)?;
            if method == Method::Stack {
                points.fold(&name)?;
            }
        }
        Ok(points)
    }

    pub(super) fn method(&self) -> Method {
        self.method
    }

    pub(super) fn point_of(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("current")
    }

    /// The mount that readers of a point meet.
    pub(super) fn shown(&self, name: &str) -> Result<Option<Mount>, HostError> {
        shown_at(&self.point_of(name))
    }

    /// Has a point show this tree. The point is settled.
    pub(super) fn show(&self, name: &str, tree: &OwnedFd) -> Result<(), HostError> {
        self.make_point(name)?;
        let point = self.point_of(name);
        if mounts_at(&point)?.is_empty() {
            return attach_tree(tree, &point, MoveMountFlags::empty());
        }
        let swap = Swap { name, tree };
        let swapped = self.method.steps().iter().try_for_each(|step| self.run(*step, &swap));
        if swapped.is_err() {
            // The point still shows the old version; what is beneath it is settled before the next swap.
            self.clear_scaffold()?;
        }
        swapped
    }

    /// Takes a point away.
    pub(super) fn hide(&self, name: &str) -> Result<(), HostError> {
        let point = self.point_of(name);
        take_off(&point, mounts_at(&point)?.len())?;
        for folder in [point.as_path(), point.parent().unwrap_or(&self.dir)] {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(HostError::os("rmdir", folder.display())(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Finishes a killed swap: one mount at the point, the one that was to be shown. A stack stays as it is.
    pub(super) fn settle(&self, name: &str) -> Result<(), HostError> {
        let point = self.point_of(name);
        match mounts_at(&point)?.len() {
            left @ 2.. if self.method != Method::Stack => take_off(&point, left - 1),
            _ => Ok(()),
        }
    }

    /// Leaves of a stack what it shows, while nobody reads.
    fn fold(&self, name: &str) -> Result<(), HostError> {
        let point = self.point_of(name);
        let left = mounts_at(&point)?.len();
        if left < 2 {
            return Ok(());
        }
        let shown = detached_trees(&point)?;
        take_off(&point, left)?;
        attach_tree(&shown, &point, MoveMountFlags::empty())
    }

    fn raise_folder(&self) -> Result<(), HostError> {
        if self.method == Method::Tuck {
            make_folder(&self.scaffold, 0o700)?;
            if mounts_at(&self.scaffold)?.is_empty() {
                bind(&self.scaffold, &self.scaffold)?;
            }
            propagate(&self.scaffold, MountPropagationFlags::PRIVATE)?;
            make_folder(&self.peer(), 0o700)?;
        }
        share_folder(&self.dir)
    }

    fn peer(&self) -> PathBuf {
        self.scaffold.join("peer")
    }

    /// Does one step of a swap.
    pub(super) fn run(&self, step: Step, swap: &Swap<'_>) -> Result<(), HostError> {
        let point = &self.point_of(swap.name);
        match step {
            Step::SlipBeneath => attach_tree(swap.tree, point, MoveMountFlags::MOVE_MOUNT_BENEATH),
            Step::RaisePeer => bind(&self.dir, &self.peer()),
            Step::AttachToPeer => {
                let there = self.peer().join(swap.name).join("current");
                attach_tree(swap.tree, &there, MoveMountFlags::empty())
            }
            Step::IsolatePeer => self.isolate_peer(),
            Step::DropPeer => self.drop_peer(),
            Step::UncoverNew => match mounts_at(point)?.len() {
                2 => take_off(point, 1),
                _ => Err(out_of_step(point)),
            },
            Step::Cover => match mounts_at(point)?.len() {
                STACK_MAX.. => Err(HostError::Unsupported {
                    what: format!("{STACK_MAX} mounts lie on `{}`", point.display()),
                    remedy: "this kernel can only stack them: restart the daemon, which takes the old ones away",
                }),
                _ => attach_tree(swap.tree, point, MoveMountFlags::empty()),
            },
        }
    }

    /// Takes away what a killed or failed tuck left. Does nothing when that is nothing.
    fn clear_scaffold(&self) -> Result<(), HostError> {
        if mounts_at(&self.peer())?.is_empty() {
            return Ok(());
        }
        self.isolate_peer()?;
        self.drop_peer()
    }

    fn isolate_peer(&self) -> Result<(), HostError> {
        propagate(&self.peer(), MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
    }

    fn drop_peer(&self) -> Result<(), HostError> {
        let peer = self.peer();
        let mut mounts = mount_table()?;
        mounts.retain(|mount| mount.point.starts_with(&peer));
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.point.components().count()));
        mounts.iter().try_for_each(|mount| take_off(&mount.point, 1))
    }

    fn make_point(&self, name: &str) -> Result<(), HostError> {
        let folder = self.dir.join(name);
        make_folder(&folder, 0o755)?;
        let point = folder.join("current");
        if point.exists() { Ok(()) } else { make_folder(&point, 0o555) }
    }
}

/// Where swaps have their mounts, should they need any.
pub(super) fn scaffold_beside(dir: &Path) -> PathBuf {
    dir.with_extension("tuck")
}

/// Makes a folder of pointers, by its one path.
pub(super) fn own_folder(dir: &Path) -> Result<PathBuf, HostError> {
    fs::create_dir_all(dir).map_err(HostError::os("mkdir", dir.display()))?;
    set_mode(dir, 0o755)?;
    fs::canonicalize(dir).map_err(HostError::os("realpath", dir.display()))
}

/// The folder becomes a mount of its own, which others can follow, and which follows nothing.
pub(super) fn share_folder(dir: &Path) -> Result<(), HostError> {
    if mounts_at(dir)?.is_empty() {
        bind(dir, dir)?;
    }
    if follows_parent(dir)? {
        propagate(dir, MountPropagationFlags::PRIVATE)?;
    }
    propagate(dir, MountPropagationFlags::SHARED)
}

/// A fresh bind of a shared mount is in the group of what it was bound from.
fn follows_parent(dir: &Path) -> Result<bool, HostError> {
    let table = mount_table()?;
    let own = table.iter().rfind(|mount| mount.point == dir);
    let parent = own.and_then(|own| table.iter().find(|mount| mount.id == own.parent));
    Ok(own.is_some_and(|own| own.peer_group.is_some() && own.peer_group == parent.and_then(|p| p.peer_group)))
}

/// What lies in a folder, by name.
pub(super) fn names_in(dir: &Path) -> Result<Vec<String>, HostError> {
    let entries = fs::read_dir(dir).map_err(HostError::os("readdir", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(HostError::os("readdir", dir.display()))?.file_name();
        names.extend(name.into_string().ok());
    }
    Ok(names)
}

/// The mount that readers meet at a point.
pub(super) fn shown_at(point: &Path) -> Result<Option<Mount>, HostError> {
    let mounts = mounts_at(point)?;
    if mounts.is_empty() {
        return Ok(None);
    }
    // The file system answers for the uppermost mount, whatever the order in the table.
    let status = statx(CWD, point, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
        .map_err(HostError::os("statx", point.display()))?;
    Ok(mounts.into_iter().find(|mount| mount.id == status.stx_mnt_id))
}

pub(super) fn attach_tree(tree: &OwnedFd, point: &Path, how: MoveMountFlags) -> Result<(), HostError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | how;
    move_mount(tree, c"", CWD, point, flags).map_err(HostError::os("move_mount", point.display()))
}

/// Detached, because readers may be inside: they keep what they have open.
fn take_off(point: &Path, count: usize) -> Result<(), HostError> {
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    (0..count).try_for_each(|_| unmount(point, flags).map_err(HostError::os("umount", point.display())))
}

fn bind(from: &Path, to: &Path) -> Result<(), HostError> {
    mount_bind(from, to).map_err(HostError::os("mount", to.display()))
}

pub(super) fn propagate(point: &Path, how: MountPropagationFlags) -> Result<(), HostError> {
    mount_change(point, how).map_err(HostError::os("mount", point.display()))
}

pub(super) fn out_of_step(point: &Path) -> HostError {
    let words = io::Error::other("the mount table is not as the swap left it");
    HostError::os("swap", point.display())(words)
}
