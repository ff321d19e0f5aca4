//! How a release moves traffic: strategy, steps, windows, objectives. Written by people in YAML, fixed when a
//! release is created, recorded as canonical JSON with integers only (milliseconds, millionths, thousandths).

use crate::ids::Percent;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Who decides which version a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Each new connection, by a keyed hash of its addresses and ports.
    Weight,
    /// Each client address, by a keyed hash: one client, one version.
    SourceHash,
}

/// What happens when an objective is missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBreach {
    /// Traffic goes home at once and the new version is taken down.
    Rollback,
    /// Weights stay; a person decides.
    Pause,
}

/// How many windows must speak, and how many of them alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// How many of the last windows are looked at.
    pub look_back: u32,
    /// How many of those must be met to go on, or missed to breach.
    pub consecutive: u32,
}

/// What a good window looks like. An objective that is absent is not judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objectives {
    /// Greatest median time to last byte, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// Greatest 95th percentile of the time to last byte, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_us: Option<u64>,
    /// Greatest 99th percentile of the time to last byte, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
    /// Greatest share of 5xx, aborted and non-HTTP answers, in millionths of all requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate_ppm: Option<u32>,
    /// Greatest share of answers that broke an output assertion, in millionths of all answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assertion_failures_ppm: Option<u32>,
}

/// A checked plan: steps rise strictly to 100 %, a window lasts 200 ms to 1 h.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Who decides which version a request meets.
    pub strategy: Strategy,
    /// Shares of the new version, rising strictly, the last one 100 %.
    pub steps: Vec<Percent>,
    /// Length of one window, milliseconds.
    pub window_ms: u64,
    /// How verdicts of windows make a decision.
    pub windows: Windows,
    /// What is judged.
    pub objectives: Objectives,
    /// Fewer requests in a window are insufficient to judge it.
    pub minimum_requests: u64,
    /// How long one step may be prolonged for want of requests before the release ends, milliseconds.
    pub patience_ms: u64,
    /// What a breach does.
    pub on_breach: OnBreach,
}

impl Plan {
    /// Length of one window.
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }

    /// How long a connection may live while traffic is split: half a window, 100 ms to 5 s,
    /// so that clients which keep connections open follow the weights.
    pub fn connection_life(&self) -> Duration {
        Duration::from_millis((self.window_ms / 2).clamp(100, 5000))
    }
}

impl Plan {
    /// A first version, or a worker brought up again: all traffic at once, nothing judged.
    pub fn all_at_once() -> Self {
        Self {
            strategy: Strategy::Weight,
            steps: vec![Percent::ALL],
            window_ms: 30_000,
            windows: Windows { look_back: 1, consecutive: 1 },
            objectives: Objectives::default(),
            minimum_requests: 0,
            patience_ms: 600_000,
            on_breach: OnBreach::Pause,
        }
    }
}
