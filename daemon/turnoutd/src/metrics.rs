//! `GET /v1/metrics`: what the loop has published, as families of the Prometheus text format. Each file beside this one
//! is the table of one subject. The label values are names of models and versions, closed lists of words, and ordinals
//! of what has a worker now: as many series as there are workers, never more with each release or request.

mod daemon;
mod models;
mod tenants;
mod triton;
mod versions;

use crate::exposition::{Exposition, Kind};
use crate::totals::Totals;
use crate::view::{Daemon, View};
use std::sync::Arc;
use turnout_manifest::{Generation, Percent};
use turnout_protocol::control::{LiveVersion, Status};

/// Media type of the text.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One family.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What a reader may do with it.
    pub kind: Kind,
    /// What it says, for people.
    pub help: &'static str,
    samples: fn(&Scrape<'_>, &mut Exposition),
}

/// Every family, in order.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    [daemon::METRICS, models::METRICS, tenants::METRICS, versions::METRICS, triton::METRICS]
        .into_iter()
        .flatten()
}

/// The text of one moment, with what the intake has to say of trust. A family without samples is left out.
pub fn text(view: &View, daemon: &Daemon, trust: Option<String>) -> String {
    let scrape = Scrape { view, daemon, status: view.status(daemon, trust) };
    let mut whole = String::new();
    for metric in all() {
        let mut out = Exposition::default();
        out.family(metric.name, metric.kind, metric.help);
        let head = out.len();
        (metric.samples)(&scrape, &mut out);
        if out.len() > head {
            whole += &out.into_text();
        }
    }
    whole
}

/// What is told at one moment.
struct Scrape<'a> {
    view: &'a View,
    daemon: &'a Daemon,
    status: Status,
}

/// One version with a worker.
struct Served<'a> {
    labels: [(&'a str, &'a str); 2],
    live: &'a LiveVersion,
    totals: Option<&'a Totals>,
}

impl Scrape<'_> {
    /// Every version with a worker. Of two starts of one version, a dead one and its successor, only the newer: its
    /// counters begin at 0, which readers know how to take.
    fn versions(&self) -> impl Iterator<Item = Served<'_>> {
        self.status.models.iter().flat_map(move |model| {
            let newest = move |live: &&LiveVersion| {
                let newer =
                    |other: &LiveVersion| other.version == live.version && other.generation > live.generation;
                !model.versions.iter().any(newer)
            };
            // What a worker with two versions did is the doing of the one that answers.
            let idle = move |live: &LiveVersion| {
                let shares = |other: &LiveVersion| {
                    other.generation == live.generation && other.version != live.version
                };
                live.asked == Percent::NONE && model.versions.iter().any(shares)
            };
            model.versions.iter().filter(newest).map(move |live| Served {
                labels: [("model", model.model.as_str()), ("version", live.version.as_str())],
                live,
                totals: self
                    .view
                    .totals
                    .get(&Generation(live.generation))
                    .filter(|_| !idle(live))
                    .map(Arc::as_ref),
            })
        })
    }

    /// The same, of those whose totals are known.
    fn measured(&self) -> impl Iterator<Item = ([(&str, &str); 2], &Totals)> {
        self.versions().filter_map(|served| Some((served.labels, served.totals?)))
    }
}

/// The labels of a version and one more.
fn with<'a>([model, version]: [(&'a str, &'a str); 2], more: (&'a str, &'a str)) -> [(&'a str, &'a str); 3] {
    [model, version, more]
}

#[cfg(test)]
mod tests;
