//! What the host could not do: the call, the object, the OS error. Nothing else is ever wrapped in it.

use std::io;

/// A failed effect on the machine.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A system call or file operation failed.
    #[error("{call} `{object}`")]
    Os {
        /// What was called: `move_mount`, `mkdir`.
        call: &'static str,
        /// On what.
        object: String,
        /// The OS error.
        #[source]
        source: io::Error,
    },
    /// Content differs from what the manifest says.
    #[error("`{path}` differs from its manifest: {what}")]
    Content {
        /// The file, relative to the version.
        path: String,
        /// Expected and found.
        what: String,
    },
    /// There is not enough room.
    #[error("store has {free_bytes} bytes free, {needed_bytes} needed with the reserve")]
    NoSpace {
        /// Free bytes.
        free_bytes: u64,
        /// Needed bytes.
        needed_bytes: u64,
    },
    /// Something is mounted or open, so it cannot be taken away.
    #[error("`{what}` is in use: {}", .places.join(", "))]
    InUse {
        /// What.
        what: String,
        /// Where it is mounted, or how it is used.
        places: Vec<String>,
    },
    /// The store takes no writes any more.
    #[error("the store is read-only: the kernel stopped writing to it after an error")]
    ReadOnlyStore,
    /// A public port belongs to another process.
    #[error("address {address} is in use by another process")]
    AddressInUse {
        /// The address.
        address: String,
    },
    /// The machine lacks something that only its owner can add.
    #[error("{what}: {remedy}")]
    Unsupported {
        /// What was found.
        what: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// No such version, cell or snapshot.
    #[error("no such {kind} `{name}`")]
    Missing {
        /// `version`, `cell`, `snapshot`.
        kind: &'static str,
        /// Which.
        name: String,
    },
    /// The launcher refused or failed.
    #[error("launcher: {failure} `{detail}`")]
    Launcher {
        /// What it failed at, in words.
        failure: String,
        /// On what.
        detail: String,
        /// The OS error, when there is one.
        #[source]
        source: Option<io::Error>,
    },
    /// The kernel refused an eBPF program, map or link.
    #[error("ebpf {what}: {message}")]
    Ebpf {
        /// `load steer`, `pin ROUTES`.
        what: String,
        /// The kernel's or the library's words.
        message: String,
    },
}

impl HostError {
    /// For `map_err`: names the call and the object.
    pub fn os<Source: Into<io::Error>>(
        call: &'static str,
        object: impl ToString,
    ) -> impl FnOnce(Source) -> Self {
        let object = object.to_string();
        move |source| Self::Os { call, object, source: source.into() }
    }
}
