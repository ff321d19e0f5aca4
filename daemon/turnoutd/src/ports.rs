//! Which public port a model gets: the configured one, the one it had, or the next free one of the range.

use crate::chain;
use crate::handlers::{Desk, problem};
use std::collections::BTreeSet;
use turnout_host::HostError;
use turnout_manifest::ModelName;
use turnout_protocol::error::{ErrorCode, Problem};

/// The model's public port, claimed; none of those that are reserved for models which are released with it. A port that is
/// served on stays as long as a release goes on: the configuration moves it between releases.
///
/// # Errors
/// When the port, or every port of the range, belongs to another process.
pub fn port_for(model: &ModelName, desk: &Desk, reserved: &BTreeSet<u16>) -> Result<u16, Problem> {
    let config = desk.daemon.config.live.get();
    let view = desk.view();
    let known = view.world.models.get(model);
    let serving = known.filter(|model| model.live.is_some()).map(|model| model.port);
    let fixed = config.model_ports.get(model).copied();
    if let Some(port) = serving.or(fixed).or(known.map(|model| model.port)) {
        let others = view.world.models.iter().filter(|(name, _)| *name != model);
        if let Some(other) = others.into_iter().find_map(|(name, other)| (other.port == port).then_some(name))
        {
            return Err(of_another(model, port, other));
        }
        return claim(port, desk).map_err(|error| in_use(model, port, &error));
    }
    let given = view.world.models.values().map(|model| model.port);
    let given = given.chain(reserved.iter().copied());
    let taken: BTreeSet<u16> = given.chain(config.model_ports.values().copied()).collect();
    let (first, last) = config.ports;
    let mut refused = None;
    for port in (first..=last).filter(|port| !taken.contains(port)) {
        match claim(port, desk) {
            Ok(port) => return Ok(port),
            Err(error) => refused = Some(in_use(model, port, &error)),
        }
    }
    let none_left = problem(ErrorCode::Limit, format!("no port of {first}-{last} is left for `{model}`"))
        .hint("widen `ports` in the configuration");
    Err(refused.unwrap_or(none_left))
}

fn claim(port: u16, desk: &Desk) -> Result<u16, HostError> {
    desk.host.claim(&desk.daemon.config.addresses(port)).map(|()| port)
}

fn of_another(model: &ModelName, port: u16, other: &ModelName) -> Problem {
    problem(ErrorCode::Refused, format!("port {port} cannot be given to `{model}`: it is `{other}`'s"))
        .hint(format!("set `[models.{model}] port` to another, or move `{other}` first"))
}

fn in_use(model: &ModelName, port: u16, error: &HostError) -> Problem {
    problem(ErrorCode::Refused, format!("port {port} cannot be given to `{model}`: {}", chain(error))).hint(
        format!(
            "end what listens there (`ss -ltnp sport = :{port}`), or set `[models.{model}] port` to another"
        ),
    )
}
