//! The daemon: a loop that owns the state of all releases ([`driver`]), the hands that execute its steps
//! ([`executor`]), and the door through which it is asked ([`api`]). Read [`driver`] first.

pub mod access;
pub mod admission;
pub mod api;
pub mod arguments;
pub mod audit;
pub mod audit_http;
pub mod beginning;
pub mod bundle;
pub mod catalog;
pub mod checkpoints;
pub mod condition;
pub mod config;
pub mod denials;
pub mod diff;
pub mod dismantle;
pub mod driver;
pub mod evidence;
pub mod examine;
pub mod executor;
pub mod exports;
pub mod exposition;
pub mod failing;
pub mod feeds;
pub mod handlers;
pub mod host_key;
pub mod idle_body;
pub mod intake;
pub mod keeping;
pub mod log_rate;
pub mod metrics;
pub mod new_log;
pub mod notary;
pub mod notify;
pub mod own_cpus;
pub mod pace;
pub mod places;
pub mod ports;
pub mod profile;
pub mod pruning;
pub mod recover;
pub mod router_link;
pub mod serve;
pub mod settings;
pub mod snapshots;
pub mod status_line;
pub mod storage;
pub mod supervise;
mod takeover;
pub mod telemetry;
pub mod teller;
pub mod tenants;
pub mod timers;
pub mod totals;
pub mod trust;
pub mod view;
mod way_back;
pub mod windows;

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

/// An error and all its causes on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Milliseconds since the epoch, now.
pub fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Nanoseconds since the epoch as milliseconds.
pub fn millis(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds / 1_000_000).unwrap_or(0)
}

/// A fresh key for a split's hash.
pub fn salt() -> u64 {
    getrandom::u64().unwrap_or_else(|_| now_ms().wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
