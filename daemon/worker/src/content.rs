//! The content policy, held against the version's folder before anything of it is loaded: the last look is taken here,
//! without any rights, whatever was said when the version was signed or imported.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use turnout_onnx::{ContentError, FormatError, Policy, Role, examine};
use turnout_protocol::worker::Assignment;

/// Deepest folder of a version.
const DEPTH_MAX: usize = 32;
/// Most entries of a version's folder, folders included.
const ENTRIES_MAX: usize = 16_384;

/// Why the folder is not loaded from.
#[derive(Debug, thiserror::Error)]
pub enum ContentRefused {
    #[error(transparent)]
    Policy(#[from] ContentError),
    #[error("the allowed formats")]
    Format(#[from] FormatError),
    #[error("cannot read the model's folder at `{0}`")]
    Read(String, #[source] io::Error),
    #[error("the model's folder has more than {ENTRIES_MAX} entries, or is deeper than {DEPTH_MAX}")]
    TooMany,
}

/// Examines every file of the folder.
pub fn check(folder: &Path, assignment: &Assignment) -> Result<(), ContentRefused> {
    let formats = assignment.allowed_formats.iter().map(|name| name.parse());
    let policy =
        Policy { domains: assignment.allowed_domains.clone(), formats: formats.collect::<Result<_, _>>()? };
    let mut files = Vec::new();
    let mut entries = 0;
    collect((folder, "", 0), &mut entries, &mut files)?;
    for path in &files {
        let failed = |error| ContentRefused::Read(path.clone(), error);
        let mut file = File::open(folder.join(path)).map_err(failed)?;
        let role = if *path == assignment.model_file { Role::Model } else { Role::Beside };
        examine((path, role), &mut file, &policy, &|other| files.iter().any(|file| file == other))?;
    }
    Ok(())
}

/// The files below a folder as paths relative to the first one; anything else than a file or folder counts as absent.
fn collect(
    (root, below, depth): (&Path, &str, usize),
    entries: &mut usize,
    files: &mut Vec<String>,
) -> Result<(), ContentRefused> {
    let failed = |error| ContentRefused::Read(below.to_owned(), error);
    for entry in fs::read_dir(root.join(below)).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        *entries += 1;
        if *entries > ENTRIES_MAX || depth > DEPTH_MAX {
            return Err(ContentRefused::TooMany);
        }
        let kind = entry.file_type().map_err(failed)?;
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        if kind.is_dir() {
            collect((root, &format!("{path}/"), depth + 1), entries, files)?;
        } else if kind.is_file() {
            files.push(path);
        }
    }
    Ok(())
}
