//! What a person sees when a command does not succeed: message, then findings, then hint; the exit code follows the kind.

use std::fmt;
use std::io;
use turnout_protocol::client::ClientError;

/// How a command ends. The number is the exit code and part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// It was called in a way it does not understand.
    Usage = 2,
    /// A check or gate said no.
    Refused = 3,
    /// No daemon answers.
    Unreachable = 4,
    /// The caller may not do this.
    Denied = 5,
}

/// Why a command did not succeed, ready to be printed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code it leads to.
    pub exit: Exit,
    message: String,
    details: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None }
    }

    /// A failure of this kind with its chain of causes.
    pub fn from_error(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(exit, chain(error))
    }

    /// A failure to do something with a file.
    pub fn file(action: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Failed };
        Self::new(exit, format!("cannot {action} `{}`: {error}", path.display()))
    }

    /// What went wrong, without details and hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The same failure with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with every single finding.
    #[must_use]
    pub fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::render::{BAD, DIM, safe};
        // Names of files and answers of a daemon are others' words.
        writeln!(out, "{BAD}error:{BAD:#} {}", safe(&self.message))?;
        for detail in &self.details {
            writeln!(out, "  - {}", safe(detail))?;
        }
        match &self.hint {
            Some(hint) => writeln!(out, "{DIM}hint:{DIM:#} {}", safe(hint)),
            None => Ok(()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => Self {
                exit: exit_of(problem.code.exit_code()),
                message: problem.message,
                details: problem.details,
                hint: problem.hint,
            },
            ClientError::OtherVersion { .. } => Self::from_error(Exit::Failed, &error)
                .hint("`systemctl restart turnoutd` starts the one that is installed; `turnoutctl --version` is to be the same"),
            ClientError::Unreachable { .. } => Self::from_error(Exit::Unreachable, &error)
                .hint("start `turnoutd`, or name its socket with `--socket PATH`"),
            ClientError::Denied { .. } => Self::from_error(Exit::Denied, &error)
                .hint("run it as root, or as a member of the group `turnout`"),
            ClientError::Language { .. } => Self::from_error(Exit::Failed, &error).hint(
                "is the daemon of another version? compare `turnoutctl --version` with `turnoutd --version`",
            ),
            ClientError::Late { .. } => Self::from_error(Exit::Unreachable, &error).hint(
                "`systemctl status turnoutd` and `journalctl -u turnoutd` say what keeps it; traffic goes on by the last \
                 weights",
            ),
            ClientError::Broken { .. } => Self::from_error(Exit::Failed, &error)
                .hint("see the daemon's log: `journalctl -u turnoutd` where it is a service, else its standard error"),
            _ => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<io::Error> for Failure {
    /// Of the output itself; other files go through [`Failure::file`].
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, format!("cannot write the output: {error}"))
    }
}

fn exit_of(code: u8) -> Exit {
    match code {
        2 => Exit::Usage,
        3 => Exit::Refused,
        4 => Exit::Unreachable,
        5 => Exit::Denied,
        _ => Exit::Failed,
    }
}

/// The error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_protocol::error::{ErrorCode, Problem};

    #[test]
    fn a_daemon_that_is_older_is_no_mistake_in_how_it_was_called() {
        let problem = Problem::new(ErrorCode::BadRequest, "the body: unknown field `next`");
        let failure = Failure::from(ClientError::OtherVersion { daemon: "0.0.1".to_owned(), problem });
        assert_eq!(failure.exit, Exit::Failed);
        let told = failure.to_string();
        for word in ["turnoutd is 0.0.1, turnoutctl ", "unknown field `next`", "systemctl restart turnoutd"] {
            assert!(told.contains(word), "no {word} in: {told}");
        }
    }

    #[test]
    fn a_daemon_that_does_not_answer_counts_as_not_reachable() {
        let within = turnout_protocol::client::ANSWER_DEADLINE;
        let late = Failure::from(ClientError::Late { call: "GET /v1/status".to_owned(), within });
        assert_eq!(late.exit, Exit::Unreachable);
        let told = late.to_string();
        assert!(told.contains("did not answer `GET /v1/status` within 30 s"), "{told}");
        assert!(told.contains("`systemctl status turnoutd`"), "{told}");
    }

    #[test]
    fn a_failure_is_as_many_lines_as_it_has_parts_whatever_it_names() {
        let name = "a\nhint: all is well\u{1b}[2J\u{202e}";
        let failure = Failure::new(Exit::Refused, name).details(vec![name.to_owned()]).hint(name);
        let told = failure.to_string();
        assert_eq!(told.lines().count(), 3, "{told}");
        assert!(!told.contains("\u{1b}[2J") && !told.contains('\u{202e}'), "{told}");
    }
}
