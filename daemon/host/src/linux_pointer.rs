//! The pointers on Linux: `<runtime>/models/<model>/current` is a mount of the version's folder, and
//! `<runtime>/sets/<set>/current` a tree of such mounts. How each is swapped is in `points` and `set_folders`.

mod points;
mod set_folders;

pub use points::{Method, STACK_MAX};

use crate::HostError;
use crate::mounts::{detach_all, detached_tree, in_private_namespace, mount_table};
use crate::pointer::{Pointer, Shown};
use crate::store::StoredName;
use points::{Points, out_of_step, scaffold_beside};
use rustix::fs::{AtFlags, StatVfsMountFlags, StatxFlags, fstatvfs, statx};
use rustix::mount::{MountFlags, mount};
use set_folders::SetFolders;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use turnout_manifest::{ModelName, SetName, Sha256};

/// Where the pointers are.
#[derive(Debug, Clone)]
pub struct PointerConfig {
    /// The folder of the models' pointers, `<runtime>/models`; those of the sets are in `sets` beside it. A third folder
    /// beside them, `<runtime>/models.tuck`, may be used.
    pub dir: PathBuf,
    /// The folder of the versions, of which each is shown whole: its signed manifest and its `files/`.
    pub versions: PathBuf,
    /// How to swap; `None` finds out.
    pub method: Option<Method>,
}

/// The opened pointers.
#[derive(Debug)]
pub struct LinuxPointer {
    versions: PathBuf,
    models: Points,
    sets: SetFolders,
    swapping: Mutex<()>,
}

impl Method {
    /// Whether it works here: two swaps are tried in a namespace of their own.
    pub fn works(self) -> bool {
        in_private_namespace(|| self.try_out()).is_ok()
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

/// Takes every pointer away, and the mounts that swapping needs, by whichever method; `dir` is that of
/// [`PointerConfig`]. Opens and makes nothing, and says what would not go.
#[must_use]
pub fn dismantle(dir: &Path) -> Vec<HostError> {
    let models = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let folders = [scaffold_beside(&models), models, sets_beside(dir)];
    folders.iter().filter_map(|folder| detach_all(folder).err()).collect()
}

fn sets_beside(dir: &Path) -> PathBuf {
    dir.with_file_name("sets")
}

impl LinuxPointer {
    /// Makes the folders ready, finds the method, and finishes what a killed swap left. Repeating it is no error.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn open(config: &PointerConfig) -> Result<Self, HostError> {
        let versions = fs::canonicalize(&config.versions)
            .map_err(HostError::os("realpath", config.versions.display()))?;
        let method = match config.method {
            Some(method) => method,
            None => [Method::Beneath, Method::Tuck]
                .into_iter()
                .find(|method| method.works())
                .unwrap_or(Method::Stack),
        };
        let models = Points::open(&config.dir, method)?;
        let sets = SetFolders::open(&sets_beside(&config.dir))?;
        Ok(Self { versions, models, sets, swapping: Mutex::new(()) })
    }

    /// How it swaps.
    pub fn method(&self) -> Method {
        self.models.method()
    }

    /// Where readers find the model's live version. They open it once and go on from that descriptor: two opens by
    /// path may see two versions.
    pub fn point_of(&self, model: &ModelName) -> PathBuf {
        self.models.point_of(model.as_str())
    }

    /// Where readers find the models of a set, each in the folder of its name; opened once, as a model's.
    pub fn point_of_set(&self, set: &SetName) -> PathBuf {
        self.sets.point_of(set.as_str())
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        // A thread that died in a swap leaves what a killed process leaves, and that is settled before the next.
        self.swapping.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Shows these versions in a set, which somebody who holds the lock has worked out.
    fn show_set(&self, set: &str, versions: &BTreeMap<ModelName, StoredName>) -> Result<(), HostError> {
        self.sets.settle(set)?;
        let shown = self.shown_in(set)?;
        if versions.is_empty() {
            return self.sets.hide(set);
        }
        if shown == *versions {
            return Ok(());
        }
        let trees = versions.iter().map(|(model, name)| Ok((model.as_str(), self.tree(name)?)));
        let trees: Vec<(&str, OwnedFd)> = trees.collect::<Result<_, HostError>>()?;
        self.sets.show(set, &trees)
    }

    /// What a set shows. The table may list what lies beneath too, and has one entry for each mount in it.
    fn shown_in(&self, set: &str) -> Result<BTreeMap<ModelName, StoredName>, HostError> {
        let Some(top) = self.sets.shown(set)? else { return Ok(BTreeMap::new()) };
        let point = self.sets.point_of(set);
        let below = mount_table()?
            .into_iter()
            .filter(|mount| mount.parent == top.id && mount.point.parent() == Some(point.as_path()));
        let versions = below.filter_map(|mount| {
            let model = mount.point.file_name()?.to_str()?;
            let name = StoredName::from_folder(mount.root.file_name()?.to_str()?)?;
            (name.model.as_str() == model).then(|| (name.model.clone(), name))
        });
        Ok(versions.collect())
    }

    /// Has each set that shows a model show it as its own pointer does now, the others as they are.
    fn follow_in_sets(&self, model: &ModelName, now: Option<&StoredName>) -> Result<(), HostError> {
        for set in self.sets.names()? {
            self.sets.settle(&set)?;
            let mut versions = self.shown_in(&set)?;
            if versions.remove(model).is_some() {
                versions.extend(now.map(|name| (model.clone(), name.clone())));
                self.show_set(&set, &versions)?;
            }
        }
        Ok(())
    }

    fn pointed_unlocked(&self, model: &ModelName) -> Result<Option<StoredName>, HostError> {
        let shown = self.models.shown(model.as_str())?;
        let folder = shown.as_ref().and_then(|mount| mount.root.file_name()).and_then(|name| name.to_str());
        Ok(folder.and_then(StoredName::from_folder).filter(|name| name.model == *model))
    }
}

impl Pointer for LinuxPointer {
    fn point(&self, name: &StoredName) -> Result<(), HostError> {
        let _alone = self.alone();
        let tree = self.tree(name)?;
        self.models.settle(name.model.as_str())?;
        if self.pointed_unlocked(&name.model)?.as_ref() != Some(name) {
            self.models.show(name.model.as_str(), &tree)?;
        }
        self.follow_in_sets(&name.model, Some(name))
    }

    fn pointed(&self, model: &ModelName) -> Result<Option<StoredName>, HostError> {
        self.pointed_unlocked(model)
    }

    fn unpoint(&self, model: &ModelName) -> Result<(), HostError> {
        let _alone = self.alone();
        self.models.hide(model.as_str())?;
        self.follow_in_sets(model, None)
    }

    fn point_set(&self, set: &SetName, shown: &[Shown]) -> Result<(), HostError> {
        let _alone = self.alone();
        let version = |shown: &Shown| match shown {
            Shown::Version(name) => Ok((name.model.clone(), name.clone())),
            Shown::AsPointed(model) => match self.pointed_unlocked(model)? {
                Some(name) => Ok((model.clone(), name)),
                None => Err(HostError::Missing { kind: "pointer of model", name: model.to_string() }),
            },
        };
        let versions = shown.iter().map(version).collect::<Result<_, HostError>>()?;
        self.show_set(set.as_str(), &versions)
    }

    fn pointed_set(&self, set: &SetName) -> Result<Vec<StoredName>, HostError> {
        Ok(self.shown_in(set.as_str())?.into_values().collect())
    }

    fn unpoint_set(&self, set: &SetName) -> Result<(), HostError> {
        let _alone = self.alone();
        self.sets.hide(set.as_str())
    }
}

#[cfg(test)]
mod tests;
