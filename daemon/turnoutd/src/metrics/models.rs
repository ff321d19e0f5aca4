//! Families about models and their releases. Totals are counted over the whole journal: they begin anew with no daemon.

use super::{Metric, Scrape};
use crate::exposition::{Exposition, Kind, Number};
use turnout_engine::ModelTally;
use turnout_protocol::control::{ReleaseState, ReleaseStatus};

const STATES: [(ReleaseState, &str); 7] = [
    (ReleaseState::Running, "running"),
    (ReleaseState::Paused, "paused"),
    (ReleaseState::RollingBack, "rolling_back"),
    (ReleaseState::Promoted, "promoted"),
    (ReleaseState::RolledBack, "rolled_back"),
    (ReleaseState::Cancelled, "cancelled"),
    (ReleaseState::Stuck, "stuck"),
];

pub const METRICS: &[Metric] = &[
    Metric {
        name: "turnout_model_live",
        kind: Kind::Gauge,
        help: "1 while the live version's worker runs, 0 while it does not; absent while no version is live.",
        samples: live,
    },
    Metric {
        name: "turnout_releases_total",
        kind: Kind::Counter,
        help: "Releases that ended, by outcome; restarts of a dead worker are counted apart.",
        samples: |scrape, out| {
            each(scrape, |model, tally| {
                for (outcome, count) in [
                    ("promoted", tally.promoted),
                    ("rolled_back", tally.rolled_back),
                    ("cancelled", tally.cancelled),
                    ("stuck", tally.stuck),
                ] {
                    out.sample(&[("model", model), ("outcome", outcome)], count);
                }
            });
        },
    },
    Metric {
        name: "turnout_verdicts_total",
        kind: Kind::Counter,
        help: "Windows that were judged, by verdict.",
        samples: |scrape, out| {
            each(scrape, |model, tally| {
                for (verdict, count) in
                    [("met", tally.met), ("missed", tally.missed), ("insufficient", tally.insufficient)]
                {
                    out.sample(&[("model", model), ("verdict", verdict)], count);
                }
            });
        },
    },
    Metric {
        name: "turnout_step_failures_total",
        kind: Kind::Counter,
        help: "Steps and undos of releases that failed.",
        samples: |scrape, out| {
            each(scrape, |model, tally| out.sample(&[("model", model)], tally.failed_steps))
        },
    },
    Metric {
        name: "turnout_worker_deaths_total",
        kind: Kind::Counter,
        help: "Workers that ended without being told to.",
        samples: |scrape, out| {
            each(scrape, |model, tally| out.sample(&[("model", model)], tally.worker_deaths));
        },
    },
    Metric {
        name: "turnout_worker_restarts_total",
        kind: Kind::Counter,
        help: "Times that a dead worker of a live version was started again.",
        samples: |scrape, out| each(scrape, |model, tally| out.sample(&[("model", model)], tally.restarts)),
    },
    Metric {
        name: "turnout_worker_restarts_failed_total",
        kind: Kind::Counter,
        help: "Of these, the times that it did not come up; it is tried again.",
        samples: |scrape, out| {
            each(scrape, |model, tally| out.sample(&[("model", model)], tally.restarts_failed));
        },
    },
    Metric {
        name: "turnout_release_state",
        kind: Kind::Gauge,
        help: "1 for the state of the model's release under way, or of its last one.",
        samples: |scrape, out| {
            releases(scrape, |model, release| {
                for (state, name) in STATES {
                    out.sample(&[("model", model), ("state", name)], u64::from(release.state == state));
                }
            });
        },
    },
    Metric {
        name: "turnout_release_ordinal",
        kind: Kind::Gauge,
        help: "Number of that release: 4 is r-4.",
        samples: |scrape, out| {
            releases(scrape, |model, release| {
                out.sample(&[("model", model)], u64::from(release.release_id.ordinal()));
            });
        },
    },
    Metric {
        name: "turnout_release_step",
        kind: Kind::Gauge,
        help: "Step that the release is at, from 1.",
        samples: |scrape, out| {
            releases(scrape, |model, release| {
                out.sample(&[("model", model)], u64::from(release.step_number));
            });
        },
    },
    Metric {
        name: "turnout_release_steps",
        kind: Kind::Gauge,
        help: "Steps that the release has.",
        samples: |scrape, out| {
            releases(scrape, |model, release| out.sample(&[("model", model)], u64::from(release.step_count)));
        },
    },
    Metric {
        name: "turnout_release_asked_timestamp_seconds",
        kind: Kind::Gauge,
        help: "When the release was asked for, seconds since the epoch.",
        samples: |scrape, out| {
            releases(scrape, |model, release| {
                out.sample(&[("model", model)], Number::thousandths(release.timings.asked_at_ms));
            });
        },
    },
];

fn live(scrape: &Scrape<'_>, out: &mut Exposition) {
    for (name, model) in &scrape.view.world.models {
        if model.live.is_some() {
            out.sample(&[("model", name.as_str())], u64::from(!model.live_died));
        }
    }
}

fn each(scrape: &Scrape<'_>, mut tell: impl FnMut(&str, &ModelTally)) {
    scrape.view.world.tally.models.iter().for_each(|(model, tally)| tell(model.as_str(), tally));
}

fn releases(scrape: &Scrape<'_>, mut tell: impl FnMut(&str, &ReleaseStatus)) {
    for model in &scrape.status.models {
        if let Some(release) = &model.release {
            tell(model.model.as_str(), release);
        }
    }
}
