//! All power of the daemon over the machine, split by noun. Two implementations: [`LinuxHost`], and `FakeHost`
//! (feature `fake`), which holds plain values and can be told to fail at any call.
//! Every call can be repeated, and every undo can run when nothing was done.

mod beneath;
pub mod cells;
mod counts;
pub mod doctor;
pub mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod image;
mod launcher_client;
mod linux;
pub mod linux_cells;
pub mod linux_pointer;
mod linux_store;
pub mod mounts;
pub mod pointer;
mod probes;
pub mod programs;
mod snapshots;
pub mod steering;
pub mod store;
mod sys;
pub mod topology;
pub mod traffic;
pub mod volume;

pub use error::HostError;
pub use linux::{HostConfig, LinuxHost};
pub use turnout_ebpf_layout::histogram;

use cells::{Cells, Router};
use pointer::Pointer;
use store::Store;
use traffic::{Probes, Traffic};

/// The machine, as the daemon may use it.
pub trait Host: Store + Pointer + Cells + Router + Traffic + Probes + Send + Sync {}

impl<Machine: Store + Pointer + Cells + Router + Traffic + Probes + Send + Sync> Host for Machine {}
