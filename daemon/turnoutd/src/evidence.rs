//! What an audit snapshot is called and what it holds: state, trust and configuration of its moment, beside the
//! journal's bytes and the versions that traffic met.

use crate::config::Config;
use crate::executor::stored;
use crate::intake::{Held, Intake};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::path::Path;
use turnout_engine::{Reason, World};
use turnout_host::store::{Evidence, StoredName};
use turnout_journal::RESERVE;

/// Folder of the journal's segments below the state directory.
pub const JOURNAL_DIR: &str = "journal";
/// The state of all models, in a snapshot.
pub const STATE_FILE: &str = "state.json";
/// The keys that counted, in a snapshot.
pub const TRUST_FILE: &str = "trust.json";
/// The signed trust roots from the first on, one a line, in a snapshot of a host that has any.
pub const ROOTS_FILE: &str = "trust-root.ndjson";
/// The daemon's configuration as it was written, in a snapshot.
pub const CONFIG_FILE: &str = "config.toml";

/// `<journal size>-<UTC time>`: sorts by both.
pub fn snapshot_name(journal_size: u64) -> String {
    format!("{journal_size:08}-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"))
}

/// Bytes of the journal's files below a state directory, without what is only reserved.
pub fn journal_bytes(state: &Path) -> u64 {
    let files = std::fs::read_dir(state.join(JOURNAL_DIR)).into_iter().flatten().flatten();
    let counted = files.filter(|file| file.file_name() != RESERVE);
    counted.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// Where the journal stands when a snapshot is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Number of records.
    pub size: u64,
    /// RFC 6962 root over them, hex.
    pub root: String,
}

/// What the loop knows of a snapshot's moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    state: Vec<u8>,
    versions: Vec<StoredName>,
}

impl Moment {
    /// The moment as this state shows it.
    pub fn of(world: &World, position: &Position, reason: &Reason) -> Self {
        Self { state: state(world, position, reason), versions: versions(world) }
    }

    /// All that goes into the snapshot.
    pub fn evidence(&self, intake: &Intake, config: &Config) -> Evidence {
        let mut documents = vec![(STATE_FILE, self.state.clone()), (CONFIG_FILE, config.text.clone().into())];
        // A trust store that was read or taken in can be written.
        documents.extend(intake.trust().to_json().ok().map(|trust| (TRUST_FILE, trust)));
        documents.extend(roots(&intake.held()).map(|roots| (ROOTS_FILE, roots)));
        Evidence { journal: config.state.join(JOURNAL_DIR), documents, versions: self.versions.clone() }
    }
}

/// Every signed root from the first to the one in force, one a line.
fn roots(held: &Held) -> Option<Vec<u8>> {
    let chain = match held {
        Held::Root(chain) | Held::Lost { last: Some(chain), .. } => chain,
        Held::Store(_) | Held::Lost { last: None, .. } => return None,
    };
    Some(chain.all.iter().flat_map(|root| root.iter().copied().chain(*b"\n")).collect())
}

/// The state of all models as JSON: what is live, from which content, by whose signature; and why this is kept.
fn state(world: &World, position: &Position, reason: &Reason) -> Vec<u8> {
    let models: Vec<Value> = world
        .models
        .iter()
        .map(|(name, model)| {
            json!({
                "model": name,
                "port": model.port,
                "live": model.live,
                "previous": model.previous,
                "releasing": world.current(name).map(|release| &release.planned.to),
                "release": model.last,
            })
        })
        .collect();
    let document = json!({
        "schema": "turnout.state/v1",
        "taken": reason,
        "journal": { "size": position.size, "root": position.root },
        "models": models,
    });
    serde_json::to_vec_pretty(&document).expect("a JSON value serializes")
}

/// Versions whose files belong into the evidence: what is live and what is being released.
fn versions(world: &World) -> Vec<StoredName> {
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
