//! RFC 6962 proofs: that a record is in a tree, and that one tree is the beginning of another.
//! Making a proof takes the leaf hashes of the whole tree; checking takes a few dozen hashes.

use crate::tree::{Hash, TreeHead, node};

/// Audit path of leaf `index` in the tree of these leaves, lowest sibling first; `None` when there is no such leaf.
pub fn inclusion_proof(leaves: &[Hash], index: u64) -> Option<Vec<Hash>> {
    let index = usize::try_from(index).ok().filter(|index| *index < leaves.len())?;
    let mut path = Vec::new();
    inclusion_path(leaves, index, &mut path);
    Some(path)
}

/// Proof that the tree of the first `old_size` leaves is the beginning of the tree of all; `None` when it is longer or empty.
pub fn consistency_proof(leaves: &[Hash], old_size: u64) -> Option<Vec<Hash>> {
    let old_size = usize::try_from(old_size).ok().filter(|size| (1..=leaves.len()).contains(size))?;
    let mut path = Vec::new();
    consistency_path(leaves, old_size, Known::Yes, &mut path);
    Some(path)
}

/// Whether `path` proves that `leaf` is number `index` of this tree.
pub fn verify_inclusion(leaf: Hash, index: u64, tree: TreeHead, path: &[Hash]) -> bool {
    if index >= tree.size {
        return false;
    }
    // RFC 9162 section 2.1.3.2: `position` and `last` walk up from the leaf level together.
    let (mut position, mut last) = (index, tree.size - 1);
    let mut hash = leaf;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node(*sibling, hash);
            skip_levels_without_sibling(&mut position, &mut last);
        } else {
            hash = node(hash, *sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && hash == tree.root
}

/// Whether `path` proves that the old tree is the beginning of the new one.
pub fn verify_consistency(old: TreeHead, new: TreeHead, path: &[Hash]) -> bool {
    if old.size == 0 || old.size > new.size {
        return false;
    }
    if old.size == new.size {
        return path.is_empty() && old.root == new.root;
    }
    // RFC 9162 section 2.1.4.2: an old tree that is one perfect subtree is its own first node.
    let (first, rest) = match path {
        _ if old.size.is_power_of_two() => (old.root, path),
        [first, rest @ ..] => (*first, rest),
        [] => return false,
    };
    let (mut position, mut last) = (old.size - 1, new.size - 1);
    while position & 1 == 1 {
        position >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut hash) = (first, first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            old_hash = node(*sibling, old_hash);
            hash = node(*sibling, hash);
            skip_levels_without_sibling(&mut position, &mut last);
        } else {
            hash = node(hash, *sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == old.root && hash == new.root
}

/// On the right border a node without a sibling moves up unchanged.
fn skip_levels_without_sibling(position: &mut u64, last: &mut u64) {
    while *position & 1 == 0 && *position != 0 {
        *position >>= 1;
        *last >>= 1;
    }
}

/// Whether the verifier already has the root of the subtree in hand (RFC 6962 calls the flag `b`).
#[derive(Clone, Copy)]
enum Known {
    Yes,
    No,
}

fn inclusion_path(leaves: &[Hash], index: usize, path: &mut Vec<Hash>) {
    if leaves.len() == 1 {
        return;
    }
    let (left, right) = split(leaves);
    if index < left.len() {
        inclusion_path(left, index, path);
        path.push(root(right));
    } else {
        inclusion_path(right, index - left.len(), path);
        path.push(root(left));
    }
}

fn consistency_path(leaves: &[Hash], old_size: usize, known: Known, path: &mut Vec<Hash>) {
    if old_size == leaves.len() {
        if let Known::No = known {
            path.push(root(leaves));
        }
        return;
    }
    let (left, right) = split(leaves);
    if old_size <= left.len() {
        consistency_path(left, old_size, known, path);
        path.push(root(right));
    } else {
        consistency_path(right, old_size - left.len(), Known::No, path);
        path.push(root(left));
    }
}

fn root(leaves: &[Hash]) -> Hash {
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = split(leaves);
    node(root(left), root(right))
}

/// Splits two or more leaves at the largest power of two below their number.
fn split(leaves: &[Hash]) -> (&[Hash], &[Hash]) {
    leaves.split_at(leaves.len().next_power_of_two() / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::raw_leaf;
    use crate::tree::tests::{CT_LEAVES, naive_root};
    use proptest::prelude::*;

    fn numbered(count: u64) -> Vec<Hash> {
        (0..count).map(|n| raw_leaf(&n.to_be_bytes())).collect()
    }

    fn head(size: u64, root: Hash) -> TreeHead {
        TreeHead { size, root }
    }

    fn hex(path: &[Hash]) -> Vec<String> {
        path.iter().map(Hash::to_string).collect()
    }

    #[test]
    fn proofs_over_the_certificate_transparency_leaves_are_the_published_ones() {
        let leaves: Vec<Hash> = CT_LEAVES.iter().map(|leaf| raw_leaf(leaf)).collect();
        assert_eq!(
            hex(&inclusion_proof(&leaves, 0).unwrap()),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
        assert_eq!(
            hex(&consistency_proof(&leaves, 6).unwrap()),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
    }

    #[test]
    fn no_proof_is_made_for_what_is_not_in_the_tree() {
        let leaves = numbered(3);
        assert_eq!(inclusion_proof(&leaves, 3), None);
        assert_eq!(inclusion_proof(&[], 0), None);
        assert_eq!(consistency_proof(&leaves, 4), None);
        assert_eq!(consistency_proof(&leaves, 0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_inclusion_proof_holds_for_its_leaf_place_and_tree_only(size in 1_u64..90, pick: prop::sample::Index) {
            let leaves = numbered(size);
            let index = pick.index(leaves.len()) as u64;
            let (leaf, root) = (leaves[index as usize], naive_root(&leaves));
            let path = inclusion_proof(&leaves, index).unwrap();
            prop_assert!(verify_inclusion(leaf, index, head(size, root), &path));
            prop_assert!(!verify_inclusion(raw_leaf(b"other"), index, head(size, root), &path));
            prop_assert!(!verify_inclusion(leaf, index, head(size, raw_leaf(b"other")), &path));
            prop_assert!(!verify_inclusion(leaf, size, head(size, root), &path));
            let longer = [path.clone(), vec![leaf]].concat();
            prop_assert!(!verify_inclusion(leaf, index, head(size, root), &longer));
            if let Some((_, shorter)) = path.split_last() {
                prop_assert!(!verify_inclusion(leaf, index, head(size, root), shorter));
                prop_assert!(!verify_inclusion(leaf, index ^ 1, head(size, root), &path));
            }
        }

        #[test]
        fn a_consistency_proof_holds_for_its_two_trees_only(size in 1_u64..90, pick: prop::sample::Index) {
            let leaves = numbered(size);
            let old_size = pick.index(leaves.len()) as u64 + 1;
            let old = head(old_size, naive_root(&leaves[..old_size as usize]));
            let new = head(size, naive_root(&leaves));
            let path = consistency_proof(&leaves, old_size).unwrap();
            prop_assert!(verify_consistency(old, new, &path));
            prop_assert!(!verify_consistency(head(old_size, raw_leaf(b"other")), new, &path));
            prop_assert!(!verify_consistency(old, head(size, raw_leaf(b"other")), &path));
            let longer = [path, vec![new.root]].concat();
            prop_assert!(!verify_consistency(old, new, &longer));
        }
    }
}
