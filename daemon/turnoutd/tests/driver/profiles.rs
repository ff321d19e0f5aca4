//! What versions ask of their cells: what the host cannot hold is refused instead of weakened, CPUs are given whole and
//! once, and both the asking and the holding are on record.

use crate::stage::{Stage, V1, V2, model};
use std::time::Duration;
use turnout_engine::Step;
use turnout_engine::record::End;
use turnout_host::cells::{Class, Enforcement};
use turnout_host::topology;
use turnout_manifest::{Generation, Plan};

/// As a host whose controllers are all v1.
const BARE: Enforcement = Enforcement { landlock: 2, shortfall: 1 | 2 | 4 | 8 | 16 };

/// The CPUs of this machine, for which the real topology is read.
fn cpus() -> usize {
    topology::read(std::path::Path::new("/sys/devices/system")).unwrap().siblings.len()
}

fn detail(stage: &Stage, step: Step) -> String {
    let release = stage.release();
    let logged = release.log.iter().find(|logged| logged.step == step).unwrap();
    logged.outcome.clone().unwrap().unwrap()
}

#[test]
fn a_version_that_requires_what_the_host_lacks_is_refused_and_nothing_is_started() {
    let mut stage = Stage::live();
    stage.host.set_enforcement(BARE);
    stage.ask(Stage::start("demanding", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    assert_eq!(
        stage.release().causes,
        [
            "create cell g2 failed: the version requires what this host cannot enforce: `landlock>=4` (the kernel has \
          ABI 2), `memory` (no cgroup v2 memory controller is delegated)"
        ]
    );
    assert!(stage.host.trace().iter().all(|call| call.object != "g2" || call.method != "start_worker"));
    assert_eq!(stage.host.worker(V2), None);
}

#[test]
fn a_version_whose_demands_are_met_goes_live_and_status_says_what_holds_it() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("demanding", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(detail(&stage, Step::CreateCell(V2)), "burstable, memory 512 MiB, 256 processes, every CPU");
    let started = detail(&stage, Step::StartWorker(V2));
    assert!(
        started
            .starts_with("pid 1002; files compared at its start; enforced: seccomp, cgroup, Landlock ABI 7"),
        "{started}"
    );
    let view = stage.running().views.borrow().clone();
    let daemon = turnoutd::view::Daemon {
        started_ms: 0,
        condition: turnoutd::condition::Condition::default(),
        torn: None,
        readers: Vec::new(),
        config: stage.config.clone(),
    };
    let status = view.status(&daemon, None);
    let cell = status.models[0].versions[0].cell.clone().unwrap();
    assert!(cell.asked.starts_with("burstable"), "{cell:?}");
    assert!(cell.enforced.unwrap().starts_with("files compared at its start; enforced: seccomp"));
}

#[test]
fn the_journal_says_what_could_not_be_enforced() {
    let mut stage = Stage::live();
    stage.host.set_enforcement(BARE);
    stage.ask(Stage::start("2", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    let started = detail(&stage, Step::StartWorker(V2));
    assert!(started.contains("not enforced: no cgroup memory controller"), "{started}");
}

#[test]
fn a_guaranteed_version_without_cpus_set_aside_is_refused() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("guaranteed", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    let causes = stage.release().causes;
    assert!(causes[0].contains("needs CPUs of its own, and none is set aside"), "{causes:?}");
}

#[test]
fn a_guaranteed_version_gets_its_core_and_a_second_one_is_refused_while_it_serves() {
    if cpus() < 2 {
        return;
    }
    let last = cpus() - 1;
    let mut stage = Stage::fresh().configured(&format!("exclusive_cpus = [{last}]\n"));
    stage.open();
    stage.ask(Stage::start("1", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    let shared = stage.host.profile(V1).unwrap();
    assert_eq!(
        (shared.class, shared.cpus >> last & 1),
        (Class::Burstable, 0),
        "it keeps off what is set aside"
    );
    stage.ask(Stage::start("guaranteed", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    let own = stage.host.profile(V2).unwrap();
    assert_eq!((own.class, own.cpus), (Class::Guaranteed, 1 << last));
    // Its worker dies: the one that replaces it gets the same core, though the dead one's cell is still there.
    stage.mourning = true;
    stage.host.end_worker(V2, turnout_host::cells::WorkerState::Killed(9));
    stage.until(|_, model, _| model.live_died.then_some(()));
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(stage.host.profile(Generation(3)).unwrap().cpus, 1 << last);
    assert_eq!(stage.known().live.unwrap().generation, Generation(3), "{}", model());
}

#[test]
fn a_new_version_comes_up_behind_the_others_until_it_is_admitted_and_one_that_serves_again_does_not() {
    let mut stage = Stage::fresh();
    stage.open();
    stage.ask(Stage::start("1", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    let first: Vec<_> = stage.host.trace().into_iter().filter(|call| call.object == "g1").collect();
    let order: Vec<_> = first
        .iter()
        .map(|call| call.method)
        .filter(|method| ["start_worker", "background", "admit"].contains(method))
        .collect();
    assert_eq!(order[..4], ["start_worker", "background", "background", "admit"]);
    assert_eq!(stage.host.behind(V1), [Duration::from_millis(500), Duration::ZERO]);
    stage.mourning = true;
    stage.host.end_worker(V1, turnout_host::cells::WorkerState::Killed(9));
    stage.until(|_, model, _| model.live_died.then_some(()));
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(stage.known().live.unwrap().generation, V2);
    assert_eq!(stage.host.behind(V2), []);
}
