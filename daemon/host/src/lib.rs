//! All power of the daemon over the machine, split by noun. Two implementations: [`LinuxHost`], and `FakeHost`
//! (feature `fake`), which holds plain values and can be told to fail at any call.
//! Every call can be repeated, and every undo can run when nothing was done.

pub mod archive;
pub mod beneath;
pub mod cells;
pub mod clock;
pub mod confine;
mod counts;
pub mod devices;
mod dismantle;
pub mod doctor;
pub mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod image;
mod journal_copy;
mod launcher_client;
mod linux;
mod linux_archive;
pub mod linux_cells;
pub mod linux_pointer;
mod linux_store;
pub mod meters;
pub mod mounts;
pub mod peers;
pub mod pointer;
mod probes;
pub mod programs;
mod room;
mod scrub;
mod sending;
mod snapshots;
pub mod steering;
pub mod store;
mod sys;
pub mod topology;
pub mod traffic;
mod verity;
pub mod volume;

pub use dismantle::dismantle;
pub use error::HostError;
pub use linux::{HostConfig, LinuxHost};
pub use turnout_ebpf_layout::histogram;

use archive::Archive;
use cells::{Cells, Router};
use devices::Devices;
use meters::Meters;
use pointer::Pointer;
use store::Store;
use traffic::{Probes, Traffic};

/// The machine, as the daemon may use it.
pub trait Host:
    Store + Archive + Pointer + Cells + Devices + Router + Traffic + Probes + Meters + Send + Sync
{
}

impl<Machine> Host for Machine where
    Machine: Store + Archive + Pointer + Cells + Devices + Router + Traffic + Probes + Meters + Send + Sync
{
}
