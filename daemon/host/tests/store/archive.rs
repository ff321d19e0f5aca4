//! Snapshots after they were made, on a real Btrfs volume: mounted, sent, deleted, and the store below them grown,
//! scrubbed, and failing.

use crate::place::{Place, close};
use crate::sample::Sample;
use crate::{IMAGE_BYTES, content, names, with_volume};
use btrfsutil::subvolume::Subvolume;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use turnout_host::HostError;
use turnout_host::archive::{Archive, MountPlace, Reference, Unmount};
use turnout_host::mounts::{in_private_namespace, mount_table};
use turnout_host::store::{Evidence, ImportOutcome, Store};
use turnout_host::volume::{Volume, VolumeConfig};
use turnout_manifest::Sha256;

pub const FIRST: &str = "00000001-20261122T135501Z";
const SECOND: &str = "00000002-20261122T135502Z";
/// How often a race is run: far more often than it took to lose it while it could be lost.
const SWAPS: usize = 200;

/// A volume with one version and a snapshot that shows it.
pub fn kept(place: &Place, volume: &Volume, name: &str) -> (Sample, PathBuf) {
    let journal = place.path("journal");
    fs::create_dir_all(&journal).unwrap();
    fs::write(journal.join("0000.seg"), "one,").unwrap();
    let sample = Sample::new(1, &[("a/b", 3 << 20), ("c", 10)]);
    sample.import(volume).unwrap();
    let documents = vec![("state.json", b"{}".to_vec()), ("trust.json", b"[]".to_vec())];
    let evidence = Evidence { journal, documents, versions: vec![sample.name.clone()] };
    let made = volume.snapshot(name, &evidence).unwrap();
    (sample, made.path)
}

fn here() -> i32 {
    // The test runs on a thread with a mount namespace of its own.
    rustix::thread::gettid().as_raw_nonzero().get()
}

pub fn place_at(path: PathBuf) -> MountPlace {
    fs::create_dir(&path).unwrap();
    MountPlace { at: path, pid: here() }
}

#[test]
fn a_mounted_snapshot_is_read_only_and_cannot_be_deleted_before_it_is_taken_away() {
    with_volume(|place, volume| {
        let (sample, path) = kept(place, &volume, FIRST);
        let at = place_at(place.path("mnt"));
        volume.mount_snapshot(FIRST, &at).unwrap();
        assert_eq!(content(&at.at), content(&path));
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains("/mnt ")).unwrap();
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(line.split([' ', ',']).any(|word| word == option), "{option}: {line}");
        }
        let expected = Reference { of: format!("audit/{FIRST}"), at: at.at.clone() };
        assert_eq!(volume.references().unwrap(), [expected]);

        let refused = volume.delete_snapshot(FIRST);
        assert!(matches!(&refused, Err(HostError::InUse { places, .. }) if places.len() == 1), "{refused:?}");
        assert!(path.join("state.json").exists());
        let twice = volume.mount_snapshot(FIRST, &at);
        assert!(matches!(twice, Err(HostError::InUse { .. })), "{twice:?}");

        let open = fs::File::open(at.at.join("state.json")).unwrap();
        let busy = volume.unmount_snapshot(FIRST, &at.at, Unmount::WhenIdle);
        assert!(matches!(busy, Err(HostError::InUse { .. })), "{busy:?}");
        assert!(
            !volume.unmount_snapshot(SECOND, &at.at, Unmount::AtOnce).unwrap(),
            "another snapshot's name"
        );
        assert!(volume.unmount_snapshot(FIRST, &at.at, Unmount::AtOnce).unwrap());
        assert!(!volume.unmount_snapshot(FIRST, &at.at, Unmount::AtOnce).unwrap());
        assert_eq!(names(&at.at).len(), 0);
        drop(open);

        volume.delete_snapshot(FIRST).unwrap();
        volume.delete_snapshot(FIRST).unwrap();
        assert_eq!(volume.snapshots().unwrap(), []);
        let missing = volume.mount_snapshot(FIRST, &at);
        assert!(matches!(missing, Err(HostError::Missing { .. })), "{missing:?}");
        volume.verify(&sample.name, &sample.files).unwrap();
    });
}

#[test]
fn a_version_that_a_worker_could_have_mounted_stays_and_its_snapshot_keeps_its_files() {
    with_volume(|place, volume| {
        let (sample, path) = kept(place, &volume, FIRST);
        // Another process, in a namespace of its own, as a worker in its cell.
        let files = place.path("store/versions").join(sample.name.to_string()).join("files");
        let cell = place.path("cell");
        fs::create_dir(&cell).unwrap();
        let script = format!("mount --bind {} {} && echo ready && exec cat", files.display(), cell.display());
        let mut worker = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        worker.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        let refused = volume.delete_version(&sample.name);
        worker.kill().unwrap();
        worker.wait().unwrap();
        assert!(
            matches!(&refused, Err(HostError::InUse { places, .. }) if *places == [cell.display().to_string()]),
            "{refused:?}"
        );

        volume.delete_version(&sample.name).unwrap();
        volume.delete_version(&sample.name).unwrap();
        assert_eq!(volume.versions().unwrap(), []);
        let shared = path.join("versions").join(sample.name.to_string()).join("files/a/b");
        assert_eq!(fs::read(shared).unwrap(), sample.stream[..3 << 20]);
        assert_eq!(sample.import(&volume).unwrap(), ImportOutcome::Stored);
    });
}

#[test]
fn snapshots_that_go_while_they_are_listed_and_read_are_left_out() {
    with_volume(|place, volume| {
        let (sample, _) = kept(place, &volume, FIRST);
        let evidence = Evidence {
            journal: place.path("journal"),
            documents: vec![("state.json", b"{}".to_vec())],
            versions: vec![sample.name.clone()],
        };
        std::thread::scope(|scope| {
            let coming_and_going = scope.spawn(|| {
                for round in 0..100 {
                    let name = format!("1{round:07}-20261122T135502Z");
                    volume.snapshot(&name, &evidence).unwrap();
                    volume.delete_snapshot(&name).unwrap();
                }
            });
            while !coming_and_going.is_finished() {
                let listed = volume.snapshots().unwrap();
                assert_eq!(listed[0].name, FIRST);
                for snapshot in &listed[1..] {
                    match volume.inside(&snapshot.name) {
                        Ok(whole) => assert_eq!((whole.documents.len(), whole.versions.len()), (2, 1)),
                        Err(error) => assert!(matches!(error, HostError::Missing { .. }), "{error:?}"),
                    }
                }
            }
        });
    });
}

#[test]
fn what_is_not_there_any_more_in_a_snapshot_ends_no_reading_and_its_versions_stay_known() {
    with_volume(|place, volume| {
        let (sample, path) = kept(place, &volume, FIRST);
        Subvolume::get(path.as_path()).unwrap().set_ro(false).unwrap();
        std::os::unix::fs::symlink("nowhere", path.join("journal/0001.seg")).unwrap();
        fs::remove_file(path.join("versions").join(sample.name.to_string()).join("manifest.dsse.json"))
            .unwrap();
        let inside = volume.inside(FIRST).unwrap();
        assert_eq!(inside.journal.keys().collect::<Vec<_>>(), ["0000.seg"]);
        assert_eq!(inside.versions, BTreeMap::from([(sample.name, Vec::new())]));
    });
}

#[test]
fn a_mount_point_must_be_a_real_empty_place_of_this_host() {
    with_volume(|place, volume| {
        kept(place, &volume, FIRST);
        let real = place_at(place.path("mnt"));
        let link = place.path("link");
        std::os::unix::fs::symlink(&real.at, &link).unwrap();
        fs::create_dir(real.at.join("inner")).unwrap();
        for at in [link.join("inner"), link, real.at.join("inner/.."), place.path("nowhere")] {
            let is_there = at.exists();
            let refused = volume.mount_snapshot(FIRST, &MountPlace { at, pid: here() });
            let told = refused.unwrap_err().to_string();
            assert_eq!(
                told.contains("is not a real path: give the path that `realpath` prints"),
                is_there,
                "{told}"
            );
        }
        // A process that would not see it.
        let mut elsewhere =
            Command::new("unshare").args(["--mount", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(elsewhere.id()).unwrap();
        let own = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        while fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap() == own {
            std::thread::yield_now();
        }
        let refused = volume.mount_snapshot(FIRST, &MountPlace { at: real.at.clone(), pid });
        elsewhere.kill().unwrap();
        elsewhere.wait().unwrap();
        assert!(matches!(refused, Err(HostError::Unsupported { .. })), "{refused:?}");
        assert_eq!(volume.references().unwrap(), []);
    });
}

/// Where the mount table of this thread shows the snapshot.
fn shown_at(path: &Path) -> Vec<PathBuf> {
    let root = Path::new("/audit").join(path.file_name().unwrap());
    let mounts = mount_table().unwrap().into_iter();
    mounts.filter(|mount| mount.root == root).map(|mount| mount.point).collect()
}

/// Exchanges a folder and a link of its owner's as fast as it can while something else is done.
fn while_swapped<T: Send>((folder, link): (&Path, &Path), act: impl FnOnce() -> T + Send) -> T {
    let over = AtomicBool::new(false);
    let swap = || renameat_with(CWD, folder, CWD, link, RenameFlags::EXCHANGE).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                swap();
                swap();
            }
        });
        let done = act();
        over.store(true, Ordering::Relaxed);
        done
    })
}

#[test]
fn a_folder_that_its_owner_swaps_for_a_link_leads_nowhere_else() {
    with_volume(|place, volume| {
        let (_, path) = kept(place, &volume, FIRST);
        let (theirs, other) = (place.path("theirs"), place.path("other"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&other).unwrap();
        let (at, elsewhere) = (place_at(theirs.join("mnt")), place_at(other.join("mnt")));
        let link = place.path("link");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        for _ in 0..SWAPS {
            let mounted = while_swapped((&theirs, &link), || volume.mount_snapshot(FIRST, &at));
            let expected = if mounted.is_ok() { vec![at.at.clone()] } else { vec![] };
            assert_eq!(shown_at(&path), expected, "{mounted:?}");
            volume.unmount_snapshot(FIRST, &at.at, Unmount::AtOnce).unwrap();
        }
        volume.mount_snapshot(FIRST, &elsewhere).unwrap();
        for _ in 0..SWAPS {
            if shown_at(&path).len() == 1 {
                volume.mount_snapshot(FIRST, &at).unwrap();
            }
            let _ =
                while_swapped((&theirs, &link), || volume.unmount_snapshot(FIRST, &at.at, Unmount::AtOnce));
            assert!(
                shown_at(&path).contains(&elsewhere.at),
                "another mount than the named one was taken away"
            );
        }
    });
}

#[test]
fn a_folder_that_the_daemon_cannot_reach_is_refused_with_a_place_that_it_can() {
    with_volume(|place, volume| {
        kept(place, &volume, FIRST);
        let closed = place.path("closed");
        fs::create_dir(&closed).unwrap();
        let at = place_at(closed.join("mnt"));
        chown(&closed, Some(65534), Some(65534)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        // The packaged daemon passes nobody's closed folders. Capabilities are this thread's own.
        let before = capabilities(None).unwrap();
        let mut fewer = before;
        fewer.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        set_capabilities(None, fewer).unwrap();
        let refused = volume.mount_snapshot(FIRST, &at);
        set_capabilities(None, before).unwrap();
        let told = refused.as_ref().unwrap_err().to_string();
        assert!(matches!(refused, Err(HostError::Unsupported { .. })), "{told}");
        assert!(told.contains(&at.at.display().to_string()) && told.contains("`/var/tmp`"), "{told}");
        volume.mount_snapshot(FIRST, &at).unwrap();
    });
}

#[test]
fn what_is_sent_and_received_elsewhere_has_the_same_files() {
    with_volume(|place, volume| {
        let (_, path) = kept(place, &volume, FIRST);
        let list = volume.files(FIRST).unwrap();
        let paths: Vec<&str> = list.iter().map(|entry| entry.path.as_str()).collect();
        assert!(paths.is_sorted() && paths.len() == 6, "{paths:?}");
        for entry in &list {
            assert_eq!(Sha256::of(&fs::read(path.join(&entry.path)).unwrap()), entry.sha256);
        }
        let mut stream = Vec::new();
        volume.send(FIRST).unwrap().read_to_end(&mut stream).unwrap();
        let file = place.path("export.btrfs");
        fs::write(&file, &stream).unwrap();

        let mut other = place.config();
        (other.root, other.image) = (place.path("other"), place.path("other.img"));
        let received = Volume::open(&other).unwrap();
        let into = place.path("other/audit");
        let done = Command::new("btrfs").arg("receive").arg("-f").arg(&file).arg(&into).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(received.files(FIRST).unwrap(), list);
        assert_eq!(content(&into.join(FIRST)), content(&path));
        close(received, &other);

        let mut unread = volume.send(FIRST).unwrap();
        unread.read_exact(&mut [0; 16]).unwrap();
        drop(unread);
        assert!(matches!(volume.send(SECOND).err(), Some(HostError::Missing { .. })));
    });
}

#[test]
fn a_store_grows_in_use_and_a_broken_growth_is_finished() {
    with_volume(|place, volume| {
        let (sample, _) = kept(place, &volume, FIRST);
        let before = volume.store_state().unwrap();
        assert_eq!((before.kind.as_str(), before.read_only), ("btrfs-image", false));
        let larger = IMAGE_BYTES + (64 << 20);
        volume.grow(larger).unwrap();
        let state = volume.store_state().unwrap();
        assert_eq!(state.total_bytes, larger);
        assert_eq!(fs::metadata(place.path("store.img")).unwrap().len(), larger);
        volume.verify(&sample.name, &sample.files).unwrap();

        // Killed once the file was longer, before device and file system were.
        let broken = larger + (32 << 20);
        fs::OpenOptions::new().write(true).open(place.path("store.img")).unwrap().set_len(broken).unwrap();
        volume.grow(broken).unwrap();
        assert_eq!(volume.store_state().unwrap().total_bytes, broken);
        for impossible in [IMAGE_BYTES, u64::MAX / 2] {
            let refused = volume.grow(impossible);
            assert!(matches!(refused, Err(HostError::Unsupported { .. })), "{refused:?}");
        }
        assert_eq!(volume.store_state().unwrap().total_bytes, broken);
    });
}

#[test]
fn a_scrub_finds_what_the_disk_lost() {
    with_volume(|place, volume| {
        let (sample, _) = kept(place, &volume, FIRST);
        let clean = volume.scrub().unwrap();
        assert!(clean.bytes >= 3 << 20 && clean.errors == 0, "{clean:?}");
        close(volume, &place.config());

        // Content has one copy. The samples' bytes repeat every 251 bytes from their own seed.
        let image = fs::OpenOptions::new().read(true).write(true).open(place.path("store.img")).unwrap();
        let (mut block, wanted) = (vec![0; 1 << 20], &sample.stream[..4096]);
        let at = (0..IMAGE_BYTES).step_by(1 << 20).find_map(|at| {
            image.read_exact_at(&mut block, at).unwrap();
            let aligned = (0..block.len()).step_by(4096);
            aligned
                .into_iter()
                .find(|offset| &block[*offset..offset + 4096] == wanted)
                .map(|offset| at + offset as u64)
        });
        image.write_all_at(&[0xff; 100], at.unwrap()).unwrap();
        image.sync_all().unwrap();
        drop(image);
        let volume = Volume::open(&place.config()).unwrap();
        let found = volume.scrub().unwrap();
        assert!(found.errors > 0 && found.uncorrectable > 0, "{found:?}");
        assert!(volume.verify(&sample.name, &sample.files).is_err());
        close(volume, &place.config());
    });
}

/// A volume on a sparse image whose host's disk can be filled: what fallocated images are made to avoid, and a way to a
/// real I/O error.
fn with_failing_disk(check: impl FnOnce(&Place, Volume, &Path) + Send) {
    let place = Place::new();
    in_private_namespace(|| {
        let disk = place.path("disk");
        fs::create_dir(&disk).unwrap();
        let (tmpfs, size) = (rustix::mount::MountFlags::empty(), c"size=96m");
        rustix::mount::mount("tmpfs", &disk, "tmpfs", tmpfs, size).unwrap();
        let image = disk.join("store.img");
        fs::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        let made = Command::new("mkfs.btrfs").arg("--quiet").arg(&image).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let config = VolumeConfig { image, ..place.config() };
        check(&place, Volume::open(&config).unwrap(), &disk);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_store_that_the_kernel_made_read_only_still_gives_what_is_in_it() {
    with_failing_disk(|place, volume, disk| {
        let (sample, path) = kept(place, &volume, FIRST);
        let config = VolumeConfig { image: disk.join("store.img"), ..place.config() };
        let filler = disk.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        for block in [vec![1; 1 << 20], vec![1; 4096]] {
            while file.write_all(&block).is_ok() {}
        }
        drop(file);
        // Every write to a new block fails from now on; Btrfs stops at the first one of its own.
        let second = Sample::new(2, &[("a", 8 << 20)]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !volume.store_state().unwrap().read_only {
            assert!(Instant::now() < deadline, "it does not fail");
            assert!(second.import(&volume).is_err());
        }
        let evidence =
            || Evidence { journal: place.path("journal"), documents: Vec::new(), versions: Vec::new() };
        for refused in [second.import(&volume).err(), volume.snapshot(SECOND, &evidence()).err()] {
            assert!(matches!(refused, Some(HostError::ReadOnlyStore)), "{refused:?}");
        }
        let still_gives = |volume: &Volume| {
            volume.verify(&sample.name, &sample.files).unwrap();
            drop(volume.detached_tree(&sample.name).unwrap());
            assert_eq!(fs::read(path.join("trust.json")).unwrap(), b"[]");
        };
        still_gives(&volume);
        let at = place_at(place.path("mnt"));
        volume.mount_snapshot(FIRST, &at).unwrap();
        assert!(volume.unmount_snapshot(FIRST, &at.at, Unmount::WhenIdle).unwrap());
        // The next daemon takes it over as it is.
        drop(volume);
        let volume = Volume::open(&config).unwrap();
        assert!(volume.store_state().unwrap().read_only);
        still_gives(&volume);

        // Mended and mounted anew, it is as it was before the failure.
        fs::remove_file(&filler).unwrap();
        close(volume, &config);
        let volume = Volume::open(&config).unwrap();
        still_gives(&volume);
        assert_eq!(volume.versions().unwrap(), std::slice::from_ref(&sample.name));
        assert_eq!(second.import(&volume).unwrap(), ImportOutcome::Stored);
        assert_eq!(volume.snapshots().unwrap().len(), 1);
        close(volume, &config);
    });
}

#[test]
fn documents_and_names_that_could_lead_elsewhere_are_refused() {
    with_volume(|place, volume| {
        let (_, path) = kept(place, &volume, FIRST);
        for name in ["../state.json", "journal/x.json", ".json/..", "state", "x.seg"] {
            let evidence = Evidence {
                journal: place.path("journal"),
                documents: vec![(name, vec![])],
                versions: vec![],
            };
            let refused = volume.snapshot(SECOND, &evidence);
            assert!(
                matches!(&refused, Err(HostError::Os { source, .. }) if source.kind() == ErrorKind::InvalidInput),
                "{name}"
            );
        }
        for name in ["", ".", "..", "../versions", "a/b", "00000001/../../versions"] {
            assert!(volume.delete_snapshot(name).is_err(), "{name:?}");
            assert!(volume.inside(name).is_err(), "{name:?}");
            assert!(volume.send(name).is_err(), "{name:?}");
        }
        assert!(Subvolume::is_subvolume(path.as_path()).is_ok());
    });
}
