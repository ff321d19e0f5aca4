//! Whole-product tests over sockets and files: what the scenarios, the demo and the benchmarks share.

pub mod bench;
mod connection;
pub mod cores;
pub mod daemon;
pub mod demo;
pub mod images;
pub mod journald;
pub mod kills;
pub mod load;
pub mod models;
pub mod power_cut;
pub mod prometheus;
pub mod remains;
pub mod scenario;
pub mod tally;
pub mod users;
pub mod witness;
