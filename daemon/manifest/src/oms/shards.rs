//! Files that are covered piece by piece: each shard names its range, and the ranges of a file must follow one another
//! from its first byte, each of the stated size but the last.

use crate::Sha256;
use crate::document::printable;
use std::collections::BTreeMap;

/// Why shards do not make up their files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Not `path:start:end` with whole numbers.
    #[error("shard `{0}` is not `path:start:end` with numbers below 2^64 and without leading zeros")]
    Name(String),
    /// It does not begin where the one before ended.
    #[error("shard `{name}` begins at {start}, not at {due}")]
    Gap {
        /// The file.
        name: String,
        /// Where it begins.
        start: u64,
        /// Where the one before ended.
        due: u64,
    },
    /// It is empty, or longer than the stated size, or a shorter one came before it.
    #[error("shard of `{name}` from {start} to {end} does not fit shards of {size} bytes")]
    Length {
        /// The file.
        name: String,
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
        /// The stated size.
        size: u64,
    },
}

/// One range of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its first byte.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// Digest of its bytes.
    pub sha256: Sha256,
}

impl Shard {
    /// Splits at the last two colons: a path may have colons of its own.
    pub(super) fn parse(name: &str, sha256: Sha256) -> Result<(&str, Self), ShardError> {
        let mut parts = name.rsplitn(3, ':');
        let (end, start, file) = (parts.next(), parts.next(), parts.next());
        match (file, start.and_then(number), end.and_then(number)) {
            (Some(file), Some(start), Some(end)) => Ok((file, Self { start, end, sha256 })),
            _ => Err(ShardError::Name(printable(name))),
        }
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = digits.len() > 1 && digits.starts_with('0');
    if plain && !leading_zero { digits.parse().ok() } else { None }
}

/// Every file with its shards in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards {
    size: u64,
    /// At least one shard for each file, contiguous from 0.
    pub files: BTreeMap<String, Vec<Shard>>,
}

impl Shards {
    pub(super) fn of_size(size: u64) -> Self {
        Self { size, files: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, file: &str, shard: Shard) -> Result<(), ShardError> {
        let before = self.files.get(file).and_then(|shards| shards.last());
        let due = before.map_or(0, |before| before.end);
        let Shard { start, end, .. } = shard;
        let name = || printable(file);
        if start != due {
            return Err(ShardError::Gap { name: name(), start, due });
        }
        let whole_before = before.is_none_or(|before| before.end - before.start == self.size);
        if end <= start || end - start > self.size || !whole_before {
            return Err(ShardError::Length { name: name(), start, end, size: self.size });
        }
        self.files.entry(file.to_owned()).or_default().push(shard);
        Ok(())
    }
}
