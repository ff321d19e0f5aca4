//! How long a new version of a small model takes to get ready: cell, process, library, model, contract, warm-up.

use super::Effort;
use super::apart::Place;
use super::figures::Line;
use super::machine::Values;
use anyhow::Result;
use serde_json::json;
use std::time::Instant;
use turnout_manifest::Generation;

const PART: &str = "spawn to ready (launcher, real cell, digits)";
/// Generations of these workers: no other part uses them.
const FIRST: u32 = 100;

/// Starts and ends workers one after the other. To be called within a place apart.
///
/// # Errors
/// When one does not get ready.
pub fn measure(place: &Place<'_>, effort: &Effort) -> Result<Vec<Line>> {
    let mut times = Vec::new();
    for number in 0..effort.spawns {
        let began = Instant::now();
        let worker = place.serve(Generation(FIRST + number))?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
        place.end(worker.generation)?;
    }
    let times: Values = times.into_iter().collect();
    let (median, (_, longest)) = (times.median(), times.range());
    let line = Line::judged(PART, format!("{} workers, median and longest", effort.spawns), "at most 100 ms");
    let figures = json!({"median_ms": median, "longest_ms": longest});
    Ok(vec![line.found(format!("{median:.1} ms, {longest:.1} ms"), figures).met(median <= 100.0)])
}
