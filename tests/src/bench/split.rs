//! How connections are shared out: two workers behind one steered port, one request a connection, each share asked for
//! in turn; the kernel's own counters say who got how many.

use super::Effort;
use super::apart::{Place, Worker};
use super::client::{self, Ask, Manner};
use super::figures::Line;
use crate::models;
use crate::tally::wilson;
use anyhow::{Context, Result};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use turnout_host::steering::{LinuxTraffic, TrafficConfig};
use turnout_host::traffic::{Probes, Route, Spread, Traffic};
use turnout_manifest::{Generation, Percent};

/// The public port: this network is the benchmark's own.
const PORT: u16 = 8700;
const PART: &str = "split of new connections between two versions (one request each, weight)";
/// Shares of the second version, percent.
const SHARES: [u32; 6] = [0, 1, 5, 25, 50, 100];
const CONNECTIONS: usize = 4;
/// Standard deviations of a 99.9 % interval: several shares are judged in one run.
const DEVIATIONS: f64 = 3.290_526_731_492;

/// Measures every share. To be called within a place apart.
///
/// # Errors
/// A request that failed.
pub fn measure(place: &Place<'_>, effort: &Effort) -> Result<Vec<Line>> {
    let config = TrafficConfig { pin_directory: place.pins(), cgroup: place.cgroup().to_owned() };
    let traffic = LinuxTraffic::open(&config, place.cells.clone())?;
    let workers = [place.serve(Generation(1))?, place.serve(Generation(2))?];
    for worker in &workers {
        traffic.admit(worker.generation, PORT)?;
    }
    let mut lines = Vec::new();
    let mut all = 0;
    for share in SHARES {
        let (had, of) = count(&traffic, &workers, share, effort)?;
        all += of;
        lines.push(judged(share, had, of));
    }
    lines.push(Line::told(PART, "connections in all").found(all.to_string(), json!({"connections": all})));
    for worker in &workers {
        place.end(worker.generation)?;
    }
    Ok(lines)
}

/// How many of all connections the second version got while it was asked to have this share.
fn count(
    traffic: &LinuxTraffic,
    [stable, candidate]: &[Worker; 2],
    share: u32,
    effort: &Effort,
) -> Result<(u64, u64)> {
    let percent = Percent::from_thousandths(share * 1000).context("a share above 100 %")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let arms = vec![(candidate.generation, percent), (stable.generation, percent.rest())];
    let arms = arms.into_iter().filter(|(_, share)| *share != Percent::NONE).collect();
    traffic.set_route(&[address], &Route { spread: Spread::Weight, salt: u64::from(share), arms })?;
    let manner = Manner::Short;
    let requests = client::requests("digits", &models::bodies("digits")?, manner);
    let ask = Ask { address, requests: &requests, connections: CONNECTIONS, manner, duration: effort.round };
    let opened = |worker: &Worker| traffic.sample(worker.generation).map(|sample| sample.opened);
    // What went before is over: the client waits for each connection's end.
    let before = (opened(stable)?, opened(candidate)?);
    client::ask(&ask, || Ok(()))?;
    let (at_home, away) = (opened(stable)? - before.0, opened(candidate)? - before.1);
    Ok((away, at_home + away))
}

fn judged(share: u32, had: u64, of: u64) -> Line {
    let (low, high) = wilson(had, of, DEVIATIONS);
    let seen = had as f64 / of.max(1) as f64;
    let asked = f64::from(share) / 100.0;
    let met = match share {
        0 => had == 0,
        100 => had == of,
        _ => (low..=high).contains(&asked),
    };
    let measured = format!("{:.2} % of {of} ({:.2} to {:.2})", seen * 100.0, low * 100.0, high * 100.0);
    let figures = json!({"asked": asked, "seen": seen, "interval": [low, high], "connections": of});
    let floor = match share {
        0 => "none",
        100 => "all",
        _ => "within the 99.9 % interval",
    };
    Line::judged(PART, format!("{share:>3} % asked"), floor).found(measured, figures).met(met)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Judged;

    #[test]
    fn a_share_is_judged_by_its_interval_and_the_ends_exactly() {
        for (share, had, of, expected) in [
            (0, 0, 1000, Judged::Ok),
            (0, 1, 1000, Judged::Misses),
            (100, 1000, 1000, Judged::Ok),
            (100, 999, 1000, Judged::Misses),
            (25, 2510, 10_000, Judged::Ok),
            (25, 2700, 10_000, Judged::Misses),
        ] {
            assert_eq!(judged(share, had, of).judged, expected, "{share} % of {of}: {had}");
        }
    }
}
