//! What cargo says of the crates that a workspace is built from: `cargo metadata`, and the walk along the edges it resolved.

use crate::command;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The crates that were resolved, and which uses which.
#[derive(Deserialize)]
pub struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

/// Asks cargo, with these arguments too.
///
/// # Errors
/// When cargo cannot say, or says something else.
pub fn read<Metadata: DeserializeOwned>(root: &Path, arguments: &[&str]) -> Result<Metadata> {
    let mut cargo = command::cargo(root);
    cargo.args(["metadata", "--format-version", "1", "--locked"]).args(arguments);
    let answer = command::capture(&mut cargo)?;
    if !answer.success {
        bail!("`cargo metadata` failed: {}", answer.stderr.trim());
    }
    serde_json::from_str(&answer.stdout).context("`cargo metadata` gave no such JSON")
}

impl Resolve {
    /// Ids of all crates that are reached from these along edges of some kinds: `None` is a normal one, else it is `dev`
    /// or `build`. Those it began at are among them only where an edge leads back.
    pub fn reached<'a>(
        &'a self,
        from: &[&'a str],
        kinds: impl Fn(Option<&str>) -> bool,
    ) -> BTreeSet<&'a str> {
        let nodes: BTreeMap<&str, &Node> = self.nodes.iter().map(|node| (&*node.id, node)).collect();
        let leads = |edge: &&Edge| edge.dep_kinds.iter().any(|kind| kinds(kind.kind.as_deref()));
        let mut open: Vec<&str> = from.to_vec();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            let edges = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            let next = edges.filter(leads).map(|edge| &*edge.pkg);
            open.extend(next.filter(|next| seen.insert(*next)));
        }
        seen
    }
}
