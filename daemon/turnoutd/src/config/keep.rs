//! `[retention]`, `[store]` and `[audit]`: how long snapshots and versions are kept, how often the store is read through,
//! and who may look at it.

use crate::audit_http::AuditHttp;
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;
use turnout_engine::retention::Policy;
use turnout_host::volume::StoreKind;

/// Days after which the store is read through again, unless told otherwise.
const SCRUB_DAYS: u32 = 30;
/// Most days that can be asked for: a hundred years.
pub(super) const DAYS_MAX: u32 = 36_525;
const DAY: Duration = Duration::from_secs(86_400);

/// How long snapshots and versions are kept. What one key keeps is kept; without any, everything is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRetention {
    /// The newest so many snapshots stay. Default all, such as `100`.
    keep_last: Option<u32>,
    /// Snapshots younger than this stay. Default all, such as `90`.
    keep_within_days: Option<u32>,
    /// The newest so many versions of each model stay, beside those that are live, last good or held. Default all,
    /// such as `5`.
    keep_versions: Option<u32>,
}

/// What an auditor can reach.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAudit {
    /// The read-only view of snapshots over HTTP. Default off.
    http: Option<RawAuditHttp>,
}

/// The read-only view of snapshots over HTTP, off unless `listen` is given. The daemon's unit of a package does not let it
/// serve: there, `turnout-audit-view.socket` is enabled instead.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuditHttp {
    /// Where it listens, such as `127.0.0.1:8790`. There is no password: who reaches it reads everything.
    listen: SocketAddr,
    /// Uid of the process that serves it. Default `60999`.
    uid: Option<u32>,
}

/// The uid that serves snapshots, unless told otherwise.
const HTTP_UID: u32 = 60_999;

impl RawAudit {
    pub(super) fn check(&self, problems: &mut Vec<String>) -> Option<AuditHttp> {
        let RawAuditHttp { listen, uid } = self.http.as_ref()?;
        let uid = uid.unwrap_or(HTTP_UID);
        if !(1000..=u32::MAX - 1000).contains(&uid) {
            problems.push(format!("audit.http.uid {uid} must be 1000 or more: it must not be a system uid"));
        }
        if listen.port() == 0 {
            problems.push("audit.http.listen needs a port".to_owned());
        }
        Some(AuditHttp { listen: *listen, uid })
    }
}

/// Care of the store.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStore {
    /// What it is made of: `btrfs` (a subvolume, or an image), or `folder` for a host without Btrfs: no snapshots then.
    /// Default `btrfs`.
    kind: Option<RawKind>,
    /// Days between two scrubs, 0 for none. Default 30 for a store in an image of its own, none on the host's Btrfs;
    /// such as `30`.
    scrub_days: Option<u32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawKind {
    Btrfs,
    Folder,
}

/// Retention and scrubs, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// What the store is made of.
    pub store: StoreKind,
    /// What may be deleted.
    pub policy: Policy,
    scrub_days: Option<u32>,
}

impl Keep {
    pub(super) fn check(retention: &RawRetention, store: &RawStore, problems: &mut Vec<String>) -> Self {
        for (key, count) in [("keep_last", retention.keep_last), ("keep_versions", retention.keep_versions)] {
            if count == Some(0) {
                problems.push(format!("retention.{key} must be 1 or more: leave it out to keep everything"));
            }
        }
        for (key, days) in [
            ("retention.keep_within_days", retention.keep_within_days),
            ("store.scrub_days", store.scrub_days),
        ] {
            if days.is_some_and(|days| days > DAYS_MAX) {
                problems.push(format!("{key} must be at most {DAYS_MAX}"));
            }
        }
        if matches!(store.kind, Some(RawKind::Folder)) && store.scrub_days.is_some_and(|days| days > 0) {
            problems.push("store.scrub_days: a store in a plain folder has no checksums to scrub".to_owned());
        }
        let milliseconds = |days: u32| u64::from(days) * 86_400_000;
        let policy = Policy {
            keep_last: retention.keep_last,
            keep_within_ms: retention.keep_within_days.map(milliseconds),
            keep_versions: retention.keep_versions,
        };
        let kind = match store.kind {
            Some(RawKind::Folder) => StoreKind::Folder,
            Some(RawKind::Btrfs) | None => StoreKind::Btrfs,
        };
        Self { store: kind, policy, scrub_days: store.scrub_days }
    }

    /// How often the store is read through. The host's own Btrfs is cared for by the host, unless it is asked for here.
    pub fn scrub_every(&self, own_image: bool) -> Option<Duration> {
        let days = self.scrub_days.unwrap_or(if own_image { SCRUB_DAYS } else { 0 });
        (days > 0).then(|| DAY * days)
    }

    /// The policy in words, one rule a line.
    pub fn rules(&self) -> Vec<String> {
        let Policy { keep_last, keep_within_ms, keep_versions } = self.policy;
        let last = keep_last.map(|last| format!("the newest {last} snapshots stay"));
        let days = keep_within_ms.map(|ms| format!("snapshots younger than {} days stay", ms / 86_400_000));
        let versions = keep_versions.map(|count| format!("the newest {count} versions of each model stay"));
        last.into_iter().chain(days).chain(versions).collect()
    }
}
