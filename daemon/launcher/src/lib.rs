//! turnout-launcher: builds cells and owns them. A process of its own, so that workers outlive the daemon, and single
//! threaded, so that a child may do anything between clone3(2) and execve(2).

mod arguments;
mod cell;
mod cells;
mod cgroup;
mod device;
mod profile;
mod protection;
mod relay;
mod root;
mod router;
mod seccomp;
mod serve;
mod starter;
mod swap;
mod sys;
mod tenants;
mod wait;

#[cfg(feature = "weaken")]
pub use protection::Protection;
pub use protection::Protections;
#[cfg(feature = "weaken")]
pub use sys::probe;

use arguments::{Arguments, USAGE};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use starter::Starter;
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

#[cfg(all(feature = "weaken", not(debug_assertions)))]
compile_error!("`weaken` makes cells that do not hold: it is for tests, and no build for use may have it");

/// Descriptors the launcher itself needs: five for each cell and those of the devices it is given, the connections, and
/// those of one start.
const DESCRIPTORS: u64 = 2048;

/// The whole life of a launcher with this command line, beginning with the first lines of `main`.
pub fn run(parser: lexopt::Parser, protections: Protections) -> ExitCode {
    let mut starter = Starter::from_environment();
    sys::clear_environment();
    let limited = limit();
    match limited.and_then(|()| serve(parser, protections, &mut starter)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(inner) = cause {
                text.push_str(&format!(": {inner}"));
                cause = inner.source();
            }
            starter.say_failure(&text);
            ExitCode::FAILURE
        }
    }
}

fn limit() -> Result<(), Box<dyn Error>> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // The hard limit stays: it is the workers' too.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum })?;
    // Folders of a cell's root are for the worker's user, whatever mask this was started with.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // The terminal's and the daemon's ends are not this process's. Fails where it leads a session already.
    let _ = rustix::process::setsid();
    Ok(())
}

fn serve(
    parser: lexopt::Parser,
    protections: Protections,
    starter: &mut Starter,
) -> Result<(), Box<dyn Error>> {
    let Some(arguments) = Arguments::read(parser)? else {
        std::io::stdout().write_all(USAGE.as_bytes())?;
        return Ok(());
    };
    let layout = root::Layout::find(&arguments.worker, &arguments.onnxruntime, &arguments.cell_root)?;
    let filters = seccomp::Filters::compile(&[])?;
    let device_filters = seccomp::Filters::compile(profile::DEVICE_CALLS)?;
    let router = router::RouterRecipe::new(arguments.router, arguments.cell_root)?;
    let signals = sys::signal_descriptor(&[libc::SIGTERM, libc::SIGINT])?;
    let hierarchy = cgroup::Hierarchy::take(&arguments.cgroup)?;
    let controllers = hierarchy.controllers();
    let recipe = cell::Recipe {
        protections,
        layout,
        filters,
        device_filters,
        landlock_abi: sys::landlock_abi(),
        memory_controller: controllers.memory,
        pids_controller: controllers.pids,
    };
    let cells = cells::Cells::new(hierarchy, (recipe, router), arguments.uid_base);
    let server = match starter.socket.take() {
        Some(socket) => serve::Server::take_over(socket, signals, cells)?,
        None => serve::Server::bind(&arguments.socket, signals, cells)?,
    };
    // What is written later goes to standard error alone.
    starter.tell_ready()?;
    server.serve()?;
    Ok(())
}
