//! The worker as users have it (released by the daemon, in its cell, steered, probes on, contract checked) beside the
//! least that could answer the same requests, in turn, by the same client.

use super::client::{self, Ask, Manner, Seen};
use super::figures::Line;
use super::machine::{self, Values};
use super::stage::{Stage, WORKER};
use super::{Effort, Settings};
use crate::models;
use anyhow::{Context, Result};
use serde_json::json;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PART: &str =
    "REST JSON: worker against a bare hyper + ONNX Runtime loop (digits, 1 thread each, medians)";
/// Serving threads of either: what a manifest asks for when it says nothing.
const THREADS: &str = "1";
const CONNECTIONS: [usize; 3] = [1, 8, 64];
/// Least throughput, as a share of the floor's.
const LEAST: f64 = 0.9;
/// Most CPU of the worker for a request, microseconds.
const MOST_CPU_US: f64 = 25.0;
/// Greatest p99 with 64 connections, as a multiple of the floor's.
const MOST_P99: f64 = 1.2;

/// Measures both, round by round. The stage's first version is live.
///
/// # Errors
/// A request that failed.
pub fn measure(settings: &Settings, stage: &Stage, effort: &Effort) -> Result<Vec<Line>> {
    let worker = Server { pid: stage.process(WORKER)?, address: stage.address };
    let floor = Floor::start(settings)?;
    let mut lines = Vec::new();
    for connections in CONNECTIONS {
        let mut runs = Vec::new();
        for round in 0..effort.rounds {
            // Who is first changes with each round.
            let first = if round % 2 == 0 {
                worker.run(connections, effort)?
            } else {
                floor.server.run(connections, effort)?
            };
            let second = if round % 2 == 0 {
                floor.server.run(connections, effort)?
            } else {
                worker.run(connections, effort)?
            };
            runs.push(if round % 2 == 0 { (first, second) } else { (second, first) });
        }
        lines.extend(compared(connections, &runs));
    }
    Ok(lines)
}

struct Server {
    pid: i32,
    address: SocketAddr,
}

struct Run {
    seen: Seen,
    cpu: Duration,
}

impl Server {
    fn run(&self, connections: usize, effort: &Effort) -> Result<Run> {
        let manner = Manner::KeepAlive;
        let requests = client::requests("digits", &models::bodies("digits")?, manner);
        let (address, duration) = (self.address, effort.round);
        let ask = Ask { address, requests: &requests, connections, manner, duration };
        let (seen, before, after) = client::ask(&ask, || machine::cpu_time(self.pid))?;
        Ok(Run { seen, cpu: after - before })
    }
}

/// The floor: this program once more, as a process of its own.
struct Floor {
    child: Child,
    server: Server,
}

impl Floor {
    fn start(settings: &Settings) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("floor")
            .arg(&settings.onnxruntime)
            .arg(models::file("digits", models::FIRST))
            .arg(THREADS);
        // As the launcher does it for the worker.
        command.env("ORT_DISABLE_TELEMETRY", "1").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the floor")?;
        let pid = child.id() as i32;
        let mut line = String::new();
        let output = child.stdout.take().context("the floor has no standard output")?;
        let read = BufReader::new(output).read_line(&mut line);
        let server = Server { pid, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut floor = Self { child, server };
        read.context("the floor says nothing")?;
        floor.server.address = line.trim().parse().with_context(|| format!("the floor says `{line}`"))?;
        Ok(floor)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn compared(connections: usize, runs: &[(Run, Run)]) -> Vec<Line> {
    let ratio =
        |of: fn(&Run) -> f64| runs.iter().map(|(worker, floor)| of(worker) / of(floor)).collect::<Values>();
    let median = |of: fn(&Run) -> f64| {
        let each = |which: fn(&(Run, Run)) -> &Run| {
            runs.iter().map(|run| of(which(run))).collect::<Values>().median()
        };
        (each(|run| &run.0), each(|run| &run.1))
    };
    let rate = |run: &Run| run.seen.rate();
    let p50 = |run: &Run| run.seen.quantile(0.5).as_secs_f64() * 1e6;
    let p99 = |run: &Run| run.seen.quantile(0.99).as_secs_f64() * 1e6;
    let cpu = |run: &Run| run.cpu.as_secs_f64() * 1e6 / run.seen.latencies.len().max(1) as f64;
    let (throughput, tail) = (ratio(rate), ratio(p99));
    let (rates, p50s, p99s, cpus) = (median(rate), median(p50), median(p99), median(cpu));
    let (low, high) = (throughput.quantile(0.25), throughput.quantile(0.75));
    let name = |what: &str| format!("{connections:>2} connections: {what}");
    let figures = json!({"connections": connections, "ratio": throughput.median(), "quartiles": [low, high],
        "worker_per_second": rates.0, "floor_per_second": rates.1, "rounds": runs.len()});
    let speed = Line::judged(PART, name("throughput"), format!("at least {LEAST}")).found(
        format!("{:.3} ({low:.3} to {high:.3})  {:.0} of {:.0} req/s", throughput.median(), rates.0, rates.1),
        figures,
    );
    let latency = format!("{:.0} / {:.0} us, floor {:.0} / {:.0} us", p50s.0, p99s.0, p50s.1, p99s.1);
    let figures = json!({"connections": connections, "worker_us": [p50s.0, p99s.0], "floor_us": [p50s.1, p99s.1],
        "p99_ratio": tail.median()});
    let tail_line = if connections == 64 {
        Line::judged(PART, name("p50 / p99"), format!("p99 at most {MOST_P99} x"))
            .found(format!("{latency}: {:.2} x", tail.median()), figures)
            .met(tail.median() <= MOST_P99)
    } else {
        Line::told(PART, name("p50 / p99")).found(latency, figures)
    };
    let figures = json!({"connections": connections, "worker_us": cpus.0, "floor_us": cpus.1});
    let work = Line::judged(PART, name("CPU for a request"), format!("at most {MOST_CPU_US} us"))
        .found(format!("{:.1} us, floor {:.1} us", cpus.0, cpus.1), figures);
    vec![speed.met(throughput.median() >= LEAST), tail_line, work.met(cpus.0 <= MOST_CPU_US)]
}
