//! How releases begin: what is asked of each version first, the ports, and several models as one set.

use crate::access::{Need, Peer};
use crate::driver::Denial;
use crate::handlers::{Desk, Failure, Sent, body, denied, problem, stopping};
use crate::view::release_status;
use crate::{admission, ports};
use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::collections::BTreeSet;
use turnout_engine::advance::{Start, StartSet};
use turnout_engine::record::Kind;
use turnout_engine::set::{MEMBERS_MAX, Set};
use turnout_engine::{Event, Record, Refusal, World, decide};
use turnout_host::store::StoredName;
use turnout_manifest::{ModelName, Plan, VersionRef};
use turnout_protocol::control::SCHEMA;
use turnout_protocol::error::ErrorCode;
use turnout_protocol::set::{PlannedMember, SetDryRun, SetStarted, StartSet as Wish};

/// A version that somebody wants live.
pub(crate) struct Wanted<'a> {
    pub(crate) version: &'a VersionRef,
    pub(crate) plan: Option<Plan>,
    pub(crate) order: Option<String>,
}

/// Holds a wish to the store, the plan, the signatures, the orders and what serves. The port is not chosen yet.
pub(crate) async fn prepare(desk: &Desk, peer: Peer, wanted: Wanted<'_>) -> Result<Start, Failure> {
    let (view, version) = (desk.view(), wanted.version);
    let key = (version.model.clone(), version.version.clone());
    let Some(stored) = view.world.versions.get(&key) else {
        let missing = problem(ErrorCode::NotFound, format!("`{version}` is not in the store"));
        return Err(missing
            .hint("`turnoutctl model import DIR` brings it in; `turnoutctl model list` shows what is there")
            .into());
    };
    let live = view.world.models.get(&version.model).and_then(|model| model.live.as_ref());
    let plan =
        wanted.plan.unwrap_or_else(|| if live.is_some() { Plan::default() } else { Plan::all_at_once() });
    let problems = plan.problems();
    if !problems.is_empty() {
        let mut refused = problem(ErrorCode::Refused, "the plan cannot be followed");
        refused.details = problems.iter().map(ToString::to_string).collect();
        return Err(desk.refuse(peer, &format!("release {version}"), refused).await);
    }
    let name = StoredName { model: version.model.clone(), digest: stored.digest };
    let order = admission::admit(desk, peer, (version, name), wanted.order).await?;
    desk.can_take_over(peer, (&plan, live), (version, stored.digest)).await?;
    if let Err(why) = admission::has_cell(desk, &plan, &version.model) {
        return Err(desk.refuse(peer, &format!("release {version}"), why).await);
    }
    Ok(Start {
        model: version.model.clone(),
        kind: Kind::Release,
        version: version.version.clone(),
        digest: stored.digest,
        signed_by: stored.signed_by.clone(),
        plan,
        port: 0,
        salt: crate::salt(),
        by: peer.to_string(),
        order,
        audit_context: Some(peer.context.id()),
    })
}

/// Gives each its public port, and begins. One after the other: a port is not known to be given before that is on record.
///
/// # Errors
/// As the loop's answer; 422 where a port cannot be given. Nothing is begun then.
pub(crate) async fn begin(
    desk: &Desk,
    peer: Peer,
    mut starts: Vec<Start>,
    event: impl FnOnce(Vec<Start>) -> Event,
) -> Result<(), Failure> {
    let _alone = desk.starting.lock().await;
    let mut given = BTreeSet::new();
    for start in &mut starts {
        start.port = match ports::port_for(&start.model, desk, &given) {
            Ok(port) => port,
            Err(refused) => {
                let what = format!("release {}@{}", start.model, start.version);
                return Err(desk.refuse(peer, &what, refused).await);
            }
        };
        given.insert(start.port);
    }
    desk.ask(peer.context, event(starts)).await
}

/// `POST /v1/sets`.
///
/// # Errors
/// As for one release, of the first version that has a problem; 409 when the state forbids it. Nothing is begun then.
pub async fn start_set(
    State(desk): State<Desk>,
    Extension(peer): Extension<Peer>,
    request: Sent,
) -> Result<Response, Failure> {
    let Wish { set: name, members, plan, dry_run } = body(request)?;
    desk.allow(peer, Need::Operate, "start a release").await?;
    if members.len() > MEMBERS_MAX {
        // Each would be verified first.
        return Err(Failure(denied(Denial::Refusal(Refusal::Members(members.len())))));
    }
    let mut starts = Vec::new();
    for member in members {
        let wanted = Wanted { version: &member.version, plan: plan.clone(), order: member.order };
        starts.push(prepare(&desk, peer, wanted).await?);
    }
    let named: Vec<ModelName> = starts.iter().map(|start| start.model.clone()).collect();
    if dry_run {
        return dry_run_of(&desk.view().world, StartSet { name, starts }).map(IntoResponse::into_response);
    }
    let event = |starts| Event::StartSet(Box::new(StartSet { name: name.clone(), starts }));
    begin(&desk, peer, starts, event).await?;
    let view = desk.view();
    let mut newest = view.world.releases.values().rev().filter_map(|release| release.planned.set.as_ref());
    let set = newest.find(|set| set.name == name).ok_or_else(|| Failure(stopping()))?;
    let made = set.members.iter().filter_map(|member| view.world.releases.get(&member.release));
    let started = SetStarted {
        schema: SCHEMA.to_owned(),
        releases: made.map(|release| release_status(release)).collect(),
        stays: stays(set, &named),
        leaves: leaves(set),
        set: name,
    };
    Ok((StatusCode::CREATED, Json(started)).into_response())
}

fn dry_run_of(world: &World, wish: StartSet) -> Result<Json<SetDryRun>, Failure> {
    let named: Vec<ModelName> = wish.starts.iter().map(|start| start.model.clone()).collect();
    let name = wish.name.clone();
    let records = decide(world, &Event::StartSet(Box::new(wish)));
    let records = records.map_err(|refusal| Failure(denied(Denial::Refusal(refusal))))?;
    let planned = records.iter().filter_map(|record| match record {
        Record::Planned(planned) => Some(planned),
        _ => None,
    });
    let set = planned.clone().find_map(|planned| planned.set.as_ref());
    Ok(Json(SetDryRun {
        schema: SCHEMA.to_owned(),
        stays: set.map(|set| stays(set, &named)).unwrap_or_default(),
        leaves: set.map(leaves).unwrap_or_default(),
        set: name,
        releases: planned
            .map(|planned| PlannedMember {
                version: VersionRef { model: planned.model.clone(), version: planned.to.version.clone() },
                strategy: planned.plan.strategy.clone(),
                steps: planned.steps.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }))
}

/// What is shown and not released.
fn stays(set: &Set, named: &[ModelName]) -> Vec<ModelName> {
    let released = |model: &ModelName| set.members.iter().any(|member| member.model == *model);
    named.iter().filter(|model| !released(model)).cloned().collect()
}

/// What was shown and will not be.
fn leaves(set: &Set) -> Vec<ModelName> {
    set.showed.iter().filter(|model| !set.shows.contains(model)).cloned().collect()
}
