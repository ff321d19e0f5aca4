//! Why the daemon did not start, and what to do about it. Whatever the reason, workers and routes are as they were.

use crate::host_key::HostKeyError;
use crate::intake::IntakeError;
use crate::recover::RecoverError;
use std::io;
use std::path::{Path, PathBuf};
use turnout_engine::base::BaseError;
use turnout_host::HostError;
use turnout_journal::JournalError;
use turnout_manifest::canonical::CanonicalError;

/// What the control socket is called in [`ServeError::Os`].
pub(super) const CONTROL_SOCKET: &str = "control socket";
/// What the port of `[audit.http]` is called there.
pub(super) const PORT: &str = "port";

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A folder or socket could not be made.
    #[error("{what} `{path}`")]
    Os {
        /// What was to be made.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// No cgroup2 tree is mounted.
    #[error("no cgroup2 file system is mounted")]
    NoCgroup,
    /// The journal cannot be used.
    #[error("journal")]
    Journal(#[source] JournalError),
    /// The journal cannot be understood.
    #[error("recovery")]
    Recover(#[source] RecoverError),
    /// The host cannot do what is needed.
    #[error("host")]
    Host(#[source] HostError),
    /// The trust store cannot be used.
    #[error("trust")]
    Intake(#[source] IntakeError),
    /// The host's own key cannot be used.
    #[error("signing")]
    HostKey(#[source] HostKeyError),
}

impl ServeError {
    /// What to do about it. `config` is the file that the daemon was started with.
    pub fn hint(&self, config: Option<&Path>) -> String {
        match self {
            Self::Journal(error) => journal_hint(error, config),
            Self::Recover(error) => recover_hint(error, config),
            Self::Intake(error) => intake_hint(error),
            Self::Os { what, path, source } => os_hint((what, path), source),
            // Mounted over the hierarchies of cgroup v1, it would hide them from whoever uses them.
            Self::NoCgroup => {
                "boot with `systemd.unified_cgroup_hierarchy=1`; only where nothing is mounted at \
                 `/sys/fs/cgroup`, as in some containers: `mount -t cgroup2 none /sys/fs/cgroup`"
                    .to_owned()
            }
            Self::HostKey(_) => {
                "restore `host-key.pem` in the state directory; without it, remove it: a new one is made"
                    .to_owned()
            }
            Self::Host(_) => doctor(),
        }
    }
}

fn doctor() -> String {
    "`turnoutd doctor` examines the host".to_owned()
}

/// How an operator decides to go on with a new log, as it has to be typed here.
fn new_log(config: Option<&Path>) -> String {
    let config = config.map(|file| format!(" --config {}", file.display())).unwrap_or_default();
    format!(
        "`systemctl stop turnoutd.socket turnoutd.service`, then `turnoutd{config} new-log --reason TEXT`"
    )
}

fn journal_hint(error: &JournalError, config: Option<&Path>) -> String {
    match error {
        JournalError::Locked { .. } => {
            "another daemon uses this state: end it, or set another `state`".to_owned()
        }
        JournalError::Io { path, .. } => format!(
            "see the disk and the permissions of `{}`, then start `turnoutd` again: nothing was changed, and traffic goes on",
            path.display()
        ),
        JournalError::Shorter { .. }
        | JournalError::Rewritten { .. }
        | JournalError::OtherLog { .. }
        | JournalError::Gone { .. }
        | JournalError::Mark { .. } => format!(
            "put the newest journal back where you have it; to go on without what is missing, decide so: {}",
            new_log(config)
        ),
        _ => format!(
            "`turnoutctl audit verify DIR` tells what is damaged; restore it from an audit snapshot, or go on with \
             what can be read: {}",
            new_log(config)
        ),
    }
}

fn recover_hint(error: &RecoverError, config: Option<&Path>) -> String {
    let put_back = || {
        format!(
            "put that file back from an audit snapshot or another copy of the journal: nobody can know the state \
             without it; to begin without any state, remove it and decide so: {}",
            new_log(config)
        )
    };
    match error {
        RecoverError::Journal(error) => journal_hint(error, config),
        RecoverError::Record { .. } => {
            "install the newer `turnoutd` again: nothing was changed, and traffic goes on".to_owned()
        }
        RecoverError::Base { source, .. } if of_another_version(source) => format!(
            "where a newer `turnoutd` ran here, install it again: nothing was changed, and traffic goes on; where \
             none did, {}",
            put_back()
        ),
        RecoverError::Base { .. } | RecoverError::Unvouched(_) | RecoverError::Foreign { .. } => put_back(),
    }
}

/// Whether this is what a base looks like to a daemon that is older than the one that wrote it.
fn of_another_version(error: &BaseError) -> bool {
    match error {
        BaseError::Head | BaseError::Parts => true,
        BaseError::Line { source, .. } => matches!(source, CanonicalError::Shape(_)),
    }
}

fn intake_hint(error: &IntakeError) -> String {
    match error {
        IntakeError::Store { path, .. } => format!(
            "put `{}` back from a backup or an audit snapshot, each of which holds a `trust.json`; nothing was \
             changed, and traffic goes on",
            path.display()
        ),
        IntakeError::File { path, .. } => format!(
            "see the disk and the permissions of `{}`, then start `turnoutd` again: nothing was changed, and traffic goes on",
            path.display()
        ),
    }
}

fn os_hint((what, path): (&str, &Path), source: &io::Error) -> String {
    match (what, source.kind()) {
        (PORT, io::ErrorKind::AddrInUse) => format!(
            "another program listens on `{}`: end it, or set another `listen` in `[audit.http]`",
            path.display()
        ),
        (PORT, _) => "set `listen` in `[audit.http]` to an address of this host and a free port".to_owned(),
        (_, io::ErrorKind::AddrInUse) => {
            "another daemon listens there: end it, or set another `socket`".to_owned()
        }
        _ => doctor(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_manifest::trust::TrustError;

    fn check(error: &ServeError, says: &[&str], not: &str) {
        let hint = error.hint(Some(Path::new("/etc/turnout/turnout.toml")));
        for word in says {
            assert!(hint.contains(word), "no {word} in: {hint}");
        }
        assert!(!hint.contains(not), "{not} in: {hint}");
    }

    #[test]
    fn what_a_newer_daemon_wrote_is_no_damage() {
        let source = serde_json::from_str::<u8>("x").unwrap_err();
        let record = ServeError::Recover(RecoverError::Record { seq: 7, source });
        check(&record, &["install the newer `turnoutd` again", "traffic goes on"], "new-log");
        let shape = CanonicalError::Shape("unknown variant `part-of-the-next-version`".to_owned());
        for source in [BaseError::Head, BaseError::Parts, BaseError::Line { line: 2, source: shape }] {
            let base = ServeError::Recover(RecoverError::Base { first: 7, source });
            check(&base, &["install it again", "put that file back"], "audit verify DIR");
        }
        let torn = CanonicalError::Syntax { at: 7, what: "a value" };
        let source = BaseError::Line { line: 2, source: torn };
        let base = ServeError::Recover(RecoverError::Base { first: 7, source });
        check(&base, &["put that file back"], "newer");
    }

    #[test]
    fn a_disk_that_fails_is_no_damage_and_is_named() {
        let io = || JournalError::Io {
            action: "read",
            path: "/srv/state/journal/000000000000.seg".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied),
        };
        for error in [ServeError::Journal(io()), ServeError::Recover(RecoverError::Journal(io()))] {
            check(&error, &["`/srv/state/journal/000000000000.seg`", "nothing was changed"], "new-log");
        }
    }

    #[test]
    fn a_new_log_is_begun_with_the_units_stopped_and_the_same_configuration() {
        let gone = ServeError::Journal(JournalError::NoJournal { dir: "/srv/state/journal".into() });
        let typed = [
            "`systemctl stop turnoutd.socket turnoutd.service`",
            "`turnoutd --config /etc/turnout/turnout.toml new-log --reason TEXT`",
        ];
        check(&gone, &typed, "examines");
        assert!(gone.hint(None).contains("`turnoutd new-log --reason TEXT`"));
    }

    #[test]
    fn a_host_with_cgroup_v1_is_not_told_to_mount_over_it() {
        let hint = ServeError::NoCgroup.hint(None);
        assert!(hint.starts_with("boot with `systemd.unified_cgroup_hierarchy=1`"), "{hint}");
        assert!(hint.contains("only where nothing is mounted"), "{hint}");
    }

    #[test]
    fn a_port_is_no_socket_and_a_trust_store_no_matter_of_the_host() {
        let taken = |what| ServeError::Os {
            what,
            path: "127.0.0.1:9480".into(),
            source: io::Error::from(io::ErrorKind::AddrInUse),
        };
        check(&taken(PORT), &["`127.0.0.1:9480`", "`listen` in `[audit.http]`"], "`socket`");
        check(&taken(CONTROL_SOCKET), &["`socket`"], "audit.http");
        let source = TrustError::Schema("x".to_owned());
        let damaged = ServeError::Intake(IntakeError::Store { path: "/srv/state/trust.json".into(), source });
        check(&damaged, &["`/srv/state/trust.json`", "audit snapshot"], "doctor");
        assert_eq!(crate::chain(&damaged).matches("/srv/state/trust.json").count(), 1);
    }
}
