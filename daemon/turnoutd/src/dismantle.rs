//! `turnoutd dismantle`: takes away what a daemon has left on this host. It is for hosts on which something is broken too,
//! so it rests on little: not on a whole configuration, nor on a journal that can be read.

use crate::config::Config;
use crate::{chain, evidence, serve};
use std::path::{Path, PathBuf};
use turnout_host::HostError;
use turnout_journal::{JournalError, JournalLock};

/// Where a cgroup of the instance would be, were there a cgroup2 tree: without one there is no cell.
const NO_CGROUP: &str = "/sys/fs/cgroup/turnout";

/// Why something is still there.
#[derive(Debug, thiserror::Error)]
pub enum DismantleError {
    /// A daemon runs on this state.
    #[error("journal")]
    Running(#[source] JournalError),
    /// These would not go; everything else did.
    #[error("not everything could be taken away: {}", .0.iter().map(|error| chain(error)).collect::<Vec<_>>().join("; "))]
    Left(Vec<HostError>),
}

impl DismantleError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Running(_) => "end the daemon first; workers and routes stay until this is asked again",
            Self::Left(_) => "end what uses it and ask again; a reboot takes away all but the data",
        }
    }
}

/// Takes workers, launcher, routes, pins and mounts away. Refused while a daemon runs on this state.
///
/// # Errors
/// [`DismantleError`], with everything that would not go.
pub fn run(file: Option<&Path>, launcher_service: Option<PathBuf>) -> Result<(), DismantleError> {
    let config = places(file);
    let config = match launcher_service {
        Some(cgroup) => config.with_launcher_service(cgroup),
        None => config,
    };
    let _lock = alone(&config.state.join(evidence::JOURNAL_DIR))?;
    let cgroup = serve::cgroup(&config).unwrap_or_else(|| NO_CGROUP.into());
    let left = turnout_host::dismantle(serve::host_config(&config, cgroup));
    if left.is_empty() { Ok(()) } else { Err(DismantleError::Left(left)) }
}

/// The places, of a configuration that cannot be used too.
fn places(file: Option<&Path>) -> Config {
    let Some(file) = file else { return Config::default() };
    let (config, refused) = Config::read_places(file);
    if let Some(error) = refused {
        let (state, runtime) = (config.state.display(), config.runtime.display());
        eprintln!("warning: {}; going by `{state}` and `{runtime}`", chain(&error));
    }
    config
}

/// The right to do it: no daemon has the journal open. A disk that cannot say so keeps nothing here.
fn alone(journal: &Path) -> Result<Option<JournalLock>, DismantleError> {
    match serve::once_free(|| JournalLock::take(journal)) {
        Ok(lock) => Ok(lock),
        Err(error @ JournalError::Locked { .. }) => Err(DismantleError::Running(error)),
        Err(error) => {
            eprintln!("warning: journal: {}; whether a daemon runs is not known", chain(&error));
            Ok(None)
        }
    }
}
