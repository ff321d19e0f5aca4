//! The store on a real Btrfs volume of its own, in a mount namespace of its own: what a killed test leaves is a file in
//! the temporary folder, no mount and no loop device.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod archive;
mod dismantle;
mod folder;
mod held;
mod native;
mod place;
mod room;
mod sample;

use btrfsutil::subvolume::Subvolume;
use place::{Place, close, devices_of, unmount};
use sample::{ENVELOPE, Sample};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use turnout_host::HostError;
use turnout_host::linux_pointer::{LinuxPointer, PointerConfig};
use turnout_host::mounts::in_private_namespace;
use turnout_host::pointer::Pointer;
use turnout_host::store::{Evidence, ImportOutcome, Store, StoredName};
use turnout_host::volume::{StoreKind, Volume, VolumeConfig};

const IMAGE_BYTES: u64 = 300 << 20;

/// Runs on a thread with a mount namespace of its own, which takes the volume's mount and loop device with it.
fn with_volume(check: impl FnOnce(&Place, Volume) + Send) {
    let place = Place::new();
    in_private_namespace(|| {
        let volume = Volume::open(&place.config()).unwrap();
        check(&place, volume);
        Ok(())
    })
    .unwrap();
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Paths below a folder with their content.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn path_of(tree: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/thread-self/fd/{}", tree.as_raw_fd()))
}

#[test]
fn a_version_is_imported_whole_and_read_only_or_not_at_all() {
    with_volume(|place, volume| {
        let root = place.path("store");
        imports_and_lists(&root, &volume);
        refuses_wrong_content(&root, &volume);
        refuses_hostile_paths(place, &root, &volume);
        finds_what_was_changed_by_force(&root, &volume);
    });
}

fn imports_and_lists(root: &Path, volume: &Volume) {
    let sample = Sample::new(1, &[("model.onnx", 1 << 20), ("data/deep/labels.txt", 10), ("empty", 0)]);
    let start = Instant::now();
    assert_eq!(sample.import(volume).unwrap(), ImportOutcome::Stored);
    println!("import of 1 MiB: {:?}", start.elapsed());
    assert_eq!(sample.import(volume).unwrap(), ImportOutcome::AlreadyThere);
    assert!(
        sample.import_from(volume, &mut &sample.stream[1..]).is_err(),
        "what is sent again is checked too"
    );
    assert_eq!(volume.versions().unwrap(), std::slice::from_ref(&sample.name));
    assert_eq!(volume.envelope(&sample.name).unwrap(), ENVELOPE);
    volume.verify(&sample.name, &sample.files).unwrap();

    let folder = root.join("versions").join(sample.name.to_string());
    assert!(Subvolume::get(folder.as_path()).unwrap().is_ro().unwrap());
    let modes = [("files/model.onnx", 0o444), ("files/data/deep", 0o555), ("files", 0o555), ("", 0o555)];
    for (path, mode) in modes {
        let metadata = fs::metadata(folder.join(path)).unwrap();
        assert_eq!((metadata.permissions().mode() & 0o7777, metadata.uid()), (mode, 0), "{path}");
    }
    let refused = File::create(folder.join("files/new")).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);

    let tree = volume.detached_tree(&sample.name).unwrap();
    let bytes = fs::read(path_of(&tree).join("data/deep/labels.txt")).unwrap();
    assert_eq!(bytes, sample.stream[1 << 20..]);
    let unknown = Sample::new(9, &[]).name;
    assert!(matches!(volume.envelope(&unknown), Err(HostError::Missing { .. })));
    assert!(matches!(volume.detached_tree(&unknown), Err(HostError::Missing { .. })));
}

fn assert_nothing_is_left(root: &Path, volume: &Volume, before: &[StoredName]) {
    assert_eq!(volume.versions().unwrap(), before);
    assert_eq!(names(&root.join("incoming")), BTreeSet::new());
}

fn refuses_wrong_content(root: &Path, volume: &Volume) {
    let before = volume.versions().unwrap();
    let sample = Sample::new(2, &[("a", 5000), ("b", 700_000)]);
    let mut tampered = sample.stream.clone();
    tampered[600_000] ^= 1;
    let long = [&sample.stream[..], &[0]].concat();
    for (case, mut stream) in [
        ("tampered", tampered.as_slice()),
        ("short", &sample.stream[..600_000]),
        ("nothing", &[]),
        ("long", &long),
    ] {
        let refused = sample.import_from(volume, &mut stream);
        assert!(matches!(refused, Err(HostError::Content { .. })), "{case}: {refused:?}");
        assert_nothing_is_left(root, volume, &before);
    }
    let mut broken = sample.stream[..100_000].chain(Broken);
    assert!(matches!(sample.import_from(volume, &mut broken), Err(HostError::Os { .. })));
    assert_nothing_is_left(root, volume, &before);
}

/// A stream that fails.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

fn refuses_hostile_paths(place: &Place, root: &Path, volume: &Volume) {
    let before = volume.versions().unwrap();
    let outside = names(&place.path(""));
    let long = "x".repeat(300);
    for path in ["../escape", "/escape", "a/../../escape", "a//b", "./a", "", "..", "a\0b", &long] {
        let refused = Sample::new(3, &[(path, 4)]).import(volume);
        assert!(refused.is_err(), "{path:?}");
        assert_nothing_is_left(root, volume, &before);
    }
    for twice in [[("a", 4), ("a", 4)], [("a", 4), ("a/b", 4)], [("a/b", 4), ("a", 4)]] {
        assert!(Sample::new(3, &twice).import(volume).is_err(), "{twice:?}");
        assert_nothing_is_left(root, volume, &before);
    }
    assert_eq!(names(&place.path("")), outside);
}

/// Root can lift the read-only flag; reading the version again shows it.
fn finds_what_was_changed_by_force(root: &Path, volume: &Volume) {
    let sample = Sample::new(4, &[("a", 100), ("b", 100)]);
    sample.import(volume).unwrap();
    let folder = root.join("versions").join(sample.name.to_string());
    let files = folder.join("files");
    let forced = |change: &dyn Fn()| {
        let subvolume = Subvolume::get(folder.as_path()).unwrap();
        subvolume.set_ro(false).unwrap();
        change();
        subvolume.set_ro(true).unwrap();
    };
    let changes: [(&str, &dyn Fn()); 4] = [
        ("a file too many", &|| fs::write(files.join("c"), "x").unwrap()),
        ("a file too few", &|| fs::rename(files.join("c"), files.join("a")).unwrap()),
        ("another length", &|| fs::write(files.join("a"), [7; 99]).unwrap()),
        ("another content", &|| fs::write(files.join("a"), [7; 100]).unwrap()),
    ];
    volume.verify(&sample.name, &sample.files).unwrap();
    for (case, change) in changes {
        forced(change);
        let found = volume.verify(&sample.name, &sample.files);
        assert!(matches!(found, Err(HostError::Content { .. })), "{case}: {found:?}");
    }
}

#[test]
fn a_full_disk_refuses_the_import_and_keeps_the_rest() {
    with_volume(|place, volume| {
        let root = place.path("store");
        let sample = Sample::new(1, &[("a", 1000)]);
        sample.import(&volume).unwrap();
        let before = volume.versions().unwrap();

        let mut large = Sample::new(2, &[("a", 8)]);
        large.files[0].size = IMAGE_BYTES;
        assert!(
            matches!(large.import(&volume), Err(HostError::NoSpace { .. })),
            "refused before a byte is read"
        );
        large.files[0].size = u64::MAX;
        assert!(matches!(large.import(&volume), Err(HostError::NoSpace { .. })));

        let full = Sample::new(3, &[("a", 16 << 20)]);
        let hog = root.join("hog");
        let mut stream = Hog { path: hog.clone(), filled: false }.chain(full.stream.as_slice());
        let refused = full.import_from(&volume, &mut stream);
        assert!(matches!(refused, Err(HostError::NoSpace { .. })), "{refused:?}");
        assert_nothing_is_left(&root, &volume, &before);
        volume.verify(&sample.name, &sample.files).unwrap();
        fs::remove_file(hog).unwrap();
        // Deleted space comes back with a later commit.
        let deadline = Instant::now() + Duration::from_secs(30);
        while full.import(&volume).is_err() {
            assert!(Instant::now() < deadline, "the room does not come back");
            btrfsutil::sync::sync(root.as_path()).unwrap();
        }
        assert_eq!(full.import(&volume).unwrap(), ImportOutcome::AlreadyThere);
    });
}

/// Fills the volume while it is asked for the first byte.
struct Hog {
    path: PathBuf,
    filled: bool,
}

impl Read for Hog {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        if !self.filled {
            self.filled = true;
            let mut file = File::create(&self.path)?;
            for block in [vec![1; 1 << 20], vec![1; 4096]] {
                while file.write_all(&block).and_then(|()| file.sync_data()).is_ok() {}
            }
        }
        Ok(0)
    }
}

#[test]
fn a_snapshot_holds_the_evidence_of_its_moment_and_never_changes() {
    // That of the daemon's unit.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    with_volume(|place, volume| {
        let journal = place.path("journal");
        fs::create_dir(&journal).unwrap();
        let (old, new) = (Sample::new(1, &[("a/b", 2 << 20)]), Sample::new(2, &[("c", 10)]));
        old.import(&volume).unwrap();
        new.import(&volume).unwrap();
        let evidence = |state: &str, live: &[&Sample]| Evidence {
            journal: journal.clone(),
            documents: vec![("state.json", state.as_bytes().to_vec())],
            versions: live.iter().map(|sample| sample.name.clone()).collect(),
        };

        fs::write(journal.join("0000.seg"), "one,").unwrap();
        fs::write(journal.join("lock"), "not evidence").unwrap();
        let start = Instant::now();
        let first = volume.snapshot("00000001-20261122T135501Z", &evidence("first", &[&old])).unwrap();
        println!("snapshot: {:?}", start.elapsed());
        let seen = content(&first.path);
        let version = format!("versions/{}", old.name);
        let expected = [
            ("journal/0000.seg".to_owned(), b"one,".to_vec()),
            ("state.json".to_owned(), b"first".to_vec()),
            (format!("{version}/files/a/b"), old.stream.clone()),
            (format!("{version}/manifest.dsse.json"), ENVELOPE.to_vec()),
        ];
        assert_eq!(seen, expected.map(|(path, bytes)| (PathBuf::from(path), bytes)));
        for (path, _) in &seen {
            let mode = first.path.join(path).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o444, 0o444, "{}", path.display());
        }

        for (segments, expected) in [
            (&[("0000.seg", "one,two,"), ("0001.seg", "three,")][..], "one,two,three,"),
            (&[("0001.seg", "thr")], "one,two,thr"),
            (&[("0001.seg", "four,five,six,")], "one,two,four,five,six,"),
        ] {
            segments.iter().for_each(|(name, bytes)| fs::write(journal.join(name), bytes).unwrap());
            let name = format!("case-{}", expected.len());
            let next = volume.snapshot(&name, &evidence("next", &[&new, &old])).unwrap();
            let copied: Vec<u8> =
                content(&next.path.join("journal")).into_iter().flat_map(|file| file.1).collect();
            assert_eq!(String::from_utf8(copied).unwrap(), expected);
        }
        fs::remove_file(journal.join("0000.seg")).unwrap();
        let last = volume.snapshot("last", &evidence("last", &[&new])).unwrap();
        assert_eq!(names(&last.path.join("versions")), BTreeSet::from([new.name.to_string()]));
        assert_eq!(names(&last.path.join("journal")), BTreeSet::from(["0001.seg".to_owned()]));

        assert_eq!(content(&first.path), seen, "what came later is not in it");
        let refused = fs::write(first.path.join("state.json"), "x").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(volume.snapshot(&first.name, &evidence("other", &[])).unwrap(), first);
        let all: Vec<_> = volume.snapshots().unwrap().into_iter().map(|snapshot| snapshot.name).collect();
        assert_eq!(all, [first.name.as_str(), "case-14", "case-11", "case-22", "last"]);
        assert_eq!(first.uuid.len(), 36);
        for bad in ["", "../x", "a/b", ".", &"x".repeat(65)] {
            assert!(volume.snapshot(bad, &evidence("", &[])).is_err(), "{bad:?}");
        }
    });
}

/// Set in the environment of the process that is killed while it imports.
const KILLED_IN: &str = "TURNOUT_TEST_KILLED_IN";

#[test]
fn a_killed_import_leaves_nothing() {
    let sample = Sample::new(1, &[("a/b", 1 << 20), ("c", 10)]);
    if let Some(place) = std::env::var_os(KILLED_IN).map(PathBuf::from) {
        let config = VolumeConfig {
            kind: StoreKind::Btrfs,
            root: place.join("store"),
            image: place.join("store.img"),
            image_bytes: None,
        };
        // The rest never comes: standard input stays open and empty.
        let mut stream = sample.stream[..1 << 20].chain(io::stdin());
        let _ = sample.import_from(&Volume::open(&config).unwrap(), &mut stream);
        unreachable!("killed before");
    }
    with_volume(|place, volume| {
        drop(volume);
        let incoming = place.path("store/incoming");
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_import_leaves_nothing"])
            .env(KILLED_IN, place.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let half_way = || names(&incoming).iter().any(|name| incoming.join(name).join("files/c").exists());
        while !half_way() {
            assert!(Instant::now() < deadline && process.try_wait().unwrap().is_none(), "never half-way");
            std::thread::yield_now();
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let volume = Volume::open(&place.config()).unwrap();
        assert_nothing_is_left(&place.path("store"), &volume, &[]);
        assert_eq!(sample.import(&volume).unwrap(), ImportOutcome::Stored);
    });
}

#[test]
fn a_pointer_shows_a_stored_version_by_name() {
    with_volume(|place, volume| {
        let samples = [Sample::new(1, &[("a", 10)]), Sample::new(2, &[("a", 20)])];
        samples.iter().for_each(|sample| assert_eq!(sample.import(&volume).unwrap(), ImportOutcome::Stored));
        let config =
            PointerConfig { dir: place.path("models"), versions: volume.versions_folder(), method: None };
        let pointer = LinuxPointer::open(&config).unwrap();
        for sample in samples.iter().chain(&samples) {
            pointer.point(&sample.name).unwrap();
            assert_eq!(pointer.pointed(&sample.name.model).unwrap().as_ref(), Some(&sample.name));
            let current = pointer.point_of(&sample.name.model);
            assert_eq!(fs::read(current.join("files/a")).unwrap(), sample.stream);
            assert_eq!(fs::read(current.join("manifest.dsse.json")).unwrap(), ENVELOPE);
        }
        pointer.unpoint(&samples[0].name.model).unwrap();
        close(volume, &place.config());
    });
}

#[test]
fn a_volume_is_taken_over_mounted_again_and_cleaned() {
    with_volume(|place, volume| {
        let root = place.path("store");
        let sample = Sample::new(1, &[("a", 1000)]);
        sample.import(&volume).unwrap();
        let image = fs::metadata(place.path("store.img")).unwrap();
        assert!(image.blocks() * 512 >= IMAGE_BYTES, "the image is not sparse");
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(root.to_str().unwrap())).unwrap();
        for option in ["noatime", "nodev", "nosuid"] {
            assert!(line.contains(option), "{option}: {line}");
        }
        let device = line.split(" - btrfs /dev/").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        assert_eq!(fs::read_to_string(format!("/sys/block/{device}/loop/dio")).unwrap().trim(), "1");

        // A killed import, seen by the next run.
        Subvolume::create(root.join("incoming/half").as_path(), None).unwrap();
        drop(volume);
        let volume = Volume::open(&place.config()).unwrap();
        assert_nothing_is_left(&root, &volume, std::slice::from_ref(&sample.name));

        // A mount that outlives the mount point keeps the image's device.
        let tree = volume.detached_tree(&sample.name).unwrap();
        unmount(volume, &place.config());
        assert_eq!(names(&root), BTreeSet::new());
        let volume = Volume::open(&place.config()).unwrap();
        volume.verify(&sample.name, &sample.files).unwrap();
        let image = place.path("store.img");
        assert_eq!(devices_of(&image), 1, "two file systems on one image would destroy it");
        drop(tree);
        close(volume, &place.config());

        // A power cut within the write of the superblock: 4 KiB at 64 KiB (Btrfs's documentation, "On-disk format").
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.write_all_at(&[0xff; 512], (64 << 10) + 512).unwrap();
        file.sync_all().unwrap();
        drop(file);
        let volume = Volume::open(&place.config()).unwrap();
        assert!(volume.was_torn());
        volume.verify(&sample.name, &sample.files).unwrap();
        close(volume, &place.config());

        // A killed creation, and an image that was deleted under its mount.
        fs::write(place.path("store.img.new"), "half").unwrap();
        let volume = Volume::open(&place.config()).unwrap();
        assert!(!volume.was_torn());
        volume.verify(&sample.name, &sample.files).unwrap();
        fs::remove_file(place.path("store.img")).unwrap();
        let volume = Volume::open(&place.config()).unwrap();
        assert_eq!(volume.versions().unwrap(), []);
        assert!(!place.path("store.img.new").exists());
        close(volume, &place.config());
    });
}

#[test]
fn an_image_that_does_not_fit_is_refused_with_the_remedy() {
    let place = Place::new();
    for bytes in [1 << 20, u64::MAX / 2] {
        let config = VolumeConfig { image_bytes: Some(bytes), ..place.config() };
        let refused = Volume::open(&config);
        assert!(matches!(refused, Err(HostError::Unsupported { .. })), "{refused:?}");
        assert!(!place.path("store.img").exists() && !place.path("store.img.new").exists());
    }
}

#[test]
fn on_btrfs_the_store_is_a_subvolume_without_an_image() {
    with_volume(|place, volume| {
        let above = place.path("store/host");
        let config = VolumeConfig {
            kind: StoreKind::Btrfs,
            root: above.join("store"),
            image: above.join("store.img"),
            image_bytes: None,
        };
        let native = Volume::open(&config).unwrap();
        assert!(Subvolume::is_subvolume(config.root.as_path()).is_ok());
        let sample = Sample::new(1, &[("a", 1000)]);
        sample.import(&native).unwrap();
        drop(native);
        let native = Volume::open(&config).unwrap();
        native.verify(&sample.name, &sample.files).unwrap();
        assert!(!config.image.exists());
        drop((native, volume));
    });
}
