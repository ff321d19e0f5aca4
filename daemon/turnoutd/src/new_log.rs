//! `turnoutd new-log`: an operator's decision to go on, where the journal is not what this host has signed, or is
//! damaged. What can be read is taken over into a new log, whose first own record says who decided and why.

use crate::config::Config;
use crate::notary::{self, MARK_FILE};
use crate::{chain, evidence};
use turnout_engine::LogRecord;
use turnout_engine::log::{SignedLog, TakenBase};
use turnout_journal::{JournalError, Predecessor, succeed, verify};
use turnout_manifest::{Sha256, canonical};

/// Longest reason, in characters: it goes into the journal.
const REASON_MAX: usize = 1024;

/// Why no new log was opened.
#[derive(Debug, thiserror::Error)]
pub enum NewLogError {
    /// The reason is empty, too long or not on one line.
    #[error("the reason must have 1 to {REASON_MAX} characters and no line break")]
    Reason,
    /// The journal can go on as it is.
    #[error("the journal is whole and has all that was signed: there is nothing to decide")]
    Whole,
    /// The old journal cannot be read, or the new one not written.
    #[error("journal")]
    Journal(#[source] JournalError),
}

impl NewLogError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Reason => "an auditor reads it: say what happened to the journal",
            Self::Whole => "start `turnoutd`",
            Self::Journal(JournalError::Locked { .. }) => "stop `turnoutd` first: it has the journal open",
            Self::Journal(_) => "see the disk of the state directory; the journal is as it was",
        }
    }
}

/// Opens the new log and says what became of the one before.
///
/// # Errors
/// [`NewLogError`]; the journal is as before then.
pub fn open(config: &Config, reason: &str) -> Result<(), NewLogError> {
    let legal = (1..=REASON_MAX).contains(&reason.trim().chars().count());
    if !legal || reason.chars().any(char::is_control) {
        return Err(NewLogError::Reason);
    }
    let (journal, mark) = (config.state.join(evidence::JOURNAL_DIR), config.state.join(MARK_FILE));
    let found = notary::check(&config.state).and_then(|()| verify(&journal).map(drop));
    match found {
        Ok(()) => return Err(NewLogError::Whole),
        // Nothing was ever here: a daemon begins a log by itself.
        Err(JournalError::NoJournal { .. }) => return Err(NewLogError::Whole),
        Err(JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(NewLogError::Whole);
        }
        Err(error) => println!("found   {}", chain(&error)),
    }
    let by = format!("uid {}", rustix::process::getuid().as_raw());
    let link = |before: &Predecessor| record(before, by, reason.trim());
    let made = succeed(&journal, &mark, link).map_err(NewLogError::Journal)?;
    println!("opened  {}", made.origin);
    println!(
        "taken   {} records of {}",
        made.before.taken.size,
        made.before.origin.as_deref().unwrap_or("no log")
    );
    if let Some(kept) = &made.kept_in {
        println!("before  kept in {}", kept.display());
    }
    println!("hint: start `turnoutd`; tell your auditors, and give them the folder before");
    Ok(())
}

fn record(before: &Predecessor, by: String, reason: &str) -> Vec<u8> {
    let signed = before.signed.as_ref().map(|signed| SignedLog {
        origin: signed.origin.clone(),
        size: signed.head.size,
        root: signed.head.root.to_string(),
    });
    let opened = LogRecord::LogOpened {
        by,
        reason: reason.to_owned(),
        before: before.origin.clone(),
        taken: before.taken.size,
        taken_root: before.taken.root.to_string(),
        signed,
        damage: before.broken.clone(),
        pruned: before
            .base
            .map(|(minimum_index, base)| TakenBase { minimum_index, base: Sha256(*base.as_bytes()) }),
    };
    canonical::to_canonical(&turnout_engine::Record::Log(opened)).expect("texts and numbers below 2^53")
}
