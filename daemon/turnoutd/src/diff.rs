//! What changed between two snapshots: what was live, what versions say and hold, whose signatures counted, how the
//! daemon was configured, and every file. Pure; weights are compared by the digests in their signed manifests.

use crate::catalog::{self, State as Kept};
use crate::evidence::{CONFIG_FILE, ROOTS_FILE, TRUST_FILE};
use crate::handlers::{Desk, Failure, problem};
use crate::snapshots::{on_host, unknown};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use turnout_host::archive::Inside;
use turnout_host::store::StoredName;
use turnout_manifest::envelope::Envelope;
use turnout_manifest::{Manifest, ModelName, Sha256, TrustRoot, TrustStore};
use turnout_protocol::archive::{Change, LiveChange, SnapshotDiff, SnapshotVersion, VersionChange};
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::ErrorCode;

/// One side of the comparison.
pub struct Side<'a> {
    /// The snapshot's name.
    pub name: &'a str,
    /// Records of its journal.
    pub journal_size: u64,
    /// What lies in it.
    pub inside: &'a Inside,
}

/// Query of `GET /v1/audit/diff`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffQuery {
    from: String,
    to: String,
}

/// `GET /v1/audit/diff`.
///
/// # Errors
/// 404 for an unknown snapshot, 413 while two other requests read as much, 500 when the store cannot be read.
pub async fn handle(
    State(desk): State<Desk>,
    query: Result<Query<DiffQuery>, QueryRejection>,
) -> Result<Json<SnapshotDiff>, Failure> {
    let Query(DiffQuery { from, to }) =
        query.map_err(|rejection| problem(ErrorCode::BadRequest, rejection.body_text()))?;
    let (host, view, place) = (desk.host.clone(), desk.view(), desk.long_reads.begin()?);
    let compared = on_host(move || {
        let _place = place;
        let Some((first, one)) = catalog::snapshot(host.as_ref(), &view, &from)? else {
            return Ok(Err(from));
        };
        let Some((second, two)) = catalog::snapshot(host.as_ref(), &view, &to)? else { return Ok(Err(to)) };
        let from = Side { name: &first.name, journal_size: first.journal_size, inside: &one };
        let to = Side { name: &second.name, journal_size: second.journal_size, inside: &two };
        Ok(Ok(diff(&from, &to)))
    });
    compared.await?.map(Json).map_err(|name| unknown(&name).into())
}

/// What changed from one snapshot to the other.
pub fn diff(from: &Side<'_>, to: &Side<'_>) -> SnapshotDiff {
    let live = live_changes(from, to);
    let versions = live.iter().filter_map(|change| version_change(change, (from, to))).collect();
    let document = |side: &Side<'_>, name: &str| side.inside.documents.get(name).cloned().unwrap_or_default();
    let both = |name: &str| (document(from, name), document(to, name));
    let (trusted, trusts) = both(TRUST_FILE);
    let (rooted, roots) = both(ROOTS_FILE);
    let trust = |store: &[u8], roots: &[u8]| keys(store).into_iter().chain(root(roots)).collect();
    let (configured, configures) = both(CONFIG_FILE);
    let size = |side: &Side<'_>| i64::try_from(side.journal_size).unwrap_or(i64::MAX);
    SnapshotDiff {
        schema: SCHEMA.to_owned(),
        from: from.name.to_owned(),
        to: to.name.to_owned(),
        journal_records: size(to) - size(from),
        live,
        versions,
        trust: changes(&trust(&trusted, &rooted), &trust(&trusts, &roots)),
        configuration: changes(&settings(&configured), &settings(&configures)),
        files: changes(&files(from.inside), &files(to.inside)),
    }
}

fn live_changes(from: &Side<'_>, to: &Side<'_>) -> Vec<LiveChange> {
    let live = |side: &Side<'_>| -> BTreeMap<ModelName, SnapshotVersion> {
        let versions = Kept::of(side.inside).versions().into_iter().filter(|version| version.live);
        versions.map(|version| (version.model.clone(), version)).collect()
    };
    let (was, is) = (live(from), live(to));
    let digest = |side: &BTreeMap<ModelName, SnapshotVersion>, model| side.get(model).map(|v| v.digest);
    let mut models: Vec<&ModelName> = was.keys().chain(is.keys()).collect();
    models.sort();
    models.dedup();
    let changed = models.into_iter().filter(|model| digest(&was, *model) != digest(&is, *model));
    changed
        .map(|model| LiveChange {
            model: model.clone(),
            from: was.get(model).cloned(),
            to: is.get(model).cloned(),
        })
        .collect()
}

fn version_change(change: &LiveChange, (from, to): (&Side<'_>, &Side<'_>)) -> Option<VersionChange> {
    let manifest = |side: &Side<'_>, version: &Option<SnapshotVersion>| {
        let version = version.as_ref()?;
        let name = StoredName { model: version.model.clone(), digest: version.digest };
        manifest_of(side.inside.versions.get(&name)?)
    };
    let (was, is) = (manifest(from, &change.from)?, manifest(to, &change.to)?);
    let weights = |manifest: &Manifest, model_file: bool| -> BTreeMap<String, String> {
        let files =
            manifest.files.iter().filter(|file| (file.path == manifest.runtime.model_file) == model_file);
        files.map(|file| (file.path.clone(), content(file.size, file.sha256))).collect()
    };
    Some(VersionChange {
        model: change.model.clone(),
        manifest: changes(&said(&was), &said(&is)),
        weights: changes(&weights(&was, true), &weights(&is, true)),
        files: changes(&weights(&was, false), &weights(&is, false)),
    })
}

fn manifest_of(envelope: &[u8]) -> Option<Manifest> {
    Manifest::from_canonical(Envelope::parse(envelope).ok()?.payload()).ok()
}

/// The keys of a manifest but for its files, each with its value as text.
fn said(manifest: &Manifest) -> BTreeMap<String, String> {
    let mut value = serde_json::to_value(manifest).unwrap_or_default();
    if let Some(keys) = value.as_object_mut() {
        keys.remove("files");
    }
    let mut flat = BTreeMap::new();
    flatten("", &value, &mut flat);
    flat
}

fn flatten(at: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, member)| flatten(&below(name), member, into));
        }
        Value::Array(items) => {
            let numbered = items.iter().enumerate();
            numbered.for_each(|(index, item)| flatten(&below(&index.to_string()), item, into));
        }
        Value::String(text) => drop(into.insert(at.to_owned(), text.clone())),
        other => drop(into.insert(at.to_owned(), other.to_string())),
    }
}

fn keys(document: &[u8]) -> BTreeMap<String, String> {
    let Ok(store) = TrustStore::from_json(document) else { return BTreeMap::new() };
    let described = |key: &turnout_manifest::trust::TrustedKey| {
        let models: Vec<String> = key.models.iter().map(ToString::to_string).collect();
        (key.key_id.to_string(), format!("{} for {}", key.issuer, models.join(", ")))
    };
    store.keys().iter().map(described).collect()
}

/// What the last of these signed roots says, key by key as text.
fn root(documents: &[u8]) -> BTreeMap<String, String> {
    let last = documents.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    let envelope = last.and_then(|line| Envelope::parse(line).ok());
    let root = envelope.and_then(|envelope| TrustRoot::from_json(envelope.payload()).ok());
    let mut flat = BTreeMap::new();
    let Some(root) = root else { return flat };
    for key in &root.keys {
        flat.insert(key.key_id.to_string(), format!("{}, {}", key.owner, key.state));
    }
    let mut value = serde_json::to_value(&root).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        members.remove("keys");
    }
    flatten("trust_root", &value, &mut flat);
    flat
}

/// The keys of a TOML document, each with its value as text.
fn settings(document: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(document);
    let value = toml::from_str::<Value>(&text).unwrap_or_default();
    let mut flat = BTreeMap::new();
    if value.is_object() {
        flatten("", &value, &mut flat);
    }
    flat
}

/// Every file of a snapshot by path. Those of versions are named with the digests of their signed manifests.
fn files(inside: &Inside) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for (name, bytes) in &inside.documents {
        files.insert(name.clone(), content(bytes.len() as u64, Sha256::of(bytes)));
    }
    for (name, size) in &inside.journal {
        files.insert(format!("journal/{name}"), format!("{size} bytes"));
    }
    for (name, envelope) in &inside.versions {
        let manifest_file = format!("versions/{name}/manifest.dsse.json");
        files.insert(manifest_file, content(envelope.len() as u64, Sha256::of(envelope)));
        for file in manifest_of(envelope).map(|manifest| manifest.files).unwrap_or_default() {
            files.insert(format!("versions/{name}/files/{}", file.path), content(file.size, file.sha256));
        }
    }
    files
}

fn content(size: u64, digest: Sha256) -> String {
    format!("{size} bytes, {digest}")
}

/// What was added, removed and changed, by name.
fn changes(from: &BTreeMap<String, String>, to: &BTreeMap<String, String>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut names: Vec<&String> = from.keys().chain(to.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (was, is) = (from.get(name), to.get(name));
        let change = match (was, is) {
            (None, _) => "added",
            (_, None) => "removed",
            (was, is) if was != is => "changed",
            _ => continue,
        };
        changes.push(Change {
            change: change.to_owned(),
            what: name.clone(),
            from: was.cloned(),
            to: is.cloned(),
        });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use turnout_manifest::Description;
    use turnout_manifest::envelope::MANIFEST_TYPE;
    use turnout_manifest::key::PrivateKey;
    use turnout_manifest::manifest::FileEntry;

    struct Version {
        name: StoredName,
        label: &'static str,
        envelope: Vec<u8>,
    }

    fn version(label: &'static str, files: &[(&str, &str)]) -> Version {
        let description =
            Description::template("fraud".parse().unwrap(), label.parse().unwrap(), "model.onnx".into());
        let entry = |(path, content): &(&str, &str)| FileEntry {
            path: (*path).to_owned(),
            size: content.len() as u64,
            sha256: Sha256::of(content.as_bytes()),
        };
        let manifest = description.into_manifest(files.iter().map(entry).collect()).unwrap();
        let payload = manifest.to_canonical().unwrap();
        let name = StoredName { model: "fraud".parse().unwrap(), digest: Sha256::of(&payload) };
        let key = PrivateKey::generate().unwrap();
        let envelope = Envelope::sign(MANIFEST_TYPE, payload, &key).unwrap().to_json().unwrap();
        Version { name, label, envelope }
    }

    fn inside(live: &Version, config: &str) -> Inside {
        let target = json!({
            "version": live.label, "digest": live.name.digest, "signed_by": ["ci"], "generation": 1,
        });
        let state = json!({ "models": [{ "model": "fraud", "live": target }] });
        let mut inside = Inside::default();
        inside.documents.insert("state.json".into(), serde_json::to_vec(&state).unwrap());
        inside.documents.insert("config.toml".into(), config.into());
        inside.journal.insert("0000.seg".into(), config.len() as u64);
        inside.versions.insert(live.name.clone(), live.envelope.clone());
        inside
    }

    fn named(changes: &[Change]) -> Vec<(&str, &str)> {
        changes.iter().map(|change| (change.change.as_str(), change.what.as_str())).collect()
    }

    #[test]
    fn a_release_shows_as_what_is_live_what_it_says_and_which_files_differ() {
        let old = version("1", &[("labels.txt", "a"), ("model.onnx", "w1"), ("old.txt", "x")]);
        let new = version("2", &[("labels.txt", "a"), ("model.onnx", "w2"), ("new.txt", "x")]);
        let (one, two) = (inside(&old, "ports = \"1-2\""), inside(&new, "ports = \"1-3\"\ngroup = \"g\""));
        let from = Side { name: "a", journal_size: 10, inside: &one };
        let to = Side { name: "b", journal_size: 25, inside: &two };
        let found = diff(&from, &to);
        assert_eq!((found.journal_records, found.live.len()), (15, 1));
        assert_eq!(found.live[0].to.as_ref().unwrap().version.as_str(), "2");
        let change = &found.versions[0];
        assert_eq!(named(&change.manifest), [("changed", "version")]);
        assert_eq!(named(&change.weights), [("changed", "model.onnx")]);
        assert_eq!(named(&change.files), [("added", "new.txt"), ("removed", "old.txt")]);
        assert_eq!(named(&found.configuration), [("added", "group"), ("changed", "ports")]);
        let expected = ["config.toml", "journal/0000.seg", "state.json"];
        let changed: Vec<&str> =
            found.files.iter().filter(|c| c.change == "changed").map(|c| c.what.as_str()).collect();
        assert_eq!(changed, expected);

        let same = diff(&from, &Side { name: "c", journal_size: 10, inside: &one });
        assert!(same.live.is_empty() && same.versions.is_empty() && same.files.is_empty());
    }

    #[test]
    fn a_damaged_snapshot_is_compared_as_far_as_it_can_be_read() {
        let good = version("1", &[("model.onnx", "w")]);
        let whole = inside(&good, "");
        let mut broken = whole.clone();
        for document in broken.documents.values_mut() {
            *document = b"\xff{".to_vec();
        }
        broken.versions.values_mut().for_each(|envelope| envelope.truncate(7));
        let from = Side { name: "a", journal_size: 0, inside: &whole };
        let to = Side { name: "b", journal_size: 0, inside: &broken };
        let found = diff(&from, &to);
        assert_eq!(found.live.len(), 1, "what cannot be read is not live");
        assert!(named(&found.files).contains(&("changed", "state.json")));
    }
}
