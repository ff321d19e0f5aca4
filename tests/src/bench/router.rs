//! Through the router against straight to the worker: the same worker and the same client, in turn. The router is in the
//! path while a release splits; what it costs there is told, and the floor is on the kernel's path, which has none.

use super::Effort;
use super::apart::listener_of;
use super::client::{self, Ask, Manner, Seen};
use super::figures::Line;
use super::machine::Values;
use super::stage::{Stage, WORKER};
use crate::models::{self, FIRST};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const PART: &str = "router: through it against straight to the worker, same worker, same client";
/// A split that nobody ends; no request of the client has the header, so all go to the old version.
const SPLIT: &str = "\
strategy: {kind: user-hash, header: x-user-id}
steps: [{percent: 50}, {percent: 100}]
window: 1h
patience: 2h
";
/// Longest wait for the split to be in force.
const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const CONNECTIONS: [usize; 3] = [1, 8, 64];

/// Measures throughput and p99 with 1, 8 and 64 connections. Each pair is measured while the release holds: straight,
/// at the worker's own listener, which nothing bounds, and through the public port.
///
/// # Errors
/// When the split does not come about, or a request fails.
pub fn measure(stage: &Stage, effort: &Effort) -> Result<Vec<Line>> {
    let plan = stage.instance.folder().join("bench-router.yaml");
    std::fs::write(&plan, SPLIT)?;
    stage.ctl.ok(&["release", "start", "digits@errors", "--plan", models::text(&plan)?])?;
    let lines = split_in_force(stage).and_then(|()| lines(stage, effort));
    // Whatever came of it: the other parts need one version that serves all.
    stage.ctl.ok(&["rollback", "digits"])?;
    lines
}

fn split_in_force(stage: &Stage) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while stage.ctl.ok(&["status"])?.text("/models/0/release/step")? != "observe at 50 %" {
        ensure!(Instant::now() < deadline, "no split after {} s", DEADLINE.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

fn lines(stage: &Stage, effort: &Effort) -> Result<Vec<Line>> {
    let direct = worker_of_first(stage)?;
    let requests = client::requests("digits", &models::bodies("digits")?, Manner::KeepAlive);
    let ask = |address: SocketAddr, connections: usize| -> Result<Seen> {
        let (requests, duration) = (&requests, effort.round);
        let ask = Ask { address, requests, connections, manner: Manner::KeepAlive, duration };
        Ok(client::ask(&ask, || Ok(()))?.0)
    };
    let mut lines = Vec::new();
    for connections in CONNECTIONS {
        let mut rounds = Vec::new();
        for _ in 0..effort.rounds {
            rounds.push([ask(direct, connections)?, ask(stage.address, connections)?]);
        }
        lines.push(line(connections, &rounds));
    }
    Ok(lines)
}

fn line(connections: usize, rounds: &[[Seen; 2]]) -> Line {
    let median = |pick: &dyn Fn(&[Seen; 2]) -> f64| rounds.iter().map(pick).collect::<Values>().median();
    let micros = |seen: &Seen| seen.quantile(0.99).as_secs_f64() * 1e6;
    let ratio = median(&|[direct, routed]| routed.rate() / direct.rate());
    let (direct, routed) = (median(&|runs| runs[0].rate()), median(&|runs| runs[1].rate()));
    let (p99, p99_routed) = (median(&|runs| micros(&runs[0])), median(&|runs| micros(&runs[1])));
    let measured =
        format!("{ratio:.2}  {routed:.0} of {direct:.0} req/s, p99 {p99_routed:.0} against {p99:.0} us");
    let figures = json!({"throughput_ratio": ratio, "direct_per_second": direct, "routed_per_second": routed,
        "direct_p99_us": p99, "routed_p99_us": p99_routed, "rounds": rounds.len()});
    let clients = if connections == 1 { "1 connection".into() } else { format!("{connections} connections") };
    Line::told(PART, clients).found(measured, figures)
}

/// Where the first version's worker listens itself.
fn worker_of_first(stage: &Stage) -> Result<SocketAddr> {
    for (program, pid) in stage.instance.processes()? {
        if program == WORKER
            && let Some(pid) = Pid::from_raw(pid)
        {
            let address = listener_of(&pidfd_open(pid, PidfdFlags::empty())?)?;
            if serves_first(address)? {
                return Ok(address);
            }
        }
    }
    bail!("no worker serves `{FIRST}`")
}

fn serves_first(address: SocketAddr) -> Result<bool> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(b"GET /v2/models/digits HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("a worker does not answer")?;
    Ok(text.to_ascii_lowercase().contains(&format!("turnout-version: {FIRST}\r\n")))
}
