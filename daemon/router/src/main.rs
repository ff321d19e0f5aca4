//! The program: takes over its two descriptors, starts the serving threads, attends the link.

use std::process::ExitCode;
use std::sync::Arc;
use turnout_router::link::{Link, adopt_listener};
use turnout_router::serve::Server;
use turnout_router::stats::Counters;
use turnout_router::table::Table;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes = std::iter::successors(error.source(), |cause| cause.source());
            let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
            eprintln!("turnout-router: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let link = Link::adopt()?;
    let (table, counters) = (Arc::new(Table::default()), Arc::new(Counters::default()));
    Server::start(adopt_listener()?, &table, &counters)?;
    link.attend(&table, &counters)?;
    Ok(())
}
