//! Waiting for the end of a release: `turnoutctl release wait`, and `--wait` of the commands that begin one.

use crate::args::Output;
use crate::error::{Exit, Failure};
use crate::release::{Progress, find, print_end};
use crate::render::{Screen, duration_ms};
use crate::set;
use crate::status::unknown_model;
use crate::updates::Updates;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use turnout_manifest::{ModelName, ReleaseId};
use turnout_protocol::client::Client;
use turnout_protocol::control::ReleaseStatus;

/// How long to wait at most, from its beginning on.
#[derive(Debug, Clone, Copy)]
pub struct Timeout {
    given: Duration,
    until: Instant,
}

impl Timeout {
    /// Begins now; without a time, there is none.
    pub fn begin(given: Option<Duration>) -> Option<Self> {
        let given = given?;
        let until = Instant::now().checked_add(given)?;
        Some(Self { given, until })
    }
}

/// Waits for a release that is named by itself or by its model, and for the others of its set.
pub async fn wait(
    client: &Client,
    screen: &mut Screen,
    (name, timeout): (&ModelName, Option<Duration>),
) -> Result<Exit, Failure> {
    let timeout = Timeout::begin(timeout);
    let status = named(client, name).await?;
    let others_go_on = !status.state.is_final();
    let ended = wait_for(client, screen, status, timeout).await?;
    let mut states = vec![ended.state];
    if others_go_on {
        states.extend(set::others_end(client, screen, &ended, timeout).await?);
    }
    print_end(screen, &ended)?;
    Ok(set::exit_of(states))
}

/// The release under way of a model, or its last one, or the one of this id. A model's name comes first.
async fn named(client: &Client, name: &ModelName) -> Result<ReleaseStatus, Failure> {
    let known = client.status().await?.models.into_iter().find(|known| known.model == *name);
    match (known, name.as_str().parse::<ReleaseId>()) {
        (Some(model), _) => model.release.ok_or_else(|| {
            Failure::new(Exit::Failed, format!("model `{name}` has no release to wait for"))
                .hint(format!("`turnoutctl release start {name}@VERSION` starts one"))
        }),
        (None, Ok(id)) => Ok(client.release(id).await?),
        (None, Err(_)) => Err(unknown_model(name)),
    }
}

/// Follows a release to its end, showing how it goes.
pub async fn wait_for(
    client: &Client,
    screen: &mut Screen,
    mut status: ReleaseStatus,
    timeout: Option<Timeout>,
) -> Result<ReleaseStatus, Failure> {
    let what = format!("release {}", status.release_id);
    match within(timeout, follow_to_end(client, screen, &mut status)).await {
        Ok(ended) => ended.map(|()| status),
        Err(timeout) => Err(not_over(screen, (&what, timeout), &status)),
    }
}

/// Waits for something that goes on when the time is over, which is then given back.
pub async fn within<T>(timeout: Option<Timeout>, waited: impl Future<Output = T>) -> Result<T, Timeout> {
    let Some(timeout) = timeout else { return Ok(waited.await) };
    tokio::time::timeout_at(timeout.until, waited).await.map_err(|_| timeout)
}

/// What is said when the time is over; in JSON, how it stood last.
pub fn not_over(screen: &mut Screen, (what, timeout): (&str, Timeout), last: &impl Serialize) -> Failure {
    if screen.output == Output::Json
        && let Err(error) = screen.show(last, "")
    {
        return error.into();
    }
    let given = duration_ms(timeout.given.as_millis().try_into().unwrap_or(u64::MAX));
    Failure::new(Exit::Failed, format!("{what} is not over after {given}; it goes on"))
        .hint("wait on with `turnoutctl release wait MODEL`, or see `turnoutctl release list`")
}

async fn follow_to_end(
    client: &Client,
    screen: &mut Screen,
    status: &mut ReleaseStatus,
) -> Result<(), Failure> {
    if status.state.is_final() {
        return Ok(());
    }
    let mut updates = Updates::follow(client, Some(status.model.clone())).await?;
    let mut progress = Progress::default();
    loop {
        let update = updates.next().await?;
        *status = match find(&update, status.release_id) {
            Some(found) => found.clone(),
            // Another release of the model has begun: this one is over, and its end is in the journal.
            None => client.release(status.release_id).await?,
        };
        progress.show(screen, &update, status)?;
        if status.state.is_final() {
            return Ok(());
        }
    }
}
