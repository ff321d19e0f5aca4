//! `turnoutd`: configuration, state, sockets, then the loop. `turnoutd doctor` only examines the host.

use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use turnoutd::arguments::{Arguments, Command};
use turnoutd::audit_http::{self, View};
use turnoutd::config::Config;
use turnoutd::{chain, dismantle, examine, new_log, serve, telemetry};

fn main() -> ExitCode {
    let Arguments { config, launcher_service, command } = Arguments::parse();
    match command {
        // It has no file to read its configuration from, and no right to.
        Some(Command::ServeSnapshots { uid, parent, snapshots }) => {
            serve_snapshots(uid, parent, snapshots.as_deref())
        }
        // It makes do with a configuration that is refused.
        Some(Command::Dismantle) => match dismantle::run(config.as_deref(), launcher_service) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&chain(&error), error.hint()),
        },
        command => configured((config.as_deref(), launcher_service), command),
    }
}

fn configured(
    (file, launcher_service): (Option<&Path>, Option<PathBuf>),
    command: Option<Command>,
) -> ExitCode {
    let config = match file.map_or_else(|| Ok(Config::default()), Config::read) {
        Ok(config) => config,
        Err(error) => return refuse(&chain(&error), error.hint()),
    };
    let found =
        || matches!(command, Some(Command::Doctor { .. })).then(|| examine::launcher_service(file)).flatten();
    let config = match launcher_service.or_else(found) {
        Some(cgroup) => config.with_launcher_service(cgroup),
        None => config,
    };
    let done = match command {
        None => serve::run(config),
        Some(Command::Doctor { output }) => return serve::doctor(&config, &output),
        Some(Command::NewLog { reason }) => {
            return match new_log::open(&config, &reason) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => refuse(&chain(&error), error.hint()),
            };
        }
        Some(Command::Dismantle | Command::ServeSnapshots { .. }) => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&chain(&error), &error.hint(file)),
    }
}

fn serve_snapshots(uid: u32, parent: Option<i32>, snapshots: Option<&Path>) -> ExitCode {
    let view = match (snapshots, parent) {
        (Some(snapshots), _) => View::from_service_manager(snapshots),
        (None, parent) => View::from_daemon(parent.unwrap_or_default()),
    };
    match view.and_then(|view| audit_http::serve(view, uid)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(
            &chain(&error),
            "the daemon starts this process, see `[audit.http]`; or systemd, see `turnout-audit-view.service`",
        ),
    }
}

fn refuse(message: &str, hint: &str) -> ExitCode {
    telemetry::say_failure(message, hint);
    ExitCode::FAILURE
}
