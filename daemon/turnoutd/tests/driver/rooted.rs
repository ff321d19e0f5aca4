//! A daemon under a signed trust root, through its door: how a root comes in force and stays so over restarts, what it
//! lets in, and what an order, an exception and a lost file change.

use crate::door::{Door, check_problem};
use crate::stage::{bundle, model};
use serde_json::{Value, json};
use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use turnout_engine::{Record, TrustRecord};
use turnout_manifest::canonical::to_canonical;
use turnout_manifest::envelope::{Envelope, MANIFEST_TYPE};
use turnout_manifest::exception::{EXCEPTION_SCHEMA, EXCEPTION_TYPE, TrustException};
use turnout_manifest::key::{KeyId, PrivateKey};
use turnout_manifest::manifest::FileEntry;
use turnout_manifest::order::{ORDER_SCHEMA, ORDER_TYPE, OrderTarget, ReleaseOrder};
use turnout_manifest::quorum::Quorum;
use turnout_manifest::root::{
    Denied, ExceptionPolicy, Issuer, Member, OrderPolicy, ROOT_SCHEMA, ROOT_TYPE, RootKey, TrustRoot,
};
use turnout_manifest::{Channel, Description, Manifest, Plan, Sha256};
use turnoutd::now_ms;

const DAY: u64 = 86_400_000;
/// Two of the root, two of the issuer, one for orders, one for exceptions.
static KEYS: LazyLock<Vec<PrivateKey>> =
    LazyLock::new(|| (0..6).map(|_| PrivateKey::generate().unwrap()).collect());
const BY_ROOT: [usize; 2] = [0, 1];
const BY_ISSUER: [usize; 2] = [2, 3];
const BY_ORDERS: usize = 4;
const BY_EXCEPTIONS: usize = 5;

fn id(key: usize) -> KeyId {
    KEYS[key].public_key().id()
}

fn root(version: u64, expires_ms: u64) -> TrustRoot {
    let key = |key: usize| RootKey::active(format!("owner-{key}"), KEYS[key].public_key());
    let members = BY_ISSUER.map(|key| Member { key_id: id(key), roles: Vec::new() });
    TrustRoot {
        schema: ROOT_SCHEMA.to_owned(),
        version,
        created_ms: now_ms() - DAY,
        expires_ms,
        keys: (0..6).map(key).collect(),
        root: Quorum { keys: BY_ROOT.map(id).to_vec(), threshold: 2 },
        issuers: vec![Issuer {
            name: "risk-models".to_owned(),
            keys: members.to_vec(),
            threshold: 2,
            models: vec!["*".parse().unwrap()],
            channels: vec![Channel::default()],
            require: Vec::new(),
        }],
        orders: None,
        exceptions: Some(ExceptionPolicy {
            signers: Quorum { keys: vec![id(BY_EXCEPTIONS)], threshold: 1 },
            channels: vec![Channel::default()],
        }),
        deny: Vec::new(),
    }
}

fn later() -> u64 {
    now_ms() + 365 * DAY
}

fn sealed(payload_type: &str, payload: Vec<u8>, keys: &[usize]) -> Vec<u8> {
    let mut envelope = Envelope::unsigned(payload_type, payload).unwrap();
    for key in keys {
        envelope.add_signature(&KEYS[*key]).unwrap();
    }
    envelope.to_json().unwrap()
}

fn applying(bytes: Vec<u8>) -> String {
    json!({ "envelope": String::from_utf8(bytes).unwrap() }).to_string()
}

fn apply(door: &Door, root: &TrustRoot, keys: &[usize]) -> crate::door::Reply {
    door.json("POST /v1/trust/root", &applying(sealed(ROOT_TYPE, root.to_json().unwrap(), keys)))
}

const CONTENT: &[u8] = b"weights";

fn manifest(version: &str) -> Manifest {
    let file =
        FileEntry { path: "model.onnx".into(), size: CONTENT.len() as u64, sha256: Sha256::of(CONTENT) };
    let description = Description::template(model(), version.parse().unwrap(), "model.onnx".to_owned());
    description.into_manifest(vec![file]).unwrap()
}

fn digest(version: &str) -> Sha256 {
    Sha256::of(&manifest(version).to_canonical().unwrap())
}

fn signed_bundle(version: &str, keys: &[usize]) -> Vec<u8> {
    let envelope = sealed(MANIFEST_TYPE, manifest(version).to_canonical().unwrap(), keys);
    let length = u32::try_from(envelope.len()).unwrap().to_be_bytes();
    [&length[..], &envelope, CONTENT].concat()
}

fn in_force(door: &Door) -> Value {
    door.get("/v1/trust/root").body["root"]["document"]["version"].clone()
}

fn accepted(door: &Door) -> usize {
    let is_root = |record: &Record| matches!(record, Record::Trust(TrustRecord::RootAccepted { .. }));
    door.journaled().iter().filter(|record| is_root(record)).count()
}

fn start(door: &Door, version: &str, order: Option<Vec<u8>>) -> crate::door::Reply {
    let mut request = json!({ "version": format!("digits@{version}"), "plan": Plan::all_at_once() });
    if let Some(order) = order {
        request["order"] = json!(String::from_utf8(order).unwrap());
    }
    door.json("POST /v1/releases", &request.to_string())
}

/// The same machine with another daemon, once it has read its journal.
fn begun_again(door: Door) -> Door {
    let door = door.reopened(&[]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while door.get("/v1/status").body["journal"]["size"] == 0 {
        assert!(Instant::now() < deadline, "the daemon does not begin");
        std::thread::yield_now();
    }
    door
}

fn ended(door: &Door) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while door.get("/v1/status").body["models"][0]["release"]["state"] == "running" {
        assert!(Instant::now() < deadline, "the release does not end");
        std::thread::yield_now();
    }
}

#[test]
fn a_root_takes_the_place_of_single_keys_and_stays_over_a_restart() {
    let door = Door::open();
    assert_eq!(door.get("/v1/trust").body["keys"].as_array().unwrap().len(), 1);
    assert_eq!(in_force(&door), Value::Null);
    // Who is not root, one signature of two, and a second version first change nothing.
    let good = applying(sealed(ROOT_TYPE, root(1, later()).to_json().unwrap(), &BY_ROOT));
    check_problem(&door.json_as_nobody("POST", "/v1/trust/root", &good), 403, "denied");
    check_problem(&apply(&door, &root(1, later()), &[0]), 422, "refused");
    check_problem(&apply(&door, &root(2, later()), &BY_ROOT), 422, "refused");
    check_problem(&apply(&door, &root(1, now_ms() - 1), &BY_ROOT), 422, "refused");
    assert_eq!((accepted(&door), in_force(&door)), (0, Value::Null));

    let applied = door.json("POST /v1/trust/root", &good);
    assert_eq!((applied.status, &applied.body["already_there"]), (200, &json!(false)), "{applied:?}");
    let again = door.json("POST /v1/trust/root", &good);
    assert_eq!((again.status, &again.body["already_there"]), (200, &json!(true)), "{again:?}");
    assert_eq!((accepted(&door), in_force(&door)), (1, json!(1)));

    // Single keys neither count nor can be changed.
    assert_eq!(door.get("/v1/trust").body["keys"], json!([]));
    let key = KEYS[2].public_key().to_pem();
    let request = json!({ "issuer": "other", "public_key": key, "models": ["*"] }).to_string();
    let refused = door.json("POST /v1/trust", &request);
    check_problem(&refused, 409, "conflict");
    assert!(refused.body["hint"].as_str().unwrap().contains("--draft"), "{refused:?}");
    check_problem(&door.import(&bundle("1")), 422, "refused");
    check_problem(&door.import(&signed_bundle("a", &[2])), 422, "refused");
    assert_eq!(door.import(&signed_bundle("a", &BY_ISSUER)).status, 200);

    let door = begun_again(door);
    assert_eq!(in_force(&door), json!(1));
    check_problem(&door.import(&bundle("1")), 422, "refused");
    assert_eq!(apply(&door, &root(2, later()), &BY_ROOT).status, 200);
    check_problem(&apply(&door, &root(4, later()), &BY_ROOT), 422, "refused");
    let history = door.get("/v1/trust/root/history").body;
    assert_eq!(history["roots"].as_array().unwrap().len(), 2);
    let door = begun_again(door);
    assert_eq!((accepted(&door), in_force(&door)), (2, json!(2)));
}

/// What the status says of trust, which the metrics say too.
fn concerns(door: &Door) -> Value {
    let status = door.get("/v1/status").body;
    assert!(!status["degraded"].to_string().contains("trust"), "{status}");
    let told = door.get("/v1/metrics").body.to_string().contains("requirement=\\\"trust\\\"");
    assert_eq!(told, status["concerns"] != json!([]), "{status}");
    status["concerns"].clone()
}

#[test]
fn a_root_that_expires_soon_is_told_when_it_does_and_no_longer_than_that() {
    let door = Door::open();
    assert_eq!(apply(&door, &root(1, now_ms() + 30 * DAY + 2000), &BY_ROOT).status, 200);
    assert_eq!(concerns(&door), json!([]));
    let deadline = Instant::now() + Duration::from_secs(10);
    while door.get("/v1/status").body["concerns"] == json!([]) {
        assert!(Instant::now() < deadline, "nothing is told");
        std::thread::yield_now();
    }
    let told = concerns(&door);
    assert!(told[0].as_str().unwrap().starts_with("trust: trust root 1 "), "{told}");
    assert_eq!(apply(&door, &root(2, later()), &BY_ROOT).status, 200);
    assert_eq!(concerns(&door), json!([]));
}

#[test]
fn what_a_killed_daemon_had_begun_is_ended_by_the_next() {
    let door = Door::open();
    assert_eq!(apply(&door, &root(1, later()), &BY_ROOT).status, 200);
    assert_eq!(apply(&door, &root(2, later()), &BY_ROOT).status, 200);
    let folder = door.stage.folder.path().join("trust-root");
    let (second, staged) = (folder.join("00000002.dsse.json"), folder.join("00000002.dsse.json.new"));
    // Killed after the record, before the file was put in place.
    fs::rename(&second, &staged).unwrap();
    let door = begun_again(door);
    assert_eq!(in_force(&door), json!(2));
    assert!(second.exists() && !staged.exists());
    // Killed before the record: another one may come in its place.
    let third = folder.join("00000003.dsse.json.new");
    fs::write(&third, sealed(ROOT_TYPE, root(3, later()).to_json().unwrap(), &BY_ROOT)).unwrap();
    let door = begun_again(door);
    assert_eq!(in_force(&door), json!(2));
    assert!(!third.exists());
    drop(door);
}

#[test]
fn a_root_that_is_lost_or_exchanged_stops_new_work_until_it_is_put_back() {
    let door = Door::open();
    assert_eq!(apply(&door, &root(1, later()), &BY_ROOT).status, 200);
    let second = root(2, later());
    assert_eq!(apply(&door, &second, &BY_ROOT).status, 200);
    assert_eq!(door.import(&signed_bundle("a", &BY_ISSUER)).status, 200);
    assert_eq!(door.release_and_wait("a")["state"], "promoted");
    let file = door.stage.folder.path().join("trust-root/00000002.dsse.json");
    let whole = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    let door = begun_again(door);
    let state = door.get("/v1/trust/root").body;
    assert!(state["lost"].as_str().unwrap().contains("trust root 2 was accepted"), "{state}");
    let refused = door.import(&signed_bundle("b", &BY_ISSUER));
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("trust root 2"), "{refused:?}");
    check_problem(
        &door.json("POST /v1/trust", &json!({"issuer": "x", "public_key": "", "models": ["*"]}).to_string()),
        409,
        "conflict",
    );
    // Another root 2, however well signed, is not the one that was accepted.
    let other =
        TrustRoot { deny: vec![Denied { manifest: Sha256::of(b"x"), reason: "other".to_owned() }], ..second };
    check_problem(&apply(&door, &other, &BY_ROOT), 422, "refused");
    let put_back = door.json("POST /v1/trust/root", &applying(whole.clone()));
    assert_eq!(put_back.status, 200, "{put_back:?}");
    assert_eq!(
        (accepted(&door), in_force(&door)),
        (2, json!(2)),
        "no new record for what was accepted before"
    );
    assert_eq!(door.import(&signed_bundle("b", &BY_ISSUER)).status, 200);
    fs::write(&file, sealed(ROOT_TYPE, other.to_json().unwrap(), &BY_ROOT)).unwrap();
    let door = begun_again(door);
    let state = door.get("/v1/trust/root").body;
    assert!(state["lost"].as_str().unwrap().contains("another one"), "{state}");
}

#[test]
fn an_expired_root_keeps_new_versions_out_and_the_way_back_open() {
    let door = Door::open();
    assert_eq!(apply(&door, &root(1, later()), &BY_ROOT).status, 200);
    for version in ["a", "b"] {
        assert_eq!(door.import(&signed_bundle(version, &BY_ISSUER)).status, 200);
        assert_eq!(door.release_and_wait(version)["state"], "promoted");
    }
    let expires_ms = now_ms() + 5000;
    let applied = apply(&door, &root(2, expires_ms), &BY_ROOT);
    assert_eq!(applied.status, 200, "{applied:?}");
    while now_ms() <= expires_ms {
        std::thread::sleep(Duration::from_millis(20));
    }
    let refused = door.import(&signed_bundle("c", &BY_ISSUER));
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("expired"), "{refused:?}");
    check_problem(&start(&door, "a", None), 422, "refused");
    assert_eq!(door.json("POST /v1/models/digits/rollback", "{}").status, 200);
    ended(&door);
    let status = door.get("/v1/status").body;
    assert_eq!(status["models"][0]["versions"][0]["version"], "a", "{status}");
    // The next root, signed by the expired one's keys, opens the door again.
    assert_eq!(apply(&door, &root(3, later()), &BY_ROOT).status, 200);
    assert_eq!(door.import(&signed_bundle("c", &BY_ISSUER)).status, 200);
}

#[test]
fn a_denied_version_is_told_when_the_root_comes_in_force_and_is_not_released() {
    let door = Door::open();
    assert_eq!(apply(&door, &root(1, later()), &BY_ROOT).status, 200);
    assert_eq!(door.import(&signed_bundle("a", &BY_ISSUER)).status, 200);
    let mut denies = root(2, later());
    denies.deny = vec![Denied { manifest: digest("a"), reason: "trained on the wrong data".to_owned() }];
    let applied = apply(&door, &denies, &BY_ROOT);
    assert!(applied.body["shut_out"][0].as_str().unwrap().starts_with("digits@a: deny-list:"), "{applied:?}");
    let refused = start(&door, "a", None);
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("wrong data"), "{refused:?}");
}

fn order(door: &Door, version: &str, (epoch, counter): (u64, u64)) -> ReleaseOrder {
    let host = door.get("/v1/trust/root").body["host"].as_str().unwrap().parse().unwrap();
    ReleaseOrder {
        schema: ORDER_SCHEMA.to_owned(),
        target: OrderTarget::Host(host),
        channel: Channel::default(),
        epoch,
        counter,
        created_ms: now_ms(),
        expires_ms: now_ms() + DAY,
        model: model(),
        manifest: digest(version),
    }
}

fn signed_order(order: &ReleaseOrder) -> Vec<u8> {
    sealed(ORDER_TYPE, to_canonical(order).unwrap(), &[BY_ORDERS])
}

#[test]
fn where_orders_are_demanded_nothing_is_released_without_a_fresh_one_and_rollback_needs_none() {
    let door = Door::open();
    let mut demands = root(1, later());
    demands.orders = Some(OrderPolicy {
        signers: Quorum { keys: vec![id(BY_ORDERS)], threshold: 1 },
        epoch: 1,
        floors: Default::default(),
        required: vec![Channel::default()],
    });
    assert_eq!(apply(&door, &demands, &BY_ROOT).status, 200);
    for version in ["a", "b", "c"] {
        assert_eq!(door.import(&signed_bundle(version, &BY_ISSUER)).status, 200);
    }
    let without = start(&door, "a", None);
    check_problem(&without, 422, "refused");
    assert!(without.body["hint"].as_str().unwrap().contains("--order"), "{without:?}");
    let elsewhere =
        ReleaseOrder { target: OrderTarget::Host("elsewhere".parse().unwrap()), ..order(&door, "a", (1, 5)) };
    check_problem(&start(&door, "a", Some(signed_order(&elsewhere))), 422, "refused");
    assert_eq!(door.get("/v1/trust/root").body["orders"], json!([]), "a refused order is not used up");

    let first = signed_order(&order(&door, "a", (1, 5)));
    assert_eq!(start(&door, "a", Some(first)).status, 201);
    ended(&door);
    let second = signed_order(&order(&door, "b", (1, 6)));
    assert_eq!(start(&door, "b", Some(second.clone())).status, 201);
    ended(&door);
    assert_eq!(door.get("/v1/trust/root").body["orders"][0]["counter"], 6);
    assert_eq!(door.json("POST /v1/models/digits/rollback", "{}").status, 200, "the way back needs no order");
    ended(&door);
    let older = signed_order(&order(&door, "c", (1, 5)));
    let refused = start(&door, "c", Some(older.clone()));
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("counter"), "{refused:?}");
    let door = begun_again(door);
    check_problem(&start(&door, "c", Some(older)), 422, "refused");
    let same = signed_order(&order(&door, "c", (1, 6)));
    check_problem(&start(&door, "c", Some(same)), 422, "refused");
    assert_eq!(start(&door, "b", Some(second)).status, 201, "the very same order may be tried again");
    ended(&door);
    let used = door
        .journaled()
        .into_iter()
        .filter(|record| matches!(record, Record::Trust(TrustRecord::OrderUsed { .. })));
    assert_eq!(used.count(), 3);
}

#[test]
fn an_order_without_a_root_is_refused() {
    let door = Door::open();
    assert_eq!(door.import(&bundle("1")).status, 200);
    let refused = start(&door, "1", Some(signed_order(&order(&door, "1", (1, 1)))));
    check_problem(&refused, 422, "refused");
    assert!(refused.body.to_string().contains("no signed trust root"), "{refused:?}");
}

#[test]
fn an_exception_lets_one_untrusted_version_in_until_it_expires() {
    let door = Door::open();
    let exception = |expires_ms: u64, keys: &[usize]| {
        let exception = TrustException {
            schema: EXCEPTION_SCHEMA.to_owned(),
            manifest: digest("a"),
            model: model(),
            channel: Channel::default(),
            reason: "the approver is away".to_owned(),
            created_ms: now_ms() - 1000,
            expires_ms,
        };
        applying(sealed(EXCEPTION_TYPE, to_canonical(&exception).unwrap(), keys))
    };
    let good = exception(now_ms() + DAY, &[BY_EXCEPTIONS]);
    check_problem(&door.json("POST /v1/trust/exceptions", &good), 409, "conflict");
    assert_eq!(apply(&door, &root(1, later()), &BY_ROOT).status, 200);
    check_problem(&door.import(&signed_bundle("a", &[2])), 422, "refused");
    check_problem(&door.json_as_nobody("POST", "/v1/trust/exceptions", &good), 403, "denied");
    check_problem(&door.json("POST /v1/trust/exceptions", &exception(now_ms() + DAY, &[2])), 422, "refused");
    check_problem(
        &door.json("POST /v1/trust/exceptions", &exception(now_ms(), &[BY_EXCEPTIONS])),
        422,
        "refused",
    );
    let applied = door.json("POST /v1/trust/exceptions", &good);
    assert_eq!(applied.status, 200, "{applied:?}");
    let again = door.json("POST /v1/trust/exceptions", &good);
    assert_eq!(again.body["already_there"], json!(true), "{again:?}");
    check_problem(&door.import(&signed_bundle("b", &[2])), 422, "refused");
    let door = begun_again(door);
    let imported = door.import(&signed_bundle("a", &[2]));
    assert_eq!(imported.status, 200, "{imported:?}");
    assert!(imported.body["checks"].as_array().unwrap().iter().any(|check| check["name"] == "exception"));
    assert_eq!(door.release_and_wait("a")["state"], "promoted");
}
