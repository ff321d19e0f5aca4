//! Signed checkpoints of one log: what was signed last is durable before a signature leaves, so that this host never signs
//! two checkpoints of which one cannot be the beginning of the other, and knows a journal that has become shorter.
//!
//! Two files. `checkpoints` in the journal's folder holds every signed note, one after the other, and goes wherever the
//! segments go. The *mark*, outside of that folder, holds the checkpoint signed last, without signature: putting back an
//! older folder does not put back the mark.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::active::open_for_writing;
use crate::begin;
use crate::checkpoint::{Checkpoint, CheckpointError, origin};
use crate::disk::open_for_reading;
use crate::error::{JournalError, Result};
use crate::note::{NOTE_MAX, Note, NoteKey};
use crate::proof;
use crate::replay::Replay;
use crate::segment;
use crate::tiles::{Nodebook, Use};
use crate::tree::{Hash, TreeHead};
use crate::walk::Walk;

/// File of all signed notes, in the journal's folder.
pub const CHECKPOINTS: &str = "checkpoints";
/// Longest mark, bytes: a few checkpoints without signatures.
const MARK_MAX: u64 = 4096;
/// How far back the newest note is looked for.
const LAST_NOTE_WITHIN: u64 = 2 * (NOTE_MAX as u64);

/// What makes a signature over a message, and under which name it stands.
pub struct Signer<'a> {
    /// The public half; its name is the log's origin.
    pub key: &'a NoteKey,
    /// Signs a message.
    pub sign: &'a dyn Fn(&[u8]) -> Vec<u8>,
}

/// The checkpoints of the log in one folder.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    mark: PathBuf,
    origin: String,
    file: File,
    length: u64,
    /// The one signed last, by whatever key.
    last: Option<TreeHead>,
    newest: Option<Note>,
}

impl Checkpoints {
    /// Takes up the checkpoints of the journal in `dir`, whose mark is the file `mark`. What an interrupted write left at
    /// the end of the file is cut off. Whether the journal is as long as was signed is asked with [`check_signed`] first.
    ///
    /// # Errors
    ///
    /// `NoJournal`, `Io`; `Checkpoint` when the mark or the newest note is none.
    pub fn open(dir: &Path, mark: &Path) -> Result<Checkpoints> {
        let origin = origin(log_id(dir)?);
        let path = dir.join(CHECKPOINTS);
        let file = open_for_writing(&path)?;
        let length = whole_length(&file).map_err(JournalError::io("read", &path))?;
        file.set_len(length).map_err(JournalError::io("cut", &path))?;
        let newest = newest(dir)?;
        let marked = read_mark(mark)?.into_iter().find(|marked| marked.origin == origin);
        let noted = newest.as_ref().map(unverified).transpose()?;
        let last = longer(marked.map(|marked| marked.head), noted.map(|noted| noted.head));
        Ok(Checkpoints { dir: dir.to_owned(), mark: mark.to_owned(), origin, file, length, last, newest })
    }

    /// Which log: the name that its key has in notes.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The note signed last, if there is one.
    pub fn newest(&self) -> Option<&Note> {
        self.newest.as_ref()
    }

    /// The size signed last; 0 before the first time.
    pub fn signed_size(&self) -> u64 {
        self.last.map_or(0, |head| head.size)
    }

    /// Signs the checkpoint of this head. It is given out once both files have it on disk. A head that the newest note
    /// has already, signed by this key, is not signed again.
    ///
    /// # Errors
    ///
    /// `Shorter` or `Rewritten` when another checkpoint was signed that this one cannot follow; `Io`. Nothing is signed
    /// then.
    pub fn sign(&mut self, head: TreeHead, signer: &Signer<'_>) -> Result<Note> {
        if let Some(last) = self.last {
            if head.size < last.size {
                return Err(JournalError::Shorter { signed: last, found: head.size });
            }
            if head.size == last.size && head.root != last.root {
                return Err(JournalError::Rewritten { signed: last, found: head.root });
            }
        }
        let checkpoint = Checkpoint { origin: self.origin.clone(), head };
        if let Some(newest) = self.newest.as_ref().filter(|note| note.text() == checkpoint.to_string()) {
            let id = signer.key.id();
            if newest.signatures().iter().any(|signature| signature.key_id == id) {
                return Ok(newest.clone());
            }
        }
        write_mark(&self.mark, std::slice::from_ref(&checkpoint))?;
        self.last = Some(head);
        let note =
            checkpoint.sign(signer.key, signer.sign).map_err(|cause| JournalError::Checkpoint { cause })?;
        self.append(&note)?;
        Ok(note)
    }

    /// Keeps a note of the newest checkpoint that others have signed too.
    ///
    /// # Errors
    ///
    /// `Disagrees` when it is not of the newest checkpoint; `Io`.
    pub fn keep_cosigned(&mut self, note: &Note) -> Result<()> {
        match &self.newest {
            Some(newest) if newest.text() == note.text() => self.append(note),
            _ => Err(JournalError::Disagrees { size: self.signed_size() }),
        }
    }

    fn append(&mut self, note: &Note) -> Result<()> {
        let path = self.dir.join(CHECKPOINTS);
        let bytes = format!("{note}\n").into_bytes();
        // A longer note that could not be made durable may stand there.
        self.file.set_len(self.length).map_err(JournalError::io("cut", &path))?;
        self.file.write_all_at(&bytes, self.length).map_err(JournalError::io("write", &path))?;
        self.file.sync_data().map_err(JournalError::io("sync", &path))?;
        self.length += bytes.len() as u64;
        self.newest = Some(note.clone());
        Ok(())
    }
}

/// The longer of two heads, of which one may be missing.
fn longer(one: Option<TreeHead>, other: Option<TreeHead>) -> Option<TreeHead> {
    one.into_iter().chain(other).max_by_key(|head| head.size)
}

fn unverified(note: &Note) -> Result<Checkpoint> {
    Checkpoint::unverified(note).map_err(|cause| JournalError::Checkpoint { cause })
}

/// Checks that the journal in `dir` is the one whose checkpoint this host has signed last, or goes on from it. Changes
/// nothing, so it comes before [`Journal::open`](crate::Journal::open).
///
/// # Errors
///
/// `Gone` when there is no journal any more, `OtherLog` when there is another, `Shorter`, `Rewritten`; `Damaged`, `Io`.
pub fn check_signed(dir: &Path, mark: &Path) -> Result<()> {
    let marked = read_mark(mark)?;
    let found = match log_id(dir) {
        Ok(id) => Some(origin(id)),
        Err(JournalError::NoJournal { .. }) => None,
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let Some(found) = found else {
        return match marked.into_iter().max_by_key(|marked| marked.head.size) {
            Some(marked) if marked.head.size > 0 => Err(JournalError::Gone { signed: marked }),
            _ => Ok(()),
        };
    };
    let signed = match marked.iter().position(|marked| marked.origin == found) {
        Some(at) => Some(marked[at].head),
        None if marked.is_empty() => None,
        None => return Err(JournalError::OtherLog { signed: marked[0].clone(), found }),
    };
    let noted = newest(dir)?.map(|note| unverified(&note)).transpose()?;
    if let Some(noted) = noted.as_ref().filter(|noted| noted.origin != found) {
        return Err(JournalError::OtherLog { signed: noted.clone(), found });
    }
    match longer(signed, noted.map(|noted| noted.head)) {
        Some(signed) => check_reaches(dir, signed),
        None => Ok(()),
    }
}

/// Checks that the journal has this tree as its beginning.
fn check_reaches(dir: &Path, signed: TreeHead) -> Result<()> {
    if signed.size == 0 {
        return Ok(());
    }
    let found = head_at(dir, signed.size)?;
    if found.size < signed.size {
        return Err(JournalError::Shorter { signed, found: found.size });
    }
    if found.root != signed.root {
        return Err(JournalError::Rewritten { signed, found: found.root });
    }
    Ok(())
}

/// Size and root of the journal when it had `size` records; of all of them where it has fewer. Reads one segment, or the
/// hashes of records that were pruned.
fn head_at(dir: &Path, size: u64) -> Result<TreeHead> {
    let first = begin::first_record(dir)?;
    if size < first {
        let root = proof::root(&mut Nodebook::open(dir, size, Use::Tiles)?, (0, size))?;
        return Ok(TreeHead { size, root });
    }
    if size == first {
        return begin::head_before(dir, first);
    }
    let mut walk = Walk::open(dir, size - 1)?;
    loop {
        let mut tree = walk.segment().tree().clone();
        let Some(records) = walk.next_batch()? else { return Ok(tree.head()) };
        for record in records {
            tree.push(record.leaf());
            if tree.size() == size {
                return Ok(tree.head());
            }
        }
    }
}

/// The id of the log in this folder, by the first segment whose header is valid.
pub(crate) fn log_id(dir: &Path) -> Result<Hash> {
    let no_journal = || JournalError::NoJournal { dir: dir.to_owned() };
    let mut damaged = None;
    for first_seq in segment::list(dir)? {
        match Replay::open(dir, first_seq) {
            Ok(Some(segment)) => return Ok(segment.successor().log_id),
            Ok(None) => {}
            Err(error) => damaged = damaged.or(Some(error)),
        }
    }
    Err(damaged.unwrap_or_else(no_journal))
}

/// The name that the log in this folder has in its checkpoints.
///
/// # Errors
///
/// `NoJournal`, `Damaged` when no segment's header is valid, `Io`.
pub fn log_origin(dir: &Path) -> Result<String> {
    log_id(dir).map(origin)
}

/// The newest whole note in the journal's folder, by whoever; `None` where nothing was ever signed.
///
/// # Errors
///
/// `Io`; `Checkpoint` when what stands there is no note.
pub fn newest(dir: &Path) -> Result<Option<Note>> {
    let path = dir.join(CHECKPOINTS);
    let file = match open_for_reading(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(JournalError::io("open", &path)(error)),
    };
    let length = whole_length(&file).map_err(JournalError::io("read", &path))?;
    let from = length.saturating_sub(LAST_NOTE_WITHIN);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from).map_err(JournalError::io("read", &path))?;
    let Some(notes) = bytes.strip_suffix(b"\n") else { return Ok(None) };
    // Text, blank line, signatures, blank line: the note begins after the last but one.
    let blanks: Vec<usize> =
        notes.windows(2).enumerate().filter(|(_, two)| *two == b"\n\n").map(|(at, _)| at).collect();
    let begin = blanks.len().checked_sub(2).map_or(0, |last| blanks[last] + 2);
    let note =
        Note::parse(&notes[begin..]).map_err(|cause| JournalError::Checkpoint { cause: cause.into() })?;
    Ok(Some(note))
}

/// Every whole note in the journal's folder, oldest first, each with its checkpoint.
pub(crate) struct Notes {
    path: PathBuf,
    lines: Option<BufReader<File>>,
}

impl Notes {
    pub(crate) fn open(dir: &Path) -> Result<Notes> {
        let path = dir.join(CHECKPOINTS);
        match open_for_reading(&path) {
            Ok(file) => Ok(Notes { path, lines: Some(BufReader::new(file)) }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Notes { path, lines: None }),
            Err(error) => Err(JournalError::io("open", &path)(error)),
        }
    }

    /// The next note; `None` at the end, and at an end that a write was interrupted in.
    pub(crate) fn next(&mut self) -> Result<Option<(Note, Checkpoint)>> {
        let Some(lines) = &mut self.lines else { return Ok(None) };
        let too_long =
            || JournalError::Checkpoint { cause: CheckpointError::Note(crate::note::NoteError::TooLong) };
        let (mut bytes, mut blanks) = (Vec::new(), 0);
        while blanks < 2 {
            let left = (NOTE_MAX + 1).checked_sub(bytes.len()).ok_or_else(too_long)?;
            let before = bytes.len();
            let mut limited = lines.take(left as u64 + 1);
            limited.read_until(b'\n', &mut bytes).map_err(JournalError::io("read", &self.path))?;
            match &bytes[before..] {
                b"\n" => blanks += 1,
                line if line.ends_with(b"\n") => {}
                _ if bytes.len() > NOTE_MAX => return Err(too_long()),
                _ => return Ok(None),
            }
        }
        bytes.pop();
        let note = Note::parse(&bytes).map_err(|cause| JournalError::Checkpoint { cause: cause.into() })?;
        let checkpoint = unverified(&note)?;
        Ok(Some((note, checkpoint)))
    }
}

/// Bytes of a file of notes up to the end of its last whole one: it ends in a blank line after signatures.
fn whole_length(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LAST_NOTE_WITHIN);
    let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
    file.read_exact_at(&mut bytes, from)?;
    let mut end = bytes.len();
    while let Some(blank) = bytes[..end].windows(2).rposition(|two| two == b"\n\n") {
        // A signature line stands before the blank line that ends a note, and none before the one inside it.
        let line = bytes[..blank].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        if line.starts_with("\u{2014} ".as_bytes()) {
            return Ok(from + blank as u64 + 2);
        }
        end = blank + 1;
    }
    if from > 0 {
        // No interrupted write leaves so much: what stands there is not cut off.
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no signed note ends within its last 256 KiB",
        ));
    }
    Ok(0)
}

/// The checkpoints in the mark: one, or two while an operator's decision opens a new log. None where there is no file.
pub(crate) fn read_mark(path: &Path) -> Result<Vec<Checkpoint>> {
    let file = match open_for_reading(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(JournalError::io("open", path)(error)),
    };
    let mut text = String::new();
    file.take(MARK_MAX + 1).read_to_string(&mut text).map_err(JournalError::io("read", path))?;
    let bad = |cause| JournalError::Mark { path: path.to_owned(), cause };
    if text.len() as u64 > MARK_MAX {
        return Err(bad(CheckpointError::Form("it is too long")));
    }
    let mut found = Vec::new();
    for one in text.split("\n\n") {
        found.push(Checkpoint::parse(&format!("{}\n", one.trim_end_matches('\n'))).map_err(bad)?);
    }
    Ok(found)
}

/// Replaces the mark: whole or not at all, and on disk when this returns.
pub(crate) fn write_mark(path: &Path, checkpoints: &[Checkpoint]) -> Result<()> {
    let text = checkpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let new = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640);
    let written = options
        .open(&new)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all());
    written.map_err(JournalError::io("write", path))
}
