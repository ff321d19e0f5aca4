//! turnout-router: takes each request of a release to the version that its content chooses, for the strategies that the
//! kernel cannot decide. It holds no right and no model; what it is told last stays in force when the daemon is gone.
//!
//! `link` hears the daemon and keeps `table`; `serve` accepts connections; `forward` takes one request to the version
//! that `choose` names, over a connection that `pool` lends; `stats` counts.

pub mod choose;
pub mod forward;
pub mod link;
pub mod pool;
pub mod serve;
pub mod stats;
pub mod table;
