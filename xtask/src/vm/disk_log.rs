//! Everything that was written to a guest's disk, in its order, as QEMU's `blklogwrites` records it in the format of the
//! kernel's Documentation/admin-guide/device-mapper/log-writes.rst. From it comes the disk as a power cut at any moment
//! would have left it: what was flushed before is there, what was not is there, or torn, or not, by chance.

use super::chance::Chance;
use anyhow::{Context, Result, ensure};
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const SECTOR: u64 = 512;
/// Bytes of an entry's head: sector, number of sectors, flags, length of data.
const HEAD: usize = 32;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// Largest write that is read back; QEMU makes none near it.
const WRITE_MAX: u64 = 64 << 20;

/// One entry of the log.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    /// Where on the disk, in bytes.
    place: u64,
    /// How much of it, in bytes.
    length: u64,
    flags: u64,
    /// Where its data lies in the log, in bytes.
    data: u64,
}

impl Entry {
    fn writes(&self) -> bool {
        self.flags & DISCARD == 0 && self.length > 0
    }

    /// Where the next entry begins.
    fn end(&self) -> u64 {
        if self.writes() { self.data + self.length } else { self.data }
    }
}

/// A log that was read.
pub struct DiskLog {
    file: File,
    entries: Vec<Entry>,
}

/// A disk on its way through a log: a file with everything that a moment has made durable.
pub struct Replay<'a> {
    log: &'a DiskLog,
    disk: File,
    /// Entries that are on the disk.
    done: usize,
    /// What a cut has overwritten, to be put back.
    undo: Vec<(u64, Vec<u8>)>,
}

/// What a cut left of the writes that no flush had followed.
#[derive(Debug, Default, PartialEq)]
pub struct Loss {
    kept: usize,
    torn: usize,
    lost: usize,
}

impl fmt::Display for Loss {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kept, torn, lost } = self;
        write!(out, "of the writes after the last flush {kept} are there, {torn} torn, {lost} lost")
    }
}

impl DiskLog {
    /// Reads a log; a torn end, as a killed QEMU leaves it, is cut off.
    ///
    /// # Errors
    /// When it is no log.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open `{}`", path.display()))?;
        let length = file.metadata()?.len();
        let mut head = [0; 28];
        file.read_exact_at(&mut head, 0).context("the disk's log has no head")?;
        ensure!(word(&head, 0) == MAGIC, "`{}` is no log of writes", path.display());
        let sector = u64::from(u32::from_le_bytes(head[24..28].try_into().context("four bytes")?));
        ensure!(sector == SECTOR, "the disk's log counts in sectors of {sector} bytes, not {SECTOR}");
        let mut entries: Vec<Entry> = Vec::new();
        let mut at = SECTOR;
        while at + SECTOR <= length {
            let mut head = [0; HEAD];
            file.read_exact_at(&mut head, at)?;
            let entry = Entry {
                place: word(&head, 0) * SECTOR,
                length: word(&head, 8) * SECTOR,
                flags: word(&head, 16),
                data: at + SECTOR,
            };
            ensure!(
                entry.length <= WRITE_MAX || !entry.writes(),
                "a write of {} bytes at {at}",
                entry.length
            );
            let nothing = entry.length == 0 && entry.flags & FLUSH == 0;
            if nothing || entry.end() > length {
                break;
            }
            at = entry.end();
            entries.push(entry);
        }
        Ok(Self { file, entries })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries a log of this many bytes had.
    pub fn entries_within(&self, bytes: u64) -> usize {
        self.entries.partition_point(|entry| entry.end() <= bytes)
    }

    /// How many bytes the log had after so many entries.
    pub fn bytes_of(&self, entries: usize) -> u64 {
        self.entries[..entries].last().map_or(SECTOR, Entry::end)
    }

    /// The entries that are surely on the disk at a moment: all before the last flush.
    fn durable_at(&self, moment: usize) -> usize {
        let flushed = self.entries[..moment].iter().rposition(|entry| entry.flags & FLUSH != 0);
        flushed.unwrap_or(0)
    }

    fn content(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut content = vec![0; usize::try_from(entry.length)?];
        self.file.read_exact_at(&mut content, entry.data).context("the disk's log cannot be read")?;
        Ok(content)
    }
}

impl<'a> Replay<'a> {
    /// Begins with the disk as it was before the log.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn begin(log: &'a DiskLog, disk: &Path) -> Result<Self> {
        let disk = File::options().read(true).write(true).open(disk)?;
        Ok(Self { log, disk, done: 0, undo: Vec::new() })
    }

    /// The log that it goes through.
    pub fn log(&self) -> &'a DiskLog {
        self.log
    }

    /// Makes the disk what a power cut after so many entries leaves. Moments must not go back.
    ///
    /// # Errors
    /// When log or disk fail.
    pub fn cut_at(&mut self, moment: usize, chance: &mut Chance) -> Result<Loss> {
        for (place, content) in self.undo.drain(..).rev() {
            self.disk.write_all_at(&content, place)?;
        }
        let durable = self.log.durable_at(moment);
        ensure!(durable >= self.done, "moments of a replay do not go back");
        for entry in &self.log.entries[self.done..durable] {
            if entry.writes() {
                self.disk.write_all_at(&self.log.content(entry)?, entry.place)?;
            }
        }
        self.done = durable;
        let mut loss = Loss::default();
        for entry in self.log.entries[durable..moment].iter().filter(|entry| entry.writes()) {
            let sectors = entry.length / SECTOR;
            let kept = match chance.below(4) {
                _ if entry.flags & FUA != 0 => sectors,
                0 | 1 => sectors,
                2 => chance.below(sectors),
                _ => 0,
            };
            match kept {
                0 => loss.lost += 1,
                kept if kept == sectors => loss.kept += 1,
                _ => loss.torn += 1,
            }
            self.write_for_now(entry, kept * SECTOR)?;
        }
        Ok(loss)
    }

    fn write_for_now(&mut self, entry: &Entry, bytes: u64) -> Result<()> {
        let length = usize::try_from(bytes)?;
        let mut before = vec![0; length];
        self.disk.read_exact_at(&mut before, entry.place)?;
        self.undo.push((entry.place, before));
        self.disk.write_all_at(&self.log.content(entry)?[..length], entry.place)?;
        Ok(())
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    /// Files of one test, removed at its end.
    struct Files(PathBuf);

    impl Files {
        fn of(test: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("turnout-disk-log-{}-{test}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        /// A log of these writes: sector, the byte that fills it, number of sectors; nothing for a flush.
        fn log(&self, writes: &[Option<(u64, u8, u64)>]) -> DiskLog {
            let mut bytes = vec![0; 512];
            bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[24..28].copy_from_slice(&512u32.to_le_bytes());
            for write in writes {
                let (sector, fill, sectors) = write.unwrap_or_default();
                let flags = if write.is_none() { FLUSH } else { 0 };
                let mut head = vec![0; 512];
                for (at, word) in [sector, sectors, flags].into_iter().enumerate() {
                    head[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
                }
                bytes.extend(head);
                bytes.extend(vec![fill; 512 * sectors as usize]);
            }
            let path = self.0.join("log");
            fs::write(&path, bytes).unwrap();
            DiskLog::read(&path).unwrap()
        }

        fn disk(&self) -> PathBuf {
            let path = self.0.join("disk");
            fs::write(&path, vec![b'.'; 512 * 8]).unwrap();
            path
        }

        /// The first byte of each sector.
        fn seen(&self) -> String {
            let content = fs::read(self.0.join("disk")).unwrap();
            content.chunks(512).map(|sector| char::from(sector[0])).collect()
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_flushed_is_there_at_every_later_moment_and_what_comes_later_is_not() {
        let files = Files::of("flushed");
        let log = files.log(&[
            Some((0, b'a', 2)),
            None,
            Some((1, b'b', 1)),
            Some((4, b'c', 2)),
            None,
            Some((7, b'd', 1)),
        ]);
        assert_eq!(log.len(), 6);
        let mut replay = Replay::begin(&log, &files.disk()).unwrap();
        let mut chance = Chance::of(3);
        assert_eq!(replay.cut_at(2, &mut chance).unwrap(), Loss::default());
        // The flush itself is the first entry not made durable by it; what was before it is.
        assert_eq!(files.seen(), "aa......");
        for _ in 0..20 {
            replay.cut_at(4, &mut chance).unwrap();
            let seen = files.seen();
            let possible = ["aa......", "ab......", "aa..cc..", "ab..cc..", "aa..c...", "ab..c..."];
            assert!(possible.contains(&seen.as_str()), "{seen}");
        }
        replay.cut_at(5, &mut chance).unwrap();
        assert_eq!(files.seen(), "ab..cc..");
        assert!(replay.cut_at(2, &mut chance).is_err());
    }

    #[test]
    fn writes_after_the_last_flush_are_there_torn_or_lost() {
        let files = Files::of("loss");
        let log = files.log(&[None, Some((0, b'a', 4))]);
        let mut replay = Replay::begin(&log, &files.disk()).unwrap();
        let mut chance = Chance::of(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            replay.cut_at(2, &mut chance).unwrap();
            seen.insert(files.seen());
        }
        for state in ["........", "aa......", "aaaa...."] {
            assert!(seen.contains(state), "{state} is not in {seen:?}");
        }
    }

    #[test]
    fn a_torn_end_of_the_log_is_left_out_and_positions_are_found_by_its_length() {
        let files = Files::of("torn");
        let log = files.log(&[Some((0, b'a', 2)), None, Some((1, b'b', 1))]);
        let (one, two) = (log.bytes_of(1), log.bytes_of(2));
        assert_eq!((one, two), (512 + 3 * 512, 512 + 4 * 512));
        assert_eq!(
            (log.entries_within(one - 1), log.entries_within(one), log.entries_within(two)),
            (0, 1, 2)
        );
        let path = files.0.join("log");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
        assert_eq!(DiskLog::read(&path).unwrap().len(), 2);
        fs::write(&path, vec![b'x'; 2048]).unwrap();
        assert!(DiskLog::read(&path).is_err());
    }
}
