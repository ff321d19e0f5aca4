//! The one line that `systemctl status` shows: what is served by which version, what is under way, how far the journal
//! is. Sending it is for `telemetry`.

use crate::view::View;
use turnout_engine::{Model, Progress, Release, Step};
use turnout_manifest::Percent;

/// Models that are named; the others are counted.
const NAMED: usize = 5;

/// The line, without a newline.
pub fn status_line(view: &View) -> String {
    let models = &view.world.models;
    let told: Vec<String> = models
        .iter()
        .filter_map(|(name, model)| Some(format!("{name}{}", said(model, view.world.current(name))?)))
        .collect();
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

/// What follows a model's name; nothing is said of one that is neither live nor being released.
fn said(model: &Model, release: Option<&Release>) -> Option<String> {
    let live = model.live.as_ref().map(|live| &live.version);
    match (live, release.filter(|release| !matches!(release.progress, Progress::Tidying))) {
        (None, None) => None,
        (Some(live), None) if model.live_died => Some(format!("@{live} down")),
        (Some(live), None) => Some(format!("@{live} {}", Percent::ALL)),
        (live, Some(release)) => {
            let new = &release.planned.to.version;
            let doing = doing(release);
            Some(match live {
                Some(live) if live == new => format!("@{live} {doing}"),
                Some(live) => format!("@{live} {} / {new} {} {doing}", release.asked.rest(), release.asked),
                None => format!("@{new} {} {doing}", release.asked),
            })
        }
    }
}

fn doing(release: &Release) -> &'static str {
    match (release.progress, release.step()) {
        (Progress::Ended(_), _) => "stuck",
        (Progress::Backward, _) => "rolling back",
        (Progress::Tidying, _) => "done",
        (Progress::Forward, _) if release.held.is_some() => "held",
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
            steps: vec![Step::Shift(tenth()), Step::Observe(tenth())],
            commit: 2,
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
        let died = |model: &str, generation| Record::WorkerDied {
            model: model.parse().unwrap(),
            generation: Generation(generation),
            why: "killed".to_owned(),
        };
        let mut records = live(1, "m0", "1");
        records.push(died("m0", 1));
        assert_eq!(line(&records), "serving m0@1 down; journal 96 records");
        (2..9).for_each(|id| records.extend(live(id, &format!("m{id}"), "1")));
        assert!(line(&records).contains(" and 3 more; "), "{}", line(&records));
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
