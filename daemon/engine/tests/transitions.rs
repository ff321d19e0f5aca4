//! The table of what each event does in each state of a release, pinned: a change of it is a change of the product.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

use turnout_engine::advance::{Start, Wish, proceed};
use turnout_engine::{Event, Figures, Kind, Record, Stamp, Step, Window, World, decide};
use turnout_manifest::plan::{Objectives, OnBreach, Strategy, Windows};
use turnout_manifest::{Generation, ModelName, Percent, Plan, Sha256};

/// What each event gives in each state; rows are states, see [`states`].
const TABLE: &str = "\
executing | done: done | failed: failed+rolling-back | ready: - | died: worker-died+interrupted | stable died: worker-died+interrupted | stable lost: worker-died+interrupted | silenced: worker-silenced+interrupted | good: - | bad: - | start: refused | rollback: interrupted | cancel: interrupted | promote: refused | pause: held | resume: - | restart: -
loading | done: done | failed: failed+rolling-back | ready: done | died: worker-died+done+rolling-back | stable died: worker-died+done+rolling-back | stable lost: worker-died+done+rolling-back | silenced: worker-silenced+done+rolling-back | good: - | bad: - | start: refused | rollback: done+rolling-back | cancel: done+rolling-back | promote: refused | pause: held | resume: - | restart: -
observing | done: done | failed: failed+rolling-back | ready: - | died: worker-died+done+rolling-back | stable died: worker-died+done+rolling-back | stable lost: worker-died+done+rolling-back | silenced: worker-silenced+done+rolling-back | good: observed+done | bad: observed+done+rolling-back | start: refused | rollback: done+rolling-back | cancel: done+rolling-back | promote: done | pause: held | resume: - | restart: -
held | done: done | failed: failed+rolling-back | ready: - | died: worker-died+done+rolling-back | stable died: worker-died+done+rolling-back | stable lost: worker-died+done+rolling-back | silenced: worker-silenced+done+rolling-back | good: observed | bad: observed+done+rolling-back | start: refused | rollback: done+rolling-back | cancel: done+rolling-back | promote: resumed+done | pause: - | resume: resumed | restart: -
undoing | done: done | failed: failed | ready: - | died: worker-died | stable died: worker-died | stable lost: worker-died+rolling-back | silenced: worker-silenced | good: - | bad: - | start: refused | rollback: - | cancel: - | promote: refused | pause: refused | resume: refused | restart: -
undoing, stable dead | done: done | failed: failed+rolling-back | ready: - | died: worker-died | stable died: worker-died | stable lost: rolling-back | silenced: worker-silenced | good: - | bad: - | start: refused | rollback: - | cancel: - | promote: refused | pause: refused | resume: refused | restart: -
tidying | done: done | failed: failed | ready: - | died: worker-died | stable died: - | stable lost: - | silenced: worker-silenced | good: - | bad: - | start: refused | rollback: refused | cancel: refused | promote: refused | pause: refused | resume: refused | restart: -
stuck | done: - | failed: - | ready: - | died: worker-died | stable died: worker-died | stable lost: worker-died+rolling-back | silenced: worker-silenced | good: - | bad: - | start: refused | rollback: rolling-back | cancel: rolling-back | promote: refused | pause: refused | resume: refused | restart: -
stuck, stable dead | done: - | failed: - | ready: - | died: worker-died | stable died: worker-died | stable lost: rolling-back | silenced: worker-silenced | good: - | bad: - | start: refused | rollback: rolling-back | cancel: rolling-back | promote: refused | pause: refused | resume: refused | restart: rolling-back
over | done: - | failed: - | ready: - | died: worker-died | stable died: - | stable lost: - | silenced: worker-silenced | good: - | bad: - | start: planned | rollback: refused | cancel: refused | promote: refused | pause: refused | resume: refused | restart: -
over, live dead | done: - | failed: - | ready: - | died: worker-died | stable died: - | stable lost: - | silenced: worker-silenced | good: - | bad: - | start: planned | rollback: refused | cancel: refused | promote: refused | pause: refused | resume: refused | restart: planned
";

struct Run {
    world: World,
    written: u64,
}

impl Run {
    fn write(&mut self, records: Vec<Record>) {
        for record in records {
            self.world.apply(&record, Stamp { seq: self.written, at_ms: self.written });
            self.written += 1;
        }
    }

    fn tell(&mut self, event: &Event) {
        let records = decide(&self.world, event).unwrap();
        self.write(records);
    }

    fn start(&mut self, version: &str) {
        self.tell(&start(version));
    }

    /// Takes the release on, every step done and every window good, until this holds.
    fn until(&mut self, reached: impl Fn(&World) -> bool) {
        for _ in 0..200 {
            if reached(&self.world) {
                return;
            }
            let due = proceed(&self.world, &model());
            if due.is_empty() {
                let event = match open(&self.world) {
                    Some(Step::Observe(_)) => measured(&self.world, true),
                    _ => finished(&self.world, Ok(String::new())),
                };
                self.tell(&event);
            } else {
                self.write(due);
            }
        }
        panic!("the state is never reached");
    }
}

fn model() -> ModelName {
    "fraud".parse().unwrap()
}

fn open(world: &World) -> Option<Step> {
    world.current(&model()).filter(|release| release.open)?.step()
}

fn start(version: &str) -> Event {
    Event::Start(Box::new(Start {
        model: model(),
        kind: Kind::Release,
        version: version.parse().unwrap(),
        digest: Sha256::of(version.as_bytes()),
        signed_by: vec!["risk".into()],
        plan: Plan {
            strategy: Strategy::Weight,
            steps: vec![Percent::from_thousandths(5_000).unwrap(), Percent::ALL],
            window_ms: 200,
            windows: Windows { look_back: 1, consecutive: 1 },
            objectives: Objectives { error_rate_ppm: Some(10_000), ..Objectives::default() },
            minimum_requests: 10,
            patience_ms: 2_000,
            on_breach: OnBreach::Rollback,
        },
        port: 8700,
        salt: 1,
        by: "test".into(),
        order: None,
        audit_context: None,
    }))
}

fn finished(world: &World, outcome: Result<String, String>) -> Event {
    let model = &world.models[&model()];
    let release = &world.releases[&model.last.unwrap()];
    let at = u32::try_from(release.cursor).unwrap();
    Event::Finished { release: release.planned.release, at, outcome }
}

fn measured(world: &World, good: bool) -> Event {
    let candidate = Figures { requests: 100, errors: if good { 0 } else { 50 }, ..Figures::default() };
    let window = Window { at_ms: 1, length_ms: 200, asked: Percent::ALL, candidate, stable: None };
    Event::Measured { release: world.models[&model()].last.unwrap(), window: Box::new(window) }
}

fn operator(wish: Wish) -> Event {
    Event::Operator { model: model(), wish, by: "ops".into(), reason: String::new() }
}

fn died(generation: u32) -> Event {
    Event::Died { generation: Generation(generation), why: "signal 9".into() }
}

/// A release of version 2 (generation 2) over version 1 (generation 1), brought into every state.
fn states() -> Vec<(&'static str, World)> {
    let mut run = Run { world: World::default(), written: 0 };
    run.start("1");
    run.until(|world| world.current(&model()).is_none());
    run.start("2");
    let mut states = Vec::new();
    let mut reach = |name, run: &mut Run, reached: &dyn Fn(&World) -> bool| {
        run.until(reached);
        states.push((name, run.world.clone()));
    };
    reach("executing", &mut run, &|world| open(world) == Some(Step::CreateCell(Generation(2))));
    reach("loading", &mut run, &|world| open(world) == Some(Step::AwaitReady(Generation(2))));
    let observing = |world: &World| matches!(open(world), Some(Step::Observe(_)));
    reach("observing", &mut run, &observing);
    let mut branch = Run { world: run.world.clone(), written: run.written };
    branch.tell(&operator(Wish::Pause));
    reach("held", &mut branch, &|_| true);
    let mut branch = Run { world: run.world.clone(), written: run.written };
    branch.tell(&operator(Wish::Rollback));
    reach("undoing", &mut branch, &|world| open(world) == Some(Step::Home));
    let mut both = Run { world: branch.world.clone(), written: branch.written };
    both.tell(&died(1));
    reach("undoing, stable dead", &mut both, &|_| true);
    reach("tidying", &mut run, &|world| open(world) == Some(Step::Drain(Generation(1))));
    branch.tell(&finished(&branch.world, Err("injected".into())));
    reach("stuck", &mut branch, &|world| proceed(world, &model()).is_empty());
    branch.tell(&died(1));
    reach("stuck, stable dead", &mut branch, &|_| true);
    reach("over", &mut run, &|world| world.current(&model()).is_none());
    run.tell(&died(2));
    reach("over, live dead", &mut run, &|_| true);
    states
}

fn events(world: &World) -> Vec<(&'static str, Event)> {
    let silenced = |generation| Event::Silenced { generation: Generation(generation), why: "flood".into() };
    vec![
        ("done", finished(world, Ok(String::new()))),
        ("failed", finished(world, Err("injected".into()))),
        ("ready", Event::Ready { generation: Generation(2), outcome: Ok(String::new()) }),
        ("died", died(2)),
        ("stable died", died(1)),
        ("stable lost", Event::Lost { generation: Generation(1), why: "no such cell".into() }),
        ("silenced", silenced(2)),
        ("good", measured(world, true)),
        ("bad", measured(world, false)),
        ("start", start("3")),
        ("rollback", operator(Wish::Rollback)),
        ("cancel", operator(Wish::Cancel)),
        ("promote", operator(Wish::Promote)),
        ("pause", operator(Wish::Pause)),
        ("resume", operator(Wish::Resume)),
        ("restart", Event::Restart { model: model(), salt: 2 }),
    ]
}

fn outcome(world: &World, event: &Event) -> String {
    match decide(world, event) {
        Err(_) => "refused".to_owned(),
        Ok(records) if records.is_empty() => "-".to_owned(),
        Ok(records) => {
            let name =
                |record: &Record| serde_json::to_value(record).unwrap()["event"].as_str().unwrap().to_owned();
            records.iter().map(name).collect::<Vec<_>>().join("+")
        }
    }
}

#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    let mut table = String::new();
    for (name, world) in states() {
        table.push_str(name);
        for (event, what) in events(&world) {
            table.push_str(&format!(" | {event}: {}", outcome(&world, &what)));
        }
        table.push('\n');
    }
    assert_eq!(table, TABLE, "the table is now:\n{table}");
}
