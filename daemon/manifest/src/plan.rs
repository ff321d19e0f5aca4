//! How a release moves traffic: strategy, steps, windows, objectives. Written by people in YAML, fixed when a
//! release is created, recorded as canonical JSON with integers only (milliseconds, millionths, thousandths).

use crate::document::{Node, Place, Reader, printable};
use crate::ids::Percent;
use crate::problem::{Problem, Problems};
use crate::section::all;
use crate::strategy;
use crate::yaml;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub use crate::strategy::Strategy;

/// Shortest window, milliseconds.
pub const WINDOW_MIN_MS: u64 = 200;
/// Longest window, milliseconds: 1 h.
pub const WINDOW_MAX_MS: u64 = 3_600_000;
/// Greatest number of steps.
pub const STEPS_MAX: usize = 32;
/// Greatest number of windows looked at.
pub const LOOK_BACK_MAX: u32 = 64;
/// Longest patience, milliseconds: 7 days.
pub const PATIENCE_MAX_MS: u64 = 7 * 24 * 3_600_000;
/// Greatest latency that can be an objective, microseconds: 1 h.
pub const LATENCY_MAX_US: u64 = 3_600_000_000;
/// All, in millionths.
pub const PPM_MAX: u32 = 1_000_000;
/// Greatest number of requests that can be asked of a window.
pub const MINIMUM_REQUESTS_MAX: u64 = 1_000_000_000;

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
#[serde(deny_unknown_fields)]
pub struct Windows {
    /// How many of the last windows are looked at.
    pub look_back: u32,
    /// How many of those must be met to go on, or missed to breach.
    pub consecutive: u32,
}

/// What a good window looks like. An objective that is absent is not judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// A checked plan: steps rise strictly to 100 % (from 0 % on where the strategy picks requests by itself, 100 % alone where
/// it is in place), a window lasts 200 ms to 1 h.
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

impl Default for Plan {
    /// What a plan does where its text is silent: by weight, 5, 25, 50, 100 %; windows of 30 s, 3 of the last 5;
    /// p95 within 200 ms, 1 % errors, 0.1 % assertion failures; 50 requests per window, 10 min patience, roll back.
    fn default() -> Self {
        let percent = |whole: u32| Percent::from_thousandths(whole * 1000).expect("at most 100 %");
        Self {
            strategy: Strategy::Weight,
            steps: [5, 25, 50, 100].map(percent).to_vec(),
            window_ms: 30_000,
            windows: Windows { look_back: 5, consecutive: 3 },
            objectives: Objectives {
                p95_us: Some(200_000),
                error_rate_ppm: Some(10_000),
                assertion_failures_ppm: Some(1000),
                ..Objectives::default()
            },
            minimum_requests: 50,
            patience_ms: 600_000,
            on_breach: OnBreach::Rollback,
        }
    }
}

impl Plan {
    /// For the first version of a model, which has nothing to be compared with or to go back to: one step to 100 %,
    /// nothing judged, no window waited for.
    pub fn all_at_once() -> Self {
        Self {
            steps: vec![Percent::ALL],
            window_ms: WINDOW_MIN_MS,
            windows: Windows { look_back: 1, consecutive: 1 },
            objectives: Objectives::default(),
            minimum_requests: 0,
            patience_ms: 0,
            ..Self::default()
        }
    }

    /// Reads a plan as people write it. A key that is absent means what [`Plan::default`] says, but for the steps of a
    /// strategy that has none; an objective that is absent below `objectives` is not judged.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn from_yaml(text: &str) -> Result<Self, Problems> {
        let root = yaml::parse(text)?;
        let mut reader = Reader::default();
        let plan = read(&mut reader, &root);
        if let Some(plan) = &plan {
            reader.locate(&root, plan.problems());
        }
        reader.finish().unless_any(plan)
    }

    /// Everything that is wrong with these values, however they came together. Paths are those of the YAML form.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.check_steps(&mut problems);
        if !(WINDOW_MIN_MS..=WINDOW_MAX_MS).contains(&self.window_ms) {
            problems.push("window", format!("a window of {} ms", self.window_ms), "write 200ms to 1h");
        }
        let Windows { look_back, consecutive } = self.windows;
        if !(1..=LOOK_BACK_MAX).contains(&look_back) {
            problems.push("windows.look_back", format!("{look_back} windows"), "write 1 to 64");
        }
        if consecutive == 0 || consecutive > look_back {
            let what = format!("{consecutive} of {look_back} windows");
            problems.push("windows.consecutive", what, "write 1 to `look_back`");
        }
        self.objectives.check(&mut problems);
        if self.minimum_requests > MINIMUM_REQUESTS_MAX {
            let what = format!("{} requests", self.minimum_requests);
            problems.push("minimum_requests", what, format!("write at most {MINIMUM_REQUESTS_MAX}"));
        }
        if self.patience_ms > PATIENCE_MAX_MS {
            problems.push("patience", format!("a patience of {} ms", self.patience_ms), "write at most 7d");
        }
        problems.0
    }

    fn check_steps(&self, problems: &mut Problems) {
        if self.strategy == Strategy::InPlace && self.steps != [Percent::ALL] {
            let what = "strategy `in-place` takes all requests at once, there are no shares";
            return problems.push("steps", what, "remove `steps`, or choose another strategy");
        }
        if self.steps.is_empty() || self.steps.len() > STEPS_MAX {
            let what = format!("{} steps", self.steps.len());
            return problems.push("steps", what, format!("write 1 to {STEPS_MAX}"));
        }
        let mut before = Percent::NONE;
        for (index, step) in self.steps.iter().enumerate() {
            let only_picked = index == 0 && self.strategy.picks_beyond_the_share();
            if *step <= before && !(only_picked && *step == Percent::NONE) {
                let what = format!("{step} after {before}");
                problems.push(format!("steps[{index}].percent"), what, "steps rise strictly from above 0 %");
            }
            before = *step;
        }
        if before != Percent::ALL {
            let path = format!("steps[{}].percent", self.steps.len() - 1);
            problems.push(path, format!("the last step is {before}"), "end with `{percent: 100}`");
        }
    }

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

impl Objectives {
    fn check(&self, problems: &mut Problems) {
        for (name, latency) in [("p50_ms", self.p50_us), ("p95_ms", self.p95_us), ("p99_ms", self.p99_us)] {
            if let Some(latency) = latency.filter(|latency| !(1..=LATENCY_MAX_US).contains(latency)) {
                let what = format!("a latency of {latency} us");
                problems.push(format!("objectives.{name}"), what, "write 0.001 to 3600000 milliseconds");
            }
        }
        let shares =
            [("error_rate", self.error_rate_ppm), ("assertion_failures", self.assertion_failures_ppm)];
        for (name, share) in shares {
            if let Some(share) = share.filter(|share| *share > PPM_MAX) {
                let what = format!("a share of {share} millionths");
                problems.push(format!("objectives.{name}"), what, "write 0 to 1: 0.01 is one in a hundred");
            }
        }
    }
}

const KEYS: &[&str] =
    &["strategy", "steps", "window", "windows", "objectives", "minimum_requests", "patience", "on_breach"];
const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Reads every part. One that cannot be read leaves its problem with the reader and counts as its default, so that
/// the other parts can be checked all the same.
fn read(reader: &mut Reader, root: &Node) -> Option<Plan> {
    let group = reader.group(&Place::root(root), KEYS)?;
    let mut plan = Plan::default();
    let on_breach = [("rollback", OnBreach::Rollback), ("pause", OnBreach::Pause)];
    replace(&mut plan.strategy, group.get("strategy").and_then(|place| strategy::read(reader, &place)));
    if plan.strategy == Strategy::InPlace {
        plan.steps = vec![Percent::ALL];
    }
    replace(&mut plan.steps, group.get("steps").and_then(|place| read_steps(reader, &place)));
    replace(&mut plan.window_ms, group.get("window").and_then(|place| read_duration(reader, &place)));
    replace(&mut plan.windows, group.get("windows").and_then(|place| read_windows(reader, &place)));
    replace(&mut plan.objectives, group.get("objectives").and_then(|place| read_objectives(reader, &place)));
    let minimum_requests = group.get("minimum_requests");
    replace(&mut plan.minimum_requests, minimum_requests.and_then(|place| reader.integer(&place)));
    replace(&mut plan.patience_ms, group.get("patience").and_then(|place| read_duration(reader, &place)));
    replace(&mut plan.on_breach, group.get("on_breach").and_then(|place| reader.choice(&place, &on_breach)));
    Some(plan)
}

fn replace<T>(part: &mut T, read: Option<T>) {
    if let Some(read) = read {
        *part = read;
    }
}

fn read_steps(reader: &mut Reader, place: &Place<'_>) -> Option<Vec<Percent>> {
    let items = reader.list(place, STEPS_MAX)?;
    all(items.iter().map(|item| read_step(reader, item)))
}

fn read_step(reader: &mut Reader, place: &Place<'_>) -> Option<Percent> {
    let group = reader.group(place, &["percent"])?;
    let percent = group.require(reader, "percent")?;
    let word = reader.word(&percent, "a percentage")?;
    reader.parsed_from(&percent, &word, "write a number such as 5 or 0.5, without `%`")
}

fn read_windows(reader: &mut Reader, place: &Place<'_>) -> Option<Windows> {
    let group = reader.group(place, &["look_back", "consecutive"])?;
    let look_back = group.require(reader, "look_back").and_then(|place| reader.integer(&place));
    let consecutive = group.require(reader, "consecutive").and_then(|place| reader.integer(&place));
    Some(Windows { look_back: look_back?, consecutive: consecutive? })
}

fn read_objectives(reader: &mut Reader, place: &Place<'_>) -> Option<Objectives> {
    let known = &["p50_ms", "p95_ms", "p99_ms", "error_rate", "assertion_failures"];
    let group = reader.group(place, known)?;
    Some(Objectives {
        p50_us: read_scaled(reader, group.get("p50_ms"), 3),
        p95_us: read_scaled(reader, group.get("p95_ms"), 3),
        p99_us: read_scaled(reader, group.get("p99_ms"), 3),
        error_rate_ppm: read_scaled(reader, group.get("error_rate"), 6),
        assertion_failures_ppm: read_scaled(reader, group.get("assertion_failures"), 6),
    })
}

/// Reads a decimal number as a whole number of units of its last decimal place.
fn read_scaled<T: TryFrom<u64>>(reader: &mut Reader, place: Option<Place<'_>>, decimals: usize) -> Option<T> {
    let place = place?;
    let word = reader.word(&place, "a number")?;
    let scaled = scaled(&word, decimals).and_then(|number| T::try_from(number).ok());
    if scaled.is_none() {
        let what = format!("`{}` is not a number of at most {decimals} decimals in range", printable(&word));
        reader.refuse(&place, what, "write a number such as 12.5, without unit, sign or exponent");
    }
    scaled
}

fn scaled(word: &str, decimals: usize) -> Option<u64> {
    let (whole, fraction) = word.split_once('.').unwrap_or((word, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || whole.len() > 12 || fraction.len() > decimals {
        return None;
    }
    format!("{whole}{fraction:0<decimals$}").parse().ok()
}

fn read_duration(reader: &mut Reader, place: &Place<'_>) -> Option<u64> {
    let text = reader.text(place)?;
    let milliseconds = DURATION_UNITS.iter().find_map(|(unit, size)| {
        let digits = text.strip_suffix(unit)?;
        let whole =
            !digits.is_empty() && digits.len() <= 12 && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|_| whole)?.checked_mul(*size)
    });
    if milliseconds.is_none() {
        let what = format!("`{}` is no length of time", printable(&text));
        reader.refuse(
            place,
            what,
            "write a whole number and ms, s, m, h or d, such as `200ms`, `30s` or `10m`",
        );
    }
    milliseconds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::{from_canonical, to_canonical};

    #[test]
    fn an_empty_group_means_the_defaults_and_they_are_sound() {
        assert_eq!(Plan::from_yaml("{}").unwrap(), Plan::default());
        assert_eq!(Plan::default().problems(), []);
        assert_eq!(Plan::all_at_once().problems(), []);
        assert_eq!(Plan::from_yaml("objectives: {}").unwrap().objectives, Objectives::default());
    }

    #[test]
    fn a_plan_survives_its_canonical_json_and_strange_keys_do_not() {
        let bytes = to_canonical(&Plan::default()).unwrap();
        assert_eq!(from_canonical::<Plan>(&bytes).unwrap(), Plan::default());
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(r#""objectives":{"#) && text.contains(r#""windows":{"#));
        for inner in [r#""objectives":{"#, r#""windows":{"#] {
            let strange = text.replace(inner, &format!(r#"{inner}"a":1,"#));
            assert!(from_canonical::<Plan>(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    #[test]
    fn decimals_become_whole_units_exactly() {
        for (word, decimals, expected) in [
            ("200", 3, Some(200_000)),
            ("12.5", 3, Some(12_500)),
            ("0.001", 3, Some(1)),
            ("0.0001", 3, None),
            ("0.01", 6, Some(10_000)),
            ("1", 6, Some(1_000_000)),
            ("1.", 3, None),
            (".5", 3, None),
            ("-1", 3, None),
            ("1e3", 3, None),
            ("999999999999", 6, Some(999_999_999_999_000_000)),
            ("9999999999999", 3, None),
        ] {
            assert_eq!(scaled(word, decimals), expected, "{word}");
        }
    }

    #[test]
    fn values_that_arrive_as_json_are_held_to_the_same_limits() {
        let broken = Plan {
            steps: vec![Percent::ALL, Percent::NONE],
            window_ms: 199,
            windows: Windows { look_back: 65, consecutive: 66 },
            objectives: Objectives {
                p50_us: Some(0),
                p99_us: Some(u64::MAX),
                error_rate_ppm: Some(PPM_MAX + 1),
                ..Objectives::default()
            },
            minimum_requests: u64::MAX,
            patience_ms: u64::MAX,
            ..Plan::default()
        };
        let paths: Vec<String> = broken.problems().into_iter().map(|problem| problem.path).collect();
        let expected = "steps[1].percent steps[1].percent window windows.look_back windows.consecutive \
                        objectives.p50_ms objectives.p99_ms objectives.error_rate minimum_requests patience";
        assert_eq!(paths.join(" "), expected);
    }
}
