//! Samples and objectives -> verdicts. A window is met, missed or insufficient; insufficient neither promotes nor
//! rolls back. Several windows together make a decision.

use serde::{Deserialize, Serialize};
use turnout_manifest::plan::{Objectives, Windows};
use turnout_manifest::{Percent, Plan};

/// What was measured of one version over one window.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Connections that made their first request.
    pub connections: u64,
    /// Requests.
    pub requests: u64,
    /// Those that got a final answer, whatever it says; absent in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<u64>,
    /// 5xx answers, aborted requests, answers that are not HTTP.
    pub errors: u64,
    /// Answers withheld by an assertion, as the worker counts them.
    pub assertion_failures: u64,
    /// Median time to last byte, or until the client gave up, microseconds; absent without either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<u64>,
    /// 95th percentile, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_us: Option<u64>,
    /// 99th percentile, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<u64>,
}

/// One window of one release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it ended, milliseconds since the epoch.
    pub at_ms: u64,
    /// Its length, milliseconds.
    pub length_ms: u64,
    /// Share of the new version asked for in it.
    pub asked: Percent,
    /// The new version.
    pub candidate: Figures,
    /// The old version over the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Figures>,
}

/// What one window says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "kebab-case")]
pub enum Verdict {
    /// Every objective holds.
    Met,
    /// This objective does not, for people.
    Missed(String),
    /// Too little was seen to say, for people.
    Insufficient(String),
}

/// What the windows of a step say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Enough of them are met.
    Advance,
    /// Enough of them are missed; the reason of the last one.
    Breach(String),
    /// Not enough speak yet.
    Wait,
}

/// Judges one window.
pub fn judge(window: &Window, plan: &Plan) -> Verdict {
    let seen = &window.candidate;
    if seen.requests < plan.minimum_requests {
        let why = format!("{} of at least {} requests in the window", seen.requests, plan.minimum_requests);
        return Verdict::Insufficient(why);
    }
    if let Some(why) = missed(seen, &plan.objectives) {
        return Verdict::Missed(why);
    }
    // A version that answers nobody meets no objective, whatever it is.
    if seen.requests > 0 && seen.answered == Some(0) {
        return Verdict::Insufficient(format!("none of {} requests was answered", seen.requests));
    }
    match unknown(seen, &plan.objectives) {
        Some(name) => Verdict::Insufficient(format!("{name} of {} requests is not known", seen.requests)),
        None => Verdict::Met,
    }
}

/// The first percentile with an objective of which nothing is known.
fn unknown(seen: &Figures, objectives: &Objectives) -> Option<&'static str> {
    let limited = |(name, value, limit): (&'static str, Option<u64>, Option<u64>)| {
        (limit.is_some() && value.is_none()).then_some(name)
    };
    percentiles(seen, objectives).into_iter().find_map(limited)
}

/// Name, value and limit of each percentile, microseconds.
fn percentiles(seen: &Figures, objectives: &Objectives) -> [(&'static str, Option<u64>, Option<u64>); 3] {
    [
        ("p50", seen.p50_us, objectives.p50_us),
        ("p95", seen.p95_us, objectives.p95_us),
        ("p99", seen.p99_us, objectives.p99_us),
    ]
}

fn missed(seen: &Figures, objectives: &Objectives) -> Option<String> {
    let rates = [
        // A withheld answer is an error too: the assertion says more.
        ("assertion failures", seen.assertion_failures, objectives.assertion_failures_ppm),
        ("error rate", seen.errors, objectives.error_rate_ppm),
    ];
    for (name, count, limit) in rates {
        let Some(limit) = limit else { continue };
        let rate = ppm(count, seen.requests);
        if rate > u64::from(limit) {
            return Some(format!(
                "{name} {} exceeds {} ({count} of {} requests)",
                percent(rate),
                percent(u64::from(limit)),
                seen.requests
            ));
        }
    }
    percentiles(seen, objectives).into_iter().find_map(|(name, value, limit)| {
        let (value, limit) = (value?, limit?);
        (value > limit).then(|| format!("{name} {} ms exceeds {} ms", millis(value), millis(limit)))
    })
}

/// What the verdicts of one step, oldest first, say together: `consecutive` of the last `look_back` alike decide, and a
/// breach comes before an advance.
pub fn decide(verdicts: &[Verdict], windows: Windows) -> Decision {
    let recent = &verdicts[verdicts.len().saturating_sub(windows.look_back as usize)..];
    let needed = windows.consecutive.max(1) as usize;
    let misses: Vec<&String> =
        recent.iter().filter_map(|v| if let Verdict::Missed(why) = v { Some(why) } else { None }).collect();
    let met = recent.iter().filter(|v| **v == Verdict::Met).count();
    if let (true, Some(last)) = (misses.len() >= needed, misses.last()) {
        return Decision::Breach(format!("{last} in {} of the last {} windows", misses.len(), recent.len()));
    }
    let newest_met = recent.last() == Some(&Verdict::Met);
    if met >= needed && newest_met { Decision::Advance } else { Decision::Wait }
}

fn ppm(count: u64, of: u64) -> u64 {
    count.saturating_mul(1_000_000) / of.max(1)
}

fn percent(ppm: u64) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn millis(micros: u64) -> String {
    let text = format!("{}.{:03}", micros / 1000, micros % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(pattern: &str) -> Vec<Verdict> {
        let verdict = |c| match c {
            '+' => Verdict::Met,
            '-' => Verdict::Missed("p95 31 ms exceeds 10 ms".into()),
            _ => Verdict::Insufficient("0 of at least 10 requests in the window".into()),
        };
        pattern.chars().map(verdict).collect()
    }

    #[test]
    fn windows_decide_together() {
        let windows = Windows { look_back: 5, consecutive: 3 };
        for (pattern, expected) in [
            ("", "wait"),
            ("++", "wait"),
            ("+++", "advance"),
            ("--", "wait"),
            ("---", "breach"),
            ("-+-+-", "breach"),
            ("+++++---", "breach"),
            ("---??", "breach"),
            ("---???", "wait"),
            ("+++-", "wait"),
            ("+++-+", "advance"),
            ("????????", "wait"),
            ("+?+?+", "advance"),
        ] {
            let found = match decide(&verdicts(pattern), windows) {
                Decision::Advance => "advance",
                Decision::Breach(_) => "breach",
                Decision::Wait => "wait",
            };
            assert_eq!(found, expected, "{pattern}");
        }
    }

    #[test]
    fn a_window_without_enough_requests_is_insufficient_however_bad() {
        let plan = crate::world::tests_support::plan();
        let bad = Figures { requests: 9, errors: 9, p95_us: Some(u64::MAX), ..Figures::default() };
        let window = Window { at_ms: 0, length_ms: 200, asked: Percent::ALL, candidate: bad, stable: None };
        assert!(matches!(judge(&window, &plan), Verdict::Insufficient(_)));
    }

    #[test]
    fn requests_that_nobody_answers_meet_no_objective() {
        let mut plan = crate::world::tests_support::plan();
        let silent = Figures { requests: 100, answered: Some(0), ..Figures::default() };
        let gave_up = Figures { p95_us: Some(9000), ..silent.clone() };
        let of = |seen: &Figures, plan: &Plan| {
            let (asked, candidate) = (Percent::ALL, seen.clone());
            judge(&Window { at_ms: 0, length_ms: 200, asked, candidate, stable: None }, plan)
        };
        let insufficient = Verdict::Insufficient("none of 100 requests was answered".to_owned());
        for seen in [&silent, &gave_up] {
            assert_eq!(of(seen, &plan), insufficient, "{seen:?}");
        }
        let waited = Figures { p95_us: Some(31_200), ..silent.clone() };
        assert_eq!(of(&waited, &plan), Verdict::Missed("p95 31.2 ms exceeds 10 ms".to_owned()));
        let answered = Figures { answered: Some(1), ..silent.clone() };
        let unknown = Verdict::Insufficient("p95 of 100 requests is not known".to_owned());
        assert_eq!(of(&answered, &plan), unknown);
        plan.objectives.p95_us = None;
        assert_eq!(of(&silent, &plan), insufficient, "also where times do not matter");
        plan.minimum_requests = 0;
        let idle = Figures { answered: Some(0), ..Figures::default() };
        assert_eq!(of(&idle, &plan), Verdict::Met, "where none are needed");
        assert_eq!(of(&answered, &plan), Verdict::Met);
    }

    #[test]
    fn each_objective_is_named_when_missed() {
        let plan = crate::world::tests_support::plan();
        let good = Figures { requests: 100, p95_us: Some(10_000), ..Figures::default() };
        for (figures, expected) in [
            (good.clone(), None),
            (Figures { errors: 1, ..good.clone() }, None),
            (Figures { errors: 2, ..good.clone() }, Some("error rate 2 % exceeds 1 % (2 of 100 requests)")),
            (Figures { p95_us: Some(31_200), ..good.clone() }, Some("p95 31.2 ms exceeds 10 ms")),
            (
                Figures { assertion_failures: 1, ..good },
                Some("assertion failures 1 % exceeds 0.1 % (1 of 100 requests)"),
            ),
        ] {
            let window =
                Window { at_ms: 0, length_ms: 200, asked: Percent::ALL, candidate: figures, stable: None };
            let found = match judge(&window, &plan) {
                Verdict::Missed(why) => Some(why),
                _ => None,
            };
            assert_eq!(found.as_deref(), expected);
        }
    }
}
