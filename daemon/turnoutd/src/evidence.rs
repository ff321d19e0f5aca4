//! What an audit snapshot is called and what state it holds.

use crate::executor::stored;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::path::Path;
use turnout_engine::World;
use turnout_host::store::StoredName;

/// Folder of the journal's segments below the state directory.
pub const JOURNAL_DIR: &str = "journal";

/// `<journal size>-<UTC time>`: sorts by both.
pub fn snapshot_name(journal_size: u64) -> String {
    format!("{journal_size:08}-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"))
}

/// Bytes of the journal's files below a state directory.
pub fn journal_bytes(state: &Path) -> u64 {
    let files = std::fs::read_dir(state.join(JOURNAL_DIR)).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// The state of all models as JSON: what is live, from which content, by whose signature.
pub fn state(world: &World) -> Vec<u8> {
    let models: Vec<Value> = world
        .models
        .iter()
        .map(|(name, model)| {
            json!({
                "model": name,
                "port": model.port,
                "live": model.live,
                "previous": model.previous,
                "release": model.last,
            })
        })
        .collect();
    let document = json!({ "schema": "turnout.state/v1", "models": models });
    serde_json::to_vec_pretty(&document).expect("a JSON value serializes")
}

/// Versions whose files belong into the evidence: what is live and what is being released.
pub fn versions(world: &World) -> Vec<StoredName> {
    let mut versions = Vec::new();
    for (name, model) in &world.models {
        let candidate = world.current(name).map(|release| &release.planned.to);
        for target in model.live.iter().chain(candidate) {
            let stored = stored(name, target);
            if !versions.contains(&stored) {
                versions.push(stored);
            }
        }
    }
    versions
}
