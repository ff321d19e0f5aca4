//! Daemon <-> router, one JSON message per SOCK_SEQPACKET datagram (see [`crate::frame`]), on the descriptors of a
//! worker. The router keeps what it was told last when the daemon is gone, and tells counts, never wishes.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use turnout_manifest::plan::Strategy;
use turnout_manifest::{Generation, ModelName, Percent, Version};

/// Version of the link's message set.
pub const LINK_VERSION: u32 = 1;
/// Most ports in one message, and in a router's table.
pub const PORTS_MAX: usize = 1024;

/// What the daemon tells the router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToRouter {
    /// From now on requests of these ports go so; other ports stay as they are. Answered with
    /// [`FromRouter::InForce`] once every new request obeys.
    Routes {
        /// Sent back with the answer.
        revision: u64,
        /// One for each port.
        routes: Vec<PortRoute>,
    },
}

/// Where the requests of one public port go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRoute {
    /// The public port.
    pub port: u16,
    /// The model, for the router's own answers.
    pub model: ModelName,
    /// What happens to a request.
    pub split: Split,
}

/// How a port's requests are split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Split {
    /// Between two versions.
    Between {
        /// Who gets the candidate.
        strategy: Strategy,
        /// Key of the hash, 16 hexadecimal digits, as the release has it.
        salt: String,
        /// Share of the candidate.
        share: Percent,
        /// The new version.
        candidate: Arm,
        /// The old version, and the one that stands in where the candidate cannot be reached.
        stable: Arm,
    },
    /// To one version, and every connection closes with its next answer: the kernel takes new ones there directly.
    Home {
        /// The version.
        to: Arm,
    },
}

/// One version, where its worker listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Which start of a worker.
    pub generation: Generation,
    /// Its label.
    pub version: Version,
    /// Its own address, on loopback.
    pub address: SocketAddr,
}

/// What the router tells the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FromRouter {
    /// The process runs in its cell and has no routes yet.
    Hello {
        /// [`LINK_VERSION`].
        link_version: u32,
    },
    /// Every request that begins from now on obeys these routes.
    InForce {
        /// Of the message that brought them.
        revision: u64,
    },
    /// The routes of this revision are not taken; those before stay.
    Refused {
        /// Of the message that brought them.
        revision: u64,
        /// Why, for people.
        reason: String,
    },
    /// Running totals since the start, sent when they changed, at most every 250 ms.
    Stats(Stats),
}

/// Running totals of the router. A second opinion: what versions did is the kernel's account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections of clients open at this moment.
    pub connections: u64,
    /// Requests taken to a candidate.
    pub to_candidate: u64,
    /// Requests taken to a stable or only version.
    pub to_stable: u64,
    /// Requests that were the candidate's and went to the stable version, because the candidate took no connection.
    pub stood_in: u64,
    /// Requests that the router refused itself: unsound heads, over limits, no route.
    pub refused: u64,
    /// Requests that a worker did not answer, or not in time (502, 504).
    pub unanswered: u64,
}
