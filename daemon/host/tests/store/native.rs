//! The store on a Btrfs of the host's own, which the daemon has not mounted.

use crate::IMAGE_BYTES;
use crate::place::Place;
use crate::sample::Sample;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use turnout_host::HostError;
use turnout_host::archive::Archive;
use turnout_host::mounts::in_private_namespace;
use turnout_host::volume::{Volume, unmount_at};

#[test]
fn a_btrfs_that_somebody_mounted_at_the_place_is_used_and_left_there() {
    let place = Place::new();
    in_private_namespace(|| {
        let (root, disk) = (place.path("store"), place.path("disk"));
        fs::create_dir(&root).unwrap();
        File::create(&disk).unwrap().set_len(IMAGE_BYTES).unwrap();
        let run = |program: &str, arguments: &[&Path]| {
            let done = Command::new(program).args(arguments).output().unwrap();
            assert!(done.status.success(), "{done:?}");
        };
        run("mkfs.btrfs", &[Path::new("--quiet"), &disk]);
        run("mount", &[Path::new("-o"), Path::new("loop"), &disk, &root]);
        let sample = Sample::new(1, &[("a", 1000)]);
        // Alone; beside an image that an earlier configuration left; on a disk whose file was deleted.
        let steps: [(&str, &dyn Fn()); 3] = [
            ("alone", &|| {}),
            ("beside an image", &|| fs::write(place.path("store.img"), "old").unwrap()),
            ("on a deleted file", &|| fs::remove_file(&disk).unwrap()),
        ];
        for (case, step) in steps {
            step();
            let volume = Volume::open(&place.config()).unwrap();
            sample.import(&volume).unwrap();
            let state = volume.store_state().unwrap();
            assert_eq!((state.kind.as_str(), state.image), ("btrfs", None), "{case}");
            let refused = volume.grow(2 * IMAGE_BYTES);
            assert!(
                matches!(refused, Err(HostError::Unsupported { remedy, .. }) if remedy.contains("file system")),
                "{case}"
            );
            drop(volume);
            unmount_at(&place.config()).unwrap();
            assert!(root.join("versions").join(sample.name.to_string()).exists(), "{case}: it is mounted no more");
        }
        run("umount", &[Path::new("--lazy"), &root]);
        Ok(())
    })
    .unwrap();
}
