//! The Merkle tree as tiles (c2sp.org/tlog-tiles): files of 256 hashes, so that a proof reads a few of them instead of
//! every record. Made from the records and made again when they are missing; proofs are checked before they leave, so a
//! tile is never trusted. Only full tiles are kept: what comes after the last one is read from the segments. Of records that
//! were pruned the tiles are all that is left; where such records end inside a tile, a partial one is kept of them.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::begin;
use crate::error::{JournalError, Result};
use crate::proof::Nodes;
use crate::reader::Reader;
use crate::tree::{Hash, Tree, node};

/// Folder of all tiles, in the journal's.
const FOLDER: &str = "tile";
/// Hashes in a tile.
const WIDTH: u64 = 1 << WIDTH_BITS;
const WIDTH_BITS: u32 = 8;
/// Bytes of a tile.
const TILE_BYTES: usize = (WIDTH as usize) * Hash::BYTES;
/// Most tiles of leaves that one call of [`Tiles::extend`] makes, so that nobody waits for long.
const TILES_AT_A_TIME: usize = 256;

/// Path of a tile below the journal's folder: `tile/0/x001/234`.
fn path(level: u32, number: u64) -> PathBuf {
    let mut groups = vec![format!("{:03}", number % 1000)];
    let mut rest = number / 1000;
    while rest > 0 {
        groups.push(format!("x{:03}", rest % 1000));
        rest /= 1000;
    }
    let mut path = Path::new(FOLDER).join(level.to_string());
    path.extend(groups.iter().rev());
    path
}

/// Path of the partial tile of leaves with this number and so many hashes: `tile/0/x001/234.p/7`.
fn partial_path(number: u64, width: u64) -> PathBuf {
    let mut folder = path(0, number).into_os_string();
    folder.push(".p");
    Path::new(&folder).join(width.to_string())
}

/// The hashes of a tile; `None` where there is no such file, or it is not a whole tile.
fn read(dir: &Path, level: u32, number: u64) -> Result<Option<Vec<Hash>>> {
    read_hashes(&dir.join(path(level, number)), WIDTH)
}

/// So many hashes out of a file; `None` where there is no such file, or it holds another number of them.
fn read_hashes(path: &Path, count: u64) -> Result<Option<Vec<Hash>>> {
    let length = count * Hash::BYTES as u64;
    let bytes = match fs::metadata(path) {
        // A file of any other length is not read: it may be of any length.
        Ok(found) if found.len() == length => fs::read(path),
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(JournalError::io("read", path))?;
    let (hashes, []) = bytes.as_chunks::<{ Hash::BYTES }>() else { return Ok(None) };
    Ok((bytes.len() as u64 == length).then(|| hashes.iter().copied().map(Hash::from).collect()))
}

/// Writes a tile: whole under its name, or not there.
fn write(dir: &Path, tile: (u32, u64), hashes: &[Hash]) -> Result<()> {
    write_hashes(dir, &path(tile.0, tile.1), hashes)
}

fn write_hashes(dir: &Path, path: &Path, hashes: &[Hash]) -> Result<()> {
    let path = dir.join(path);
    let new = path.with_extension("new");
    let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    let written = fs::create_dir_all(path.parent().unwrap_or(dir))
        .and_then(|()| File::create(&new))
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(JournalError::io("write", &path))
}

/// How many tiles of leaves are there without a gap, at most `most`.
fn count(dir: &Path, most: u64) -> u64 {
    // They are made in order, so what is there is a beginning.
    let (mut there, mut beyond) = (0, most + 1);
    while beyond - there > 1 {
        let middle = there + (beyond - there) / 2;
        let found = fs::metadata(dir.join(path(0, middle - 1)));
        if found.is_ok_and(|found| found.len() == TILE_BYTES as u64) {
            there = middle
        } else {
            beyond = middle
        }
    }
    there
}

/// Number of records whose hashes are kept as full tiles.
pub fn tiled(dir: &Path) -> u64 {
    count(dir, u64::MAX >> 16) * WIDTH
}

/// The last record that the journal could begin with as far as hashes go: those of a tile that is not full are kept when
/// the records before it are pruned.
pub fn hashed(dir: &Path) -> u64 {
    tiled(dir) + WIDTH - 1
}

/// Gives the leaves from number `from` up to, not including, `to` out of tiles alone.
///
/// # Errors
///
/// `TileMissing`, `Io`, and what `each` gives.
pub(crate) fn leaves(
    dir: &Path,
    (from, to): (u64, u64),
    each: &mut dyn FnMut(Hash) -> Result<()>,
) -> Result<()> {
    for number in from / WIDTH..to.div_ceil(WIDTH) {
        let begin = number * WIDTH;
        let end = (to - begin).min(WIDTH);
        let partial = || match end {
            WIDTH => Ok(None),
            _ => read_hashes(&dir.join(partial_path(number, end)), end),
        };
        let hashes = match read(dir, 0, number)? {
            None => partial()?,
            full => full,
        };
        let missing = || JournalError::TileMissing { path: dir.join(path(0, number)) };
        let hashes = hashes.ok_or_else(missing)?;
        for hash in &hashes[from.saturating_sub(begin) as usize..end as usize] {
            each(*hash)?;
        }
    }
    Ok(())
}

/// Keeps the hashes of the last records before `to`, which do not fill a tile, as a partial one.
pub(crate) fn complete(dir: &Path, to: u64) -> Result<()> {
    let begin = to - to % WIDTH;
    if begin == to || read(dir, 0, to / WIDTH)?.is_some() {
        return Ok(());
    }
    let first = begin::first_record(dir)?.max(begin);
    let mut hashes = Vec::new();
    leaves(dir, (begin, first.min(to)), &mut |leaf| {
        hashes.push(leaf);
        Ok(())
    })?;
    let mut reader = Reader::open(dir, first)?;
    while begin + (hashes.len() as u64) < to {
        let Some(record) = reader.next_record()? else {
            return Err(JournalError::NoRecord { seq: to - 1, size: begin + hashes.len() as u64 });
        };
        hashes.push(record.leaf());
    }
    write_partial(dir, to, &hashes)
}

/// Writes the partial tile of the last leaves before `to`.
pub(crate) fn write_partial(dir: &Path, to: u64, hashes: &[Hash]) -> Result<()> {
    write_hashes(dir, &partial_path(to / WIDTH, to % WIDTH), hashes)
}

/// Copies the tiles of the first leaves, whose number is a multiple of a tile's, into another journal's folder.
pub(crate) fn copy(dir: &Path, to: &Path, size: u64) -> Result<()> {
    for number in 0..size / WIDTH {
        let missing = || JournalError::TileMissing { path: dir.join(path(0, number)) };
        write(to, (0, number), &read(dir, 0, number)?.ok_or_else(missing)?)?;
    }
    Ok(())
}

/// Number of the first leaf in the tile that the leaf before `to` lies in.
pub(crate) fn tile_begin(to: u64) -> u64 {
    to - to % WIDTH
}

/// Checks that the tiles lead from the first record that is there to the one that this segment begins with.
///
/// # Errors
///
/// `TilesDiffer`, `TileMissing`, `Damaged`, `Io`.
pub(crate) fn check(dir: &Path, to: u64) -> Result<()> {
    let first = begin::first_record(dir)?.min(to);
    let mut tree = if first == 0 { Tree::empty() } else { begin::tree_before(dir, first)? };
    leaves(dir, (first, to), &mut |leaf| {
        tree.push(leaf);
        Ok(())
    })?;
    let due = begin::tree_before(dir, to)?;
    if tree == due { Ok(()) } else { Err(JournalError::TilesDiffer { size: to }) }
}

/// Makes tiles as the journal grows.
pub struct Tiles {
    dir: PathBuf,
    /// Tiles of leaves that are there.
    full: u64,
    reader: Reader,
    /// Leaves after them, fewer than a tile's.
    leaves: Vec<Hash>,
}

impl Tiles {
    /// Takes up the tiles of the journal in `dir`.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`]; `TileMissing` when one is missing whose records were pruned.
    pub fn open(dir: &Path) -> Result<Tiles> {
        let full = count(dir, u64::MAX >> 16);
        let (tiled, first) = (full * WIDTH, begin::first_record(dir)?);
        if first >= tiled + WIDTH {
            return Err(JournalError::TileMissing { path: dir.join(path(0, full)) });
        }
        let mut before = Vec::new();
        if first > tiled {
            leaves(dir, (tiled, first), &mut |leaf| {
                before.push(leaf);
                Ok(())
            })?;
        }
        let reader = Reader::open(dir, tiled.max(first))?;
        let mut tiles = Tiles { dir: dir.to_owned(), full, reader, leaves: before };
        if full > 0 {
            // The process may have died between a tile and the one above it.
            tiles.ascend(full - 1)?;
        }
        Ok(tiles)
    }

    /// Makes the tiles that the first `durable` records complete, some hundred at most; true when none is left to be made.
    /// What follows these in the file may never reach the disk, and other records may take its place.
    ///
    /// # Errors
    ///
    /// `Io`, `Damaged`; it can be called again.
    pub fn extend(&mut self, durable: u64) -> Result<bool> {
        for _ in 0..TILES_AT_A_TIME {
            while self.leaves.len() < WIDTH as usize {
                if self.full * WIDTH + self.leaves.len() as u64 >= durable {
                    return Ok(true);
                }
                let Some(record) = self.reader.next_record()? else { return Ok(true) };
                self.leaves.push(record.leaf());
            }
            write(&self.dir, (0, self.full), &self.leaves)?;
            self.leaves.clear();
            self.full += 1;
            self.ascend(self.full - 1)?;
        }
        Ok(false)
    }

    /// Makes the tiles above this one of leaves, where it completes them.
    fn ascend(&mut self, mut number: u64) -> Result<()> {
        let mut level = 0;
        while number % WIDTH == WIDTH - 1 {
            let parent = number / WIDTH;
            if !self.dir.join(path(level + 1, parent)).exists() {
                let mut roots = Vec::new();
                for child in parent * WIDTH..=number {
                    let Some(hashes) = read(&self.dir, level, child)? else { return Ok(()) };
                    roots.push(perfect_root(&hashes));
                }
                write(&self.dir, (level + 1, parent), &roots)?;
            }
            (level, number) = (level + 1, parent);
        }
        Ok(())
    }
}

/// Root over a power of two of hashes.
fn perfect_root(hashes: &[Hash]) -> Hash {
    match hashes {
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node(perfect_root(left), perfect_root(right))
        }
    }
}

/// Whether tiles are used where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// As far as they go.
    Tiles,
    /// Only for records that are not there any more: every other leaf is made from its record.
    RecordsAlone,
}

/// The nodes of the tree over the first records of a journal.
pub(crate) struct Nodebook {
    dir: PathBuf,
    /// Leaves that tiles hold.
    tiled: u64,
    /// The leaves after them.
    leaves: Vec<Hash>,
}

impl Nodebook {
    /// Reads what is needed for the tree of `size` leaves.
    pub(crate) fn open(dir: &Path, size: u64, what: Use) -> Result<Nodebook> {
        let full = if what == Use::Tiles { count(dir, size / WIDTH) } else { 0 };
        let tiled = full * WIDTH;
        let first = begin::first_record(dir)?.min(size);
        let mut kept = Vec::new();
        if tiled < first {
            leaves(dir, (tiled, first), &mut |leaf| {
                kept.push(leaf);
                Ok(())
            })?;
        }
        if first.max(tiled) < size {
            let mut reader = Reader::open(dir, first.max(tiled))?;
            while tiled + (kept.len() as u64) < size {
                let Some(record) = reader.next_record()? else {
                    let found = tiled + kept.len() as u64;
                    return Err(JournalError::NoRecord { seq: size - 1, size: found });
                };
                kept.push(record.leaf());
            }
        }
        Ok(Nodebook { dir: dir.to_owned(), tiled, leaves: kept })
    }

    /// The node out of a tile, if there is one with it.
    fn tiled(&self, height: u32, index: u64) -> Result<Option<Hash>> {
        let (level, inside) = (height / WIDTH_BITS, height % WIDTH_BITS);
        let first = index << inside;
        let Some(hashes) = read(&self.dir, level, first / WIDTH)? else { return Ok(None) };
        let first = (first % WIDTH) as usize;
        Ok(Some(perfect_root(&hashes[first..first + (1 << inside)])))
    }
}

impl Nodes for Nodebook {
    fn node(&mut self, height: u32, index: u64) -> Result<Hash> {
        let (first, end) = (index << height, (index + 1) << height);
        if let Some(first) = first.checked_sub(self.tiled) {
            let range = first as usize..(end - self.tiled) as usize;
            let mut tree = Tree::empty();
            self.leaves[range].iter().for_each(|leaf| tree.push(*leaf));
            return Ok(tree.root());
        }
        if end <= self.tiled
            && let Some(found) = self.tiled(height, index)?
        {
            return Ok(found);
        }
        if height == 0 {
            return Err(JournalError::TileMissing { path: self.dir.join(path(0, index / WIDTH)) });
        }
        Ok(node(self.node(height - 1, 2 * index)?, self.node(height - 1, 2 * index + 1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        for (number, wanted) in [
            (0, "tile/3/000"),
            (999, "tile/3/999"),
            (1000, "tile/3/x001/000"),
            (1_234_067, "tile/3/x001/x234/067"),
        ] {
            assert_eq!(path(3, number), Path::new(wanted));
        }
    }
}
