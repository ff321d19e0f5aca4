//! `turnoutctl status`, and the block about one model that `release watch` shows too.

use crate::error::{Exit, Failure};
use crate::release;
use crate::render::{
    BAD, DIM, GOOD, STRONG, Screen, Table, WARN, bytes, count, duration_ms, figure, latency, safe, share,
    styled, words,
};
use crate::set;
use std::time::{SystemTime, UNIX_EPOCH};
use turnout_manifest::ModelName;
use turnout_manifest::plan::Strategy;
use turnout_protocol::client::Client;
use turnout_protocol::control::{LiveVersion, ModelStatus, Role, Status, TenantStatus};
use turnout_protocol::router::Stats;

/// Prints the state of the daemon and of every model, or of one.
pub async fn status(
    client: &Client,
    screen: &mut Screen,
    model: Option<&ModelName>,
) -> Result<Exit, Failure> {
    let mut status = client.status().await?;
    if let Some(model) = model {
        only(&mut status, model)?;
    }
    screen.show(&status, &text(&status))?;
    Ok(Exit::Done)
}

/// A model that the daemon does not know.
pub fn unknown_model(model: &ModelName) -> Failure {
    Failure::new(Exit::Failed, format!("model `{model}` is not live and has no release")).hint(
        "`turnoutctl status` lists the models; `turnoutctl release start MODEL@VERSION` starts a release",
    )
}

/// Leaves one model, with its tenant and the sets that it is in.
fn only(status: &mut Status, model: &ModelName) -> Result<(), Failure> {
    status.models.retain(|known| known.model == *model);
    let known = status.models.first().ok_or_else(|| unknown_model(model))?;
    let release = known.release.as_ref().map(|release| release.release_id);
    status.tenants.retain(|tenant| known.tenant.as_ref() == Some(&tenant.tenant));
    status.sets.retain(|set| {
        set.models.iter().any(|shown| shown.model == *model)
            || release.is_some_and(|release| set.releases.contains(&release))
    });
    Ok(())
}

fn text(status: &Status) -> String {
    let up = now_ms().saturating_sub(status.started_ms) / 1000 * 1000;
    let mut text = format!(
        "turnoutd {}, pid {}, up {}; journal of {}{}, root {}\n",
        safe(&status.daemon_version),
        status.pid,
        duration_ms(up),
        count(status.journal.size, "record"),
        if status.journal.first > 0 { format!(" from {} on", status.journal.first) } else { String::new() },
        short(&status.journal.root),
    );
    text += &warnings(status);
    if let Some(router) = &status.router {
        text += &router_line(router);
    }
    text += &tenants(&status.tenants);
    for model in &status.models {
        text += "\n";
        text += &model_block(model);
    }
    text += &set::blocks(status);
    if status.models.is_empty() {
        text += "\nno model is live\n";
        text += &format!("{DIM}hint:{DIM:#} import one with `turnoutctl model import DIR`, ");
        text += "then `turnoutctl release start MODEL@VERSION --wait`\n";
    }
    text
}

/// What each tenant has, and of how much.
fn tenants(tenants: &[TenantStatus]) -> String {
    if tenants.is_empty() {
        return String::new();
    }
    let of = |has: String, most: Option<String>| match most {
        Some(most) => format!("{has} of {most}"),
        None => has,
    };
    let mut table = Table::new(&["TENANT", "CELLS", "STORED", "MEMORY", "CPUS", "PROCESSES", "MODELS"]);
    for tenant in tenants {
        let memory = tenant.memory_bytes.map_or("-".to_owned(), bytes);
        let limit = |text: Option<String>| text.map_or("-".to_owned(), |most| format!("at most {most}"));
        table.row(vec![
            styled(STRONG, tenant.tenant.as_str()),
            figure(of(tenant.cells.to_string(), tenant.cells_limit.map(|most| most.to_string()))),
            figure(of(bytes(tenant.store_bytes), tenant.store_limit_bytes.map(bytes))),
            figure(of(memory, tenant.memory_limit_bytes.map(bytes))),
            words(safe(&limit(tenant.cpu_limit.clone()))),
            words(limit(tenant.processes_limit.map(|most| most.to_string()))),
            words(safe(&tenant.models.join(", "))),
        ]);
    }
    format!("\n{}", table.text())
}

/// What the router did, with what went wrong only where something did.
fn router_line(router: &Stats) -> String {
    let mut text = format!(
        "router: {}; {} to new versions, {} to old ones",
        count(router.connections, "connection"),
        count(router.to_candidate, "request"),
        router.to_stable,
    );
    for (number, what) in
        [(router.stood_in, "stood in for"), (router.refused, "refused"), (router.unanswered, "unanswered")]
    {
        if number > 0 {
            text += &format!(", {WARN}{number} {what}{WARN:#}");
        }
    }
    text + "\n"
}

/// What keeps the daemon from its full work, one line each.
pub fn warnings(status: &Status) -> String {
    let mut text = String::new();
    if let Some(why) = &status.read_only {
        text += &format!("{BAD}changes are refused:{BAD:#} {}\n", safe(why));
    }
    for missing in &status.degraded {
        text += &format!("{WARN}not enforced here:{WARN:#} {}\n", safe(missing));
    }
    for concern in &status.concerns {
        text += &format!("{WARN}needs attention:{WARN:#} {}\n", safe(concern));
    }
    text
}

/// One model: its versions, its release, what happens next.
pub fn model_block(model: &ModelStatus) -> String {
    let endpoints: Vec<String> =
        model.endpoints.iter().map(|endpoint| format!("http://{}", safe(endpoint))).collect();
    let tenant = model.tenant.as_ref().map_or(String::new(), |tenant| format!("  of tenant {tenant}"));
    let mut text = format!("{STRONG}{}{STRONG:#}  {}{tenant}\n", model.model, endpoints.join("  "));
    text += &versions(&model.versions);
    if let Some(status) = &model.release {
        text += &format!("  release: {}\n", release::sentence(status));
        if !status.state.is_final() {
            text += &set::of(status);
        }
        if !status.state.is_final() {
            text += &match &status.strategy {
                Strategy::InPlace => "  split:   none, in place\n".to_owned(),
                strategy => format!("  split:   by {}\n", safe(&strategy.to_string())),
            };
        }
    }
    text += &format!("  next:    {}\n", safe(&model.next));
    text
}

fn versions(versions: &[LiveVersion]) -> String {
    let heading = [
        "VERSION",
        "ROLE",
        "WORKER",
        "ASKED",
        "SEEN",
        "REQUESTS",
        "ERRORS",
        "P50",
        "P95",
        "P99",
        "SIGNED BY",
        "WHY",
    ];
    let mut table = Table::new(&heading).indent(2);
    for live in versions {
        let seen = &live.seen;
        let worker = match live.worker.as_str() {
            "ready" => GOOD,
            "dead" => BAD,
            _ => WARN,
        };
        table.row(vec![
            styled(STRONG, live.version.as_str()),
            words(role(live.role)),
            styled(worker, safe(&live.worker)),
            figure(live.asked.to_string()),
            figure(if seen.requests == 0 { "-".into() } else { share(seen.share_thousandths) }),
            figure(seen.requests.to_string()),
            figure(seen.errors.to_string()),
            figure(latency(seen.p50_us)),
            figure(latency(seen.p95_us)),
            figure(latency(seen.p99_us)),
            words(safe(&live.signed_by.join(", "))),
            words(safe(&live.why)),
        ]);
    }
    if versions.is_empty() {
        "  no version has a worker\n".to_owned()
    } else {
        table.text() + &cells(versions) + &contexts(versions)
    }
}

/// What each cell was asked to be, and what holds it. What the host cannot enforce is the same for every cell and stands
/// in the page's head; for one cell, with what is done instead, it is left to programs.
fn cells(versions: &[LiveVersion]) -> String {
    let mut text = String::new();
    for live in versions {
        let Some(cell) = &live.cell else { continue };
        let enforced = cell.enforced.as_deref().map_or(String::new(), |enforced| {
            match enforced.split_once("; not enforced: ") {
                Some((held, _)) => format!("; {}, and no more (`--output json` says why)", safe(held)),
                None => format!("; {}", safe(enforced)),
            }
        });
        text += &format!("  cell:    {} {}{enforced}\n", live.version, safe(&cell.asked));
    }
    text
}

/// Under which audit context each version came where it is, as its answers and its records say.
fn contexts(versions: &[LiveVersion]) -> String {
    let line = |live: &LiveVersion| Some(format!("  audit:   {} {}\n", live.version, live.audit_context?));
    versions.iter().filter_map(line).collect()
}

/// The role's word in the API.
pub fn role(role: Role) -> &'static str {
    match role {
        Role::Stable => "stable",
        Role::Candidate => "candidate",
    }
}

fn short(root: &str) -> String {
    safe(&root.chars().take(12).collect::<String>())
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}
