//! Snapshots of the volume, read, mounted, sent and deleted. Whether something is mounted is asked of the kernel, in
//! every mount namespace: nothing that a reader or a worker sees is deleted.

use crate::HostError;
use crate::archive::{Archive, Inside, MountPlace, Reference, ScrubFound, StoreState, Unmount};
use crate::beneath::{Folder, Kind, walk};
use crate::image;
use crate::linux_store::ENVELOPE;
use crate::mounts::{
    Mount, all_mount_tables, detached_tree, mount_table, mounts_at, top_at, within_namespace_of,
};
use crate::scrub;
use crate::sending;
use crate::snapshots::checked_name;
use crate::store::{ENVELOPE_MAX, StoredName};
use crate::volume::{StoreKind, Volume, VolumeConfig, delete_subvolume, real_places, remove_folder};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags, openat2, statvfs};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use turnout_manifest::Sha256;
use turnout_manifest::manifest::FileEntry;

/// Longest document at a snapshot's root that is read whole, bytes.
const DOCUMENT_MAX: u64 = 16 << 20;

impl Archive for Volume {
    fn inside(&self, snapshot: &str) -> Result<Inside, HostError> {
        let found = read_inside(&self.snapshot(snapshot)?);
        // Deleted meanwhile: what was read of it is no snapshot, and why the rest could not be read is no matter.
        self.snapshot(snapshot).and(found)
    }

    fn files(&self, snapshot: &str) -> Result<Vec<FileEntry>, HostError> {
        let found = digest_list(&self.snapshot(snapshot)?);
        self.snapshot(snapshot).and(found)
    }

    fn snapshots_tree(&self) -> Result<OwnedFd, HostError> {
        detached_tree(&self.audit_folder())
    }

    fn send(&self, snapshot: &str) -> Result<Box<dyn Read + Send>, HostError> {
        sending::start(&self.snapshot(snapshot)?)
    }

    fn mount_snapshot(&self, snapshot: &str, place: &MountPlace) -> Result<(), HostError> {
        // Held until it is in a mount table, where a deletion looks.
        let _alone = self.references_lock();
        let tree = detached_tree(&self.snapshot(snapshot)?)?;
        within_namespace_of(place.pid, || attach(tree.as_fd(), &place.at))
    }

    fn unmount_snapshot(&self, snapshot: &str, at: &Path, how: Unmount) -> Result<bool, HostError> {
        let wanted = inner_path(self.root())?.join("audit").join(checked_name(snapshot)?);
        // The host's namespace first: where the daemon's own one follows it, taking away the copy here would leave the
        // mount itself. Within a container, process 1 may be out of sight.
        let host_in_sight = fs::read_link("/proc/1/ns/mnt").is_ok();
        let there = host_in_sight && within_namespace_of(1, || take_away(&wanted, at, how))?;
        Ok(take_away(&wanted, at, how)? || there)
    }

    fn references(&self) -> Result<Vec<Reference>, HostError> {
        let (inner, own) = (inner_path(self.root())?, covering_mount(self.root())?);
        let mut found: Vec<Reference> = all_mount_tables()?
            .into_iter()
            .filter(|mount| mount.kind == own.kind && mount.source == own.source)
            .filter_map(|mount| reference(&inner, mount))
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn delete_snapshot(&self, snapshot: &str) -> Result<(), HostError> {
        self.delete_unmounted(&format!("audit/{}", checked_name(snapshot)?))
    }

    fn delete_version(&self, name: &StoredName) -> Result<(), HostError> {
        // A mount that waits for a worker would keep its space.
        self.checked_versions().remove(name);
        self.delete_unmounted(&format!("versions/{name}"))
    }

    fn store_state(&self) -> Result<StoreState, HostError> {
        let root = self.root();
        let room = statvfs(root).map_err(HostError::os("statvfs", root.display()))?;
        let image = self.image();
        Ok(StoreState {
            kind: match (self.kind(), image) {
                (StoreKind::Folder, _) => "folder",
                (StoreKind::Btrfs, Some(_)) => "btrfs-image",
                (StoreKind::Btrfs, None) => "btrfs",
            }
            .to_owned(),
            path: root.to_owned(),
            image: image.map(Path::to_owned),
            total_bytes: room.f_blocks * room.f_frsize,
            free_bytes: room.f_bavail * room.f_frsize,
            reserve_bytes: self.reserve(&room),
            read_only: room.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }

    fn grow(&self, bytes: u64) -> Result<(), HostError> {
        let image = self.image().ok_or_else(|| HostError::Unsupported {
            what: "the store has no image: it is a folder of the host's own file system".to_owned(),
            remedy: "grow the file system that it lies on",
        })?;
        image::grow((image, self.root()), bytes)
    }

    fn scrub(&self) -> Result<ScrubFound, HostError> {
        if self.kind() == StoreKind::Folder {
            return Err(HostError::Unsupported {
                what: "a store in a plain folder has no checksums of its own".to_owned(),
                remedy: "each release reads the version's files and compares them with the signed manifest",
            });
        }
        self.scrubbing.store(true, Ordering::Relaxed);
        let found = scrub::run(self.root());
        self.scrubbing.store(false, Ordering::Relaxed);
        found
    }

    fn stop_scrub(&self) {
        if self.scrubbing.load(Ordering::Relaxed) {
            scrub::stop(self.root());
        }
    }
}

impl Volume {
    /// The folder of a snapshot that is there.
    fn snapshot(&self, name: &str) -> Result<PathBuf, HostError> {
        let path = self.audit_folder().join(checked_name(name)?);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(HostError::Missing { kind: "snapshot", name: name.to_owned() })
            }
            Err(error) => Err(HostError::os("stat", path.display())(error)),
        }
    }

    fn delete_unmounted(&self, what: &str) -> Result<(), HostError> {
        let _alone = self.references_lock();
        let path = self.root().join(what);
        if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let mut places: Vec<String> = Vec::new();
        for reference in self.references()?.into_iter().filter(|reference| reference.of == what) {
            places.push(reference.at.display().to_string());
        }
        if !places.is_empty() {
            return Err(HostError::InUse { what: what.to_owned(), places });
        }
        match self.kind() {
            StoreKind::Btrfs => delete_subvolume(&path),
            // Out of sight first: half a version must not be seen under its name.
            StoreKind::Folder => {
                let going = self.root().join("incoming").join(path.file_name().unwrap_or_default());
                fs::rename(&path, &going).map_err(HostError::os("rename", path.display()))?;
                remove_folder(&going)
            }
        }
    }
}

/// Ends every mount of a whole snapshot that this host sees: those that were granted to somebody, by the word of the
/// kernel alone. The store itself need not be mounted any more. Says what would not go.
pub(crate) fn unmount_snapshots(config: &VolumeConfig) -> Vec<HostError> {
    let end = || -> Result<Vec<HostError>, HostError> {
        Ok(mounted_snapshots(config)?.iter().filter_map(|mount| end_snapshot(mount).err()).collect())
    };
    let host_in_sight = fs::read_link("/proc/1/ns/mnt").is_ok();
    // The host's namespace first, as in `unmount_snapshot`. What stays there is not told again for the copy of it here.
    let there = if host_in_sight { within_namespace_of(1, end) } else { Ok(Vec::new()) };
    match there {
        Ok(left) if left.is_empty() => end().unwrap_or_else(|error| vec![error]),
        Ok(left) => left,
        Err(error) => vec![error],
    }
}

fn end_snapshot(mount: &Mount) -> Result<(), HostError> {
    if take_away(&mount.root, &mount.point, Unmount::AtOnce)? {
        return Ok(());
    }
    let places = vec!["another mount covers it".to_owned()];
    Err(HostError::InUse { what: mount.point.display().to_string(), places })
}

/// The mounts of whole snapshots, the last one first: of the file system that the store lies on, and of its image's.
fn mounted_snapshots(config: &VolumeConfig) -> Result<Vec<Mount>, HostError> {
    let (root, image) = real_places(config);
    let mut stores = vec![(covering_mount(&root)?.source, inner_path(&root)?)];
    stores.extend(image::devices_of(&image).into_iter().map(|device| (device, PathBuf::from("/"))));
    let shows_one = |mount: &Mount| {
        let is_of = |(source, inner): &(PathBuf, PathBuf)| {
            *source == mount.source && mount.root.parent() == Some(inner.join("audit").as_path())
        };
        mount.kind == "btrfs" && stores.iter().any(is_of)
    };
    Ok(mount_table()?.into_iter().rev().filter(shows_one).collect())
}

/// The mount that the store lies on: its own, or the host's.
fn covering_mount(root: &Path) -> Result<Mount, HostError> {
    let mounts = mount_table()?.into_iter().filter(|mount| root.starts_with(&mount.point));
    // Of two on one point, the later line is on top.
    let covering = mounts.max_by_key(|mount| (mount.point.components().count(), mount.id));
    covering.ok_or_else(|| HostError::Missing { kind: "mount", name: root.display().to_string() })
}

/// The store's path within its file system, as mount tables name it.
fn inner_path(root: &Path) -> Result<PathBuf, HostError> {
    let mount = covering_mount(root)?;
    let below = root.strip_prefix(&mount.point).unwrap_or(Path::new(""));
    Ok(mount.root.join(below))
}

/// What lies in a snapshot. An entry that goes while its folder is read is left out.
fn read_inside(path: &Path) -> Result<Inside, HostError> {
    let mut inside = Inside::default();
    for name in names_in(path)? {
        let file = path.join(&name);
        if file.is_file() {
            inside.documents.extend(read_most(&file, DOCUMENT_MAX)?.map(|bytes| (name, bytes)));
        }
    }
    let journal = path.join("journal");
    for name in names_in(&journal)? {
        let segment = journal.join(&name);
        let found = unless_gone(fs::metadata(&segment)).map_err(HostError::os("stat", segment.display()))?;
        // The hashes of pruned records lie in a folder.
        inside.journal.extend(found.filter(Metadata::is_file).map(|found| (name, found.len())));
    }
    let versions = path.join("versions");
    for name in names_in(&versions)? {
        if let Some(stored) = StoredName::from_folder(&name) {
            let envelope = read_most(&versions.join(&name).join(ENVELOPE), ENVELOPE_MAX)?;
            // The version is in the snapshot all the same: who decides what may be deleted must know of it.
            inside.versions.insert(stored, envelope.unwrap_or_default());
        }
    }
    Ok(inside)
}

/// Every file below a folder, read through descriptors that cannot leave it.
pub(crate) fn digest_list(root: &Path) -> Result<Vec<FileEntry>, HostError> {
    let folder = Folder::open(root)?;
    let mut files = Vec::new();
    walk(root, &mut |path, kind| {
        if kind == Kind::File {
            let missing = || HostError::Missing { kind: "file", name: path.to_owned() };
            let mut file = folder.read(path)?.ok_or_else(missing)?;
            let (sha256, size) = Sha256::of_reader(&mut file).map_err(HostError::os("read", path))?;
            files.push(FileEntry { path: path.to_owned(), size, sha256 });
        }
        Ok(())
    })?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn attach(tree: BorrowedFd<'_>, at: &Path) -> Result<(), HostError> {
    let point = mount_point(at)?;
    if !mounts_at(at)?.is_empty() {
        return Err(HostError::InUse {
            what: at.display().to_string(),
            places: vec!["a mount is there already".to_owned()],
        });
    }
    let onto = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", &point, "", onto).map_err(HostError::os("move_mount", at.display()))
}

/// The folder that the caller named, or nothing.
fn mount_point(at: &Path) -> Result<OwnedFd, HostError> {
    let refused = |call, error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => not_real(at),
        Some(Errno::ACCESS) => HostError::Unsupported {
            what: format!("the daemon may not enter a folder above `{}`", at.display()),
            remedy: "choose a place whose folders everybody may enter, below `/mnt` or `/var/tmp` for instance",
        },
        _ => HostError::os(call, at.display())(error),
    };
    // Mount tables name real paths, and so does the journal.
    if fs::canonicalize(at).map_err(|error| refused("realpath", error))? != at {
        return Err(not_real(at));
    }
    open_real(at).map_err(|error| refused("openat2", error.into()))
}

/// Opens a folder whose path has no link in it, at this moment and whoever owns the folders above it.
fn open_real(folder: &Path) -> rustix::io::Result<OwnedFd> {
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(CWD, folder, flags, Mode::empty(), no_links)
}

fn not_real(at: &Path) -> HostError {
    HostError::Unsupported {
        what: format!("`{}` is not a real path", at.display()),
        remedy: "give the path that `realpath` prints",
    }
}

fn take_away(wanted: &Path, at: &Path, how: Unmount) -> Result<bool, HostError> {
    if top_at(at)?.is_none_or(|top| top.kind != "btrfs" || top.root != wanted) {
        return Ok(false);
    }
    let flags = match how {
        Unmount::WhenIdle => UnmountFlags::NOFOLLOW,
        Unmount::AtOnce => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    // A link above it could lead to another mount of that name. The folder itself, held open, would be busy.
    let failed = || HostError::os("umount2", at.display());
    let (Some(above), Some(name)) = (at.parent(), at.file_name()) else { return Ok(false) };
    let above = open_real(above).map_err(failed())?;
    let beneath = PathBuf::from(format!("/proc/thread-self/fd/{}", above.as_raw_fd())).join(name);
    match unmount(&beneath, flags) {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Err(HostError::InUse {
            what: at.display().to_string(),
            places: vec!["something in it is open".to_owned()],
        }),
        Err(error) => Err(failed()(error)),
    }
}

/// What of the store a mount shows: a snapshot or a version, whole or a folder in it.
fn reference(inner: &Path, mount: Mount) -> Option<Reference> {
    let below = mount.root.strip_prefix(inner).ok()?;
    let mut parts = below.components().map(|part| part.as_os_str().to_string_lossy());
    let (folder, name) = (parts.next()?, parts.next()?);
    let ours = folder == "audit" || folder == "versions";
    ours.then(|| Reference { of: format!("{folder}/{name}"), at: mount.point })
}

fn names_in(folder: &Path) -> Result<Vec<String>, HostError> {
    let failed = || HostError::os("readdir", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        names.extend(entry.map_err(failed())?.file_name().into_string());
    }
    Ok(names)
}

/// The beginning of a file, `None` when it is not there.
fn read_most(path: &Path, most: u64) -> Result<Option<Vec<u8>>, HostError> {
    let opened = unless_gone(File::open(path)).map_err(HostError::os("open", path.display()))?;
    let Some(file) = opened else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(HostError::os("read", path.display()))?;
    Ok(Some(bytes))
}

fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}
