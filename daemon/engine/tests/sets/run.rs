//! A journal, its state, a machine for each model, and the pointers that they share.

use crate::machine::{Fate, Machine};
use std::collections::BTreeMap;
use turnout_engine::advance::{Start, StartSet, Wish, proceed};
use turnout_engine::record::End;
use turnout_engine::set::Set;
use turnout_engine::{Event, Figures, Kind, Progress, Record, Release, Stamp, Step, Window, World, decide};
use turnout_manifest::plan::{Objectives, OnBreach, Strategy as Splitting, Windows};
use turnout_manifest::{Generation, ModelName, Percent, Plan, Sha256};

/// Two models with a version before, and one that has none.
pub const MODELS: [&str; 3] = ["cards", "fraud", "limits"];
/// Turns after which a run that has not ended never will.
const TURNS_MAX: usize = 600;

/// What happens between two calls, and to the release of which model.
#[derive(Debug, Clone, Copy)]
pub enum Incident {
    Nothing,
    CandidateDies,
    StableDies,
    DaemonRestarts,
    /// Of the last batch of records, so many are on disk.
    PowerCut(usize),
    Operator(Wish),
    /// A window of a release that waits for the others misses.
    MissesWhileWaiting,
}

#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub model: usize,
    pub fate: Fate,
    pub incident: Incident,
    pub good: bool,
}

pub const PLAIN: Turn = Turn { model: 0, fate: Fate::Works, incident: Incident::Nothing, good: true };

/// Models with the version that each shows.
pub type Pointers = BTreeMap<ModelName, Sha256>;

#[derive(Default)]
pub struct Run {
    pub world: World,
    machines: BTreeMap<ModelName, Machine>,
    pub pointers: Pointers,
    pub shown: Pointers,
    pub journal: Vec<Record>,
    /// Where the last batch begins.
    batch: usize,
}

pub fn model(name: &str) -> ModelName {
    name.parse().unwrap()
}

fn digest(model: &str, version: &str) -> Sha256 {
    Sha256::of(format!("{model}@{version}").as_bytes())
}

fn stamp(at: usize) -> Stamp {
    Stamp { seq: at as u64, at_ms: at as u64 }
}

pub fn plan(strategy: Splitting) -> Plan {
    let shares = match strategy {
        Splitting::InPlace => vec![100_000],
        _ => vec![5_000, 100_000],
    };
    Plan {
        strategy,
        steps: shares.into_iter().map(|share| Percent::from_thousandths(share).unwrap()).collect(),
        window_ms: 200,
        windows: Windows { look_back: 2, consecutive: 1 },
        objectives: Objectives { error_rate_ppm: Some(10_000), ..Objectives::default() },
        minimum_requests: 10,
        patience_ms: 2_000,
        on_breach: OnBreach::Rollback,
    }
}

pub fn start(name: &str, version: &str, plan: Plan) -> Start {
    Start {
        model: model(name),
        kind: Kind::Release,
        version: version.parse().unwrap(),
        digest: digest(name, version),
        signed_by: vec!["risk".into()],
        plan,
        port: 8700,
        salt: 1,
        by: "test".into(),
        order: None,
        audit_context: None,
    }
}

pub fn set_of(name: &str, starts: Vec<Start>) -> Event {
    Event::StartSet(Box::new(StartSet { name: name.parse().unwrap(), starts }))
}

pub fn wish_for(name: &str, wish: Wish) -> Event {
    Event::Operator { model: model(name), wish, by: "ops".into(), reason: String::new() }
}

impl Run {
    /// Version 1 of the first two models is live.
    pub fn live() -> Self {
        let mut run = Self::default();
        for name in &MODELS[..2] {
            run.tell(&Event::Start(Box::new(start(name, "1", plan(Splitting::Weight)))));
            run.finish(&[]);
        }
        run
    }

    pub fn start_set(&mut self, strategy: &Splitting) {
        let starts = MODELS.map(|name| start(name, "2", plan(strategy.clone())));
        self.tell(&set_of("payments", starts.to_vec()));
    }

    fn write(&mut self, records: Vec<Record>) {
        self.batch = self.journal.len();
        for record in records {
            self.world.apply(&record, stamp(self.journal.len()));
            self.journal.push(record);
        }
    }

    pub fn tell(&mut self, event: &Event) {
        let records = decide(&self.world, event).unwrap_or_default();
        if !records.is_empty() {
            self.write(records);
        }
    }

    pub fn under_way(&self, name: &str) -> Option<&Release> {
        let current = self.world.current(&model(name));
        current.filter(|release| !matches!(release.progress, Progress::Ended(_)))
    }

    pub fn replay(&self) -> World {
        let mut world = World::default();
        self.journal.iter().enumerate().for_each(|(at, record)| world.apply(record, stamp(at)));
        world
    }

    /// As the loop does after a start: the journal is the state, and who is gone has died.
    pub fn comes_back(&mut self) {
        self.world = self.replay();
        for name in MODELS {
            let Some(model) = self.world.models.get(&model(name)) else { continue };
            let live = model.live.as_ref().filter(|_| !model.live_died).map(|live| live.generation);
            let started = |release: &&Release| {
                release.progress == Progress::Forward
                    && release.touched.contains(&Step::AwaitReady(release.planned.to.generation))
            };
            let candidate = self.under_way(name).filter(started).map(|r| r.planned.to.generation);
            let gone = live.into_iter().chain(candidate);
            let gone: Vec<Generation> = gone.filter(|g| !self.machine(name).workers.contains(g)).collect();
            for generation in gone {
                self.tell(&Event::Died { generation, why: "gone".into() });
            }
        }
    }

    pub fn machine(&self, name: &str) -> &Machine {
        &self.machines[&model(name)]
    }

    fn incident(&mut self, turn: Turn) {
        let name = MODELS[turn.model];
        match turn.incident {
            Incident::Nothing => {}
            Incident::CandidateDies | Incident::StableDies => {
                let Some(release) = self.under_way(name) else { return };
                let candidate = Some(release.planned.to.generation);
                let dies =
                    if matches!(turn.incident, Incident::StableDies) { release.home() } else { candidate };
                let machine = self.machines.entry(model(name)).or_default();
                let Some(generation) = dies.filter(|dies| machine.workers.contains(dies)) else { return };
                machine.dies(generation);
                self.tell(&Event::Died { generation, why: "signal 9".into() });
            }
            Incident::DaemonRestarts => {
                assert_eq!(self.replay(), self.world, "replay gives the state");
                self.comes_back();
            }
            Incident::PowerCut(left) => {
                self.journal.truncate(self.journal.len().min(self.batch + left));
                self.comes_back();
            }
            Incident::Operator(wish) => self.tell(&wish_for(name, wish)),
            Incident::MissesWhileWaiting => {
                let waits = |release: &&Release| release.open && release.step() == Some(Step::AwaitSet);
                let Some(release) = self.under_way(name).filter(waits).map(|r| r.planned.release) else {
                    return;
                };
                self.tell(&Event::Measured { release, window: Box::new(window(false)) });
            }
        }
    }

    /// Writes what is due. What a batch says must not happen before it is on disk, so the power may go after each.
    pub fn go_on(&mut self, turn: Turn) {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            for name in MODELS {
                let due = proceed(&self.world, &model(name));
                if due.is_empty() {
                    continue;
                }
                moved = true;
                let cut =
                    matches!(turn.incident, Incident::PowerCut(left) if left < due.len() && due.len() > 1);
                self.write(due);
                if cut {
                    self.incident(turn);
                    return;
                }
                self.never_mixed();
            }
        }
    }

    /// One answer of the machine, then all that follows from it.
    fn turn(&mut self, turn: Turn) {
        self.incident(turn);
        self.go_on(turn);
        let names = MODELS.iter().cycle().skip(turn.model).take(MODELS.len());
        let answerable = |release: &&Release| release.open && release.step() != Some(Step::AwaitSet);
        let open = names.filter_map(|name| self.under_way(name).filter(answerable)).next().cloned();
        match open {
            Some(release) => self.answer(&release, turn),
            // Everything waits for a person.
            None => MODELS.iter().for_each(|name| self.tell(&wish_for(name, Wish::Resume))),
        }
        self.go_on(turn);
        self.never_mixed();
    }

    pub fn answer(&mut self, release: &Release, turn: Turn) {
        let (id, name, Turn { fate, good, .. }) = (release.planned.release, &release.planned.model, turn);
        let machine = self.machines.entry(name.clone()).or_default();
        let event = match release.step().unwrap() {
            Step::AwaitReady(generation) => {
                let alive = machine.workers.contains(&generation) && fate == Fate::Works;
                let outcome = if alive { Ok("loaded".into()) } else { Err("did not load".into()) };
                Event::Ready { generation, outcome }
            }
            Step::LoadModel(generation) => {
                let works = machine.workers.contains(&generation) && fate == Fate::Works;
                if works {
                    machine.load(release);
                }
                let outcome = if works { Ok("loaded".into()) } else { Err("no such operator".into()) };
                Event::Loaded { generation, digest: release.planned.to.digest, outcome }
            }
            Step::Observe(_) => Event::Measured { release: id, window: Box::new(window(good)) },
            step => {
                let at = u32::try_from(release.cursor).unwrap();
                let mut outcome = machine.execute(release, step, fate);
                if fate != Fate::FailsClean {
                    outcome = outcome.and_then(|done| self.point(release, step).map(|()| done));
                }
                Event::Finished { release: id, at, outcome }
            }
        };
        self.tell(&event);
        if matches!(event, Event::Measured { .. })
            && self.release(release.planned.model.as_str()).held.is_some()
        {
            self.tell(&wish_for(release.planned.model.as_str(), Wish::Resume));
        }
    }

    /// As the host does: the set in one step, then the models.
    fn point(&mut self, release: &Release, step: Step) -> Result<(), String> {
        let planned = &release.planned;
        let (to, from) = (planned.to.digest, planned.from.as_ref().map(|from| from.digest));
        match (step, &planned.set) {
            (Step::Point, _) => self.point_one(&planned.model, Some(to)),
            (Step::PointHome, _) => self.point_one(&planned.model, from),
            (Step::PointSet, Some(set)) => self.point_set(set, &set.shows, |at| Some(set.members[at].to)),
            (Step::PointSetHome, Some(set)) => self.point_set(set, &set.showed, |at| set.members[at].from),
            _ => {}
        }
        Ok(())
    }

    fn point_set(&mut self, set: &Set, models: &[ModelName], version: impl Fn(usize) -> Option<Sha256>) {
        let shown = models.iter().filter_map(|model| {
            let version = match set.members.iter().position(|member| member.model == *model) {
                Some(at) => version(at),
                None => self.pointers.get(model).copied(),
            };
            Some((model.clone(), version?))
        });
        self.shown = shown.collect();
        for (at, member) in set.members.iter().enumerate() {
            self.point_one(&member.model, version(at));
        }
    }

    fn point_one(&mut self, model: &ModelName, version: Option<Sha256>) {
        match version {
            Some(version) => {
                self.pointers.insert(model.clone(), version);
                self.shown.entry(model.clone()).and_modify(|shown| *shown = version);
            }
            None => {
                self.pointers.remove(model);
                self.shown.remove(model);
            }
        }
    }

    /// Of the releases of a set, either all have passed the point of no return or none has.
    pub fn never_mixed(&self) {
        for release in self.world.releases.values().filter(|release| release.planned.set.is_some()) {
            let passed = |release: &Release| {
                matches!(release.progress, Progress::Tidying | Progress::Ended(End::Promoted))
            };
            for (member, other) in self.world.others(release) {
                let other = other.is_some_and(passed);
                assert_eq!(passed(release), other, "{} and {}", release.planned.model, member.model);
            }
        }
    }

    pub fn finish(&mut self, script: &[Turn]) {
        for at in 0..TURNS_MAX {
            self.go_on(PLAIN);
            if MODELS.iter().all(|name| self.under_way(name).is_none()) {
                return;
            }
            let plain = Turn { model: at % MODELS.len(), ..PLAIN };
            self.turn(script.get(at).copied().unwrap_or(plain));
        }
        let left = MODELS.iter().filter_map(|name| self.under_way(name));
        let left: Vec<_> = left.map(|release| (release.progress, release.step(), release.open)).collect();
        panic!("releases do not end: {left:?}");
    }

    /// How the set's releases ended, by model; nothing for one that was never begun.
    pub fn ends(&self) -> Vec<Option<End>> {
        let end = |name: &str| {
            let last = self.world.models.get(&model(name))?.last?;
            match self.world.releases[&last].progress {
                Progress::Ended(end) if self.world.releases[&last].planned.set.is_some() => Some(end),
                _ => None,
            }
        };
        MODELS.map(end).to_vec()
    }

    pub fn release(&self, name: &str) -> &Release {
        &self.world.releases[&self.world.models[&model(name)].last.unwrap()]
    }
}

pub fn window(good: bool) -> Window {
    let candidate = Figures { requests: 100, errors: if good { 0 } else { 50 }, ..Figures::default() };
    Window { at_ms: 1, length_ms: 200, asked: Percent::ALL, candidate, stable: None }
}

pub fn versions(of: [Option<&str>; 3]) -> Pointers {
    let all = MODELS.iter().zip(of);
    all.filter_map(|(name, version)| Some((model(name), digest(name, version?)))).collect()
}
