//! Brings the auditor's copy of the journal up to date: segments and checkpoints, and of a pruned journal what stands for
//! the records that are gone. How the files hang together is the journal's own; here they are bytes with names.

use crate::HostError;
use crate::beneath::{Kind, walk};
use crate::snapshots::{READABLE, names_in};
use crate::volume::{make_folder, set_mode};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The journal's signed checkpoints, beside its segments.
const CHECKPOINTS: &str = "checkpoints";
/// The hashes of records, 256 to a file, and of those nothing but the leaves: the rest follows from them.
const HASHES: &str = "tile/0";
const HASHES_IN_FILE: u64 = 256;
/// The end of a copied segment that must still be the same in the journal, bytes: a torn end that was cut off and
/// written over shows there.
const COMPARED: u64 = 64 << 10;
/// How often the folder is listed anew because a file of it was pruned meanwhile.
const TRIES: usize = 8;

/// Segments and the file of checkpoints only grow, so only new bytes are copied; what the journal no longer has is taken
/// out. The checkpoints come first (their name sorts behind the segments'): each is of records that are there by then.
pub(crate) fn copy_journal(journal: &Path, copies: &Path) -> Result<(), HostError> {
    for _ in 1..TRIES {
        match copy_listed(journal, copies) {
            // What is deleted while it is read was pruned: what stands for it is there by now.
            Err(HostError::Os { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            done => return done,
        }
    }
    copy_listed(journal, copies)
}

fn copy_listed(journal: &Path, copies: &Path) -> Result<(), HostError> {
    let is_copied = |name: &OsString| {
        let extension = Path::new(name).extension();
        [Some(OsStr::new("seg")), Some(OsStr::new("base"))].contains(&extension)
            || name.as_os_str() == OsStr::new(CHECKPOINTS)
    };
    let files: BTreeSet<_> = names_in(journal)?.into_iter().filter(is_copied).collect();
    let first = files.iter().filter_map(|name| name.to_str()?.strip_suffix(".base")?.parse().ok()).max();
    copy_hashes(journal, copies, first.unwrap_or(0))?;
    for name in files.iter().rev() {
        let copy = copies.join(name);
        copy_segment(&journal.join(name), &copy)
            .map_err(HostError::os("copy", journal.join(name).display()))?;
        set_mode(&copy, READABLE)?;
    }
    for name in names_in(copies)?.into_iter().filter(|name| !files.contains(name)) {
        let copy = copies.join(name);
        if !copy.is_dir() {
            fs::remove_file(&copy).map_err(HostError::os("unlink", copy.display()))?;
        }
    }
    Ok(())
}

/// Copies the hashes of the records before this one, which never change. None are needed of records that are there.
fn copy_hashes(journal: &Path, copies: &Path, first: u64) -> Result<(), HostError> {
    let (hashes, copied) = (journal.join(HASHES), copies.join(HASHES));
    if first == 0 {
        let all = copies.join("tile");
        let gone = if all.exists() { fs::remove_dir_all(&all) } else { Ok(()) };
        return gone.map_err(HostError::os("rmdir", all.display()));
    }
    make_folder(&copies.join("tile"), 0o755)?;
    make_folder(&copied, 0o755)?;
    walk(&hashes, &mut |path, kind| {
        let (from, to) = (hashes.join(path), copied.join(path));
        match kind {
            Kind::Folder => make_folder(&to, 0o755),
            Kind::File if hashes_before(path).is_none_or(|begin| begin >= first) => Ok(()),
            Kind::File if to.exists() => Ok(()),
            Kind::File => {
                // Under another name until it is whole.
                let new = to.with_extension("copy");
                let written = fs::copy(&from, &new).and_then(|_| fs::rename(&new, &to));
                written.map_err(HostError::os("copy", from.display()))?;
                set_mode(&to, READABLE)
            }
        }
    })
}

/// Number of the first record whose hash a file holds: `x001/234` is the 1234th, `x001/234.p/7` a beginning of it.
fn hashes_before(path: &str) -> Option<u64> {
    let whole = path.split_once(".p/").map_or(path, |(tile, _)| tile);
    let digits: String = whole.split('/').map(|group| group.strip_prefix('x').unwrap_or(group)).collect();
    digits.parse::<u64>().ok()?.checked_mul(HASHES_IN_FILE)
}

/// Copies up to the length seen at first: what is appended meanwhile belongs to the next snapshot. Zeros at the copy's end
/// are what the journal has written ahead (of a record only if it ends with them), so records may stand there now.
fn copy_segment(from: &Path, to: &Path) -> io::Result<()> {
    let from = File::open(from)?;
    let to = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(to)?;
    let length = from.metadata()?.len();
    let mut have = end_of_content(&to)?;
    if have > length || !same_end(&from, &to, have)? {
        to.set_len(0)?;
        have = 0;
    }
    let mut block = vec![0; 256 << 10];
    while have < length {
        let most = usize::try_from(length - have).map_or(block.len(), |left| left.min(block.len()));
        let count = from.read_at(&mut block[..most], have)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&block[..count], have)?;
        have += count as u64;
    }
    to.set_len(length)
}

/// Where the zeros at the end of a file begin.
fn end_of_content(file: &File) -> io::Result<u64> {
    let (mut end, mut block) = (file.metadata()?.len(), vec![0; 64 << 10]);
    while end > 0 {
        let size = usize::try_from(end).map_or(block.len(), |end| end.min(block.len()));
        let begin = end - size as u64;
        file.read_exact_at(&mut block[..size], begin)?;
        if let Some(last) = block[..size].iter().rposition(|byte| *byte != 0) {
            return Ok(begin + last as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

fn same_end(from: &File, to: &File, have: u64) -> io::Result<bool> {
    let compared = have.min(COMPARED);
    let size = usize::try_from(compared).expect("at most 64 KiB");
    let (mut original, mut copy) = (vec![0; size], vec![0; size]);
    from.read_exact_at(&mut original, have - compared)?;
    to.read_exact_at(&mut copy, have - compared)?;
    Ok(original == copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_over_zeros_that_were_written_ahead_are_copied_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let content = |length: usize| (0..length).map(|at| (at % 255) as u8 + 1).collect::<Vec<u8>>();
        let ahead = |length: usize| [content(length), vec![0; 64 << 10]].concat();
        fs::write(&from, ahead(300_000)).unwrap();
        copy_segment(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), ahead(300_000));
        // Whoever copies the whole again takes this mark away.
        OpenOptions::new().write(true).open(&to).unwrap().write_all_at(b"mark", 0).unwrap();
        for whole in [ahead(300_100), ahead(340_000), content(340_000), ahead(340_001), content(500_000)] {
            fs::write(&from, &whole).unwrap();
            copy_segment(&from, &to).unwrap();
            let copy = fs::read(&to).unwrap();
            assert_eq!((&copy[..4], &copy[4..]), (&b"mark"[..], &whole[4..]), "{}", whole.len());
        }
        let other: Vec<u8> = content(500_000).into_iter().rev().collect();
        fs::write(&from, &other).unwrap();
        copy_segment(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), other, "a torn end that was written over");
    }

    #[test]
    fn the_place_of_a_file_of_hashes_is_its_path() {
        for (path, begin) in [("000", 0), ("001", 256), ("x001/234", 315_904), ("x001/234.p/7", 315_904)] {
            assert_eq!(hashes_before(path), Some(begin), "{path}");
        }
        assert_eq!(hashes_before("000.new"), None);
    }

    #[test]
    fn a_copy_of_a_pruned_journal_has_what_stands_for_the_records_that_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, copies) = (folder.path().join("journal"), folder.path().join("copies"));
        fs::create_dir_all(journal.join("tile/0/002.p")).unwrap();
        fs::create_dir_all(journal.join("tile/1")).unwrap();
        fs::create_dir(&copies).unwrap();
        let files = |folder: &Path| {
            let mut found = BTreeSet::new();
            walk(folder, &mut |path, kind| {
                if kind == Kind::File {
                    found.insert(path.to_owned());
                }
                Ok(())
            })
            .unwrap();
            found.into_iter().collect::<Vec<_>>().join(" ")
        };
        let write =
            |names: &[&str]| names.iter().for_each(|name| fs::write(journal.join(name), name).unwrap());
        write(&["000000000000.seg", "000000000600.seg", "checkpoints", "lock", "reserve"]);
        write(&["tile/0/000", "tile/0/001", "tile/0/002", "tile/0/003", "tile/1/000"]);
        copy_journal(&journal, &copies).unwrap();
        assert_eq!(files(&copies), "000000000000.seg 000000000600.seg checkpoints");
        fs::remove_file(journal.join("000000000000.seg")).unwrap();
        write(&["000000000600.base", "tile/0/002.p/88"]);
        copy_journal(&journal, &copies).unwrap();
        let pruned =
            "000000000600.base 000000000600.seg checkpoints tile/0/000 tile/0/001 tile/0/002 tile/0/002.p/88";
        assert_eq!(files(&copies), pruned);
        fs::remove_file(journal.join("000000000600.base")).unwrap();
        copy_journal(&journal, &copies).unwrap();
        assert_eq!(files(&copies), "000000000600.seg checkpoints");
    }
}
