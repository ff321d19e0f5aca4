//! What a release keeps has a limit, however long it is watched and however often its undo is tried; and what it decides is
//! what the whole list of its verdicts would decide, as a second, plain implementation here does.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

use proptest::prelude::*;
use std::sync::Arc;
use turnout_engine::advance::{Wish, proceed};
use turnout_engine::record::{End, Planned, Target};
use turnout_engine::world::Logged;
use turnout_engine::{
    Base, Cause, Event, Figures, Kind, Record, Release, Stamp, Step, Window, World, decide,
};
use turnout_manifest::plan::{LOOK_BACK_MAX, Objectives, OnBreach, Windows};
use turnout_manifest::{Generation, ModelName, Percent, Plan, ReleaseId, Sha256};

const WINDOW_MS: u64 = 200;

/// What a window shows of the new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Good,
    Bad,
    TooLittle,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Incident {
    /// So many windows that all show the same.
    Windows(Seen, u32),
    Pause,
    Resume,
    /// The daemon begins anew from a base of its journal.
    Restart,
}

/// What a window changes.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Unrecorded,
    Watched,
    Advanced,
    Held(String),
    TurnedBack(String, u64),
}

fn seen() -> impl Strategy<Value = Seen> {
    prop_oneof![3 => Just(Seen::Good), 3 => Just(Seen::Bad), 2 => Just(Seen::TooLittle)]
}

fn incident() -> impl Strategy<Value = Incident> {
    prop_oneof![
        12 => (seen(), 1..4_u32).prop_map(|(seen, count)| Incident::Windows(seen, count)),
        2 => (seen(), 60..150_u32).prop_map(|(seen, count)| Incident::Windows(seen, count)),
        2 => Just(Incident::Pause),
        1 => Just(Incident::Resume),
        2 => Just(Incident::Restart),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let windows = prop_oneof![4 => 1..7_u32, 1 => Just(LOOK_BACK_MAX)].prop_flat_map(|look_back| {
        (1..=look_back).prop_map(move |consecutive| Windows { look_back, consecutive })
    });
    let on_breach = prop_oneof![Just(OnBreach::Rollback), Just(OnBreach::Pause)];
    (windows, 0..120_u64, on_breach).prop_map(|(windows, patience, on_breach)| Plan {
        window_ms: WINDOW_MS,
        windows,
        objectives: Objectives { error_rate_ppm: Some(10_000), ..Objectives::default() },
        minimum_requests: 10,
        patience_ms: patience * WINDOW_MS,
        on_breach,
        ..Plan::default()
    })
}

fn model() -> ModelName {
    "fraud".parse().unwrap()
}

fn window(at_ms: u64, seen: Seen) -> Window {
    let (requests, errors) = match seen {
        Seen::Good => (100, 0),
        Seen::Bad => (100, 50),
        Seen::TooLittle => (3, 3),
    };
    let candidate = Figures { requests, errors, ..Figures::default() };
    Window { at_ms, length_ms: WINDOW_MS, asked: Percent::ALL, candidate, stable: None }
}

/// One release that is watched again and again, and what its records were.
struct Run {
    world: World,
    seq: u64,
}

impl Run {
    fn begin(plan: Plan) -> Self {
        let target = |generation, version: &str| Target {
            version: version.parse().unwrap(),
            digest: Sha256::of(version.as_bytes()),
            signed_by: Vec::new(),
            generation: Generation(generation),
            measured: None,
            audit_context: None,
        };
        let planned = Planned {
            release: ReleaseId::new(1),
            model: model(),
            kind: Kind::Release,
            from: Some(target(1, "1")),
            to: target(2, "2"),
            plan,
            steps: vec![Step::Observe(Percent::ALL); 200],
            commit: 200,
            port: 8700,
            salt: "00ff".to_owned(),
            by: "uid 0".to_owned(),
            set: None,
        };
        let mut run = Self { world: World::default(), seq: 0 };
        run.write(&[Record::Planned(Box::new(planned))]);
        run.go_on();
        run
    }

    fn write(&mut self, records: &[Record]) {
        for record in records {
            self.world.apply(record, Stamp { seq: self.seq, at_ms: self.seq });
            self.seq += 1;
        }
    }

    /// Begins what is due.
    fn go_on(&mut self) {
        let due = proceed(&self.world, &model());
        self.write(&due);
    }

    fn release(&self) -> &Release {
        &self.world.releases[&ReleaseId::new(1)]
    }

    fn measured(&mut self, at_ms: u64, seen: Seen) -> Outcome {
        let event = Event::Measured { release: ReleaseId::new(1), window: Box::new(window(at_ms, seen)) };
        let records = decide(&self.world, &event).unwrap();
        self.write(&records);
        match records.as_slice() {
            [] => Outcome::Unrecorded,
            [Record::Observed { .. }] => Outcome::Watched,
            [Record::Observed { .. }, Record::Held { why, .. }] => Outcome::Held(why.clone()),
            [Record::Observed { .. }, Record::Done { .. }] => Outcome::Advanced,
            [Record::Observed { .. }, Record::Done { .. }, Record::RollingBack { cause, .. }] => {
                match cause {
                    Cause::Breach { why, first_missed_ms } => {
                        Outcome::TurnedBack(why.clone(), *first_missed_ms)
                    }
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn wish(&mut self, wish: Wish) {
        let event = Event::Operator { model: model(), wish, by: "ops".to_owned(), reason: String::new() };
        let records = decide(&self.world, &event).unwrap();
        self.write(&records);
    }

    fn base(&self) -> Base {
        Base { minimum_index: self.seq, root: "ab".repeat(32), world: self.world.clone() }
    }

    fn restart(&mut self) {
        let base = self.base();
        let read = Base::parse(&base.to_bytes().unwrap()).unwrap();
        assert_eq!(read, base);
        self.world = read.world;
    }
}

/// The same observation by the whole list of its windows.
struct Reference {
    plan: Plan,
    windows: Vec<(u64, Seen)>,
    held: bool,
}

impl Reference {
    fn measured(&mut self, at_ms: u64, seen: Seen) -> Outcome {
        if self.held && seen == Seen::TooLittle {
            return Outcome::Unrecorded;
        }
        self.windows.push((at_ms, seen));
        let Windows { look_back, consecutive } = self.plan.windows;
        let recent: Vec<_> = self.windows.iter().rev().take(look_back as usize).rev().collect();
        let missed: Vec<_> = recent.iter().filter(|(_, seen)| *seen == Seen::Bad).collect();
        let met = recent.iter().filter(|(_, seen)| *seen == Seen::Good).count();
        if missed.len() >= consecutive as usize {
            let (count, of) = (missed.len(), recent.len());
            let why = format!(
                "error rate 50 % exceeds 1 % (50 of 100 requests) in {count} of the last {of} windows"
            );
            return match self.plan.on_breach {
                OnBreach::Rollback => Outcome::TurnedBack(why, missed[0].0),
                OnBreach::Pause => self.hold(why),
            };
        }
        if self.held {
            return Outcome::Watched;
        }
        if met >= consecutive as usize && seen == Seen::Good {
            return self.advance();
        }
        if (self.windows.len() as u64) * WINDOW_MS < self.plan.patience_ms {
            return Outcome::Watched;
        }
        let last = match seen {
            Seen::Good => "verdicts disagree",
            Seen::Bad => "error rate 50 % exceeds 1 % (50 of 100 requests)",
            Seen::TooLittle => "3 of at least 10 requests in the window",
        };
        let patience = self.plan.patience_ms.div_ceil(1000);
        self.hold(format!("no decision within the patience of {patience} s: {last}"))
    }

    fn hold(&mut self, why: String) -> Outcome {
        if std::mem::replace(&mut self.held, true) { Outcome::Watched } else { Outcome::Held(why) }
    }

    fn advance(&mut self) -> Outcome {
        self.windows.clear();
        Outcome::Advanced
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.held) {
            self.windows.clear();
        }
    }
}

/// Both see the same windows until the release turns back or has no step left.
fn check(plan: Plan, incidents: &[Incident]) {
    let look_back = plan.windows.look_back as usize;
    let mut run = Run::begin(plan.clone());
    let mut reference = Reference { plan, windows: Vec::new(), held: false };
    let mut at_ms = 0;
    for incident in incidents {
        match *incident {
            Incident::Pause => {
                run.wish(Wish::Pause);
                reference.held = true;
            }
            Incident::Resume => {
                run.wish(Wish::Resume);
                reference.resume();
            }
            Incident::Restart => run.restart(),
            Incident::Windows(seen, count) => {
                for _ in 0..count {
                    at_ms += WINDOW_MS;
                    let outcome = run.measured(at_ms, seen);
                    assert_eq!(outcome, reference.measured(at_ms, seen), "at {at_ms} ms");
                    if matches!(outcome, Outcome::TurnedBack(..)) {
                        return;
                    }
                    run.go_on();
                    if run.release().step().is_none() {
                        return;
                    }
                    assert!(run.release().verdicts.len() <= look_back);
                    assert_eq!(run.release().windows_judged(), reference.windows.len() as u64);
                }
            }
        }
    }
}

/// A plan of which no window of [`Seen::Good`] and [`Seen::TooLittle`] in turn decides anything.
fn undecided(patience_windows: u64) -> Plan {
    Plan {
        window_ms: WINDOW_MS,
        windows: Windows { look_back: 5, consecutive: 4 },
        objectives: Objectives { error_rate_ppm: Some(10_000), ..Objectives::default() },
        minimum_requests: 10,
        patience_ms: patience_windows * WINDOW_MS,
        ..Plan::default()
    }
}

fn in_turn(number: u64) -> Seen {
    if number % 2 == 1 { Seen::Good } else { Seen::TooLittle }
}

/// A base as the version before this one wrote it after so many windows: all of their verdicts, and no count of others.
fn earlier_base(run: &Run, windows: u64) -> String {
    let verdict = |number| match in_turn(number) {
        Seen::Good => r#"{"verdict":"met"}"#,
        _ => r#"{"verdict":"insufficient","why":"3 of at least 10 requests in the window"}"#,
    };
    let all = (1..=windows).map(verdict).collect::<Vec<_>>().join(",");
    let text = String::from_utf8(run.base().to_bytes().unwrap()).unwrap();
    let (before, rest) = text.split_once(r#""verdicts":["#).unwrap();
    let (_, rest) = rest.split_once(']').unwrap();
    let count = format!(r#","verdicts_before":{}"#, run.release().verdicts_before);
    let rest = rest.strip_prefix(&count).unwrap_or(rest);
    format!(r#"{before}"verdicts":[{all}]{rest}"#)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_kept_verdicts_decide_what_all_of_them_would(
        plan in plan(), incidents in prop::collection::vec(incident(), 1..30),
    ) {
        check(plan, &incidents);
    }
}

#[test]
fn a_base_of_an_earlier_version_is_read_and_goes_on_as_it_would_have() {
    for (windows, patience) in [(0, 9), (3, 9), (5, 9), (6, 9), (40, 60), (300, 301), (300, 302), (300, 450)]
    {
        let mut run = Run::begin(undecided(patience));
        (1..=windows).for_each(|number| assert_eq!(run.measured(number, in_turn(number)), Outcome::Watched));
        let text = earlier_base(&run, windows);
        let read = Base::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{windows}: {error:?}"));
        assert_eq!(read.to_bytes().unwrap(), text.as_bytes(), "it stays what was hashed");
        let mut later = Run { world: read.world, seq: run.seq };
        assert_eq!(later.release().verdicts.len() as u64, windows);
        for number in windows + 1..=windows + 200 {
            let outcome = later.measured(number, in_turn(number));
            assert_eq!(outcome, run.measured(number, in_turn(number)), "window {number} after {windows}");
            assert_eq!(later.world, run.world, "window {number} after {windows}");
            assert_eq!(matches!(outcome, Outcome::Held(_)), number == patience, "{number} of {patience}");
        }
    }
}

#[test]
fn a_base_of_few_windows_is_what_an_earlier_version_would_write() {
    let mut run = Run::begin(undecided(100));
    (1..=5).for_each(|number| assert_eq!(run.measured(number, in_turn(number)), Outcome::Watched));
    let text = String::from_utf8(run.base().to_bytes().unwrap()).unwrap();
    assert_eq!(text, earlier_base(&run, 5));
    run.measured(6, Seen::Bad);
    let text = String::from_utf8(run.base().to_bytes().unwrap()).unwrap();
    assert!(text.contains(r#""verdicts_before":1"#), "{text}");
}

#[test]
fn a_release_that_is_held_for_weeks_has_a_base_of_one_size() {
    let mut run = Run::begin(undecided(100));
    run.wish(Wish::Pause);
    let mut sizes = Vec::new();
    for number in 1..=6000 {
        assert_eq!(run.measured(1_790_000_000_000 + number, Seen::Good), Outcome::Watched);
        if number % 2000 == 0 {
            sizes.push(run.base().to_bytes().unwrap().len());
        }
    }
    assert_eq!(sizes, [sizes[0]; 3]);
    assert_eq!((run.release().verdicts.len(), run.release().windows_judged()), (5, 6000));
}

#[test]
fn an_undo_that_is_tried_again_and_again_leaves_every_step_forward_and_the_newest_undo() {
    let mut run = Run::begin(undecided(100));
    let (release, step) = (ReleaseId::new(1), Step::Observe(Percent::ALL));
    run.write(&[Record::Done { release, at: 0, step, detail: String::new() }]);
    run.go_on();
    for number in 0..2000 {
        let cause = Cause::Operator { by: "ops".to_owned(), reason: String::new() };
        let (step, why) = (Step::Home, format!("try {number}"));
        run.write(&[
            Record::RollingBack { release, cause, undo: vec![step], restart: None },
            Record::Intent { release, at: 0, step },
            Record::Failed { release, at: 0, step, why: why.clone() },
            Record::Ended { release, state: End::Stuck, causes: vec![why] },
        ]);
    }
    let release = Arc::clone(&run.world.releases[&release]);
    let (undone, forward): (Vec<&Logged>, Vec<&Logged>) = release.log.iter().partition(|logged| logged.undo);
    assert_eq!((forward.len(), undone.len()), (2, 512));
    assert_eq!(undone[511].outcome, Some(Err("try 1999".to_owned())));
    assert_eq!((release.failures.len(), release.touched.len(), release.causes.len()), (1, 2, 1));
}
