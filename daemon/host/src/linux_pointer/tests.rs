//! What a swap that was killed after any of its steps leaves, what readers meet meanwhile, and what settles it.

use super::points::{Step, Swap, propagate};
use super::set_folders::Step as SetStep;
use super::*;
use crate::mounts::mounts_at;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::mount::MountPropagationFlags;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

const MODEL: &str = "fraud";

fn name(byte: u8) -> StoredName {
    StoredName { model: MODEL.parse().unwrap(), digest: Sha256([byte; 32]) }
}

fn config(method: Method) -> PointerConfig {
    PointerConfig { dir: "/run/models".into(), versions: "/run/versions".into(), method: Some(method) }
}

/// In a namespace of its own, with a file system of its own at `/run`, shared as on a host with systemd.
fn with_versions(check: impl FnOnce() + Send) {
    in_private_namespace(|| {
        mount(c"test", c"/run", c"tmpfs", MountFlags::empty(), None).unwrap();
        propagate(Path::new("/run"), MountPropagationFlags::SHARED).unwrap();
        for byte in [1, 2] {
            let files = format!("/run/versions/{}/files", name(byte));
            fs::create_dir_all(&files).unwrap();
            for file in ["a", "b"] {
                fs::write(format!("{files}/{file}"), [byte]).unwrap();
            }
        }
        check();
        Ok(())
    })
    .unwrap();
}

/// A reader as it should be: the folder once, then two files through it. Whether it met one whole version.
fn reads_one_version(point: &Path) -> bool {
    reads_alike(point, ["files/a", "files/b"])
}

fn reads_alike(point: &Path, files: [&str; 2]) -> bool {
    let read = || {
        let folder = open(point, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let mut seen = Vec::new();
        for file in files {
            File::from(openat(&folder, file, OFlags::RDONLY, Mode::empty())?).read_to_end(&mut seen)?;
        }
        Ok::<_, io::Error>(seen.len() == 2 && seen[0] == seen[1])
    };
    read().unwrap_or(false)
}

/// Has four readers read without a pause while `work` is done; each of them at least once after it.
fn beside_readers(point: &Path, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let read = || {
            let mut whole = true;
            while !stop.load(Ordering::Relaxed) {
                whole &= reads_one_version(point);
            }
            whole & reads_one_version(point)
        };
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(read)).collect();
        work();
        stop.store(true, Ordering::Relaxed);
        let whole = readers.into_iter().all(|reader| reader.join().unwrap());
        assert!(whole, "a reader met a gap or a mix");
    });
}

/// Kills a swap after each number of steps; whatever it left, opening again settles it on one whole version. Readers never
/// meet anything else, but for a stack, which is folded while nobody reads.
fn recovers(method: Method) {
    for done in 0..=method.steps().len() {
        with_versions(|| {
            let pointer = LinuxPointer::open(&config(method)).unwrap();
            pointer.point(&name(1)).unwrap();
            let point = pointer.point_of(&name(1).model);
            match method {
                Method::Beneath | Method::Tuck => beside_readers(&point, || killed_after(done, pointer)),
                Method::Stack => killed_after(done, pointer),
            }
        });
    }
}

fn killed_after(done: usize, pointer: LinuxPointer) {
    let method = pointer.method();
    let mounts = mount_table().unwrap().len();
    let model: ModelName = MODEL.parse().unwrap();
    let (point, tree) = (pointer.point_of(&model), pointer.tree(&name(2)).unwrap());
    let swap = Swap { name: MODEL, tree: &tree };
    method.steps()[..done].iter().for_each(|step| pointer.models.run(*step, &swap).unwrap());
    drop(tree);
    assert!(point.join("files").is_dir(), "a reader finds a version after {done} steps");
    drop(pointer);

    let pointer = LinuxPointer::open(&config(method)).unwrap();
    let begun = method.steps()[..done]
        .iter()
        .any(|step| matches!(step, Step::SlipBeneath | Step::AttachToPeer | Step::Cover));
    let shown = name(if begun { 2 } else { 1 });
    assert_eq!(pointer.pointed(&model).unwrap(), Some(shown), "{method:?} after {done} steps");
    assert_eq!(mount_table().unwrap().len(), mounts, "{method:?} after {done} steps");
    pointer.point(&name(1)).unwrap();
    pointer.point(&name(2)).unwrap();
    assert_eq!(pointer.pointed(&model).unwrap(), Some(name(2)));
}

#[test]
fn a_swap_beneath_killed_after_any_step_is_finished() {
    recovers(Method::Beneath);
}

#[test]
fn a_tuck_killed_after_any_step_is_finished() {
    recovers(Method::Tuck);
}

#[test]
fn a_stacked_swap_killed_after_any_step_is_finished() {
    recovers(Method::Stack);
}

/// Kills a swap of a set after each number of steps, beside a reader who had it open before; opening again settles it.
#[test]
fn a_swap_of_a_set_killed_after_any_step_is_finished() {
    let steps = [SetStep::MountNext, SetStep::Exchange, SetStep::RemoveOld];
    for (done, first) in (0..=steps.len()).flat_map(|done| [(done, false), (done, true)]) {
        with_versions(|| {
            let set: SetName = "payments".parse().unwrap();
            let pointer = LinuxPointer::open(&config(Method::Stack)).unwrap();
            if !first {
                pointer.point_set(&set, &[Shown::Version(name(1))]).unwrap();
            }
            let (point, mounts) = (pointer.point_of_set(&set), mount_table().unwrap().len());
            let held = open(&point, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
            assert_eq!(held.is_err(), first);
            let tree = pointer.sets.assemble(&[(MODEL, pointer.tree(&name(2)).unwrap())]).unwrap();
            steps[..done].iter().for_each(|step| pointer.sets.run(*step, ("payments", &tree)).unwrap());
            drop((tree, pointer));

            let pointer = LinuxPointer::open(&config(Method::Stack)).unwrap();
            let old = if first { Vec::new() } else { vec![name(1)] };
            let shown = if done > 1 { vec![name(2)] } else { old };
            assert_eq!(pointer.pointed_set(&set).unwrap(), shown, "after {done} steps");
            if !first {
                assert_eq!(mount_table().unwrap().len(), mounts, "after {done} steps");
                let file = openat(held.unwrap(), "fraud/files/a", OFlags::RDONLY, Mode::empty()).unwrap();
                let mut bytes = Vec::new();
                File::from(file).read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, [1], "what was open stays whole");
            }
            pointer.point_set(&set, &[Shown::Version(name(2))]).unwrap();
            assert!(reads_alike(&point, ["fraud/files/a", "fraud/files/b"]));
            pointer.unpoint_set(&set).unwrap();
            assert!(!point.exists() && names_of("/run/sets").is_empty());
        });
    }
}

fn names_of(folder: &str) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_stack_is_capped_and_folded_when_opened_again() {
    with_versions(|| {
        let pointer = LinuxPointer::open(&config(Method::Stack)).unwrap();
        for byte in [1, 2].into_iter().cycle().take(STACK_MAX) {
            pointer.point(&name(byte)).unwrap();
        }
        assert!(matches!(pointer.point(&name(1)), Err(HostError::Unsupported { .. })));
        let pointer = LinuxPointer::open(&config(Method::Stack)).unwrap();
        let model = MODEL.parse().unwrap();
        assert_eq!(mounts_at(&pointer.point_of(&model)).unwrap().len(), 1);
        assert_eq!(pointer.pointed(&model).unwrap(), Some(name(2)));
        pointer.point(&name(1)).unwrap();
    });
}

#[test]
fn a_method_that_the_kernel_lacks_is_told_from_one_that_works() {
    // Both tucks and stacks exist since long before the oldest kernel that is supported.
    assert!(Method::Tuck.works());
    assert!(Method::Stack.works());
    with_versions(|| {
        let found = LinuxPointer::open(&PointerConfig { method: None, ..config(Method::Stack) }).unwrap();
        assert_eq!(found.method() == Method::Beneath, Method::Beneath.works());
    });
}
