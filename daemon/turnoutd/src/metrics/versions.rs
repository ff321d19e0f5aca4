//! Families about versions with a worker: shares, what the kernel saw of each, what its cell uses. The kernel's counters
//! live as long as the worker: a daemon that is killed or replaced finds them as they are.

use super::{Metric, Scrape, with};
use crate::exposition::{Exposition, Kind, Number};
use crate::totals::{BOUNDS, Totals, bound_ns};
use turnout_host::meters::Usage;
use turnout_protocol::control::Role;

const WORKER_STATES: [&str; 4] = ["starting", "ready", "draining", "dead"];

pub const METRICS: &[Metric] = &[
    Metric {
        name: "turnout_version_info",
        kind: Kind::Gauge,
        help: "What each version with a worker is; always 1.",
        samples: info,
    },
    Metric {
        name: "turnout_worker_state",
        kind: Kind::Gauge,
        help: "1 for the state that the version's worker is in.",
        samples: worker_state,
    },
    Metric {
        name: "turnout_weight_asked_ratio",
        kind: Kind::Gauge,
        help: "Share of new connections that the version should get.",
        samples: |scrape, out| {
            for served in scrape.versions() {
                let asked = u64::from(served.live.asked.thousandths());
                out.sample(&served.labels, Number::hundred_thousandths(asked));
            }
        },
    },
    Metric {
        name: "turnout_weight_seen_ratio",
        kind: Kind::Gauge,
        help: "Share of the model's requests that the version had in the last second.",
        samples: |scrape, out| {
            for served in scrape.versions() {
                let seen = u64::from(served.live.seen.share_thousandths);
                out.sample(&served.labels, Number::hundred_thousandths(seen));
            }
        },
    },
    Metric {
        name: "turnout_requests_total",
        kind: Kind::Counter,
        help: "Requests that began, as the kernel saw them.",
        samples: |scrape, out| count(scrape, out, |totals| Some(totals.sample.requests)),
    },
    Metric {
        name: "turnout_responses_total",
        kind: Kind::Counter,
        help: "Answers that began, by class of status; `not_http` does not begin like HTTP.",
        samples: responses,
    },
    Metric {
        name: "turnout_requests_aborted_total",
        kind: Kind::Counter,
        help: "Requests whose connection the worker closed without an answer.",
        samples: |scrape, out| count(scrape, out, |totals| Some(totals.sample.aborted)),
    },
    Metric {
        name: "turnout_requests_abandoned_total",
        kind: Kind::Counter,
        help: "Requests that the client walked away from before their answer began.",
        samples: |scrape, out| count(scrape, out, |totals| Some(totals.sample.client_gone)),
    },
    Metric {
        name: "turnout_connections_opened_total",
        kind: Kind::Counter,
        help: "Connections that made their first request.",
        samples: |scrape, out| count(scrape, out, |totals| Some(totals.sample.opened)),
    },
    Metric {
        name: "turnout_connections_closed_total",
        kind: Kind::Counter,
        help: "Connections that made a request and were closed.",
        samples: |scrape, out| count(scrape, out, |totals| Some(totals.sample.closed)),
    },
    Metric {
        name: "turnout_request_duration_seconds",
        kind: Kind::Histogram,
        help: "Time from the last byte of a request to the last byte of its answer, as the kernel saw it; \
               the sum is estimated from the kernel's buckets, at most 6.25 % off.",
        samples: durations,
    },
    Metric {
        name: "turnout_assertion_failures_total",
        kind: Kind::Counter,
        help: "Answers withheld because an assertion failed, as the worker counts them; each is also a 5xx.",
        samples: |scrape, out| count(scrape, out, |totals| Some(totals.counts?.assertion_failures)),
    },
    Metric {
        name: "turnout_contract_refusals_total",
        kind: Kind::Counter,
        help: "Requests that broke the contract, as the worker counts them; each is also a 4xx.",
        samples: |scrape, out| count(scrape, out, |totals| Some(totals.counts?.contract_refusals)),
    },
    Metric {
        name: "turnout_cell_memory_bytes",
        kind: Kind::Gauge,
        help: "Memory that the worker's cell uses; absent without the controller `memory`.",
        samples: |scrape, out| usage(scrape, out, |usage| usage.memory_bytes),
    },
    Metric {
        name: "turnout_cell_memory_limit_bytes",
        kind: Kind::Gauge,
        help: "Most memory that the cell may use; absent where its cgroup does not limit it.",
        samples: |scrape, out| usage(scrape, out, |usage| usage.memory_limit_bytes),
    },
    Metric {
        name: "turnout_cell_oom_kills_total",
        kind: Kind::Counter,
        help: "Processes of the cell that were killed for want of memory.",
        samples: |scrape, out| usage(scrape, out, |usage| usage.oom_kills),
    },
    Metric {
        name: "turnout_cell_processes",
        kind: Kind::Gauge,
        help: "Processes and threads of the cell; absent without the controller `pids`.",
        samples: |scrape, out| usage(scrape, out, |usage| usage.processes),
    },
    Metric {
        name: "turnout_cell_processes_limit",
        kind: Kind::Gauge,
        help: "Most that it may have; absent where its cgroup does not limit them.",
        samples: |scrape, out| usage(scrape, out, |usage| usage.processes_limit),
    },
    Metric {
        name: "turnout_cell_cpu_seconds_total",
        kind: Kind::Counter,
        help: "CPU time that the cell has used.",
        samples: |scrape, out| {
            for (labels, totals) in scrape.measured() {
                if let Some(microseconds) = totals.usage.cpu_us {
                    out.sample(&labels, Number::millionths(microseconds));
                }
            }
        },
    },
    Metric {
        name: "turnout_cell_cpus",
        kind: Kind::Gauge,
        help: "CPUs that the cell may run on; absent without the controller `cpuset`.",
        samples: |scrape, out| usage(scrape, out, |usage| usage.cpus),
    },
    Metric {
        name: "turnout_cell_cpus_limit",
        kind: Kind::Gauge,
        help: "Most CPU time that the cell may use, CPUs; absent where its cgroup does not limit it.",
        samples: |scrape, out| {
            for (labels, totals) in scrape.measured() {
                if let Some(thousandths) = totals.usage.cpu_limit_thousandths {
                    out.sample(&labels, Number::thousandths(thousandths));
                }
            }
        },
    },
    Metric {
        name: "turnout_cell_cpu_throttled_periods_total",
        kind: Kind::Counter,
        help: "Periods in which the cell had used up its CPU time; absent without the controller `cpu`.",
        samples: |scrape, out| usage(scrape, out, |usage| usage.cpu_throttled),
    },
];

fn info(scrape: &Scrape<'_>, out: &mut Exposition) {
    for served in scrape.versions() {
        let role = match served.live.role {
            Role::Stable => "stable",
            Role::Candidate => "candidate",
        };
        let (digest, generation) = (served.live.digest.to_string(), served.live.generation.to_string());
        let [model, version] = served.labels;
        out.sample(&[model, version, ("role", role), ("generation", &generation), ("digest", &digest)], 1);
    }
}

fn worker_state(scrape: &Scrape<'_>, out: &mut Exposition) {
    for served in scrape.versions() {
        for state in WORKER_STATES {
            out.sample(&with(served.labels, ("state", state)), u64::from(served.live.worker == state));
        }
    }
}

fn responses(scrape: &Scrape<'_>, out: &mut Exposition) {
    for (labels, totals) in scrape.measured() {
        let seen = &totals.sample;
        for (class, count) in [
            ("2xx_3xx", seen.success),
            ("4xx", seen.client_errors),
            ("5xx", seen.server_errors),
            ("not_http", seen.not_http),
        ] {
            out.sample(&with(labels, ("class", class)), count);
        }
    }
}

fn durations(scrape: &Scrape<'_>, out: &mut Exposition) {
    for (labels, totals) in scrape.measured() {
        let latency = &totals.latency;
        for index in 0..BOUNDS {
            let bound = Number::billionths(bound_ns(index)).to_string();
            out.part("_bucket", &with(labels, ("le", &bound)), latency.upto[index]);
        }
        out.part("_bucket", &with(labels, ("le", "+Inf")), latency.count);
        out.part("_sum", &labels, Number::billionths(latency.sum_ns));
        out.part("_count", &labels, latency.count);
    }
}

fn count(scrape: &Scrape<'_>, out: &mut Exposition, of: fn(&Totals) -> Option<u64>) {
    for (labels, totals) in scrape.measured() {
        if let Some(count) = of(totals) {
            out.sample(&labels, count);
        }
    }
}

fn usage(scrape: &Scrape<'_>, out: &mut Exposition, of: fn(&Usage) -> Option<u64>) {
    for (labels, totals) in scrape.measured() {
        if let Some(value) = of(&totals.usage) {
            out.sample(&labels, value);
        }
    }
}
