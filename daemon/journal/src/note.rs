//! Signed notes (c2sp.org/signed-note): a text, a blank line, and lines with signatures. What the text says is left to
//! others; so is the arithmetic of signatures, which callers bring.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::tree::Hash;

/// Longest note, bytes: room for sixteen post-quantum signatures, which the format demands.
pub const NOTE_MAX: usize = 128 << 10;
/// Most signatures on one note.
pub const SIGNATURES_MAX: usize = 64;
/// Longest name of a key, bytes.
const NAME_MAX: usize = 255;
/// What a signature line begins with.
const DASH: &str = "\u{2014} ";

/// Signature type of ECDSA over the text.
pub const ECDSA: u8 = 0x02;
/// Signature type of a timestamped Ed25519 cosignature (c2sp.org/tlog-cosignature).
pub const COSIGNATURE: u8 = 0x04;

/// Why a text is no note, or a note proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// Longer than [`NOTE_MAX`].
    #[error("the note is longer than {NOTE_MAX} bytes")]
    TooLong,
    /// Not UTF-8, a control character, no final newline, or no blank line before signatures.
    #[error("not a signed note: {0}")]
    Form(&'static str),
    /// A line after the blank line that is no signature.
    #[error("line {0} is no signature line")]
    SignatureLine(usize),
    /// A signature by a known key that does not hold.
    #[error("the signature of `{0}` does not hold")]
    BadSignature(String),
    /// No signature by a known key.
    #[error("no known key has signed: {}", .0.join(", "))]
    NotSigned(Vec<String>),
    /// A text that is no key of a note.
    #[error("not a key of signed notes: {0}")]
    Key(&'static str),
}

/// A text and who signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// Name of the key.
    pub name: String,
    /// Tells keys of one name apart; never an authority.
    pub key_id: [u8; 4],
    /// What the key's algorithm made.
    pub signature: Vec<u8>,
}

impl Note {
    /// A note of this text, which ends in a newline, has no blank line and no other control character.
    ///
    /// # Errors
    ///
    /// `Form` for any other text.
    pub fn new(text: String, signatures: Vec<NoteSignature>) -> Result<Note, NoteError> {
        let note = Note { text, signatures };
        // What is written must be what is read.
        Note::parse(note.to_string().as_bytes()).and_then(|read| {
            if read == note { Ok(note) } else { Err(NoteError::Form("the text has a blank line at its end")) }
        })
    }

    /// Reads a note. No signature is checked yet: see [`Note::verify`].
    ///
    /// # Errors
    ///
    /// `TooLong`, `Form`, `SignatureLine`.
    pub fn parse(bytes: &[u8]) -> Result<Note, NoteError> {
        if bytes.len() > NOTE_MAX {
            return Err(NoteError::TooLong);
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Form("it is not UTF-8"))?;
        if whole.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
            return Err(NoteError::Form("it has a control character"));
        }
        if !whole.ends_with('\n') {
            return Err(NoteError::Form("it does not end with a newline"));
        }
        let blank = whole.rfind("\n\n").ok_or(NoteError::Form("no blank line stands before signatures"))?;
        let (text, lines) = (&whole[..=blank], &whole[blank + 2..]);
        if text.trim_matches('\n').is_empty() {
            return Err(NoteError::Form("it has no text"));
        }
        let before = text.lines().count() + 1;
        let signatures = (before + 1..)
            .zip(lines.lines())
            .map(|(number, line)| NoteSignature::parse(line).ok_or(NoteError::SignatureLine(number)))
            .collect::<Result<Vec<_>, _>>()?;
        if signatures.is_empty() || signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::Form("a note has 1 to 64 signatures"));
        }
        Ok(Note { text: text.to_owned(), signatures })
    }

    /// What is signed, its final newline included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every signature, known or not.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The same text with these signatures too; one of the same key is replaced.
    ///
    /// # Errors
    ///
    /// `Form` when there would be more than [`SIGNATURES_MAX`].
    pub fn with(&self, more: Vec<NoteSignature>) -> Result<Note, NoteError> {
        let mut signatures = self.signatures.clone();
        let same = |one: &NoteSignature, other: &NoteSignature| {
            (&one.name, one.key_id) == (&other.name, other.key_id)
        };
        signatures.retain(|old| !more.iter().any(|new| same(old, new)));
        signatures.extend(more);
        Note::new(self.text.clone(), signatures)
    }

    /// The known keys that have signed: at least one, and no signature of a known key is false. `holds` is asked whether
    /// a key has made a signature over a message.
    ///
    /// # Errors
    ///
    /// `BadSignature`, `NotSigned`.
    pub fn verify<'a>(&self, keys: &'a [NoteKey], holds: Holds<'_>) -> Result<Vec<&'a NoteKey>, NoteError> {
        let mut signed = Vec::new();
        for signature in &self.signatures {
            let known = keys.iter().find(|key| key.name == signature.name && key.id() == signature.key_id);
            let Some(key) = known else { continue };
            let message = key.message(&self.text, &signature.signature);
            let good = message.is_some_and(|(message, signature)| holds(key, &message, signature));
            if !good {
                return Err(NoteError::BadSignature(signature.name.clone()));
            }
            signed.push(key);
        }
        if signed.is_empty() {
            return Err(NoteError::NotSigned(self.signatures.iter().map(|one| one.name.clone()).collect()));
        }
        Ok(signed)
    }
}

/// Whether a key has made this signature over this message: `(key, message, signature)`.
pub type Holds<'a> = &'a dyn Fn(&NoteKey, &[u8], &[u8]) -> bool;

/// The note as it is written down.
impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(out, "{signature}"))
    }
}

impl NoteSignature {
    /// Reads one line, without its newline; `None` for anything else.
    pub fn parse(line: &str) -> Option<NoteSignature> {
        let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        let (key_id, signature) = bytes.split_first_chunk::<4>()?;
        let whole = is_name(name) && !signature.is_empty();
        whole.then(|| NoteSignature { name: name.to_owned(), key_id: *key_id, signature: signature.to_vec() })
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id[..], &self.signature].concat();
        write!(out, "{DASH}{} {}", self.name, STANDARD.encode(bytes))
    }
}

/// A public key with the name and the algorithm under which it signs notes. As text: a *vkey*, `NAME+ID+BASE64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    kind: u8,
    public: Vec<u8>,
}

impl NoteKey {
    /// The key of this name and signature type.
    ///
    /// # Errors
    ///
    /// `Key` for a name that is empty, too long, or has a space, a plus or a control character.
    pub fn new(name: &str, kind: u8, public: Vec<u8>) -> Result<NoteKey, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Key("a name has 1 to 255 bytes, no space and no plus"));
        }
        Ok(NoteKey { name: name.to_owned(), kind, public })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its signature type.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// The key: SubjectPublicKeyInfo in DER for [`ECDSA`], 32 bytes for [`COSIGNATURE`].
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The first four bytes of a hash of the key.
    pub fn id(&self) -> [u8; 4] {
        let hash = match self.kind {
            ECDSA => Hash::of(&self.public),
            kind => Hash::of(&[self.name.as_bytes(), b"\n", &[kind], &self.public].concat()),
        };
        *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
    }

    /// A signature of this key as a line.
    pub fn signature(&self, signature: Vec<u8>) -> NoteSignature {
        NoteSignature { name: self.name.clone(), key_id: self.id(), signature }
    }

    /// What this key's algorithm signs for a note of this text, and the signature in it; `None` when it is too short.
    fn message<'s>(&self, text: &str, signature: &'s [u8]) -> Option<(Vec<u8>, &'s [u8])> {
        if self.kind != COSIGNATURE {
            return Some((text.as_bytes().to_vec(), signature));
        }
        let (time, signature) = signature.split_first_chunk::<8>()?;
        Some((cosigned(u64::from_be_bytes(*time), text), signature))
    }
}

/// What a witness signs at this time, seconds since 1970 (c2sp.org/tlog-cosignature, Ed25519).
pub fn cosigned(time: u64, text: &str) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{text}").into_bytes()
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    (1..=NAME_MAX).contains(&name.len()) && name.chars().all(legal)
}

impl fmt::Display for NoteKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = u32::from_be_bytes(self.id());
        let bytes = [&[self.kind][..], &self.public].concat();
        write!(out, "{}+{id:08x}+{}", self.name, STANDARD.encode(bytes))
    }
}

impl FromStr for NoteKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<NoteKey, NoteError> {
        let form = || NoteError::Key("it must be `NAME+ID+BASE64`");
        let (name, rest) = text.split_once('+').ok_or_else(form)?;
        let (id, encoded) = rest.split_once('+').ok_or_else(form)?;
        if encoded.len() > NOTE_MAX {
            return Err(NoteError::TooLong);
        }
        let bytes = STANDARD.decode(encoded).map_err(|_| NoteError::Key("its end is not base64"))?;
        let (kind, public) = bytes.split_first().ok_or_else(form)?;
        let key = NoteKey::new(name, *kind, public.to_vec())?;
        if format!("{:08x}", u32::from_be_bytes(key.id())) != id {
            return Err(NoteError::Key("its id is not the one of its key"));
        }
        Ok(key)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// In the place of a signature: a hash of key and message. Real keys are in the crates that have them.
    pub(crate) fn mark(key: &NoteKey, message: &[u8]) -> Vec<u8> {
        Hash::of(&[key.public(), message].concat()).as_bytes().to_vec()
    }

    pub(crate) fn holds(key: &NoteKey, message: &[u8], signature: &[u8]) -> bool {
        mark(key, message) == signature
    }

    pub(crate) fn key(name: &str) -> NoteKey {
        NoteKey::new(name, ECDSA, name.as_bytes().to_vec()).unwrap()
    }

    fn signed(text: &str, keys: &[&NoteKey]) -> Note {
        let signatures = keys.iter().map(|key| key.signature(mark(key, text.as_bytes()))).collect();
        Note::new(text.to_owned(), signatures).unwrap()
    }

    /// The example of the specification.
    const EXAMPLE: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n\
        — quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";

    #[test]
    fn the_example_of_the_specification_reads_and_writes_back() {
        let note = Note::parse(EXAMPLE.as_bytes()).unwrap();
        assert!(note.text().ends_with("\ned è subito sera.\n"));
        assert_eq!(note.signatures()[0].name, "quasimodo.example/salvatore");
        assert_eq!(note.signatures()[0].key_id, [0x36, 0x7b, 0xa0, 0x4b]);
        assert_eq!(note.to_string(), EXAMPLE);
    }

    #[test]
    fn the_key_id_of_ecdsa_is_the_hash_of_the_key_alone_and_of_others_of_name_and_type_too() {
        let ecdsa = NoteKey::new("log", ECDSA, b"spki".to_vec()).unwrap();
        assert_eq!(ecdsa.id(), Hash::of(b"spki").as_bytes()[..4]);
        let other = NoteKey::new("log", COSIGNATURE, b"spki".to_vec()).unwrap();
        assert_eq!(other.id(), Hash::of(b"log\n\x04spki").as_bytes()[..4]);
        for key in [ecdsa, other] {
            assert_eq!(key.to_string().parse::<NoteKey>(), Ok(key));
        }
        for bad in ["", "log", "log+12345678", "log+00000000+AnNwa2k=", "a b+00000000+AA==", "log+zz+!"] {
            assert!(bad.parse::<NoteKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let good = signed("a\n", &[&key("k")]).to_string();
        assert!(Note::parse(good.as_bytes()).is_ok());
        let line = good.lines().last().unwrap();
        for bad in [
            String::new(),
            "\n\n".to_owned(),
            good.trim_end().to_owned(),
            good.replace("\n\n", "\n"),
            good.replace('\u{2014}', "-"),
            good.replace("a\n", "a\r\n"),
            format!("a\n\n{line} \n"),
            format!("a\n\n{} {}\n", "\u{2014} k+", line.split(' ').next_back().unwrap()),
            format!("a\n\n{DASH}k AAAA\n"),
            format!("a\n\n{DASH}k AAAAA\n"),
            "a\n\n".to_owned(),
            format!("a\n\n{}", format!("{line}\n").repeat(SIGNATURES_MAX + 1)),
            "x".repeat(NOTE_MAX + 1),
        ] {
            assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:.200}");
        }
        assert!(Note::parse(b"a\n\n\xff\n").is_err());
    }

    #[test]
    fn a_note_counts_by_a_known_key_alone_and_a_false_signature_of_one_spoils_it() {
        let (one, two, three) = (key("one"), key("two"), key("three"));
        let note = signed("text\n", &[&one, &two]);
        let keys = [three.clone(), one.clone()];
        assert_eq!(note.verify(&keys, &holds), Ok(vec![&one]));
        assert!(
            matches!(note.verify(&[three], &holds), Err(NoteError::NotSigned(names)) if names.len() == 2)
        );
        let spoilt = note.with(vec![two.signature(b"false".to_vec())]).unwrap();
        assert_eq!(spoilt.verify(&keys, &holds), Ok(vec![&one]), "an unknown key is not asked");
        let keys = [one, two];
        assert_eq!(spoilt.verify(&keys, &holds), Err(NoteError::BadSignature("two".to_owned())));
        // The same name and another key: the id tells them apart, and it counts for nothing.
        let other = NoteKey::new("one", ECDSA, b"other".to_vec()).unwrap();
        assert!(note.verify(&[other], &holds).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn what_is_read_is_written_back_byte_for_byte(bytes in prop::collection::vec(any::<u8>(), 0..120), lead in 0_usize..60) {
            let good = signed("a text\n", &[&key("k")]).to_string().into_bytes();
            let bytes = [&good[..lead.min(good.len())], &bytes, &good[lead.min(good.len())..]].concat();
            if let Ok(note) = Note::parse(&bytes) {
                prop_assert_eq!(note.to_string().into_bytes(), bytes);
            }
        }
    }
}
