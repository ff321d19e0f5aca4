//! SLO windows: what the kernel saw of each version between two looks, as figures. Judging is the engine's.

use crate::supervise::Workers;
use std::collections::{BTreeMap, BTreeSet};
use turnout_engine::{Figures, Step, World};
use turnout_host::Host;
use turnout_host::histogram;
use turnout_host::traffic::Sample;
use turnout_manifest::Generation;
use turnout_protocol::worker::Counts;

/// What was seen of a generation at one look: by the kernel, and by the worker itself where that is known.
type Look = (Sample, Option<Counts>);

/// Totals of each generation at the last look.
#[derive(Default)]
pub struct Looks {
    last: BTreeMap<Generation, Look>,
    /// Workers that another daemon started, and that were not looked at since.
    taken_over: BTreeSet<Generation>,
}

impl Looks {
    /// Those of a daemon that finds this state, and with it the workers of the one before.
    pub fn at_start(world: &World) -> Self {
        let live = world.models.values().filter_map(|model| Some(model.live.as_ref()?.generation));
        let steps = world.releases.values().flat_map(|release| &release.touched);
        let started = steps.filter_map(|step| match step {
            Step::StartWorker(generation) => Some(*generation),
            _ => None,
        });
        Self { last: BTreeMap::new(), taken_over: live.chain(started).collect() }
    }

    /// Figures of one generation since the last look at it, and a new look. `None` at the first look, and when the
    /// generation cannot be sampled any more.
    pub fn since_last(&mut self, generation: Generation, eyes: &Eyes<'_>) -> Option<Figures> {
        let sample = eyes.host.sample(generation).ok()?;
        // What the link of one that was taken over holds was said long ago: the next look would find all that has failed since.
        let is_stale = self.taken_over.remove(&generation);
        let now = (sample, eyes.workers.counts(generation).filter(|_| !is_stale));
        let figures = self.last.get(&generation).map(|last| difference(last, &now));
        self.last.insert(generation, now);
        figures
    }

    /// What the last look at a generation saw.
    pub fn last(&self, generation: Generation) -> Option<&Look> {
        self.last.get(&generation)
    }

    /// Forgets generations that are gone.
    pub fn keep(&mut self, alive: &[Generation]) {
        self.last.retain(|generation, _| alive.contains(generation));
        self.taken_over.retain(|generation| alive.contains(generation));
    }
}

/// Where figures come from.
pub struct Eyes<'a> {
    /// The kernel's counters.
    pub host: &'a dyn Host,
    /// The workers' own counts.
    pub workers: &'a dyn Workers,
}

fn difference(last: &Look, now: &Look) -> Figures {
    let seen = now.0.since(&last.0);
    Figures {
        connections: seen.opened,
        requests: seen.requests,
        answered: Some(seen.success + seen.client_errors + seen.server_errors + seen.not_http),
        errors: seen.server_errors + seen.not_http + seen.aborted,
        // The worker's own word: it counts for no more answers than the kernel saw it give.
        assertion_failures: assertion_failures(last.1, now.1).min(seen.requests),
        p50_us: quantile(&seen.latencies, 50),
        p95_us: quantile(&seen.latencies, 95),
        p99_us: quantile(&seen.latencies, 99),
    }
}

/// What failed in between. Totals that were not known at the last look are of any time before: they say nothing of it.
fn assertion_failures(last: Option<Counts>, now: Option<Counts>) -> u64 {
    let (Some(last), Some(now)) = (last, now) else { return 0 };
    now.assertion_failures.saturating_sub(last.assertion_failures)
}

/// The upper bound, in microseconds, of the bucket that holds this percentile.
fn quantile(latencies: &[u64], percent: u64) -> Option<u64> {
    let total: u64 = latencies.iter().sum();
    let rank = (total * percent).div_ceil(100).max(1);
    let mut seen = 0;
    for (bucket, count) in latencies.iter().enumerate() {
        seen += count;
        if total > 0 && seen >= rank {
            let bucket = u32::try_from(bucket).ok()?;
            return Some(histogram::upper_bound(bucket).div_ceil(1000));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_before_the_worker_was_taken_over_belong_to_no_window() {
        let counts = |assertion_failures| Some(Counts { assertion_failures, ..Counts::default() });
        for (last, now, failed) in [
            (counts(2), counts(5), 3),
            (counts(0), counts(5), 5),
            (None, counts(5), 0),
            (None, None, 0),
            (counts(5), None, 0),
        ] {
            assert_eq!(assertion_failures(last, now), failed, "{last:?} {now:?}");
        }
    }

    #[test]
    fn a_worker_counts_no_more_failures_than_the_kernel_saw_answers() {
        let look = |requests, assertion_failures| {
            let sample = Sample {
                requests,
                success: requests,
                client_errors: 0,
                server_errors: 0,
                not_http: 0,
                aborted: 0,
                client_gone: 0,
                opened: 0,
                closed: 0,
                latencies: vec![0; 512],
            };
            (sample, Some(Counts { assertion_failures, ..Counts::default() }))
        };
        for (last, now, expected) in [
            (look(10, 0), look(30, 2), 2),
            (look(10, 0), look(30, u64::MAX), 20),
            (look(10, u64::MAX), look(30, 0), 0),
        ] {
            assert_eq!(difference(&last, &now).assertion_failures, expected);
        }
    }

    #[test]
    fn a_quantile_is_the_upper_bound_of_its_bucket() {
        let mut latencies = vec![0; 512];
        latencies[histogram::bucket(1_000_000) as usize] = 95;
        latencies[histogram::bucket(30_000_000) as usize] = 5;
        let upper = |nanoseconds| histogram::upper_bound(histogram::bucket(nanoseconds)).div_ceil(1000);
        assert_eq!(quantile(&latencies, 50), Some(upper(1_000_000)));
        assert_eq!(quantile(&latencies, 95), Some(upper(1_000_000)));
        assert_eq!(quantile(&latencies, 96), Some(upper(30_000_000)));
        assert_eq!(quantile(&[0; 512], 50), None);
    }
}
