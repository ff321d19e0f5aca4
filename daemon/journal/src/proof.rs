//! RFC 6962 proofs: that a record is in a tree, and that one tree is the beginning of another. Making one takes the roots
//! of a few dozen perfect subtrees, which `tiles.rs` and the records give; checking one takes the proof alone.

use crate::error::Result;
use crate::tree::{Hash, TreeHead, node};

/// Where the roots of perfect subtrees come from.
pub(crate) trait Nodes {
    /// Root over the leaves `index << height` up to, not including, `(index + 1) << height`.
    fn node(&mut self, height: u32, index: u64) -> Result<Hash>;
}

/// A run of leaves, the second not included. Where it is split, the left part is always perfect.
type Range = (u64, u64);

/// Audit path of leaf `index`, which is below `size`, in the tree of the first `size` leaves, lowest sibling first.
pub(crate) fn inclusion_proof(nodes: &mut dyn Nodes, index: u64, size: u64) -> Result<Vec<Hash>> {
    let mut range = (0, size);
    let mut path = Vec::new();
    while range.1 - range.0 > 1 {
        let (left, right) = split(range);
        let (towards, sibling) = if index < left.1 { (left, right) } else { (right, left) };
        path.push(root(nodes, sibling)?);
        range = towards;
    }
    path.reverse();
    Ok(path)
}

/// Proof that the tree of the first `old` leaves, at least one, is the beginning of the tree of the first `new`, at least
/// as many.
pub(crate) fn consistency_proof(nodes: &mut dyn Nodes, old: u64, new: u64) -> Result<Vec<Hash>> {
    let mut range = (0, new);
    let mut path = Vec::new();
    while old != range.1 {
        let (left, right) = split(range);
        let (towards, sibling) = if old <= left.1 { (left, right) } else { (right, left) };
        path.push(root(nodes, sibling)?);
        range = towards;
    }
    // The verifier has the old root already, unless the old tree ends inside the new one's right part.
    if range.0 > 0 {
        path.push(root(nodes, range)?);
    }
    path.reverse();
    Ok(path)
}

/// Root over a range that is a whole tree or a part that splitting one gives.
pub(crate) fn root(nodes: &mut dyn Nodes, range: Range) -> Result<Hash> {
    let length = range.1 - range.0;
    if length.is_power_of_two() {
        let height = length.trailing_zeros();
        return nodes.node(height, range.0 >> height);
    }
    let (left, right) = split(range);
    let left = root(nodes, left)?;
    Ok(node(left, root(nodes, right)?))
}

/// Splits two or more leaves at the largest power of two below their number.
fn split((first, end): Range) -> (Range, Range) {
    let middle = first + (end - first).next_power_of_two() / 2;
    ((first, middle), (middle, end))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::raw_leaf;
    use crate::tree::tests::{CT_LEAVES, naive_root};
    use proptest::prelude::*;

    /// Takes every subtree's root from the leaves, by definition.
    struct Leaves<'a>(&'a [Hash]);

    impl Nodes for Leaves<'_> {
        fn node(&mut self, height: u32, index: u64) -> Result<Hash> {
            let first = (index << height) as usize;
            Ok(naive_root(&self.0[first..first + (1 << height)]))
        }
    }

    fn inclusion(leaves: &[Hash], index: u64) -> Vec<Hash> {
        inclusion_proof(&mut Leaves(leaves), index, leaves.len() as u64).unwrap()
    }

    fn consistency(leaves: &[Hash], old: u64) -> Vec<Hash> {
        consistency_proof(&mut Leaves(leaves), old, leaves.len() as u64).unwrap()
    }

    /// The definition of RFC 6962 section 2.1.1, word for word.
    fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        match index.checked_sub(left.len()) {
            None => [naive_path(index, left), vec![naive_root(right)]].concat(),
            Some(index) => [naive_path(index, right), vec![naive_root(left)]].concat(),
        }
    }

    /// The definition of RFC 6962 section 2.1.2, word for word; `known` is its `b`.
    fn naive_subproof(old: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
        if old == leaves.len() {
            return if known { Vec::new() } else { vec![naive_root(leaves)] };
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        match old.checked_sub(left.len()) {
            None | Some(0) => [naive_subproof(old, left, known), vec![naive_root(right)]].concat(),
            Some(old) => [naive_subproof(old, right, false), vec![naive_root(left)]].concat(),
        }
    }

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
            hex(&inclusion(&leaves, 0)),
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ]
        );
        assert_eq!(
            hex(&consistency(&leaves, 6)),
            [
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn an_inclusion_proof_holds_for_its_leaf_place_and_tree_only(size in 1_u64..90, pick: prop::sample::Index) {
            let leaves = numbered(size);
            let index = pick.index(leaves.len()) as u64;
            let (leaf, root) = (leaves[index as usize], naive_root(&leaves));
            let path = inclusion(&leaves, index);
            prop_assert_eq!(&path, &naive_path(index as usize, &leaves));
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
            let path = consistency(&leaves, old_size);
            prop_assert_eq!(&path, &naive_subproof(old_size as usize, &leaves, true));
            prop_assert!(verify_consistency(old, new, &path));
            prop_assert!(!verify_consistency(head(old_size, raw_leaf(b"other")), new, &path));
            prop_assert!(!verify_consistency(old, head(size, raw_leaf(b"other")), &path));
            let longer = [path, vec![new.root]].concat();
            prop_assert!(!verify_consistency(old, new, &longer));
        }
    }
}
