//! What is sent to a witness (c2sp.org/tlog-witness). Sending it is left to others.

use std::fmt::Write;

use crate::checkpoint::base64;
use crate::note::Note;
use crate::tree::Hash;

/// Body of `add-checkpoint`: the checkpoint, and the proof that it goes on from the one of `old` records that the witness
/// has seen last; without hashes where it has seen none.
pub fn add_checkpoint(old: u64, proof: &[Hash], checkpoint: &Note) -> String {
    let mut text = format!("old {old}\n");
    for hash in proof {
        writeln!(text, "{}", base64(*hash)).expect("a text takes every text");
    }
    write!(text, "\n{checkpoint}").expect("a text takes every text");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_the_form_of_the_specification() {
        let note = "log\n5\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\u{2014} log AAAAAAE=\n";
        let parsed = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(add_checkpoint(0, &[], &parsed), format!("old 0\n\n{note}"));
        let proof = [Hash::from([0; 32]), Hash::from([1; 32])];
        let wanted = format!(
            "old 3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\
             AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\n{note}"
        );
        assert_eq!(add_checkpoint(3, &proof, &parsed), wanted);
    }
}
