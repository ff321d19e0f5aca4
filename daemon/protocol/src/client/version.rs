//! Whether a daemon that does not know what was asked is only of another version.

use super::ClientError;
use crate::error::{ErrorCode, Problem};
use hyper::HeaderMap;
use hyper::header::SERVER;

/// How a daemon calls itself in each answer, before its version.
const DAEMON: &str = "turnoutd/";
/// How it begins to say that there is no such path,
const NO_RESOURCE: &str = "no such resource ";
/// and that it cannot read a request's JSON.
const NO_BODY: &str = "the body: ";

/// The version of the daemon that answers. One that does not say it is older than all that do.
pub(super) fn of(headers: &HeaderMap) -> Option<String> {
    let name = headers.get(SERVER)?.to_str().ok()?;
    name.strip_prefix(DAEMON).map(str::to_owned)
}

/// The problem, with the two versions where they differ and it is one of not being understood.
pub(super) fn told(problem: Problem, daemon: Option<String>) -> ClientError {
    let unknown = match problem.code {
        ErrorCode::NotFound => problem.message.starts_with(NO_RESOURCE),
        ErrorCode::BadRequest => problem.message.starts_with(NO_BODY),
        _ => false,
    };
    match daemon.filter(|daemon| unknown && daemon != env!("CARGO_PKG_VERSION")) {
        Some(daemon) => ClientError::OtherVersion { daemon, problem },
        None => problem.into(),
    }
}
