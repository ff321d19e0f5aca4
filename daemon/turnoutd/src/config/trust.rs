//! `[trust]`: what this host is called in signed orders, and which channels it serves.

use rustix::system::uname;
use serde::Deserialize;
use std::str::FromStr;
use turnout_manifest::order::Whereabouts;
use turnout_manifest::{Channel, HostName};

/// Most groups or channels.
const NAMES_MAX: usize = 16;

/// What this host is called in signed orders, and which channels it serves.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTrust {
    /// The name that release orders know it by. Default the host's own name, such as `web-1`.
    host: Option<String>,
    /// Groups of hosts that it belongs to, for release orders. Default none, such as `["web"]`.
    groups: Vec<String>,
    /// Channels that it serves: versions that are signed for others are neither imported nor released.
    /// Default `["prod"]`.
    channels: Option<Vec<String>>,
}

/// What this host is called in orders, and which channels it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustPlace {
    /// Its name and groups.
    pub here: Whereabouts,
    /// Channels that it serves, at least one.
    pub channels: Vec<Channel>,
}

impl TrustPlace {
    pub(super) fn check(raw: RawTrust, problems: &mut Vec<String>) -> Self {
        let own = || uname().nodename().to_string_lossy().into_owned();
        let host = match raw.host {
            Some(name) => read("trust.host", &[name], problems).pop(),
            // A host without a fitting name of its own is met by no order, until one is given here.
            None => own().parse().ok(),
        };
        let host = host.unwrap_or_else(|| HostName::from_str("unnamed").expect("a fitting constant"));
        let groups = read("trust.groups", &raw.groups, problems);
        let channels = match raw.channels {
            Some(channels) => read("trust.channels", &channels, problems),
            None => vec![Channel::default()],
        };
        if channels.is_empty() && problems.is_empty() {
            problems.push("trust.channels: name at least one channel, such as `prod`".to_owned());
        }
        Self { here: Whereabouts { host, groups }, channels }
    }
}

fn read<T: FromStr<Err: std::fmt::Display>>(
    key: &str,
    names: &[String],
    problems: &mut Vec<String>,
) -> Vec<T> {
    if names.len() > NAMES_MAX {
        problems.push(format!("{key}: {} names, at most {NAMES_MAX} are allowed", names.len()));
    }
    let mut read = Vec::new();
    for name in names {
        match name.parse() {
            Ok(name) => read.push(name),
            Err(error) => problems.push(format!("{key}: {error}")),
        }
    }
    read
}
