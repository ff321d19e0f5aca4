//! Pure decisions. No clock, no file, no socket, no thread: time and facts come in as arguments, effects go out as
//! data. The state of every release is a fold of journal [`Record`]s, so recovery is replay and nothing else.
//!
//! Read in this order: [`step`] (what can be done to the host), [`plan`] (a release as a list of steps),
//! [`advance`] (state x event -> records), [`world`] (records -> state), [`rollback`], [`slo`], [`cpus`]; [`set`] (releases
//! that are promoted together). What is kept and what may go: [`archive`], [`guard`], [`retention`]; of the journal itself:
//! [`pruning`], [`base`]. What is trusted: [`trust`]. The journal, its clock and a full
//! disk: [`log`], [`reserve`].

pub mod advance;
pub mod archive;
pub mod base;
pub mod context;
pub mod cpus;
pub mod guard;
pub mod log;
pub mod plan;
pub mod pruning;
pub mod record;
pub mod reserve;
pub mod retention;
pub mod rollback;
pub mod set;
pub mod slo;
pub mod step;
pub mod tally;
pub mod trust;
pub mod world;

pub use advance::{Event, Refusal, decide};
pub use archive::{Archive, ArchiveRecord, Reason};
pub use base::Base;
pub use context::Contexts;
pub use guard::{ArchiveRefusal, ArchiveWish};
pub use log::LogRecord;
pub use record::{Cause, Entry, Kind, Record, Target};
pub use slo::{Figures, Verdict, Window};
pub use step::{Moment, Step};
pub use tally::{ModelTally, Tally};
pub use trust::{TrustLog, TrustRecord};
pub use world::{Model, Progress, Release, Stamp, World};
