//! `turnoutctl release start --set`: several models as one set, and what is said of a release that is of one.

use crate::args::StartArguments;
use crate::error::{Exit, Failure};
use crate::order;
use crate::release::{self, Progress, find, read_plan, sentence, steps};
use crate::render::{DIM, STRONG, Screen, safe};
use crate::updates::Updates;
use crate::wait::{Timeout, not_over, wait_for, within};
use crate::watch::{self, Frame};
use std::collections::BTreeMap;
use std::path::PathBuf;
use turnout_manifest::{ModelName, SetName};
use turnout_protocol::client::Client;
use turnout_protocol::control::{ReleaseState, ReleaseStatus, Status};
use turnout_protocol::set::{SetDryRun, SetStarted, StartSet, WantedMember};

/// Starts the releases of a set, and waits for their end where that is wanted.
pub async fn start(
    client: &Client,
    screen: &mut Screen,
    set: SetName,
    arguments: StartArguments,
) -> Result<Exit, Failure> {
    let plan = arguments.plan.as_deref().map(read_plan).transpose()?;
    let mut orders = orders(&arguments.order)?;
    let members = arguments.versions.into_iter().map(|version| {
        let order = orders.remove(&version.model);
        WantedMember { version, order }
    });
    let request = StartSet { set, members: members.collect(), plan, dry_run: arguments.dry_run };
    if let Some(model) = orders.into_keys().next() {
        return Err(Failure::new(Exit::Usage, format!("an order is for `{model}`, which is not named"))
            .hint("name its version too, or leave the order away"));
    }
    if arguments.dry_run {
        let dry = client.plan_set(&request).await?;
        screen.show(&dry, &planned(&dry))?;
        return Ok(Exit::Done);
    }
    let started = client.start_set(&request).await?;
    if !arguments.wait {
        let hint = format!("{DIM}hint:{DIM:#} follow them with `turnoutctl release watch`\n");
        let text = lines(&started.releases) + &others(&started.stays, &started.leaves) + &hint;
        screen.show(&started, &text)?;
        return Ok(Exit::Done);
    }
    end(client, screen, (started, Timeout::begin(arguments.timeout))).await
}

/// Waits until all releases of a set are over, and says how they ended.
async fn end(
    client: &Client,
    screen: &mut Screen,
    (mut set, timeout): (SetStarted, Option<Timeout>),
) -> Result<Exit, Failure> {
    match within(timeout, follow(client, screen, &mut set.releases)).await {
        Ok(ended) => ended?,
        Err(timeout) => return Err(not_over(screen, (&format!("set `{}`", set.set), timeout), &set)),
    }
    let exit = exit_of(set.releases.iter().map(|status| status.state));
    let stuck = set.releases.iter().find(|status| status.state == ReleaseState::Stuck);
    let next = match (stuck, set.releases.first()) {
        (Some(stuck), _) => release::stuck_hint(stuck),
        (None, Some(first)) if exit == Exit::Done => {
            format!("undo it with `turnoutctl rollback {}`", first.model)
        }
        (None, Some(first)) => format!("see everything with `turnoutctl report {}`", first.release_id),
        (None, None) => "`turnoutctl release list` shows every release".to_owned(),
    };
    let text =
        lines(&set.releases) + &others(&set.stays, &set.leaves) + &format!("{DIM}hint:{DIM:#} {next}\n");
    screen.show(&set, &text)?;
    Ok(exit)
}

/// Each order with the model that it is for.
fn orders(files: &[PathBuf]) -> Result<BTreeMap<ModelName, String>, Failure> {
    let mut orders = BTreeMap::new();
    for file in files {
        let model = order::model_of(file)?;
        if orders.insert(model.clone(), crate::files::read_text(file)?).is_some() {
            return Err(Failure::new(Exit::Usage, format!("two orders are for `{model}`"))
                .hint("one order releases one version"));
        }
    }
    Ok(orders)
}

fn planned(dry: &SetDryRun) -> String {
    let mut text = String::new();
    for release in &dry.releases {
        text +=
            &format!("{STRONG}{}{STRONG:#}  {}", release.version, steps(&release.strategy, &release.steps));
    }
    text + &others(&dry.stays, &dry.leaves) + &format!("{DIM}nothing was changed{DIM:#}\n")
}

fn lines(releases: &[ReleaseStatus]) -> String {
    releases.iter().map(|status| format!("{}\n", sentence(status))).collect()
}

/// What becomes of models that are not released.
fn others(stays: &[ModelName], leaves: &[ModelName]) -> String {
    let mut text = String::new();
    for (models, what) in [
        (stays, "shown with them, as it is live already"),
        (leaves, "not shown by the set any more, once they are promoted"),
    ] {
        for model in models {
            text += &format!("  {model}: {what}\n");
        }
    }
    text
}

/// Follows releases until all are over.
async fn follow(client: &Client, screen: &mut Screen, releases: &mut [ReleaseStatus]) -> Result<(), Failure> {
    let mut updates = Updates::follow(client, None).await?;
    let mut frame = Frame::default();
    let mut progress: Vec<Progress> = releases.iter().map(|_| Progress::default()).collect();
    while !releases.iter().all(|status| status.state.is_final()) {
        let update = updates.next().await?;
        for (status, progress) in releases.iter_mut().zip(&mut progress) {
            *status = match find(&update, status.release_id) {
                Some(found) => found.clone(),
                None => client.release(status.release_id).await?,
            };
            if !screen.is_live() {
                progress.show(screen, &update, status)?;
            }
        }
        if screen.is_live() {
            frame.draw(screen, &watch::text(&update, None))?;
        }
    }
    Ok(())
}

/// Waits for the other releases of the set that one which has ended is of. Gives how they ended.
pub async fn others_end(
    client: &Client,
    screen: &mut Screen,
    ended: &ReleaseStatus,
    timeout: Option<Timeout>,
) -> Result<Vec<ReleaseState>, Failure> {
    let mut states = Vec::new();
    for other in ended.set.iter().flat_map(|set| &set.releases) {
        if other.release_id != ended.release_id {
            let status = client.release(other.release_id).await?;
            states.push(wait_for(client, screen, status, timeout).await?.state);
        }
    }
    Ok(states)
}

/// The exit code of several releases: that of the one that ended worst.
pub fn exit_of(ended: impl IntoIterator<Item = ReleaseState>) -> Exit {
    let worst = |one: Exit, other: Exit| match (one, other) {
        (Exit::Done, other) => other,
        (one, Exit::Done | Exit::Refused) => one,
        (_, other) => other,
    };
    ended.into_iter().map(release::exit_of).fold(Exit::Done, worst)
}

/// What a release is promoted together with, in a line; nothing for a release of its own.
pub fn of(status: &ReleaseStatus) -> String {
    let Some(set) = &status.set else { return String::new() };
    let others = set.releases.iter().filter(|other| other.release_id != status.release_id);
    let others: Vec<String> = others.map(|other| format!("{} ({})", other.model, other.release_id)).collect();
    match others.is_empty() {
        true => format!("  of set {}\n", set.set),
        false => format!("  of set {}, all or none with {}\n", set.set, others.join(", ")),
    }
}

/// The sets in the status: what each shows, and where.
pub fn blocks(status: &Status) -> String {
    let mut text = String::new();
    for set in &status.sets {
        text += &format!("\n{STRONG}set {}{STRONG:#}  {}\n", set.set, safe(&set.folder));
        for shown in &set.models {
            let version = shown.version.as_ref().map_or("(nothing)", |version| version.as_str());
            text += &format!("  {} {version}\n", shown.model);
        }
        if set.models.is_empty() {
            text += "  shows nothing yet\n";
        }
        if !set.releases.is_empty() {
            let ids: Vec<String> = set.releases.iter().map(ToString::to_string).collect();
            text += &format!("  under way, all or none: {}\n", ids.join(", "));
        }
    }
    text
}
