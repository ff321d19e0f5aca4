//! Holds the router's link against its frozen samples: a router outlives the daemon that started it, so both must read
//! what another build wrote.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use turnout_protocol::frame::FRAME_MAX;
use turnout_protocol::router::{FromRouter, PortRoute, ToRouter};

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/router/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn check<Message: Serialize + DeserializeOwned>(name: &str) {
    let sample = golden(name);
    let read: Message = serde_json::from_value(sample.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), sample, "{name} does not survive the type");
    for key in sample.as_object().unwrap().keys() {
        let mut without = sample.clone();
        without.as_object_mut().unwrap().remove(key);
        assert!(serde_json::from_value::<Message>(without).is_err(), "{name} without `{key}`");
    }
    let mut unknown = sample;
    unknown["say"] = json!("sing");
    assert!(serde_json::from_value::<Message>(unknown).is_err(), "{name}: the list is closed");
}

#[test]
fn every_message_has_its_frozen_form() {
    check::<ToRouter>("routes");
    for name in ["hello", "in-force", "refused", "stats"] {
        check::<FromRouter>(name);
    }
}

#[test]
fn what_a_split_does_not_know_is_refused() {
    let mut sample = golden("routes");
    sample["routes"][0]["split"]["mirror"] = json!(true);
    assert!(serde_json::from_value::<ToRouter>(sample).is_err());
}

#[test]
fn the_largest_route_fits_a_frame() {
    let ToRouter::Routes { routes, .. } = serde_json::from_value(golden("routes")).unwrap();
    let longest = format!("method == \"{}\"", "\u{7f}".repeat(1000));
    let mut route = serde_json::to_value(&routes[0]).unwrap();
    route["split"]["strategy"] = json!({"expression": {"expression": longest}});
    let route: PortRoute = serde_json::from_value(route).unwrap();
    let message = ToRouter::Routes { revision: u64::MAX, routes: vec![route] };
    assert!(serde_json::to_vec(&message).unwrap().len() < FRAME_MAX);
}
