//! What is signed about the journal, from strangers: notes with checkpoints, and proofs of single records.

use crate::journals::{folder, journal_in};
use turnout_journal::{Checkpoint, ECDSA, Note, NoteKey, ProofFile, log_origin, prove};

/// A key of this name; what it has signed is for the caller to say.
fn key(name: &str) -> Option<NoteKey> {
    NoteKey::new(name, ECDSA, b"key".to_vec()).ok()
}

/// A signed note, the checkpoint in it, a key's line: none is taken for signed that was not, and what is read is written
/// back byte for byte.
pub fn checkpoint(bytes: &[u8]) -> bool {
    if let Some(key) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<NoteKey>().ok()) {
        assert_eq!(key.to_string().as_bytes(), bytes);
        return true;
    }
    let Ok(note) = Note::parse(bytes) else { return false };
    assert_eq!(note.to_string().as_bytes(), bytes);
    let _ = Checkpoint::unverified(&note);
    let stranger = key("log").expect("a legal name");
    assert!(Checkpoint::of(&note, &[stranger], &|_, _, _| false).is_err());
    true
}

/// A checkpoint of a journal of some records, and a key's line.
pub fn checkpoints() -> Vec<Vec<u8>> {
    let (_, note) = signed();
    let line = key("log").expect("a legal name").to_string();
    vec![note.to_string().into_bytes(), line.into_bytes()]
}

/// The proof of a record: none without a signature.
pub fn proof(bytes: &[u8]) -> bool {
    let Ok(proof) = ProofFile::parse(bytes) else { return false };
    assert_eq!(ProofFile::parse(proof.to_string().as_bytes()).as_ref(), Ok(&proof));
    let stranger = key("log").expect("a legal name");
    assert!(proof.check(&[stranger], &|_, _, _| false).is_err());
    // As if every signature held: what follows must stand any tree, too.
    let named = proof.signed().signatures().first().and_then(|signature| key(&signature.name));
    named.is_some_and(|named| proof.check(&[named], &|_, _, _| true).is_ok())
}

/// Proofs of each record of a journal.
pub fn proofs() -> Vec<Vec<u8>> {
    let (folder, note) = signed();
    let proof = |seq| prove(folder.path(), seq, &note).expect("a record under the checkpoint");
    [0, 3].map(|seq| proof(seq).to_string().into_bytes()).into()
}

/// A journal of some records, and the checkpoint over all of them, as its key would have signed it.
fn signed() -> (tempfile::TempDir, Note) {
    let folder = folder();
    let head = journal_in(&folder).head();
    let origin = log_origin(folder.path()).expect("a journal has a name");
    let host = key(&origin).expect("a legal name");
    let note = Checkpoint { origin, head }.sign(&host, &|_| b"signature".to_vec());
    (folder, note.expect("a checkpoint is a short text"))
}
