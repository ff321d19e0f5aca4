//! A signed exception: an untrusted version may run for a time, on a channel where the trust root lets exceptions be. It
//! never makes a rejected one run.

use crate::digest::Sha256;
use crate::envelope::Envelope;
use crate::ids::{Channel, ModelName};
use crate::judgement::Purpose;
use crate::quorum::{self, Examined};
use crate::root::{TrustRoot, check_reason};
use crate::root_chain::check_clock;
use crate::trust::{chain, rejected, untrusted};
use serde::{Deserialize, Serialize};

/// The payload type of an exception.
pub const EXCEPTION_TYPE: &str = "application/vnd.turnout.trust-exception.v1+json";
/// The schema name of an exception's JSON.
pub const EXCEPTION_SCHEMA: &str = "turnout.trust-exception/v1";
/// Greatest length of a signed exception, bytes.
pub const SIGNED_EXCEPTION_MAX: usize = 16 * 1024;
/// Longest time that an exception may last: 30 days.
pub const LASTS_MAX_MS: u64 = 30 * 86_400_000;

const CHECKS: [&str; 8] =
    ["envelope", "payload-type", "signature", "threshold", "canonical", "document", "channel", "expiry"];

/// An untrusted version that may run for a time. Times are milliseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustException {
    /// [`EXCEPTION_SCHEMA`].
    pub schema: String,
    /// Digest of the manifest that it is for.
    pub manifest: Sha256,
    /// Its model.
    pub model: ModelName,
    /// Its channel.
    pub channel: Channel,
    /// Why, for people.
    pub reason: String,
    /// When it was written, as its author says.
    pub created_ms: u64,
    /// From when on nothing new may be deployed by it.
    pub expires_ms: u64,
}

impl TrustException {
    /// What it says, for people.
    pub fn told(&self) -> String {
        format!("excepted for a time: {}", self.reason)
    }
}

/// Verifies a signed exception against the root in force. Its expiry and its keys' windows count for new work alone.
pub fn verify(bytes: &[u8], root: &TrustRoot, (now_ms, purpose): (u64, Purpose)) -> Examined<TrustException> {
    Examined::of(&CHECKS, |checks| {
        let envelope: Envelope = quorum::open(checks, bytes, (EXCEPTION_TYPE, SIGNED_EXCEPTION_MAX))?;
        let Some(policy) = &root.exceptions else {
            return Err(untrusted("threshold", "the trust root lets nobody sign exceptions"));
        };
        let at_ms = (purpose == Purpose::NewWork).then_some(now_ms);
        let (exception, _): (TrustException, _) =
            quorum::signed(checks, &envelope, (&root.keys, &policy.signers), at_ms)?;
        if exception.schema != EXCEPTION_SCHEMA {
            return Err(rejected("document", format!("schema is not `{EXCEPTION_SCHEMA}`")));
        }
        check_reason(&exception.reason).map_err(|error| rejected("document", chain(&error)))?;
        let lasts = exception.expires_ms.checked_sub(exception.created_ms);
        if lasts.is_none_or(|lasts| lasts == 0 || lasts > LASTS_MAX_MS) {
            return Err(rejected("document", "it lasts no time, or more than 30 days"));
        }
        checks.pass("document", format!("exception for `{}`, {}", exception.model, exception.manifest));
        if !policy.channels.contains(&exception.channel) {
            let detail = format!("the trust root allows no exceptions on channel `{}`", exception.channel);
            return Err(untrusted("channel", detail));
        }
        checks.pass("channel", format!("exceptions are allowed on channel `{}`", exception.channel));
        if purpose == Purpose::NewWork {
            check_clock(root, now_ms)?;
            if exception.expires_ms <= now_ms {
                return Err(untrusted("expiry", "the exception has expired: have another signed"));
            }
        }
        checks.pass("expiry", "the exception has not expired");
        Ok(exception)
    })
}
