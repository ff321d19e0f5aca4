//! What the worker of the live version may say while another version is loaded beside its own and takes over: every lie
//! ends that release at most, with the reason, and what is live stays whole.

use crate::liars::{Told, play, ready, say};
use crate::stage::{GOOD, Load, Stage, V1, V2, in_place, model, plan, stored};
use std::sync::Arc;
use turnout_engine::Release;
use turnout_engine::record::End;
use turnout_manifest::{Generation, Percent, Sha256};
use turnout_protocol::frame::FRAME_MAX;
use turnout_protocol::worker::{FromWorker, ToWorker};

type Answers = fn(&ToWorker) -> Vec<FromWorker>;

fn version(label: &str) -> Sha256 {
    stored(label).digest
}

fn loaded(digest: Sha256) -> FromWorker {
    FromWorker::Loaded { digest, load_ms: 1 }
}

fn load_failed(digest: Sha256, reason: &str) -> FromWorker {
    FromWorker::LoadFailed { digest, reason: reason.to_owned() }
}

fn switched(digest: Sha256) -> FromWorker {
    FromWorker::Switched { digest }
}

fn switch_failed(digest: Sha256, reason: &str) -> FromWorker {
    FromWorker::SwitchFailed { digest, reason: reason.to_owned() }
}

/// The words of a worker that does as it is told.
fn honest(order: &ToWorker) -> Vec<FromWorker> {
    match order {
        ToWorker::Load(assignment) => vec![loaded(assignment.digest)],
        ToWorker::Switch { digest } => vec![switched(*digest)],
        _ => Vec::new(),
    }
}

/// At the order to load it says this, and is honest else.
fn at_load(order: &ToWorker, words: impl FnOnce(Sha256) -> Vec<FromWorker>) -> Vec<FromWorker> {
    match order {
        ToWorker::Load(assignment) => words(assignment.digest),
        _ => honest(order),
    }
}

/// At the order to change over to version 2 it says this, and is honest else.
fn at_switch(order: &ToWorker, words: impl FnOnce(Sha256) -> Vec<FromWorker>) -> Vec<FromWorker> {
    match order {
        ToWorker::Switch { digest } if *digest == version("2") => words(*digest),
        _ => honest(order),
    }
}

/// One worker has all the traffic of this version, whose files are mounted in its cell and shown to readers.
fn live(stage: &Stage, generation: Generation, label: &str) {
    let live = stage.known().live.unwrap();
    assert_eq!((live.generation, live.digest), (generation, version(label)));
    assert_eq!(stage.arms(), [(generation, Percent::ALL)]);
    assert_eq!(stage.host.mounted(generation), Some(stored(label)));
    assert_eq!(stage.host.current(&model()), Some(stored(label)));
}

#[test]
fn a_lie_about_loading_or_changing_over_ends_the_release_with_the_reason() {
    let silent = "worker was not ready within 1 s";
    let cases: [(&str, Answers, &str); 8] = [
        ("another is loaded", |order| at_load(order, |_| vec![loaded(version("3"))]), silent),
        ("another failed", |order| at_load(order, |_| vec![load_failed(version("3"), "no")]), silent),
        ("ready", |order| at_load(order, |_| vec![FromWorker::Ready { load_ms: 1 }]), silent),
        (
            "failed as a whole",
            |order| at_load(order, |_| vec![FromWorker::Failed { reason: "no memory".into() }]),
            "no memory",
        ),
        (
            "failed and loaded",
            |order| at_load(order, |asked| vec![load_failed(asked, "no weights\n\u{7}"), loaded(asked)]),
            "no weights  ",
        ),
        (
            "changed over before it is told",
            |order| match order {
                ToWorker::Load(to) => vec![switched(to.digest), loaded(to.digest)],
                _ => at_switch(order, |asked| vec![switch_failed(asked, "it is not loaded")]),
            },
            "it is not loaded",
        ),
        (
            "changed over to another",
            |order| {
                at_switch(order, |asked| vec![switched(version("3")), switch_failed(asked, "a run hangs")])
            },
            "a run hangs",
        ),
        (
            "changed over to what it had",
            |order| at_switch(order, |asked| vec![switched(version("1")), switch_failed(asked, "no")]),
            "no",
        ),
    ];
    for (what, answers, why) in cases {
        let mut stage = Stage::linked_to(answers);
        stage.ask(Stage::start("2", in_place())).unwrap();
        assert_eq!(stage.settle(), End::RolledBack, "{what}");
        let causes = stage.release().causes;
        assert!(causes[0].ends_with(why) && causes.len() == 1, "{what}: {causes:?}");
        live(&stage, V1, "1");
    }
}

#[test]
fn words_about_a_version_that_nobody_asked_for_change_nothing() {
    let answers: Answers = |order| match order {
        ToWorker::Load(to) => {
            vec![load_failed(version("3"), "no"), switch_failed(version("3"), "no"), loaded(to.digest)]
        }
        ToWorker::Switch { digest } => {
            vec![loaded(version("3")), switch_failed(version("1"), "no"), switched(*digest)]
        }
        _ => Vec::new(),
    };
    let mut stage = Stage::linked_to(answers);
    stage.ask(Stage::start("2", in_place())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    live(&stage, V1, "2");
}

#[test]
fn words_of_a_release_in_place_change_nothing_in_another_one() {
    let mut stage = Stage::linked();
    let liar = |link: &_| {
        for digest in ["1", "2", "3"].map(version) {
            for word in
                [loaded(digest), load_failed(digest, "no"), switched(digest), switch_failed(digest, "no")]
            {
                say(link, &word);
            }
        }
        ready(link);
    };
    let _liar = play(&stage, liar, Told::Leaves);
    stage.ask(Stage::start("2", plan())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    live(&stage, V2, "2");
}

#[test]
fn a_reason_not_to_change_over_is_kept_as_long_as_a_person_reads() {
    let long: Answers =
        |order| at_switch(order, |asked| vec![switch_failed(asked, &"x".repeat(FRAME_MAX - 300))]);
    let mut stage = Stage::linked_to(long);
    stage.ask(Stage::start("2", in_place())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    let causes = stage.release().causes;
    assert!(causes[0].len() < 1100, "{} bytes went into the journal", causes[0].len());
}

#[test]
fn a_worker_that_says_it_cannot_change_back_is_replaced() {
    let stays: Answers = |order| match order {
        ToWorker::Switch { digest } if *digest == version("1") => vec![switch_failed(*digest, "never")],
        _ => honest(order),
    };
    let mut stage = Stage::linked_to(stays);
    stage.loads.insert(V1, Load { errors: 10, ..GOOD });
    // The old version's new start is not admitted at once; until then the lost worker answers.
    stage.mourning = true;
    let _next = play(&stage, ready, Told::Leaves);
    stage.ask(Stage::start("2", in_place())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    live(&stage, V2, "1");
    let said = |release: &Arc<Release>| {
        release
            .log
            .iter()
            .any(|logged| logged.outcome.as_ref().is_some_and(|outcome| outcome == &Err("never".into())))
    };
    assert!(stage.running().driver.world().releases.values().any(said), "its word is not on record");
}
