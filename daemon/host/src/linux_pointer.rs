//! The pointer on Linux: `<runtime>/models/<model>/current` is a mount of the version's folder. A swap slips the new
//! mount beneath the live one and takes the live one away: a reader finds the one or the other, never neither.
//! A swap that was killed after any of its steps is finished when the pointers are opened again.

use crate::HostError;
use crate::mounts::{detach_all, detached_tree, in_private_namespace, mount_table, mounts_at};
use crate::pointer::Pointer;
use crate::store::StoredName;
use crate::volume::{make_folder, set_mode};
use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxFlags, fstatvfs, statx};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_bind, mount_change,
    move_mount, unmount,
};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use turnout_manifest::{ModelName, Sha256};

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

/// Where the pointers are.
#[derive(Debug, Clone)]
pub struct PointerConfig {
    /// Their folder, `<runtime>/models`. A second folder beside it, `<runtime>/models.tuck`, may be used.
    pub dir: PathBuf,
    /// The folder of the versions, of which each is shown whole: its signed manifest and its `files/`.
    pub versions: PathBuf,
    /// How to swap; `None` finds out.
    pub method: Option<Method>,
}

/// The opened pointers.
#[derive(Debug)]
pub struct LinuxPointer {
    dir: PathBuf,
    versions: PathBuf,
    scaffold: PathBuf,
    method: Method,
    swapping: Mutex<()>,
}

/// One step of a swap. After each of them the pointer shows the old version or the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
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

impl Method {
    /// Whether it works here: two swaps are tried in a namespace of their own.
    pub fn works(self) -> bool {
        in_private_namespace(|| self.try_out()).is_ok()
    }

    fn steps(self) -> &'static [Step] {
        match self {
            Self::Beneath => &[Step::SlipBeneath, Step::UncoverNew],
            Self::Tuck => {
                &[Step::RaisePeer, Step::AttachToPeer, Step::IsolatePeer, Step::DropPeer, Step::UncoverNew]
            }
            Self::Stack => &[Step::Cover],
        }
    }

    fn try_out(self) -> Result<(), HostError> {
        mount(c"turnout-probe", c"/run", c"tmpfs", MountFlags::empty(), None)
            .map_err(HostError::os("mount", "/run"))?;
        // A path that nothing is mounted at: the table still lists what the new file system covers.
        let place = Path::new("/run/turnout-probe");
        let model: ModelName = "probe".parse().expect("a legal name");
        let names = [1, 2].map(|byte| StoredName { model: model.clone(), digest: Sha256([byte; 32]) });
        let versions = place.join("versions");
        for name in &names {
            let folder = versions.join(name.to_string()).join("files");
            fs::create_dir_all(&folder).map_err(HostError::os("mkdir", folder.display()))?;
        }
        let config = PointerConfig { dir: place.join("models"), versions, method: Some(self) };
        let pointer = LinuxPointer::open(&config)?;
        for name in names.iter().chain(&names) {
            pointer.point(name)?;
            if pointer.pointed(&model)?.as_ref() != Some(name) {
                return Err(out_of_step(&pointer.point_of(&model)));
            }
        }
        Ok(())
    }
}

/// One swap on its way. Its new mount disappears with it unless a step attached it.
struct Swap {
    model: ModelName,
    point: PathBuf,
    tree: OwnedFd,
}

impl LinuxPointer {
    /// Makes the folder ready, finds the method, and finishes what a killed swap left. Repeating it is no error.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn open(config: &PointerConfig) -> Result<Self, HostError> {
        fs::create_dir_all(&config.dir).map_err(HostError::os("mkdir", config.dir.display()))?;
        set_mode(&config.dir, 0o755)?;
        let dir = fs::canonicalize(&config.dir).map_err(HostError::os("realpath", config.dir.display()))?;
        let versions = fs::canonicalize(&config.versions)
            .map_err(HostError::os("realpath", config.versions.display()))?;
        let method = match config.method {
            Some(method) => method,
            None => [Method::Beneath, Method::Tuck]
                .into_iter()
                .find(|method| method.works())
                .unwrap_or(Method::Stack),
        };
        let pointer =
            Self { scaffold: dir.with_extension("tuck"), dir, versions, method, swapping: Mutex::new(()) };
        pointer.raise_folder()?;
        pointer.clear_scaffold()?;
        for model in pointer.models()? {
            pointer.settle(&model)?;
        }
        Ok(pointer)
    }

    /// How it swaps.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Where readers find the model's live version. They open it once and go on from that descriptor: two opens by
    /// path may see two versions.
    pub fn point_of(&self, model: &ModelName) -> PathBuf {
        self.dir.join(model.as_str()).join("current")
    }

    /// Takes every pointer away, and the mounts that swapping needs.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn dismantle(self) -> Result<(), HostError> {
        [self.dir, self.scaffold].iter().try_for_each(|folder| detach_all(folder))
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        // A thread that died in a swap leaves what a killed process leaves, and that is settled before the next.
        self.swapping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder becomes a mount of its own, which others can follow, and which follows nothing.
    fn raise_folder(&self) -> Result<(), HostError> {
        if self.method == Method::Tuck {
            make_folder(&self.scaffold, 0o700)?;
            if mounts_at(&self.scaffold)?.is_empty() {
                bind(&self.scaffold, &self.scaffold)?;
            }
            propagate(&self.scaffold, MountPropagationFlags::PRIVATE)?;
            make_folder(&self.peer(), 0o700)?;
        }
        if mounts_at(&self.dir)?.is_empty() {
            bind(&self.dir, &self.dir)?;
        }
        if self.follows_parent()? {
            propagate(&self.dir, MountPropagationFlags::PRIVATE)?;
        }
        propagate(&self.dir, MountPropagationFlags::SHARED)
    }

    /// A fresh bind of a shared mount is in the group of what it was bound from.
    fn follows_parent(&self) -> Result<bool, HostError> {
        let table = mount_table()?;
        let own = table.iter().rfind(|mount| mount.point == self.dir);
        let parent = own.and_then(|own| table.iter().find(|mount| mount.id == own.parent));
        Ok(own.is_some_and(|own| {
            own.peer_group.is_some() && own.peer_group == parent.and_then(|p| p.peer_group)
        }))
    }

    fn peer(&self) -> PathBuf {
        self.scaffold.join("peer")
    }

    fn models(&self) -> Result<Vec<ModelName>, HostError> {
        let entries = fs::read_dir(&self.dir).map_err(HostError::os("readdir", self.dir.display()))?;
        let mut models = Vec::new();
        for entry in entries {
            let name = entry.map_err(HostError::os("readdir", self.dir.display()))?.file_name();
            models.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        Ok(models)
    }

    /// Finishes a killed swap: one mount at the point, the one that was to be shown.
    fn settle(&self, model: &ModelName) -> Result<(), HostError> {
        let point = self.point_of(model);
        let left = mounts_at(&point)?.len();
        if left < 2 {
            return Ok(());
        }
        if self.method != Method::Stack {
            return take_off(&point, left - 1);
        }
        let shown = self.pointed(model)?;
        take_off(&point, left)?;
        shown.map_or(Ok(()), |name| self.attach(&name, &point))
    }

    fn attach(&self, name: &StoredName, point: &Path) -> Result<(), HostError> {
        attach_tree(&self.tree(name)?, point, MoveMountFlags::empty())
    }

    /// The version's folder as a detached mount, checked through its descriptor before anybody can see it.
    fn tree(&self, name: &StoredName) -> Result<OwnedFd, HostError> {
        let folder = self.versions.join(name.to_string());
        let tree = detached_tree(&folder).map_err(|error| match error {
            HostError::Os { source, .. } if source.kind() == ErrorKind::NotFound => {
                HostError::Missing { kind: "version", name: name.to_string() }
            }
            error => error,
        })?;
        let flags = fstatvfs(&tree).map_err(HostError::os("fstatvfs", folder.display()))?.f_flag;
        let locked = StatVfsMountFlags::RDONLY
            | StatVfsMountFlags::NOSUID
            | StatVfsMountFlags::NODEV
            | StatVfsMountFlags::NOEXEC;
        statx(&tree, c"files", AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)
            .map_err(HostError::os("statx", folder.display()))?;
        if flags.contains(locked) { Ok(tree) } else { Err(out_of_step(&folder)) }
    }

    fn run(&self, step: Step, swap: &Swap) -> Result<(), HostError> {
        let point = &swap.point;
        match step {
            Step::SlipBeneath => attach_tree(&swap.tree, point, MoveMountFlags::MOVE_MOUNT_BENEATH),
            Step::RaisePeer => bind(&self.dir, &self.peer()),
            Step::AttachToPeer => {
                let there = self.peer().join(swap.model.as_str()).join("current");
                attach_tree(&swap.tree, &there, MoveMountFlags::empty())
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
                _ => attach_tree(&swap.tree, point, MoveMountFlags::empty()),
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

    fn make_point(&self, model: &ModelName) -> Result<(), HostError> {
        let folder = self.dir.join(model.as_str());
        make_folder(&folder, 0o755)?;
        let point = folder.join("current");
        if point.exists() { Ok(()) } else { make_folder(&point, 0o555) }
    }
}

impl Pointer for LinuxPointer {
    fn point(&self, name: &StoredName) -> Result<(), HostError> {
        let _alone = self.alone();
        let tree = self.tree(name)?;
        self.make_point(&name.model)?;
        let point = self.point_of(&name.model);
        if mounts_at(&point)?.is_empty() {
            return attach_tree(&tree, &point, MoveMountFlags::empty());
        }
        if self.method != Method::Stack {
            self.settle(&name.model)?;
        }
        if self.pointed(&name.model)?.as_ref() == Some(name) {
            return Ok(());
        }
        let swap = Swap { model: name.model.clone(), point, tree };
        let swapped = self.method.steps().iter().try_for_each(|step| self.run(*step, &swap));
        if swapped.is_err() {
            // The point still shows the old version; what is beneath it is settled before the next swap.
            self.clear_scaffold()?;
        }
        swapped
    }

    fn pointed(&self, model: &ModelName) -> Result<Option<StoredName>, HostError> {
        let point = self.point_of(model);
        let mounts = mounts_at(&point)?;
        if mounts.is_empty() {
            return Ok(None);
        }
        // The file system answers for the uppermost mount, whatever the order in the table.
        let status = statx(CWD, &point, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
            .map_err(HostError::os("statx", point.display()))?;
        let shown = mounts.iter().find(|mount| mount.id == status.stx_mnt_id);
        let folder = shown.and_then(|mount| mount.root.file_name()).and_then(|name| name.to_str());
        Ok(folder.and_then(StoredName::from_folder).filter(|name| name.model == *model))
    }

    fn unpoint(&self, model: &ModelName) -> Result<(), HostError> {
        let _alone = self.alone();
        let point = self.point_of(model);
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
}

fn attach_tree(tree: &OwnedFd, point: &Path, how: MoveMountFlags) -> Result<(), HostError> {
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

fn propagate(point: &Path, how: MountPropagationFlags) -> Result<(), HostError> {
    mount_change(point, how).map_err(HostError::os("mount", point.display()))
}

fn out_of_step(point: &Path) -> HostError {
    let words = io::Error::other("the mount table is not as the swap left it");
    HostError::os("swap", point.display())(words)
}

#[cfg(test)]
mod tests;
