//! What a daemon with one live model takes: memory of its three processes, and time from its start to the first answer.

use super::figures::Line;
use super::machine::{self, Values};
use super::stage::{Stage, WORKER};
use super::{Effort, Settings};
use crate::models::FIRST;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::Instant;

const MEMORY_PART: &str = "resident memory (digits live, after the load)";
const START_PART: &str = "start (store there, version imported, launcher not running)";
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// Most of all three together.
const MOST_MEMORY: f64 = 60.0;
/// Longest time to the first answer, milliseconds.
const MOST_START_MS: f64 = 300.0;

/// Memory of daemon, launcher and worker. The stage's first version is live.
///
/// # Errors
/// When a process is not there.
pub fn memory(stage: &Stage) -> Result<Vec<Line>> {
    let (mut lines, mut rss, mut pss) = (Vec::new(), 0.0, 0.0);
    for program in ["turnoutd", "turnout-launcher", WORKER] {
        let found = machine::memory(stage.process(program)?)?;
        let (own_rss, own_pss) = (found.rss as f64 / MEBIBYTE, found.pss as f64 / MEBIBYTE);
        (rss, pss) = (rss + own_rss, pss + own_pss);
        let figures = json!({"rss_bytes": found.rss, "pss_bytes": found.pss});
        lines.push(
            Line::told(MEMORY_PART, program)
                .found(format!("RSS {own_rss:.1} MiB, PSS {own_pss:.1} MiB"), figures),
        );
    }
    let line = Line::judged(MEMORY_PART, "together", format!("RSS at most {MOST_MEMORY} MiB"));
    let figures = json!({"rss_mib": rss, "pss_mib": pss});
    lines.push(line.found(format!("RSS {rss:.1} MiB, PSS {pss:.1} MiB"), figures).met(rss <= MOST_MEMORY));
    Ok(lines)
}

/// Starts a daemon that has a version but nothing live, releases it, and waits for its first answer.
///
/// # Errors
/// When it does not answer.
pub fn start(settings: &Settings, effort: &Effort) -> Result<Vec<Line>> {
    let (mut up, mut answered) = (Vec::new(), Vec::new());
    for _ in 0..effort.starts {
        let mut stage = Stage::set(settings, &[FIRST])?;
        stage.rest()?;
        let began = Instant::now();
        stage.instance.start()?;
        up.push(began.elapsed().as_secs_f64() * 1e3);
        let reference = format!("digits@{FIRST}");
        let asked = stage.ctl.ok(&["release", "start", &reference]);
        asked.with_context(|| stage.instance.log_end())?;
        stage.first_answer()?;
        answered.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let (up, answered): (Values, Values) = (up.into_iter().collect(), answered.into_iter().collect());
    let (median, (_, longest)) = (answered.median(), answered.range());
    let figures = json!({"median_ms": median, "longest_ms": longest, "socket_ms": up.median()});
    let measured =
        format!("median {median:.0} ms, longest {longest:.0} ms (socket after {:.0} ms)", up.median());
    let line = Line::judged(
        START_PART,
        "to the first version's first answer",
        format!("at most {MOST_START_MS} ms"),
    );
    Ok(vec![line.found(measured, figures).met(median <= MOST_START_MS)])
}
