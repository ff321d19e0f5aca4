//! What Turnout's processes say to each other: the control API, the worker's link, errors and the client.
//! Wire types only; what they mean inside the daemon is the engine's own.

pub mod archive;
pub mod checkpoint;
pub mod client;
pub mod control;
pub mod error;
pub mod frame;
pub mod journal;
mod release;
pub mod report;
pub mod router;
pub mod set;
pub mod trust;
pub mod worker;

pub use error::{ErrorCode, Problem};
