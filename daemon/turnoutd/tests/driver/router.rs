//! The second implementation of `RouterLink`: no process, no link. The router runs when the fake host says so, and keeps
//! what it was told as a real one does, also without a daemon.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use turnout_engine::Event;
use turnout_host::fake::FakeHost;
use turnout_manifest::Generation;
use turnout_protocol::router::{PortRoute, Split, Stats};
use turnoutd::driver::Input;
use turnoutd::router_link::RouterLink;

#[derive(Default)]
struct Known {
    linked: bool,
    deaf: bool,
    routes: BTreeMap<u16, Split>,
    told: Vec<Split>,
    events: Option<Sender<Input>>,
}

/// A router without a process.
pub struct FakeRouter {
    host: Arc<FakeHost>,
    known: Mutex<Known>,
}

impl FakeRouter {
    pub fn new(host: Arc<FakeHost>) -> Self {
        Self { host, known: Mutex::default() }
    }

    /// A new daemon: it is not linked yet.
    pub fn attach(&self, events: Sender<Input>) {
        let mut known = self.known();
        known.linked = false;
        known.events = Some(events);
    }

    /// Tells of a router that has ended since, as its pidfd would.
    pub fn notice(&self) {
        let mut known = self.known();
        if known.linked && !self.host.router() {
            known.linked = false;
            known.routes.clear();
            let event = Event::RouterDied { why: "its process ended".to_owned() };
            let _ = known.events.as_ref().unwrap().send(Input::Event(event));
        }
    }

    /// From now on it answers nothing.
    pub fn deafen(&self) {
        self.known().deaf = true;
    }

    /// Everything that it was told, in order.
    pub fn told(&self) -> Vec<Split> {
        self.known().told.clone()
    }

    /// The version that it takes requests to beside the old one.
    pub fn candidate(&self, port: u16) -> Option<Generation> {
        match self.known().routes.get(&port) {
            Some(Split::Between { candidate, .. }) => Some(candidate.generation),
            _ => None,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }
}

impl RouterLink for FakeRouter {
    fn supervise(&self) -> Result<(), String> {
        if !self.host.router() {
            return Err("the router does not run".to_owned());
        }
        self.known().linked = true;
        Ok(())
    }

    fn is_linked(&self) -> bool {
        self.known().linked
    }

    fn tell(&self, routes: &[PortRoute]) -> Result<(), String> {
        let mut known = self.known();
        if !known.linked || !self.host.router() {
            return Err("the router died".to_owned());
        }
        if known.deaf {
            return Err("the router did not answer within 2 s".to_owned());
        }
        for route in routes {
            known.routes.insert(route.port, route.split.clone());
            known.told.push(route.split.clone());
        }
        Ok(())
    }

    fn stats(&self) -> Option<Stats> {
        self.is_linked().then(Stats::default)
    }
}

mod tests {
    use super::*;
    use crate::stage::{GOOD, Load, PORT, Stage, V1, V2, plan};
    use turnout_engine::record::End;
    use turnout_engine::{Progress, Step};
    use turnout_host::fake::{Fault, When};
    use turnout_host::traffic::{Route, Spread};
    use turnout_manifest::plan::Strategy;
    use turnout_manifest::{Percent, Plan};

    fn by_user() -> Plan {
        Plan { strategy: Strategy::UserHash { header: "x-user-id".parse().unwrap() }, ..plan() }
    }

    fn half() -> Percent {
        Percent::from_thousandths(50_000).unwrap()
    }

    /// Version 1 is live, half of the users meet version 2.
    fn split() -> Stage {
        let mut stage = Stage::live();
        stage.ask(Stage::start("2", Plan { window_ms: 60_000, ..by_user() })).unwrap();
        stage.until(|_, _, release| (release?.asked == half()).then_some(()));
        stage
    }

    fn of_kernel(stage: &Stage) -> (Spread, Vec<(Generation, Percent)>) {
        let Route { spread, arms, .. } = stage.host.route_of(PORT).unwrap();
        (spread, arms)
    }

    /// What the router was told last, in short.
    fn last_told(stage: &Stage) -> String {
        match stage.router.told().last() {
            Some(Split::Between { share, candidate, stable, .. }) => {
                format!("{share} to {}, the rest to {}", candidate.generation, stable.generation)
            }
            Some(Split::Home { to }) => format!("all to {}", to.generation),
            None => "nothing".to_owned(),
        }
    }

    #[test]
    fn requests_go_through_the_router_only_while_they_are_split() {
        let mut stage = Stage::live();
        stage.ask(Stage::start("2", by_user())).unwrap();
        stage.until(|_, _, release| (release?.asked == half()).then_some(()));
        assert_eq!(of_kernel(&stage), (Spread::Router, vec![(V1, Percent::ALL)]));
        assert_eq!(last_told(&stage), "50 % to g2, the rest to g1");
        assert!(stage.workers.life(V1).is_some(), "clients of the old version come to the router");
        assert_eq!(stage.workers.life(V2), None, "only the router is connected to the new one");
        assert_eq!(stage.settle(), End::Promoted);
        assert_eq!(of_kernel(&stage), (Spread::Weight, vec![(V2, Percent::ALL)]));
        assert_eq!(last_told(&stage), "all to g2");
        assert!(stage.host.router(), "it stays, idle");
        let release = stage.release();
        let steps = &release.planned.steps;
        let router = steps.iter().position(|step| *step == Step::StartRouter).unwrap();
        assert_eq!(steps[router + 1], Step::Shift(half()));
        let asked: Vec<_> = release.windows.iter().map(|judged| judged.window.asked).collect();
        assert!(asked.contains(&half()), "the kernel's account judged it");
    }

    #[test]
    fn a_plan_without_a_split_needs_no_router() {
        let mut stage = Stage::live();
        stage.ask(Stage::start("2", Plan { steps: vec![Percent::ALL], ..by_user() })).unwrap();
        assert_eq!(stage.settle(), End::Promoted);
        assert!(!stage.host.router() && stage.router.told().is_empty());
    }

    #[test]
    fn a_bad_version_leaves_the_kernels_route_first_and_then_the_router() {
        let mut stage = Stage::live();
        stage.loads.insert(V2, Load { errors: 10, ..GOOD });
        stage.ask(Stage::start("2", by_user())).unwrap();
        assert_eq!(stage.settle(), End::RolledBack);
        assert_eq!(of_kernel(&stage), (Spread::Weight, vec![(V1, Percent::ALL)]));
        assert_eq!(last_told(&stage), "all to g1");
        assert!(stage.release().causes[0].starts_with("error rate"));
    }

    #[test]
    fn a_router_that_dies_ends_the_release_and_all_traffic_is_home() {
        let mut stage = split();
        stage.host.end_router();
        assert_eq!(stage.settle(), End::RolledBack);
        assert_eq!(stage.release().causes, ["the router died: its process ended"]);
        assert_eq!(of_kernel(&stage), (Spread::Weight, vec![(V1, Percent::ALL)]));
        // The next release starts another.
        stage.ask(Stage::start("2", by_user())).unwrap();
        assert_eq!(stage.settle(), End::Promoted);
    }

    #[test]
    fn a_router_that_dies_outside_of_a_split_changes_nothing() {
        let mut stage = split();
        stage.ask(Stage::wish(turnout_engine::advance::Wish::Promote)).unwrap();
        assert_eq!(stage.settle(), End::Promoted);
        let records = stage.records();
        stage.host.end_router();
        for _ in 0..5 {
            stage.turn();
        }
        assert_eq!((stage.records(), of_kernel(&stage).1), (records, vec![(V2, Percent::ALL)]));
    }

    #[test]
    fn a_new_daemon_finds_the_router_with_its_last_routes() {
        let mut stage = split();
        stage.close();
        stage.open();
        assert!(stage.router.is_linked());
        assert_eq!(stage.release().progress, Progress::Forward);
        assert_eq!(of_kernel(&stage), (Spread::Router, vec![(V1, Percent::ALL)]));
        assert_eq!(stage.router.told().len(), 1, "there was nothing to tell");
        stage.ask(Stage::wish(turnout_engine::advance::Wish::Promote)).unwrap();
        assert_eq!(stage.settle(), End::Promoted);
        assert_eq!(last_told(&stage), "all to g2");
    }

    #[test]
    fn a_router_that_died_without_a_daemon_is_missed_by_the_next_one() {
        let mut stage = split();
        stage.close();
        stage.host.end_router();
        stage.open();
        assert_eq!(stage.settle(), End::RolledBack);
        assert_eq!(stage.release().causes, ["the router died: the router does not run"]);
    }

    #[test]
    fn a_router_that_cannot_be_told_is_ended_and_the_way_home_does_not_fail() {
        let mut stage = split();
        stage.router.deafen();
        stage.ask(Stage::wish(turnout_engine::advance::Wish::Rollback)).unwrap();
        assert_eq!(stage.settle(), End::RolledBack);
        assert!(!stage.host.router());
        assert_eq!(of_kernel(&stage), (Spread::Weight, vec![(V1, Percent::ALL)]));
    }

    #[test]
    fn a_router_that_fails_at_any_call_leaves_everything_at_home() {
        for method in ["start_router", "admit_router", "endpoint"] {
            for fault in [Fault::Refused, Fault::HalfDone] {
                let mut stage = Stage::live();
                stage.host.fail(When::Nth(method, 0), fault);
                stage.ask(Stage::start("2", by_user())).unwrap();
                assert_eq!(stage.settle(), End::RolledBack, "{method} {fault:?}");
                assert_eq!(of_kernel(&stage), (Spread::Weight, vec![(V1, Percent::ALL)]), "{method}");
            }
        }
    }

    #[test]
    fn a_release_by_request_ends_whatever_record_the_daemon_is_killed_at() {
        for kill_after in 0..40 {
            let mut stage = Stage::live();
            stage.ask(Stage::start("2", by_user())).unwrap();
            let before = stage.records();
            stage.freeze();
            for _ in 0..kill_after {
                stage.thaw();
                stage.turn();
                stage.freeze();
                if stage.records() >= before + kill_after {
                    break;
                }
            }
            stage.close();
            stage.thaw();
            stage.open();
            let end = stage.settle();
            assert_eq!(end, End::Promoted, "killed after {kill_after}: {:?}", stage.release().causes);
            assert_eq!(of_kernel(&stage), (Spread::Weight, vec![(V2, Percent::ALL)]));
        }
    }
}
