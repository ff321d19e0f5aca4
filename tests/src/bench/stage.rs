//! A daemon of the benchmarks' own with `digits` imported, and how its pieces are found: its port, its processes.

use super::Settings;
use super::client::{self, Manner};
use crate::daemon::{self, Ctl, Instance};
use crate::models::{self, FIRST, Source};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NAME: &str = "bench";
/// Ports of which the first free one is the model's; the next ones are the instance's too.
const PORTS: std::ops::Range<u16> = 9700..9900;
const PORTS_OWN: u16 = 8;
const WORKER_UIDS: u32 = 71_000;
/// Longest wait for an answer, and for a process to end.
const DEADLINE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A worker's program as its cell shows it.
pub const WORKER: &str = "worker";

/// The daemon, and what is known of it.
pub struct Stage {
    /// The daemon.
    pub instance: Instance,
    /// Its command line.
    pub ctl: Ctl,
    /// Where `digits` is served.
    pub address: SocketAddr,
    /// The private key whose signature counts for the test models.
    pub key: PathBuf,
}

impl Stage {
    /// Starts a daemon and imports these versions of `digits`.
    ///
    /// # Errors
    /// When it does not start, or the command's own message.
    pub fn set(settings: &Settings, versions: &[&str]) -> Result<Self> {
        Self::configured(settings, versions, &[])
    }

    /// The same, with these keys of its configuration set.
    ///
    /// # Errors
    /// When it does not start, or the command's own message.
    pub fn configured(settings: &Settings, versions: &[&str], keys: &[(&str, &str)]) -> Result<Self> {
        let port = free_port()?;
        let mut instance = Instance::create(daemon::Settings {
            name: NAME.into(),
            ports: port..=port + PORTS_OWN,
            worker_uid_base: WORKER_UIDS,
            models: [("digits".to_owned(), port)].into(),
            programs: settings.programs.clone(),
            onnxruntime: settings.onnxruntime.clone(),
        })?;
        for (key, value) in keys {
            instance.configure(key, value)?;
        }
        instance.start()?;
        let ctl = instance.ctl();
        let key = models::trusted_key(&ctl, instance.folder())?;
        for version in versions {
            let bundle = models::unsigned(&ctl, instance.folder(), Source::of("digits", version))?;
            models::sign(&ctl, &bundle, &key)?;
            models::import(&ctl, &bundle)?.expect(0)?;
        }
        Ok(Self { instance, ctl, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), key })
    }

    /// Brings the first version live and waits for it.
    ///
    /// # Errors
    /// The command's own message.
    pub fn go_live(&self) -> Result<()> {
        let reference = format!("digits@{FIRST}");
        let answer = self.ctl.ok(&["release", "start", &reference, "--wait", "--timeout", "60s"])?;
        match answer.text("/state")? {
            "promoted" => Ok(()),
            other => bail!("the first version ended {other}: {}", answer.stdout),
        }
    }

    /// The process of this name.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn process(&self, program: &str) -> Result<i32> {
        let all = self.instance.processes()?;
        let found: Vec<i32> = all.iter().filter(|(name, _)| name == program).map(|(_, pid)| *pid).collect();
        match found[..] {
            [pid] => Ok(pid),
            _ => bail!("{} processes `{program}`, not one: {all:?}", found.len()),
        }
    }

    /// Ends the daemon and its launcher; store and state stay.
    ///
    /// # Errors
    /// When one does not end.
    pub fn rest(&mut self) -> Result<()> {
        self.instance.stop()?;
        let launcher = self.process("turnout-launcher")?;
        let pid = Pid::from_raw(launcher).context("the launcher has no process id")?;
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + DEADLINE;
        while !self.instance.processes()?.is_empty() {
            if Instant::now() > deadline {
                bail!("the launcher does not end: {:?}", self.instance.processes()?);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Asks until the model answers 200.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn first_answer(&self) -> Result<()> {
        let requests = client::requests("digits", &models::bodies("digits")?, Manner::Short);
        let request = requests.first().context("no request")?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let said = answer(self.address, request);
            if said.as_ref().is_ok_and(|said| said.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no answer from {}: {said:?}\n{}", self.address, self.instance.log_end());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn answer(address: SocketAddr, request: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(request)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn free_port() -> Result<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let mut starts = PORTS.step_by(usize::from(PORTS_OWN) + 1);
    starts.find(is_free).with_context(|| format!("no port from {} to {} is free", PORTS.start, PORTS.end))
}
