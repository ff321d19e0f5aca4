//! Holds `openapi.yaml` against the Rust types (by their frozen samples in `golden/`) and against the client's calls.
//! A property, a `required`, a null or a path that only one side knows fails here.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test, in its helpers too")]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use service::{Answer, Received, Service};
use std::collections::BTreeSet;
use turnout_protocol::client::{Bundle, Client, Intervention, SnapshotFilter, Tail};
use turnout_protocol::{Problem, archive, checkpoint, control, journal, report, set, trust};

mod service;

fn document() -> Value {
    serde_saphyr::from_str(include_str!("../openapi.yaml")).unwrap()
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&service::golden(name)).unwrap()
}

/// The snapshot that is named in calls.
const SNAPSHOT: &str = "00000042-20261122T135501Z";

fn request<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(golden(name)).unwrap()
}

/// A JSON Schema validator for the part of the language that the document uses.
struct Schemas<'a>(&'a Value);

impl<'a> Schemas<'a> {
    fn named(&self, name: &str) -> &'a Value {
        let schema = &self.0["components"]["schemas"][name];
        assert!(schema.is_object(), "no schema `{name}`");
        schema
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.named(reference.strip_prefix("#/components/schemas/").unwrap()),
            None => schema,
        }
    }

    fn accepts(&self, schema: &'a Value, value: &Value) -> bool {
        let schema = self.resolve(schema);
        let type_accepts = |name: &Value| match name.as_str().unwrap() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("type `{other}` is not known to this test"),
        };
        let typed = match &schema["type"] {
            Value::Null => true,
            Value::Array(names) => names.iter().any(type_accepts),
            name => type_accepts(name),
        };
        typed
            && schema["enum"].as_array().is_none_or(|allowed| allowed.contains(value))
            && schema["oneOf"].as_array().is_none_or(|choices| {
                choices.iter().filter(|choice| self.accepts(choice, value)).count() == 1
            })
            && value.as_array().is_none_or(|items| {
                schema["items"].is_null() || items.iter().all(|item| self.accepts(&schema["items"], item))
            })
            && value.as_object().is_none_or(|_| self.accepts_object(schema, value))
    }

    fn accepts_object(&self, schema: &'a Value, value: &Value) -> bool {
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        let closed = schema["additionalProperties"] == json!(false);
        required.iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            && value.as_object().unwrap().iter().all(|(name, item)| match schema["properties"].get(name) {
                Some(property) => self.accepts(property, item),
                None => !closed,
            })
    }

    /// Every object of `value` that has a schema with properties: where it is, and those properties.
    fn objects(&self, schema: &'a Value, value: &Value, pointer: &str) -> Vec<(String, &'a Value)> {
        let schema = self.resolve(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            let choice = choices.iter().find(|choice| self.accepts(choice, value)).unwrap();
            return self.objects(choice, value, pointer);
        }
        let mut found = Vec::new();
        if let (Some(items), false) = (value.as_array(), schema["items"].is_null()) {
            for (index, item) in items.iter().enumerate() {
                found.extend(self.objects(&schema["items"], item, &format!("{pointer}/{index}")));
            }
        }
        if let (Some(members), Some(properties)) = (value.as_object(), schema.get("properties")) {
            for (name, member) in members {
                if let Some(property) = properties.get(name) {
                    found.extend(self.objects(property, member, &format!("{pointer}/{name}")));
                }
            }
            found.push((pointer.to_owned(), properties));
        }
        found
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Request,
    Reply,
}

fn check<T: Serialize + DeserializeOwned>(name: &str, direction: Direction) {
    let document = document();
    let schemas = Schemas(&document);
    let schema = schemas.named(name);
    let sample = golden(name);
    let parse = |value: &Value| serde_json::from_value::<T>(value.clone()).ok();
    let written = |value: &T| serde_json::to_value(value).unwrap();
    assert_eq!(written(&parse(&sample).expect(name)), sample, "{name}: the sample does not survive the type");
    assert!(schemas.accepts(schema, &sample), "{name}: the sample does not fit the document");

    for (pointer, properties) in schemas.objects(schema, &sample, "") {
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let at = |value: &Value| value.pointer(&pointer).unwrap().clone();
        assert_eq!(keys(&at(&sample)), keys(properties), "{name}{pointer}: properties");
        for key in keys(properties) {
            let mut without = sample.clone();
            without.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().remove(&key);
            let optional = match (parse(&without), direction) {
                (None, _) => false,
                (Some(_), Direction::Request) => true,
                (Some(value), Direction::Reply) => at(&written(&value)).get(&key).is_none(),
            };
            assert_eq!(schemas.accepts(schema, &without), optional, "{name}{pointer}/{key}: required");

            let mut null = sample.clone();
            null.pointer_mut(&pointer).unwrap()[&key] = Value::Null;
            // A reply never writes null where it leaves the key out.
            if !(direction == Direction::Reply && optional) {
                assert_eq!(
                    schemas.accepts(schema, &null),
                    parse(&null).is_some(),
                    "{name}{pointer}/{key}: null"
                );
            }

            if let Some(listed) = properties[&key]["enum"].as_array() {
                let mut nonsense = sample.clone();
                nonsense.pointer_mut(&pointer).unwrap()[&key] = json!("no such word");
                let error =
                    serde_json::from_value::<T>(nonsense).err().expect("a closed list in the type too");
                let listed: BTreeSet<_> =
                    listed.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
                assert_eq!(expected_words(&error.to_string()), listed, "{name}{pointer}/{key}: closed list");
            }
        }
    }
    if direction == Direction::Request {
        let mut unknown = sample.clone();
        unknown["no_such_key"] = json!(1);
        assert!(parse(&unknown).is_none() && !schemas.accepts(schema, &unknown), "{name}: unknown keys");
    }
}

/// The words that serde says it knows: "unknown variant `x`, expected one of `a`, `b`".
fn expected_words(error: &str) -> BTreeSet<String> {
    let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_reply_matches_its_schema() {
    use Direction::Reply;
    check::<control::Status>("Status", Reply);
    check::<control::ReleaseStatus>("ReleaseStatus", Reply);
    check::<control::Releases>("Releases", Reply);
    check::<control::DryRun>("DryRun", Reply);
    check::<set::SetStarted>("SetStarted", Reply);
    check::<set::SetDryRun>("SetDryRun", Reply);
    check::<control::Imported>("Imported", Reply);
    check::<control::Versions>("Versions", Reply);
    check::<control::Trust>("Trust", Reply);
    check::<trust::TrustState>("TrustState", Reply);
    check::<trust::TrustApplied>("TrustApplied", Reply);
    check::<trust::TrustHistory>("TrustHistory", Reply);
    check::<control::Update>("Update", Reply);
    check::<control::AuditRecord>("AuditRecord", Reply);
    check::<control::AuditVerified>("AuditVerified", Reply);
    check::<journal::JournalState>("JournalState", Reply);
    check::<checkpoint::SignedCheckpoint>("SignedCheckpoint", Reply);
    check::<checkpoint::RecordProof>("RecordProof", Reply);
    check::<checkpoint::Consistency>("Consistency", Reply);
    check::<archive::Snapshots>("Snapshots", Reply);
    check::<archive::Snapshot>("Snapshot", Reply);
    check::<archive::Mounted>("Mounted", Reply);
    check::<archive::Unmounted>("Unmounted", Reply);
    check::<archive::SnapshotDiff>("SnapshotDiff", Reply);
    check::<archive::SignedDigests>("SignedDigests", Reply);
    check::<archive::HostKey>("HostKey", Reply);
    check::<archive::Pruned>("Pruned", Reply);
    check::<archive::Removed>("Removed", Reply);
    check::<archive::Store>("Store", Reply);
    check::<archive::Scrub>("Scrub", Reply);
    check::<control::Doctor>("Doctor", Reply);
    check::<Problem>("Problem", Reply);
}

#[test]
fn every_request_matches_its_schema() {
    check::<control::StartRelease>("StartRelease", Direction::Request);
    check::<set::StartSet>("StartSet", Direction::Request);
    check::<control::AddTrust>("AddTrust", Direction::Request);
    check::<trust::ApplyTrust>("ApplyTrust", Direction::Request);
    check::<control::Intervene>("Intervene", Direction::Request);
    check::<archive::TakeSnapshot>("TakeSnapshot", Direction::Request);
    check::<archive::HoldSnapshot>("HoldSnapshot", Direction::Request);
    check::<journal::HoldJournal>("HoldJournal", Direction::Request);
    check::<archive::MountSnapshot>("MountSnapshot", Direction::Request);
    check::<archive::UnmountSnapshot>("UnmountSnapshot", Direction::Request);
    check::<archive::Prune>("Prune", Direction::Request);
    check::<archive::GrowStore>("GrowStore", Direction::Request);
    check::<checkpoint::KeepCosigned>("KeepCosigned", Direction::Request);
}

#[test]
fn the_report_matches_its_schema() {
    // The plan inside it leaves absent objectives out, as in a request.
    check::<report::Report>("Report", Direction::Reply);
}

#[test]
fn the_client_calls_every_path_of_the_document_and_no_other() {
    let document = document();
    let mut expected = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let path =
                path.replace("{model}", "fraud").replace("{id}", "r-2").replace("{key_id}", "sha256:abab");
            let path =
                path.replace("{name}", SNAPSHOT).replace("{version}", "fraud%401.3.7").replace("{seq}", "42");
            expected.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(calls_made_by_the_client(), expected);
}

/// Makes every call of the client once; gives method and path of each, without the query.
fn calls_made_by_the_client() -> BTreeSet<String> {
    let service = Service::start(|_: &Received| Answer { status: 404, body: service::golden("Problem") });
    let client = Client::new(&service.socket);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (model, id) = ("fraud".parse().unwrap(), "r-2".parse().unwrap());
    runtime.block_on(async {
        let mut refused = vec![
            client.status().await.is_err(),
            client.metrics().await.is_err(),
            client.start_release(&request("StartRelease")).await.is_err(),
            client.plan_release(&request("StartRelease")).await.is_err(),
            client.start_set(&request("StartSet")).await.is_err(),
            client.plan_set(&request("StartSet")).await.is_err(),
            client.releases().await.is_err(),
            client.release(id).await.is_err(),
            client.report(id).await.is_err(),
            client.versions().await.is_err(),
            client
                .import(Bundle { envelope: Vec::new(), content: std::io::empty(), length: 0 })
                .await
                .is_err(),
            client.trust().await.is_err(),
            client.add_trust(&request("AddTrust")).await.is_err(),
            client.remove_trust("sha256:abab").await.is_err(),
            client.trust_state().await.is_err(),
            client.trust_history().await.is_err(),
            client.apply_root(&request("ApplyTrust")).await.is_err(),
            client.apply_exception(&request("ApplyTrust")).await.is_err(),
            client.events(Some(&model)).await.is_err(),
            client.snapshots(&SnapshotFilter::default()).await.is_err(),
            client.take_snapshot(&request("TakeSnapshot")).await.is_err(),
            client.hold_snapshot(SNAPSHOT, &request("HoldSnapshot")).await.is_err(),
            client.release_hold(SNAPSHOT).await.is_err(),
            client.mount_snapshot(SNAPSHOT, &request("MountSnapshot")).await.is_err(),
            client.unmount_snapshot(&request("UnmountSnapshot")).await.is_err(),
            client.diff_snapshots(SNAPSHOT, SNAPSHOT).await.is_err(),
            client.snapshot_digests(SNAPSHOT).await.is_err(),
            client.snapshot_stream(SNAPSHOT).await.is_err(),
            client.host_key().await.is_err(),
            client.prune(&request("Prune")).await.is_err(),
            client.remove_version(&"fraud@1.3.7".parse().unwrap()).await.is_err(),
            client.store().await.is_err(),
            client.grow_store(&request("GrowStore")).await.is_err(),
            client.scrub_store().await.is_err(),
            client.doctor().await.is_err(),
        ];
        refused.extend(calls_about_the_journal(&client).await);
        use Intervention::{Cancel, Pause, Promote, Resume, Rollback};
        for intervention in [Rollback, Promote, Pause, Resume, Cancel] {
            refused
                .push(client.intervene(&model, intervention, &control::Intervene::default()).await.is_err());
        }
        assert!(refused.into_iter().all(|refused| refused));
    });
    let received = service.received.lock().unwrap();
    received.iter().map(|request| request.call.split('?').next().unwrap().to_owned()).collect()
}

async fn calls_about_the_journal(client: &Client) -> [bool; 9] {
    [
        client.audit_log(Some(0), Tail::Follow).await.is_err(),
        client.audit_verify().await.is_err(),
        client.checkpoint().await.is_err(),
        client.record_proof(42).await.is_err(),
        client.consistency(42).await.is_err(),
        client.keep_cosigned(&request("KeepCosigned")).await.is_err(),
        client.journal().await.is_err(),
        client.hold_journal(&request("HoldJournal")).await.is_err(),
        client.release_journal_hold().await.is_err(),
    ]
}
