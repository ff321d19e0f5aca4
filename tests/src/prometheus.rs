//! The exporter of the metrics and a real Prometheus that scrapes it, both on this network's loopback; and the one kind
//! of question that tests ask of them.

use crate::scenario::{LIMIT, until};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Where the exporter listens.
pub const EXPORTER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);
/// Where Prometheus listens.
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9490);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// `nobody`, whom the exporter runs as.
const NOBODY: u32 = 65_534;

/// A process that is ended with this value.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts the exporter without any right but that of the socket's group, root's own in tests.
///
/// # Errors
/// When it does not answer in time.
pub fn export(program: &Path, socket: &Path) -> Result<Running> {
    let mut command = Command::new(program);
    command.args(["metrics", "--listen", &EXPORTER.to_string(), "--socket"]).arg(socket);
    let child = command.uid(NOBODY).gid(0).stdin(Stdio::null()).spawn().context("`turnout-export`")?;
    let running = Running(child);
    until("the exporter answers", LIMIT, || Ok(TcpStream::connect(EXPORTER).ok()))?;
    Ok(running)
}

/// What the exporter says at a path: status and text.
///
/// # Errors
/// When it says nothing.
pub fn scrape(path: &str) -> Result<(u16, String)> {
    get(EXPORTER, path)
}

/// A Prometheus that scrapes the exporter every second, by the rules of this repository.
pub struct Prometheus {
    _running: Running,
}

impl Prometheus {
    /// Starts it, its data in a folder.
    ///
    /// # Errors
    /// When it is not set up, or not ready in time.
    pub fn start(folder: &Path) -> Result<Self> {
        let config = folder.join("prometheus.yml");
        let rules = packaged("prometheus/turnout.rules.yml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules:?}]\n\
                 scrape_configs: [{{job_name: turnout, static_configs: [{{targets: ['{EXPORTER}']}}]}}]\n"
            ),
        )?;
        let log = fs::File::create(folder.join("prometheus.log"))?;
        let mut command = Command::new(program("prometheus")?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()));
        command.arg(format!("--web.listen-address={SERVER}"));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let running = Running(child);
        until("Prometheus is ready", LIMIT * 2, || {
            Ok(get(SERVER, "/-/ready").ok().filter(|(status, _)| *status == 200))
        })?;
        Ok(Self { _running: running })
    }

    /// The series that a query gives now: labels and value of each.
    ///
    /// # Errors
    /// When Prometheus does not take the query.
    pub fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let (_, text) = get(SERVER, &format!("/api/v1/query?query={}", escaped(query)))?;
        let answer: Value = serde_json::from_str(&text).context("no JSON")?;
        ensure!(answer["status"] == "success", "`{query}`: {text}");
        let series = answer["data"]["result"].as_array().context("no result")?;
        let value = |series: &Value| {
            let number = series["value"][1].as_str().context("no value")?.parse()?;
            Ok((series["metric"].clone(), number))
        };
        series.iter().map(value).collect()
    }
}

/// Runs promtool, with this on its standard input.
///
/// # Errors
/// When it is not set up.
pub fn promtool(arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = Command::new(program("promtool")?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // A promtool that does not read says why.
    let _ = child.stdin.take().context("no standard input")?.write_all(input.as_bytes());
    Ok(child.wait_with_output()?)
}

/// A file of `packaging`.
pub fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name)
}

fn program(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/prometheus");
    let folder = std::env::var_os("TURNOUT_PROMETHEUS").map_or(folder, PathBuf::from);
    let program = folder.join(name);
    if !program.is_file() {
        bail!("`{}` is not there; remedy: `cargo xtask setup`", program.display());
    }
    Ok(program)
}

/// HTTP/1.0, so that the answer ends with the connection and has no chunks.
fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

fn escaped(query: &str) -> String {
    query.bytes().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "%{byte:02X}");
        text
    })
}
