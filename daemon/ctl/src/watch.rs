//! `turnoutctl release watch`: the state live in a terminal, redrawn in place; NDJSON where nobody looks.
//! The columns that matter most come first: a narrow terminal cuts the last ones.

use crate::error::{Exit, Failure};
use crate::release::state_style;
use crate::render::{
    BAD, DIM, GOOD, Screen, Table, WARN, clock, figure, latency, safe, share, styled, time, words,
};
use crate::status::{self, unknown_model};
use crate::updates::Updates;
use std::io;
use turnout_manifest::{ModelName, ReleaseId};
use turnout_protocol::client::Client;
use turnout_protocol::control::{ReleaseStatus, Update, WindowStatus};

/// Rows and columns of a terminal that does not say how large it is.
const DEFAULT_ROWS: usize = 24;

/// Follows one model or all until the reader goes away or presses Ctrl-C.
pub async fn watch(client: &Client, screen: &mut Screen, model: Option<ModelName>) -> Result<Exit, Failure> {
    let model = match model {
        Some(name) => Some(model_of(client, name).await?),
        None => None,
    };
    let mut updates = Updates::follow(client, model.clone()).await?;
    let mut frame = Frame::default();
    loop {
        let update = updates.next().await?;
        if screen.is_live() {
            frame.draw(screen, &text(&update, model.as_ref()))?;
        } else {
            screen.line_of(&update)?;
        }
        if screen.reader_is_gone() {
            return Ok(Exit::Done);
        }
    }
}

/// The model of this name, or else of the release of this id.
async fn model_of(client: &Client, name: ModelName) -> Result<ModelName, Failure> {
    if client.status().await?.models.iter().any(|known| known.model == name) {
        return Ok(name);
    }
    match name.as_str().parse::<ReleaseId>() {
        Ok(id) => Ok(client.release(id).await?.model),
        Err(_) => Err(unknown_model(&name)),
    }
}

/// What a person watches: every model with the windows judged so far.
pub fn text(update: &Update, model: Option<&ModelName>) -> String {
    let mut text = format!("{DIM}{}  (Ctrl-C ends watching, not the release){DIM:#}\n", time(update.time_ms));
    text += &status::warnings(&update.status);
    let shown = update.status.models.iter().filter(|known| model.is_none_or(|model| known.model == *model));
    for known in shown {
        text += "\n";
        text += &status::model_block(known);
        if let Some(release) = &known.release {
            text += &progress(release);
            text += &windows(&release.windows);
        }
    }
    if update.status.models.is_empty() {
        text += "\nno model is live\n";
    }
    text
}

/// `[#####-----] step 5 of 12`.
fn progress(release: &ReleaseStatus) -> String {
    const WIDTH: u32 = 30;
    let filled = if release.state.is_final() {
        WIDTH
    } else {
        release.step_number.min(release.step_count) * WIDTH / release.step_count.max(1)
    };
    let style = state_style(release.state);
    let bar = "#".repeat(filled as usize);
    let rest = "-".repeat((WIDTH - filled) as usize);
    format!("  [{style}{bar}{style:#}{rest}] step {} of {}\n", release.step_number, release.step_count)
}

/// The judged windows, oldest first: candidate beside stable.
pub fn windows(windows: &[WindowStatus]) -> String {
    if windows.is_empty() {
        return String::new();
    }
    let heading = [
        "ENDED UTC",
        "ASKED",
        "SEEN",
        "VERDICT",
        "REQUESTS",
        "ERRORS",
        "P50",
        "P95",
        "P99",
        "STABLE P95",
        "WHY",
    ];
    let mut table = Table::new(&heading).indent(2);
    for window in windows {
        let seen = &window.candidate;
        table.row(vec![
            words(clock(window.at_ms)),
            figure(window.asked.to_string()),
            figure(share(seen.share_thousandths)),
            styled(verdict_style(&window.verdict), safe(&window.verdict)),
            figure(seen.requests.to_string()),
            figure(seen.errors.to_string()),
            figure(latency(seen.p50_us)),
            figure(latency(seen.p95_us)),
            figure(latency(seen.p99_us)),
            figure(latency(window.stable.as_ref().and_then(|stable| stable.p95_us))),
            words(safe(window.why.as_deref().unwrap_or_default())),
        ]);
    }
    table.text()
}

fn verdict_style(verdict: &str) -> anstyle::Style {
    match verdict {
        "met" => GOOD,
        "missed" => BAD,
        _ => WARN,
    }
}

/// A block of lines that is drawn over the one before it.
#[derive(Default)]
pub struct Frame {
    rows: usize,
}

impl Frame {
    /// Draws it in one write, inside a synchronized update, each line overwritten and then cleared to its end:
    /// nothing flickers. Lines are cut at the border, so that the cursor can count them.
    pub fn draw(&mut self, screen: &mut Screen, text: &str) -> io::Result<()> {
        let room = terminal_rows().saturating_sub(1).max(1);
        let lines: Vec<&str> = text.lines().take(room).collect();
        let mut drawn = String::from("\x1b[?2026h\x1b[?7l");
        if self.rows > 0 {
            drawn += &format!("\x1b[{}A\r", self.rows);
        }
        for line in &lines {
            drawn += line;
            drawn += "\x1b[0m\x1b[K\n";
        }
        drawn += "\x1b[J\x1b[?7h\x1b[?2026l";
        self.rows = lines.len();
        screen.text(&drawn)
    }
}

fn terminal_rows() -> usize {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => size.ws_row.into(),
        _ => DEFAULT_ROWS,
    }
}
