//! `turnout-export`: reads the journal and gives every record to a sink, in order and at least once. It needs no
//! right but to read the journal's folder; it never writes there. `turnout-export metrics` serves what the daemon counts.

mod arguments;
mod cursor;
mod events;
mod metrics;
mod sink;
mod subjects;

use arguments::{Arguments, Command, To};
use clap::Parser;
use cursor::{Cursor, CursorError};
use sink::{Sink, SinkError, event};
use std::process::ExitCode;
use std::time::Duration;
use subjects::Subjects;
use turnout_journal::{JournalError, Reader, first_record};

/// How often a journal that has nothing new is looked at again: its writer cannot wake another user's process.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("journal")]
    Journal(#[source] JournalError),
    #[error("cursor")]
    Cursor(#[source] CursorError),
    #[error("sink")]
    Sink(#[source] SinkError),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Metrics(arguments)) = arguments.command {
        let hint = "is another exporter running there? `--listen` takes another address";
        return metrics::run(arguments).map_or_else(|error| refuse(&error, hint), |()| ExitCode::SUCCESS);
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ExportError::Sink(error)) if error.receiver_left() => ExitCode::SUCCESS,
        Err(error) => refuse(&error, "`turnoutctl audit verify DIR` tells whether the journal is whole"),
    }
}

fn refuse(error: &dyn std::error::Error, hint: &str) -> ExitCode {
    eprintln!("error: {}\nhint: {hint}", chain(error));
    ExitCode::FAILURE
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn run(arguments: &Arguments) -> Result<(), ExportError> {
    let mut cursor = Cursor::open(arguments.cursor.as_deref()).map_err(ExportError::Cursor)?;
    let mut sink = match arguments.to {
        To::Stdout => Sink::stdout(),
        To::Journald => Sink::journald().map_err(ExportError::Sink)?,
    };
    let given = give_all(arguments, &mut cursor, &mut sink);
    // What was given until then was given, whatever ended it.
    cursor.save().map_err(ExportError::Cursor).and(given)
}

fn give_all(arguments: &Arguments, cursor: &mut Cursor, sink: &mut Sink) -> Result<(), ExportError> {
    let first = first_record(&arguments.journal).map_err(ExportError::Journal)?;
    let missed = cursor.skip_to(first);
    if missed > 0 && arguments.cursor.is_some() {
        eprintln!("warning: {missed} records were pruned before they were given; going on at record {first}");
    }
    check_last(arguments, cursor, first)?;
    let mut subjects = Subjects::new(&arguments.journal, cursor.next());
    let mut reader = Reader::open(&arguments.journal, cursor.next()).map_err(ExportError::Journal)?;
    loop {
        match reader.next_record().map_err(ExportError::Journal)? {
            Some(record) => {
                let event = event(&record);
                let subject = subjects.of(&record, &event.body).map_err(ExportError::Journal)?;
                sink.give(&event, &subject).map_err(ExportError::Sink)?;
                // After the sink has it: a crash in between gives it once more, never not at all.
                cursor.advance(record.seq, record.leaf()).map_err(ExportError::Cursor)?;
            }
            None if arguments.follow => {
                cursor.save().map_err(ExportError::Cursor)?;
                std::thread::sleep(LOOK_EVERY);
            }
            None => return Ok(()),
        }
    }
}

/// Goes back where the journal does not have the last record that was given: its end was lost, and others took its place.
fn check_last(arguments: &Arguments, cursor: &mut Cursor, first: u64) -> Result<(), ExportError> {
    let Some((seq, leaf)) = cursor.last().filter(|(seq, _)| *seq >= first) else { return Ok(()) };
    let mut reader = Reader::open(&arguments.journal, seq).map_err(ExportError::Journal)?;
    let there = reader.next_record().map_err(ExportError::Journal)?;
    if there.is_none_or(|record| record.leaf() != leaf) {
        cursor.go_back();
        cursor.skip_to(first);
        let next = cursor.next();
        eprintln!(
            "warning: the journal does not have record {seq} as it was given; going on at record {next}"
        );
    }
    Ok(())
}
