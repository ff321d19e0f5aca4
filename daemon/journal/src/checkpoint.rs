//! A checkpoint (c2sp.org/tlog-checkpoint): which log, how long, with which root; signed as a note. Where checkpoints
//! are kept is `signed.rs`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::note::{Holds, Note, NoteError, NoteKey};
use crate::segment::MAX_RECORDS;
use crate::tree::{Hash, TreeHead};

/// What the origins of all journals of this kind begin with; the id of the log follows.
const ORIGIN: &str = "turnout.journal/";

/// Why a text is no checkpoint, or proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// It is no signed note, or no known key has signed it.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The note's text is no checkpoint.
    #[error("not a checkpoint: {0}")]
    Form(&'static str),
}

/// Size and root of one log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How long it was, and its root.
    pub head: TreeHead,
}

/// The name that checkpoints give to the log with this id.
pub fn origin(log_id: Hash) -> String {
    format!("{ORIGIN}{log_id}")
}

impl Checkpoint {
    /// Reads the text of a note. Extension lines are allowed and not looked at.
    ///
    /// # Errors
    ///
    /// `Form`.
    pub fn parse(text: &str) -> Result<Checkpoint, CheckpointError> {
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Form("no final newline"))?.split('\n');
        let mut next = |what| lines.next().filter(|line| !line.is_empty()).ok_or(CheckpointError::Form(what));
        let origin = next("no origin")?.to_owned();
        let size = number(next("no size")?).ok_or(CheckpointError::Form("the size is no plain number"))?;
        if size > MAX_RECORDS {
            return Err(CheckpointError::Form("no log is of such a size"));
        }
        let root = hash(next("no root")?).ok_or(CheckpointError::Form("the root is no hash in base64"))?;
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Form("an empty line"));
        }
        Ok(Checkpoint { origin, head: TreeHead { size, root } })
    }

    /// The checkpoint in a note that one of these keys has signed.
    ///
    /// # Errors
    ///
    /// `Note` when none has, or a signature is false; `Form`.
    pub fn of(note: &Note, keys: &[NoteKey], holds: Holds<'_>) -> Result<Checkpoint, CheckpointError> {
        note.verify(keys, holds)?;
        Checkpoint::parse(note.text())
    }

    /// The checkpoint in a note of whoever.
    ///
    /// # Errors
    ///
    /// `Form`.
    pub fn unverified(note: &Note) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::parse(note.text())
    }

    /// The note with the signature that `sign` makes over the text with this key.
    ///
    /// # Errors
    ///
    /// `Note` for an origin that no note can hold.
    pub fn sign(&self, key: &NoteKey, sign: &dyn Fn(&[u8]) -> Vec<u8>) -> Result<Note, CheckpointError> {
        let text = self.to_string();
        let signature = key.signature(sign(text.as_bytes()));
        Ok(Note::new(text, vec![signature])?)
    }
}

/// The text that is signed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}\n{}\n{}", self.origin, self.head.size, base64(self.head.root))
    }
}

/// A number as the formats of C2SP write it: decimal, nothing in front of it.
pub(crate) fn number(text: &str) -> Option<u64> {
    let number = text.parse::<u64>().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A hash in base64.
pub(crate) fn hash(text: &str) -> Option<Hash> {
    let bytes: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(Hash::from(bytes))
}

pub(crate) fn base64(hash: Hash) -> String {
    STANDARD.encode(hash.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::tests::{holds, key, mark};
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_specification_reads_and_writes_back() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let read = Checkpoint::parse(text).unwrap();
        assert_eq!((read.origin.as_str(), read.head.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(read.to_string(), text);
        assert_eq!(Checkpoint::parse(&format!("{text}an extension\n")), Ok(read));
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        for bad in [
            String::new(),
            "\n".to_owned(),
            "log\n".to_owned(),
            format!("\n1\n{root}\n"),
            format!("log\n\n{root}\n"),
            format!("log\n01\n{root}\n"),
            format!("log\n+1\n{root}\n"),
            format!("log\n-1\n{root}\n"),
            format!("log\n18446744073709551616\n{root}\n"),
            format!("log\n4611686018427387905\n{root}\n"),
            format!("log\n1\n{root}"),
            format!("log\n1\n{}\n", &root[4..]),
            format!("log\n1\n{}\n", root.replace("2I=", "2J=")),
            format!("log\n1\n{}\n", root.replace('/', "_")),
            format!("log\n1\n{root}\n\nmore\n"),
        ] {
            assert!(Checkpoint::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_signed_checkpoint_is_one_by_its_key_alone() {
        let head = TreeHead { size: 7, root: Hash::of(b"root") };
        let made = Checkpoint { origin: origin(Hash::of(b"log")), head };
        let key_of_log = key(&made.origin);
        let note = made.sign(&key_of_log, &|message| mark(&key_of_log, message)).unwrap();
        assert_eq!(Checkpoint::of(&note, &[key_of_log], &holds), Ok(made));
        assert!(Checkpoint::of(&note, &[key("other")], &holds).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn checkpoints_survive_their_text(size in 0..=MAX_RECORDS, root: [u8; 32], origin in "[a-z./0-9]{1,40}") {
            let made = Checkpoint { origin, head: TreeHead { size, root: Hash::from(root) } };
            prop_assert_eq!(Checkpoint::parse(&made.to_string()), Ok(made));
        }
    }
}
