//! How long a swap of the pointer takes while readers hammer it, on a Btrfs volume of its own; a reader that meets a gap
//! or a mix of versions counts as an error.

use super::Effort;
use super::apart::apart;
use super::figures::Line;
use super::machine::Values;
use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use turnout_host::linux_pointer::{LinuxPointer, PointerConfig};
use turnout_host::pointer::Pointer;
use turnout_host::store::{Incoming, Store, StoredName};
use turnout_host::volume::{StoreKind, Volume, VolumeConfig};
use turnout_manifest::Sha256;
use turnout_manifest::manifest::FileEntry;

const PART: &str = "swap of the pointer (3 readers hammering)";
const NAME: &str = "bench-swap";
const READERS: usize = 3;
const IMAGE_BYTES: u64 = 256 << 20;
const FILES: [&str; 2] = ["a", "b"];
/// Longest wait for a reader's next turn.
const DEADLINE: Duration = Duration::from_secs(30);

/// Swaps two versions to and fro.
///
/// # Errors
/// When the volume or the pointer cannot be made, or a swap fails.
pub fn measure(effort: &Effort) -> Result<Vec<Line>> {
    apart(NAME, |remains| swaps(&remains.folder, effort))
}

fn swaps(folder: &Path, effort: &Effort) -> Result<Vec<Line>> {
    let image = VolumeConfig {
        kind: StoreKind::Btrfs,
        root: folder.join("store"),
        image: folder.join("store.img"),
        image_bytes: Some(IMAGE_BYTES),
    };
    let volume = Volume::open(&image)?;
    for version in [1, 2] {
        import(&volume, version)?;
    }
    let (dir, versions) = (folder.join("models"), volume.versions_folder());
    let pointer = LinuxPointer::open(&PointerConfig { dir, versions, method: None })?;
    pointer.point(&name(1)?)?;
    let point = pointer.point_of(&name(1)?.model);
    let (stop, reads, errors) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let times = std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    errors.fetch_add(u64::from(read(&point).is_err()), Ordering::Relaxed);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let times = swap_often(&pointer, effort.swaps, &reads);
        stop.store(true, Ordering::Relaxed);
        times
    })?;
    pointer.unpoint(&name(1)?.model)?;
    let (median, p99) = (times.median(), times.quantile(0.99));
    let (reads, errors) = (reads.into_inner(), errors.into_inner());
    let figures = json!({"median_us": median, "p99_us": p99, "swaps": effort.swaps});
    Ok(vec![
        Line::told(PART, format!("{} swaps, median and p99", effort.swaps))
            .found(format!("{median:.0} us, {p99:.0} us"), figures),
        Line::judged(PART, "reads that met a gap or a mix", "0")
            .found(format!("{errors} of {reads}"), json!({"errors": errors, "reads": reads}))
            .met(errors == 0),
    ])
}

/// Each swap after the readers have read again.
fn swap_often(pointer: &LinuxPointer, swaps: u32, reads: &AtomicU64) -> Result<Values> {
    let mut times = Vec::new();
    for swap in 0..swaps {
        let before = reads.load(Ordering::Relaxed);
        let (target, began) = (name(if swap % 2 == 0 { 2 } else { 1 })?, Instant::now());
        pointer.point(&target)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
        while reads.load(Ordering::Relaxed) == before {
            ensure!(began.elapsed() < DEADLINE, "the readers stand still");
            std::thread::yield_now();
        }
    }
    Ok(times.into_iter().collect())
}

/// One read as a careful reader does it: the folder once, then two files through it.
fn read(point: &Path) -> Result<()> {
    let folder = openat(CWD, point, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut seen = Vec::new();
    for file in FILES {
        let path = Path::new("files").join(file);
        let file = openat(&folder, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(file).read_to_end(&mut seen)?;
    }
    ensure!(seen.len() == 32 && seen.iter().all(|byte| *byte == seen[0]), "a mix of versions");
    Ok(())
}

fn import(volume: &Volume, version: u8) -> Result<()> {
    let content = [version; 16];
    let entry = |path: &str| FileEntry { path: path.to_owned(), size: 16, sha256: Sha256::of(&content) };
    let files = FILES.map(entry);
    let incoming = Incoming { name: name(version)?, files: &files, envelope: b"{}" };
    volume.import(&incoming, &mut content.repeat(2).as_slice()).map(drop).context("cannot import")
}

fn name(version: u8) -> Result<StoredName> {
    Ok(StoredName { model: "bench".parse()?, digest: Sha256([version; 32]) })
}
