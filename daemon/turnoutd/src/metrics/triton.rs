//! The same figures under the names of Triton Inference Server, for dashboards that exist. Told are those whose meaning
//! the kernel's counters have: not queueing and computing apart, not batches, not the GPU.

use super::{Metric, Scrape, with};
use crate::exposition::{Exposition, Kind};

pub const METRICS: &[Metric] = &[
    Metric {
        name: "nv_inference_request_success",
        kind: Kind::Counter,
        help: "Requests answered with 2xx or 3xx, whatever their path (name of Triton).",
        samples: success,
    },
    Metric {
        name: "nv_inference_request_failure",
        kind: Kind::Counter,
        help: "Requests that failed (name of Triton): OTHER is 4xx, CANCELED left by the client, \
               BACKEND 5xx, aborted or not HTTP.",
        samples: failure,
    },
    Metric {
        name: "nv_inference_count",
        kind: Kind::Counter,
        help: "Inferences (name of Triton): one for each request that succeeded, whatever the size of its batch.",
        samples: success,
    },
    Metric {
        name: "nv_inference_exec_count",
        kind: Kind::Counter,
        help: "Runs of the model (name of Triton): as many as inferences, because requests are not batched.",
        samples: success,
    },
    Metric {
        name: "nv_inference_request_duration_us",
        kind: Kind::Counter,
        help: "Sum of the times from request to last byte, microseconds (name of Triton), of failures too; \
               estimated from the kernel's buckets.",
        samples: |scrape, out| {
            for (labels, totals) in scrape.measured() {
                out.sample(&labels, totals.latency.sum_ns / 1000);
            }
        },
    },
];

fn success(scrape: &Scrape<'_>, out: &mut Exposition) {
    for (labels, totals) in scrape.measured() {
        out.sample(&labels, totals.sample.success);
    }
}

fn failure(scrape: &Scrape<'_>, out: &mut Exposition) {
    for (labels, totals) in scrape.measured() {
        let seen = &totals.sample;
        for (reason, count) in [
            ("OTHER", seen.client_errors),
            ("CANCELED", seen.client_gone),
            ("BACKEND", seen.server_errors + seen.not_http + seen.aborted),
        ] {
            out.sample(&with(labels, ("reason", reason)), count);
        }
    }
}
