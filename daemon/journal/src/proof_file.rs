//! A proof as a file (c2sp.org/tlog-proof): one record, its place, the hashes beside it and the signed checkpoint. Whoever
//! has the key can check it, without the journal, the host or this program.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::checkpoint::{Checkpoint, CheckpointError, base64, hash, number};
use crate::frame::MAX_BODY_BYTES;
use crate::note::{Holds, NOTE_MAX, Note, NoteError, NoteKey};
use crate::proof::verify_inclusion;
use crate::replay::Record;
use crate::tree::{Hash, raw_leaf};

/// Longest proof, bytes: a record of the greatest size in base64, and a note.
pub const PROOF_MAX: usize = MAX_BODY_BYTES / 3 * 4 + NOTE_MAX + (16 << 10);
/// Most hashes in a proof.
pub const HASHES_MAX: usize = 63;
const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// Bytes of a leaf before the record's body: number and time.
const LEAF_HEAD: usize = 16;

/// Why a file proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// It does not have the form.
    #[error("not a proof: {0}")]
    Form(&'static str),
    /// Its checkpoint is none, or no known key has signed it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The record in it is not the one of that number.
    #[error("the record in it is number {record}, the proof is for {index}")]
    OtherRecord {
        /// Number in the record.
        record: u64,
        /// Number in the proof.
        index: u64,
    },
    /// The hashes do not lead from the record to the root.
    #[error("record {index} is not in the signed tree of {size} records")]
    NotIncluded {
        /// Number of the record.
        index: u64,
        /// Size of the tree.
        size: u64,
    },
}

impl From<NoteError> for ProofError {
    fn from(error: NoteError) -> Self {
        ProofError::Checkpoint(error.into())
    }
}

/// One record with the proof that it is in a signed tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofFile {
    /// What the leaf is the hash of: number, time, body. Carried as the format's opaque data.
    leaf: Vec<u8>,
    index: u64,
    path: Vec<Hash>,
    signed: Note,
}

/// What a proof has proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The record.
    pub record: Record,
    /// The checkpoint it is under.
    pub checkpoint: Checkpoint,
}

impl ProofFile {
    pub(crate) fn new(record: &Record, path: Vec<Hash>, signed: Note) -> ProofFile {
        let leaf = [&record.seq.to_be_bytes()[..], &record.time_ns.to_be_bytes(), &record.body].concat();
        ProofFile { leaf, index: record.seq, path, signed }
    }

    /// Reads a proof; nothing in it is checked yet.
    ///
    /// # Errors
    ///
    /// `Form`, also for one without its record; `Checkpoint`.
    pub fn parse(bytes: &[u8]) -> Result<ProofFile, ProofError> {
        if bytes.len() > PROOF_MAX {
            return Err(ProofError::Form("it is too long"));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| ProofError::Form("it is not UTF-8"))?;
        let (head, note) = text.split_once("\n\n").ok_or(ProofError::Form("no checkpoint follows"))?;
        let mut lines = head.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(ProofError::Form("the first line is not `c2sp.org/tlog-proof@v1`"));
        }
        let mut field = |name, missing| {
            lines.next().and_then(|line| line.strip_prefix(name)).ok_or(ProofError::Form(missing))
        };
        let leaf = field("extra ", "it does not carry its record")?;
        let leaf = STANDARD.decode(leaf).map_err(|_| ProofError::Form("its record is not base64"))?;
        if leaf.len() < LEAF_HEAD || leaf.len() > LEAF_HEAD + MAX_BODY_BYTES {
            return Err(ProofError::Form("its record is too short or too long"));
        }
        let index = number(field("index ", "no index")?).ok_or(ProofError::Form("the index is no number"))?;
        let path: Option<Vec<Hash>> = lines.map(hash).collect();
        let path = path.ok_or(ProofError::Form("a line that is no hash in base64"))?;
        if path.len() > HASHES_MAX {
            return Err(ProofError::Form("it has more than 63 hashes"));
        }
        Ok(ProofFile { leaf, index, path, signed: Note::parse(note.as_bytes())? })
    }

    /// The signed checkpoint in it.
    pub fn signed(&self) -> &Note {
        &self.signed
    }

    /// Checks the signature with these keys, and the way from the record to the signed root.
    ///
    /// # Errors
    ///
    /// `Checkpoint`, `OtherRecord`, `NotIncluded`.
    pub fn check(&self, keys: &[NoteKey], holds: Holds<'_>) -> Result<Proven, ProofError> {
        let checkpoint = Checkpoint::of(&self.signed, keys, holds)?;
        let record = self.record()?;
        if record.seq != self.index {
            return Err(ProofError::OtherRecord { record: record.seq, index: self.index });
        }
        if !verify_inclusion(raw_leaf(&self.leaf), self.index, checkpoint.head, &self.path) {
            return Err(ProofError::NotIncluded { index: self.index, size: checkpoint.head.size });
        }
        Ok(Proven { record, checkpoint })
    }

    fn record(&self) -> Result<Record, ProofError> {
        let short = || ProofError::Form("its record is too short");
        let (seq, rest) = self.leaf.split_first_chunk().ok_or_else(short)?;
        let (time, body) = rest.split_first_chunk().ok_or_else(short)?;
        Ok(Record { seq: u64::from_be_bytes(*seq), time_ns: i64::from_be_bytes(*time), body: body.to_vec() })
    }
}

/// The file.
impl fmt::Display for ProofFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{FIRST_LINE}\nextra {}\nindex {}", STANDARD.encode(&self.leaf), self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(out, "{}", base64(*hash)))?;
        write!(out, "\n{}", self.signed)
    }
}
