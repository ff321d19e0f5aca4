//! What holds the files of a stored version when a worker is given them.

use crate::sample::Sample;
use crate::{path_of, with_volume};
use btrfsutil::subvolume::Subvolume;
use std::fs;
use turnout_host::HostError;
use turnout_host::store::{Held, Store};
use turnout_manifest::Sha256;

/// Set where the kernel is known to have fs-verity.
const VERITY: &str = "TURNOUT_TEST_VERITY";

/// What is changed in the store between import and start is named, by whichever of the two this kernel has.
#[test]
fn a_flipped_byte_is_found_through_the_mount_that_the_worker_gets() {
    with_volume(|place, volume| {
        let sample = Sample::new(1, &[("model.onnx", 300_000), ("data/labels.txt", 10), ("empty", 0)]);
        sample.import(&volume).unwrap();
        let measured = volume.measure(&sample.name, &sample.files).unwrap();
        if std::env::var_os(VERITY).is_some() {
            assert!(volume.verity(), "this kernel has fs-verity on Btrfs, and it is not used");
        }
        assert_eq!(measured.is_some(), volume.verity(), "measured where the kernel can, nowhere else");
        let expected = if volume.verity() { Held::ByKernel } else { Held::ByReading };
        assert!(
            matches!(volume.checked_tree(&sample.name), Err(HostError::Missing { .. })),
            "not checked yet"
        );
        assert_eq!(volume.checked(&sample.name), None);
        assert_eq!(volume.check(&sample.name, &sample.files, measured).unwrap(), expected);
        assert_eq!(volume.checked(&sample.name), Some(expected));
        let tree = volume.checked_tree(&sample.name).unwrap();
        assert_eq!(fs::read(path_of(&tree).join("data/labels.txt")).unwrap(), sample.stream[300_000..]);
        assert!(volume.checked_tree(&sample.name).is_err(), "each check is for one start");
        assert_eq!(volume.checked(&sample.name), None);
        // Another measure than the recorded one proves nothing; the bytes do.
        let other = Some(Sha256([7; 32]));
        assert_eq!(volume.check(&sample.name, &sample.files, other).unwrap(), Held::ByReading);

        let folder = place.path("store/versions").join(sample.name.to_string());
        let subvolume = Subvolume::get(folder.as_path()).unwrap();
        subvolume.set_ro(false).unwrap();
        let model = folder.join("files/model.onnx");
        let written = fs::OpenOptions::new().write(true).open(&model);
        assert_eq!(written.is_err(), volume.verity(), "the kernel lets nobody write to what it holds");
        let mut bytes = fs::read(&model).unwrap();
        bytes[200_000] ^= 1;
        fs::write(folder.join("files/new"), bytes).unwrap();
        fs::rename(folder.join("files/new"), &model).unwrap();
        subvolume.set_ro(true).unwrap();
        for recorded in [measured, None] {
            let found = volume.check(&sample.name, &sample.files, recorded);
            assert!(
                matches!(&found, Err(HostError::Content { path, .. }) if path == "model.onnx"),
                "{found:?}"
            );
        }
        drop(tree);
    });
}
