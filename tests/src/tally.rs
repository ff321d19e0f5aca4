//! What clients saw: counts, latencies and failures by version, over time. Filled by `load.rs`; says nothing on its own
//! about what is good. Latencies fall into the kernel's histogram buckets, so that both views can be compared.

use std::time::Duration;
use turnout_ebpf_layout::histogram;

/// Length of one slot of a timeline.
pub const SLOT: Duration = Duration::from_millis(100);
/// Slots of a timeline: an hour; what comes later is counted in the last one.
const SLOTS_MAX: usize = 36_000;
/// Failures that are kept one by one; further ones are only counted.
const FAILURES_MAX: usize = 1_000;
/// Versions that are told apart; further ones are counted together under the last name.
const VERSIONS_MAX: usize = 32;

/// Latencies in the buckets of the kernel's histogram.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; histogram::BUCKETS as usize], total: 0 }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[histogram::bucket(nanoseconds) as usize] += 1;
        self.total += 1;
    }

    /// How many latencies were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The latency that this share of all did not exceed, as the upper bound of its bucket; absent without latencies.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map(|bucket| Duration::from_nanos(histogram::upper_bound(bucket as u32)))
    }

    fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
    }
}

/// How a request ended that got no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// The connection was reset.
    Reset,
    /// No whole answer within the deadline.
    Timeout,
    /// The connection was closed before the answer was whole.
    Closed,
    /// What came is no HTTP.
    Malformed,
}

/// A request that got no whole answer.
#[derive(Debug, Clone)]
pub struct Failed {
    /// When it was sent, since the load began.
    pub at: Duration,
    /// How it ended.
    pub failure: Failure,
    /// The version this connection had answers from before, if any.
    pub version: Option<String>,
    /// The error's own words.
    pub detail: String,
}

/// Counts of one version in one [`SLOT`], or over several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections opened that got an answer.
    pub connections: u64,
    /// Requests answered.
    pub answers: u64,
    /// Answers 4xx and 5xx among them.
    pub errors: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.answers += other.answers;
        self.errors += other.errors;
    }
}

/// What clients saw of one version.
#[derive(Debug, Clone, Default)]
pub struct VersionTally {
    /// Its label, as the answers say; empty when they say none.
    pub version: String,
    /// Everything since the load began.
    pub all: Counts,
    /// Answers 2xx and 3xx.
    pub success: u64,
    /// Answers 4xx.
    pub client_errors: u64,
    /// Answers 5xx.
    pub server_errors: u64,
    /// Time from sending a request to the last byte of its answer.
    pub latency: Histogram,
    /// When the last connection that got its answers from here was opened, since the load began.
    pub last_connection: Option<Duration>,
    /// When the last request was sent that was answered from here, since the load began.
    pub last_request: Option<Duration>,
    timeline: Vec<Counts>,
}

impl VersionTally {
    /// Counts of the slots that lie wholly within this time since the load began.
    pub fn between(&self, from: Duration, to: Duration) -> Counts {
        let first = usize::try_from(from.as_nanos().div_ceil(SLOT.as_nanos())).unwrap_or(usize::MAX);
        let end = usize::try_from(to.as_nanos() / SLOT.as_nanos()).unwrap_or(usize::MAX);
        let mut sum = Counts::default();
        self.timeline.iter().take(end).skip(first).for_each(|slot| sum.add(*slot));
        sum
    }

    fn slot(&mut self, at: Duration) -> &mut Counts {
        let index = usize::try_from(at.as_nanos() / SLOT.as_nanos()).unwrap_or(usize::MAX).min(SLOTS_MAX - 1);
        if self.timeline.len() <= index {
            self.timeline.resize(index + 1, Counts::default());
        }
        &mut self.timeline[index]
    }

    fn merge(&mut self, other: &Self) {
        self.all.add(other.all);
        self.success += other.success;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.latency.merge(&other.latency);
        self.last_connection = self.last_connection.max(other.last_connection);
        self.last_request = self.last_request.max(other.last_request);
        if self.timeline.len() < other.timeline.len() {
            self.timeline.resize(other.timeline.len(), Counts::default());
        }
        self.timeline.iter_mut().zip(&other.timeline).for_each(|(mine, theirs)| mine.add(*theirs));
    }
}

/// One whole answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The version it says it is from; empty when it says none.
    pub version: &'a str,
    /// HTTP status.
    pub status: u16,
    /// When the request was sent, since the load began.
    pub at: Duration,
    /// From sending the request to the last byte.
    pub latency: Duration,
    /// When its connection was opened, for the first answer on it.
    pub opened: Option<Duration>,
}

/// Everything clients saw.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests sent, retries not counted again.
    pub sent: u64,
    /// Requests that got no whole answer.
    pub failed: u64,
    /// Requests sent once more, because the server had closed the idle connection just then.
    pub retried: u64,
    /// Connections found closed between two requests, and replaced.
    pub reconnected: u64,
    /// Short connections not begun, because too many were still open.
    pub held_back: u64,
    /// The first failures, one by one.
    pub failures: Vec<Failed>,
    /// By version, in the order they were first seen.
    pub versions: Vec<VersionTally>,
}

impl Tally {
    /// Counts one answer.
    pub fn record(&mut self, answer: Answer<'_>) {
        let Answer { status, at, latency, .. } = answer;
        let version = self.entry(answer.version);
        let failed = status >= 400;
        match status {
            0..400 => version.success += 1,
            400..500 => version.client_errors += 1,
            _ => version.server_errors += 1,
        }
        version.latency.record(latency);
        let one = Counts { connections: 0, answers: 1, errors: u64::from(failed) };
        version.all.add(one);
        version.slot(at).add(one);
        version.last_request = version.last_request.max(Some(at));
        if let Some(opened) = answer.opened {
            let one = Counts { connections: 1, ..Counts::default() };
            version.all.add(one);
            version.slot(opened).add(one);
            version.last_connection = version.last_connection.max(Some(opened));
        }
    }

    /// Counts one request that got no whole answer.
    pub fn fail(&mut self, failed: Failed) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failed);
        }
    }

    /// What clients saw of this version.
    pub fn version(&self, version: &str) -> Option<&VersionTally> {
        self.versions.iter().find(|tally| tally.version == version)
    }

    /// Adds what another client saw.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        self.retried += other.retried;
        self.reconnected += other.reconnected;
        self.held_back += other.held_back;
        let room = FAILURES_MAX - self.failures.len().min(FAILURES_MAX);
        self.failures.extend(other.failures.iter().take(room).cloned());
        for theirs in &other.versions {
            self.entry(&theirs.version).merge(theirs);
        }
    }

    fn entry(&mut self, version: &str) -> &mut VersionTally {
        let known = self.versions.iter().position(|tally| tally.version == version);
        let index = known.unwrap_or_else(|| {
            if self.versions.len() < VERSIONS_MAX {
                self.versions.push(VersionTally { version: version.to_owned(), ..VersionTally::default() });
            }
            self.versions.len() - 1
        });
        &mut self.versions[index]
    }
}

/// Standard deviations of a 99 % interval.
pub const NINETY_NINE_PERCENT: f64 = 2.575_829_303_549;

/// The Wilson interval of a share, from how many of all had it, this many standard deviations to each side; 0 to 1
/// when there were none.
pub fn wilson(had: u64, all: u64, deviations: f64) -> (f64, f64) {
    if all == 0 {
        return (0.0, 1.0);
    }
    let (n, share, z) = (all as f64, had as f64 / all as f64, deviations);
    let denominator = 1.0 + z * z / n;
    let centre = (share + z * z / (2.0 * n)) / denominator;
    let half = z / denominator * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: &str, status: u16, at_ms: u64) -> Answer<'_> {
        let at = Duration::from_millis(at_ms);
        Answer { version, status, at, latency: Duration::from_micros(250), opened: Some(at) }
    }

    #[test]
    fn quantiles_are_upper_bounds_at_most_an_eighth_too_high() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        for (share, exact) in [(0.0, 0.001), (0.5, 0.5), (0.95, 0.95), (0.99, 0.99), (1.0, 1.0)] {
            let found = histogram.quantile(share).unwrap().as_secs_f64();
            assert!(found >= exact && found <= exact * 1.126, "{share}: {found}");
        }
    }

    #[test]
    fn counts_by_version_and_time_survive_merging() {
        let (mut first, mut second) = (Tally::default(), Tally::default());
        first.record(answer("1.0.0", 200, 50));
        first.record(answer("better", 503, 250));
        second.record(answer("1.0.0", 404, 1150));
        second.record(answer("1.0.0", 200, 199));
        first.merge(&second);
        let old = first.version("1.0.0").unwrap();
        assert_eq!((old.success, old.client_errors, old.server_errors), (2, 1, 0));
        assert_eq!(old.all, Counts { connections: 3, answers: 3, errors: 1 });
        assert_eq!(old.last_connection, Some(Duration::from_millis(1150)));
        let window = |from, to| old.between(Duration::from_millis(from), Duration::from_millis(to)).answers;
        assert_eq!([window(0, 200), window(50, 200), window(100, 250), window(1100, 1199)], [2, 1, 1, 0]);
        assert_eq!(first.version("better").unwrap().server_errors, 1);
    }

    #[test]
    fn what_one_tally_keeps_has_limits() {
        let mut tally = Tally::default();
        for index in 0..VERSIONS_MAX as u64 + 8 {
            tally.record(answer(&format!("v{index}"), 200, u64::MAX / 2));
        }
        assert_eq!(tally.versions.len(), VERSIONS_MAX);
        assert!(tally.versions.iter().all(|v| v.timeline.len() == SLOTS_MAX));
        assert_eq!(tally.versions.iter().map(|v| v.all.answers).sum::<u64>(), VERSIONS_MAX as u64 + 8);
        let failed =
            Failed { at: Duration::ZERO, failure: Failure::Reset, version: None, detail: String::new() };
        (0..FAILURES_MAX + 8).for_each(|_| tally.fail(failed.clone()));
        assert_eq!((tally.failures.len(), tally.failed), (FAILURES_MAX, FAILURES_MAX as u64 + 8));
    }

    #[test]
    fn wilson_bounds_are_the_shares_just_not_rejected_at_one_percent() {
        for (had, all) in [(0u64, 10u64), (5, 10), (50, 1000), (999, 1000), (25_000, 100_000)] {
            let (low, high) = wilson(had, all, NINETY_NINE_PERCENT);
            let seen = had as f64 / all as f64;
            assert!(
                low <= seen && seen <= high && (had == 0 || low > 0.0),
                "{had} of {all}: {low} to {high}"
            );
            for bound in [low, high].into_iter().filter(|bound| *bound > 0.0) {
                let deviation = (seen - bound).abs() / (bound * (1.0 - bound) / all as f64).sqrt();
                assert!(
                    (deviation - 2.5758).abs() < 1e-3,
                    "{had} of {all}: {bound} is {deviation} deviations away"
                );
            }
        }
        assert_eq!(wilson(0, 0, NINETY_NINE_PERCENT), (0.0, 1.0));
    }
}
