//! A signed release order: this version, on this host or group, on this channel, and not an older one. The counter that
//! only grows stands here and never on a model, so that an older version can always be ordered anew.

use crate::canonical::INTEGER_MAX;
use crate::digest::Sha256;
use crate::ids::{Channel, HostName, ModelName, VersionRef};
use crate::quorum::{self, Examined};
use crate::root::{OrderPolicy, TrustRoot};
use crate::root_chain::check_clock;
use crate::trust::{Refusal, rejected, untrusted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The payload type of a release order.
pub const ORDER_TYPE: &str = "application/vnd.turnout.release-order.v1+json";
/// The schema name of an order's JSON.
pub const ORDER_SCHEMA: &str = "turnout.release-order/v1";
/// Greatest length of a signed order, bytes.
pub const SIGNED_ORDER_MAX: usize = 16 * 1024;

const CHECKS: [&str; 10] = [
    "envelope",
    "payload-type",
    "signature",
    "threshold",
    "canonical",
    "document",
    "target",
    "manifest",
    "counter",
    "expiry",
];

/// An order to release one version. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseOrder {
    /// [`ORDER_SCHEMA`].
    pub schema: String,
    /// Where.
    pub target: OrderTarget,
    /// The version's channel, in which counters grow.
    pub channel: Channel,
    /// The series that the counter belongs to, as the trust root says.
    pub epoch: u64,
    /// Greater than that of every order before in this epoch and channel.
    pub counter: u64,
    /// When it was written, as its author says.
    pub created_ms: u64,
    /// From when on it orders nothing.
    pub expires_ms: u64,
    /// The model.
    pub model: ModelName,
    /// Digest of the version's manifest.
    pub manifest: Sha256,
}

/// Where an order holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderTarget {
    /// On one host.
    Host(HostName),
    /// On every host of a group.
    Group(HostName),
}

impl fmt::Display for OrderTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => out.pad(&format!("host `{name}`")),
            Self::Group(name) => out.pad(&format!("group `{name}`")),
        }
    }
}

/// What a host is called in orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whereabouts {
    /// Its own name.
    pub host: HostName,
    /// The groups that it belongs to.
    pub groups: Vec<HostName>,
}

impl Whereabouts {
    fn meets(&self, target: &OrderTarget) -> bool {
        match target {
            OrderTarget::Host(name) => *name == self.host,
            OrderTarget::Group(name) => self.groups.contains(name),
        }
    }
}

/// An order that was used, as the journal keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsedOrder {
    /// Its epoch.
    pub epoch: u64,
    /// Its counter.
    pub counter: u64,
    /// SHA-256 of its signed payload.
    pub digest: Sha256,
}

impl UsedOrder {
    /// Whether this order may be used after that one: a later epoch, a greater counter, or the very same order again.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn may_follow(&self, last: Option<&Self>) -> Result<(), String> {
        let Some(last) = last else { return Ok(()) };
        if *self == *last || (self.epoch, self.counter) > (last.epoch, last.counter) {
            return Ok(());
        }
        let (epoch, counter) = (last.epoch, last.counter);
        if (self.epoch, self.counter) == (epoch, counter) {
            return Err(format!("counter {counter} of epoch {epoch} was used for another order"));
        }
        Err(format!(
            "counter {} of epoch {} is not greater than {counter} of epoch {epoch}, which was used last",
            self.counter, self.epoch
        ))
    }
}

/// An order that whoever may has signed, for this host, this version and this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedOrder {
    /// The order.
    pub order: ReleaseOrder,
    /// Its place in the series.
    pub used: UsedOrder,
}

/// What an order is held against.
#[derive(Debug, Clone, Copy)]
pub struct OrderOccasion<'a> {
    /// The clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// This host.
    pub here: &'a Whereabouts,
    /// The version that is to be released.
    pub version: &'a VersionRef,
    /// Digest of its manifest.
    pub manifest: Sha256,
    /// Its channel.
    pub channel: &'a Channel,
    /// The last order of each channel.
    pub used: &'a BTreeMap<Channel, UsedOrder>,
}

/// Verifies a signed order against the root in force, for one version on this host. It changes nothing: its counter is
/// used up when the release is planned.
pub fn verify(bytes: &[u8], root: &TrustRoot, occasion: &OrderOccasion<'_>) -> Examined<VerifiedOrder> {
    Examined::of(&CHECKS, |checks| {
        let envelope = quorum::open(checks, bytes, (ORDER_TYPE, SIGNED_ORDER_MAX))?;
        let Some(policy) = &root.orders else {
            return Err(untrusted("threshold", "the trust root lets nobody sign orders"));
        };
        let (order, digest): (ReleaseOrder, _) =
            quorum::signed(checks, &envelope, (&root.keys, &policy.signers), Some(occasion.now_ms))?;
        if order.schema != ORDER_SCHEMA || order.expires_ms <= order.created_ms {
            return Err(rejected("document", format!("schema is not `{ORDER_SCHEMA}`, or it lasts no time")));
        }
        checks.pass("document", format!("order {} of epoch {}", order.counter, order.epoch));
        if !occasion.here.meets(&order.target) {
            let detail = format!("it is for {}, and this is host `{}`", order.target, occasion.here.host);
            return Err(rejected("target", detail));
        }
        checks.pass("target", format!("it is for {}", order.target));
        check_version(&order, occasion)?;
        checks.pass("manifest", format!("it orders {} ({})", occasion.version, order.manifest));
        let used = UsedOrder { epoch: order.epoch, counter: order.counter, digest };
        check_counter(&order, policy, (&used, occasion))?;
        checks.pass("counter", format!("{} of epoch {}", order.counter, order.epoch));
        check_dates(&order, root, occasion.now_ms)?;
        checks.pass("expiry", "neither the order nor the trust root has expired");
        Ok(VerifiedOrder { order, used })
    })
}

fn check_version(order: &ReleaseOrder, occasion: &OrderOccasion<'_>) -> Result<(), Refusal> {
    let OrderOccasion { version, manifest, channel, .. } = occasion;
    if order.model != version.model || order.manifest != *manifest {
        let detail = format!("it orders `{}` {}, not `{version}` {manifest}", order.model, order.manifest);
        return Err(rejected("manifest", detail));
    }
    if order.channel != **channel {
        let detail = format!("it is for channel `{}`, and `{version}` is for `{channel}`", order.channel);
        return Err(rejected("manifest", detail));
    }
    Ok(())
}

fn check_counter(
    order: &ReleaseOrder,
    policy: &OrderPolicy,
    (used, occasion): (&UsedOrder, &OrderOccasion<'_>),
) -> Result<(), Refusal> {
    if order.epoch != policy.epoch {
        let detail = format!("epoch {} where the trust root has {}", order.epoch, policy.epoch);
        return Err(rejected("counter", detail));
    }
    // An order with the last counter would be the last one of its epoch.
    if order.counter >= INTEGER_MAX.unsigned_abs() {
        return Err(rejected("counter", format!("{} leaves no room for a later order", order.counter)));
    }
    let floor = policy.floors.get(&order.channel).copied().unwrap_or(0);
    if order.counter < floor {
        let detail = format!("{} is below {floor}, the floor of channel `{}`", order.counter, order.channel);
        return Err(rejected("counter", detail));
    }
    used.may_follow(occasion.used.get(&order.channel)).map_err(|detail| rejected("counter", detail))
}

fn check_dates(order: &ReleaseOrder, root: &TrustRoot, now_ms: u64) -> Result<(), Refusal> {
    check_clock(root, now_ms)?;
    if root.expires_ms <= now_ms {
        return Err(untrusted("expiry", format!("trust root {} has expired", root.version)));
    }
    if order.expires_ms <= now_ms {
        return Err(untrusted("expiry", "the order has expired: have another signed"));
    }
    Ok(())
}
