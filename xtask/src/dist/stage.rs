//! Fills a folder with what a package will hold, each file with its content, its place and its permissions.

use super::list::Entry;
use super::{Job, fresh, write};
use crate::{command, setup, toolchain};
use anyhow::{Context, Result, bail};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Permissions of every folder.
const FOLDER: u32 = 0o755;

/// Makes the folder anew and puts every file of the list into it.
///
/// # Errors
/// When a file of the list is not there.
pub fn fill<'a>(job: &Job<'_>, entries: impl Iterator<Item = &'a Entry>, into: &Path) -> Result<()> {
    fresh(into)?;
    for entry in entries {
        for source in sources(job, &entry.from)? {
            place(job, entry, &source, into)?;
        }
    }
    open_folders(into)
}

/// The files that `from` names.
fn sources(job: &Job<'_>, from: &str) -> Result<Vec<PathBuf>> {
    let (base, rest) = match from.split_once('/') {
        Some(("@program", name)) => (job.programs.clone(), name),
        Some(("@made", path)) => (job.made(), path),
        Some(("@toolchain", name)) => (toolchain::read(job.root)?.sysroot.join("share/doc/rust"), name),
        Some(("@onnxruntime", name)) => {
            let library = setup::onnxruntime_library(job.root);
            (library.parent().map(Path::to_owned).unwrap_or_default(), name)
        }
        _ => (job.root.to_owned(), from),
    };
    let Some(folder) = rest.strip_suffix("/*") else { return Ok(vec![base.join(rest)]) };
    let folder = base.join(folder);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut files: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    if files.is_empty() {
        bail!("`{from}`: there is no file in `{}`", folder.display());
    }
    Ok(files)
}

fn place(job: &Job<'_>, entry: &Entry, source: &Path, into: &Path) -> Result<()> {
    let mut target = into.join(entry.to.trim_start_matches('/'));
    if entry.to.ends_with('/') {
        target.push(source.file_name().with_context(|| format!("`{}` has no name", source.display()))?);
    }
    let content =
        fs::read(source).with_context(|| format!("`{}`: cannot read `{}`", entry.from, source.display()))?;
    write(&target, content)?;
    if entry.from.starts_with("@program/") {
        command::run(command::program(job.root, "strip").arg("--strip-unneeded").arg(&target))?;
    }
    if entry.compress {
        command::run(command::program(job.root, "gzip").args(["-9", "--no-name", "--force"]).arg(&target))?;
        target.as_mut_os_string().push(entry.ending());
    }
    fs::set_permissions(&target, Permissions::from_mode(entry.mode()?))
        .with_context(|| format!("cannot set the permissions of `{}`", target.display()))
}

/// Folders are everybody's to read, whatever the umask of whoever builds.
fn open_folders(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(FOLDER))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            open_folders(&path)?;
        }
    }
    Ok(())
}

/// Every file below a folder, relative to it, in order.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("cannot read `{}`", next.display()))? {
            let path = entry?.path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder)?.to_owned()),
            }
        }
    }
    found.sort();
    Ok(found)
}
