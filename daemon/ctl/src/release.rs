//! `turnoutctl release ...` and `turnoutctl rollback`: start and steer releases, and wait for their end.

use crate::args::{InterveneArguments, Output, ReleaseCommand, StartArguments};
use crate::error::{Exit, Failure};
use crate::manifest::problems;
use crate::render::{
    BAD, DIM, GOOD, STRONG, Screen, Table, WARN, duration_ms, figure, safe, styled, time, words,
};
use crate::set;
use crate::wait::{self, Timeout, wait_for};
use crate::watch::{self, Frame};
use anstyle::Style;
use std::path::Path;
use std::time::Duration;
use turnout_manifest::plan::Strategy;
use turnout_manifest::{Plan, ReleaseId};
use turnout_protocol::client::{Client, Intervention};
use turnout_protocol::control::{
    Intervene, ReleaseKind, ReleaseState, ReleaseStatus, StartRelease, Timings, Update,
};

/// Whether a command returns at once or when the release is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// At once.
    Not,
    /// When it is over, or this time.
    UntilOver(Option<Duration>),
}

/// Runs `turnoutctl release ...`.
pub async fn run(client: &Client, screen: &mut Screen, command: ReleaseCommand) -> Result<Exit, Failure> {
    match command {
        ReleaseCommand::Start(arguments) => start(client, screen, arguments).await,
        ReleaseCommand::List => list(client, screen).await,
        ReleaseCommand::Show { id } => {
            let status = client.release(id).await?;
            screen.show(&status, &text(&status))?;
            Ok(Exit::Done)
        }
        ReleaseCommand::Watch { model } => watch::watch(client, screen, model).await,
        ReleaseCommand::Wait { name, timeout } => wait::wait(client, screen, (&name, timeout)).await,
        ReleaseCommand::Promote(arguments) => {
            intervene(client, screen, Intervention::Promote, arguments).await
        }
        ReleaseCommand::Pause(arguments) => intervene(client, screen, Intervention::Pause, arguments).await,
        ReleaseCommand::Resume(arguments) => intervene(client, screen, Intervention::Resume, arguments).await,
        ReleaseCommand::Cancel(arguments) => intervene(client, screen, Intervention::Cancel, arguments).await,
    }
}

/// Runs `turnoutctl rollback`. Repeating it is no error.
pub async fn rollback(
    client: &Client,
    screen: &mut Screen,
    arguments: InterveneArguments,
    wait: Wait,
) -> Result<Exit, Failure> {
    let Wait::UntilOver(timeout) = wait else {
        return intervene(client, screen, Intervention::Rollback, arguments).await;
    };
    let status = ask(client, Intervention::Rollback, arguments).await?;
    let timeout = Timeout::begin(timeout);
    let ended = wait_for(client, screen, status, timeout).await?;
    let others = set::others_end(client, screen, &ended, timeout).await?;
    print_end(screen, &ended)?;
    let back = others.into_iter().chain([ended.state]).all(|state| is_back(ended.kind, state));
    Ok(if back { Exit::Done } else { Exit::Failed })
}

/// The version before has the traffic, which is what was asked for: a release was undone, or the way back was promoted.
fn is_back(kind: ReleaseKind, state: ReleaseState) -> bool {
    match kind {
        ReleaseKind::Release => matches!(state, ReleaseState::RolledBack | ReleaseState::Cancelled),
        ReleaseKind::Return => state == ReleaseState::Promoted,
        // The newest release of a model whose version before was back already.
        ReleaseKind::Restart => state != ReleaseState::Stuck,
    }
}

async fn start(client: &Client, screen: &mut Screen, arguments: StartArguments) -> Result<Exit, Failure> {
    if let Some(set) = arguments.set.clone() {
        return set::start(client, screen, set, arguments).await;
    }
    let [version] = &arguments.versions[..] else {
        let several = format!("{} versions are named, and no set", arguments.versions.len());
        return Err(Failure::new(Exit::Usage, several)
            .hint("release them together with `--set NAME`, or each with a command of its own"));
    };
    let ([] | [_]) = &arguments.order[..] else {
        return Err(
            Failure::new(Exit::Usage, "more than one order for one version").hint("name one `--order`")
        );
    };
    let plan = arguments.plan.as_deref().map(read_plan).transpose()?;
    let order = arguments.order.first().map(|file| crate::files::read_text(file)).transpose()?;
    let request = StartRelease { version: version.clone(), plan, dry_run: arguments.dry_run, order };
    if arguments.dry_run {
        let dry = client.plan_release(&request).await?;
        let text = steps(&dry.strategy, &dry.steps) + &format!("{DIM}nothing was changed{DIM:#}\n");
        screen.show(&dry, &text)?;
        return Ok(Exit::Done);
    }
    let status = client.start_release(&request).await?;
    if arguments.wait {
        let ended = wait_for(client, screen, status, Timeout::begin(arguments.timeout)).await?;
        print_end(screen, &ended)?;
        return Ok(exit_of(ended.state));
    }
    let hint = format!("{DIM}hint:{DIM:#} follow it with `turnoutctl release watch {}`\n", status.model);
    screen.show(&status, &(format!("{}\n", sentence(&status)) + &hint))?;
    Ok(Exit::Done)
}

/// The steps of a release that is only planned, with what it would split by.
pub fn steps(strategy: &Strategy, steps: &[String]) -> String {
    let mut text = match strategy {
        Strategy::InPlace => format!("{DIM}in place, in the worker that serves{DIM:#}\n"),
        strategy => format!("{DIM}split by{DIM:#} {}\n", safe(&strategy.to_string())),
    };
    for (number, step) in steps.iter().enumerate() {
        text += &format!("{:>3}  {}\n", number + 1, safe(step));
    }
    text
}

/// Reads a plan from a file.
pub fn read_plan(path: &Path) -> Result<Plan, Failure> {
    let text = crate::files::read_text(path)?;
    Plan::from_yaml(&text).map_err(|found| {
        Failure::new(Exit::Refused, format!("plan `{}` is not well-formed", path.display()))
            .details(problems(&found))
            .hint("nothing was started; `turnoutctl release start --help` shows a whole plan")
    })
}

async fn intervene(
    client: &Client,
    screen: &mut Screen,
    intervention: Intervention,
    arguments: InterveneArguments,
) -> Result<Exit, Failure> {
    let status = ask(client, intervention, arguments).await?;
    screen.show(&status, &(format!("{}\n", sentence(&status)) + &set::of(&status)))?;
    Ok(Exit::Done)
}

/// A release's id in place of its model's name is answered with the name: which release is meant is for the model to say.
async fn ask(
    client: &Client,
    intervention: Intervention,
    arguments: InterveneArguments,
) -> Result<ReleaseStatus, Failure> {
    let InterveneArguments { model, reason } = arguments;
    let error = match client.intervene(&model, intervention, &Intervene { reason }).await {
        Ok(status) => return Ok(status),
        Err(error) => error,
    };
    if let Ok(id) = model.as_str().parse::<ReleaseId>()
        && let Ok(meant) = client.release(id).await
    {
        let message = format!("`{id}` is a release; its model is `{}`", meant.model);
        return Err(Failure::new(Exit::Failed, message).hint(format!("say `{}` in its place", meant.model)));
    }
    Err(error.into())
}

async fn list(client: &Client, screen: &mut Screen) -> Result<Exit, Failure> {
    let list = client.releases().await?;
    let mut table =
        Table::new(&["RELEASE", "KIND", "MODEL", "FROM", "TO", "STATE", "STARTED", "TOOK", "CAUSE"]);
    for release in &list.releases {
        let timings = &release.timings;
        let took = timings.ended_at_ms.map(|ended| duration_ms(ended.saturating_sub(timings.asked_at_ms)));
        table.row(vec![
            styled(STRONG, release.release_id.to_string()),
            words(kind(release.kind)),
            words(release.model.as_str()),
            words(release.from.as_ref().map_or("-", |from| from.as_str())),
            words(release.to.as_str()),
            styled(state_style(release.state), state(release.state)),
            words(time(timings.asked_at_ms)),
            figure(took.unwrap_or_else(|| "-".to_owned())),
            words(safe(release.cause.as_deref().unwrap_or_default())),
        ]);
    }
    let text = if list.releases.is_empty() { "no release yet\n".to_owned() } else { table.text() };
    screen.show(&list, &text)?;
    Ok(Exit::Done)
}

/// A release as an update has it.
pub fn find(update: &Update, id: ReleaseId) -> Option<&ReleaseStatus> {
    update
        .status
        .models
        .iter()
        .filter_map(|model| model.release.as_ref())
        .find(|release| release.release_id == id)
}

/// How a release that is waited for goes: redrawn in a terminal, a line for each news elsewhere.
#[derive(Default)]
pub struct Progress {
    frame: Frame,
    step: u32,
    state: Option<ReleaseState>,
    window_ms: u64,
    last: Option<ReleaseStatus>,
}

impl Progress {
    /// Shows what an update says of it.
    pub fn show(
        &mut self,
        screen: &mut Screen,
        update: &Update,
        status: &ReleaseStatus,
    ) -> Result<(), Failure> {
        match screen.output {
            Output::Json => {}
            Output::Ndjson if self.last.as_ref() == Some(status) || status.state.is_final() => {}
            Output::Ndjson => screen.line_of(status)?,
            Output::Text if screen.is_live() => {
                self.frame.draw(screen, &watch::text(update, Some(&status.model)))?;
            }
            Output::Text => screen.text(&self.news(status))?,
        }
        self.last = Some(status.clone());
        Ok(())
    }

    fn news(&mut self, status: &ReleaseStatus) -> String {
        let mut text = String::new();
        for window in status.windows.iter().filter(|window| window.at_ms > self.window_ms) {
            let why = window.why.as_deref().map(|why| format!(": {}", safe(why))).unwrap_or_default();
            text += &format!("  window at {} {}{why}\n", window.asked, safe(&window.verdict));
        }
        self.window_ms =
            status.windows.last().map_or(self.window_ms, |window| window.at_ms.max(self.window_ms));
        if (self.step, self.state) != (status.step_number, Some(status.state)) && !status.state.is_final() {
            text += &format!("{}\n", sentence(status));
        }
        (self.step, self.state) = (status.step_number, Some(status.state));
        text
    }
}

/// Prints how a release ended, and what can be done next.
pub fn print_end(screen: &mut Screen, ended: &ReleaseStatus) -> Result<(), Failure> {
    let hint = match ended.state {
        ReleaseState::Promoted => format!("undo it with `turnoutctl rollback {}`", ended.model),
        ReleaseState::Stuck => stuck_hint(ended),
        ReleaseState::RolledBack | ReleaseState::Cancelled if ended.kind == ReleaseKind::Return => format!(
            "`{}` serves still: `turnoutctl report {}` says why; `turnoutctl rollback {}` tries again",
            ended.from.as_ref().map(ToString::to_string).unwrap_or_default(),
            ended.release_id,
            ended.model
        ),
        _ => format!("see everything with `turnoutctl report {}`", ended.release_id),
    };
    let shown = match screen.is_live() {
        // The windows are on the screen already.
        true => ReleaseStatus { windows: Vec::new(), ..ended.clone() },
        false => ended.clone(),
    };
    Ok(screen.show(ended, &(text(&shown) + &format!("{DIM}hint:{DIM:#} {hint}\n")))?)
}

/// What to do about a release that could not be undone.
pub fn stuck_hint(ended: &ReleaseStatus) -> String {
    format!(
        "`turnoutctl report {}` names what failed: mend it, then `turnoutctl rollback {}` tries again",
        ended.release_id, ended.model
    )
}

/// The exit code that goes with how a release ended.
pub fn exit_of(state: ReleaseState) -> Exit {
    match state {
        ReleaseState::Promoted => Exit::Done,
        ReleaseState::RolledBack | ReleaseState::Cancelled => Exit::Refused,
        _ => Exit::Failed,
    }
}

/// `r-2 fraud 1.3.7 -> 1.4.0 running, step 7 of 12: observe at 25 %`.
pub fn sentence(status: &ReleaseStatus) -> String {
    let style = state_style(status.state);
    let from = status.from.as_ref().map_or_else(|| "(nothing)".to_owned(), |from| from.to_string());
    let mut text = format!(
        "{STRONG}{}{STRONG:#} {} {from} -> {} {style}{}{style:#}",
        status.release_id,
        status.model,
        status.to,
        state(status.state)
    );
    if !status.state.is_final() {
        text += &format!(", step {} of {}: {}", status.step_number, status.step_count, safe(&status.step));
    }
    match &status.cause {
        // A held release has said why already.
        Some(cause) if status.state.is_final() || !status.step.ends_with(cause.as_str()) => {
            text + &format!(" ({})", safe(cause))
        }
        _ => text,
    }
}

/// A release in several lines: how it stands, its causes, its timings, its last windows.
pub fn text(status: &ReleaseStatus) -> String {
    let mut text = format!("{}\n", sentence(status));
    if status.causes.len() > 1 {
        for cause in &status.causes {
            text += &format!("  - {}\n", safe(cause));
        }
    }
    text += &set::of(status);
    text += &format!("  asked for by {} at {}\n", safe(&status.asked_by), time(status.timings.asked_at_ms));
    for (what, ms) in timings(&status.timings) {
        text += &format!("  {what:<51} {}\n", duration_ms(ms));
    }
    text + &watch::windows(&status.windows)
}

/// The timings that were taken, in words.
pub fn timings(timings: &Timings) -> Vec<(&'static str, u64)> {
    let took = timings.ended_at_ms.map(|ended| ended.saturating_sub(timings.asked_at_ms));
    let all = [
        ("until the new worker was ready", timings.ready_ms),
        ("from the first missed window to traffic home", timings.breach_to_home_ms),
        ("from the first missed window to its last connection", timings.breach_to_last_connection_ms),
        ("until it was over", took),
    ];
    all.into_iter().filter_map(|(what, ms)| Some((what, ms?))).collect()
}

/// The state in words.
pub fn state(state: ReleaseState) -> &'static str {
    match state {
        ReleaseState::Running => "running",
        ReleaseState::Paused => "paused",
        ReleaseState::RollingBack => "rolling back",
        ReleaseState::Promoted => "promoted",
        ReleaseState::RolledBack => "rolled back",
        ReleaseState::Cancelled => "cancelled",
        ReleaseState::Stuck => "stuck",
    }
}

/// Why a release exists, as a word: the one that programs read.
fn kind(kind: ReleaseKind) -> &'static str {
    match kind {
        ReleaseKind::Release => "release",
        ReleaseKind::Return => "return",
        ReleaseKind::Restart => "restart",
    }
}

/// The colour that goes with the state's word.
pub fn state_style(state: ReleaseState) -> Style {
    match state {
        ReleaseState::Running => STRONG,
        ReleaseState::Promoted => GOOD,
        ReleaseState::Paused | ReleaseState::RollingBack | ReleaseState::Cancelled => WARN,
        ReleaseState::RolledBack | ReleaseState::Stuck => BAD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_is_done_when_the_version_before_has_the_traffic() {
        use ReleaseState::*;
        for (kind, back) in [
            (ReleaseKind::Release, &[RolledBack, Cancelled][..]),
            (ReleaseKind::Return, &[Promoted]),
            (ReleaseKind::Restart, &[Promoted, RolledBack, Cancelled]),
        ] {
            for state in [Promoted, RolledBack, Cancelled, Stuck] {
                assert_eq!(is_back(kind, state), back.contains(&state), "{kind:?} {state:?}");
            }
        }
    }

    #[test]
    fn a_stuck_release_is_told_with_the_commands_that_mend_it() {
        let sample = include_bytes!("../../protocol/tests/golden/ReleaseStatus.json");
        let mut status: ReleaseStatus = serde_json::from_slice(sample).unwrap();
        status.state = ReleaseState::Stuck;
        let hint = stuck_hint(&status);
        assert!(
            hint.contains("`turnoutctl report r-2`") && hint.contains("`turnoutctl rollback fraud`"),
            "{hint}"
        );
    }
}
