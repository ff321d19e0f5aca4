//! A new log in the place of one that cannot go on: shorter than what was signed, replaced, removed or damaged. What can
//! be read of the old one is taken over, record by record, under a new id, and a record of the operator's decision links
//! the two. The old folder is kept beside.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::active::{Active, Place, now_ns};
use crate::begin;
use crate::checkpoint::{Checkpoint, origin};
use crate::disk::SystemDisk;
use crate::error::{JournalError, Result};
use crate::frame::{Kind, MAX_BATCH_BYTES, encode};
use crate::reader::Reader;
use crate::recover;
use crate::segment::Header;
use crate::signed::{self, read_mark, write_mark};
use crate::tiles;
use crate::tree::{Hash, TreeHead};
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
    /// Where its older records were pruned: number of the first one there, and SHA-256 of the base that was taken over.
    pub base: Option<(u64, Hash)>,
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
    if there {
        make_alike(dir, &new).map_err(JournalError::io("create", &new))?;
    }
    let _new_lock = recover::lock(&new)?;
    let Taken { mut active, broken, base } =
        take_over(there.then_some(dir), Place::open(&new, Arc::new(SystemDisk), &OpenOptions::default())?)?;
    let marked = read_mark(mark).unwrap_or_default();
    let signed = marked.iter().max_by_key(|marked| marked.head.size).cloned();
    let old_origin = signed::log_id(dir).ok().map(origin);
    let before = Predecessor { origin: old_origin, taken: active.tree().head(), signed, broken, base };
    let mut frame = Vec::new();
    encode(Kind::Record, (active.tree().size(), now_ns()), &link(&before), &mut frame);
    active.commit(&frame)?;
    let origin = origin(signed::log_id(&new)?);
    let opened = Checkpoint { origin: origin.clone(), head: active.tree().head() };
    active.close();
    // Whichever folder is in its place when the machine stops, it is one that the mark knows.
    let both: Vec<Checkpoint> = marked.into_iter().chain([opened.clone()]).collect();
    write_mark(mark, &both)?;
    let kept_in = if there { Some(exchange(dir, &new)?) } else { rename(&new, dir).map(|()| None)? };
    write_mark(mark, &[opened])?;
    Ok(Succession { before, origin, kept_in })
}

/// Makes an empty folder for the group of another one, with its mode: whoever reads the old log reads the new one, because
/// a set-group-ID folder gives its group to the files in it.
fn make_alike(dir: &Path, new: &Path) -> io::Result<()> {
    let like = fs::metadata(dir)?;
    fs::create_dir(new)?;
    chown(new, None, Some(like.gid()))?;
    // Last: a change of group may take bits of the mode away.
    fs::set_permissions(new, like.permissions())
}

/// What was taken over into a new log.
struct Taken {
    active: Active,
    broken: Option<String>,
    base: Option<(u64, Hash)>,
}

/// Begins a new log with what can be read of the one in this folder, if there is one.
fn take_over(dir: Option<&Path>, place: Place) -> Result<Taken> {
    let Some(dir) = dir else { return unread(place, None) };
    let reader = begin::first_record(dir).and_then(|first| Ok((first, Reader::open(dir, first)?)));
    let (first, reader) = match reader {
        Ok(found) => found,
        Err(JournalError::NoJournal { .. }) => return unread(place, Some("it holds no segment".to_owned())),
        Err(JournalError::Damaged(damage)) => return unread(place, Some(damage.to_string())),
        Err(error) => return Err(error),
    };
    let (mut active, base) = match first {
        0 => (recover::recover(place)?.0, None),
        _ => take_pruned((dir, first), place)?,
    };
    let broken = copy_records(reader, &mut active)?;
    Ok(Taken { active, broken, base })
}

/// Begins a new log with nothing.
fn unread(place: Place, broken: Option<String>) -> Result<Taken> {
    let (active, _) = recover::recover(place)?;
    Ok(Taken { active, broken, base: None })
}

/// Begins a new log where the records before `first` were pruned: with their base and their hashes.
fn take_pruned((dir, first): (&Path, u64), place: Place) -> Result<(Active, Option<(u64, Hash)>)> {
    let bytes = begin::read_base(dir, first)?;
    let path = place.dir.join(begin::base_name(first));
    let written =
        File::create(&path).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.map_err(JournalError::io("write", &path))?;
    let whole = tiles::tile_begin(first);
    let mut edge = Vec::new();
    tiles::copy(dir, &place.dir, whole)?;
    tiles::leaves(dir, (whole, first), &mut |leaf| {
        edge.push(leaf);
        Ok(())
    })?;
    if !edge.is_empty() {
        tiles::write_partial(&place.dir, first, &edge)?;
    }
    let tree = begin::tree_before(dir, first)?;
    let log_id = recover::random_id().map_err(JournalError::io("read", Path::new("/dev/urandom")))?;
    let header = Header { log_id, created_ns: now_ns(), tree, last_trailer: Hash::ZERO };
    Ok((Active::create(place, header)?, Some((first, Hash::of(&bytes)))))
}

/// Copies records with their numbers and times until the end or the first damage, which is told in words.
fn copy_records(mut reader: Reader, active: &mut Active) -> Result<Option<String>> {
    let mut frames = Vec::new();
    let broken = loop {
        match reader.next_record() {
            Ok(Some(record)) => {
                encode(Kind::Record, (record.seq, record.time_ns), &record.body, &mut frames);
                if frames.len() > COPIED_AT_ONCE {
                    active.commit(&frames)?;
                    frames.clear();
                }
            }
            Ok(None) => break None,
            Err(JournalError::Damaged(damage)) => break Some(damage.to_string()),
            Err(error) => return Err(error),
        }
    };
    if !frames.is_empty() {
        active.commit(&frames)?;
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
