//! Steering against what the kernel does by itself: two servers whose listeners share one port by `SO_REUSEPORT`, and the
//! same two listeners behind a steered port, half each. The servers are the bare loop: nothing else differs.

use super::Effort;
use super::Settings;
use super::client::{self, Ask, Manner, Seen};
use super::figures::Line;
use super::kernel::{PROBES, STEERING, detach};
use super::machine::Values;
use crate::models::{self, FIRST};
use crate::remains::Remains;
use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use turnout_host::HostError;
use turnout_host::steering::{LinuxTraffic, TrafficConfig};
use turnout_host::traffic::{Occupants, Route, Spread, Traffic};
use turnout_manifest::{Generation, Percent};

const PART: &str = "steering against plain SO_REUSEPORT (two bare loops, the same listeners)";
const LEAST: f64 = 0.99;
/// The port both listeners share, and the one that is steered to them.
const SHARED: u16 = 8701;
const STEERED: u16 = 8700;
const CONNECTIONS: usize = 8;
const BACKLOG: i32 = 1024;
/// Longest wait until the kernel has let go of a program.
const SETTLED: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Measures both, round by round. To be called within a place apart.
///
/// # Errors
/// A request that failed.
pub fn measure(settings: &Settings, remains: &Remains, effort: &Effort) -> Result<Vec<Line>> {
    let servers = Arc::new(Servers::start(settings)?);
    // Where the probes are attached; nobody lives in it, and they are taken off before anything is measured.
    fs::create_dir(&remains.cgroup).context("cannot make a cgroup")?;
    let config = TrafficConfig { pin_directory: remains.folder.join("bpf"), cgroup: remains.cgroup.clone() };
    let mut lines = Vec::new();
    for manner in [Manner::KeepAlive, Manner::Short] {
        let mut ratios = Vec::new();
        let mut rates = (Vec::new(), Vec::new());
        for round in 0..effort.rounds {
            let steered = || steered(&config, &servers, manner, effort);
            let plain = || plain(&config, manner, effort);
            let (on, off) = if round % 2 == 0 {
                let on = steered()?;
                (on, plain()?)
            } else {
                let off = plain()?;
                (steered()?, off)
            };
            ratios.push(on.rate() / off.rate());
            rates.0.push(on.rate());
            rates.1.push(off.rate());
        }
        lines.push(judged(manner, ratios, rates));
    }
    Ok(lines)
}

fn judged(manner: Manner, ratios: Vec<f64>, (on, off): (Vec<f64>, Vec<f64>)) -> Line {
    let ratios: Values = ratios.into_iter().collect();
    let (on, off) =
        (on.into_iter().collect::<Values>().median(), off.into_iter().collect::<Values>().median());
    let (ratio, low, high) = (ratios.median(), ratios.quantile(0.25), ratios.quantile(0.75));
    let name = if manner == Manner::Short { "short connections" } else { "keep-alive" };
    let measured = format!("{ratio:.3} ({low:.3} to {high:.3})  {on:.0} of {off:.0} req/s");
    let figures = json!({"throughput_ratio": ratio, "quartiles": [low, high], "steered_per_second": on,
        "reuseport_per_second": off, "rounds": ratios.count()});
    Line::judged(PART, format!("{name}, {CONNECTIONS} connections"), format!("at least {LEAST}"))
        .found(measured, figures)
        .met(ratio >= LEAST)
}

fn steered(config: &TrafficConfig, servers: &Arc<Servers>, manner: Manner, effort: &Effort) -> Result<Seen> {
    let traffic = LinuxTraffic::open(config, servers.clone())?;
    // Steering alone is compared: both servers are the same, and nobody looks at the counters.
    detach(config, &PROBES)?;
    let half = Percent::from_thousandths(50_000).context("half is a share")?;
    for (generation, _) in &servers.0 {
        traffic.admit(*generation, STEERED)?;
    }
    let arms = servers.0.iter().map(|(generation, _)| (*generation, half)).collect();
    let route = Route { spread: Spread::Weight, salt: 1, arms };
    traffic.set_route(&[address(STEERED)], &route)?;
    run(STEERED, manner, effort)
}

fn plain(config: &TrafficConfig, manner: Manner, effort: &Effort) -> Result<Seen> {
    detach(config, &STEERING)?;
    detach(config, &PROBES)?;
    let deadline = Instant::now() + SETTLED;
    while TcpStream::connect(address(STEERED)).is_ok() {
        ensure!(Instant::now() < deadline, "steering is still in force after {} s", SETTLED.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
    run(SHARED, manner, effort)
}

fn run(port: u16, manner: Manner, effort: &Effort) -> Result<Seen> {
    let requests = client::requests("digits", &models::bodies("digits")?, manner);
    let (address, connections, duration) = (address(port), CONNECTIONS, effort.round);
    let ask = Ask { address, requests: &requests, connections, manner, duration };
    Ok(client::ask(&ask, || Ok(()))?.0)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The two servers, as steering knows versions: by generation, each with its listener as descriptor 3.
struct Servers([(Generation, Server); 2]);

struct Server {
    child: Child,
    pidfd: OwnedFd,
}

impl Servers {
    fn start(settings: &Settings) -> Result<Self> {
        Ok(Self([(Generation(1), Server::start(settings)?), (Generation(2), Server::start(settings)?)]))
    }
}

impl Server {
    fn start(settings: &Settings) -> Result<Self> {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"exec "$@" 3<&0"#, "sh"])
            .arg(std::env::current_exe()?)
            .args(["floor", "--inherit"])
            .arg(&settings.onnxruntime)
            .arg(models::file("digits", FIRST))
            .arg("1")
            .env("ORT_DISABLE_TELEMETRY", "1")
            .stdin(listener()?)
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a server")?;
        let output = child.stdout.take().context("the server has no standard output")?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
        // From here on it is ended when it is dropped.
        let server = pidfd.map(|pidfd| Self { child, pidfd })?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("the server says nothing")?;
        ensure!(line.trim() == address(SHARED).to_string(), "the server says `{}`", line.trim());
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn listener() -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address(SHARED))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl Occupants for Servers {
    fn slot(&self, generation: Generation) -> Result<Option<u32>, HostError> {
        let place = self.0.iter().position(|(known, _)| *known == generation);
        Ok(place.and_then(|place| u32::try_from(place).ok()))
    }

    fn generation(&self, slot: u32) -> Result<Option<Generation>, HostError> {
        Ok(self.0.get(slot as usize).map(|(generation, _)| *generation))
    }

    fn worker_pidfd(&self, generation: Generation) -> Result<Option<OwnedFd>, HostError> {
        let found = self.0.iter().find(|(known, _)| *known == generation);
        let pidfd = found.map(|(_, server)| server.pidfd.try_clone()).transpose();
        pidfd.map_err(HostError::os("dup", generation))
    }
}
