//! The Merkle tree as tiles (c2sp.org/tlog-tiles): files of 256 hashes, so that a proof reads a few of them instead of
//! every record. Made from the records and made again when they are missing; proofs are checked before they leave, so a
//! tile is never trusted. Only full tiles are kept: what comes after the last one is read from the segments.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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

/// The hashes of a tile; `None` where there is no such file, or it is not a whole tile.
fn read(dir: &Path, level: u32, number: u64) -> Result<Option<Vec<Hash>>> {
    let path = dir.join(path(level, number));
    let bytes = match fs::metadata(&path) {
        // A file of any other length is not read: it may be of any length.
        Ok(found) if found.len() == TILE_BYTES as u64 => fs::read(&path),
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error),
    };
    let bytes = bytes.map_err(JournalError::io("read", &path))?;
    let (hashes, []) = bytes.as_chunks::<{ Hash::BYTES }>() else { return Ok(None) };
    Ok((bytes.len() == TILE_BYTES).then(|| hashes.iter().copied().map(Hash::from).collect()))
}

/// Writes a tile: whole under its name, or not there.
fn write(dir: &Path, (level, number): (u32, u64), hashes: &[Hash]) -> Result<()> {
    let path = dir.join(path(level, number));
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
    /// As [`Reader::open`].
    pub fn open(dir: &Path) -> Result<Tiles> {
        let full = count(dir, u64::MAX >> 16);
        let mut tiles =
            Tiles { dir: dir.to_owned(), full, reader: Reader::open(dir, full * WIDTH)?, leaves: Vec::new() };
        if full > 0 {
            // The process may have died between a tile and the one above it.
            tiles.ascend(full - 1)?;
        }
        Ok(tiles)
    }

    /// Makes the tiles that the records written since complete, some hundred at most; true when none is left to be made.
    ///
    /// # Errors
    ///
    /// `Io`, `Damaged`; it can be called again.
    pub fn extend(&mut self) -> Result<bool> {
        for _ in 0..TILES_AT_A_TIME {
            while self.leaves.len() < WIDTH as usize {
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
    /// Not at all: every leaf is made from its record.
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
        let mut leaves = Vec::new();
        if tiled < size {
            let mut reader = Reader::open(dir, tiled)?;
            while tiled + (leaves.len() as u64) < size {
                let Some(record) = reader.next_record()? else {
                    let found = tiled + leaves.len() as u64;
                    return Err(JournalError::NoRecord { seq: size - 1, size: found });
                };
                leaves.push(record.leaf());
            }
        }
        Ok(Nodebook { dir: dir.to_owned(), tiled, leaves })
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
