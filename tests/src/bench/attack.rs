//! What a hostile worker in the next cell does to a version that serves: as many threads as its cell allows, which compute,
//! walk through memory, map pages and call the kernel without end. The version has a core of its own, or shares its CPUs.

use super::apart::{PROFILE, Place, Worker};
use super::client::{self, Ask, Manner};
use super::figures::Line;
use super::machine::Pairs;
use super::pin::{first_of_all_on, mask};
use super::{Effort, Settings};
use crate::cores::last_core;
use crate::models;
use crate::remains::Remains;
use anyhow::{Context, Result};
use serde_json::json;
use turnout_host::cells::{Class, Profile};
use turnout_manifest::Generation;

const PART: &str = "a hostile worker in the next cell (as many busy threads as its cell allows)";
/// p99 beside the attack may be this many times p99 without.
const FLOOR: f64 = 1.10;
/// Generations of these workers: no other part uses them.
const SHARING: Generation = Generation(210);
const OWNING: Generation = Generation(211);
const HOSTILE: Generation = Generation(212);
/// Open at one time, as in the measurement of the pinned core.
const CONNECTIONS: usize = 4;

/// Measures p99 with and without the attack in turn. To be called within a place apart.
///
/// # Errors
/// On a machine of one core, and when a request failed.
pub fn measure(settings: &Settings, remains: &Remains, effort: &Effort) -> Result<Vec<Line>> {
    let (own, rest) = last_core()?.context("a machine of one core has none to give away")?;
    let (own, rest) = (mask(&own), mask(&rest));
    let place = Place::open(remains, &settings.programs, &settings.onnxruntime)?;
    let hostile = place.beside(&settings.programs.join("hostile"))?;
    let sharing = place.serve_in(SHARING, PROFILE)?;
    let owning = place.serve_in(OWNING, Profile { class: Class::Guaranteed, cpus: own, ..PROFILE })?;
    let measured = first_of_all_on(rest, || {
        // A burstable cell is kept off the cores that are given away, and on them where none is.
        let owned = Bench { victim: &owning, hostile: &hostile, cpus: rest }.rounds(effort)?;
        let shared = Bench { victim: &sharing, hostile: &hostile, cpus: own | rest }.rounds(effort)?;
        Ok((owned, shared))
    });
    place.end(SHARING)?;
    place.end(OWNING)?;
    let (owned, shared) = measured?;
    let judged = Line::judged(PART, "p99 on a core of its own", format!("at most {FLOOR:.2} x"));
    Ok(vec![
        told(&owned, judged).met(owned.ratio() <= FLOOR),
        told(&shared, Line::told(PART, "p99 sharing the CPUs")),
    ])
}

struct Bench<'a> {
    victim: &'a Worker,
    hostile: &'a Place<'a>,
    cpus: u64,
}

impl Bench<'_> {
    fn rounds(&self, effort: &Effort) -> Result<Pairs> {
        let mut pairs = Pairs::default();
        for round in 0..effort.rounds {
            let (without, under) = if round % 2 == 0 {
                let under = self.attacked(effort)?;
                (self.p99(effort)?, under)
            } else {
                (self.p99(effort)?, self.attacked(effort)?)
            };
            pairs.push(without, under);
        }
        Ok(pairs)
    }

    fn attacked(&self, effort: &Effort) -> Result<f64> {
        let profile = Profile { cpus: self.cpus, ..PROFILE };
        self.hostile.start(HOSTILE, profile)?;
        let p99 = self.p99(effort);
        self.hostile.end(HOSTILE)?;
        p99
    }

    fn p99(&self, effort: &Effort) -> Result<f64> {
        let requests = client::requests("digits", &models::bodies("digits")?, Manner::KeepAlive);
        let asked = Ask {
            address: self.victim.address,
            requests: &requests,
            connections: CONNECTIONS,
            manner: Manner::KeepAlive,
            duration: effort.round,
        };
        let (seen, (), ()) = client::ask(&asked, || Ok(()))?;
        Ok(seen.quantile(0.99).as_secs_f64() * 1e6)
    }
}

fn told(pairs: &Pairs, line: Line) -> Line {
    let (ratio, (without, under), rounds) = (pairs.ratio(), pairs.medians(), pairs.rounds());
    let text = format!(
        "{ratio:.2} x: {under:.0} us under attack, {without:.0} us without, median of {rounds} rounds"
    );
    line.found(text, json!({"ratio": ratio, "under_us": under, "without_us": without}))
}
