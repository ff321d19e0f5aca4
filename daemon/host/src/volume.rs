//! The Btrfs volume of the store: found, made or taken over, with its fixed folders. Opening it cleans up after a
//! killed run. What lies in the folders is left to the store and its snapshots.

use crate::HostError;
use crate::image::{self, Found};
use crate::mounts::{detached_tree, is_btrfs, mounts_at, top_at};
use crate::room::UnderWay;
use crate::store::{Held, StoredName};
use crate::verity;
use btrfsutil::subvolume::{DeleteFlags, Subvolume};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{UnmountFlags, unmount};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a store is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StoreKind {
    /// Btrfs: a subvolume of the host's own, else an image.
    #[default]
    Btrfs,
    /// A folder of whatever file system: no snapshots, and versions that only their permissions protect.
    Folder,
}

/// Where the volume is.
#[derive(Debug, Clone)]
pub struct VolumeConfig {
    /// What it is made of.
    pub kind: StoreKind,
    /// Its folder: a mount point, or a subvolume where the folder above already is Btrfs. A Btrfs that the host's
    /// administrator mounted there is taken as it is.
    pub root: PathBuf,
    /// The image that is mounted there otherwise.
    pub image: PathBuf,
    /// Size of a new image, bytes; without it a quarter of the free space, at most 8 GiB.
    pub image_bytes: Option<u64>,
}

/// A version that was checked, and the mount that it was checked through.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) tree: OwnedFd,
    pub(crate) held: Held,
    pub(crate) at: Instant,
}

/// The opened volume: the Linux implementation of [`crate::store::Store`].
#[derive(Debug)]
pub struct Volume {
    root: PathBuf,
    kind: StoreKind,
    /// The image that is mounted there, where it is a mount of ours.
    image: Option<PathBuf>,
    /// The image's superblock was restored from a copy.
    was_torn: bool,
    staged: AtomicU64,
    /// What imports have still to write.
    under_way: Mutex<UnderWay>,
    /// The kernel can be made to hold its files to their content (fs-verity).
    verity: bool,
    /// Mounts through which versions were checked, each for the next worker of its version.
    checked: Mutex<BTreeMap<StoredName, Checked>>,
    /// Held while something is mounted, or looked for in mount tables before it is deleted.
    references: Mutex<()>,
    /// A scrub that was begun here is under way.
    pub(crate) scrubbing: AtomicBool,
    /// Held while the evidence changes and is snapshotted.
    pub(crate) evidence: Mutex<()>,
}

impl Volume {
    /// Whether the image could be mounted only after its superblock was restored from a copy.
    pub fn was_torn(&self) -> bool {
        self.was_torn
    }

    /// Opens the volume, making or mounting it where needed. What a killed import left is removed. Repeating it is
    /// no error; one process may have it open at a time.
    ///
    /// # Errors
    /// [`HostError::Unsupported`] with the remedy where the host cannot have one, or the kernel's own.
    pub fn open(config: &VolumeConfig) -> Result<Self, HostError> {
        let above = config.root.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(above).map_err(HostError::os("mkdir", above.display()))?;
        // The kernel's tables name mount points and images by their real paths.
        let root = real_path(&config.root)?;
        let image = real_path(&config.image)?;
        let mounted = match config.kind {
            StoreKind::Btrfs => prepare(&root, &image, config.image_bytes)?,
            StoreKind::Folder => prepare_folder(&root, &image).map(|()| None)?,
        };
        let mut volume = Self {
            root,
            kind: config.kind,
            image: mounted.map(|_| image),
            was_torn: mounted == Some(Found::Torn),
            staged: AtomicU64::new(0),
            under_way: Mutex::default(),
            verity: false,
            checked: Mutex::default(),
            references: Mutex::new(()),
            scrubbing: AtomicBool::new(false),
            evidence: Mutex::new(()),
        };
        // A store that the kernel has made read-only still serves what is in it.
        if !volume.is_read_only()? {
            volume.make_folders()?;
            volume.remove_leftovers()?;
            volume.verity = verity::try_in(&volume.root.join("incoming")).is_ok();
        }
        Ok(volume)
    }

    /// The files of a stored version as a detached, read-only mount: for a worker's cell.
    ///
    /// # Errors
    /// [`HostError::Missing`], or the kernel's own.
    pub fn detached_tree(&self, name: &StoredName) -> Result<OwnedFd, HostError> {
        detached_tree(&self.version(name)?.join("files"))
    }

    /// The mount through which a version was checked last, once.
    ///
    /// # Errors
    /// [`HostError::Missing`] when it was not checked since its last start.
    pub fn checked_tree(&self, name: &StoredName) -> Result<OwnedFd, HostError> {
        let missing = || HostError::Missing { kind: "checked version", name: name.to_string() };
        self.checked_versions().remove(name).map(|checked| checked.tree).ok_or_else(missing)
    }

    pub(crate) fn keep_checked(&self, name: &StoredName, checked: Checked) {
        self.checked_versions().insert(name.clone(), checked);
    }

    pub(crate) fn checked_versions(&self) -> MutexGuard<'_, BTreeMap<StoredName, Checked>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the kernel can be made to hold files of the store to their content.
    pub fn verity(&self) -> bool {
        self.verity
    }

    /// The folder of all versions.
    pub fn versions_folder(&self) -> PathBuf {
        self.root.join("versions")
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn kind(&self) -> StoreKind {
        self.kind
    }

    pub(crate) fn image(&self) -> Option<&Path> {
        self.image.as_deref()
    }

    /// The right to mount something of the store, or to delete what is not mounted.
    pub(crate) fn references_lock(&self) -> MutexGuard<'_, ()> {
        self.references.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn audit_folder(&self) -> PathBuf {
        self.root.join("audit")
    }

    pub(crate) fn evidence_folder(&self) -> PathBuf {
        self.root.join("evidence")
    }

    /// A name in `incoming/` that no other import has.
    pub(crate) fn incoming_folder(&self, name: &StoredName) -> PathBuf {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        self.root.join(format!("incoming/{name}.{number}"))
    }

    /// The folder of a version that is there.
    pub(crate) fn version(&self, name: &StoredName) -> Result<PathBuf, HostError> {
        let folder = self.versions_folder().join(name.to_string());
        match fs::symlink_metadata(&folder) {
            Ok(_) => Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(HostError::Missing { kind: "version", name: name.to_string() })
            }
            Err(error) => Err(HostError::os("stat", folder.display())(error)),
        }
    }

    /// Refuses to begin what a store that takes no writes cannot end.
    pub(crate) fn check_writable(&self) -> Result<(), HostError> {
        if self.is_read_only()? { Err(HostError::ReadOnlyStore) } else { Ok(()) }
    }

    pub(crate) fn is_read_only(&self) -> Result<bool, HostError> {
        let state = statvfs(&self.root).map_err(HostError::os("statvfs", self.root.display()))?;
        Ok(state.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    fn make_folders(&self) -> Result<(), HostError> {
        // The folder above is root's alone. A process without rights reads snapshots through a descriptor.
        for (folder, mode) in [("incoming", 0o700), ("versions", 0o755), ("audit", 0o755)] {
            make_folder(&self.root.join(folder), mode)?;
        }
        if self.kind == StoreKind::Folder {
            return Ok(());
        }
        let evidence = self.evidence_folder();
        if !evidence.exists() {
            btrfs("subvolume create", &evidence, Subvolume::create(evidence.as_path(), None))?;
        }
        set_mode(&evidence, 0o755)?;
        for folder in ["journal", "versions"] {
            make_folder(&evidence.join(folder), 0o755)?;
        }
        Ok(())
    }

    fn remove_leftovers(&self) -> Result<(), HostError> {
        let incoming = self.root.join("incoming");
        let entries = fs::read_dir(&incoming).map_err(HostError::os("readdir", incoming.display()))?;
        for entry in entries {
            let path = entry.map_err(HostError::os("readdir", incoming.display()))?.path();
            match self.kind {
                // Imports make subvolumes; anything else is somebody's own.
                StoreKind::Btrfs if Subvolume::is_subvolume(path.as_path()).is_ok() => {
                    delete_subvolume(&path)?
                }
                StoreKind::Btrfs => {}
                StoreKind::Folder => remove_folder(&path)?,
            }
        }
        Ok(())
    }
}

/// Unmounts the store's image, which frees its loop device. Opens and makes nothing, and is no error where it is not
/// mounted; what is of the host's own Btrfs stays as it is.
///
/// # Errors
/// `EBUSY` while something in it is open or mounted elsewhere.
pub fn unmount_at(config: &VolumeConfig) -> Result<(), HostError> {
    let (root, image) = real_places(config);
    while matches!(mounted_at(&root, &image)?, Mounted::Image | Mounted::Deleted) {
        unmount(&root, UnmountFlags::NOFOLLOW).map_err(HostError::os("umount", root.display()))?;
    }
    Ok(())
}

/// Root and image as the kernel's tables name them; as they are configured, where the folder above is not there.
pub(crate) fn real_places(config: &VolumeConfig) -> (PathBuf, PathBuf) {
    let real = |path: &Path| real_path(path).unwrap_or_else(|_| path.to_owned());
    (real(&config.root), real(&config.image))
}

/// Names the call and the object of a failed Btrfs operation. The library keeps words where the cause is an error
/// number; the C library beneath it leaves that in `errno`.
pub(crate) fn btrfs<Value>(
    call: &'static str,
    path: &Path,
    result: btrfsutil::Result<Value>,
) -> Result<Value, HostError> {
    let cause = io::Error::last_os_error();
    result.map_err(|_| HostError::os(call, path.display())(cause))
}

/// Deletes a subvolume, read-only or not.
pub(crate) fn delete_subvolume(path: &Path) -> Result<(), HostError> {
    let subvolume = btrfs("subvolume open", path, Subvolume::get(path))?;
    btrfs("subvolume delete", path, subvolume.delete(DeleteFlags::empty()))
}

/// Deletes a folder with all that is in it.
pub(crate) fn remove_folder(path: &Path) -> Result<(), HostError> {
    fs::remove_dir_all(path).map_err(HostError::os("rmdir", path.display()))
}

/// Makes a folder where there is none, whatever the umask.
pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), HostError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(HostError::os("mkdir", path.display())(error))
        }
        _ => set_mode(path, mode),
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<(), HostError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(HostError::os("chmod", path.display()))
}

/// Makes `root` a folder on Btrfs. Says how the image was found, where it is a mount of ours.
fn prepare(root: &Path, image: &Path, image_bytes: Option<u64>) -> Result<Option<Found>, HostError> {
    match taken_over(root, image)? {
        Mounted::Image => return Ok(Some(Found::Whole)),
        Mounted::Other => return Ok(None),
        Mounted::Foreign(kind) => {
            return Err(HostError::Unsupported {
                what: format!("another file system ({kind}) is mounted at `{}`", root.display()),
                remedy: "unmount it, or configure another place for the store",
            });
        }
        Mounted::Nothing | Mounted::Deleted => {}
    }
    let above = root.parent().unwrap_or(Path::new("/"));
    let have_image = image.exists();
    if !have_image && root.join("versions").exists() && Subvolume::is_subvolume(root).is_err() {
        return Err(HostError::Unsupported {
            what: format!("`{}` is a store in a plain folder", root.display()),
            remedy: "set `store.kind = \"folder\"` in the configuration, or choose another `state`",
        });
    }
    if !have_image && is_btrfs(above).map_err(HostError::os("statfs", above.display()))? {
        if !root.exists() {
            btrfs("subvolume create", root, Subvolume::create(root, None))?;
        }
        return Ok(None);
    }
    make_folder(root, 0o755)?;
    if !have_image {
        image::create(image, image_bytes)?;
    }
    image::mount_image(image, root).map(Some)
}

/// Makes `root` a plain folder. One that has been Btrfs would hide its versions and its evidence.
fn prepare_folder(root: &Path, image: &Path) -> Result<(), HostError> {
    let subvolume = root.exists() && Subvolume::is_subvolume(root).is_ok();
    if image.exists() || subvolume || !mounts_at(root)?.is_empty() {
        return Err(HostError::Unsupported {
            what: format!("`{}` is a store on Btrfs already", root.display()),
            remedy: "leave `store.kind` out of the configuration, or choose another `state`",
        });
    }
    make_folder(root, 0o755)
}

/// What is mounted at the store's place before anything is done there.
enum Mounted {
    Nothing,
    /// The store's image.
    Image,
    /// The same, though its file was deleted.
    Deleted,
    /// Another Btrfs, which the host's administrator has put there: it is used, and otherwise left alone.
    Other,
    /// Another kind of file system, by its name.
    Foreign(String),
}

fn mounted_at(root: &Path, image: &Path) -> Result<Mounted, HostError> {
    let mut deleted = image.as_os_str().to_owned();
    deleted.push(image::DELETED);
    let Some(top) = top_at(root)? else { return Ok(Mounted::Nothing) };
    if top.kind != "btrfs" {
        return Ok(Mounted::Foreign(top.kind));
    }
    Ok(match image::backing_file(&top.source) {
        Some(file) if Path::new(&file) == image => Mounted::Image,
        Some(file) if Path::new(&file) == Path::new(&deleted) => Mounted::Deleted,
        _ => Mounted::Other,
    })
}

/// What usable is mounted at `root` already. A mount whose image was deleted is taken away.
fn taken_over(root: &Path, image: &Path) -> Result<Mounted, HostError> {
    loop {
        match mounted_at(root, image)? {
            Mounted::Deleted => unmount(root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .map_err(HostError::os("umount", root.display()))?,
            found => return Ok(found),
        }
    }
}

/// The real path of something whose folder exists, though it may not itself.
fn real_path(path: &Path) -> Result<PathBuf, HostError> {
    let above = path.parent().unwrap_or(Path::new("/"));
    let real = fs::canonicalize(above).map_err(HostError::os("realpath", above.display()))?;
    Ok(real.join(path.file_name().unwrap_or_default()))
}
