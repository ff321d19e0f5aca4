//! What is kept on the fake host: the same refusals as on the real one, and no file system below.

use super::FakeHost;
use super::machine::Machine;
use crate::HostError;
use crate::archive::{Archive, Inside, MountPlace, Reference, ScrubFound, StoreState, Unmount};
use crate::store::StoredName;
use std::io::{Cursor, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use turnout_manifest::Sha256;
use turnout_manifest::manifest::FileEntry;

/// Bytes of the fake store at first.
const STORE_BYTES: u64 = 1 << 30;

impl Archive for FakeHost {
    fn inside(&self, snapshot: &str) -> Result<Inside, HostError> {
        self.call(("inside", snapshot.to_owned()), |machine| kept(machine, snapshot).cloned())
    }

    fn files(&self, snapshot: &str) -> Result<Vec<FileEntry>, HostError> {
        self.call(("files", snapshot.to_owned()), |machine| {
            let inside = kept(machine, snapshot)?;
            let documents = inside.documents.iter().map(|(name, bytes)| (name.clone(), bytes));
            let manifest = |name: &StoredName| format!("versions/{name}/manifest.dsse.json");
            let manifests = inside.versions.iter().map(|(name, bytes)| (manifest(name), bytes));
            let entry = |(path, bytes): (String, &Vec<u8>)| FileEntry {
                path,
                size: bytes.len() as u64,
                sha256: Sha256::of(bytes),
            };
            Ok(documents.chain(manifests).map(entry).collect())
        })
    }

    /// Plain values have no folder.
    fn snapshots_tree(&self) -> Result<OwnedFd, HostError> {
        self.call(("snapshots_tree", String::new()), |_| {
            let remedy = "serve snapshots from a real store";
            Err(HostError::Unsupported { what: "no folder of snapshots".to_owned(), remedy })
        })
    }

    fn send(&self, snapshot: &str) -> Result<Box<dyn Read + Send>, HostError> {
        self.call(("send", snapshot.to_owned()), |machine| {
            let inside = kept(machine, snapshot)?;
            let bytes: Vec<u8> = inside.documents.values().flatten().copied().collect();
            Ok(Box::new(Cursor::new(bytes)) as Box<dyn Read + Send>)
        })
    }

    fn mount_snapshot(&self, snapshot: &str, place: &MountPlace) -> Result<(), HostError> {
        self.call(("mount_snapshot", snapshot.to_owned()), |machine| {
            kept(machine, snapshot)?;
            if machine.mounts.contains_key(&place.at) {
                let places = vec!["a mount is there already".to_owned()];
                return Err(HostError::InUse { what: place.at.display().to_string(), places });
            }
            machine.mounts.insert(place.at.clone(), format!("audit/{snapshot}"));
            Ok(())
        })
    }

    fn unmount_snapshot(&self, snapshot: &str, at: &Path, _: Unmount) -> Result<bool, HostError> {
        self.call(("unmount_snapshot", snapshot.to_owned()), |machine| {
            let there = machine.mounts.get(at).is_some_and(|of| *of == format!("audit/{snapshot}"));
            if there {
                machine.mounts.remove(at);
            }
            Ok(there)
        })
    }

    fn references(&self) -> Result<Vec<Reference>, HostError> {
        self.call(("references", String::new()), |machine| {
            let reference =
                |(at, of): (&std::path::PathBuf, &String)| Reference { of: of.clone(), at: at.clone() };
            Ok(machine.mounts.iter().map(reference).collect())
        })
    }

    fn delete_snapshot(&self, snapshot: &str) -> Result<(), HostError> {
        self.call(("delete_snapshot", snapshot.to_owned()), |machine| {
            unmounted(machine, &format!("audit/{snapshot}"))?;
            machine.snapshots.retain(|made| made.name != snapshot);
            machine.kept.remove(snapshot);
            Ok(())
        })
    }

    fn delete_version(&self, name: &StoredName) -> Result<(), HostError> {
        self.call(("delete_version", name.to_string()), |machine| {
            unmounted(machine, &format!("versions/{name}"))?;
            machine.versions.remove(name);
            Ok(())
        })
    }

    fn store_state(&self) -> Result<StoreState, HostError> {
        self.call(("store_state", String::new()), |machine| {
            let total_bytes = machine.store_bytes.unwrap_or(STORE_BYTES);
            Ok(StoreState {
                kind: "btrfs-image".to_owned(),
                path: "/store".into(),
                image: Some("/store.img".into()),
                total_bytes,
                free_bytes: total_bytes / 2,
                reserve_bytes: total_bytes / 10,
                read_only: false,
            })
        })
    }

    fn grow(&self, bytes: u64) -> Result<(), HostError> {
        self.call(("grow", bytes.to_string()), |machine| {
            let present = machine.store_bytes.unwrap_or(STORE_BYTES);
            if bytes < present {
                return Err(HostError::Unsupported {
                    what: format!("the store's image has {present} bytes and cannot be made smaller"),
                    remedy: "give a greater size",
                });
            }
            machine.store_bytes = Some(bytes);
            Ok(())
        })
    }

    fn scrub(&self) -> Result<ScrubFound, HostError> {
        self.call(("scrub", String::new()), |_| Ok(ScrubFound { bytes: 4096, ..ScrubFound::default() }))
    }

    fn stop_scrub(&self) {}
}

fn kept<'a>(machine: &'a Machine, snapshot: &str) -> Result<&'a Inside, HostError> {
    let missing = || HostError::Missing { kind: "snapshot", name: snapshot.to_owned() };
    machine.kept.get(snapshot).ok_or_else(missing)
}

fn unmounted(machine: &Machine, what: &str) -> Result<(), HostError> {
    let at = machine.mounts.iter().filter(|(_, of)| *of == what).map(|(at, _)| at.display().to_string());
    let places: Vec<String> = at.collect();
    if places.is_empty() { Ok(()) } else { Err(HostError::InUse { what: what.to_owned(), places }) }
}
