//! What an auditor does with snapshots, and what ends their life: read, mount, send, delete; and the care of the store
//! below them. A snapshot or version that is mounted anywhere is never deleted: the kernel itself would not mind.

use crate::HostError;
use crate::store::StoredName;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use turnout_manifest::manifest::FileEntry;

/// The small documents of a snapshot, and the versions in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// Documents at its root by name, as `state.json`.
    pub documents: BTreeMap<String, Vec<u8>>,
    /// Segments of its journal, with their sizes.
    pub journal: BTreeMap<String, u64>,
    /// Versions in it, with their signed manifests.
    pub versions: BTreeMap<StoredName, Vec<u8>>,
}

/// Where somebody wants a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPlace {
    /// An existing folder.
    pub at: PathBuf,
    /// Who asks: the mount must be seen from this process.
    pub pid: i32,
}

/// How hard a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Only when nothing in it is open.
    WhenIdle,
    /// At once; what is open stays readable until it is closed.
    AtOnce,
}

/// Something of the store that the kernel has mounted, in whatever namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// `audit/<snapshot>` or `versions/<model>@<digest>`.
    pub of: String,
    /// Where.
    pub at: PathBuf,
}

/// The store as a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreState {
    /// `btrfs`, `btrfs-image` or `folder`.
    pub kind: String,
    /// Where it is.
    pub path: PathBuf,
    /// The image behind it, if it has one.
    pub image: Option<PathBuf>,
    /// Bytes of the file system.
    pub total_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes that imports leave free.
    pub reserve_bytes: u64,
    /// The kernel takes no writes, for instance after an I/O error.
    pub read_only: bool,
}

/// What a scrub found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubFound {
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that differ from their checksum, or could not be read.
    pub errors: u64,
    /// Of these, mended from a second copy.
    pub corrected: u64,
    /// Of these, lost.
    pub uncorrectable: u64,
}

/// Snapshots after they were made, and the store below them.
pub trait Archive {
    /// The documents and manifests of a snapshot.
    ///
    /// # Errors
    /// [`HostError::Missing`], or the file system's own.
    fn inside(&self, snapshot: &str) -> Result<Inside, HostError>;

    /// Every file of a snapshot with size and digest, sorted by path; each is read whole.
    ///
    /// # Errors
    /// [`HostError::Missing`], [`HostError::Content`] for what is neither file nor folder, or the file system's own.
    fn files(&self, snapshot: &str) -> Result<Vec<FileEntry>, HostError>;

    /// The folder of all snapshots as a detached mount: read-only, and nothing beside them.
    ///
    /// # Errors
    /// The kernel's own.
    fn snapshots_tree(&self) -> Result<OwnedFd, HostError>;

    /// The snapshot as a `btrfs send` stream. Reading fails when sending does; dropping it ends the sender.
    ///
    /// # Errors
    /// [`HostError::Missing`], [`HostError::Unsupported`] without btrfs-progs, or the kernel's own.
    fn send(&self, snapshot: &str) -> Result<Box<dyn Read + Send>, HostError>;

    /// Mounts a snapshot: read-only, without devices, set-uid and programs.
    ///
    /// # Errors
    /// [`HostError::Missing`], [`HostError::InUse`] for a place that has a mount, or the kernel's own.
    fn mount_snapshot(&self, snapshot: &str, place: &MountPlace) -> Result<(), HostError>;

    /// Takes the mount of a snapshot away. False when it is not there.
    ///
    /// # Errors
    /// [`HostError::InUse`] while something in it is open and it has to be idle, or the kernel's own.
    fn unmount_snapshot(&self, snapshot: &str, at: &Path, how: Unmount) -> Result<bool, HostError>;

    /// Everything of the store that is mounted, in every namespace of this machine.
    ///
    /// # Errors
    /// [`HostError::Os`] where `/proc` cannot be read.
    fn references(&self) -> Result<Vec<Reference>, HostError>;

    /// Deletes a snapshot. No error when it is gone.
    ///
    /// # Errors
    /// [`HostError::InUse`] while it is mounted anywhere, or the file system's own.
    fn delete_snapshot(&self, snapshot: &str) -> Result<(), HostError>;

    /// Deletes a stored version. No error when it is gone.
    ///
    /// # Errors
    /// [`HostError::InUse`] while it is mounted anywhere, or the file system's own.
    fn delete_version(&self, name: &StoredName) -> Result<(), HostError>;

    /// The store as a file system.
    ///
    /// # Errors
    /// The file system's own.
    fn store_state(&self) -> Result<StoreState, HostError>;

    /// Makes the store's image this large, and its file system with it. Repeating it finishes what was broken off.
    ///
    /// # Errors
    /// [`HostError::Unsupported`] for a store without an image, a smaller size or want of room, or the kernel's own.
    fn grow(&self, bytes: u64) -> Result<(), HostError>;

    /// Reads every block of the file system and compares it with its checksum.
    ///
    /// # Errors
    /// The kernel's own; `EINPROGRESS` while another scrub runs.
    fn scrub(&self) -> Result<ScrubFound, HostError>;

    /// Breaks off a scrub that was begun here; a process cannot end before its scrub does.
    fn stop_scrub(&self);
}
