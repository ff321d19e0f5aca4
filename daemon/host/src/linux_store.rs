//! Versions in the volume: taken in from a stream all or nothing, listed, and read again. Nothing of a version can
//! be seen under its name before all of it is checked, on disk and read-only.

use crate::HostError;
use crate::beneath::{Folder, Kind, walk};
use crate::image::sync_directory;
use crate::snapshots;
use crate::store::{Evidence, ImportOutcome, Incoming, SnapshotInfo, Store, StoredName};
use crate::volume::{StoreKind, Volume, btrfs, delete_subvolume, make_folder, remove_folder, set_mode};
use btrfsutil::subvolume::{SnapshotFlags, Subvolume};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use turnout_manifest::Sha256;
use turnout_manifest::digest::Hasher;
use turnout_manifest::manifest::FileEntry;

/// Longest signed manifest that is kept or read, bytes.
pub const ENVELOPE_MAX: u64 = 8 << 20;
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
        self.check_room(bytes)?;
        let target = self.versions_folder().join(incoming.name.to_string());
        Staged::new(self.incoming_folder(&incoming.name), self.kind())
            .and_then(|staged| {
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
        let root = self.version(name)?.join("files");
        let folder = Folder::open(&root)?;
        let expected: BTreeMap<&str, &FileEntry> =
            files.iter().map(|entry| (entry.path.as_str(), entry)).collect();
        walk(&root, &mut |path, kind| match kind {
            Kind::File if !expected.contains_key(path) => {
                Err(differs(path, "it is not in the manifest".to_owned()))
            }
            _ => Ok(()),
        })?;
        files.iter().try_for_each(|entry| check_file(&folder, entry))
    }

    fn snapshot(&self, name: &str, evidence: &Evidence) -> Result<SnapshotInfo, HostError> {
        snapshots::take(self, name, evidence)
    }

    fn snapshots(&self) -> Result<Vec<SnapshotInfo>, HostError> {
        snapshots::list(self)
    }
}

/// A version on its way in. What is left of it is deleted when it is dropped, published or not.
struct Staged {
    path: PathBuf,
    kind: StoreKind,
}

impl Staged {
    fn new(path: PathBuf, kind: StoreKind) -> Result<Self, HostError> {
        match kind {
            StoreKind::Btrfs => {
                btrfs("subvolume create", &path, Subvolume::create(path.as_path(), None)).map(drop)?;
            }
            StoreKind::Folder => make_folder(&path, 0o700)?,
        }
        Ok(Self { path, kind })
    }

    fn fill(&self, incoming: &Incoming<'_>, content: &mut dyn Read) -> Result<(), HostError> {
        let root = self.path.join("files");
        make_folder(&root, 0o755)?;
        let folder = Folder::open(&root)?;
        for entry in incoming.files {
            let mut file = folder.create(&entry.path)?;
            copy_checked(entry, content, &mut file)?;
            protect(&file, &entry.path)?;
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

impl Staged {
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

impl Drop for Staged {
    fn drop(&mut self) {
        // What cannot be deleted now is deleted when the volume is opened again.
        let _ = match self.kind {
            StoreKind::Btrfs => delete_subvolume(&self.path),
            StoreKind::Folder => remove_folder(&self.path),
        };
    }
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
        return Err(differs(&entry.path, "it is not there".to_owned()));
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

fn differs(path: &str, what: String) -> HostError {
    HostError::Content { path: path.to_owned(), what }
}
