//! Requests about trust: the plain store of keys, the signed root that takes its place, exceptions. What a signature is
//! worth is decided in the intake; here a change is checked, written to the journal, and then put in force.

use crate::access::{Need, Peer};
use crate::handlers::{Desk, Failure, Named, Sent, body, named, parsed, problem};
use crate::intake::{Held, failures};
use crate::{chain, now_ms};
use axum::Json;
use axum::extract::{Extension, State};
use turnout_engine::trust::EXCEPTIONS_MAX;
use turnout_engine::{Record, TrustRecord};
use turnout_host::store::StoredName;
use turnout_manifest::exception::{self, TrustException};
use turnout_manifest::key::PublicKey;
use turnout_manifest::quorum::Examined;
use turnout_manifest::trust::{CheckResult, Purpose, TRUST_SCHEMA, TrustError, Verdict};
use turnout_manifest::{Sha256, SignedRoot, envelope::Envelope};
use turnout_protocol::control::{AddTrust, SCHEMA, Trust, TrustedKey};
use turnout_protocol::error::{ErrorCode, Problem};
use turnout_protocol::trust::{
    AcceptedException, ApplyTrust, LastOrder, RootInForce, TrustApplied, TrustHistory, TrustState,
};

/// `GET /v1/trust`.
pub async fn list(State(desk): State<Desk>) -> Json<Trust> {
    Json(reply(&desk))
}

fn reply(desk: &Desk) -> Trust {
    let store = desk.intake.trust();
    let keys = store.keys().iter().map(|key| TrustedKey {
        issuer: key.issuer.clone(),
        key_id: key.key_id.to_string(),
        public_key: key.public_key.to_pem(),
        models: key.models.iter().map(ToString::to_string).collect(),
    });
    Trust { schema: TRUST_SCHEMA.to_owned(), keys: keys.collect() }
}

/// `POST /v1/trust`.
///
/// # Errors
/// 403 for who is not root, 422 for what is no key or no set of globs, 409 where a signed root says whose keys count.
pub async fn add(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<Trust>, Failure> {
    let request: AddTrust = body(request)?;
    let what = "add a trusted key";
    desk.allow(peer, Need::Trust, what).await?;
    let _one = desk.intake.changes.lock().await;
    keys_count(&desk, peer, what).await?;
    let refused = |message: String| problem(ErrorCode::Refused, message);
    let key = PublicKey::from_pem(&request.public_key).map_err(|error| refused(chain(&error)))?;
    let mut store = desk.intake.trust();
    let key_id = key.id().to_string();
    let trusted = turnout_manifest::trust::TrustedKey::new(&request.issuer, key, &request.models);
    trusted.and_then(|trusted| store.add(trusted)).map_err(|error| {
        let refused = refused(chain(&error));
        match error {
            TrustError::KeyTwice { key_id, .. } => refused.hint(format!(
                "`turnoutctl trust remove {key_id}`, then `turnoutctl trust add` with every `--models` that it is to have"
            )),
            _ => refused,
        }
    })?;
    let (issuer, models) = (request.issuer, request.models);
    desk.note(peer.context, Record::TrustAdded { by: peer.to_string(), issuer, key_id, models }).await?;
    desk.intake.set_trust(store).map_err(|error| problem(ErrorCode::HostFailure, chain(&error)))?;
    Ok(Json(reply(&desk)))
}

/// `DELETE /v1/trust/{key_id}`.
///
/// # Errors
/// 403 for who is not root, 404 for an unknown key, 409 where a signed root says whose keys count.
pub async fn remove(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    key_id: Named<String>,
) -> Result<Json<Trust>, Failure> {
    let key_id = named(key_id)?;
    let what = "remove a trusted key";
    desk.allow(peer, Need::Trust, what).await?;
    let _one = desk.intake.changes.lock().await;
    keys_count(&desk, peer, what).await?;
    let mut store = desk.intake.trust();
    if parsed(&key_id).ok().and_then(|id| store.remove(id)).is_none() {
        let unknown = problem(ErrorCode::NotFound, format!("no trusted key `{key_id}`"));
        return Err(unknown.hint("`turnoutctl trust list` shows the keys").into());
    }
    desk.note(peer.context, Record::TrustRemoved { by: peer.to_string(), key_id }).await?;
    desk.intake.set_trust(store).map_err(|error| problem(ErrorCode::HostFailure, chain(&error)))?;
    Ok(Json(reply(&desk)))
}

/// Single keys are changed only where no signed root has taken their place.
async fn keys_count(desk: &Desk, peer: Peer, what: &str) -> Result<(), Failure> {
    let why = match &*desk.intake.held() {
        Held::Store(_) => return Ok(()),
        Held::Root(chain) => {
            format!(
                "trust root {} says whose signatures count here, not single keys",
                chain.head.root().version
            )
        }
        Held::Lost { why, .. } => why.clone(),
    };
    let refused = problem(ErrorCode::Conflict, why).hint(
        "change a draft of the next root with `--draft FILE`, have it signed with `turnoutctl trust sign`, then `turnoutctl trust apply`",
    );
    Err(desk.refuse(peer, what, refused).await)
}

/// `GET /v1/trust/root`.
pub async fn state(State(desk): State<Desk>) -> Json<TrustState> {
    let (held, log, place) = (desk.intake.held(), desk.intake.log(), desk.intake.place());
    let (chain, lost) = match &*held {
        Held::Store(_) => (None, None),
        Held::Root(chain) => (Some(chain), None),
        Held::Lost { why, last } => (last.as_ref(), Some(why.clone())),
    };
    let root =
        chain.map(|chain| RootInForce { digest: chain.head.digest(), document: chain.head.root().clone() });
    let orders = log.orders.iter().map(|(channel, last)| LastOrder {
        channel: channel.clone(),
        epoch: last.epoch,
        counter: last.counter,
        digest: last.digest,
    });
    let exceptions = log.exceptions.iter().map(|(manifest, known)| AcceptedException {
        manifest: *manifest,
        model: known.model.clone(),
        channel: known.channel.clone(),
        reason: known.reason.clone(),
        expires_ms: known.expires_ms,
        envelope: known.envelope.clone(),
    });
    Json(TrustState {
        schema: SCHEMA.to_owned(),
        host: place.here.host.clone(),
        groups: place.here.groups.clone(),
        channels: place.channels.clone(),
        root,
        lost,
        orders: orders.collect(),
        exceptions: exceptions.collect(),
    })
}

/// `GET /v1/trust/root/history`.
pub async fn history(State(desk): State<Desk>) -> Json<TrustHistory> {
    let held = desk.intake.held();
    let chain = match &*held {
        Held::Store(_) | Held::Lost { last: None, .. } => None,
        Held::Root(chain) | Held::Lost { last: Some(chain), .. } => Some(chain),
    };
    // An envelope is canonical JSON, so it is UTF-8.
    let text = |bytes: &std::sync::Arc<[u8]>| String::from_utf8_lossy(bytes).into_owned();
    let roots = chain.map(|chain| chain.all.iter().map(text).collect()).unwrap_or_default();
    Json(TrustHistory { schema: SCHEMA.to_owned(), roots })
}

/// `POST /v1/trust/root`: puts the first root, or the successor of the one in force, in force.
///
/// # Errors
/// 403 for who is not root, 422 with every failed check for a root that does not follow or has expired.
pub async fn apply_root(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<TrustApplied>, Failure> {
    let ApplyTrust { envelope } = body(request)?;
    let what = "apply a trust root";
    desk.allow(peer, Need::Trust, what).await?;
    let _one = desk.intake.changes.lock().await;
    let held = desk.intake.held();
    let head = match &*held {
        Held::Store(_) => None,
        Held::Root(chain) => Some(&chain.head),
        Held::Lost { last, .. } => last.as_ref().map(|chain| &chain.head),
    };
    if let Some(head) = head.filter(|head| same_payload(&envelope, head)) {
        return Ok(Json(applied(head.digest(), Vec::new())));
    }
    let examined =
        head.map_or_else(|| SignedRoot::first(envelope.as_bytes()), |head| head.next(envelope.as_bytes()));
    let (root, checks) = accepted(&desk, peer, (what, examined)).await?;
    check_new(&desk, peer, (what, &root)).await?;
    put_in_force(&desk, peer, &root, &checks).await?;
    let shut_out = shut_out(&desk).await;
    Ok(Json(TrustApplied { shut_out, already_there: false, ..applied(root.digest(), checks) }))
}

fn same_payload(envelope: &str, head: &SignedRoot) -> bool {
    Envelope::parse(envelope.as_bytes()).is_ok_and(|found| {
        found.payload_type() == turnout_manifest::root::ROOT_TYPE
            && Sha256::of(found.payload()) == head.digest()
    })
}

fn applied(digest: Sha256, checks: Vec<CheckResult>) -> TrustApplied {
    TrustApplied { schema: SCHEMA.to_owned(), digest, already_there: true, checks, shut_out: Vec::new() }
}

/// What was verified, or the refusal with every check that failed.
async fn accepted<T>(
    desk: &Desk,
    peer: Peer,
    (what, examined): (&str, Examined<T>),
) -> Result<(T, Vec<CheckResult>), Failure> {
    let (verdict, checks) = (examined.verdict, examined.checks.clone());
    if let Some(accepted) = examined.into_accepted() {
        return Ok((accepted, checks));
    }
    let mut refused = problem(ErrorCode::Refused, format!("the document is {verdict}"));
    refused.details = failures(&checks);
    refused.hint = Some(match verdict {
        Verdict::Rejected => "`turnoutctl trust show FILE` shows what it says and who signed it".to_owned(),
        Verdict::Untrusted | Verdict::Valid => {
            "have it signed by those who may, with `turnoutctl trust sign FILE --key KEY`".to_owned()
        }
    });
    Err(desk.refuse(peer, what, refused).await)
}

/// A root that has expired, or that is another one than the journal knows by this version, is not put in force.
async fn check_new(desk: &Desk, peer: Peer, (what, root): (&str, &SignedRoot)) -> Result<(), Failure> {
    let version = root.root().version;
    let known = desk.intake.log().root;
    let other = known.is_some_and(|known| known.version == version && known.digest != root.digest());
    let refused: Problem = if other {
        problem(ErrorCode::Refused, format!("another trust root {version} was accepted here before"))
            .hint("`turnoutctl audit log` names its digest")
    } else if root.root().expires_ms <= now_ms() {
        problem(ErrorCode::Refused, format!("trust root {version} has expired by this host's clock"))
            .hint("set the clock right, or make a new draft with a later `--expires`")
    } else {
        return Ok(());
    };
    Err(desk.refuse(peer, what, refused).await)
}

/// On disk beside the others, then in the journal, then in place: whatever comes between, the next start ends it.
async fn put_in_force(
    desk: &Desk,
    peer: Peer,
    root: &SignedRoot,
    checks: &[CheckResult],
) -> Result<(), Failure> {
    let failed = |error| problem(ErrorCode::HostFailure, chain(&error));
    desk.intake.stage_root(root).map_err(failed)?;
    let (version, digest) = (root.root().version, root.digest());
    // One that the journal has accepted before, and that was lost since, is only put back.
    if desk.intake.log().root.is_none_or(|known| known.version < version) {
        let (by, checks) = (peer.to_string(), checks.to_vec());
        desk.note(
            peer.context,
            Record::Trust(TrustRecord::RootAccepted { by, root: version, digest, checks }),
        )
        .await?;
    }
    desk.intake.set_root(root.clone()).map_err(failed)?;
    Ok(())
}

/// Versions in the store that the root in force does not let be released, with why.
async fn shut_out(desk: &Desk) -> Vec<String> {
    let versions: Vec<_> =
        desk.view().world.versions.iter().map(|(key, stored)| (key.clone(), stored.digest)).collect();
    let intake = desk.intake.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let why = |((model, version), digest): ((turnout_manifest::ModelName, _), Sha256)| {
            let found = intake.verify_stored(&StoredName { model: model.clone(), digest }).ok()?;
            let failed = failures(&found.checks).join("; ");
            found.into_verified().is_none().then(|| format!("{model}@{version}: {failed}"))
        };
        versions.into_iter().filter_map(why).collect()
    });
    asked.await.unwrap_or_default()
}

/// `POST /v1/trust/exceptions`.
///
/// # Errors
/// 403 for who is not root, 422 with every failed check, 409 where no signed root is in force.
pub async fn apply_exception(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<TrustApplied>, Failure> {
    let ApplyTrust { envelope } = body(request)?;
    let what = "apply an exception";
    desk.allow(peer, Need::Trust, what).await?;
    let _one = desk.intake.changes.lock().await;
    let root = match desk.intake.root() {
        Ok(root) => root,
        Err(why) => {
            let refused = problem(ErrorCode::Conflict, why).hint(
                "exceptions are signed by who the trust root names: `turnoutctl trust init` begins one",
            );
            return Err(desk.refuse(peer, what, refused).await);
        }
    };
    let examined = exception::verify(envelope.as_bytes(), &root, (now_ms(), Purpose::NewWork));
    let (exception, checks) = accepted(&desk, peer, (what, examined)).await?;
    let TrustException { manifest, model, channel, reason, expires_ms, .. } = exception;
    let log = desk.intake.log();
    let full = log.exceptions.len() >= EXCEPTIONS_MAX && !log.exceptions.contains_key(&manifest);
    if full && log.exceptions.values().all(|known| known.expires_ms > now_ms()) {
        let full = problem(ErrorCode::Limit, format!("{EXCEPTIONS_MAX} exceptions hold already"));
        return Err(desk.refuse(peer, what, full.hint("wait until one has expired")).await);
    }
    let digest = Envelope::parse(envelope.as_bytes()).map_or(manifest, |found| Sha256::of(found.payload()));
    if log.exceptions.get(&manifest).is_some_and(|known| known.envelope == envelope) {
        return Ok(Json(applied(digest, checks)));
    }
    let (by, root) = (peer.to_string(), root.version);
    let record = TrustRecord::ExceptionAccepted {
        by,
        manifest,
        model,
        channel,
        reason,
        expires_ms,
        envelope,
        root,
        checks: checks.clone(),
    };
    desk.note(peer.context, Record::Trust(record)).await?;
    Ok(Json(TrustApplied { already_there: false, ..applied(digest, checks) }))
}
