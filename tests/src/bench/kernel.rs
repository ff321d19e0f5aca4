//! What the kernel path costs: one worker in its cell, asked at its own listener with no program attached, through the
//! steered port, and through the steered port with the probes on, in turn. The same process and the same client each
//! time; only the programs' links come and go.

use super::Effort;
use super::apart::{Place, Worker};
use super::client::{self, Ask, Manner, Seen};
use super::figures::Line;
use super::machine::{self, Values};
use crate::models;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use turnout_ebpf_layout::{LAYOUT_VERSION, histogram};
use turnout_host::steering::{LinuxTraffic, TrafficConfig};
use turnout_host::traffic::{Probes, Route, Sample, Spread, Traffic};
use turnout_manifest::{Generation, Percent};

/// The public port: this network is the benchmark's own.
const PORT: u16 = 8700;
/// Longest wait until the kernel has attached or detached programs.
const SETTLED: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Links of what steers.
pub const STEERING: [&str; 1] = ["steer"];
/// Links of what watches.
pub const PROBES: [&str; 2] = ["request_in", "answer_out"];
const STEERING_PART: &str =
    "steering on against one plain listener (same worker, its own port, no program attached)";
const PROBES_PART: &str = "probes on against off (same worker, both through the steered port)";

/// What is attached, and which port is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Plain,
    Steered,
    Probed,
}

const SETTINGS: [Setting; 3] = [Setting::Plain, Setting::Steered, Setting::Probed];

/// Measures steering and probes. To be called within a place apart.
///
/// # Errors
/// A request that failed, or programs that did not do what the setting says.
pub fn measure(place: &Place<'_>, effort: &Effort) -> Result<Vec<Line>> {
    let bench = Bench::set(place)?;
    let (mut lines, mut probes) = (Vec::new(), Vec::new());
    for clients in CLIENTS {
        let rounds = bench.rounds(clients, effort)?;
        lines.push(compared(&STEERED, clients, &rounds));
        probes.push(compared(&PROBED, clients, &rounds));
    }
    lines.extend(probes);
    for clients in VIEWS {
        lines.push(bench.both_views(clients, effort)?);
    }
    place.end(bench.worker.generation)?;
    Ok(lines)
}

/// How the worker is asked.
#[derive(Clone, Copy)]
struct Clients {
    name: &'static str,
    manner: Manner,
    connections: usize,
}

const CLIENTS: [Clients; 2] = [
    Clients { name: "keep-alive, 8 connections", manner: Manner::KeepAlive, connections: 8 },
    Clients { name: "short connections, 4 at a time", manner: Manner::Short, connections: 4 },
];

/// Whose p99 is compared with the kernel's. Alone, with a client that never sleeps, a latency is as short as can be, and
/// what only the client can see (its own half of the way) is the greatest share of it; eight wait in the worker's queue.
const VIEWS: [Clients; 2] = [
    Clients { name: "p99, 1 connection, client that spins", manner: Manner::Awake, connections: 1 },
    Clients { name: "p99, keep-alive, 8 connections", manner: Manner::KeepAlive, connections: 8 },
];

/// Two settings that differ in one thing, and what share of the throughput it must leave.
struct Comparison {
    part: &'static str,
    off: Setting,
    on: Setting,
    least: f64,
}

const STEERED: Comparison =
    Comparison { part: STEERING_PART, off: Setting::Plain, on: Setting::Steered, least: 0.99 };
const PROBED: Comparison =
    Comparison { part: PROBES_PART, off: Setting::Steered, on: Setting::Probed, least: 0.98 };

struct Bench<'a> {
    place: &'a Place<'a>,
    config: TrafficConfig,
    traffic: LinuxTraffic,
    worker: Worker,
}

/// One setting's run in one round.
struct Run {
    seen: Seen,
    cpu: Duration,
}

impl Run {
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.seen.latencies.len().max(1) as f64
    }
}

impl<'a> Bench<'a> {
    fn set(place: &'a Place<'a>) -> Result<Self> {
        let config = TrafficConfig { pin_directory: place.pins(), cgroup: place.cgroup().to_owned() };
        let traffic = LinuxTraffic::open(&config, place.cells.clone())?;
        let worker = place.serve(Generation(1))?;
        traffic.admit(worker.generation, PORT)?;
        let arms = vec![(worker.generation, Percent::ALL)];
        traffic.set_route(&[public()], &Route { spread: Spread::Weight, salt: 1, arms })?;
        Ok(Self { place, config, traffic, worker })
    }

    /// All settings in turn, each round in another order.
    fn rounds(&self, clients: Clients, effort: &Effort) -> Result<Vec<[Run; 3]>> {
        let mut rounds = Vec::new();
        for round in 0..effort.rounds {
            let mut runs = [None, None, None];
            for place in 0..SETTINGS.len() {
                let which = (place + round) % SETTINGS.len();
                runs[which] = Some(self.run(SETTINGS[which], clients, effort.round)?);
            }
            rounds.push(runs.map(|run| run.expect("each setting had its turn")));
        }
        Ok(rounds)
    }

    fn run(&self, setting: Setting, clients: Clients, duration: Duration) -> Result<Run> {
        self.arrange(setting)?;
        let Clients { manner, connections, .. } = clients;
        let requests = client::requests("digits", &models::bodies("digits")?, manner);
        let ask = Ask { address: self.address(setting), requests: &requests, connections, manner, duration };
        let before = self.sample()?;
        let (seen, began, ended) = client::ask(&ask, || machine::cpu_time(self.worker.pid))
            .with_context(|| format!("{setting:?}, {}", clients.name))?;
        let counted = self.sample()?.requests - before.requests;
        match setting {
            Setting::Probed => {
                ensure!(counted >= seen.latencies.len() as u64, "the probes saw only {counted} requests");
            }
            _ => ensure!(counted == 0, "the probes saw {counted} requests and should be off"),
        }
        Ok(Run { seen, cpu: ended - began })
    }

    fn address(&self, setting: Setting) -> SocketAddr {
        if setting == Setting::Plain { self.worker.address } else { public() }
    }

    fn sample(&self) -> Result<Sample> {
        Ok(self.traffic.sample(self.worker.generation)?)
    }

    /// Attaches and detaches until a request shows that the setting is in force.
    fn arrange(&self, setting: Setting) -> Result<()> {
        if setting != Setting::Plain {
            LinuxTraffic::open(&self.config, self.place.cells.clone())?;
        }
        match setting {
            Setting::Plain => detach(&self.config, &[&STEERING[..], &PROBES].concat())?,
            Setting::Steered => detach(&self.config, &PROBES)?,
            Setting::Probed => {}
        }
        let deadline = Instant::now() + SETTLED;
        while !self.is_in_force(setting)? {
            if Instant::now() > deadline {
                bail!("{setting:?} is not in force after {} s", SETTLED.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn is_in_force(&self, setting: Setting) -> Result<bool> {
        if setting == Setting::Plain {
            return Ok(TcpStream::connect(public()).is_err());
        }
        let before = self.sample()?.requests;
        let Ok(mut stream) = TcpStream::connect(public()) else { return Ok(false) };
        stream.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new())?;
        Ok((self.sample()?.requests > before) == (setting == Setting::Probed))
    }

    /// The p99 of the kernel's histogram beside the client's.
    fn both_views(&self, clients: Clients, effort: &Effort) -> Result<Line> {
        self.arrange(Setting::Probed)?;
        let Clients { name, manner, connections } = clients;
        let requests = client::requests("digits", &models::bodies("digits")?, manner);
        let (address, duration) = (public(), effort.round * 2);
        let ask = Ask { address, requests: &requests, connections, manner, duration };
        let mut distances = Vec::new();
        let mut shown = Vec::new();
        for _ in 0..effort.rounds {
            let (seen, before, after) = client::ask(&ask, || self.sample())?;
            let counts = after.latencies.iter().zip(&before.latencies).map(|(after, before)| after - before);
            let kernel = bucket_of(&counts.collect::<Vec<_>>(), 0.99).context("the probes saw nothing")?;
            let client = histogram::bucket(seen.quantile(0.99).as_nanos() as u64);
            distances.push(f64::from(client) - f64::from(kernel));
            shown.push((
                histogram::upper_bound(kernel) as f64 / 1e3,
                histogram::upper_bound(client) as f64 / 1e3,
            ));
        }
        let distance = distances.into_iter().collect::<Values>().median();
        let kernel = shown.iter().map(|(kernel, _)| *kernel).collect::<Values>().median();
        let client = shown.iter().map(|(_, client)| *client).collect::<Values>().median();
        let measured = format!("kernel {kernel:.0} us, client {client:.0} us: {distance:+.0} buckets");
        let figures = json!({"kernel_us": kernel, "client_us": client, "buckets": distance});
        let line = Line::judged(PROBES_PART, name, "within 1 bucket");
        Ok(line.found(measured, figures).met(distance.abs() <= 1.0))
    }
}

/// Takes programs off. A link lives by its pin alone; the kernel lets go of it a moment after the pin.
///
/// # Errors
/// The file system's own.
pub fn detach(config: &TrafficConfig, links: &[&str]) -> Result<()> {
    let folder = config.pin_directory.join(format!("v{LAYOUT_VERSION}/links"));
    for name in links {
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The bucket that holds this share of all counts.
fn bucket_of(counts: &[u64], share: f64) -> Option<u32> {
    let total: u64 = counts.iter().sum();
    let rank = (total as f64 * share).ceil() as u64;
    let mut sum = 0;
    let reached = counts.iter().position(|count| {
        sum += count;
        sum >= rank && total > 0
    })?;
    u32::try_from(reached).ok()
}

/// Ratio of a setting to the one without it: in each round by itself, then the median.
fn compared(comparison: &Comparison, clients: Clients, rounds: &[[Run; 3]]) -> Line {
    let Comparison { part, off, on, least } = *comparison;
    let of = |setting: Setting| move |runs: &[Run; 3]| runs[setting as usize].seen.rate();
    let ratios: Values = rounds.iter().map(|runs| of(on)(runs) / of(off)(runs)).collect();
    let cpu: Values =
        rounds.iter().map(|runs| runs[on as usize].cpu_us() / runs[off as usize].cpu_us()).collect();
    let rate = |setting: Setting| rounds.iter().map(of(setting)).collect::<Values>().median();
    let (ratio, (low, high)) = (ratios.median(), (ratios.quantile(0.25), ratios.quantile(0.75)));
    let measured = format!(
        "{ratio:.3} ({low:.3} to {high:.3})  {:.0} of {:.0} req/s, CPU {:.3}",
        rate(on),
        rate(off),
        cpu.median()
    );
    let figures = json!({"throughput_ratio": ratio, "quartiles": [low, high], "cpu_ratio": cpu.median(),
        "on_per_second": rate(on), "off_per_second": rate(off), "rounds": rounds.len()});
    Line::judged(part, clients.name, format!("at least {least}")).found(measured, figures).met(ratio >= least)
}

fn public() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_a_share_is_found_in_counts() {
        for (counts, share, bucket) in
            [(&[0, 99, 1][..], 0.99, Some(1)), (&[0, 98, 2], 0.99, Some(2)), (&[0, 0], 0.99, None)]
        {
            assert_eq!(bucket_of(counts, share), bucket, "{counts:?}");
        }
    }
}
