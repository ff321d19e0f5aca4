//! What a daemon has left mounted is taken away part by part, without opening any of it.

use crate::archive::{FIRST, kept, place_at};
use crate::place::{Place, devices_of, until};
use crate::{names, with_volume};
use rustix::mount::{UnmountFlags, unmount};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use turnout_host::archive::Archive;
use turnout_host::linux_cells::CellsConfig;
use turnout_host::linux_pointer::{LinuxPointer, PointerConfig};
use turnout_host::mounts::mount_table;
use turnout_host::pointer::Pointer;
use turnout_host::store::{Store, StoredName};
use turnout_host::volume::Volume;
use turnout_host::{HostConfig, HostError, dismantle};

/// An instance of which no launcher and no program ever was.
fn instance(place: &Place) -> HostConfig {
    let nowhere = place.path("nowhere");
    HostConfig {
        volume: place.config(),
        cells: CellsConfig {
            socket: nowhere.join("launcher.sock"),
            launcher: nowhere.join("turnout-launcher"),
            unit: None,
            cgroup: nowhere.join("cgroup"),
            worker: nowhere.join("turnout-worker"),
            onnxruntime: nowhere.join("libonnxruntime.so"),
            uid_base: 0,
            cell_log: None,
        },
        pointers: place.path("models"),
        pins: place.path("bpf"),
    }
}

/// A store with one version, which is pointed at, and a snapshot, which somebody has mounted; and no daemon any more.
fn left_behind(place: &Place, volume: Volume) -> StoredName {
    let (sample, _) = kept(place, &volume, FIRST);
    volume.mount_snapshot(FIRST, &place_at(place.path("mnt"))).unwrap();
    let (dir, versions) = (instance(place).pointers, volume.versions_folder());
    let pointer = LinuxPointer::open(&PointerConfig { dir, versions, method: None }).unwrap();
    pointer.point(&sample.name).unwrap();
    sample.name
}

fn mounted(place: &Place) -> Vec<PathBuf> {
    let points = mount_table().unwrap().into_iter().map(|mount| mount.point);
    points.filter(|point| point.starts_with(place.path(""))).collect()
}

/// What another test starts may hold the store open for a moment.
fn dismantle_once_idle(place: &Place) {
    until("all is taken away", || {
        let left = dismantle(instance(place));
        assert!(left.iter().all(is_busy), "{left:?}");
        left.is_empty()
    });
}

fn is_busy(error: &HostError) -> bool {
    matches!(error, HostError::Os { call: "umount", source, .. }
        if source.kind() == std::io::ErrorKind::ResourceBusy)
}

#[test]
fn what_a_daemon_left_mounted_goes_and_what_it_stored_stays() {
    with_volume(|place, volume| {
        let name = left_behind(place, volume);
        dismantle_once_idle(place);
        assert_eq!(mounted(place), Vec::<PathBuf>::new());
        until("its device is free", || devices_of(&place.config().image) == 0);
        let volume = Volume::open(&place.config()).unwrap();
        assert_eq!(volume.versions().unwrap(), [name]);
        assert_eq!(volume.snapshots().unwrap().len(), 1);
    });
}

#[test]
fn a_store_that_is_held_open_stays_alone() {
    with_volume(|place, volume| {
        left_behind(place, volume);
        let store = place.path("store");
        let held = File::open(store.join("versions")).unwrap();
        let left = dismantle(instance(place));
        assert!(left.len() == 1 && is_busy(&left[0]), "{left:?}");
        assert_eq!(mounted(place), [store]);
        drop(held);
        dismantle_once_idle(place);
        assert_eq!(mounted(place), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_mounted_snapshot_goes_also_after_the_store() {
    with_volume(|place, volume| {
        left_behind(place, volume);
        unmount(place.path("store"), UnmountFlags::DETACH).unwrap();
        dismantle_once_idle(place);
        assert_eq!(mounted(place), Vec::<PathBuf>::new());
    });
}

#[test]
fn where_nothing_was_left_nothing_is_made() {
    let place = Place::new();
    assert!(dismantle(instance(&place)).is_empty());
    assert_eq!(names(&place.path("")), BTreeSet::new());
    // Nor where even the folder is gone.
    fs::remove_dir(place.path("")).unwrap();
    assert!(dismantle(instance(&place)).is_empty());
}
