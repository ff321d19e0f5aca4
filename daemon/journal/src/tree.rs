//! RFC 6962 Merkle tree over the records, kept as a compact range: the roots of its perfect subtrees.
//! Proofs are in `proof.rs`.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// A SHA-256 value: of a leaf, a subtree, a root, a trailer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Length in bytes.
    pub const BYTES: usize = 32;

    /// Thirty-two zero bytes: stands for "the trailer before the first one".
    pub(crate) const ZERO: Hash = Hash([0; 32]);

    /// SHA-256 of the bytes, without any prefix.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(Sha256::digest(bytes).into())
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Hash {
    fn from(bytes: [u8; 32]) -> Self {
        Hash(bytes)
    }
}

/// Lower-case hexadecimal.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash has 64 lower-case hexadecimal digits")]
pub struct NoHash;

impl FromStr for Hash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<Self, NoHash> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NoHash),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(NoHash) };
        let bytes: Vec<u8> = pairs
            .iter()
            .map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?))
            .collect::<Result<_, _>>()?;
        bytes.try_into().map(Hash).map_err(|_| NoHash)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Leaf of a record: `SHA-256(0x00 || seq u64be || time_ns i64be || body)`.
pub fn record_leaf(seq: u64, time_ns: i64, body: &[u8]) -> Hash {
    // In one piece: short updates cost as much as a tenth of the hash.
    let mut before = [0; 17];
    before[1..9].copy_from_slice(&seq.to_be_bytes());
    before[9..].copy_from_slice(&time_ns.to_be_bytes());
    Hash(Sha256::new_with_prefix(before).chain_update(body).finalize().into())
}

/// Leaf of any bytes, as RFC 6962 section 2.1 has it: `SHA-256(0x00 || data)`.
pub fn raw_leaf(data: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0x00]).chain_update(data).finalize().into())
}

/// Inner node: `SHA-256(0x01 || left || right)`.
pub(crate) fn node(left: Hash, right: Hash) -> Hash {
    let mut both = [0x01; 1 + 2 * Hash::BYTES];
    both[1..=Hash::BYTES].copy_from_slice(&left.0);
    both[1 + Hash::BYTES..].copy_from_slice(&right.0);
    Hash::of(&both)
}

/// Size and root of a tree at one moment: what a checkpoint states and proofs are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeHead {
    /// Number of leaves.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
}

/// A growing tree that remembers one hash per set bit of its size, whatever its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// Roots of the perfect subtrees, largest (leftmost) first.
    peaks: Vec<Hash>,
}

impl Tree {
    /// The tree without leaves.
    pub fn empty() -> Tree {
        Tree { size: 0, peaks: Vec::new() }
    }

    /// Takes up a tree from its size and peaks; `None` when their number does not fit the size.
    pub(crate) fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Tree> {
        (peaks.len() == peaks_of(size)).then_some(Tree { size, peaks })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf on the right.
    pub fn push(&mut self, leaf: Hash) {
        self.size += 1;
        // As with carries in a binary counter: each trailing zero bit closes one more perfect subtree.
        let mut subtree = leaf;
        for _ in 0..self.size.trailing_zeros() {
            let left = self.peaks.pop().expect("a carry has a subtree on its left");
            subtree = node(left, subtree);
        }
        self.peaks.push(subtree);
    }

    /// Size and root.
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.size, root: self.root() }
    }

    /// Root hash; of the empty tree the hash of nothing.
    pub fn root(&self) -> Hash {
        self.peaks.iter().rev().copied().reduce(|right, left| node(left, right)).unwrap_or(Hash::of(b""))
    }
}

/// Number of perfect subtrees in a tree of this size.
pub(crate) fn peaks_of(size: u64) -> usize {
    size.count_ones() as usize
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Leaves and roots that Certificate Transparency implementations share as test vectors.
    pub(crate) const CT_LEAVES: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    const CT_ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    /// The definition of RFC 6962 section 2.1, word for word.
    pub(crate) fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of(b""),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                node(naive_root(&leaves[..split]), naive_root(&leaves[split..]))
            }
        }
    }

    #[test]
    fn roots_of_the_certificate_transparency_leaves_are_the_published_ones() {
        let mut tree = Tree::empty();
        assert_eq!(tree.root().to_string(), CT_ROOTS[0]);
        for (leaf, root) in CT_LEAVES.iter().zip(&CT_ROOTS[1..]) {
            tree.push(raw_leaf(leaf));
            assert_eq!(tree.root().to_string(), *root);
        }
    }

    #[test]
    fn a_hash_survives_its_text_and_no_other_text_is_one() {
        let hash = Hash::of(b"x");
        let text = hash.to_string();
        assert_eq!(text.parse(), Ok(hash));
        for bad in [&text[1..], &text.to_uppercase(), &format!("{text}00"), "", "é"] {
            assert_eq!(bad.parse::<Hash>(), Err(NoHash), "{bad}");
        }
    }

    #[test]
    fn a_record_leaf_is_the_raw_leaf_of_its_number_time_and_body() {
        let bytes = b"\0\0\0\0\0\0\0\x07\xff\xff\xff\xff\xff\xff\xff\xfe{}";
        assert_eq!(record_leaf(7, -2, b"{}"), raw_leaf(bytes));
    }

    proptest! {
        #[test]
        fn a_tree_taken_up_from_its_peaks_grows_like_the_naive_one(before in 0_usize..70, after in 0_usize..70) {
            let leaves: Vec<Hash> = (0..before + after).map(|n| raw_leaf(&n.to_be_bytes())).collect();
            let mut tree = Tree::empty();
            leaves[..before].iter().for_each(|leaf| tree.push(*leaf));
            let mut tree = Tree::from_peaks(tree.size(), tree.peaks().to_vec()).unwrap();
            leaves[before..].iter().for_each(|leaf| tree.push(*leaf));
            prop_assert_eq!(tree.root(), naive_root(&leaves));
        }
    }
}
