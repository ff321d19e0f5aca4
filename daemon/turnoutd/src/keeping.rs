//! The end of what is kept: mounts that expire, snapshots and versions that are deleted, by a person or by the policy.
//! The loop decides each deletion and writes it down before it happens; what a dead daemon left open is finished.

use crate::access::{self, Need, Peer};
use crate::failing::Failing;
use crate::handlers::{Desk, Failure, Named, Sent, body, named, parsed, problem};
use crate::now_ms;
use crate::snapshots::on_host;
use crate::{pruning, storage};
use axum::Json;
use axum::extract::{Extension, State};
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use turnout_engine::archive::Grant;
use turnout_engine::retention::{self, Found, FoundSnapshot, Leaving, holding};
use turnout_engine::{ArchiveRecord, ArchiveRefusal, ArchiveWish, Event};
use turnout_host::archive::Unmount;
use turnout_host::store::StoredName;
use turnout_host::{Host, HostError, clock};
use turnout_manifest::{AuditContext, VersionRef};
use turnout_protocol::archive::{Gone, Prune, Pruned, Removed};
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::{ErrorCode, Problem};

/// How often mounts are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the store's room is looked at, in looks.
const LOOKS_AT_ROOM: u64 = 60;
/// How often the policy is applied and the store is looked through, in looks.
const LOOKS_BETWEEN_ROUNDS: u64 = 3600;
/// When that happens first after a start, in looks: not while the live versions are being brought up.
const FIRST_ROUND: u64 = 60;
/// Who deletes by policy, in the journal.
const POLICY: &str = "the retention policy";

/// Looks after what is kept until told to stop.
pub async fn look_after(desk: Desk, mut stop: watch::Receiver<bool>) {
    finish_deletions(&desk).await;
    pruning::finish(&desk).await;
    end_lost_mounts(&desk).await;
    let mut looks = LOOKS_BETWEEN_ROUNDS - FIRST_ROUND;
    let mut scrub: Option<JoinHandle<()>> = None;
    let (mut told, mut failing) = (Vec::new(), Failing::default());
    storage::look(&desk).await;
    while tokio::time::timeout(LOOK_EVERY, stop.wait_for(|stop| *stop)).await.is_err() {
        end_expired_mounts(&desk, &mut failing).await;
        looks += 1;
        if looks.is_multiple_of(LOOKS_AT_ROOM) {
            storage::look(&desk).await;
        }
        if looks.is_multiple_of(LOOKS_BETWEEN_ROUNDS) {
            // A round that fails is told in the log and made again.
            let round = prune_now(&desk, access::internal_context()).await;
            let _ = round.inspect_err(|failed| tracing::error!("retention: {}", failed.0));
            pruning::prune_by_policy(&desk, clock::read().ok().as_ref(), &mut told).await;
            // A scrub may take hours: mounts are looked after meanwhile.
            if scrub.as_ref().is_none_or(JoinHandle::is_finished) {
                let desk = desk.clone();
                scrub = Some(tokio::spawn(async move { storage::scrub_when_due(&desk).await }));
            }
        }
    }
}

/// Deletions that were announced and have no outcome: the daemon died in between.
async fn finish_deletions(desk: &Desk) {
    let archive = desk.view().world.archive.clone();
    for snapshot in archive.deleting.clone() {
        let _ = delete_snapshot(desk, None, &snapshot).await;
    }
    for ((model, version), stored) in archive.removing.clone() {
        let name = StoredName { model: model.clone(), digest: stored.digest };
        let _ = delete_version(desk, None, (&VersionRef { model, version }, name)).await;
    }
}

/// Mounts that the journal knows and the kernel does not: the machine was restarted, or somebody unmounted them.
async fn end_lost_mounts(desk: &Desk) {
    let host = desk.host.clone();
    let Ok(references) = on_host(move || host.references()).await else { return };
    for (at, grant) in desk.view().world.archive.mounts.clone() {
        let of = format!("audit/{}", grant.snapshot);
        if references.iter().any(|reference| reference.of == of && reference.at == Path::new(&at)) {
            continue;
        }
        let _ = desk.keep(None, ended(at, grant, "it was not there any more")).await;
    }
}

async fn end_expired_mounts(desk: &Desk, failing: &mut Failing) {
    let (now, mut failed_now) = (now_ms(), Vec::new());
    let mounts = desk.view().world.archive.mounts.clone();
    for (at, grant) in mounts.into_iter().filter(|(_, grant)| grant.until_ms <= now) {
        let (host, place, wanted) = (desk.host.clone(), at.clone(), grant.snapshot.clone());
        let gone = on_host(move || host.unmount_snapshot(&wanted, Path::new(&place), Unmount::AtOnce)).await;
        match gone {
            Ok(there) => {
                let why = if there { "its time was over" } else { "it was not there any more" };
                let _ = desk.keep(None, ended(at, grant, why)).await;
            }
            Err(failed) => {
                let what = format!("unmount `{at}`");
                failing.say(&what, &failed.0.to_string());
                failed_now.push(what);
            }
        }
    }
    failing.keep(|what| failed_now.iter().any(|failed| failed == what));
}

/// The end of this grant, and of no later one at the same place.
fn ended(at: String, grant: Grant, why: &str) -> ArchiveRecord {
    let Grant { snapshot, until_ms, .. } = grant;
    ArchiveRecord::MountEnded { snapshot, at, why: why.to_owned(), until_ms: Some(until_ms) }
}

/// What is there and what of it is mounted, for the policy.
///
/// # Errors
/// The host's own.
pub fn found(host: &dyn Host) -> Result<Found, HostError> {
    let references = host.references()?;
    let mounted = |of: &str| references.iter().any(|reference| reference.of == of);
    let mut found = Found::default();
    for info in host.snapshots()? {
        let versions = match host.inside(&info.name) {
            Ok(inside) => inside.versions.keys().map(|name| name.digest).collect(),
            Err(HostError::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        let mounted = mounted(&format!("audit/{}", info.name));
        found.snapshots.push(FoundSnapshot {
            name: info.name,
            created_ms: info.created_ms,
            mounted,
            versions,
        });
    }
    let of_versions = references.iter().filter_map(|reference| reference.of.strip_prefix("versions/"));
    found.versions_mounted =
        of_versions.filter_map(StoredName::from_folder).map(|name| name.digest).collect();
    Ok(found)
}

/// What the policy lets go now.
struct Leavers {
    found: Found,
    snapshots: Vec<Leaving<String>>,
    versions: Vec<Leaving<VersionRef>>,
}

async fn leavers(desk: &Desk) -> Result<Leavers, Failure> {
    let host = desk.host.clone();
    let found = on_host(move || found(host.as_ref())).await?;
    let (view, policy) = (desk.view(), desk.daemon.config.keep.policy);
    let snapshots = retention::snapshots(&policy, now_ms(), (&view.world, &found));
    let versions = retention::versions(&policy, (&view.world, &found));
    Ok(Leavers { found, snapshots, versions })
}

async fn prune_now(desk: &Desk, context: AuditContext) -> Result<(Vec<Gone>, Vec<Gone>), Failure> {
    let Leavers { found, snapshots, versions } = leavers(desk).await?;
    let (mut gone, mut failed) = (Vec::new(), Vec::new());
    let mut note = |what: String, why: String, outcome: Result<(), Failure>| match outcome {
        Ok(()) => gone.push(Gone { what, why }),
        Err(failure) => failed.push(Gone { what, why: failure.0.message }),
    };
    for Leaving { what: snapshot, why } in snapshots {
        let (by, reason) = (POLICY.to_owned(), why.clone());
        let wish = ArchiveWish::DeleteSnapshot { snapshot: snapshot.clone(), by, why: reason };
        let outcome = match desk.ask(context, Event::Archive(wish)).await {
            Ok(()) => delete_snapshot(desk, Some(context), &snapshot).await,
            Err(refused) => Err(refused),
        };
        note(snapshot, why, outcome);
    }
    for Leaving { what: version, why } in versions {
        let outcome = remove(desk, context, (&version, &found), (POLICY.to_owned(), why.clone())).await;
        note(version.to_string(), why, outcome.map(drop));
    }
    Ok((gone, failed))
}

/// `POST /v1/audit/prune`.
///
/// # Errors
/// 403 for who is not root, 500 when the store cannot be read.
pub async fn prune(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Json<Pruned>, Failure> {
    let Prune { dry_run, before_ms } = body(request)?;
    desk.allow(peer, Need::Evidence, "prune what is kept").await?;
    let asked = pruning::Asked { by: peer.to_string(), before_ms, dry_run };
    // Who names a time means the journal, which alone is in the order of time.
    let (mut gone, mut failed) = if before_ms.is_some() {
        (Vec::new(), Vec::new())
    } else if dry_run {
        let Leavers { snapshots, versions, .. } = leavers(&desk).await?;
        let snapshots = snapshots.into_iter().map(|leaving| Gone { what: leaving.what, why: leaving.why });
        let versions =
            versions.into_iter().map(|leaving| Gone { what: leaving.what.to_string(), why: leaving.why });
        (snapshots.chain(versions).collect(), Vec::new())
    } else {
        prune_now(&desk, peer.context).await?
    };
    let of_journal = pruning::prune(&desk, peer.context, asked).await?;
    gone.extend(of_journal.gone);
    failed.extend(of_journal.failed);
    Ok(Json(Pruned { schema: SCHEMA.to_owned(), dry_run, gone, failed, kept: of_journal.kept }))
}

/// `DELETE /v1/versions/{version}`.
///
/// # Errors
/// 403 for who is not root, 404 for an unknown version, 409 with every reason why it must stay.
pub async fn remove_version(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    version: Named<String>,
) -> Result<Json<Removed>, Failure> {
    let version: VersionRef = parsed(&named(version)?)?;
    desk.allow(peer, Need::Evidence, "delete a version").await?;
    let host = desk.host.clone();
    let found = on_host(move || found(host.as_ref())).await?;
    let by = (peer.to_string(), "asked for".to_owned());
    match remove(&desk, peer.context, (&version, &found), by).await {
        Ok(removed) => Ok(Json(removed)),
        Err(Failure(refused)) => Err(desk.refuse(peer, &format!("delete {version}"), refused).await),
    }
}

async fn remove(
    desk: &Desk,
    context: AuditContext,
    (version, found): (&VersionRef, &Found),
    (by, why): (String, String),
) -> Result<Removed, Failure> {
    let key = (version.model.clone(), version.version.clone());
    let stored = desk.view().world.versions.get(&key).cloned();
    let digest = stored.ok_or_else(|| Failure(refused(&ArchiveRefusal::NoVersion(version.clone()))))?.digest;
    let kept_in = holding(found, digest);
    let wish = ArchiveWish::DeleteVersion { version: version.clone(), by, why, kept_in: kept_in.clone() };
    desk.ask(context, Event::Archive(wish)).await?;
    let name = StoredName { model: version.model.clone(), digest };
    delete_version(desk, Some(context), (version, name)).await?;
    Ok(Removed { schema: SCHEMA.to_owned(), version: version.clone(), digest, kept_in })
}

/// The announced deletion, and its outcome.
async fn delete_snapshot(desk: &Desk, context: Option<AuditContext>, snapshot: &str) -> Result<(), Failure> {
    let (host, wanted) = (desk.host.clone(), snapshot.to_owned());
    let outcome = on_host(move || host.delete_snapshot(&wanted)).await;
    let snapshot = snapshot.to_owned();
    let record = match &outcome {
        Ok(()) => ArchiveRecord::SnapshotDeleted { snapshot },
        Err(failed) => ArchiveRecord::SnapshotKept { snapshot, why: failed.0.message.clone() },
    };
    desk.keep(context, record).await?;
    outcome
}

async fn delete_version(
    desk: &Desk,
    context: Option<AuditContext>,
    (version, name): (&VersionRef, StoredName),
) -> Result<(), Failure> {
    let (host, digest) = (desk.host.clone(), name.digest);
    let outcome = on_host(move || host.delete_version(&name)).await;
    let version = version.clone();
    let record = match &outcome {
        Ok(()) => ArchiveRecord::VersionDeleted { version, digest },
        Err(failed) => ArchiveRecord::VersionKept { version, why: failed.0.message.clone() },
    };
    desk.keep(context, record).await?;
    outcome
}

/// A refusal about what is kept, with every reason and what to do.
pub fn refused(refusal: &ArchiveRefusal) -> Problem {
    let told = |code| problem(code, refusal.to_string());
    match refusal {
        ArchiveRefusal::Guarded { what, why } => {
            let mut guarded = problem(ErrorCode::Conflict, format!("`{what}` must stay"));
            guarded.details = why.iter().map(ToString::to_string).collect();
            guarded.hint("release another version, or end the hold or the mount that is named")
        }
        ArchiveRefusal::Going(_) => told(ErrorCode::Conflict).hint("nothing can be done with it any more"),
        ArchiveRefusal::NotHeld(_) => {
            told(ErrorCode::Conflict).hint("`turnoutctl audit snapshots` shows what keeps each")
        }
        ArchiveRefusal::PlaceTaken { .. } => {
            told(ErrorCode::Conflict).hint("`turnoutctl audit unmount DIR` takes it away")
        }
        ArchiveRefusal::LogHeld { .. } => {
            told(ErrorCode::Conflict).hint("`turnoutctl audit release-hold journal` ends that hold")
        }
        ArchiveRefusal::LogNotHeld | ArchiveRefusal::LogPruned(_) => {
            told(ErrorCode::Conflict).hint("`turnoutctl audit journal` shows how it stands")
        }
        ArchiveRefusal::NoVersion(_) => {
            told(ErrorCode::NotFound).hint("`turnoutctl model list` shows what is there")
        }
    }
}
