//! Which public port a model is served on, and that it follows the configuration.

use crate::door::Door;
use crate::sets::over;
use crate::shelf::SHELF;
use crate::stage::{PORT, Stage, V1, V2, bundle, model, plan};
use serde_json::json;
use turnout_engine::Event;
use turnout_engine::advance::Start;
use turnout_engine::record::End;
use turnout_host::traffic::Traffic;
use turnout_manifest::{Generation, ModelName, Percent, Plan};

const OTHER_PORT: u16 = 9000;
const MOVED: &str = "[models.digits]\nport = 9000\n";

/// What the port leads to.
fn arms(stage: &Stage, port: u16) -> Vec<(Generation, Percent)> {
    stage.host.route_of(port).map(|route| route.arms).unwrap_or_default()
}

/// The same machine and journal with another daemon, which is configured so.
fn again(mut stage: Stage, lines: &str) -> Stage {
    stage.close();
    // What is served elsewhere is for each test to say.
    stage.mourning = true;
    let mut stage = stage.configured(lines);
    stage.open();
    stage
}

#[test]
fn a_live_model_moves_to_the_port_that_the_configuration_names_and_the_old_one_is_let_go() {
    let mut stage = again(Stage::live(), MOVED);
    assert_eq!(arms(&stage, OTHER_PORT), [(V1, Percent::ALL)]);
    assert_eq!((arms(&stage, PORT), stage.known().port), (Vec::new(), OTHER_PORT));
    stage.host.occupy(([127, 0, 0, 1], PORT).into());
    // Nothing is left to do for the next daemon; releases and the way back have the new port.
    let records = stage.records();
    stage = again(stage, MOVED);
    assert_eq!(stage.records(), records + 1, "that a daemon was started");
    let start = Start { port: OTHER_PORT, ..Stage::start_of(&model(), "2", Plan::all_at_once()) };
    stage.ask(Event::Start(Box::new(start))).unwrap();
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!((arms(&stage, OTHER_PORT), arms(&stage, PORT)), (vec![(V2, Percent::ALL)], Vec::new()));
}

#[test]
fn a_model_that_is_released_moves_when_that_is_over() {
    let mut stage = Stage::live();
    stage.ask(Stage::start("2", plan())).unwrap();
    stage.until(|_, _, release| (release?.asked != Percent::NONE).then_some(()));
    let mut stage = again(stage, MOVED);
    assert_eq!((arms(&stage, OTHER_PORT), stage.known().port), (Vec::new(), PORT));
    assert_eq!(stage.settle(), End::Promoted);
    assert_eq!(arms(&stage, PORT), [(V2, Percent::ALL)]);
    stage.running().driver.look();
    assert_eq!((arms(&stage, OTHER_PORT), arms(&stage, PORT)), (vec![(V2, Percent::ALL)], Vec::new()));
}

#[test]
fn a_model_stays_where_it_is_while_the_port_is_somebody_elses() {
    let stage = Stage::live();
    stage.host.occupy(([127, 0, 0, 1], OTHER_PORT).into());
    let stage = again(stage, MOVED);
    assert_eq!((arms(&stage, PORT), stage.known().port), (vec![(V1, Percent::ALL)], PORT));
}

#[test]
fn a_route_of_nobodys_port_is_taken_away_and_one_that_is_lost_comes_back() {
    let mut stage = Stage::live();
    let route = stage.host.route_of(PORT).unwrap();
    stage.close();
    let addresses = |port: u16| [([127, 0, 0, 1], port).into()];
    stage.host.admit(V1, OTHER_PORT).unwrap();
    stage.host.clear_route(&addresses(PORT)).unwrap();
    stage.host.set_route(&addresses(OTHER_PORT), &route).unwrap();
    let stage = again(stage, "");
    assert_eq!((arms(&stage, PORT), arms(&stage, OTHER_PORT)), (vec![(V1, Percent::ALL)], Vec::new()));
}

#[test]
fn two_models_never_share_a_port() {
    let cancer: ModelName = "cancer".parse().unwrap();
    let stage = Stage::bare().configured("ports = \"8700-8701\"\n[models.cancer]\nport = 8700\n");
    let door = Door::on(stage);
    assert_eq!(door.import(&bundle("1")).status, 200);
    let begun = door.json("POST /v1/releases", r#"{"version":"digits@1"}"#);
    assert_eq!(begun.status, 201, "{begun:?}");
    assert_eq!(
        over(&door)["models"][0]["endpoints"],
        json!(["127.0.0.1:8701"]),
        "the other is kept for cancer"
    );

    let mut live = Stage::live();
    live.close();
    let door = Door::on(live.configured("[models.cancer]\nport = 8700\n"));
    assert_eq!(door.import(&SHELF.bundle(&cancer, "1")).status, 200);
    let refused = door.json("POST /v1/releases", r#"{"version":"cancer@1"}"#);
    assert_eq!((refused.status, &refused.body["code"]), (422, &json!("refused")), "{refused:?}");
    assert_eq!(refused.body["message"], "port 8700 cannot be given to `cancer`: it is `digits`'s");
}
