//! The pointers of sets, each `<folder>/<name>/current`: a small file system with a folder for each model, on which the
//! model's version is mounted. To take such a tree away by unmounting it would take the models from under a reader who has
//! it open. So the new tree is mounted beside the live one, the two folders change places in one rename, and the old one is
//! removed. The kernel allows neither for a folder that something is mounted on, except in a namespace where nothing is;
//! the mounts of all other namespaces then go with their folders, and a removed one stays whole for who has it open
//! (rename(2), rmdir(2): since Linux 3.19).

use super::points::{attach_tree, names_in, own_folder, share_folder, shown_at};
use crate::HostError;
use crate::mounts::{Mount, detach_all, detached_trees, in_private_namespace};
use crate::volume::make_folder;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::mount::{MountFlags, MoveMountFlags, mount};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The opened folder.
#[derive(Debug)]
pub(super) struct SetFolders {
    dir: PathBuf,
}

/// One step of a swap. After each of them the pointer shows the old tree or the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The new tree is mounted beside the live one.
    MountNext,
    /// The two change places.
    Exchange,
    /// What is not shown any more goes away.
    RemoveOld,
}

impl SetFolders {
    /// Makes the folder ready and finishes what a killed swap left.
    pub(super) fn open(dir: &Path) -> Result<Self, HostError> {
        let sets = Self { dir: own_folder(dir)? };
        share_folder(&sets.dir)?;
        for name in sets.names()? {
            sets.settle(&name)?;
        }
        Ok(sets)
    }

    pub(super) fn names(&self) -> Result<Vec<String>, HostError> {
        names_in(&self.dir)
    }

    pub(super) fn point_of(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("current")
    }

    /// The mount that readers meet.
    pub(super) fn shown(&self, name: &str) -> Result<Option<Mount>, HostError> {
        shown_at(&self.point_of(name))
    }

    /// Has a set show a folder for each of these trees, and them in it. The set is settled.
    pub(super) fn show(&self, name: &str, trees: &[(&str, OwnedFd)]) -> Result<(), HostError> {
        let tree = self.assemble(trees)?;
        let steps = [Step::MountNext, Step::Exchange, Step::RemoveOld];
        let swapped = steps.iter().try_for_each(|step| self.run(*step, (name, &tree)));
        if swapped.is_err() {
            self.settle(name)?;
        }
        swapped
    }

    /// Does one step of a swap.
    pub(super) fn run(&self, step: Step, (name, tree): (&str, &OwnedFd)) -> Result<(), HostError> {
        let (point, next) = (self.point_of(name), self.next(name));
        match step {
            Step::MountNext => {
                make_folder(&self.dir.join(name), 0o755)?;
                make_folder(&next, 0o555)?;
                attach_tree(tree, &next, MoveMountFlags::empty())
            }
            Step::Exchange => self.apart(|| {
                let how = if point.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
                renameat_with(CWD, &next, CWD, &point, how).map_err(HostError::os("rename", next.display()))
            }),
            Step::RemoveOld => self.settle(name),
        }
    }

    /// Finishes a killed swap: what lies beside the pointer goes away.
    pub(super) fn settle(&self, name: &str) -> Result<(), HostError> {
        let next = self.next(name);
        if next.exists() { self.apart(|| remove(&next)) } else { Ok(()) }
    }

    /// Takes a set away.
    pub(super) fn hide(&self, name: &str) -> Result<(), HostError> {
        self.settle(name)?;
        let point = self.point_of(name);
        if point.exists() {
            self.apart(|| remove(&point))?;
        }
        remove(&self.dir.join(name))
    }

    /// A detached tree with a folder for each of these trees, which are mounted there. It is made where nobody sees it.
    pub(super) fn assemble(&self, trees: &[(&str, OwnedFd)]) -> Result<OwnedFd, HostError> {
        let place = &self.dir;
        in_private_namespace(|| {
            mount(c"turnout-set", place, c"tmpfs", MountFlags::empty(), Some(c"mode=0755"))
                .map_err(HostError::os("mount", place.display()))?;
            for (name, tree) in trees {
                let folder = place.join(name);
                make_folder(&folder, 0o555)?;
                attach_tree(tree, &folder, MoveMountFlags::empty())?;
            }
            detached_trees(place)
        })
    }

    fn next(&self, name: &str) -> PathBuf {
        self.dir.join(name).join("next")
    }

    /// Does something where nothing is mounted on the folders of the sets.
    fn apart(&self, work: impl FnOnce() -> Result<(), HostError> + Send) -> Result<(), HostError> {
        in_private_namespace(|| {
            detach_all(&self.dir)?;
            work()
        })
    }
}

/// Removes an empty folder, should it be there.
fn remove(folder: &Path) -> Result<(), HostError> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(HostError::os("rmdir", folder.display())(error))
        }
        _ => Ok(()),
    }
}
