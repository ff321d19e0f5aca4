//! The number of the next record to give, in a file that is whole after any crash.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Longest text of a cursor: the digits of a `u64` and a newline.
const CURSOR_MAX: u64 = 21;

/// Where the next run goes on.
pub struct Cursor {
    file: Option<PathBuf>,
    next: u64,
}

/// Why a cursor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// Its file cannot be read or replaced.
    #[error("`{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// Its file holds something else than a number.
    #[error("`{0}` holds no record number; remove it to begin at the first record")]
    Content(PathBuf),
}

impl Cursor {
    /// Reads the file, if there is one; otherwise the first record is next.
    ///
    /// # Errors
    /// [`CursorError`].
    pub fn open(file: Option<&Path>) -> Result<Self, CursorError> {
        let Some(path) = file else { return Ok(Self { file: None, next: 0 }) };
        let next = match fs::metadata(path).map(|found| found.len()) {
            Ok(length) if length > CURSOR_MAX => return Err(CursorError::Content(path.to_owned())),
            Ok(_) => {
                let failed = |source| CursorError::File { path: path.to_owned(), source };
                let text = fs::read_to_string(path).map_err(failed)?;
                text.trim_end().parse().map_err(|_| CursorError::Content(path.to_owned()))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(CursorError::File { path: path.to_owned(), source }),
        };
        Ok(Self { file: Some(path.to_owned()), next })
    }

    /// The next record's number.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Notes that everything before this number was given.
    ///
    /// # Errors
    /// [`CursorError::File`].
    pub fn advance(&mut self, next: u64) -> Result<(), CursorError> {
        self.next = next;
        match &self.file {
            Some(path) => {
                replace(path, next).map_err(|source| CursorError::File { path: path.clone(), source })
            }
            None => Ok(()),
        }
    }
}

/// rename(2) leaves the old number or the new one; a lost rename only gives records once more, so nothing is synced.
fn replace(path: &Path, next: u64) -> io::Result<()> {
    let new = path.with_extension("new");
    writeln!(File::create(&new)?, "{next}")?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_and_a_foreign_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cursor");
        let mut cursor = Cursor::open(Some(&path)).unwrap();
        assert_eq!(cursor.next(), 0);
        cursor.advance(42).unwrap();
        assert_eq!(Cursor::open(Some(&path)).unwrap().next(), 42);
        for foreign in ["x", "", "-1", "99999999999999999999999999"] {
            fs::write(&path, foreign).unwrap();
            assert!(matches!(Cursor::open(Some(&path)), Err(CursorError::Content(_))), "{foreign:?}");
        }
    }
}
