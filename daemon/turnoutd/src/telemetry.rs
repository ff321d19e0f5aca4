//! What operators read: the log, to journald when the service manager started us, to stderr otherwise.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use turnout_engine::Record;

/// Begins to log. The level comes from `TURNOUT_LOG` (`info` by default).
pub fn init() {
    let filter = EnvFilter::try_from_env("TURNOUT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    match under_systemd.then(tracing_journald::layer).and_then(Result::ok) {
        Some(journald) => registry.with(journald.with_field_prefix(Some("TURNOUT".to_owned()))).init(),
        None => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false))
            .init(),
    }
}

/// One line for each record that an operator wants to see go by.
pub fn tell(record: &Record) {
    match record {
        Record::DaemonStarted { version } => tracing::info!(%version, "started"),
        Record::Examined { degraded } => {
            degraded.iter().for_each(|line| tracing::warn!("degraded: {line}"));
        }
        Record::Refused { by, what, why } => tracing::warn!(%by, %what, "refused: {}", why.join("; ")),
        Record::TrustAdded { by, issuer, key_id, .. } => tracing::info!(%by, %issuer, %key_id, "key trusted"),
        Record::TrustRemoved { by, key_id } => tracing::info!(%by, %key_id, "key no longer trusted"),
        Record::Importing { .. } => {}
        Record::Imported { by, version, digest, .. } => tracing::info!(%by, %version, %digest, "imported"),
        Record::Planned(planned) => tracing::info!(
            release = %planned.release, model = %planned.model, version = %planned.to.version, by = %planned.by,
            "release planned"
        ),
        Record::Intent { release, step, .. } => tracing::debug!(%release, "{step}"),
        Record::Done { release, step, detail, .. } if detail.is_empty() => {
            tracing::info!(%release, "{step}: done")
        }
        Record::Done { release, step, detail, .. } => tracing::info!(%release, "{step}: {detail}"),
        Record::Failed { release, step, why, .. } => tracing::error!(%release, "{step} failed: {why}"),
        Record::Observed { release, window, verdict } => tracing::info!(
            %release, requests = window.candidate.requests, errors = window.candidate.errors,
            p95_us = window.candidate.p95_us, "window {verdict:?}"
        ),
        Record::Held { release, why } => tracing::warn!(%release, "held: {why}"),
        Record::Resumed { release, by } => tracing::info!(%release, %by, "resumed"),
        Record::Interrupted { release, cause } => tracing::warn!(%release, "will be undone: {cause}"),
        Record::RollingBack { release, cause, .. } => tracing::warn!(%release, "rolling back: {cause}"),
        Record::Promoted { release } => tracing::info!(%release, "promoted"),
        Record::Ended { release, state, causes } => {
            tracing::info!(%release, ?state, "release ended: {}", causes.join("; "));
        }
        Record::WorkerDied { model, generation, why } => {
            tracing::error!(%model, %generation, "worker died: {why}")
        }
        Record::WorkerSilenced { model, generation, why } => {
            tracing::warn!(%model, %generation, "worker is not listened to any more: {why}")
        }
    }
}
