//! turnoutctl, the command line of Turnout: read the arguments, make the call, print the reply.
//! One file per noun; the exit codes are in `error.rs`, the help is the doc comments of `args.rs`.

mod args;
mod audit;
mod audit_log;
mod bundle;
mod content;
mod doctor;
mod error;
mod exports;
mod files;
mod folder;
mod html;
mod journal;
mod key;
mod log;
mod manifest;
mod model;
mod oms;
mod oms_import;
mod order;
mod proofs;
mod release;
mod render;
mod report;
mod secret;
mod set;
mod signed;
mod signing_key;
mod snapshots;
mod status;
mod store;
mod token;
mod trust;
mod unfinished;
mod updates;
mod verify;
mod wait;
mod watch;
mod witness;

use args::{Arguments, Command};
use clap::Parser;
use error::{Exit, Failure};
use render::Screen;
use std::io::Write;
use std::process::ExitCode;
use turnout_protocol::client::Client;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let exit = run(arguments).unwrap_or_else(|failure| {
        // Nothing is left to be done when standard error is gone too.
        let _ = write!(anstream::stderr(), "{failure}");
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let client = Client::new(arguments.socket);
    let mut screen = Screen::new(arguments.output);
    let result = runtime.block_on(dispatch(&client, &mut screen, arguments.command));
    // An upload that was given up may leave a thread in a read of a slow file.
    runtime.shutdown_background();
    result
}

async fn dispatch(client: &Client, screen: &mut Screen, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Status { model } => status::status(client, screen, model.as_ref()).await,
        Command::Release(command) => release::run(client, screen, command).await,
        Command::Rollback { intervene, wait, timeout } => {
            let wait = if wait { release::Wait::UntilOver(timeout) } else { release::Wait::Not };
            release::rollback(client, screen, intervene, wait).await
        }
        Command::Report(arguments) => report::report(client, screen, arguments).await,
        Command::Model(command) => model::run(client, screen, command).await,
        Command::Manifest(command) => manifest::run(client, screen, command).await,
        Command::Oms(command) => oms::run(client, screen, command).await,
        Command::Key(command) => key::run(screen, command),
        Command::Trust(command) => trust::run(client, screen, command).await,
        Command::Order(command) => order::run(client, screen, command).await,
        Command::Audit(command) => audit::run(client, screen, command).await,
        Command::Log(arguments) => log::log(screen, &arguments).await,
        Command::Store(command) => store::run(client, screen, command).await,
        Command::Doctor => doctor::doctor(client, screen).await,
    }
}
