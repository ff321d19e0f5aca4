//! The one line that `systemctl status` shows: what is served by which version, what is under way, how far the journal
//! is. What is most urgent comes first. Sending it is for `telemetry`.

use crate::view::View;
use turnout_engine::{Model, Progress, Release, Step};
use turnout_manifest::Percent;

/// Models that are named; the others are counted.
const NAMED: usize = 5;

/// The line, without a newline.
pub fn status_line(view: &View) -> String {
    let models = &view.world.models;
    let mut said: Vec<(Urgency, String)> = models
        .iter()
        .filter_map(|(name, model)| {
            let (urgency, said) = said(model, view.world.current(name))?;
            Some((urgency, format!("{name}{said}")))
        })
        .collect();
    // Stable: models that are as urgent stay in the order of their names.
    said.sort_by_key(|(urgency, _)| *urgency);
    let told: Vec<String> = said.into_iter().map(|(_, said)| said).collect();
    let mut serving = match told.as_slice() {
        [] => "no model is live".to_owned(),
        told => format!("serving {}", told[..told.len().min(NAMED)].join(", ")),
    };
    if told.len() > NAMED {
        serving += &format!(" and {} more", told.len() - NAMED);
    }
    if let Some(why) = &view.read_only {
        serving += &format!("; changes are refused: {why}");
    }
    // The reason may quote an operating system or a path.
    let line = format!("{serving}; journal {} records", view.journal_size);
    line.replace(char::is_control, " ")
}

/// How soon a person should look at a model, the soonest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Down,
    Stuck,
    Held,
    UnderWay,
    Serving,
}

/// What follows a model's name; nothing is said of one that is neither live nor being released.
fn said(model: &Model, release: Option<&Release>) -> Option<(Urgency, String)> {
    let release = release.filter(|release| !matches!(release.progress, Progress::Tidying));
    let urgency = match release {
        _ if model.live.is_some() && model.live_died => Urgency::Down,
        None => Urgency::Serving,
        Some(release) if matches!(release.progress, Progress::Ended(_)) => Urgency::Stuck,
        Some(release) if release.held.is_some() => Urgency::Held,
        Some(_) => Urgency::UnderWay,
    };
    let serves = |share: Percent| if model.live_died { "down".to_owned() } else { share.to_string() };
    let said = match (model.live.as_ref().map(|live| &live.version), release) {
        (None, None) => return None,
        (Some(live), None) => format!("@{live} {}", serves(Percent::ALL)),
        (None, Some(release)) => {
            format!("@{} {} {}", release.planned.to.version, release.asked, doing(release))
        }
        (Some(live), Some(release)) if *live == release.planned.to.version => {
            let down = if model.live_died { "down / " } else { "" };
            format!("@{live} {down}{}", doing(release))
        }
        (Some(live), Some(release)) => {
            let (new, asked) = (&release.planned.to.version, release.asked);
            format!("@{live} {} / {new} {asked} {}", serves(asked.rest()), doing(release))
        }
    };
    Some((urgency, said))
}

fn doing(release: &Release) -> &'static str {
    match (release.progress, release.step()) {
        (Progress::Ended(_), _) => "stuck",
        (Progress::Backward, _) => "rolling back",
        (Progress::Tidying, _) => "done",
        (Progress::Forward, _) if release.held.is_some() => "held",
        (Progress::Forward, _) if release.cursor >= release.commit() => "promoting",
        (Progress::Forward, Some(Step::Point | Step::PointSet)) => "promoting",
        (Progress::Forward, Some(Step::AwaitSet)) => "waiting for its set",
        (Progress::Forward, Some(Step::Observe(_))) => "observing",
        (Progress::Forward, Some(Step::Shift(_) | Step::SwitchModel(_))) => "shifting",
        (Progress::Forward, _) => "starting",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_engine::record::{Cause, End, Kind, Planned, Target};
    use turnout_engine::{Record, Stamp, World};
    use turnout_manifest::{Generation, Plan, ReleaseId, Sha256};

    fn target(version: &str, generation: u32) -> Target {
        Target {
            version: version.parse().unwrap(),
            digest: Sha256::of(b"x"),
            signed_by: Vec::new(),
            generation: Generation(generation),
            measured: None,
            audit_context: None,
        }
    }

    fn planned(id: u32, model: &str, versions: (Option<&str>, &str)) -> Record {
        Record::Planned(Box::new(Planned {
            release: ReleaseId::new(id),
            model: model.parse().unwrap(),
            kind: Kind::Release,
            from: versions.0.map(|version| target(version, id - 1)),
            to: target(versions.1, id),
            plan: Plan::all_at_once(),
            steps: vec![Step::Shift(tenth()), Step::Observe(tenth()), Step::AwaitSet, Step::Point],
            commit: 4,
            port: 8700,
            salt: "00".to_owned(),
            by: "root".to_owned(),
            set: None,
        }))
    }

    fn tenth() -> Percent {
        Percent::from_thousandths(10_000).unwrap()
    }

    fn live(id: u32, model: &str, version: &str) -> Vec<Record> {
        let release = ReleaseId::new(id);
        let ended = Record::Ended { release, state: End::Promoted, causes: Vec::new() };
        vec![planned(id, model, (None, version)), Record::Promoted { release }, ended]
    }

    fn line(records: &[Record]) -> String {
        let mut world = World::default();
        for record in records {
            world.apply(record, Stamp { seq: 0, at_ms: 0 });
        }
        status_line(&View { world, journal_size: 96, ..View::default() })
    }

    fn died(model: &str, generation: u32) -> Record {
        let why = "killed".to_owned();
        Record::WorkerDied { model: model.parse().unwrap(), generation: Generation(generation), why }
    }

    #[test]
    fn it_says_what_is_served_and_what_is_under_way() {
        let release = ReleaseId::new(4);
        let shift = Step::Shift(tenth());
        let mut records = vec![Record::DaemonStarted { version: "0".to_owned() }];
        assert_eq!(line(&records), "no model is live; journal 96 records");
        records.extend(live(1, "cancer", "better"));
        records.extend(live(2, "digits", "1.0.0"));
        assert_eq!(line(&records), "serving cancer@better 100 %, digits@1.0.0 100 %; journal 96 records");
        records.push(planned(4, "cancer", (Some("better"), "slow")));
        records.push(Record::Intent { release, at: 0, step: shift });
        assert!(line(&records).contains("cancer@better 100 % / slow 0 % shifting,"), "{}", line(&records));
        records.push(Record::Done { release, at: 0, step: shift, detail: String::new() });
        let observing =
            "serving cancer@better 90 % / slow 10 % observing, digits@1.0.0 100 %; journal 96 records";
        assert_eq!(line(&records), observing);
        let mut held = records.clone();
        held.push(Record::Held { release, why: "a person".to_owned() });
        assert!(line(&held).contains("slow 10 % held,"), "{}", line(&held));
        let cause = Cause::Crashed { why: "killed".to_owned() };
        records.push(Record::RollingBack { release, cause, undo: Vec::new(), restart: None });
        assert!(line(&records).contains("rolling back,"), "{}", line(&records));
        records.push(Record::Ended { release, state: End::Stuck, causes: Vec::new() });
        assert!(line(&records).contains(" stuck,"), "{}", line(&records));
    }

    #[test]
    fn a_dead_version_is_not_said_to_serve_and_many_models_are_counted() {
        let mut records = live(1, "m0", "1");
        records.push(died("m0", 1));
        assert_eq!(line(&records), "serving m0@1 down; journal 96 records");
        (2..9).for_each(|id| records.extend(live(id, &format!("m{id}"), "1")));
        assert!(line(&records).contains(" and 3 more; "), "{}", line(&records));
    }

    #[test]
    fn a_dead_version_is_down_also_while_a_release_is_stuck_or_brings_it_up_again() {
        let release = ReleaseId::new(2);
        let mut records = live(1, "m", "1");
        records.push(planned(2, "m", (Some("1"), "2")));
        records.push(Record::Ended { release, state: End::Stuck, causes: Vec::new() });
        records.push(died("m", 1));
        assert_eq!(line(&records), "serving m@1 down / 2 0 % stuck; journal 96 records");
        let mut records = live(1, "m", "1");
        records.extend([died("m", 1), planned(2, "m", (Some("1"), "1"))]);
        assert!(line(&records).starts_with("serving m@1 down / shifting;"), "{}", line(&records));
    }

    #[test]
    fn a_release_waits_for_its_set_and_is_promoted() {
        let (release, done) = (ReleaseId::new(2), String::new);
        let mut records = live(1, "m", "1");
        records.push(planned(2, "m", (Some("1"), "2")));
        let steps = [Step::Shift(tenth()), Step::Observe(tenth()), Step::AwaitSet, Step::Point];
        let mut said = Vec::new();
        for (at, step) in (0..).zip(steps) {
            said.push(line(&records));
            records.push(Record::Intent { release, at, step });
            records.push(Record::Done { release, at, step, detail: done() });
        }
        said.push(line(&records));
        let doing = ["shifting", "observing", "waiting for its set", "promoting", "promoting"];
        assert!(
            said.iter().zip(doing).all(|(said, doing)| said.contains(&format!("% {doing};"))),
            "{said:?}"
        );
    }

    #[test]
    fn what_is_most_urgent_is_named_whatever_its_name() {
        let mut records = Vec::new();
        (1..6).for_each(|id| records.extend(live(id, &format!("a{id}"), "1")));
        for (id, model) in [(6, "w-moving"), (7, "x-held"), (8, "y-stuck"), (9, "z-down")] {
            records.extend(live(id, model, "1"));
        }
        for (id, model) in [(16, "w-moving"), (17, "x-held"), (18, "y-stuck")] {
            records.push(planned(id, model, (Some("1"), "2")));
        }
        let (held, stuck) = (ReleaseId::new(17), ReleaseId::new(18));
        records.push(Record::Held { release: held, why: "a person".to_owned() });
        records.push(Record::Ended { release: stuck, state: End::Stuck, causes: Vec::new() });
        records.push(died("z-down", 9));
        let wanted = "serving z-down@1 down, y-stuck@1 100 % / 2 0 % stuck, x-held@1 100 % / 2 0 % held, \
                      w-moving@1 100 % / 2 0 % shifting, a1@1 100 % and 4 more; journal 96 records";
        assert_eq!(line(&records), wanted);
    }

    #[test]
    fn a_reason_cannot_begin_another_assignment() {
        let view = View { read_only: Some("journal:\nREADY=1".to_owned()), ..View::default() };
        assert_eq!(
            status_line(&view),
            "no model is live; changes are refused: journal: READY=1; journal 0 records"
        );
    }
}
