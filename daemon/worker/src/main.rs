//! turnout-worker: serves one version of one model, the only process that opens a model.
//! Link, load, warm up, serve, in this order; its cell, with all locks, is built around it before it starts.

mod assertions;
mod body;
mod content;
mod contract;
mod http;
mod infer;
mod link;
mod loaded;
mod model;
mod options;
mod serve;
mod state;
mod versions;

use link::{Link, LinkError, Order, Served};
use loaded::Loader;
use options::Options;
use state::State;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;
use turnout_protocol::worker::{Assignment, FromWorker};
use versions::Versions;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("turnout-worker: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// Why the worker ended other than by being told to.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error(transparent)]
    Options(#[from] options::OptionsError),
    #[error("the link")]
    Link(#[from] LinkError),
    #[error("cannot serve the assignment: {0}")]
    Assignment(String),
    #[error("shared state")]
    State(#[source] std::io::Error),
    #[error("a serving thread ended on its own")]
    Serving,
}

fn run() -> Result<(), WorkerError> {
    without_telemetry();
    let options = Options::from_command_line(std::env::args_os().skip(1))?;
    let mut link = Link::adopt(options.link_fd)?;
    link.say_hello()?;
    let state = Arc::new(State::new().map_err(WorkerError::State)?);
    let Order::Assign(assignment) = link.wait_for_assignment(&state)? else { return Ok(()) };
    let began = Instant::now();
    let mut versions = match begin(&options, &assignment, &state) {
        Ok(versions) => versions,
        Err(reason) => {
            link.send(&FromWorker::Failed { reason: reason.clone() })?;
            return Err(WorkerError::Assignment(reason));
        }
    };
    let ready = FromWorker::Ready { load_ms: began.elapsed().as_millis() as u64 };
    link.say_ready(Served { assignment: *assignment, ready })?;
    link.attend(&state, &mut versions)?;
    if state.a_thread_failed() { Err(WorkerError::Serving) } else { Ok(()) }
}

/// Sees to it that the runtime's official builds neither collect nor send: they begin with that when the library is set
/// up, before the program can say no, unless this variable is set. The launcher sets it; started by anybody else the
/// worker starts itself again with it, in the same process.
fn without_telemetry() {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(VARIABLE).is_some_and(|value| value == "1") {
        return;
    }
    let again = |program| Command::new(program).args(std::env::args_os().skip(1)).env(VARIABLE, "1").exec();
    let error = std::env::current_exe().map_or_else(|error| error, again);
    // In a cell, the only place where this can fail, there is no network to send to and no folder to collect in.
    eprintln!("turnout-worker: cannot start again with `{VARIABLE}=1`: {error}");
}

/// Loads the version and serves it.
fn begin(options: &Options, assignment: &Assignment, state: &Arc<State>) -> Result<Versions, String> {
    let listener = link::adopt_listener(options.listener_fd).map_err(|error| with_causes(&error))?;
    let loader = Loader::new(options).map_err(|error| with_causes(&error))?;
    let version = loader.load(assignment).map_err(|error| with_causes(&error))?;
    let versions = Versions::new(loader, version, state);
    serve::start(&listener, versions.board(), state).map_err(|error| with_causes(&error))?;
    Ok(versions)
}

/// An error and its causes on one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
