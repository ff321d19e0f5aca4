//! What a version gets of a host that it shares: devices by the host's names, CPU time, and its tenant's users, cells and
//! room in the store. What cannot be given is refused with the figures before anything happens.

use crate::door::{Door, check_problem};
use crate::stage::{Stage, V1, V2, bundle};
use serde_json::{Value, json};
use turnout_engine::record::End;
use turnout_engine::{Record, Step};
use turnout_host::cells::{Enforcement, WorkerState};
use turnout_host::devices::DevicePath;
use turnout_manifest::Plan;

const GPU: &str = "devices = { gpu0 = [\"/dev/nvidia0\", \"/dev/nvidiactl\"] }\n";
const RISK: &str = "[tenants.risk]\nmodels = [\"dig*\"]\nuid_base = 70000\n";

fn node(path: &str) -> DevicePath {
    DevicePath::new(path).unwrap()
}

fn live(lines: &str) -> Stage {
    let mut stage = Stage::fresh().configured(lines);
    stage.open();
    stage.ask(Stage::start("1", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    stage
}

fn asked(stage: &Stage, step: Step) -> String {
    let release = stage.release();
    let logged = release.log.iter().find(|logged| logged.step == step).unwrap();
    logged.outcome.clone().unwrap().unwrap()
}

#[test]
fn a_version_gets_its_devices_before_its_worker_runs_and_its_cpu_time_and_both_are_on_record() {
    let mut stage = live(GPU);
    for path in ["/dev/nvidia0", "/dev/nvidiactl"] {
        stage.host.add_device(&node(path));
    }
    stage.ask(Stage::start("limited", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(stage.host.devices(V2), [node("/dev/nvidia0"), node("/dev/nvidiactl")]);
    assert_eq!(stage.host.devices(V1), []);
    assert_eq!(stage.host.profile(V2).unwrap().cpu_thousandths, 1500);
    let of_v2 = |call: &turnout_host::fake::Call| call.object == "g2";
    let calls: Vec<_> = stage.host.trace().into_iter().filter(of_v2).map(|call| call.method).collect();
    let at = |method| calls.iter().position(|call| *call == method).unwrap();
    assert!(at("create_cell") < at("grant_devices") && at("grant_devices") < at("start_worker"), "{calls:?}");
    assert!(
        asked(&stage, Step::CreateCell(V2)).ends_with("every CPU, at most 1.5 CPUs of time, devices gpu0")
    );
    assert!(asked(&stage, Step::StartWorker(V2)).contains("cgroup cpu, devices"));
}

#[test]
fn a_device_that_goes_between_admission_and_start_ends_the_release() {
    let mut stage = live(GPU);
    stage.host.add_device(&node("/dev/nvidia0"));
    stage.ask(Stage::start("limited", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    let causes = stage.release().causes;
    assert!(causes[0].contains("`/dev/nvidiactl` is not there"), "{causes:?}");
    assert!(stage.host.trace().iter().all(|call| call.object != "g2" || call.method != "start_worker"));
}

#[test]
fn a_limit_on_cpu_time_that_nothing_holds_is_said_or_refused_where_it_is_required() {
    let mut stage = live("worker_cpu_limit = 0.5\n");
    let none = Enforcement { landlock: 7, shortfall: 16 };
    stage.host.set_enforcement(none);
    stage.ask(Stage::start("2", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    assert!(asked(&stage, Step::CreateCell(V2)).ends_with(", at most 0.5 CPUs of time"));
    let started = asked(&stage, Step::StartWorker(V2));
    assert!(started.ends_with("and none has a limit on CPU time"), "{started}");
    stage.ask(Stage::start("limited", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    assert!(stage.release().causes[0].contains("`cpu` (no cgroup v2 cpu controller is delegated)"));
}

#[test]
fn a_tenants_cells_have_its_users_and_are_no_more_than_it_may_have() {
    let mut stage = live(&format!("{RISK}cells = 1\n"));
    assert_eq!(stage.host.profile(V1).unwrap().tenant, 70_000);
    assert!(asked(&stage, Step::CreateCell(V1)).ends_with(", of tenant risk"));
    stage.ask(Stage::start("2", Plan::all_at_once())).unwrap();
    assert_eq!(stage.settle(), End::RolledBack);
    assert!(
        stage.release().causes[0].contains("the tenant's cells are taken"),
        "{:?}",
        stage.release().causes
    );
    assert_eq!(stage.known().live.unwrap().generation, V1, "what is live stays");
    // A limit on cells never keeps a dead worker from being replaced.
    stage.mourning = true;
    stage.host.end_worker(V1, WorkerState::Killed(9));
    stage.until(|_, model, _| model.live_died.then_some(()));
    assert_eq!(stage.settle(), End::Promoted);
    let again = stage.known().live.unwrap().generation;
    assert!(again > V2 && stage.host.profile(again).unwrap().tenant == 70_000, "{again}");
}

#[test]
fn an_import_beyond_a_tenants_quota_is_refused_with_the_figures_and_nothing_is_stored() {
    let door = Door::on(Stage::bare().configured(&format!("{RISK}store_bytes = 41\ncells = 1\n")));
    for version in ["1", "2", "2"] {
        assert_eq!(door.import(&bundle(version)).status, 200);
    }
    let imports = |door: &Door| door.stage.host.trace().iter().filter(|call| call.method == "import").count();
    let before = imports(&door);
    let refused = door.import(&bundle("3"));
    check_problem(&refused, 413, "limit");
    let said = refused.body.to_string();
    assert!(
        said.contains("`digits@3` has 20 bytes, and tenant `risk` has 1 of its 41 left (40 are stored)"),
        "{said}"
    );
    assert!(said.contains("model remove"), "{said}");
    assert_eq!(imports(&door), before, "the store was not asked");
    let journaled = door.journaled();
    let Some(Record::Refused { why, .. }) = journaled.last() else { panic!("{journaled:?}") };
    assert!(why[0].contains("tenant `risk`"), "{why:?}");

    assert_eq!(door.release_and_wait("1")["state"], "promoted");
    let refused = door.json("POST /v1/releases", "{\"version\":\"digits@2\"}");
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("tenant `risk` has 1 of its 1 cells in use"), "{refused:?}");
    let status = door.get("/v1/status").body;
    assert_eq!(status["models"][0]["tenant"], "risk");
    let tenant = &status["tenants"][0];
    assert_eq!((&tenant["cells"], &tenant["cells_limit"]), (&json!(1), &json!(1)));
    assert_eq!((&tenant["store_bytes"], &tenant["store_limit_bytes"]), (&json!(40), &json!(41)));
    assert_eq!((&tenant["memory_limit_bytes"], &tenant["uid_base"]), (&Value::Null, &json!(70_000)));
    let metrics = door.get("/v1/metrics").body.as_str().unwrap().to_owned();
    for sample in
        ["turnout_tenant_store_bytes{tenant=\"risk\"} 40", "turnout_tenant_cells{tenant=\"risk\"} 1"]
    {
        assert!(metrics.lines().any(|line| line == sample), "{sample} in {metrics}");
    }
}

#[test]
fn devices_that_the_host_does_not_have_are_refused_before_the_release_begins() {
    let door = Door::on(Stage::bare().configured(GPU));
    assert_eq!(door.import(&bundle("limited")).status, 200);
    let start = "{\"version\":\"digits@limited\"}";
    let refused = door.json("POST /v1/releases", start);
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("`/dev/nvidia0` is not there"), "{refused:?}");
    for path in ["/dev/nvidia0", "/dev/nvidiactl"] {
        door.stage.host.add_device(&node(path));
    }
    assert_eq!(door.release_and_wait("limited")["state"], "promoted");

    let unknown = Door::on(Stage::bare());
    assert_eq!(unknown.import(&bundle("limited")).status, 200);
    let refused = unknown.json("POST /v1/releases", start);
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("which this host does not know (it has none)"), "{refused:?}");
}
