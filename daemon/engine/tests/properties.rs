//! Any order of events and failures: a release ends promoted, rolled back or stuck with both causes, leaves nothing
//! half done, and traffic is never sent to a worker that is not ready. The machine beside it is a second, tiny host.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

#[path = "properties/deaths.rs"]
mod deaths;
mod machine;

use machine::{Fate, Machine, Models};
use proptest::prelude::*;
use std::collections::BTreeSet;
use turnout_engine::advance::{Start, Wish, proceed};
use turnout_engine::record::End;
use turnout_engine::{
    Event, Figures, Kind, Progress, Record, Release, Stamp, Step, Target, Window, World, decide,
};
use turnout_manifest::plan::{Objectives, OnBreach, Strategy as Splitting, Windows};
use turnout_manifest::{Generation, ModelName, Percent, Plan, ReleaseId, Sha256};

/// What happens between two calls.
#[derive(Debug, Clone, Copy)]
enum Incident {
    Nothing,
    CandidateDies,
    StableDies,
    /// Both at once; the second death is told so many turns after the first.
    BothDie(First, usize),
    RouterDies,
    DaemonRestarts,
    Operator(Wish),
}

/// Whose death is told first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum First {
    Candidate,
    Stable,
}

struct Run {
    world: World,
    machine: Machine,
    journal: Vec<(Record, Stamp)>,
    model: ModelName,
    /// Time that has passed besides a millisecond for each record.
    later_ms: u64,
    /// Who has died without being missed yet, and for how many turns more.
    unmissed: Vec<(Generation, usize)>,
}

impl Run {
    fn new() -> Self {
        Self {
            world: World::default(),
            machine: Machine::default(),
            journal: Vec::new(),
            model: "fraud".parse().unwrap(),
            later_ms: 0,
            unmissed: Vec::new(),
        }
    }

    fn write(&mut self, records: Vec<Record>) {
        for record in records {
            let seq = self.journal.len() as u64;
            let stamp = Stamp { seq, at_ms: seq + self.later_ms };
            self.world.apply(&record, stamp);
            self.journal.push((record, stamp));
        }
    }

    fn tell(&mut self, event: &Event) {
        let records = decide(&self.world, event).unwrap_or_default();
        self.write(records);
    }

    fn start(&mut self, version: &str, strategy: Splitting) {
        let start = Start {
            model: self.model.clone(),
            kind: Kind::Release,
            version: version.parse().unwrap(),
            digest: Sha256::of(version.as_bytes()),
            signed_by: vec!["risk".into()],
            plan: match strategy {
                Splitting::InPlace => Plan { strategy, steps: vec![Percent::ALL], ..plan() },
                _ => Plan { strategy, ..plan() },
            },
            port: 8700,
            salt: 1,
            by: "test".into(),
            order: None,
            audit_context: None,
        };
        self.tell(&Event::Start(Box::new(start)));
    }

    fn release(&self) -> Option<&Release> {
        self.world.current(&self.model).filter(|release| !matches!(release.progress, Progress::Ended(_)))
    }

    /// Recovery: the fold of the journal is the state, and the open step is done again by the caller.
    fn daemon_restarts(&mut self) {
        let mut replayed = World::default();
        for (record, stamp) in &self.journal {
            replayed.apply(record, *stamp);
        }
        assert_eq!(replayed, self.world, "replay gives the state");
        self.world = replayed;
    }

    fn incident(&mut self, incident: Incident) {
        self.miss(1);
        let Some(release) = self.release() else { return };
        let (candidate, home) = (release.planned.to.generation, release.home());
        match incident {
            Incident::Nothing => {}
            Incident::CandidateDies => self.kill(Some(candidate)),
            Incident::StableDies => self.kill(home),
            Incident::BothDie(first, after) => {
                let mut both = [Some(candidate), home.filter(|home| *home != candidate)];
                if first == First::Stable {
                    both.reverse();
                }
                for (generation, after) in both.into_iter().flatten().zip([0, after]) {
                    if self.machine.workers.contains(&generation) {
                        self.machine.dies(generation);
                        self.unmissed.push((generation, after));
                    }
                }
                self.miss(0);
            }
            Incident::RouterDies => {
                if std::mem::take(&mut self.machine.router) {
                    self.tell(&Event::RouterDied { why: "signal 9".into() });
                }
            }
            Incident::DaemonRestarts => self.daemon_restarts(),
            Incident::Operator(wish) => {
                let model = self.model.clone();
                self.tell(&Event::Operator { model, wish, by: "ops".into(), reason: String::new() });
            }
        }
    }

    fn kill(&mut self, generation: Option<Generation>) {
        let Some(generation) = generation.filter(|g| self.machine.workers.contains(g)) else { return };
        self.machine.dies(generation);
        self.tell(&Event::Died { generation, why: "signal 9".into() });
    }

    /// Tells of who has died long enough ago, after so many turns more.
    fn miss(&mut self, turns: usize) {
        for (_, left) in &mut self.unmissed {
            *left = left.saturating_sub(turns);
        }
        while let Some(at) = self.unmissed.iter().position(|(_, left)| *left == 0) {
            let (generation, _) = self.unmissed.remove(at);
            self.tell(&Event::Died { generation, why: "signal 9".into() });
        }
    }

    /// One turn: write what is due, or execute or answer the open step.
    fn turn(&mut self, fate: Fate, good: bool) {
        let due = proceed(&self.world, &self.model);
        if !due.is_empty() {
            return self.write(due);
        }
        let Some(release) = self.release().cloned() else { return };
        let id = release.planned.release;
        match release.step() {
            Some(Step::AwaitReady(generation)) if release.open => {
                let alive = self.machine.workers.contains(&generation) && fate == Fate::Works;
                let outcome = if alive { Ok("loaded".into()) } else { Err("did not load".into()) };
                self.tell(&Event::Ready { generation, outcome });
            }
            Some(Step::LoadModel(generation)) if release.open => {
                let works = self.machine.workers.contains(&generation) && fate == Fate::Works;
                if works {
                    self.machine.load(&release);
                }
                let outcome = if works { Ok("loaded".into()) } else { Err("no such operator".into()) };
                let digest = release.planned.to.digest;
                self.tell(&Event::Loaded { generation, digest, outcome });
            }
            Some(Step::Observe(_)) if release.open => {
                let window = Box::new(window(good));
                self.tell(&Event::Measured { release: id, window });
                if self.release().is_some_and(|release| release.held.is_some()) {
                    self.incident(Incident::Operator(Wish::Resume));
                }
            }
            Some(step) if release.open => {
                let outcome = self.machine.execute(&release, step, fate);
                let at = u32::try_from(release.cursor).unwrap();
                self.tell(&Event::Finished { release: id, at, outcome });
            }
            _ => self.incident(Incident::Operator(Wish::Resume)),
        }
        self.check_route();
    }

    /// No arm with a share leads to a worker that was never ready; one that just died is left by the kernel itself.
    fn check_route(&self) {
        for (generation, percent) in &self.machine.route {
            let known = self.machine.cells.contains(generation) || *percent == Percent::NONE;
            assert!(known, "route leads to {generation}, whose cell is gone: {:?}", self.machine.route);
        }
    }

    /// A worker that still runs answers by this version and has no other.
    fn answers_alone(&self, target: &Target) {
        let whole = Models { mounted: target.digest, answers: target.digest, beside: None };
        let found = self.machine.models.get(&target.generation);
        assert!(found.is_none_or(|models| *models == whole), "{found:?} instead of {whole:?}");
    }

    fn finish(&mut self, script: &[(Fate, Incident, bool)]) -> End {
        let id = self.world.models[&self.model].current.expect("a release was started");
        for turn in 0..400 {
            if self.release().is_none() {
                break;
            }
            let (fate, incident, good) =
                script.get(turn).copied().unwrap_or((Fate::Works, Incident::Nothing, true));
            self.incident(incident);
            self.turn(fate, good);
        }
        self.ended(id)
    }

    /// The live version's worker dies once more; the loop has it brought up again until it is.
    fn live_dies(&mut self) {
        self.miss(usize::MAX);
        self.kill(self.world.models[&self.model].live.as_ref().map(|live| live.generation));
        let model = self.model.clone();
        while self.world.awaits_restart(&model) {
            self.tell(&Event::Restart { model: model.clone(), salt: 3 });
            self.finish(&[]);
        }
    }

    /// The version that was live before has everything, and nothing else is left.
    fn check_home(&self) {
        let live = self.world.models[&self.model].live.clone().unwrap();
        assert_eq!(live.version.as_str(), "1");
        assert_eq!(self.machine.route, [(live.generation, Percent::ALL)]);
        let alone = BTreeSet::from([live.generation]);
        assert_eq!((&self.machine.cells, &self.machine.workers), (&alone, &alone), "{:#?}", self.journal);
    }

    fn ended(&self, id: ReleaseId) -> End {
        match self.world.releases[&id].progress {
            Progress::Ended(end) => end,
            other => panic!("release does not end: {other:?} at {:?}", self.world.releases[&id].step()),
        }
    }
}

fn plan() -> Plan {
    Plan {
        strategy: Splitting::Weight,
        steps: [5_000, 50_000, 100_000].map(|t| Percent::from_thousandths(t).unwrap()).to_vec(),
        window_ms: 200,
        windows: Windows { look_back: 3, consecutive: 2 },
        objectives: Objectives { error_rate_ppm: Some(10_000), ..Objectives::default() },
        minimum_requests: 10,
        patience_ms: 2_000,
        on_breach: OnBreach::Rollback,
    }
}

fn window(good: bool) -> Window {
    let candidate = Figures { requests: 100, errors: if good { 0 } else { 50 }, ..Figures::default() };
    Window { at_ms: 1, length_ms: 200, asked: Percent::ALL, candidate, stable: None }
}

/// A release over a live version, then the whole script, then the invariants of its end.
fn check(script: &[(Fate, Incident, bool)]) -> End {
    check_split_by(Splitting::UserHash { header: "x-user-id".parse().unwrap() }, script);
    check_split_by(Splitting::InPlace, script);
    check_split_by(Splitting::Weight, script)
}

fn check_split_by(strategy: Splitting, script: &[(Fate, Incident, bool)]) -> End {
    let mut run = Run::new();
    run.start("1", Splitting::Weight);
    assert_eq!(run.finish(&[]), End::Promoted);
    run.start("2", strategy);
    let id = run.world.models[&run.model].current.unwrap();
    let end = run.finish(script);
    run.daemon_restarts();
    let release = &run.world.releases[&id];
    let candidate = release.planned.to.generation;
    match end {
        End::Promoted => {
            assert_eq!(run.world.models[&run.model].live.as_ref().unwrap().generation, candidate);
            assert_eq!(run.machine.route[0], (candidate, Percent::ALL));
            // After the point of no return, what could not be let go of stays.
            if release.failures.is_empty() {
                run.answers_alone(&release.planned.to);
            }
        }
        End::RolledBack | End::Cancelled => {
            let evidence = |(step, _): &(Step, String)| matches!(step, Step::Snapshot(_));
            assert!(release.failures.iter().all(evidence), "only evidence may be missing");
            assert!(!release.causes.is_empty(), "a rollback says why");
            let home = release.home().unwrap();
            assert_eq!(run.machine.route, [(home, Percent::ALL)]);
            if home == candidate {
                run.answers_alone(release.planned.from.as_ref().unwrap());
            } else {
                assert!(!run.machine.cells.contains(&candidate) && !run.machine.workers.contains(&candidate));
            }
        }
        End::Stuck => {
            assert!(release.causes.len() >= 2, "stuck keeps both causes: {:?}", release.causes);
            run.live_dies();
            let end = run.ended(id);
            assert!(matches!(end, End::RolledBack | End::Cancelled), "{end:?}: {:#?}", run.journal);
            run.check_home();
        }
    }
    end
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![8 => Just(Fate::Works), 1 => Just(Fate::FailsClean), 1 => Just(Fate::FailsHalfDone)]
}

fn incident() -> impl Strategy<Value = Incident> {
    let wish = prop_oneof![
        Just(Wish::Rollback),
        Just(Wish::Cancel),
        Just(Wish::Promote),
        Just(Wish::Pause),
        Just(Wish::Resume)
    ];
    prop_oneof![
        12 => Just(Incident::Nothing),
        1 => Just(Incident::CandidateDies),
        1 => Just(Incident::StableDies),
        1 => (prop_oneof![Just(First::Candidate), Just(First::Stable)], 0_usize..5)
            .prop_map(|(first, after)| Incident::BothDie(first, after)),
        1 => Just(Incident::RouterDies),
        2 => Just(Incident::DaemonRestarts),
        2 => wish.prop_map(Incident::Operator),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_and_failures_ends_whole(
        script in prop::collection::vec((fate(), incident(), prop::bool::weighted(0.8)), 0..60)
    ) {
        check(&script);
    }
}

#[test]
fn every_pair_of_failures_at_every_step_ends_whole() {
    let mut ends = BTreeSet::new();
    for first in 0..40 {
        for second in first..60 {
            for (a, b) in [
                (Fate::FailsClean, Fate::FailsClean),
                (Fate::FailsClean, Fate::FailsHalfDone),
                (Fate::FailsHalfDone, Fate::FailsClean),
                (Fate::FailsHalfDone, Fate::FailsHalfDone),
            ] {
                let mut script = vec![(Fate::Works, Incident::Nothing, true); 60];
                script[first].0 = a;
                script[second].0 = b;
                ends.insert(format!("{:?}", check(&script)));
            }
        }
    }
    assert_eq!(ends.into_iter().collect::<Vec<_>>(), ["Promoted", "RolledBack", "Stuck"]);
}

#[test]
fn a_stuck_release_can_be_rolled_back_again() {
    let mut run = Run::new();
    run.start("1", Splitting::Weight);
    run.finish(&[]);
    run.start("2", Splitting::Weight);
    let id = run.world.models[&run.model].current.unwrap();
    // The first shift fails half done, then traffic cannot go home.
    let mut script = vec![(Fate::Works, Incident::Nothing, true); 13];
    script.extend(vec![(Fate::FailsHalfDone, Incident::Nothing, true); 2]);
    script.extend(vec![(Fate::FailsClean, Incident::Nothing, true); 2]);
    let end = run.finish(&script);
    assert_eq!(end, End::Stuck, "{:?}", run.journal);
    assert!(
        run.machine.workers.contains(&run.world.releases[&id].planned.to.generation),
        "what serves stays up"
    );
    let wish = Event::Operator {
        model: run.model.clone(),
        wish: Wish::Rollback,
        by: "ops".into(),
        reason: String::new(),
    };
    run.tell(&wish);
    assert_eq!(run.finish(&[]), End::RolledBack);
}

#[test]
fn a_missed_objective_goes_home_and_names_its_first_window() {
    let mut run = Run::new();
    run.start("1", Splitting::Weight);
    run.finish(&[]);
    run.start("2", Splitting::Weight);
    let id = run.world.models[&run.model].current.unwrap();
    let script = vec![(Fate::Works, Incident::Nothing, false); 60];
    assert_eq!(run.finish(&script), End::RolledBack);
    let causes = &run.world.releases[&id].causes;
    assert_eq!(causes, &["error rate 50 % exceeds 1 % (50 of 100 requests) in 2 of the last 2 windows"]);
}

#[test]
fn a_second_release_on_a_busy_model_is_refused() {
    let mut run = Run::new();
    run.start("1", Splitting::Weight);
    let journal = run.journal.len();
    run.start("2", Splitting::Weight);
    assert_eq!(run.journal.len(), journal, "nothing is written");
}
