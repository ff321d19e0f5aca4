//! Daemon <-> worker, one JSON message per SOCK_SEQPACKET datagram (see [`crate::frame`]).
//! A worker states facts, never wishes: nothing it says can name a step of a release.

use serde::{Deserialize, Serialize};
use turnout_manifest::assertion::Assertion;
use turnout_manifest::contract::Contract;
use turnout_manifest::{AuditContextId, ModelName, Version};

/// The descriptor number on which a worker finds its listening socket.
pub const LISTENER_FD: i32 = 3;
/// The descriptor number on which a worker finds its end of the link.
pub const LINK_FD: i32 = 4;
/// Where the model's files are mounted inside a cell.
pub const MODEL_DIR: &str = "/model";
/// Where the ONNX Runtime library is mounted inside a cell.
pub const ONNXRUNTIME_PATH: &str = "/lib/libonnxruntime.so";

/// Names of the formats that run code when they are loaded, as [`Assignment::allowed_formats`] may hold them.
pub const FORMATS: [&str; 5] = ["pickle", "archive", "hdf5", "script", "native"];

/// What the daemon tells a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToWorker {
    /// First message: what to load and what to hold requests and answers to.
    Assign(Box<Assignment>),
    /// Connections older than this get `Connection: close` with their next answer; `None` lifts the limit.
    ConnectionLife {
        /// Greatest age in milliseconds.
        milliseconds: Option<u64>,
    },
    /// Answer what is under way, close every connection with its next answer or after `idle_ms` of silence, then exit.
    Drain {
        /// How long an idle connection is left open, milliseconds.
        idle_ms: u64,
    },
}

/// What one worker serves. The contract and assertions come from a manifest that the daemon has verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The model's name in URLs.
    pub model: ModelName,
    /// The version's label in answers.
    pub version: Version,
    /// The manifest's digest, sent back in the `turnout-version-digest` header.
    pub digest: String,
    /// The audit context under which the version was asked for, sent back in the `turnout-audit-context` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit_context: Option<AuditContextId>,
    /// The ONNX file under [`MODEL_DIR`].
    pub model_file: String,
    /// Serving threads, each with its own session. The cell's CPU set is fixed before the worker starts.
    pub threads: u32,
    /// What requests and answers look like.
    pub contract: Contract,
    /// What a good answer is.
    pub assertions: Vec<Assertion>,
    /// Domains of ONNX operators that the host allows besides the standard ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_domains: Vec<String>,
    /// Formats, out of [`FORMATS`], that the host allows in a version's folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_formats: Vec<String>,
}

/// What a worker tells the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FromWorker {
    /// The process runs in its cell and awaits its assignment.
    Hello {
        /// Version of this message set: [`LINK_VERSION`].
        link_version: u32,
    },
    /// Model loaded, contract checked against it, warmed up: the worker accepts connections.
    Ready {
        /// Time from assignment to readiness, milliseconds.
        load_ms: u64,
    },
    /// The assignment cannot be served; the process exits after saying so.
    Failed {
        /// Why, for people.
        reason: String,
    },
    /// Running totals since the start, sent when they changed, at most every 50 ms.
    Counts(Counts),
}

/// Running totals of one worker. The worker's own claim: latency and errors are measured by the kernel instead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Inference requests answered, whatever the status.
    pub requests: u64,
    /// Requests that broke the contract (4xx).
    pub contract_refusals: u64,
    /// Answers withheld because an assertion failed.
    pub assertion_failures: u64,
    /// Runs that the model or its runtime failed.
    pub run_failures: u64,
}

/// Version of the link's message set.
pub const LINK_VERSION: u32 = 1;
