//! Releases of several models as one set: whatever fails in whatever order, also when the power takes the end of a batch
//! of records, all are promoted or none is, and what the set shows is never a mix.

#![expect(clippy::unwrap_used, reason = "the steps of a test fail by panicking")]

#[path = "../machine/mod.rs"]
mod machine;
mod run;

use machine::Fate;
use proptest::prelude::*;
use run::{Incident, MODELS, PLAIN, Run, Turn, model, plan, set_of, start, versions, window, wish_for};
use std::collections::BTreeSet;
use turnout_engine::advance::{Start, Wish};
use turnout_engine::record::{Cause, End};
use turnout_engine::set::{MEMBERS_MAX, SETS_MAX};
use turnout_engine::{Event, Kind, Progress, Record, Refusal, Step, decide};
use turnout_manifest::plan::Strategy as Splitting;
use turnout_manifest::{Percent, Plan};

/// The release of a set, then the whole script, then the invariants of its end.
fn check(strategy: &Splitting, script: &[Turn]) -> Vec<Option<End>> {
    let mut run = Run::live();
    run.start_set(strategy);
    run.finish(script);
    assert_eq!(run.replay(), run.world);
    let ends = run.ends();
    if ends.contains(&Some(End::Promoted)) {
        assert_eq!(ends, [Some(End::Promoted); 3], "all or none");
        let all = versions([Some("2"); 3]);
        assert_eq!((&run.shown, &run.pointers), (&all, &all));
        assert_eq!(run.world.sets.values().next().unwrap(), &MODELS.map(model));
    } else {
        assert!(run.world.sets.is_empty());
        let stuck = ends.contains(&Some(End::Stuck));
        let home = versions([Some("1"), Some("1"), None]);
        assert!(stuck || (run.shown.is_empty() && run.pointers == home), "{:?}", run.pointers);
    }
    for name in MODELS {
        let Some(live) = run.world.models.get(&model(name)).and_then(|model| model.live.clone()) else {
            continue;
        };
        if run.release(name).progress != Progress::Ended(End::Stuck) {
            assert_eq!(run.machine(name).route[0], (live.generation, Percent::ALL), "{name}");
        }
    }
    ends
}

fn turn() -> impl Strategy<Value = Turn> {
    let fate =
        prop_oneof![30 => Just(Fate::Works), 1 => Just(Fate::FailsClean), 1 => Just(Fate::FailsHalfDone)];
    let wish = prop_oneof![
        Just(Wish::Rollback),
        Just(Wish::Cancel),
        Just(Wish::Promote),
        Just(Wish::Pause),
        Just(Wish::Resume)
    ];
    let incident = prop_oneof![
        40 => Just(Incident::Nothing),
        1 => Just(Incident::CandidateDies),
        1 => Just(Incident::StableDies),
        2 => Just(Incident::DaemonRestarts),
        4 => (0_usize..4).prop_map(Incident::PowerCut),
        2 => wish.prop_map(Incident::Operator),
        1 => Just(Incident::MissesWhileWaiting),
    ];
    (0..MODELS.len(), fate, incident, prop::bool::weighted(0.95))
        .prop_map(|(model, fate, incident, good)| Turn { model, fate, incident, good })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_releases_of_a_set_are_promoted_or_none(script in prop::collection::vec(turn(), 0..80)) {
        check(&Splitting::Weight, &script);
        check(&Splitting::InPlace, &script);
    }
}

#[test]
fn a_failure_or_an_incident_at_each_turn_ends_all_alike() {
    let mut seen = BTreeSet::new();
    let incidents = [
        Incident::CandidateDies,
        Incident::StableDies,
        Incident::PowerCut(0),
        Incident::PowerCut(1),
        Incident::PowerCut(2),
        Incident::Operator(Wish::Rollback),
        Incident::Operator(Wish::Cancel),
        Incident::MissesWhileWaiting,
    ];
    for at in 0..60 {
        for model in 0..MODELS.len() {
            let failures = [Fate::FailsClean, Fate::FailsHalfDone].map(|fate| Turn { model, fate, ..PLAIN });
            let turns = incidents.map(|incident| Turn { model, incident, ..PLAIN });
            for turn in failures.into_iter().chain(turns).chain([Turn { model, good: false, ..PLAIN }]) {
                let mut script: Vec<Turn> = (0..=at).map(|at| Turn { model: at % 3, ..PLAIN }).collect();
                script[at] = turn;
                for strategy in [Splitting::Weight, Splitting::InPlace] {
                    seen.extend(check(&strategy, &script).into_iter().map(|end| format!("{end:?}")));
                }
            }
        }
    }
    for end in ["Some(Cancelled)", "Some(Promoted)", "Some(RolledBack)"] {
        assert!(seen.contains(end), "{end} is not among {seen:?}");
    }
}

#[test]
fn releases_wait_for_each_other_and_are_promoted_in_one_batch() {
    let mut run = Run::live();
    run.start_set(&Splitting::Weight);
    let cards = run.release("cards").clone();
    // Only the first release is answered: it comes as far as it can alone.
    for _ in 0..60 {
        run.go_on(PLAIN);
        let open = run.under_way("cards").filter(|r| r.open && r.step() != Some(Step::AwaitSet)).cloned();
        let Some(release) = open else { break };
        run.answer(&release, PLAIN);
    }
    assert_eq!(run.release("cards").step(), Some(Step::AwaitSet));
    assert_eq!(run.world.waits_for(&cards), [model("fraud"), model("limits")]);
    assert_eq!(run.pointers, versions([Some("1"), Some("1"), None]), "nothing is shown of it yet");
    run.finish(&[]);
    assert_eq!(run.ends(), [Some(End::Promoted); 3]);
    let promoted: Vec<usize> = (0..run.journal.len())
        .filter(|at| matches!(run.journal[*at], Record::Promoted { release } if release.ordinal() > 2))
        .collect();
    assert_eq!(promoted.len(), 3);
    assert_eq!(promoted[2] - promoted[0], 2, "one batch: {promoted:?}");
}

#[test]
fn one_record_of_a_promotion_on_disk_is_the_promotion_of_all() {
    let mut run = Run::live();
    run.start_set(&Splitting::Weight);
    run.finish(&[]);
    let first = run.journal.iter().rposition(|record| matches!(record, Record::Promoted { .. })).unwrap() - 2;
    run.journal.truncate(first + 1);
    run.comes_back();
    run.never_mixed();
    for name in MODELS {
        let live = run.world.models[&model(name)].live.clone().unwrap();
        assert_eq!(live.version.as_str(), "2", "{name}");
    }
    run.finish(&[]);
    assert_eq!(run.ends(), [Some(End::Promoted); 3]);
}

#[test]
fn one_that_misses_takes_the_others_home_and_is_named() {
    let mut run = Run::live();
    run.start_set(&Splitting::Weight);
    let script = [Turn { good: false, model: 1, ..PLAIN }; 80];
    run.finish(&script);
    assert_eq!(run.ends(), [Some(End::RolledBack); 3]);
    assert!(matches!(run.release("fraud").cause, Some(Cause::Breach { .. })));
    for name in ["cards", "limits"] {
        let cause = run.release(name).cause.clone().unwrap();
        assert!(matches!(&cause, Cause::Member { model, .. } if model.as_str() == "fraud"), "{cause:?}");
        assert!(cause.to_string().starts_with("`fraud`, of the same set: error rate"), "{cause}");
    }
}

#[test]
fn what_is_asked_of_one_release_is_asked_of_all() {
    let mut run = Run::live();
    run.start_set(&Splitting::Weight);
    run.go_on(PLAIN);
    run.tell(&wish_for("limits", Wish::Pause));
    assert!(MODELS.iter().all(|name| run.release(name).held.is_some()));
    run.tell(&wish_for("cards", Wish::Resume));
    assert!(MODELS.iter().all(|name| run.release(name).held.is_none()));
    run.tell(&wish_for("fraud", Wish::Cancel));
    run.finish(&[]);
    assert_eq!(run.ends(), [Some(End::Cancelled); 3]);
}

#[test]
fn a_release_that_waits_is_still_watched() {
    let mut run = Run::live();
    run.start_set(&Splitting::Weight);
    let mut waits = false;
    for _ in 0..60 {
        run.go_on(PLAIN);
        let open = run.under_way("cards").filter(|release| release.open).cloned().unwrap();
        if open.step() == Some(Step::AwaitSet) {
            waits = true;
            break;
        }
        run.answer(&open, PLAIN);
    }
    assert!(waits);
    let release = run.release("cards").planned.release;
    for good in [true, false] {
        run.tell(&Event::Measured { release, window: Box::new(window(good)) });
    }
    run.finish(&[]);
    assert_eq!(run.ends(), [Some(End::RolledBack); 3], "one missed window is enough for this plan");
    let windows = run.release("cards").windows.len();
    assert!(windows >= 3, "{windows} windows were kept");
}

#[test]
fn wishes_that_cannot_be_are_refused_and_change_nothing() {
    let weight = || plan(Splitting::Weight);
    let run = Run::live();
    let two = || vec![start("cards", "2", weight()), start("fraud", "2", weight())];
    let many: Vec<Start> = (0..=MEMBERS_MAX).map(|at| start(&format!("m{at}"), "1", weight())).collect();
    let live = vec![start("cards", "1", weight()), start("fraud", "1", weight())];
    let mut twice = two();
    twice[1].model = model("cards");
    for (starts, expected) in [
        (twice, "Twice(ModelName(\"cards\"))".to_owned()),
        (two()[..1].to_vec(), "Members(1)".to_owned()),
        (many, format!("Members({})", MEMBERS_MAX + 1)),
        (live, "AllLive(SetName(\"s\"))".to_owned()),
    ] {
        let refusal = decide(&run.world, &set_of("s", starts)).unwrap_err();
        assert_eq!(format!("{refusal:?}"), expected);
    }
    let mut busy = Run::live();
    busy.tell(&Event::Start(Box::new(start("fraud", "3", weight()))));
    let refusal = decide(&busy.world, &set_of("s", two())).unwrap_err();
    assert_eq!(refusal.to_string(), "`fraud`: release r-3 is under way on this model");
    let mut releasing = Run::live();
    releasing.tell(&set_of("s", two()));
    let other = vec![start("a", "1", weight()), start("b", "1", weight())];
    assert!(matches!(decide(&releasing.world, &set_of("s", other.clone())), Err(Refusal::SetBusy(..))));
    let alone = Event::Start(Box::new(start("fraud", "3", weight())));
    assert!(matches!(decide(&releasing.world, &alone), Err(Refusal::Busy(_))));
    let mut full = Run::live();
    full.world.sets = (0..SETS_MAX).map(|at| (format!("s{at}").parse().unwrap(), Vec::new())).collect();
    assert_eq!(decide(&full.world, &set_of("s", other)), Err(Refusal::Sets(SETS_MAX)));
}

#[test]
fn a_model_is_not_released_while_its_set_is_still_undone() {
    let mut run = Run::live();
    run.start_set(&Splitting::Weight);
    run.go_on(PLAIN);
    run.tell(&wish_for("cards", Wish::Rollback));
    // All but the first release are undone; that one would still point all of them home.
    for _ in 0..60 {
        run.go_on(PLAIN);
        let open = ["fraud", "limits"].iter().find_map(|name| run.under_way(name)).cloned();
        let Some(release) = open else { break };
        run.answer(&release, PLAIN);
    }
    assert!(run.under_way("cards").is_some() && run.under_way("fraud").is_none());
    let alone = Event::Start(Box::new(start("fraud", "3", plan(Splitting::Weight))));
    assert!(matches!(decide(&run.world, &alone), Err(Refusal::SetBusy(..))));
    run.finish(&[]);
    assert!(decide(&run.world, &alone).is_ok());
}

#[test]
fn a_model_that_is_live_with_its_version_is_shown_with_the_others() {
    let mut run = Run::live();
    let starts =
        vec![start("cards", "2", plan(Splitting::Weight)), start("fraud", "1", plan(Splitting::Weight))];
    run.tell(&set_of("payments", starts));
    assert!(run.under_way("fraud").is_none());
    run.finish(&[]);
    assert_eq!(run.shown, versions([Some("2"), Some("1"), None]));
    // Released alone later, it is shown by the set too.
    run.tell(&Event::Start(Box::new(start("fraud", "2", plan(Splitting::Weight)))));
    run.finish(&[]);
    assert_eq!(run.shown, versions([Some("2"), Some("2"), None]));
}

#[test]
fn a_set_goes_back_as_a_set_and_shows_the_same_models() {
    let mut run = Run::live();
    run.start_set(&Splitting::Weight);
    run.finish(&[]);
    let back = MODELS[..2].iter().map(|name| {
        let start = start(name, "1", Plan::all_at_once());
        Start { kind: Kind::Return, ..start }
    });
    run.tell(&set_of("payments", back.collect()));
    run.finish(&[]);
    assert_eq!(run.shown, versions([Some("1"), Some("1"), Some("2")]), "what had no version before stays");
    assert_eq!(run.world.sets.values().next().unwrap(), &MODELS.map(model));
}

#[test]
fn releases_of_journals_that_knew_no_sets_are_read() {
    let run = Run::live();
    let planned = run.journal.iter().find(|record| matches!(record, Record::Planned(_))).unwrap();
    let written = serde_json::to_value(planned).unwrap();
    assert!(written.get("set").is_none(), "and a release of its own is written as they wrote it");
    assert_eq!(serde_json::from_value::<Record>(written).unwrap(), *planned);
}
