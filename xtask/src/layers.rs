//! `layers`: which crate may use which, as the table of `ARCHITECTURE.md`, section 2, and who may use the fenced libraries.
//! A feature of tests is fenced too. Reads what cargo resolved; the fence around `unsafe` is in `sources.rs`, with the other rules on text.

use crate::metadata::{self, Resolve};
use anyhow::{Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crate of this workspace and the crates of this workspace it may use. A crate without a row fails.
const EDGES: [(&str, &[&str]); 19] = [
    ("turnout-manifest", &[]),
    ("turnout-inference", &[]),
    ("turnout-onnx", &["turnout-manifest"]),
    ("turnout-journal", &[]),
    ("turnout-ebpf-layout", &[]),
    ("turnout-launcher-wire", &[]),
    ("turnout-protocol", &["turnout-manifest"]),
    ("turnout-engine", &["turnout-manifest"]),
    ("turnout-host", &["turnout-manifest", "turnout-ebpf-layout", "turnout-launcher-wire"]),
    (
        "turnoutd",
        &["turnout-manifest", "turnout-protocol", "turnout-journal", "turnout-engine", "turnout-host"],
    ),
    ("turnout-worker", &["turnout-protocol", "turnout-manifest", "turnout-inference", "turnout-onnx"]),
    ("turnout-router", &["turnout-protocol", "turnout-manifest"]),
    ("turnout-launcher", &["turnout-launcher-wire"]),
    ("turnout-export", &["turnout-journal", "turnout-protocol"]),
    ("turnoutctl", &["turnout-protocol", "turnout-manifest", "turnout-journal", "turnout-onnx"]),
    (
        "turnout-scenarios",
        &[
            "turnout-ebpf-layout",
            "turnout-host",
            "turnout-inference",
            "turnout-journal",
            "turnout-manifest",
            "turnout-protocol",
        ],
    ),
    (
        "turnout-fuzz",
        &[
            "turnout-engine",
            "turnout-inference",
            "turnout-journal",
            "turnout-launcher-wire",
            "turnout-manifest",
            "turnout-onnx",
            "turnout-protocol",
        ],
    ),
    ("turnout-manuals", &["turnout-manifest", "turnout-onnx", "turnout-protocol"]),
    ("xtask", &[]),
];

/// Library and the only crates that may name it.
const FENCED: [(&str, &[&str]); 4] = [
    ("aya", &["turnout-host"]),
    ("cryptoki", &["turnoutctl"]),
    ("ort", &["turnout-worker", "turnout-scenarios"]),
    ("clap", &["turnoutd", "turnout-export", "turnoutctl", "turnout-manuals", "turnout-scenarios", "xtask"]),
];

/// Features that only tests may enable: they take protections away, or put something false in the place of the host.
const FOR_TESTS: [&str; 2] = ["weaken", "fake"];

/// Crates that must not reach an async runtime, not even through others.
const NO_ASYNC: [&str; 3] = ["turnout-manifest", "turnout-engine", "turnout-journal"];
const ASYNC_RUNTIMES: [&str; 3] = ["tokio", "async-std", "smol"];

/// Checks the layers and lists what was found.
///
/// # Errors
/// When cargo cannot say what depends on what, or an edge is not allowed.
pub fn run(root: &Path) -> Result<()> {
    let graph = Graph::read(root)?;
    for line in graph.exempt() {
        println!("layers: for tests only: {line}");
    }
    let findings = graph.findings();
    for finding in &findings {
        println!("layers: {finding}");
    }
    if !findings.is_empty() {
        bail!("{} edges are not allowed; the table is ARCHITECTURE.md, section 2", findings.len());
    }
    println!("layers: {} crates, every edge allowed", graph.packages.len());
    Ok(())
}

/// The findings alone, for `check`.
///
/// # Errors
/// When cargo cannot say what depends on what.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    Ok(Graph::read(root)?.findings())
}

/// What the crates of this workspace use.
struct Graph {
    packages: Vec<Package>,
    /// Names of all crates each crate of this workspace reaches by normal and build edges.
    reached: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Dependency>,
    /// Feature and what it enables.
    #[serde(default)]
    features: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Absent for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

impl Graph {
    fn read(root: &Path) -> Result<Self> {
        Ok(Self::build(metadata::read(root, &[])?))
    }

    fn build(metadata: Metadata) -> Self {
        let names: BTreeMap<&str, &str> = metadata.packages.iter().map(|p| (&*p.id, &*p.name)).collect();
        let mut reached = BTreeMap::new();
        for member in &metadata.workspace_members {
            // What it uses outside its own tests.
            let seen = metadata.resolve.reached(&[&**member], |kind| kind != Some("dev"));
            let seen =
                seen.into_iter().filter_map(|id| names.get(id)).map(|name| (*name).to_owned()).collect();
            reached.insert(names.get(&**member).copied().unwrap_or_default().to_owned(), seen);
        }
        let members = metadata.workspace_members;
        let packages = metadata.packages.into_iter().filter(|p| members.contains(&p.id)).collect();
        Self { packages, reached }
    }

    fn findings(&self) -> Vec<String> {
        let mut all: Vec<_> = self.packages.iter().flat_map(|package| self.judge(package)).collect();
        all.sort();
        all
    }

    fn judge(&self, package: &Package) -> Vec<String> {
        let name = &*package.name;
        let Some((_, allowed)) = EDGES.iter().find(|(row, _)| *row == name) else {
            return vec![format!("`{name}` has no row in the table of edges")];
        };
        let mut found = enabled_for_use(package);
        for dependency in package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev")) {
            let target = &*dependency.name;
            if self.is_ours(target) && !allowed.contains(&target) {
                found.push(format!("`{name}` must not use `{target}`"));
            }
            let fence = FENCED.iter().find(|(library, _)| *library == target);
            if let Some((library, rooms)) = fence.filter(|(_, rooms)| !rooms.contains(&name)) {
                found.push(format!("`{name}` must not use `{library}`: only {} may", rooms.join(", ")));
            }
        }
        if NO_ASYNC.contains(&name) {
            let reached = self.reached.get(name).into_iter().flatten();
            let runtimes = reached.filter(|library| ASYNC_RUNTIMES.contains(&library.as_str()));
            found.extend(
                runtimes.map(|runtime| format!("`{name}` must not reach the async runtime `{runtime}`")),
            );
        }
        found
    }

    /// Edges that only tests use: allowed, but not unseen.
    fn exempt(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for package in &self.packages {
            for dependency in package.dependencies.iter().filter(|d| d.kind.as_deref() == Some("dev")) {
                if self.is_ours(&dependency.name) {
                    lines.push(format!("`{}` uses `{}`", package.name, dependency.name));
                }
            }
        }
        lines
    }

    fn is_ours(&self, name: &str) -> bool {
        self.packages.iter().any(|package| package.name == name)
    }
}

/// What would enable a feature of tests in a build for use.
fn enabled_for_use(package: &Package) -> Vec<String> {
    let is_for_tests = |feature: &&str| FOR_TESTS.contains(&feature.rsplit('/').next().unwrap_or_default());
    let shipped = package.dependencies.iter().filter(|d| d.kind.as_deref() != Some("dev"));
    let by_dependency = shipped.flat_map(|d| &d.features).map(String::as_str);
    let by_feature = package.features.iter().filter(|(name, _)| !FOR_TESTS.contains(&name.as_str()));
    let by_feature = by_feature.flat_map(|(_, enabled)| enabled).map(String::as_str);
    let named = by_dependency.chain(by_feature).filter(is_for_tests);
    named.map(|feature| format!("`{}` must not enable `{feature}`: it is for tests", package.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A workspace of these crates, where each edge is `(from, to, kind)`.
    fn graph(ours: &[&str], edges: &[(&str, &str, Option<&str>)]) -> Graph {
        let mut names: BTreeSet<&str> = ours.iter().copied().collect();
        names.extend(edges.iter().flat_map(|(from, to, _)| [*from, *to]));
        let from = |name: &str| edges.iter().filter(|(from, ..)| *from == name).copied().collect::<Vec<_>>();
        let dependencies = |name: &str| -> Vec<Value> {
            from(name).iter().map(|(_, to, kind)| json!({"name": to, "kind": kind})).collect()
        };
        let deps = |name: &str| -> Vec<Value> {
            from(name).iter().map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]})).collect()
        };
        let packages: Vec<_> =
            names.iter().map(|n| json!({"id": n, "name": n, "dependencies": dependencies(n)})).collect();
        let nodes: Vec<_> = names.iter().map(|n| json!({"id": n, "deps": deps(n)})).collect();
        let metadata = json!({"packages": packages, "workspace_members": ours, "resolve": {"nodes": nodes}});
        Graph::build(serde_json::from_value(metadata).unwrap())
    }

    fn findings(ours: &[&str], edges: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        graph(ours, edges).findings()
    }

    #[test]
    fn edges_the_table_does_not_allow_are_found() {
        let ours = ["turnout-engine", "turnout-host", "turnout-manifest"];
        assert!(findings(&ours, &[("turnout-engine", "turnout-manifest", None)]).is_empty());
        for kind in [None, Some("build")] {
            let found = findings(&ours, &[("turnout-engine", "turnout-host", kind)]);
            assert_eq!(found, ["`turnout-engine` must not use `turnout-host`"]);
        }
        assert_eq!(
            findings(&["turnout-newcomer"], &[]),
            ["`turnout-newcomer` has no row in the table of edges"]
        );
    }

    #[test]
    fn edges_of_tests_are_exempt_but_listed() {
        let graph =
            graph(&["turnout-engine", "turnout-host"], &[("turnout-engine", "turnout-host", Some("dev"))]);
        assert!(graph.findings().is_empty());
        assert_eq!(graph.exempt(), ["`turnout-engine` uses `turnout-host`"]);
    }

    #[test]
    fn features_of_tests_are_found_where_a_build_for_use_would_have_them() {
        let package = |kind: Option<&str>, features: Value| -> Package {
            let dependency = json!({"name": "turnout-launcher", "kind": kind, "features": ["weaken"]});
            let dependencies = json!([dependency]);
            let package = json!({"id": "a", "name": "a", "dependencies": dependencies, "features": features});
            serde_json::from_value(package).unwrap()
        };
        assert!(enabled_for_use(&package(Some("dev"), json!({"weaken": [], "default": ["std"]}))).is_empty());
        for (kind, features) in [
            (None, json!({})),
            (Some("build"), json!({})),
            (Some("dev"), json!({"default": ["weaken"]})),
            (Some("dev"), json!({"all": ["turnout-host/fake"]})),
        ] {
            assert_eq!(enabled_for_use(&package(kind, features.clone())).len(), 1, "{kind:?} {features}");
        }
    }

    #[test]
    fn fenced_libraries_are_found_outside_their_room() {
        assert!(findings(&["turnout-host"], &[("turnout-host", "aya", None)]).is_empty());
        for (name, library) in [("turnoutd", "aya"), ("turnoutd", "ort"), ("turnout-protocol", "clap")] {
            let found = findings(&[name], &[(name, library, None)]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(&format!("`{name}` must not use `{library}`")), "{found:?}");
        }
    }

    #[test]
    fn an_async_runtime_is_found_even_behind_another_crate() {
        let found =
            findings(&["turnout-journal"], &[("turnout-journal", "store", None), ("store", "tokio", None)]);
        assert_eq!(found, ["`turnout-journal` must not reach the async runtime `tokio`"]);
        let tests = [("turnout-journal", "store", Some("dev")), ("store", "tokio", None)];
        assert!(findings(&["turnout-journal"], &tests).is_empty());
    }

    #[test]
    fn every_crate_in_the_table_of_edges_is_named_there_once() {
        let names: BTreeSet<_> = EDGES.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), EDGES.len());
        assert!(EDGES.iter().all(|(_, allowed)| allowed.iter().all(|target| names.contains(target))));
    }
}
