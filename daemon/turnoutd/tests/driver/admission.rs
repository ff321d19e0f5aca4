//! What an operator may wish in which state, as a table; and that a refused wish leaves no record.

use crate::stage::{GOOD, Load, Stage, V2, plan};
use crate::workers::Answer;
use turnout_engine::advance::Wish::{self, Cancel, Pause, Promote, Resume, Rollback};
use turnout_engine::record::End;
use turnout_engine::{Progress, Refusal};
use turnout_host::fake::{Fault, When};
use turnout_manifest::{Percent, Plan};
use turnoutd::driver::Denial;

/// The states a model can be in when somebody wishes something.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Version 1 serves, nothing is under way.
    Idle,
    /// The new worker loads.
    Loading,
    /// Windows are watched and do not speak yet.
    Watching,
    /// As before, and held.
    Held,
    /// An undo step is under way.
    Undoing,
    /// The old version is being retired.
    Tidying,
    /// An undo failed.
    Stuck,
}

impl State {
    fn stage(self) -> Stage {
        let mut stage = Stage::live();
        stage.loads.insert(V2, Load { requests: 1, ..GOOD });
        match self {
            Self::Idle => return stage,
            Self::Loading => stage.workers.answer(Answer::Silent),
            _ => {}
        }
        let tidying = matches!(self, Self::Tidying);
        let plan = if tidying { Plan::all_at_once() } else { plan() };
        if tidying {
            stage.freeze();
        }
        stage.ask(Stage::start("2", plan)).unwrap();
        match self {
            Self::Idle => {}
            Self::Loading => {
                stage.until(|_, _, release| (release?.cursor == 4 && release?.open).then_some(()))
            }
            Self::Watching => watched(&mut stage),
            Self::Held => {
                watched(&mut stage);
                stage.ask(Stage::wish(Pause)).unwrap();
            }
            Self::Undoing => {
                watched(&mut stage);
                stage.freeze();
                stage.ask(Stage::wish(Rollback)).unwrap();
                assert_eq!(stage.release().progress, Progress::Backward);
            }
            Self::Tidying => stage.step_until_tidying(),
            Self::Stuck => {
                watched(&mut stage);
                stage.host.fail(When::Every("dismiss"), Fault::Refused);
                stage.ask(Stage::wish(Rollback)).unwrap();
                assert_eq!(stage.settle(), End::Stuck);
            }
        }
        stage
    }
}

fn watched(stage: &mut Stage) {
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
}

impl Stage {
    /// One step at a time until the new version is live and the first step of the retirement is under way.
    fn step_until_tidying(&mut self) {
        while self.release().progress == Progress::Forward {
            self.thaw();
            self.freeze();
            self.turn();
        }
        assert_eq!(self.release().progress, Progress::Tidying);
    }
}

/// What is answered: nothing more to do, or records are written, or a refusal.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    Nothing,
    Records,
    Refused(&'static str),
}

fn answered(stage: &mut Stage, wish: Wish) -> Answered {
    let before = stage.records();
    let release = stage.release();
    // Windows go on being written meanwhile; everything else is the wish's own.
    let own = |stage: &mut Stage| {
        let windows = (stage.release().windows.len() - release.windows.len()) as u64;
        stage.records() - before - windows
    };
    match stage.ask(Stage::wish(wish)) {
        Ok(()) if own(stage) == 0 => Answered::Nothing,
        Ok(()) => Answered::Records,
        Err(Denial::Refusal(refusal)) => {
            assert_eq!(own(stage), 0, "a refused wish writes nothing");
            assert_eq!(stage.release().progress, release.progress);
            Answered::Refused(name(&refusal))
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn name(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Busy(_) => "busy",
        Refusal::Stuck(_) => "stuck",
        Refusal::AlreadyLive(_) => "already live",
        Refusal::Nothing(_) => "nothing",
        Refusal::TooLate(_) => "too late",
        Refusal::NotWaiting(_) => "not waiting",
        Refusal::Deleted(_) => "deleted",
        Refusal::Order(_) => "order",
        Refusal::Archive(_) => "kept",
        Refusal::SetBusy(..)
        | Refusal::Twice(_)
        | Refusal::Members(_)
        | Refusal::Sets(_)
        | Refusal::AllLive(_)
        | Refusal::OfMember(..) => "set",
    }
}

#[test]
fn each_wish_in_each_state() {
    use Answered::{Nothing, Records, Refused};
    let none = || Refused("nothing");
    let late = || Refused("too late");
    let stuck = || Refused("stuck");
    let table = [
        (State::Idle, [none(), none(), none(), none(), none()]),
        (State::Loading, [Records, Records, Refused("not waiting"), Records, Nothing]),
        (State::Watching, [Records, Records, Records, Records, Nothing]),
        (State::Held, [Records, Records, Records, Nothing, Records]),
        (State::Undoing, [Nothing, Nothing, late(), late(), late()]),
        (State::Tidying, [late(), late(), late(), late(), late()]),
        (State::Stuck, [Records, Records, stuck(), stuck(), stuck()]),
    ];
    for (state, row) in table {
        for (wish, expected) in [Rollback, Cancel, Promote, Pause, Resume].into_iter().zip(row) {
            assert_eq!(answered(&mut state.stage(), wish), expected, "{wish:?} while {state:?}");
        }
    }
}

#[test]
fn a_start_in_each_state() {
    for (state, version, expected) in [
        (State::Idle, "1", Some("already live")),
        (State::Idle, "2", None),
        (State::Loading, "3", Some("busy")),
        (State::Watching, "3", Some("busy")),
        (State::Held, "3", Some("busy")),
        (State::Undoing, "3", Some("busy")),
        (State::Tidying, "3", Some("busy")),
        (State::Stuck, "3", Some("stuck")),
    ] {
        let mut stage = state.stage();
        let last = stage.known().last;
        let found = match stage.ask(Stage::start(version, plan())) {
            Err(Denial::Refusal(refusal)) => Some(name(&refusal)),
            Err(other) => panic!("{other:?}"),
            Ok(()) => None,
        };
        assert_eq!(found, expected, "{version} while {state:?}");
        assert_eq!(stage.known().last == last, expected.is_some(), "{version} while {state:?}");
    }
}

#[test]
fn a_second_rollback_changes_nothing_and_both_are_done_when_it_ends() {
    let mut stage = State::Undoing.stage();
    for _ in 0..3 {
        assert_eq!(answered(&mut stage, Rollback), Answered::Nothing);
    }
    stage.thaw();
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(stage.release().causes, ["rolled back by root (pid 1): a test"]);
}

#[test]
fn a_paused_release_goes_on_where_it_was() {
    let mut stage = State::Held.stage();
    let arms = stage.arms();
    stage.loads.clear();
    for _ in 0..10 {
        stage.turn();
    }
    assert_eq!(stage.arms(), arms, "good windows move nothing while it is held");
    stage.ask(Stage::wish(Resume)).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
}

#[test]
fn a_cancelled_release_is_undone_and_says_so() {
    let mut stage = State::Watching.stage();
    stage.ask(Stage::wish(Cancel)).unwrap();
    assert_eq!(stage.settle(), End::Cancelled);
    assert_eq!(stage.release().causes, ["cancelled by root (pid 1): a test"]);
}

#[test]
fn a_promotion_by_hand_waits_for_no_window() {
    let mut stage = State::Watching.stage();
    stage.ask(Stage::wish(Promote)).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(stage.known().live.unwrap().generation, V2);
}
