//! Running totals of each version's worker, for readers who count: what the kernel saw since the worker was admitted,
//! what the worker says of itself, what its cell uses. Windows and verdicts are made elsewhere.

use turnout_host::histogram;
use turnout_host::meters::Usage;
use turnout_host::traffic::Sample;
use turnout_protocol::worker::Counts;

/// Lowest and highest bound of the latencies that are told apart, as powers of two of nanoseconds: 66 us to 69 s.
const LOWEST: u32 = 16;
const HIGHEST: u32 = 36;
/// Bounds to each power of two: the kernel has eight, which would be too many series.
const PER_OCTAVE: u32 = 2;
/// Number of bounds.
pub const BOUNDS: usize = ((HIGHEST - LOWEST) * PER_OCTAVE + 1) as usize;

/// What is known of one start of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// The kernel's counters.
    pub sample: Sample,
    /// The kernel's histogram, as it is told.
    pub latency: Latency,
    /// The worker's own counts, once it has said any.
    pub counts: Option<Counts>,
    /// What its cell uses.
    pub usage: Usage,
}

/// Times to the last byte, cumulative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// Answers that took at most [`bound_ns`] of each index.
    pub upto: [u64; BOUNDS],
    /// All answers.
    pub count: u64,
    /// Sum of all times, estimated from the middle of each of the kernel's buckets: at most 6.25 % off.
    pub sum_ns: u64,
}

impl Totals {
    /// What is known now, after what was known `before` of the same start.
    pub fn after(before: Option<&Self>, sample: Sample, counts: Option<Counts>, usage: Usage) -> Self {
        let latency = Latency::of(&sample.latencies).or_more(before.map(|before| &before.latency));
        Self { sample, latency, counts, usage }
    }
}

/// The greatest time, in nanoseconds, that counts in a bound's index.
pub fn bound_ns(index: usize) -> u64 {
    histogram::upper_bound(bucket_of(index))
}

/// The last of the kernel's buckets below a bound: the one before 1, 1.5 times a power of two.
fn bucket_of(index: usize) -> u32 {
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let octave = 1_u64 << (LOWEST + index / PER_OCTAVE);
    histogram::bucket(octave + octave / u64::from(PER_OCTAVE) * u64::from(index % PER_OCTAVE)) - 1
}

impl Latency {
    fn of(buckets: &[u64]) -> Self {
        let mut seen = 0_u64;
        let (mut upto, mut next, mut sum_ns) = ([0; BOUNDS], 0, 0_u64);
        for (bucket, count) in (0..).zip(buckets) {
            seen += count;
            // The last buckets lie beyond what a time can be, and have no bound.
            if *count > 0 {
                sum_ns = sum_ns.saturating_add(middle_ns(bucket).saturating_mul(*count));
            }
            if next < BOUNDS && bucket == bucket_of(next) {
                upto[next] = seen;
                next += 1;
            }
        }
        Self { upto, count: seen, sum_ns }
    }

    /// An answer counts from its first byte on and moves up with its later ones, so a bound's count can fall by the
    /// answers under way. A counter must not: what was told once stays told, until as many have come after.
    fn or_more(mut self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        for (now, then) in self.upto.iter_mut().zip(&before.upto) {
            *now = (*now).max(*then);
        }
        self.count = self.count.max(before.count);
        self.sum_ns = self.sum_ns.max(before.sum_ns);
        self
    }
}

fn middle_ns(bucket: u32) -> u64 {
    let below = bucket.checked_sub(1).map_or(0, histogram::upper_bound);
    below + histogram::upper_bound(bucket).saturating_sub(below) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buckets(times_ns: &[u64]) -> Vec<u64> {
        let mut buckets = vec![0; histogram::BUCKETS as usize];
        for time in times_ns {
            buckets[histogram::bucket(*time) as usize] += 1;
        }
        buckets
    }

    #[test]
    fn bounds_rise_by_half_a_power_of_two_from_66_us_to_69_s() {
        let bounds: Vec<u64> = (0..BOUNDS).map(bound_ns).collect();
        assert_eq!(&bounds[..4], &[65_535, 98_303, 131_071, 196_607]);
        assert_eq!(bounds[BOUNDS - 1], (1 << 36) - 1);
        assert!(bounds.is_sorted_by(|low, high| low < high));
    }

    #[test]
    fn an_answer_that_moves_up_takes_nothing_back() {
        let early = Latency::of(&buckets(&[100_000, 100_000]));
        let late = Latency::of(&buckets(&[100_000, 900_000_000])).or_more(Some(&early));
        assert_eq!((late.upto[2], late.count), (2, 2), "told once");
        let more = Latency::of(&buckets(&[100_000, 900_000_000, 100_000, 100_000])).or_more(Some(&late));
        assert_eq!((more.upto[2], more.count), (3, 4), "and no more than once");
    }

    proptest! {
        #[test]
        fn each_bound_counts_what_took_at_most_as_long(times in prop::collection::vec(1_u64..1 << 38, 0..50)) {
            let latency = Latency::of(&buckets(&times));
            for (index, counted) in latency.upto.iter().enumerate() {
                let within = times.iter().filter(|time| **time <= bound_ns(index)).count() as u64;
                prop_assert_eq!(*counted, within);
            }
            let exact: u64 = times.iter().sum();
            prop_assert!(latency.sum_ns.abs_diff(exact) <= exact / 16 + times.len() as u64);
            prop_assert_eq!(latency.count, times.len() as u64);
        }

        #[test]
        fn what_is_told_never_falls_and_rises_with_the_bound(
            samples in prop::collection::vec(prop::collection::vec(1_u64..1 << 38, 0..9), 1..9),
        ) {
            let mut before: Option<Latency> = None;
            for times in samples {
                let now = Latency::of(&buckets(&times)).or_more(before.as_ref());
                prop_assert!(now.upto.is_sorted() && now.upto[BOUNDS - 1] <= now.count);
                if let Some(before) = &before {
                    prop_assert!(now.upto.iter().zip(&before.upto).all(|(now, then)| now >= then));
                    prop_assert!(now.count >= before.count && now.sum_ns >= before.sum_ns);
                }
                before = Some(now);
            }
        }
    }
}
