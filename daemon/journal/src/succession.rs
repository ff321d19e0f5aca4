//! A new log in the place of one that cannot go on: shorter than what was signed, replaced, removed or damaged. What can
//! be read of the old one is taken over, record by record, under a new id, and a record of the operator's decision links
//! the two. The old folder is kept beside.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::active::{Active, Pending, Place, now_ns};
use crate::checkpoint::{Checkpoint, origin};
use crate::disk::SystemDisk;
use crate::error::{JournalError, Result};
use crate::frame::{HEAD_BYTES, MAX_BATCH_BYTES};
use crate::reader::Reader;
use crate::recover;
use crate::signed::{self, read_mark, write_mark};
use crate::tree::TreeHead;
use crate::writer::OpenOptions;

/// Bytes of records that are copied as one batch.
const COPIED_AT_ONCE: usize = MAX_BATCH_BYTES / 2;

/// What is left of the log before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its origin; `None` where no segment could be read.
    pub origin: Option<String>,
    /// How much of it was taken over.
    pub taken: TreeHead,
    /// What this host had signed last, of this log or of the one that was there before it.
    pub signed: Option<Checkpoint>,
    /// Why no more could be taken over, in words; `None` where all was.
    pub broken: Option<String>,
}

/// A new log that has taken the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// What is left of the log before.
    pub before: Predecessor,
    /// Origin of the new log.
    pub origin: String,
    /// Where the folder of the log before is now; `None` where there was none.
    pub kept_in: Option<PathBuf>,
}

/// Opens a new log in `dir`, which goes on from what can be read of the one that is there. `link` gives the record that
/// says so. The new log takes the folder's place in one step; interrupted before, it can be called again.
///
/// # Errors
///
/// `Locked` while a daemon has the journal open, `Io`. Nothing is changed then but for a folder `*.new` beside.
pub fn succeed(dir: &Path, mark: &Path, link: impl FnOnce(&Predecessor) -> Vec<u8>) -> Result<Succession> {
    let there = dir.is_dir();
    let _lock = if there { Some(recover::lock(dir)?) } else { None };
    let new = dir.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    let _new_lock = recover::lock(&new)?;
    let place = place(&new)?;
    let (mut active, _) = recover::recover(place)?;
    let broken = if there { take_over(dir, &mut active)? } else { None };
    let marked = read_mark(mark).unwrap_or_default();
    let signed = marked.iter().max_by_key(|marked| marked.head.size).cloned();
    let old_origin = signed::log_id(dir).ok().map(origin);
    let before = Predecessor { origin: old_origin, taken: active.tree().head(), signed, broken };
    let body = link(&before);
    active.commit(&[Pending { seq: active.tree().size(), time_ns: now_ns(), body }])?;
    let origin = origin(signed::log_id(&new)?);
    let opened = Checkpoint { origin: origin.clone(), head: active.tree().head() };
    // Whichever folder is in its place when the machine stops, it is one that the mark knows.
    let both: Vec<Checkpoint> = marked.into_iter().chain([opened.clone()]).collect();
    write_mark(mark, &both)?;
    let kept_in = if there { Some(exchange(dir, &new)?) } else { rename(&new, dir).map(|()| None)? };
    write_mark(mark, &[opened])?;
    Ok(Succession { before, origin, kept_in })
}

fn place(dir: &Path) -> Result<Place> {
    let directory = Arc::new(File::open(dir).map_err(JournalError::io("open", dir))?);
    let segment_bytes = OpenOptions::default().segment_bytes;
    Ok(Place { dir: dir.to_owned(), directory, disk: Arc::new(SystemDisk), segment_bytes })
}

/// Copies records with their numbers and times until the end or the first damage, which is told in words.
fn take_over(dir: &Path, active: &mut Active) -> Result<Option<String>> {
    let mut reader = match Reader::open(dir, 0) {
        Ok(reader) => reader,
        Err(JournalError::NoJournal { .. }) => return Ok(Some("it holds no segment".to_owned())),
        Err(JournalError::Damaged(damage)) => return Ok(Some(damage.to_string())),
        Err(error) => return Err(error),
    };
    let (mut batch, mut bytes) = (Vec::new(), 0);
    let broken = loop {
        match reader.next_record() {
            Ok(Some(record)) => {
                bytes += HEAD_BYTES + record.body.len();
                batch.push(Pending { seq: record.seq, time_ns: record.time_ns, body: record.body });
                if bytes > COPIED_AT_ONCE {
                    active.commit(&batch)?;
                    (batch, bytes) = (Vec::new(), 0);
                }
            }
            Ok(None) => break None,
            Err(JournalError::Damaged(damage)) => break Some(damage.to_string()),
            Err(error) => return Err(error),
        }
    };
    if !batch.is_empty() {
        active.commit(&batch)?;
    }
    Ok(broken)
}

/// Puts `new` in the place of `dir`, whose folder gets a name of its own beside it.
fn exchange(dir: &Path, new: &Path) -> Result<PathBuf> {
    renameat_with(CWD, new, CWD, dir, RenameFlags::EXCHANGE)
        .map_err(|error| JournalError::io("replace", dir)(error.into()))?;
    let kept =
        (1_u32..).map(|number| dir.with_extension(format!("before-{number}"))).find(|path| !path.exists());
    let kept = kept.expect("not every name is taken");
    rename(new, &kept)?;
    Ok(kept)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    let renamed = fs::rename(from, to).and_then(|()| File::open(parent)?.sync_all());
    renamed.map_err(JournalError::io("rename", from))
}
