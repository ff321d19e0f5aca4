//! What a release's report and the clients' tally say together: the split asked and seen, latency from both sides, and how
//! long a bad version still got connections. Pure: figures in, figures out.

use crate::tally::{Tally, wilson};
use std::time::Duration;
use turnout_manifest::Percent;
use turnout_protocol::control::{Seen, WindowStatus};
use turnout_protocol::report::Report;

/// Beyond this many standard deviations a split is called wrong: at 99 % every third run would cry wolf.
const WRONG_DEVIATIONS: f64 = 5.0;

/// How many connections of all went to the new version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// To the new version.
    pub new: u64,
    /// To either.
    pub all: u64,
}

impl Share {
    /// The share, 0 to 1; absent without connections.
    pub fn value(self) -> Option<f64> {
        (self.all > 0).then(|| self.new as f64 / self.all as f64)
    }

    /// Chance alone can explain the difference between what was asked and what was seen.
    pub fn fits(self, asked: Percent) -> bool {
        let (low, high) = wilson(self.new, self.all, WRONG_DEVIATIONS);
        let asked = f64::from(asked.thousandths()) / 100_000.0;
        self.all > 0 && low <= asked && asked <= high
    }
}

/// One step of a release: what was asked, what the kernel and the clients saw of new connections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSplit {
    /// Share asked for.
    pub asked: Percent,
    /// As the kernel counted.
    pub kernel: Share,
    /// As the clients counted, over the same windows.
    pub clients: Share,
}

/// The splits of all steps of a release, in their order.
pub fn splits(report: &Report, tally: &Tally, began_ms: u64) -> Vec<StepSplit> {
    let mut steps: Vec<StepSplit> = Vec::new();
    for window in report.windows.iter().filter(|window| window.asked != Percent::NONE) {
        if steps.last().is_none_or(|step| step.asked != window.asked) {
            let none = Share::default();
            steps.push(StepSplit { asked: window.asked, kernel: none, clients: none });
        }
        let Some(step) = steps.last_mut() else { continue };
        step.kernel.new += window.candidate.connections;
        step.kernel.all += window.candidate.connections + window.stable.as_ref().map_or(0, |s| s.connections);
        let (new, old) = clients_in(window, report, tally, began_ms);
        step.clients.new += new;
        step.clients.all += new + old;
    }
    steps
}

fn clients_in(window: &WindowStatus, report: &Report, tally: &Tally, began_ms: u64) -> (u64, u64) {
    let since = |at_ms: u64| Duration::from_millis(at_ms.saturating_sub(began_ms));
    let (from, to) = (since(window.at_ms.saturating_sub(window.candidate.window_ms)), since(window.at_ms));
    let count = |version: &str| tally.version(version).map_or(0, |v| v.between(from, to).connections);
    let old = report.release.from.as_ref().map_or(0, |version| count(version.as_str()));
    (count(report.release.to.as_str()), old)
}

/// Median, 95th and 99th percentile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Latency {
    /// Requests behind the figures.
    pub requests: u64,
    /// p50, p95, p99; absent without requests.
    pub percentiles: Option<[Duration; 3]>,
}

/// Latency of a version as the kernel saw it: of each percentile, the median over all windows that had requests.
pub fn kernel_latency(reports: &[Report], version: &str) -> Latency {
    let mut seen = Vec::new();
    for report in reports {
        let (new, old) = (report.release.to.as_str(), report.release.from.as_ref().map(|v| v.as_str()));
        for window in &report.windows {
            seen.extend((new == version).then_some(&window.candidate));
            seen.extend(window.stable.as_ref().filter(|_| old == Some(version)));
        }
    }
    let requests = seen.iter().map(|window| window.requests).sum();
    let median = |pick: fn(&Seen) -> Option<u64>| {
        let mut all: Vec<u64> = seen.iter().filter_map(|window| pick(window)).collect();
        all.sort_unstable();
        all.get(all.len() / 2).map(|us| Duration::from_micros(*us))
    };
    let three = (median(|s| s.p50_us), median(|s| s.p95_us), median(|s| s.p99_us));
    let percentiles =
        if let (Some(p50), Some(p95), Some(p99)) = three { Some([p50, p95, p99]) } else { None };
    Latency { requests, percentiles }
}

/// Latency of a version as the clients saw it.
pub fn client_latency(tally: &Tally, version: &str) -> Latency {
    let Some(seen) = tally.version(version) else { return Latency::default() };
    let at = |share| seen.latency.quantile(share);
    let percentiles = at(0.5).zip(at(0.95)).zip(at(0.99)).map(|((p50, p95), p99)| [p50, p95, p99]);
    Latency { requests: seen.all.answers, percentiles }
}

/// From the end of the first missed window to the last connection that any client got to the bad version, milliseconds;
/// absent when no window was missed, 0 when there was none after it.
pub fn clients_last_connection(report: &Report, tally: &Tally, began_ms: u64) -> Option<u64> {
    let breach = report.windows.iter().find(|window| window.verdict == "missed")?.at_ms;
    let last = tally.version(report.release.to.as_str()).and_then(|version| version.last_connection);
    let last_ms =
        last.map_or(0, |last| began_ms + u64::try_from(last.as_millis()).unwrap_or(u64::MAX - began_ms));
    Some(last_ms.saturating_sub(breach))
}

/// Requests that failed and may not have: without a whole answer, or answered 4xx or 5xx, unless a bad version did it.
pub fn failed_outside(tally: &Tally, bad: &[&str]) -> u64 {
    let is_bad = |version: &str| bad.contains(&version);
    let excused =
        tally.failures.iter().filter(|failed| failed.version.as_deref().is_some_and(is_bad)).count() as u64;
    let errors = tally.versions.iter().filter(|v| !is_bad(&v.version)).map(|v| v.all.errors).sum::<u64>();
    tally.failed - excused + errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Answer, Failed, Failure};
    use serde_json::json;

    const BEGAN_MS: u64 = 1_000_000;

    fn report(windows: &[(u64, u32, &str, u64, u64)]) -> Report {
        let seen = |connections: u64| {
            json!({"window_ms": 200, "connections": connections, "requests": connections * 2, "errors": 0,
                   "assertion_failures": 0, "share_thousandths": 0, "p50_us": 100, "p95_us": 200, "p99_us": 300})
        };
        let windows: Vec<_> = windows
            .iter()
            .map(|(at, asked, verdict, new, old)| {
                json!({"at_ms": BEGAN_MS + at, "asked": asked, "verdict": verdict, "why": null,
                       "candidate": seen(*new), "stable": seen(*old)})
            })
            .collect();
        let release = json!({"schema": "turnout/v1", "release_id": "r-2", "model": "digits", "from": "1.0.0",
            "to": "slow", "strategy": "weight", "state": "rolled_back", "step": "", "step_number": 1, "step_count": 1, "asked": 0,
            "windows": [], "cause": null, "causes": [], "asked_by": "root", "timings": {"asked_at_ms": 0,
            "ended_at_ms": null, "ready_ms": null, "breach_to_home_ms": null, "breach_to_last_connection_ms": null}});
        let plan = json!({"strategy": "weight", "steps": [5000, 100_000], "window_ms": 200, "windows": {"look_back": 3,
            "consecutive": 2}, "objectives": {}, "minimum_requests": 5, "patience_ms": 1000, "on_breach": "rollback"});
        let digest = format!("sha256:{}", "a".repeat(64));
        serde_json::from_value(
            json!({"schema": "turnout/v1", "release": release, "plan": plan, "to_digest": digest,
            "from_digest": null, "signed_by": [], "audit_contexts": [], "steps": [], "windows": windows, "snapshots": [],
            "journal_range": [0, 1]}),
        )
        .unwrap()
    }

    fn connection(tally: &mut Tally, version: &str, status: u16, at_ms: u64) {
        let at = Duration::from_millis(at_ms);
        tally.record(Answer { version, status, at, latency: Duration::from_millis(1), opened: Some(at) });
    }

    #[test]
    fn splits_add_up_windows_of_one_step_on_both_clocks() {
        let report =
            report(&[(400, 5000, "met", 5, 95), (600, 5000, "met", 7, 93), (800, 50_000, "met", 50, 50)]);
        let mut tally = Tally::default();
        [(100, "slow"), (250, "slow"), (450, "1.0.0"), (550, "1.0.0"), (650, "slow"), (900, "slow")]
            .iter()
            .for_each(|(at, version)| connection(&mut tally, version, 200, *at));
        let found = splits(&report, &tally, BEGAN_MS);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].kernel, found[0].clients),
            (Share { new: 12, all: 200 }, Share { new: 1, all: 3 })
        );
        assert_eq!(
            (found[1].kernel, found[1].clients),
            (Share { new: 50, all: 100 }, Share { new: 1, all: 1 })
        );
    }

    #[test]
    fn a_split_is_wrong_only_beyond_chance() {
        let quarter: Percent = "25".parse().unwrap();
        for (new, all, fits) in [(250, 1000, true), (280, 1000, true), (350, 1000, false), (0, 0, false)] {
            assert_eq!(Share { new, all }.fits(quarter), fits, "{new} of {all}");
        }
    }

    #[test]
    fn the_last_connection_counts_from_the_end_of_the_first_missed_window() {
        let report =
            report(&[(400, 5000, "met", 5, 5), (600, 5000, "missed", 5, 5), (800, 5000, "missed", 5, 5)]);
        let mut tally = Tally::default();
        assert_eq!(clients_last_connection(&report, &tally, BEGAN_MS), Some(0));
        connection(&mut tally, "slow", 200, 850);
        connection(&mut tally, "1.0.0", 200, 5000);
        assert_eq!(clients_last_connection(&report, &tally, BEGAN_MS), Some(250));
    }

    #[test]
    fn only_a_bad_versions_own_failures_are_excused() {
        let mut tally = Tally::default();
        connection(&mut tally, "errors", 500, 10);
        connection(&mut tally, "1.0.0", 200, 10);
        assert_eq!(failed_outside(&tally, &["errors"]), 0);
        connection(&mut tally, "1.0.0", 503, 20);
        for version in [Some("errors"), Some("1.0.0"), None] {
            let (at, detail) = (Duration::ZERO, String::new());
            tally.fail(Failed { at, failure: Failure::Reset, version: version.map(str::to_owned), detail });
        }
        assert_eq!(failed_outside(&tally, &["errors"]), 3);
    }

    #[test]
    fn kernel_latency_is_taken_from_the_side_the_version_was_on() {
        let reports = [report(&[(400, 5000, "met", 5, 95)])];
        assert_eq!(
            (kernel_latency(&reports, "slow").requests, kernel_latency(&reports, "1.0.0").requests),
            (10, 190)
        );
        assert_eq!(
            kernel_latency(&reports, "slow").percentiles.map(|p| p[2]),
            Some(Duration::from_micros(300))
        );
        assert_eq!(kernel_latency(&reports, "better"), Latency::default());
    }
}
