//! The store on a host without Btrfs: a plain folder that takes versions whole or not at all, and says what it lacks.

use crate::place::{Place, close};
use crate::sample::{ENVELOPE, Sample};
use crate::{assert_nothing_is_left, names, refuses_hostile_paths, refuses_wrong_content};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use turnout_host::HostError;
use turnout_host::archive::Archive;
use turnout_host::mounts::in_private_namespace;
use turnout_host::store::{Evidence, ImportOutcome, Store};
use turnout_host::volume::{StoreKind, Volume, VolumeConfig};

fn config(place: &Place) -> VolumeConfig {
    VolumeConfig { kind: StoreKind::Folder, ..place.config() }
}

fn with_folder(check: impl FnOnce(&Place, Volume) + Send) {
    let place = Place::new();
    in_private_namespace(|| {
        check(&place, Volume::open(&config(&place)).unwrap());
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_plain_folder_takes_a_version_whole_or_not_at_all() {
    with_folder(|place, volume| {
        let root = place.path("store");
        let sample = Sample::new(1, &[("model.onnx", 1 << 20), ("data/deep/labels.txt", 10)]);
        assert_eq!(sample.import(&volume).unwrap(), ImportOutcome::Stored);
        assert_eq!(sample.import(&volume).unwrap(), ImportOutcome::AlreadyThere);
        assert_eq!(volume.versions().unwrap(), std::slice::from_ref(&sample.name));
        assert_eq!(volume.envelope(&sample.name).unwrap(), ENVELOPE);
        volume.verify(&sample.name, &sample.files).unwrap();
        let folder = root.join("versions").join(sample.name.to_string());
        for (path, mode) in
            [("files/model.onnx", 0o444), ("files/data/deep", 0o555), ("files", 0o555), ("", 0o555)]
        {
            let metadata = fs::metadata(folder.join(path)).unwrap();
            assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (mode, 0), "{path}");
        }
        refuses_wrong_content(&root, &volume);
        refuses_hostile_paths(place, &root, &volume);
        // A worker gets a mount that cannot be written to, whatever the file system below.
        let tree = volume.detached_tree(&sample.name).unwrap();
        let path = crate::path_of(&tree);
        assert_eq!(fs::read(path.join("data/deep/labels.txt")).unwrap(), sample.stream[1 << 20..]);
        let refused = fs::write(path.join("model.onnx"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        // Root can write to the folder itself; reading the version again shows it.
        fs::write(folder.join("files/model.onnx"), "x").unwrap();
        assert!(matches!(volume.verify(&sample.name, &sample.files), Err(HostError::Content { .. })));
    });
}

#[test]
fn what_a_killed_run_left_in_a_plain_folder_is_removed() {
    with_folder(|place, volume| {
        let sample = Sample::new(1, &[("a", 10)]);
        sample.import(&volume).unwrap();
        drop(volume);
        fs::create_dir_all(place.path("store/incoming/half/files")).unwrap();
        fs::write(place.path("store/incoming/half/files/a"), "x").unwrap();
        let volume = Volume::open(&config(place)).unwrap();
        assert_nothing_is_left(&place.path("store"), &volume, std::slice::from_ref(&sample.name));
        volume.delete_version(&sample.name).unwrap();
        volume.delete_version(&sample.name).unwrap();
        assert_nothing_is_left(&place.path("store"), &volume, &[]);
    });
}

#[test]
fn a_version_in_a_plain_folder_stays_while_it_is_mounted() {
    with_folder(|place, volume| {
        let sample = Sample::new(1, &[("a", 10)]);
        sample.import(&volume).unwrap();
        let (files, at) = (place.path("store/versions").join(sample.name.to_string()), place.path("cell"));
        fs::create_dir(&at).unwrap();
        rustix::mount::mount_bind(&files, &at).unwrap();
        let refused = volume.delete_version(&sample.name);
        assert!(matches!(refused, Err(HostError::InUse { .. })), "{refused:?}");
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH).unwrap();
        volume.delete_version(&sample.name).unwrap();
    });
}

#[test]
fn what_needs_btrfs_is_refused_and_neither_kind_hides_the_other() {
    with_folder(|place, volume| {
        fs::create_dir(place.path("journal")).unwrap();
        let evidence = Evidence { journal: place.path("journal"), documents: vec![], versions: vec![] };
        let refusals = [
            volume.snapshot("00000001-20261122T135501Z", &evidence).err(),
            volume.grow(1 << 30).err(),
            volume.scrub().err(),
            Volume::open(&place.config()).err(),
        ];
        for refused in refusals {
            assert!(matches!(refused, Some(HostError::Unsupported { .. })), "{refused:?}");
        }
        assert_eq!(volume.snapshots().unwrap(), []);
        assert_eq!(volume.store_state().unwrap().kind, "folder");
        drop(volume);
        fs::remove_dir_all(place.path("store")).unwrap();
        let btrfs = Volume::open(&place.config()).unwrap();
        let refused = Volume::open(&config(place));
        assert!(matches!(refused, Err(HostError::Unsupported { .. })), "{refused:?}");
        close(btrfs, &place.config());
        assert!(Volume::open(&config(place)).is_err(), "the image is there");
        assert_eq!(names(&place.path("store")).len(), 0);
    });
}
