//! The host's own key: what this daemon gives out is signed with it, so that it can be told elsewhere where it came
//! from. Made at the first start; the private half stays in the state directory, readable by root alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use turnout_manifest::key::{KeyError, PrivateKey};

/// Its file below the state directory.
pub const FILE: &str = "host-key.pem";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// Its file could not be read or written.
    #[error("host key `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// What is in it is no key, or none could be made.
    #[error("host key `{path}`")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
}

/// Reads the key, or makes it.
///
/// # Errors
/// [`HostKeyError`]; a file that is there is never replaced.
pub fn open(state: &Path) -> Result<PrivateKey, HostKeyError> {
    let path = state.join(FILE);
    let file = |source| HostKeyError::File { path: path.clone(), source };
    let key = |source| HostKeyError::Key { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => PrivateKey::from_pem(&text).map_err(key),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = PrivateKey::generate().map_err(key)?;
            write(&path, made.to_pem().as_bytes()).map_err(file)?;
            Ok(made)
        }
        Err(error) => Err(file(error)),
    }
}

/// Whole or not at all, and never readable by others, not for a moment.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("pem.new");
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_read_ever_after() {
        let state = tempfile::tempdir().unwrap();
        let (made, read) = (open(state.path()).unwrap(), open(state.path()).unwrap());
        assert_eq!(made.public_key(), read.public_key());
        let mode = fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_stays() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join(FILE), "mine").unwrap();
        assert!(matches!(open(state.path()), Err(HostKeyError::Key { .. })));
        assert_eq!(fs::read_to_string(state.path().join(FILE)).unwrap(), "mine");
    }
}
