//! fs-verity: the kernel holds a file to the root of a Merkle tree at each read and lets nobody write to it any more
//! (<https://docs.kernel.org/filesystems/fsverity.html>). Which files, and what follows, is left to the store.

use crate::{HostError, sys};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use turnout_manifest::Sha256;
use turnout_manifest::digest::Hasher;

/// Block of file and tree, bytes: what every kernel with 4 KiB pages takes.
pub(crate) const BLOCK: u32 = 4096;
/// Bytes of a block.
const BLOCK_BYTES: usize = BLOCK as usize;
/// Logarithm of [`BLOCK`] to the base 2, as the descriptor has it.
const BLOCK_LOG: u8 = 12;
/// Bytes of `struct fsverity_descriptor`.
const DESCRIPTOR_BYTES: usize = 256;

/// Computes what the kernel will measure of a file from its bytes as they arrive.
#[derive(Default)]
pub(crate) struct Measurer {
    block: Vec<u8>,
    /// Digests of each level of the tree that are not hashed into the one above yet.
    levels: Vec<Vec<u8>>,
    size: u64,
}

impl Measurer {
    /// Takes the next bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                let digest = hash_block(&std::mem::take(&mut self.block));
                self.push(0, digest);
            }
        }
    }

    fn push(&mut self, level: usize, digest: Sha256) {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == BLOCK_BYTES {
            let full = std::mem::take(&mut self.levels[level]);
            self.push(level + 1, hash_block(&full));
        }
        self.levels[level].extend(digest.0);
    }

    /// The file's digest: that of its `struct fsverity_descriptor`.
    pub(crate) fn finish(mut self) -> Sha256 {
        if !self.block.is_empty() {
            let digest = hash_block(&std::mem::take(&mut self.block));
            self.push(0, digest);
        }
        let root = self.root();
        let mut descriptor = [0; DESCRIPTOR_BYTES];
        // Version, SHA-256, size of the blocks, no salt, no signature.
        descriptor[..3].copy_from_slice(&[1, 1, BLOCK_LOG]);
        descriptor[8..16].copy_from_slice(&self.size.to_le_bytes());
        descriptor[16..48].copy_from_slice(&root);
        Sha256::of(&descriptor)
    }

    /// The one digest at the top; all zeroes for an empty file.
    fn root(&mut self) -> [u8; 32] {
        let mut level = 0;
        while level < self.levels.len() {
            if level + 1 == self.levels.len()
                && let Ok(root) = self.levels[level].as_slice().try_into()
            {
                return root;
            }
            let last = std::mem::take(&mut self.levels[level]);
            self.push(level + 1, hash_block(&last));
            level += 1;
        }
        [0; 32]
    }
}

/// The digest of a block, filled up with zeroes.
fn hash_block(bytes: &[u8]) -> Sha256 {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.update(&[0; BLOCK_BYTES][bytes.len()..]);
    hasher.finish()
}

/// Has the kernel hold a file to its present content. The file must be open for reading alone, and nowhere for writing.
pub(crate) fn enable(file: &File) -> io::Result<()> {
    sys::verity_enable(file.as_fd(), BLOCK)
}

/// What the kernel holds a file to; `None` for a file that it does not hold, for whatever reason.
///
/// # Errors
/// The kernel's own, where it cannot be asked.
pub(crate) fn measure(file: &File) -> io::Result<Option<Sha256>> {
    match sys::verity_measure(file.as_fd()) {
        Ok(digest) => Ok(Some(Sha256(digest))),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOTTY) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Tries it on a file of its own in this folder.
///
/// # Errors
/// What the kernel lacks.
pub(crate) fn try_in(folder: &Path) -> Result<(), HostError> {
    let path = folder.join(format!(".turnout-verity-{}", std::process::id()));
    let tried = try_on(&path);
    let _ = fs::remove_file(&path);
    tried
}

fn try_on(path: &Path) -> Result<(), HostError> {
    let mut file = File::create_new(path).map_err(HostError::os("create", path.display()))?;
    file.write_all(b"probe").map_err(HostError::os("write", path.display()))?;
    drop(file);
    let file = File::open(path).map_err(HostError::os("open", path.display()))?;
    enable(&file).map_err(HostError::os("ioctl FS_IOC_ENABLE_VERITY", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `fsverity digest` (fsverity-utils 1.5) says of as many bytes of 0, 1, ... 250, 0, 1, ...
    const MEASURED: [(usize, &str); 8] = [
        (0, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
        (1, "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
        (4096, "13e9b8848ae484a36acb3f3cac0ceb2f7601e96633d15c92f9bd3dd44e492157"),
        (4097, "b0d074abef4d544404facfab6ba242f6a8ccbde90f1325cd286f3c8aa8d0f8aa"),
        (128 * 4096, "d82861203d50ae9b60948504a704f35f5118bd229aeb1a22d6dae47b1767c4c4"),
        (128 * 4096 + 1, "4dc6905041c9c4ee73e13b53f63f5d289c46da359b664a965ead7f8cc4d799d4"),
        (256 * 4096 + 77, "33a9d76ef918b70a76d6fdec8c51d18c04c3215d79e5f4bb9f86b099a39c41a2"),
        (128 * 128 * 4096 + 5, "9dd5b05ed52fe1bb86fa899e3e1c06df348699182f0f5994b124d0fbf6a284ea"),
    ];

    #[test]
    fn a_file_measures_as_the_kernels_own_tool_says() {
        for (size, expected) in MEASURED {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            for piece in [7, 4096, 100_000] {
                if size / piece > 100_000 {
                    continue;
                }
                let mut measurer = Measurer::default();
                bytes.chunks(piece).for_each(|piece| measurer.update(piece));
                assert_eq!(measurer.finish().hex(), expected, "{size} bytes in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_file_that_the_kernel_does_not_hold_has_no_measure() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(measure(&file).unwrap(), None);
    }
}
