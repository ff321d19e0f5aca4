//! What is asked of a version before its release begins: does its signature count for new work, is there an order where
//! the trust root demands one, can this host enforce what it requires. The steps of the release ask again what can change.

use crate::access::Peer;
use crate::handlers::{Desk, Failure, problem};
use crate::intake::{self, failures};
use crate::profile;
use crate::tenants;
use std::sync::Arc;
use turnout_engine::trust::Order;
use turnout_host::store::StoredName;
use turnout_manifest::plan::Strategy;
use turnout_manifest::quorum::Examined;
use turnout_manifest::{Manifest, ModelName, Plan, Sha256, VersionRef};
use turnout_protocol::error::{ErrorCode, Problem};

/// Lets a stored version be released, with the order that was brought for it.
///
/// # Errors
/// 422 with every failed check, journalled. Nothing has happened then, and an order is not used up.
pub async fn admit(
    desk: &Desk,
    peer: Peer,
    (version, name): (&VersionRef, StoredName),
    order: Option<String>,
) -> Result<Option<Order>, Failure> {
    let (host, intake, config) =
        (Arc::clone(&desk.host), Arc::clone(&desk.intake), Arc::clone(&desk.daemon.config));
    let (wanted, digest) = (version.clone(), name.digest);
    let asked = tokio::task::spawn_blocking(move || {
        let Some(manifest) = counted(&intake, &name)? else { return Ok(None) };
        let order = ordered(&intake, (&wanted, digest, &manifest), order)?;
        // What cannot be asked of the host here is for the release's own steps to say.
        let require = &manifest.runtime.require;
        let enforcement = if require.is_empty() { None } else { host.enforcement().ok() };
        let lacking = enforcement.and_then(|enforcement| profile::demanded(require, enforcement).err());
        lacking.map_or(Ok(()), |why| Err(unenforceable(why)))?;
        profile::devices(&manifest.runtime, &config, host.as_ref()).map_err(without_devices)?;
        Ok(order)
    });
    let admitted = asked.await.map_err(|error| problem(ErrorCode::HostFailure, error.to_string()))?;
    match admitted {
        Ok(order) => Ok(order),
        Err(refused) => Err(desk.refuse(peer, &format!("release {version}"), refused).await),
    }
}

/// Whether the model's tenant, if it has one, may have the cell that a release by this plan takes.
///
/// # Errors
/// 422 with who has the cells.
pub fn has_cell(desk: &Desk, plan: &Plan, model: &ModelName) -> Result<(), Problem> {
    match desk.daemon.config.tenants.of(model) {
        // It has the cell of the live version.
        Some(tenant) if plan.strategy != Strategy::InPlace => {
            tenants::has_cell(&desk.view(), tenant).map_err(|why| {
                let hint = "`turnoutctl status` shows the tenant's cells; `[tenants]` in the configuration has the limit";
                problem(ErrorCode::Refused, why).hint(hint)
            })
        }
        _ => Ok(()),
    }
}

/// The manifest, if its signatures count for new work; none when it cannot be read, which the release's steps then say.
fn counted(intake: &intake::Intake, name: &StoredName) -> Result<Option<Manifest>, Problem> {
    let Ok(verification) = intake.verify_stored(name) else { return Ok(None) };
    let (verdict, details) = (verification.verdict, failures(&verification.checks));
    match verification.into_verified() {
        Some(verified) => Ok(Some(verified.manifest().clone())),
        None => {
            let refused = problem(ErrorCode::Refused, format!("the manifest is {verdict}"));
            Err(Problem { details, ..refused.hint(intake::remedy(verdict)) })
        }
    }
}

/// The order that was brought, verified, or none where none is demanded.
fn ordered(
    intake: &intake::Intake,
    (version, digest, manifest): (&VersionRef, Sha256, &Manifest),
    order: Option<String>,
) -> Result<Option<Order>, Problem> {
    let Some(bytes) = order else {
        let demanded = intake.root().is_ok_and(|root| root.requires_order(&manifest.channel));
        let channel = &manifest.channel;
        let missing = || {
            problem(
                ErrorCode::Refused,
                format!("on channel `{channel}` nothing is released without an order"),
            )
            .hint("bring a signed one with `--order FILE`; `turnoutctl order new` begins one")
        };
        return if demanded { Err(missing()) } else { Ok(None) };
    };
    let unverifiable = |why: String| {
        problem(ErrorCode::Refused, format!("the order cannot be checked: {why}"))
            .hint("leave `--order` away, or begin a signed trust root with `turnoutctl trust init`")
    };
    let (examined, root) =
        intake.verify_order(bytes.as_bytes(), (version, digest), manifest).map_err(unverifiable)?;
    let Examined { verdict, checks, .. } = examined.clone();
    match examined.into_accepted() {
        Some(verified) => {
            Ok(Some(Order { channel: verified.order.channel, order: verified.used, root, checks }))
        }
        None => {
            let refused = problem(ErrorCode::Refused, format!("the order is {verdict}"));
            let hint = "`turnoutctl trust show` tells who may sign orders, the epoch and the last counters";
            Err(Problem { details: failures(&checks), ..refused.hint(hint) })
        }
    }
}

fn unenforceable(why: String) -> Problem {
    problem(ErrorCode::Refused, why).hint(
        "`turnoutctl doctor` shows what this host lacks; `runtime.require` is in the version's turnout.yaml",
    )
}

fn without_devices(why: String) -> Problem {
    problem(ErrorCode::Refused, why)
        .hint("`[devices]` takes effect at `systemctl reload turnoutd`; `runtime.devices` is in the version's turnout.yaml")
}
