//! A segment file: its name, its header, and which segments a directory holds.
//!
//! Header: `magic 8 | version u32 | log id 32 | first seq u64 | root before 32 | last trailer before 32 | created ns i64 |
//! one hash per set bit of first seq: the tree before, so that opening never reads older segments | crc32c u32`

use std::fs;
use std::path::Path;

use crate::error::{Flaw, JournalError, Result};
use crate::frame::Fields;
use crate::tree::{Hash, Tree, peaks_of};

/// Length of a header without the tree.
pub(crate) const HEADER_BYTES: usize = 128;

const MAGIC: [u8; 8] = *b"TURNOUTJ";
const VERSION: u32 = 1;
const CRC_BYTES: usize = 4;
/// No log gets this long, so numbers can be added without a check.
pub(crate) const MAX_RECORDS: u64 = 1 << 62;

/// What a segment says about itself and all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Drawn when the log was created; the same in all its segments.
    pub(crate) log_id: Hash,
    pub(crate) created_ns: i64,
    /// The tree before the first record; its size is the number of that record.
    pub(crate) tree: Tree,
    pub(crate) last_trailer: Hash,
}

impl Header {
    pub(crate) fn first_seq(&self) -> u64 {
        self.tree.size()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.tree.peaks().len() * Hash::BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(self.log_id.as_bytes());
        out.extend_from_slice(&self.first_seq().to_be_bytes());
        out.extend_from_slice(self.tree.root().as_bytes());
        out.extend_from_slice(self.last_trailer.as_bytes());
        out.extend_from_slice(&self.created_ns.to_be_bytes());
        self.tree.peaks().iter().for_each(|peak| out.extend_from_slice(peak.as_bytes()));
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads the header that these bytes begin with; gives its length too.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Header, usize)> {
        let mut fields = Fields(bytes);
        if fields.take()? != MAGIC || fields.take()? != VERSION.to_be_bytes() {
            return None;
        }
        let log_id = Hash::from(fields.take::<32>()?);
        let first_seq = u64::from_be_bytes(fields.take()?);
        if first_seq > MAX_RECORDS {
            return None;
        }
        let root = Hash::from(fields.take::<32>()?);
        let last_trailer = Hash::from(fields.take::<32>()?);
        let created_ns = i64::from_be_bytes(fields.take()?);
        let mut peaks = Vec::new();
        for _ in 0..peaks_of(first_seq) {
            peaks.push(Hash::from(fields.take::<32>()?));
        }
        let covered = HEADER_BYTES - CRC_BYTES + peaks.len() * Hash::BYTES;
        let crc = u32::from_be_bytes(fields.take()?);
        let tree = Tree::from_peaks(first_seq, peaks)?;
        let valid = crc32c::crc32c(&bytes[..covered]) == crc && tree.root() == root;
        valid.then_some((Header { log_id, created_ns, tree, last_trailer }, covered + CRC_BYTES))
    }

    /// Most bytes a header can take.
    pub(crate) const MAX_BYTES: usize = HEADER_BYTES + 64 * Hash::BYTES;

    /// What is wrong with this header where `before` is all that precedes it.
    pub(crate) fn check_continues(&self, before: &Header) -> std::result::Result<(), Flaw> {
        if self.log_id != before.log_id {
            return Err(Flaw::ForeignLog);
        }
        if self.tree != before.tree || self.last_trailer != before.last_trailer {
            return Err(Flaw::Link);
        }
        Ok(())
    }
}

/// File name of the segment that starts with this record.
pub(crate) fn file_name(first_seq: u64) -> String {
    format!("{first_seq:012}.seg")
}

/// First records of all segments in the directory, ascending. Files with other names are not looked at.
pub(crate) fn list(dir: &Path) -> Result<Vec<u64>> {
    numbered(dir, parse_file_name)
}

/// The numbers of the files whose names this reads, ascending.
pub(crate) fn numbered(dir: &Path, read: fn(&str) -> Option<u64>) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(JournalError::io("list", dir))? {
        let name = entry.map_err(JournalError::io("list", dir))?.file_name();
        found.extend(name.to_str().and_then(read));
    }
    found.sort_unstable();
    Ok(found)
}

fn parse_file_name(name: &str) -> Option<u64> {
    let first_seq = name.strip_suffix(".seg")?.parse().ok()?;
    // Only the one spelling that `file_name` gives: `+1.seg` and `1.seg` are not segments.
    (file_name(first_seq) == name).then_some(first_seq)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::raw_leaf;
    use proptest::prelude::*;

    fn header(records: u64) -> Header {
        let mut tree = Tree::empty();
        (0..records).for_each(|n| tree.push(raw_leaf(&n.to_be_bytes())));
        Header { log_id: Hash::of(b"log"), created_ns: -5, tree, last_trailer: Hash::of(b"trailer") }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_header_reads_back_and_any_flipped_bit_makes_it_invalid(records in 0_u64..40, bit: prop::sample::Index) {
            let header = header(records);
            let mut bytes = header.encode();
            prop_assert_eq!(bytes.len(), HEADER_BYTES + peaks_of(records) * Hash::BYTES);
            prop_assert_eq!(Header::parse(&bytes), Some((header, bytes.len())));
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::parse(&bytes), None);
        }
    }

    #[test]
    fn only_the_canonical_spelling_of_a_number_names_a_segment() {
        let cases = [
            ("000000000000.seg", Some(0)),
            ("000000000042.seg", Some(42)),
            ("1234567890123.seg", Some(1_234_567_890_123)),
            ("42.seg", None),
            ("+00000000042.seg", None),
            ("0000000000042.seg", None),
            ("000000000042.seg.new", None),
            ("lock", None),
        ];
        for (name, expected) in cases {
            assert_eq!(parse_file_name(name), expected, "{name}");
        }
    }
}
