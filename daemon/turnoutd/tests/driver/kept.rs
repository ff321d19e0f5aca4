//! Snapshots and versions through the door: who may do what with them, what keeps them, and that each deletion is in the
//! journal before it happens.

use crate::door::{Door, Reply, check_problem};
use crate::stage::{bundle, stored};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use turnout_engine::{ArchiveRecord, Record};
use turnout_host::archive::{Archive, MountPlace};
use turnout_host::fake::{Fault, When};
use turnout_manifest::Sha256;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::key::PublicKey;
use turnoutd::driver::Input;

impl Door {
    /// A daemon with these versions in its store, the first one live.
    pub fn with(versions: &[&str]) -> Self {
        let door = Self::open();
        for version in versions {
            assert_eq!(door.import(&bundle(version)).status, 200);
        }
        assert_eq!(door.release_and_wait(versions[0])["state"], "promoted");
        door
    }

    fn snapshots(&self, query: &str) -> Vec<Value> {
        let reply = self.get(&format!("/v1/audit/snapshots{query}"));
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body["snapshots"].as_array().unwrap().clone()
    }

    fn kept(&self) -> Vec<ArchiveRecord> {
        let records = self.journaled().into_iter();
        records
            .filter_map(|record| if let Record::Archive(record) = record { Some(record) } else { None })
            .collect()
    }

    /// Exports in the journal: of which snapshot, and the digest of the list, where it was that. Each says who asked.
    fn exported(&self) -> Vec<(String, Option<Sha256>)> {
        let exported = self.kept().into_iter().filter_map(|record| {
            let ArchiveRecord::SnapshotExported { snapshot, by, list } = record else { return None };
            assert!(by.starts_with("root (pid "), "{by}");
            Some((snapshot, list))
        });
        exported.collect()
    }

    fn take(&self, note: &str) -> String {
        let made = self.json("POST /v1/audit/snapshots", &json!({ "note": note }).to_string());
        assert_eq!(made.status, 201, "{made:?}");
        made.body["name"].as_str().unwrap().to_owned()
    }
}

fn notes(snapshots: &[Value]) -> Vec<&str> {
    snapshots.iter().map(|snapshot| snapshot["note"].as_str().unwrap()).collect()
}

#[test]
fn the_index_tells_why_each_snapshot_was_made_and_what_it_shows() {
    let door = Door::with(&["1", "2"]);
    door.release_and_wait("2");
    let asked = door.take("case 17");
    let all = door.snapshots("");
    let expected = [
        "import of digits@1",
        "import of digits@2",
        "before r-1",
        "after r-1",
        "before r-2",
        "after r-2",
        "case 17",
    ];
    assert_eq!(notes(&all), expected);
    let last = all.last().unwrap();
    assert_eq!((last["name"].as_str(), last["reason"].as_str()), (Some(asked.as_str()), Some("request")));
    assert_eq!(
        last["versions"],
        json!([{
            "model": "digits", "version": "2", "digest": stored("2").digest.to_string(), "live": true,
        }])
    );
    let (size, root) = (last["journal_size"].as_u64().unwrap(), last["journal_root"].as_str().unwrap());
    assert!(size < door.journaled().len() as u64 && root.len() == 64);

    // r-2 tells how the live version became live, r-1 the same of the last good one.
    assert_eq!(all[5]["kept_by"], json!(["`digits@2` is live"]));
    assert_eq!(all[3]["kept_by"], json!(["a rollback returns to `digits@1`"]));
    let of_first = door.snapshots("?model=digits&version=1");
    assert_eq!(notes(&of_first), ["import of digits@1", "before r-1", "after r-1", "before r-2"]);
    assert_eq!(door.snapshots("?model=fraud"), [] as [Value; 0]);
    assert_eq!(door.snapshots(&format!("?since_ms={}", last["created_ms"])).len(), 1);
    check_problem(&door.get("/v1/audit/snapshots?modell=x"), 400, "bad-request");
}

#[test]
fn only_root_mounts_holds_exports_and_deletes() {
    let door = Door::with(&["1"]);
    let name = door.take("");
    let snapshot = format!("/v1/audit/snapshots/{name}");
    let mount = json!({ "dir": "/mnt", "for_ms": 60000 }).to_string();
    for (method, path, body) in [
        ("POST", format!("{snapshot}/mount"), mount.as_str()),
        ("POST", "/v1/audit/unmount".to_owned(), "{\"dir\":\"/mnt\"}"),
        ("POST", format!("{snapshot}/hold"), "{\"reason\":\"x\"}"),
        ("DELETE", format!("{snapshot}/hold"), ""),
        ("GET", format!("{snapshot}/digests"), ""),
        ("GET", format!("{snapshot}/stream"), ""),
        ("POST", "/v1/audit/prune".to_owned(), "{}"),
        ("DELETE", "/v1/versions/digits@1".to_owned(), ""),
        ("POST", "/v1/store/grow".to_owned(), "{\"bytes\":1}"),
    ] {
        check_problem(&door.json_as_nobody(method, &path, body), 403, "denied");
    }
    assert_eq!(door.json_as_nobody("GET", "/v1/audit/key", "").status, 200);
    assert_eq!(door.json_as_nobody("POST", "/v1/audit/snapshots", "{}").status, 201);
    let kept = door.kept();
    let changes = |record: &ArchiveRecord| {
        !matches!(record, ArchiveRecord::SnapshotTaken { .. } | ArchiveRecord::SnapshotRequested { .. })
    };
    assert!(!kept.iter().any(changes), "{kept:?}");
}

#[test]
fn a_version_that_is_needed_is_refused_with_reasons_and_another_one_goes() {
    let door = Door::with(&["1", "2", "3"]);
    door.release_and_wait("2");
    for (version, reason) in [("2", "`digits@2` is live"), ("1", "a rollback returns to `digits@1`")] {
        let refused = door.json(&format!("DELETE /v1/versions/digits@{version}"), "");
        check_problem(&refused, 409, "conflict");
        assert_eq!(refused.body["details"], json!([reason]));
    }
    check_problem(&door.json("DELETE /v1/versions/digits@9", ""), 404, "not-found");
    check_problem(&door.json("DELETE /v1/versions/digits", ""), 400, "bad-request");
    let removed = door.json("DELETE /v1/versions/digits%403", "");
    assert_eq!(removed.status, 200, "{removed:?}");
    let kept: Vec<ArchiveRecord> = door.kept().into_iter().rev().take(2).collect();
    assert!(
        matches!(&kept[1], ArchiveRecord::VersionDeleting { by, .. } if by.starts_with("root")),
        "{kept:?}"
    );
    assert!(matches!(&kept[0], ArchiveRecord::VersionDeleted { .. }), "{kept:?}");
    let listed = door.get("/v1/versions").body["versions"].as_array().unwrap().len();
    assert_eq!(listed, 2);
    check_problem(&door.json("POST /v1/releases", "{\"version\":\"digits@3\"}"), 404, "not-found");
    // The same content may come back under its label.
    let again = door.import(&bundle("3"));
    assert_eq!((again.status, &again.body["already_there"]), (200, &json!(false)));
    assert_eq!(door.release_and_wait("3")["state"], "promoted");
}

#[test]
fn a_deletion_that_fails_leaves_the_version_as_it_was() {
    let door = Door::with(&["1", "2"]);
    door.stage.host.fail(When::Every("delete_version"), Fault::Refused);
    let failed = door.json("DELETE /v1/versions/digits@2", "");
    check_problem(&failed, 500, "host-failure");
    door.stage.host.heal();
    assert!(matches!(door.kept().last(), Some(ArchiveRecord::VersionKept { .. })));
    assert_eq!(door.release_and_wait("2")["state"], "promoted");
}

#[test]
fn a_held_snapshot_keeps_the_versions_in_it_until_the_hold_ends() {
    let door = Door::with(&["1", "2", "3"]);
    let shows_first = door.take("");
    door.release_and_wait("2");
    door.release_and_wait("3");
    let hold = format!("/v1/audit/snapshots/{shows_first}/hold");
    check_problem(&door.json(&format!("DELETE {hold}"), ""), 409, "conflict");
    check_problem(&door.json(&format!("POST {hold}"), "{\"reason\":\"\"}"), 400, "bad-request");
    check_problem(&door.json("POST /v1/audit/snapshots/7-x/hold", "{\"reason\":\"x\"}"), 404, "not-found");
    let held = door.json(&format!("POST {hold}"), "{\"reason\":\"case 17\"}");
    assert_eq!(held.status, 200, "{held:?}");
    let refused = door.json("DELETE /v1/versions/digits@1", "");
    check_problem(&refused, 409, "conflict");
    assert!(refused.body["details"][0].as_str().unwrap().ends_with(": case 17"), "{refused:?}");
    assert_eq!(door.json(&format!("DELETE {hold}"), "").status, 200);
    let removed = door.json("DELETE /v1/versions/digits@1", "");
    assert_eq!(removed.status, 200, "{removed:?}");
    assert!(removed.body["kept_in"].as_array().unwrap().contains(&json!(shows_first)));
}

#[test]
fn a_mount_ends_when_its_time_is_over_and_the_journal_says_so() {
    let door = Door::with(&["1"]);
    let name = door.take("");
    let mount = |dir: &str, ms: u64| {
        let body = json!({ "dir": dir, "for_ms": ms }).to_string();
        door.json(&format!("POST /v1/audit/snapshots/{name}/mount"), &body)
    };
    let own = door.stage.folder.path().join("x");
    for (dir, ms) in [
        ("mnt", 60_000),
        ("/mnt", 10),
        ("/mnt", u64::MAX),
        (own.to_str().unwrap(), 60_000),
        ("/a\nb", 60_000),
    ] {
        check_problem(&mount(dir, ms), 422, "refused");
    }
    let mounted = mount("/mnt", 3_600_000);
    assert_eq!(mounted.status, 200, "{mounted:?}");
    check_problem(&mount("/mnt", 60_000), 409, "conflict");
    let row = door.snapshots("").pop().unwrap();
    assert_eq!(row["kept_by"], json!(["it is mounted at `/mnt`"]));
    assert_eq!(door.json("POST /v1/audit/unmount", "{\"dir\":\"/mnt\"}").status, 200);
    check_problem(&door.json("POST /v1/audit/unmount", "{\"dir\":\"/mnt\"}"), 404, "not-found");

    assert_eq!(mount("/mnt", 1000).status, 200);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !door.stage.host.references().unwrap().is_empty() {
        assert!(Instant::now() < deadline, "it stays mounted");
        std::thread::sleep(Duration::from_millis(20));
    }
    while !matches!(door.kept().last(), Some(ArchiveRecord::MountEnded { why, .. }) if why == "its time was over")
    {
        assert!(Instant::now() < deadline, "{:?}", door.kept().last());
        std::thread::sleep(Duration::from_millis(20));
    }
    // One that fails is not left granted.
    door.stage.host.fail(When::Every("mount_snapshot"), Fault::Refused);
    check_problem(&mount("/mnt", 60_000), 500, "host-failure");
    assert!(matches!(door.kept().last(), Some(ArchiveRecord::MountEnded { .. })));
}

#[test]
fn an_export_comes_with_a_list_that_the_hosts_key_has_signed() {
    let door = Door::with(&["1"]);
    let name = door.take("");
    let key = door.get("/v1/audit/key").body;
    let public = PublicKey::from_pem(key["public_key"].as_str().unwrap()).unwrap();
    let signed = door.get(&format!("/v1/audit/snapshots/{name}/digests"));
    let envelope = Envelope::parse(signed.body["envelope"].as_str().unwrap().as_bytes()).unwrap();
    assert!(public.verifies(&envelope.signed_bytes(), &envelope.signatures()[0].signature));
    let list: Value = serde_json::from_slice(envelope.payload()).unwrap();
    assert_eq!(list["snapshot"], json!(name));
    let paths: Vec<&str> =
        list["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"state.json") && paths.contains(&"trust.json") && paths.contains(&"config.toml"));
    let digest = Sha256::of(envelope.payload());
    assert_eq!(door.exported(), [(name.clone(), Some(digest))]);
    for path in ["/v1/audit/snapshots/00000009-x/stream", "/v1/audit/snapshots/..%2Fversions/digests"] {
        check_problem(&door.get(path), 404, "not-found");
    }
}

#[test]
fn who_is_given_a_stream_is_in_the_journal_and_without_a_record_nothing_is_given() {
    let door = Door::with(&["1"]);
    let name = door.take("");
    let stream = format!("/v1/audit/snapshots/{name}/stream");
    let given = door.get(&stream);
    assert_eq!((given.status, given.kind.as_str()), (200, "application/octet-stream"), "{given:?}");
    assert_eq!(door.exported(), [(name.clone(), None)]);
    assert_eq!(door.get(&format!("/v1/audit/snapshots/{name}/digests")).status, 200);
    assert_eq!(door.exported().len(), 2, "one each");

    door.stage.host.fail(When::Every("send"), Fault::Refused);
    check_problem(&door.get(&stream), 500, "host-failure");
    assert_eq!(door.exported().len(), 2, "what could not be sent was not given");
    door.stage.host.heal();
    door.desk.driver.send(Input::Stop).unwrap();
    check_problem(&door.get(&stream), 409, "conflict");
}

#[test]
fn two_snapshots_are_compared() {
    let door = Door::with(&["1", "2"]);
    let first = door.take("");
    door.release_and_wait("2");
    let second = door.take("");
    let found = door.get(&format!("/v1/audit/diff?from={first}&to={second}"));
    assert_eq!(found.status, 200, "{found:?}");
    assert_eq!(found.body["live"][0]["to"]["version"], "2");
    assert_eq!(found.body["versions"][0]["weights"][0]["what"], "model.onnx");
    assert!(found.body["journal_records"].as_i64().unwrap() > 10);
    check_problem(&door.get(&format!("/v1/audit/diff?from={first}&to=7-x")), 404, "not-found");
    check_problem(&door.get("/v1/audit/diff?from=x"), 400, "bad-request");
}

#[test]
fn two_at_a_time_read_the_journal_or_compare_snapshots_and_a_third_is_told_to_come_again() {
    let door = Door::with(&["1"]);
    let name = door.take("");
    let (verify, compare) = ("POST /v1/audit/verify", format!("GET /v1/audit/diff?from={name}&to={name}"));
    let under_way = [door.desk.long_reads.begin().unwrap(), door.desk.long_reads.begin().unwrap()];
    for request in [verify, &compare] {
        let refused = door.json(request, "");
        check_problem(&refused, 413, "limit");
        assert!(refused.body["hint"].as_str().unwrap().contains("try again"), "{refused:?}");
    }
    let [one, _other] = under_way;
    drop(one);
    // Each gives its place back.
    for request in [verify, &compare, verify, &compare] {
        assert_eq!(door.json(request, "").status, 200);
    }
}

#[test]
fn of_what_a_request_does_not_name_nothing_is_read() {
    let door = Door::with(&["1"]);
    let (first, _, last) = (door.take(""), door.take(""), door.take(""));
    let opened_by = |act: &dyn Fn() -> Reply| {
        let before = door.stage.host.trace().len();
        let reply = act();
        assert_eq!(reply.status, 200, "{reply:?}");
        let calls = door.stage.host.trace().split_off(before);
        calls.into_iter().filter(|call| call.method == "inside").map(|call| call.object).collect::<Vec<_>>()
    };
    let exported = opened_by(&|| door.get(&format!("/v1/audit/snapshots/{last}/digests")));
    assert_eq!(exported, std::slice::from_ref(&last));
    let compared = opened_by(&|| door.get(&format!("/v1/audit/diff?from={first}&to={last}")));
    assert_eq!(compared, [first, last]);
}

#[test]
fn the_store_is_shown_grown_and_scrubbed_with_each_outcome_in_the_journal() {
    let door = Door::with(&["1"]);
    let store = door.get("/v1/store").body;
    assert_eq!(
        (&store["versions"], &store["scrub"], &store["retention"]),
        (&json!(1), &json!(null), &json!([]))
    );
    let grown = door.json("POST /v1/store/grow", "{\"bytes\":2147483648}");
    assert_eq!(grown.body["total_bytes"], json!(2_147_483_648_u64), "{grown:?}");
    for bytes in [1, 1 << 55, u64::MAX] {
        let body = json!({ "bytes": bytes }).to_string();
        check_problem(&door.json("POST /v1/store/grow", &body), 422, "refused");
    }
    assert_eq!(door.json("POST /v1/store/scrub", "").body["errors"], json!(0));
    door.stage.host.fail(When::Every("scrub"), Fault::Refused);
    check_problem(&door.json("POST /v1/store/scrub", ""), 500, "host-failure");
    let names: Vec<String> = door
        .kept()
        .iter()
        .map(|record| serde_json::to_value(record).unwrap()["event"].as_str().unwrap().to_owned())
        .filter(|event| !event.starts_with("snapshot"))
        .collect();
    let expected = [
        "store-growing",
        "store-grown",
        "store-growing",
        "archive-failed",
        "scrubbing",
        "scrubbed",
        "scrubbing",
        "archive-failed",
    ];
    assert_eq!(names, expected);
    assert!(door.get("/v1/store").body["scrub"]["at_ms"].as_u64().unwrap() > 0);
}

#[test]
fn a_deletion_that_was_broken_off_is_finished_by_the_next_daemon() {
    let door = Door::with(&["1"]);
    let name = door.take("");
    let announced =
        ArchiveRecord::SnapshotDeleting { snapshot: name.clone(), by: "root".into(), why: String::new() };
    let lost = ArchiveRecord::MountGranted {
        snapshot: name.clone(),
        at: "/gone".into(),
        by: "root".into(),
        until_ms: 1 << 52,
    };
    // As a daemon that died leaves them: announced, and no outcome.
    let desk = door.reopened(&[announced, lost]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while desk.snapshots("").iter().any(|snapshot| snapshot["name"] == json!(name)) {
        assert!(Instant::now() < deadline, "it stays");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = || {
        desk.kept()
            .iter()
            .any(|record| matches!(record, ArchiveRecord::MountEnded { at, .. } if at == "/gone"))
    };
    while !ended() {
        assert!(Instant::now() < deadline, "the lost mount stays in the journal");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(desk.kept().contains(&ArchiveRecord::SnapshotDeleted { snapshot: name }));
    // A mount that nobody of ours made keeps a snapshot too.
    let other = desk.take("");
    let place = MountPlace { at: "/by-hand".into(), pid: 1 };
    desk.stage.host.mount_snapshot(&other, &place).unwrap();
    let row = desk.snapshots("").pop().unwrap();
    assert_eq!(row["kept_by"], json!(["it is mounted at `/by-hand`"]));
}
