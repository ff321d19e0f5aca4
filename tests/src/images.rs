//! Durability by images: a journal is written on a file system in an image, and the image is copied in one moment, block
//! by block shared, while records are acknowledged. What the kernel had not written is missing in the copy, as after a
//! power cut; what was acknowledged must not be. It models no disk that loses what it has confirmed.

use crate::daemon::{clear, fresh_place};
use anyhow::{Context, Result, ensure};
use rustix::fs::ioctl_ficlone;
use rustix::mount::{UnmountFlags, unmount};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use turnout_journal::{
    Checkpoint, Checkpoints, ECDSA, Journal, NoteKey, OpenOptions, Reader, Signer, check_signed, newest,
    verify,
};

/// The file system that holds all images: sparse, so only what is written takes room.
const OUTER_BYTES: u64 = 8 << 30;
/// The file system that the journal lies on: Btrfs needs more than a hundred MiB.
const INNER_BYTES: u64 = 160 << 20;
/// Small, so that segments are sealed and begun all the time.
const SEGMENT_BYTES: u64 = 64 << 10;
/// A checkpoint is signed after so many records.
const SIGNED_EVERY: u64 = 50;
/// Most records in a batch.
const BATCH_MAX: u64 = 16;
/// Records that are acknowledged before the first copy.
const RECORDS_FIRST: u64 = 20;
/// Longest wait for them.
const DEADLINE: Duration = Duration::from_secs(60);
/// Longest time between two copies.
const PAUSE_MAX_MS: u64 = 40;

/// What the journal lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// With its journal in the usual mode.
    Ext4,
    /// Copy on write.
    Btrfs,
}

/// Whether the writer's syncs reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// As the journal makes them.
    Made,
    /// After the first records they succeed and do nothing: the control, which must be found out.
    Removed,
}

/// What a copy holds of what had been acknowledged before it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Records that had been acknowledged.
    pub acknowledged: u64,
    /// Records that are there and whole.
    pub found: u64,
    /// Records under the newest checkpoint that had been given out.
    pub signed: u64,
    /// Records under the newest checkpoint that is there.
    pub signed_found: u64,
    /// Bytes of an interrupted write that were cut off.
    pub cut: u64,
}

/// A place with a file system for images, cleared when dropped and by the next run.
pub struct Place {
    remains: crate::remains::Remains,
}

/// A mounted image. Unmounted when dropped.
pub struct Mounted(PathBuf);

impl Copied {
    /// Whether nothing that was acknowledged or given out is missing.
    pub fn is_whole(&self) -> bool {
        self.found >= self.acknowledged && self.signed_found >= self.signed
    }
}

impl FileSystem {
    fn make(self, image: &Path, bytes: u64) -> Result<()> {
        File::create(image)?.set_len(bytes)?;
        let mut command = match self {
            Self::Ext4 => Command::new("mkfs.ext4"),
            Self::Btrfs => Command::new("mkfs.btrfs"),
        };
        run(command.arg("-q").arg(image))
    }
}

impl Mounted {
    fn mount(image: &Path, point: &Path) -> Result<Self> {
        fs::create_dir_all(point)?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(point))?;
        Ok(Self(point.to_owned()))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A loop device of a file in it may be let go of only in a moment.
        let gone =
            unmount(&self.0, UnmountFlags::empty()).or_else(|_| unmount(&self.0, UnmountFlags::DETACH));
        if let Err(error) = gone {
            eprintln!("warning: `{}` is not unmounted: {error}", self.0.display());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output().with_context(|| format!("cannot start `{command:?}`"))?;
    ensure!(done.status.success(), "`{command:?}`: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

impl Place {
    /// An empty one of this name.
    ///
    /// # Errors
    /// When what an earlier run has left cannot be cleared.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { remains: fresh_place(name)? })
    }

    /// A file system of this size of its own, mounted.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn file_system(&self, kind: FileSystem, bytes: u64) -> Result<Mounted> {
        let image = self.remains.folder.join("single.img");
        kind.make(&image, bytes)?;
        Mounted::mount(&image, &self.remains.folder.join("single"))
    }

    /// Copies the image under a journal so many times while it is written, and looks what each copy holds.
    ///
    /// # Errors
    /// When images cannot be made or mounted, or the writer fails.
    pub fn copies(
        &self,
        (kind, syncs): (FileSystem, Syncs),
        count: u32,
        seed: u64,
    ) -> Result<Vec<Result<Copied>>> {
        let outer = self.remains.folder.join("outer");
        FileSystem::Btrfs.make(&self.remains.folder.join("outer.img"), OUTER_BYTES)?;
        let outer = Mounted::mount(&self.remains.folder.join("outer.img"), &outer)?;
        let image = outer.path().join("inner.img");
        kind.make(&image, INNER_BYTES)?;
        let inner = Mounted::mount(&image, &outer.path().join("inner"))?;
        let taken = take_copies((inner.path(), &image), syncs, count, seed)?;
        drop(inner);
        let look = |(copy, at): (PathBuf, Moment)| {
            let mounted = Mounted::mount(&copy, &outer.path().join("copy"))?;
            let found = look_into(mounted.path(), &at);
            drop(mounted);
            fs::remove_file(&copy)?;
            found
        };
        Ok(taken.into_iter().map(look).collect())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.remains) {
            eprintln!("warning: `{}` is not cleared: {error:#}", self.remains.folder.display());
        }
    }
}

/// What was acknowledged when a copy was begun.
struct Moment {
    records: u64,
    signed: u64,
}

/// What the writer says to those who copy.
#[derive(Default)]
struct Progress {
    records: AtomicU64,
    signed: AtomicU64,
    stop: AtomicBool,
}

fn take_copies(
    (folder, image): (&Path, &Path),
    syncs: Syncs,
    count: u32,
    mut seed: u64,
) -> Result<Vec<(PathBuf, Moment)>> {
    let progress = Progress::default();
    let writer_seed = chance(&mut seed);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(folder, syncs, (&progress, writer_seed)));
        let begun = Instant::now();
        let mut taken = Vec::new();
        let copied = loop {
            if writer.is_finished() || begun.elapsed() > DEADLINE + Duration::from_secs(u64::from(count)) {
                break Err(anyhow::anyhow!("the writer has ended or stands still"));
            }
            if progress.records.load(Ordering::Acquire) < RECORDS_FIRST {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            if taken.len() == count as usize {
                break Ok(taken);
            }
            std::thread::sleep(Duration::from_millis(chance(&mut seed) % PAUSE_MAX_MS));
            let at = Moment {
                signed: progress.signed.load(Ordering::Acquire),
                records: progress.records.load(Ordering::Acquire),
            };
            let copy = image.with_extension(format!("{}.copy", taken.len()));
            let cloned = File::open(image).and_then(|from| Ok(ioctl_ficlone(File::create(&copy)?, from)?));
            if let Err(error) = cloned {
                break Err(error.into());
            }
            taken.push((copy, at));
        };
        progress.stop.store(true, Ordering::Release);
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer has panicked"))?;
        written.and(copied)
    })
}

/// xorshift64: the same seed gives the same moments, as far as the machine lets it.
fn chance(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn write(folder: &Path, syncs: Syncs, (progress, mut seed): (&Progress, u64)) -> Result<()> {
    let (dir, mark) = (folder.join("journal"), folder.join("mark"));
    let options = OpenOptions { segment_bytes: SEGMENT_BYTES, ..OpenOptions::default() };
    let (journal, _) = Journal::open(&dir, options)?;
    let mut checkpoints = Checkpoints::open(&dir, &mark)?;
    let key = NoteKey::new(checkpoints.origin(), ECDSA, b"a key of this test".to_vec())?;
    let signer = Signer { key: &key, sign: &|_| b"not looked at".to_vec() };
    let mut made = Syncs::Made;
    while !progress.stop.load(Ordering::Acquire) {
        let before = journal.size();
        if before >= RECORDS_FIRST && made != syncs {
            // From here on: what there is to be lost is there.
            remove_syncs()?;
            made = syncs;
        }
        let batch: Vec<Vec<u8>> = (before..=before + chance(&mut seed) % BATCH_MAX).map(body).collect();
        let bodies: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        journal.append_all(&bodies)?;
        progress.records.store(journal.size(), Ordering::Release);
        if journal.size() >= checkpoints.signed_size() + SIGNED_EVERY {
            checkpoints.sign(journal.head(), &signer)?;
            progress.signed.store(journal.size(), Ordering::Release);
        }
    }
    Ok(())
}

/// From now on, fsync(2) and fdatasync(2) of this thread succeed and do nothing.
fn remove_syncs() -> Result<()> {
    let calls = [libc::SYS_fsync, libc::SYS_fdatasync].map(|call| (call, Vec::new()));
    let done = SeccompAction::Errno(0);
    let filter =
        SeccompFilter::new(calls.into(), SeccompAction::Allow, done, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

fn body(number: u64) -> Vec<u8> {
    format!(r#"{{"number":{number},"padding":"{:0>200}"}}"#, number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .into_bytes()
}

/// Opens the journal in a copy as the daemon would, and reads all of it.
fn look_into(folder: &Path, at: &Moment) -> Result<Copied> {
    let (dir, mark) = (folder.join("journal"), folder.join("mark"));
    check_signed(&dir, &mark)?;
    verify(&dir)?;
    let signed = newest(&dir)?.map(|note| Checkpoint::unverified(&note)).transpose()?;
    let signed_found = signed.map_or(0, |checkpoint| checkpoint.head.size);
    let (journal, recovered) = Journal::open(&dir, OpenOptions::default())?;
    for (number, record) in (0..).zip(Reader::open(&dir, 0)?) {
        let record = record?;
        ensure!(record.seq == number && record.body == body(number), "record {number} is another one");
    }
    let next = journal.append(&body(recovered.records))?;
    ensure!(next.seq == recovered.records, "the journal goes on with {}", next.seq);
    let cut = recovered.cut.map_or(0, |cut| cut.bytes);
    let (acknowledged, found, signed) = (at.records, recovered.records, at.signed);
    Ok(Copied { acknowledged, found, signed, signed_found, cut })
}

/// Fills a file system until nothing more goes in; gives the file that does it.
///
/// # Errors
/// When it fails in any other way.
pub fn fill(folder: &Path) -> Result<PathBuf> {
    use std::io::Write;
    let path = folder.join("filler");
    let mut file = File::create(&path)?;
    for block in [vec![7; 1 << 20], vec![7; 4096]] {
        loop {
            match file.write_all(&block).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(path)
}

/// How many copies each run makes: `TURNOUT_IMAGES`, or a few.
pub fn count() -> u32 {
    std::env::var("TURNOUT_IMAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(20)
}

/// Where chance begins: `TURNOUT_SEED`, or always the same.
pub fn seed() -> u64 {
    std::env::var("TURNOUT_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .filter(|seed| *seed > 0)
        .unwrap_or(0x5eed)
}

/// What the copies of one run come to, in a line.
pub fn summary(copies: &[Result<Copied>]) -> String {
    let good: Vec<&Copied> = copies.iter().flatten().collect();
    let records = good.iter().map(|copy| copy.found).max().unwrap_or(0);
    let missing: u64 = good.iter().map(|copy| copy.acknowledged.saturating_sub(copy.found)).sum();
    let torn = good.iter().filter(|copy| copy.cut > 0).count();
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for error in copies.iter().filter_map(|copy| copy.as_ref().err()) {
        *kinds.entry(format!("{error:#}").chars().take(120).collect()).or_default() += 1;
    }
    format!(
        "{} copies, up to {records} records; acknowledged and missing: {missing}; with a torn end: {torn}; refused: {kinds:?}",
        copies.len()
    )
}
