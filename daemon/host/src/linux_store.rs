//! Versions in the volume: taken in from a stream all or nothing, listed, and read again. Nothing of a version can
//! be seen under its name before all of it is checked, on disk and read-only.

use crate::HostError;
use crate::beneath::{Folder, Kind, walk};
use crate::image::sync_directory;
use crate::room::Room;
use crate::snapshots;
use crate::store::{
    CHECK_HOLDS, ENVELOPE_MAX, Evidence, Held, ImportOutcome, Incoming, SnapshotInfo, Store, StoredName,
};
use crate::verity::{self, Measurer};
use crate::volume::{
    Checked, StoreKind, Volume, btrfs, delete_subvolume, make_folder, remove_folder, set_mode,
};
use btrfsutil::subvolume::{SnapshotFlags, Subvolume};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use turnout_manifest::Sha256;
use turnout_manifest::digest::Hasher;
use turnout_manifest::manifest::FileEntry;

/// The signed manifest's name, beside `files/`.
pub const ENVELOPE: &str = "manifest.dsse.json";
/// Bytes read from the stream at a time.
const BLOCK: usize = 256 << 10;

impl Store for Volume {
    fn import(&self, incoming: &Incoming<'_>, content: &mut dyn Read) -> Result<ImportOutcome, HostError> {
        if self.version(&incoming.name).is_ok() {
            check_stream(incoming.files, content)?;
            return expect_end(content).map(|()| ImportOutcome::AlreadyThere);
        }
        let bytes = incoming.files.iter().map(|file| file.size).fold(0, u64::saturating_add);
        self.check_writable()?;
        let room = self.take_room(bytes)?;
        let target = self.versions_folder().join(incoming.name.to_string());
        Staged::new(self, room, self.incoming_folder(&incoming.name))
            .and_then(|mut staged| {
                staged.fill(incoming, content)?;
                expect_end(content)?;
                staged.publish(&target)
            })
            .map_err(|error| self.explain_full(bytes, error))
    }

    fn versions(&self) -> Result<Vec<StoredName>, HostError> {
        let folder = self.versions_folder();
        let entries = fs::read_dir(&folder).map_err(HostError::os("readdir", folder.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(HostError::os("readdir", folder.display()))?.file_name();
            names.extend(name.to_str().and_then(StoredName::from_folder));
        }
        names.sort();
        Ok(names)
    }

    fn envelope(&self, name: &StoredName) -> Result<Vec<u8>, HostError> {
        let path = self.version(name)?.join(ENVELOPE);
        let failed = || HostError::os("read", path.display());
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(failed())?;
        file.take(ENVELOPE_MAX).read_to_end(&mut bytes).map_err(failed())?;
        Ok(bytes)
    }

    fn verify(&self, name: &StoredName, files: &[FileEntry]) -> Result<(), HostError> {
        read_all(&self.detached_tree(name)?, files)
    }

    fn measure(&self, name: &StoredName, files: &[FileEntry]) -> Result<Option<Sha256>, HostError> {
        measure_all(&self.detached_tree(name)?, files)
    }

    fn check(
        &self,
        name: &StoredName,
        files: &[FileEntry],
        measured: Option<Sha256>,
    ) -> Result<Held, HostError> {
        let tree = self.detached_tree(name)?;
        let held = match measured {
            Some(measured) if measure_all(&tree, files)? == Some(measured) => Held::ByKernel,
            _ => read_all(&tree, files).map(|()| Held::ByReading)?,
        };
        self.keep_checked(name, Checked { tree, held, at: Instant::now() });
        Ok(held)
    }

    fn checked(&self, name: &StoredName) -> Option<Held> {
        self.checked_versions()
            .get(name)
            .filter(|checked| checked.at.elapsed() < CHECK_HOLDS)
            .map(|checked| checked.held)
    }

    fn snapshot(&self, name: &str, evidence: &Evidence) -> Result<SnapshotInfo, HostError> {
        snapshots::take(self, name, evidence)
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, HostError> {
        snapshots::list(self)
    }
}

/// Compares everything below a mount with the manifest, and refuses files too many.
fn read_all(tree: &OwnedFd, files: &[FileEntry]) -> Result<(), HostError> {
    let folder = refuse_surplus(tree, files)?;
    files.iter().try_for_each(|entry| check_file(&folder, entry))
}

/// One digest over what the kernel holds each file to.
fn measure_all(tree: &OwnedFd, files: &[FileEntry]) -> Result<Option<Sha256>, HostError> {
    let folder = refuse_surplus(tree, files)?;
    let mut hasher = Hasher::default();
    for entry in files {
        let file = folder.read(&entry.path)?.ok_or_else(|| absent(&entry.path))?;
        let measured = verity::measure(&file);
        let Some(measured) = measured.map_err(HostError::os("ioctl FS_IOC_MEASURE_VERITY", &entry.path))?
        else {
            return Ok(None);
        };
        // No path holds a NUL, so no two lists are the same bytes.
        hasher.update(entry.path.as_bytes());
        hasher.update(&[0]);
        hasher.update(&measured.0);
    }
    Ok(Some(hasher.finish()))
}

fn refuse_surplus(tree: &OwnedFd, files: &[FileEntry]) -> Result<Folder, HostError> {
    let expected: BTreeSet<&str> = files.iter().map(|entry| entry.path.as_str()).collect();
    // A detached mount has no path of its own; this link leads to it, and to nothing else.
    let root = PathBuf::from(format!("/proc/thread-self/fd/{}", tree.as_raw_fd()));
    walk(&root, &mut |path, kind| match kind {
        Kind::File if !expected.contains(path) => Err(differs(path, "it is not in the manifest".to_owned())),
        _ => Ok(()),
    })?;
    tree.try_clone().map(Folder::from).map_err(HostError::os("dup", "mount of a version"))
}

/// A version on its way in. What is left of it is deleted when it is dropped, published or not.
struct Staged<'a> {
    path: PathBuf,
    kind: StoreKind,
    /// The kernel can be made to hold files to their content.
    verity: bool,
    room: Room<'a>,
}

impl<'a> Staged<'a> {
    fn new(volume: &Volume, room: Room<'a>, path: PathBuf) -> Result<Self, HostError> {
        let kind = volume.kind();
        match kind {
            StoreKind::Btrfs => {
                btrfs("subvolume create", &path, Subvolume::create(path.as_path(), None)).map(drop)?;
            }
            StoreKind::Folder => make_folder(&path, 0o700)?,
        }
        Ok(Self { path, kind, verity: volume.verity(), room })
    }

    fn fill(&mut self, incoming: &Incoming<'_>, content: &mut dyn Read) -> Result<(), HostError> {
        let root = self.path.join("files");
        make_folder(&root, 0o755)?;
        let folder = Folder::open(&root)?;
        for entry in incoming.files {
            self.write_file(&folder, entry, content)?;
        }
        let mut folders = BTreeSet::new();
        walk(&root, &mut |path, kind| {
            if kind == Kind::Folder {
                folders.insert(root.join(path));
            }
            Ok(())
        })?;
        folders.iter().try_for_each(|folder| set_mode(folder, 0o555))?;
        set_mode(&root, 0o555)?;
        self.write_envelope(incoming.envelope)
    }

    fn write_file(
        &mut self,
        folder: &Folder,
        entry: &FileEntry,
        content: &mut dyn Read,
    ) -> Result<(), HostError> {
        let file = folder.create(&entry.path)?;
        let measurer = self.verity.then(Measurer::default);
        let mut measuring = Measuring { file, measurer, room: &mut self.room };
        copy_checked(entry, content, &mut measuring)?;
        let Measuring { file, measurer, .. } = measuring;
        let Some(measurer) = measurer else { return protect(&file, &entry.path) };
        // The kernel holds no file that somebody could still write to.
        drop(file);
        seal(folder, &entry.path, measurer.finish())
    }

    fn write_envelope(&self, envelope: &[u8]) -> Result<(), HostError> {
        if envelope.len() as u64 > ENVELOPE_MAX {
            return Err(differs(ENVELOPE, format!("it is longer than {ENVELOPE_MAX} bytes")));
        }
        let path = self.path.join(ENVELOPE);
        let mut file = File::create_new(&path).map_err(HostError::os("create", path.display()))?;
        file.write_all(envelope).map_err(HostError::os("write", path.display()))?;
        protect(&file, ENVELOPE)?;
        set_mode(&self.path, 0o555)
    }

    /// A read-only subvolume cannot be renamed into another folder, so the version gets its name as a read-only
    /// snapshot: one commit that makes it visible, whole, durable and read-only at once.
    fn publish(&self, target: &Path) -> Result<ImportOutcome, HostError> {
        let folder = File::open(&self.path).map_err(HostError::os("open", self.path.display()))?;
        // The snapshot writes everything out too, but says nothing of a block that could not be written.
        rustix::fs::syncfs(&folder).map_err(HostError::os("syncfs", self.path.display()))?;
        if self.kind == StoreKind::Folder {
            return self.rename(target);
        }
        let staged = btrfs("subvolume open", &self.path, Subvolume::get(self.path.as_path()))?;
        let made = btrfs("snapshot create", target, staged.snapshot(target, SnapshotFlags::READ_ONLY, None));
        match made {
            Ok(_) => Ok(ImportOutcome::Stored),
            Err(HostError::Os { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                Ok(ImportOutcome::AlreadyThere)
            }
            Err(error) => Err(error),
        }
    }
}

impl Staged<'_> {
    /// Without subvolumes, one rename makes the version visible, whole and, once its folder is synced, durable.
    fn rename(&self, target: &Path) -> Result<ImportOutcome, HostError> {
        match renameat_with(CWD, &self.path, CWD, target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                sync_directory(target.parent().unwrap_or(Path::new("/"))).map(|()| ImportOutcome::Stored)
            }
            Err(Errno::EXIST) => Ok(ImportOutcome::AlreadyThere),
            Err(error) => Err(HostError::os("rename", target.display())(error)),
        }
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // What cannot be deleted now is deleted when the volume is opened again.
        let _ = match self.kind {
            StoreKind::Btrfs => delete_subvolume(&self.path),
            StoreKind::Folder => remove_folder(&self.path),
        };
    }
}

/// A file that is counted while it is written, and measured where the kernel will be asked to hold it.
struct Measuring<'a, 'volume> {
    file: File,
    measurer: Option<Measurer>,
    room: &'a mut Room<'volume>,
}

impl Write for Measuring<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.room.written(count);
        if let Some(measurer) = &mut self.measurer {
            measurer.update(&bytes[..count]);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Has the kernel hold a file to what came in.
fn seal(folder: &Folder, path: &str, expected: Sha256) -> Result<(), HostError> {
    let file = folder.read(path)?.ok_or_else(|| absent(path))?;
    // Only who may write to a file may ask for it, and this daemon has no capability that makes up for a mode.
    let writable = file.set_permissions(Permissions::from_mode(0o600));
    writable.map_err(HostError::os("chmod", path))?;
    verity::enable(&file).map_err(HostError::os("ioctl FS_IOC_ENABLE_VERITY", path))?;
    let found = verity::measure(&file).map_err(HostError::os("ioctl FS_IOC_MEASURE_VERITY", path))?;
    if found == Some(expected) {
        return protect(&file, path);
    }
    Err(differs(path, "the kernel measures another content than came in".to_owned()))
}

fn check_stream(files: &[FileEntry], content: &mut dyn Read) -> Result<(), HostError> {
    files.iter().try_for_each(|entry| copy_checked(entry, content, &mut io::sink()))
}

/// What follows after the last file belongs to no file: the stream is not what was signed.
fn expect_end(content: &mut dyn Read) -> Result<(), HostError> {
    let mut next = Vec::new();
    match content.take(1).read_to_end(&mut next) {
        Ok(0) => Ok(()),
        Ok(_) => Err(differs("bundle", "bytes follow after the last file".to_owned())),
        Err(error) => Err(HostError::os("read", "bundle")(error)),
    }
}

/// Moves exactly the declared bytes and compares their digest.
fn copy_checked(entry: &FileEntry, content: &mut dyn Read, into: &mut dyn Write) -> Result<(), HostError> {
    let mut hasher = Hasher::default();
    let mut block = vec![0; BLOCK];
    let mut left = entry.size;
    while left > 0 {
        let most = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        let count = match content.read(&mut block[..most]) {
            Ok(0) => {
                let found = entry.size - left;
                return Err(differs(
                    &entry.path,
                    format!("the stream ended after {found} of {} bytes", entry.size),
                ));
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(HostError::os("read", &entry.path)(error)),
        };
        hasher.update(&block[..count]);
        into.write_all(&block[..count]).map_err(HostError::os("write", &entry.path))?;
        left -= count as u64;
    }
    check_digest(entry, hasher.finish())
}

fn check_file(folder: &Folder, entry: &FileEntry) -> Result<(), HostError> {
    let Some(mut file) = folder.read(&entry.path)? else {
        return Err(absent(&entry.path));
    };
    let length = file.metadata().map_err(HostError::os("stat", &entry.path))?.len();
    if length != entry.size {
        return Err(differs(&entry.path, format!("{} bytes expected, {length} found", entry.size)));
    }
    let (digest, _) = Sha256::of_reader(&mut file).map_err(HostError::os("read", &entry.path))?;
    check_digest(entry, digest)
}

fn check_digest(entry: &FileEntry, found: Sha256) -> Result<(), HostError> {
    if found == entry.sha256 {
        return Ok(());
    }
    Err(differs(&entry.path, format!("{} expected, {found} found", entry.sha256)))
}

fn protect(file: &File, path: &str) -> Result<(), HostError> {
    file.set_permissions(Permissions::from_mode(0o444)).map_err(HostError::os("chmod", path))
}

fn absent(path: &str) -> HostError {
    differs(path, "it is not there".to_owned())
}

fn differs(path: &str, what: String) -> HostError {
    HostError::Content { path: path.to_owned(), what }
}
