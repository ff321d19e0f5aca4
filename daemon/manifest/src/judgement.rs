//! What whose signatures count make of a manifest: the plain trust store, where one key is enough, or the signed trust
//! root with thresholds, roles, channels, key states, a deny list and exceptions.

use crate::digest::Sha256;
use crate::exception::{self, TrustException};
use crate::ids::Channel;
use crate::key::{KeyId, PublicKey};
use crate::key_window::utc;
use crate::manifest::Manifest;
use crate::root::{Issuer, KeyState, RootKey, TrustRoot};
use crate::root_chain::check_clock;
use crate::trust::{CheckResult, Outcome, Refusal, Verdict, rejected, untrusted};
use crate::trust_store::TrustStore;
use std::collections::BTreeSet;

/// Checks that only a signed root makes, between `manifest` and `files`.
pub(crate) const ROOT_CHECKS: [&str; 7] =
    ["deny-list", "key-state", "trust", "channel", "threshold", "roles", "expiry"];

/// Where a host's configuration names the channels that it serves.
pub const CHANNELS_KEY: &str = "[trust] channels";

/// Whose signatures count.
#[derive(Debug, Clone, Copy)]
pub enum Authority<'a> {
    /// Single keys, each enough for its models.
    Store(&'a TrustStore),
    /// A signed root.
    Root(&'a TrustRoot),
}

/// What a verdict depends on besides what is signed.
#[derive(Clone, Copy)]
pub struct Occasion<'a> {
    /// The clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// What for.
    pub purpose: Purpose,
    /// Channels that this host serves; `None` asks for none.
    pub channels: Option<&'a [Channel]>,
    /// What is known of a manifest from before.
    pub history: &'a dyn History,
}

/// What a host knows of manifests from before, by its own journal and never by what a signer says.
pub trait History {
    /// When it first took the manifest in, milliseconds since the Unix epoch.
    fn first_seen_ms(&self, manifest: Sha256) -> Option<u64>;

    /// The signed exception that it was given for the manifest.
    fn exception(&self, manifest: Sha256) -> Option<&str>;
}

/// Nothing is known from before.
#[derive(Debug, Clone, Copy)]
pub struct NoHistory;

impl History for NoHistory {
    fn first_seen_ms(&self, _: Sha256) -> Option<u64> {
        None
    }

    fn exception(&self, _: Sha256) -> Option<&str> {
        None
    }
}

/// What a verification is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Something that has not run yet: everything must be fresh.
    NewWork,
    /// What runs already, or did: it goes on, and can be returned to, when a date has passed.
    KeepRunning,
}

impl Occasion<'_> {
    /// Nothing is known but the signed bytes; nothing that depends on the time is new work.
    pub const fn plain() -> Self {
        Self { now_ms: 0, purpose: Purpose::KeepRunning, channels: None, history: &NoHistory }
    }
}

/// What is judged, once its form and its signatures hold.
pub(crate) struct Case<'a> {
    pub manifest: &'a Manifest,
    pub digest: Sha256,
    /// Known keys whose signatures hold, each once.
    pub signers: &'a [KeyId],
}

/// What came of it.
pub(crate) struct Judgement {
    pub verdict: Verdict,
    pub checks: Vec<CheckResult>,
    /// Set when the manifest may be acted on: it is valid, or excepted.
    pub counted: Option<Counted>,
}

/// Whose signatures counted.
pub(crate) struct Counted {
    pub signed_by: Vec<String>,
    pub key_ids: Vec<KeyId>,
}

impl<'a> Authority<'a> {
    /// The key of this id, and whose it is.
    pub(crate) fn find(self, key_id: KeyId) -> Option<(&'a str, &'a PublicKey)> {
        match self {
            Self::Store(store) => store.find(key_id).map(|key| (key.issuer.as_str(), &key.public_key)),
            Self::Root(root) => root.find(key_id).map(|key| (key.owner.as_str(), &key.public_key)),
        }
    }

    /// Every key, and whose it is.
    pub(crate) fn keys(self) -> Vec<(&'a str, &'a PublicKey)> {
        match self {
            Self::Store(store) => {
                store.keys().iter().map(|key| (key.issuer.as_str(), &key.public_key)).collect()
            }
            Self::Root(root) => root.keys.iter().map(|key| (key.owner.as_str(), &key.public_key)).collect(),
        }
    }

    /// The names of the checks between `manifest` and `files`.
    pub(crate) fn checks(self) -> &'static [&'static str] {
        match self {
            Self::Store(_) => &["trust"],
            Self::Root(_) => &ROOT_CHECKS,
        }
    }

    /// The signed exception for this manifest, if there is one that holds. It is asked for before the manifest is parsed.
    pub(crate) fn exception(
        self,
        digest: Sha256,
        occasion: &Occasion<'_>,
    ) -> Option<Result<TrustException, String>> {
        let Self::Root(root) = self else { return None };
        let bytes = occasion.history.exception(digest)?;
        let examined = exception::verify(bytes.as_bytes(), root, (occasion.now_ms, occasion.purpose));
        let failed = examined.checks.iter().find(|check| check.result == Outcome::Fail);
        let why = failed.map(|check| format!("{}: {}", check.name, check.detail)).unwrap_or_default();
        Some(examined.into_accepted().filter(|it| it.manifest == digest).ok_or(why))
    }

    /// Judges a manifest whose form and signatures hold.
    pub(crate) fn judge(self, case: &Case<'_>, occasion: &Occasion<'_>) -> Judgement {
        match self {
            Self::Store(store) => by_store(store, case, occasion),
            Self::Root(root) => by_root(root, case, occasion),
        }
    }
}

fn by_store(store: &TrustStore, case: &Case<'_>, occasion: &Occasion<'_>) -> Judgement {
    let mut rows = Rows::default();
    let model = &case.manifest.model;
    let covers = |key: &&KeyId| store.find(**key).is_some_and(|key| key.covers(model));
    let key_ids: Vec<KeyId> = case.signers.iter().filter(covers).copied().collect();
    let issuers: BTreeSet<String> =
        key_ids.iter().filter_map(|key| store.find(*key)).map(|key| key.issuer.clone()).collect();
    let signed_by: Vec<String> = issuers.into_iter().collect();
    if key_ids.is_empty() {
        rows.short(
            "trust",
            format!(
                "no signer may sign model `{model}`: have another sign, or widen the models of the key: `turnoutctl \
                 trust remove KEY_ID`, then `turnoutctl trust add` with every `--models` that it is to have"
            ),
        );
    } else if let Err(detail) = served(case.manifest, occasion) {
        rows.short("trust", detail);
    } else {
        rows.pass("trust", format!("{} may sign model `{model}`", signed_by.join(", ")));
    }
    rows.end(Counted { signed_by, key_ids }, None)
}

fn by_root(root: &TrustRoot, case: &Case<'_>, occasion: &Occasion<'_>) -> Judgement {
    let mut rows = Rows::default();
    match root.denied(case.digest) {
        Some(reason) => {
            rows.refuse(rejected("deny-list", format!("trust root {} denies it: {reason}", root.version)));
            return rows.end(Counted { signed_by: Vec::new(), key_ids: Vec::new() }, None);
        }
        None => rows.pass("deny-list", format!("trust root {} does not deny it", root.version)),
    }
    let signers: Vec<&RootKey> = case.signers.iter().filter_map(|key| root.find(*key)).collect();
    let moments = (occasion.now_ms, occasion.history.first_seen_ms(case.digest));
    let counting = rows.key_states(&signers, moments);
    let counted = rows.issuer(root, case.manifest, &counting);
    match served(case.manifest, occasion) {
        Ok(detail) => rows.pass("channel", detail),
        Err(detail) => rows.short("channel", detail),
    }
    match fresh(root, occasion) {
        Ok(detail) => rows.pass("expiry", detail),
        Err(refusal) => rows.refuse(refusal),
    }
    rows.0.sort_by_key(|row| ROOT_CHECKS.iter().position(|name| *name == row.name));
    let exception = if rows.verdict() == Verdict::Untrusted {
        Authority::Root(root).exception(case.digest, occasion)
    } else {
        None
    };
    rows.end(counted, exception.map(|found| found.and_then(|it| fits(it, case.manifest))))
}

/// Whether this host serves the channel that the manifest is signed for.
fn served(manifest: &Manifest, occasion: &Occasion<'_>) -> Result<String, String> {
    let channel = &manifest.channel;
    match occasion.channels {
        Some(served) if !served.contains(channel) => {
            let served: Vec<String> = served.iter().map(Channel::to_string).collect();
            Err(format!(
                "it is signed for channel `{channel}`, and this host serves {}: see `{CHANNELS_KEY}` of its configuration",
                served.join(", ")
            ))
        }
        Some(_) => Ok(format!("signed for channel `{channel}`, which this host serves")),
        None => Ok(format!("signed for channel `{channel}`")),
    }
}

/// Dates count for what is new. What runs, and what is returned to, goes on when they have passed.
fn fresh(root: &TrustRoot, occasion: &Occasion<'_>) -> Result<String, Refusal> {
    if occasion.purpose == Purpose::KeepRunning {
        return Ok("not asked of what runs already".to_owned());
    }
    check_clock(root, occasion.now_ms)?;
    if root.expires_ms <= occasion.now_ms {
        let detail = format!(
            "trust root {} has expired: apply the next one with `turnoutctl trust apply`",
            root.version
        );
        return Err(untrusted("expiry", detail));
    }
    Ok(format!("trust root {} has not expired", root.version))
}

fn fits(exception: TrustException, manifest: &Manifest) -> Result<TrustException, String> {
    if exception.channel == manifest.channel && exception.model == manifest.model {
        return Ok(exception);
    }
    Err(format!("it is for `{}` on channel `{}`", exception.model, exception.channel))
}

/// What a key that counts owes to the time at which the manifest was first seen.
fn seen_in_time(key: &RootKey, now_ms: u64) -> Option<String> {
    match (key.state, key.window.outside(now_ms)) {
        (KeyState::Active, None) => None,
        (KeyState::Active, Some(outside)) => {
            Some(format!("{} is {outside}, but this was seen within its window", key.owner))
        }
        (state, _) => Some(format!("{} is {state}, but this was seen before", key.owner)),
    }
}

/// Checks as they are made, and the worst of them so far.
#[derive(Default)]
struct Rows(Vec<Row>);

struct Row {
    name: &'static str,
    verdict: Option<Verdict>,
    detail: String,
}

impl Rows {
    fn pass(&mut self, name: &'static str, detail: impl Into<String>) {
        self.0.push(Row { name, verdict: Some(Verdict::Valid), detail: detail.into() });
    }

    fn short(&mut self, name: &'static str, detail: impl Into<String>) {
        self.refuse(untrusted(name, detail));
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.0.push(Row { name: refusal.check, verdict: Some(refusal.verdict), detail: refusal.detail });
    }

    fn skip(&mut self, name: &'static str) {
        self.0.push(Row { name, verdict: None, detail: "not made: an earlier check failed".to_owned() });
    }

    fn verdict(&self) -> Verdict {
        self.0.iter().filter_map(|row| row.verdict).max().unwrap_or(Verdict::Valid)
    }

    /// The signers whose key counts for this manifest.
    fn key_states<'a>(
        &mut self,
        signers: &[&'a RootKey],
        (now_ms, first_seen_ms): (u64, Option<u64>),
    ) -> Vec<&'a RootKey> {
        if signers.is_empty() {
            self.skip("key-state");
            return Vec::new();
        }
        let before = |since_ms| first_seen_ms.is_some_and(|seen| seen < since_ms);
        let of = first_seen_ms.map(|seen| format!(" for what was first seen {}", utc(seen)));
        let moment = (first_seen_ms.unwrap_or(now_ms), of.as_deref().unwrap_or_default());
        let (mut counting, mut short, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for key in signers {
            let state = format!("{} is {}", key.owner, key.state);
            match key.state {
                KeyState::Revoked { since_ms, reason } if reason.voids_everything() && !before(since_ms) => {
                    return self.void(&state);
                }
                KeyState::Revoked { reason, .. } if reason.voids_everything() => {
                    short.push(format!("{state}; this was valid when it was seen, before that"));
                }
                KeyState::Retired { since_ms } if !before(since_ms) => {
                    told.push(format!("{state}: does not count"));
                }
                KeyState::Revoked { .. } => told.push(format!("{state}: does not count")),
                KeyState::Active | KeyState::Retired { .. } => match key.outside(moment) {
                    Some(why) => told.push(why),
                    None => {
                        counting.push(*key);
                        told.extend(seen_in_time(key, now_ms));
                    }
                },
            }
        }
        let detail = |words: Vec<String>| words.join("; ");
        if !short.is_empty() || counting.is_empty() {
            short.extend(told);
            self.short("key-state", detail(short));
        } else if told.is_empty() {
            self.pass("key-state", "every signer's key is active");
        } else {
            self.pass("key-state", detail(told));
        }
        counting
    }

    fn void<'a>(&mut self, state: &str) -> Vec<&'a RootKey> {
        self.refuse(rejected("key-state", format!("{state}: nothing that it signed counts")));
        Vec::new()
    }

    /// The issuer that comes furthest: in scope, with enough keys, with its roles filled.
    fn issuer(&mut self, root: &TrustRoot, manifest: &Manifest, counting: &[&RootKey]) -> Counted {
        let signers: Vec<KeyId> = counting.iter().map(|key| key.key_id).collect();
        let of = |issuer: &Issuer| -> Vec<KeyId> {
            let signed = |key: &&KeyId| issuer.keys.iter().any(|member| member.key_id == **key);
            signers.iter().filter(signed).copied().collect()
        };
        let (model, channel) = (&manifest.model, &manifest.channel);
        let scope: Vec<(&Issuer, Vec<KeyId>)> = root
            .issuers
            .iter()
            .filter(|issuer| issuer.covers(model, channel))
            .map(|issuer| (issuer, of(issuer)))
            .filter(|(_, keys)| !keys.is_empty())
            .collect();
        let names = |of: &[(&Issuer, Vec<KeyId>)]| {
            of.iter().map(|(issuer, _)| issuer.name.clone()).collect::<Vec<_>>()
        };
        if scope.is_empty() {
            self.short("trust", format!("no signer may sign model `{model}` for channel `{channel}`"));
            self.skip("threshold");
            self.skip("roles");
            return Counted { signed_by: Vec::new(), key_ids: signers };
        }
        self.pass(
            "trust",
            format!("{} may sign model `{model}` for channel `{channel}`", names(&scope).join(", ")),
        );
        let told = |(issuer, keys): &(&Issuer, Vec<KeyId>)| {
            format!("{}: {} of {} needed", issuer.name, keys.len(), issuer.threshold)
        };
        let enough: Vec<_> =
            scope.iter().filter(|(issuer, keys)| keys.len() >= issuer.threshold as usize).cloned().collect();
        if enough.is_empty() {
            self.short("threshold", scope.iter().map(told).collect::<Vec<_>>().join("; "));
            self.skip("roles");
            return Counted { signed_by: names(&scope), key_ids: signers };
        }
        self.pass("threshold", enough.iter().map(told).collect::<Vec<_>>().join("; "));
        let filled: Vec<_> =
            enough.iter().filter(|(issuer, keys)| issuer.fills_roles(keys)).cloned().collect();
        let Some((issuer, keys)) = filled.first() else {
            let (issuer, _) = &enough[0];
            let roles: Vec<String> = issuer.require.iter().map(ToString::to_string).collect();
            self.short(
                "roles",
                format!("{} requires {} by keys that differ", issuer.name, roles.join(" and ")),
            );
            return Counted { signed_by: names(&enough), key_ids: signers };
        };
        let roles: Vec<String> = issuer.require.iter().map(ToString::to_string).collect();
        let roles = if roles.is_empty() {
            "none required".to_owned()
        } else {
            format!("{} signed", roles.join(" and "))
        };
        self.pass("roles", roles);
        Counted { signed_by: names(&filled), key_ids: keys.clone() }
    }

    fn end(self, mut counted: Counted, exception: Option<Result<TrustException, String>>) -> Judgement {
        let verdict = self.verdict();
        let mut checks: Vec<CheckResult> = self.0.into_iter().map(Row::into_check).collect();
        let mut admitted = verdict == Verdict::Valid;
        if let Some(found) = exception {
            let row = match found {
                Ok(exception) => {
                    counted.signed_by.push("exception".to_owned());
                    admitted = true;
                    Row { name: "exception", verdict: Some(Verdict::Valid), detail: exception.told() }
                }
                Err(why) => Row { name: "exception", verdict: Some(Verdict::Untrusted), detail: why },
            };
            checks.push(row.into_check());
        }
        Judgement { verdict, checks, counted: admitted.then_some(counted) }
    }
}

impl Row {
    fn into_check(self) -> CheckResult {
        let result = match self.verdict {
            Some(Verdict::Valid) => Outcome::Pass,
            Some(Verdict::Untrusted | Verdict::Rejected) => Outcome::Fail,
            None => Outcome::Skipped,
        };
        CheckResult { name: self.name.to_owned(), result, detail: self.detail }
    }
}
