//! Secrets and keys as the caller names them: files, variables, and credentials that systemd hands over. Whatever is read
//! is wiped when it is dropped.

use crate::args::SecretSource;
use crate::error::{Exit, Failure};
use crate::files;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Where systemd puts credentials (systemd.exec(5), CREDENTIALS_DIRECTORY).
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A passphrase or PIN, without the line's end.
pub fn read(source: &SecretSource) -> Result<Zeroizing<String>, Failure> {
    let text = match source {
        SecretSource::File(path) => file(path)?,
        SecretSource::Credential(name) => file(&credential(name)?)?,
        SecretSource::Environment(name) => Zeroizing::new(std::env::var(name).map_err(|_| {
            Failure::new(Exit::Failed, format!("the environment has no text `{name}`"))
                .hint("set it for this command alone, or read the secret from a file")
        })?),
    };
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(Exit::Refused, "the secret is empty"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// The path of a credential.
pub fn credential(name: &str) -> Result<PathBuf, Failure> {
    let plain = !name.contains('/') && !name.starts_with('.') && !name.is_empty();
    if !plain {
        return Err(Failure::new(Exit::Usage, format!("`{name}` is no name of a credential")));
    }
    let directory = std::env::var_os(DIRECTORY).ok_or_else(|| {
        Failure::new(Exit::Failed, format!("there are no credentials: `{DIRECTORY}` is not set"))
            .hint("systemd sets it for a unit with `LoadCredential=` or `LoadCredentialEncrypted=`, also with `systemd-run -P -p LoadCredential=NAME:PATH`")
    })?;
    Ok(Path::new(&directory).join(name))
}

/// The text of a file that nobody but its owner and group may read.
fn file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    must_be_private(path)?;
    files::read_text(path).map(Zeroizing::new)
}

/// Refuses a file that every user of the host may read. What a pipe gives has no such users.
pub fn must_be_private(path: &Path) -> Result<(), Failure> {
    let metadata = path.metadata().map_err(|error| Failure::file("read", path, &error))?;
    if metadata.is_file() && metadata.mode() & 0o007 != 0 {
        return Err(Failure::new(
            Exit::Refused,
            format!("`{}` is open to every user of this host", path.display()),
        )
        .hint(format!("keep it to its owner: `chmod 600 {}`, and consider it known", path.display())));
    }
    Ok(())
}
