//! How far a reader of a journal is, as the text that it keeps between two runs: `NEXT SAFE BOOT LEAF`. Whoever prunes
//! reads it too, and takes nothing that a reader may still have to read again.

use std::str::FromStr;

use crate::tree::Hash;

/// Longest text of a cursor, bytes: two numbers, a boot's id, a hash, and what is between them.
pub const CURSOR_MAX: u64 = 192;

/// A place in a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderPlace {
    /// The record that comes next while the machine runs.
    pub next: u64,
    /// The record that comes next after a power cut: everything before it is on the receiver's disk.
    pub safe: u64,
    /// The boot that `next` is of; absent in the text of earlier versions.
    pub boot: Option<String>,
    /// Leaf of the record before `next`: where the journal has another one, its end was lost since. Absent where there is no
    /// such record, and in the text of earlier versions.
    pub leaf: Option<Hash>,
}

/// A text that is no place in a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place in a journal: a record's number is missing, or more follows")]
pub struct NoCursor;

impl FromStr for ReaderPlace {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        if text.len() as u64 > CURSOR_MAX {
            return Err(NoCursor);
        }
        let number = |word: &str| word.parse().map_err(|_| NoCursor);
        let place = |next, safe, boot: Option<&str>, leaf| {
            let (next, safe, boot) = (number(next)?, number(safe)?, boot.map(str::to_owned));
            Ok(ReaderPlace { next, safe, boot, leaf })
        };
        match text.split_whitespace().collect::<Vec<_>>()[..] {
            [next] => place(next, "0", None, None),
            [next, safe, boot] => place(next, safe, Some(boot), None),
            [next, safe, boot, leaf] => {
                place(next, safe, Some(boot), Some(leaf.parse().map_err(|_| NoCursor)?))
            }
            _ => Err(NoCursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_number_or_two_and_a_boot_and_perhaps_a_leaf() {
        let place = |next, safe, boot: Option<&str>, leaf| {
            Ok(ReaderPlace { next, safe, boot: boot.map(str::to_owned), leaf })
        };
        assert_eq!("42\n".parse(), place(42, 0, None, None));
        assert_eq!("42 7 b-1\n".parse(), place(42, 7, Some("b-1"), None));
        let leaf = Hash::of(b"leaf");
        assert_eq!(format!("42 7 b-1 {leaf}\n").parse(), place(42, 7, Some("b-1"), Some(leaf)));
        let long = format!("1 2 {}", "b".repeat(200));
        for bad in ["", "x", "-1", "1 2", "1 x b", "x 1 b", "1 2 3 4", "18446744073709551616", long.as_str()]
        {
            assert_eq!(bad.parse::<ReaderPlace>(), Err(NoCursor), "{bad:?}");
        }
    }
}
