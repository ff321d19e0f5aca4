//! Plans that decide within milliseconds.

use turnout_manifest::plan::{Objectives, OnBreach, Strategy, Windows};
use turnout_manifest::{Percent, Plan};

/// Half of the traffic, one window of a millisecond, then all.
pub fn plan() -> Plan {
    Plan {
        strategy: Strategy::Weight,
        steps: vec![Percent::from_thousandths(50_000).unwrap(), Percent::ALL],
        window_ms: 1,
        windows: Windows { look_back: 1, consecutive: 1 },
        objectives: Objectives {
            p95_us: Some(10_000),
            error_rate_ppm: Some(10_000),
            ..Objectives::default()
        },
        minimum_requests: 10,
        patience_ms: 60_000,
        on_breach: OnBreach::Rollback,
    }
}

/// One window at all traffic, in the worker that serves.
pub fn in_place() -> Plan {
    Plan { strategy: Strategy::InPlace, steps: vec![Percent::ALL], ..plan() }
}
