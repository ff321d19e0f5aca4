//! The auditor's copy: the journal's bytes, the state and the live versions in one subvolume, which is brought up to
//! date and then snapshotted read-only in one commit. What the evidence says is left to the journal.

use crate::HostError;
use crate::beneath::{Kind, walk};
use crate::journal_copy::copy_journal;
use crate::linux_store::ENVELOPE;
use crate::store::{Evidence, SnapshotInfo, StoredName};
use crate::volume::{StoreKind, Volume, btrfs, make_folder, set_mode};
use btrfsutil::subvolume::{SnapshotFlags, Subvolume};
use rustix::fs::ioctl_ficlone;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Longest name of a snapshot, bytes.
const NAME_MAX: usize = 64;
/// Permissions of what is copied, whatever the daemon's umask: the folder above is root's alone, and the view of snapshots
/// reads them without any right.
pub(crate) const READABLE: u32 = 0o644;

pub(crate) fn take(volume: &Volume, name: &str, evidence: &Evidence) -> Result<SnapshotInfo, HostError> {
    let path = volume.audit_folder().join(checked_name(name)?);
    if volume.kind() == StoreKind::Folder {
        return Err(HostError::Unsupported {
            what: "a store in a plain folder keeps no snapshots".to_owned(),
            remedy: "put the state on Btrfs, or leave `store.kind` out of the configuration",
        });
    }
    // A thread that died here left the evidence half-way, which the next call mends.
    let _alone = volume.evidence.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if path.exists() {
        return info(&path).map(|(_, made)| made);
    }
    volume.check_writable()?;
    let folder = volume.evidence_folder();
    copy_journal(&evidence.journal, &folder.join("journal"))?;
    for (name, bytes) in &evidence.documents {
        let document = folder.join(checked_document(name)?);
        fs::write(&document, bytes).map_err(HostError::os("write", document.display()))?;
        set_mode(&document, READABLE)?;
    }
    share_versions(volume, &evidence.versions)?;
    let subvolume = btrfs("subvolume open", &folder, Subvolume::get(folder.as_path()))?;
    btrfs("snapshot create", &path, subvolume.snapshot(path.as_path(), SnapshotFlags::READ_ONLY, None))?;
    info(&path).map(|(_, made)| made)
}

pub(crate) fn list(volume: &Volume) -> Result<Vec<SnapshotInfo>, HostError> {
    let folder = volume.audit_folder();
    let mut snapshots = still_there(&folder, names_in(&folder)?)?;
    // Ids are given in order; the clock of a file system ticks too slowly for two snapshots in a row.
    snapshots.sort_by_key(|(id, _)| *id);
    Ok(snapshots.into_iter().map(|(_, snapshot)| snapshot).collect())
}

/// Of these snapshots those that were not deleted since the folder was read.
fn still_there(folder: &Path, names: Vec<OsString>) -> Result<Vec<(u64, SnapshotInfo)>, HostError> {
    let mut found = Vec::new();
    for path in names.iter().map(|name| folder.join(name)) {
        match info(&path) {
            Ok(snapshot) => found.push(snapshot),
            // The library does not always say why: what is gone is asked of the file system.
            Err(_) if is_gone(&path) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The snapshot, and its subvolume's id.
fn info(path: &Path) -> Result<(u64, SnapshotInfo), HostError> {
    let subvolume = btrfs("subvolume open", path, Subvolume::get(path))?;
    let info = btrfs("subvolume info", path, subvolume.info())?;
    let snapshot = SnapshotInfo {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        path: path.to_owned(),
        created_ms: u64::try_from(info.otime.timestamp_millis()).unwrap_or(0),
        uuid: info.uuid.to_string(),
    };
    Ok((info.id, snapshot))
}

pub(crate) fn checked_name(name: &str) -> Result<&str, HostError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(legal) {
        return Ok(name);
    }
    let name: String = name.chars().take(NAME_MAX).collect();
    Err(HostError::os("snapshot create", name.escape_default())(io::Error::from(ErrorKind::InvalidInput)))
}

/// A document lies at the root, beside `journal` and `versions`.
fn checked_document(name: &'static str) -> Result<&'static str, HostError> {
    let legal = |byte: u8| byte.is_ascii_lowercase() || b".-".contains(&byte);
    let ends = [".json", ".ndjson", ".toml"].iter().any(|end| name.ends_with(end));
    if ends && name.bytes().all(legal) {
        return Ok(name);
    }
    Err(HostError::os("write", name)(io::Error::from(ErrorKind::InvalidInput)))
}

/// Brings `versions/` of the evidence to exactly these. A version never changes, so one that is there is whole.
fn share_versions(volume: &Volume, live: &[StoredName]) -> Result<(), HostError> {
    let folder = volume.evidence_folder().join("versions");
    let wanted: BTreeSet<OsString> = live.iter().map(|name| name.to_string().into()).collect();
    for name in names_in(&folder)?.into_iter().filter(|name| !wanted.contains(name)) {
        let gone = folder.join(name);
        fs::remove_dir_all(&gone).map_err(HostError::os("rmdir", gone.display()))?;
    }
    for name in live {
        let shared = folder.join(name.to_string());
        if !shared.exists() {
            // Under another name until it is whole; the next call takes a half one away.
            let unfinished = folder.join(format!(".{name}"));
            share_version(&volume.version(name)?, &unfinished)?;
            fs::rename(&unfinished, &shared).map_err(HostError::os("rename", shared.display()))?;
        }
    }
    Ok(())
}

fn share_version(version: &Path, into: &Path) -> Result<(), HostError> {
    make_folder(into, 0o755)?;
    make_folder(&into.join("files"), 0o755)?;
    share_file(&version.join(ENVELOPE), &into.join(ENVELOPE))?;
    let (files, copies) = (version.join("files"), into.join("files"));
    walk(&files, &mut |path, kind| match kind {
        Kind::Folder => make_folder(&copies.join(path), 0o755),
        Kind::File => share_file(&files.join(path), &copies.join(path)),
    })
}

/// Both files have the same blocks afterwards; nothing is copied.
fn share_file(from: &Path, to: &Path) -> Result<(), HostError> {
    let original = File::open(from).map_err(HostError::os("open", from.display()))?;
    let copy = File::create(to).map_err(HostError::os("create", to.display()))?;
    ioctl_ficlone(&copy, &original).map_err(HostError::os("ioctl FICLONE", to.display()))?;
    set_mode(to, 0o444)
}

pub(crate) fn names_in(folder: &Path) -> Result<Vec<OsString>, HostError> {
    let entries = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
    });
    entries.map_err(HostError::os("readdir", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_goes_while_all_are_listed_is_left_out_and_anything_else_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(still_there(folder.path(), vec!["gone".into()]).unwrap(), []);
        fs::create_dir(folder.path().join("plain")).unwrap();
        let refused = still_there(folder.path(), vec!["gone".into(), "plain".into()]);
        assert!(
            matches!(&refused, Err(HostError::Os { object, .. }) if object.ends_with("plain")),
            "{refused:?}"
        );
    }
}
