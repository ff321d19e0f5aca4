//! A folder held against a statement: none of the signed files missing, none more, each with its digest. Who lists and
//! opens the files is left to the caller; nothing here touches one.

use super::shards::Shard;
use super::statement::{Coverage, Statement};
use crate::digest::Hasher;
use crate::document::printable;
use crate::trust::{CheckResult, Outcome};
use crate::{Sha256, section};
use std::collections::BTreeMap;
use std::io::{self, Read};

/// Greatest number of differences that a check names.
const NAMED_MAX: usize = 16;
/// Greatest sum of the files' sizes, bytes.
pub const FOLDER_BYTES_MAX: u64 = section::FILES_BYTES_MAX;
/// Endings of files that mean nothing when they are empty. The method `shards` has no place for an empty file, so the
/// signer's own cannot be told from one that was added: one with such a name is let pass, any other is refused.
pub const INERT_EMPTY: [&str; 6] = [".bin", ".dat", ".data", ".txt", ".gitkeep", ".keep"];

/// What was found in a folder, ignored paths and the signature's own file left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Size of each file by its relative path with `/`.
    pub files: BTreeMap<String, u64>,
    /// How many folders hold nothing; the format does not cover them.
    pub empty_folders: usize,
}

/// Opens a file that was found.
pub type Open<'a> = dyn FnMut(&str) -> io::Result<Box<dyn Read>> + 'a;

/// Holds the folder against the statement. No file is opened before the sets of names agree.
pub fn compare(statement: &Statement, found: &Found, open: &mut Open<'_>) -> CheckResult {
    let (mut wrong, uncovered) = names_that_differ(statement, found);
    let total = found.files.values().fold(0_u64, |sum, size| sum.saturating_add(*size));
    if total > FOLDER_BYTES_MAX {
        wrong.push(format!("the files have {total} bytes in all, at most {FOLDER_BYTES_MAX} are read"));
    }
    if wrong.is_empty() {
        wrong = contents_that_differ(statement, found, open);
    }
    let name = "files".to_owned();
    if wrong.is_empty() {
        let mut detail = format!("{} files are as signed", statement.names().count());
        if !uncovered.is_empty() {
            detail += &format!("; empty and not covered by shards: {}", uncovered.join(", "));
        }
        if found.empty_folders > 0 {
            detail += &format!("; {} empty folder(s) are not covered by the format", found.empty_folders);
        }
        return CheckResult { name, result: Outcome::Pass, detail };
    }
    let more = wrong.len().saturating_sub(NAMED_MAX);
    wrong.truncate(NAMED_MAX);
    let tail = if more > 0 { format!("; and {more} more") } else { String::new() };
    CheckResult { name, result: Outcome::Fail, detail: wrong.join("; ") + &tail }
}

/// Differences between the two sets of names, and the empty files that are let pass.
fn names_that_differ(statement: &Statement, found: &Found) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut uncovered) = (Vec::new(), Vec::new());
    let sharded = matches!(statement.coverage, Coverage::Shards(_));
    let signed = |path: &String| match &statement.coverage {
        Coverage::Files(files) => files.contains_key(path),
        Coverage::Shards(shards) => shards.files.contains_key(path),
    };
    for (path, size) in found.files.iter().filter(|(path, _)| !signed(path)) {
        let shown = format!("`{}`", printable(path));
        if sharded && *size == 0 && INERT_EMPTY.iter().any(|ending| path.ends_with(ending)) {
            uncovered.push(shown);
        } else {
            wrong.push(format!("{shown} is not covered by the signature"));
        }
    }
    for path in statement.names().filter(|path| !found.files.contains_key(*path)) {
        wrong.push(format!("`{}` is missing", printable(path)));
    }
    uncovered.truncate(NAMED_MAX);
    (wrong, uncovered)
}

fn contents_that_differ(statement: &Statement, found: &Found, open: &mut Open<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut note = |path: &str, outcome: io::Result<Option<String>>| match outcome {
        Ok(None) => {}
        Ok(Some(what)) => wrong.push(format!("`{}` {what}", printable(path))),
        Err(error) => wrong.push(format!("`{}` cannot be read: {error}", printable(path))),
    };
    match &statement.coverage {
        Coverage::Files(files) => {
            for (path, digest) in files {
                note(
                    path,
                    open(path).and_then(|mut content| whole(&mut content, *digest, found.files[path])),
                );
            }
        }
        Coverage::Shards(shards) => {
            for (path, pieces) in &shards.files {
                note(path, open(path).and_then(|mut content| piecewise(&mut content, pieces)));
            }
        }
    }
    wrong
}

fn whole(content: &mut dyn Read, signed: Sha256, size: u64) -> io::Result<Option<String>> {
    let (digest, length) = Sha256::of_reader(content)?;
    Ok(if length != size {
        Some(format!("had {size} bytes and then {length}: it changed while it was read"))
    } else if digest != signed {
        Some(format!("has digest {digest} in place of {signed}"))
    } else {
        None
    })
}

fn piecewise(content: &mut dyn Read, pieces: &[Shard]) -> io::Result<Option<String>> {
    let mut block = vec![0; 128 * 1024];
    for Shard { start, end, sha256 } in pieces {
        let mut hasher = Hasher::default();
        let mut left = end - start;
        while left > 0 {
            let most = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match content.read(&mut block[..most])? {
                0 => return Ok(Some(format!("ends before byte {end}, which is signed"))),
                count => {
                    hasher.update(&block[..count]);
                    left -= count as u64;
                }
            }
        }
        if hasher.finish() != *sha256 {
            return Ok(Some(format!("differs from what is signed between byte {start} and {end}")));
        }
    }
    let more = content.read(&mut block[..1])?;
    Ok((more > 0).then(|| "goes on after the last signed byte".to_owned()))
}
