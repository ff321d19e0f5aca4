//! Families about the daemon, this host and the journal.

use super::{Metric, Scrape};
use crate::exposition::{Exposition, Kind, Number};
use std::collections::BTreeSet;
use turnout_host::archive::StoreState;
use turnout_protocol::router::Stats;

pub const METRICS: &[Metric] = &[
    Metric {
        name: "turnout_build_info",
        kind: Kind::Gauge,
        help: "Version of the daemon; always 1.",
        samples: |_, out| out.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1),
    },
    Metric {
        name: "turnout_start_time_seconds",
        kind: Kind::Gauge,
        help: "When the daemon started, seconds since the epoch.",
        samples: |scrape, out| out.sample(&[], Number::thousandths(scrape.daemon.started_ms)),
    },
    Metric {
        name: "turnout_starts_total",
        kind: Kind::Counter,
        help: "Starts of a daemon on this journal.",
        samples: |scrape, out| out.sample(&[], scrape.view.world.tally.starts),
    },
    Metric {
        name: "turnout_read_only",
        kind: Kind::Gauge,
        help: "1 while changes are refused because the journal cannot be written.",
        samples: |scrape, out| out.sample(&[], u64::from(scrape.view.read_only.is_some())),
    },
    Metric {
        name: "turnout_degraded",
        kind: Kind::Gauge,
        help: "1 for each requirement that this host does not fully meet, and for what else needs attention.",
        samples: degraded,
    },
    Metric {
        name: "turnout_attention",
        kind: Kind::Gauge,
        help: "1 for each subject that somebody should look at now.",
        samples: |scrape, out| subjects(scrape.status.concerns.iter(), "about", out),
    },
    Metric {
        name: "turnout_store_size_bytes",
        kind: Kind::Gauge,
        help: "Bytes of the file system that the store lies on.",
        samples: |scrape, out| store(scrape, out, |store| store.total_bytes),
    },
    Metric {
        name: "turnout_store_free_bytes",
        kind: Kind::Gauge,
        help: "Bytes of it that are free.",
        samples: |scrape, out| store(scrape, out, |store| store.free_bytes),
    },
    Metric {
        name: "turnout_store_reserve_bytes",
        kind: Kind::Gauge,
        help: "Bytes of it that imports leave free.",
        samples: |scrape, out| store(scrape, out, |store| store.reserve_bytes),
    },
    Metric {
        name: "turnout_store_read_only",
        kind: Kind::Gauge,
        help: "1 while the kernel takes no writes to the store.",
        samples: |scrape, out| store(scrape, out, |store| u64::from(store.read_only)),
    },
    Metric {
        name: "turnout_refusals_total",
        kind: Kind::Counter,
        help: "Requests to the control API that were refused or denied and journalled.",
        samples: |scrape, out| out.sample(&[], scrape.view.world.tally.refusals),
    },
    Metric {
        name: "turnout_journal_records_total",
        kind: Kind::Counter,
        help: "Records in the journal, all of them durable.",
        samples: |scrape, out| out.sample(&[], scrape.view.journal_size),
    },
    Metric {
        name: "turnout_journal_first_record",
        kind: Kind::Gauge,
        help: "Number of the first record that was not pruned.",
        samples: |scrape, out| out.sample(&[], scrape.view.world.archive.log.minimum_index()),
    },
    Metric {
        name: "turnout_journal_size_bytes",
        kind: Kind::Gauge,
        help: "Bytes of the journal's files.",
        samples: |scrape, out| out.sample(&[], scrape.view.journal_bytes),
    },
    Metric {
        name: "turnout_journal_last_sync_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When this daemon last made records durable, seconds since the epoch.",
        samples: |scrape, out| out.sample(&[], Number::thousandths(scrape.view.journal_synced_ms)),
    },
    Metric {
        name: "turnout_router_connections",
        kind: Kind::Gauge,
        help: "Clients' connections open at the router; absent while none runs.",
        samples: |scrape, out| router(scrape, out, |stats| stats.connections),
    },
    Metric {
        name: "turnout_router_requests_total",
        kind: Kind::Counter,
        help: "Requests that the router took to a version, by its role; a second opinion beside the kernel's counts.",
        samples: |scrape, out| {
            if let Some(stats) = &scrape.view.router {
                out.sample(&[("role", "candidate")], stats.to_candidate);
                out.sample(&[("role", "stable")], stats.to_stable);
            }
        },
    },
    Metric {
        name: "turnout_router_stood_in_total",
        kind: Kind::Counter,
        help: "Requests of the candidate that went to the stable version, because it took no connection.",
        samples: |scrape, out| router(scrape, out, |stats| stats.stood_in),
    },
    Metric {
        name: "turnout_router_refused_total",
        kind: Kind::Counter,
        help: "Requests that the router refused itself.",
        samples: |scrape, out| router(scrape, out, |stats| stats.refused),
    },
    Metric {
        name: "turnout_router_unanswered_total",
        kind: Kind::Counter,
        help: "Requests that a worker did not answer to the router, or not in time.",
        samples: |scrape, out| router(scrape, out, |stats| stats.unanswered),
    },
];

/// The store as it was a minute ago at most.
fn store(scrape: &Scrape<'_>, out: &mut Exposition, of: fn(&StoreState) -> u64) {
    if let Some(store) = scrape.daemon.condition.store() {
        out.sample(&[], of(&store));
    }
}

fn router(scrape: &Scrape<'_>, out: &mut Exposition, of: fn(&Stats) -> u64) {
    if let Some(stats) = &scrape.view.router {
        out.sample(&[], of(stats));
    }
}

fn degraded(scrape: &Scrape<'_>, out: &mut Exposition) {
    subjects(scrape.status.degraded.iter().chain(&scrape.status.concerns), "requirement", out);
}

/// The lines are `name: what was found`: the name alone is a label, because what was found may hold anything. It is told
/// once, however many lines it has.
fn subjects<'a>(lines: impl Iterator<Item = &'a String>, label: &str, out: &mut Exposition) {
    let names: BTreeSet<_> =
        lines.map(|line| line.split_once(':').map_or(line.as_str(), |(name, _)| name)).collect();
    for name in names {
        out.sample(&[(label, name)], 1);
    }
}
