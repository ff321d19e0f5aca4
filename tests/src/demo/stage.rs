//! What the acts are played on: a daemon of the demo's own, the signed models, live traffic, and the lines of the verdict.

use super::{NAME, Settings};
use crate::daemon::{self, Ctl, Instance};
use crate::load::{Load, Pace, Running};
use crate::models::{self, FIRST, MODELS, OTHERS, Source};
use crate::tally::Tally;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Runtime;
use turnout_protocol::report::Report;

/// Ports the demo may use, the first free block of so many.
const PORTS: std::ops::Range<u16> = 8700..9700;
const PORT_BLOCK: u16 = 100;
/// First user id of the demo's workers.
const WORKER_UIDS: u32 = 61_000;
/// No request of the demo takes longer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The traffic ends by itself after this time, should the demo hang.
const LONGEST: Duration = Duration::from_secs(300);
const MOST_REQUESTS: u64 = 5_000_000;

/// One line of the verdict.
#[derive(Debug)]
pub(super) struct Line {
    pub what: String,
    pub found: String,
    pub good: bool,
}

/// The stage.
pub(super) struct Stage {
    pub settings: Settings,
    pub instance: Instance,
    pub ctl: Ctl,
    pub key: PathBuf,
    pub bundles: PathBuf,
    pub ports: BTreeMap<String, u16>,
    /// Reports of the releases of `digits` that had traffic, in their order.
    pub reports: Vec<Report>,
    pub files: Vec<PathBuf>,
    pub lines: Vec<Line>,
    runtime: Runtime,
    loads: Vec<(&'static str, Running)>,
}

/// What clients of one model saw, over the whole demo.
pub(super) struct ModelTally {
    pub model: &'static str,
    pub began_ms: u64,
    pub tally: Tally,
}

impl Stage {
    /// Starts the daemon, makes keys, signs and imports every version of every test model.
    pub fn set(settings: &Settings) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        super::stop().context("the daemon of an earlier demo cannot be cleared")?;
        fs::create_dir_all(&settings.reports)?;
        let first = free_block()?;
        let ports: BTreeMap<_, _> = MODELS.iter().map(|model| (*model).to_owned()).zip(first..).collect();
        let mut instance = Instance::create(daemon::Settings {
            name: NAME.into(),
            ports: first..=first + PORT_BLOCK - 1,
            worker_uid_base: WORKER_UIDS,
            models: ports.clone(),
            programs: settings.programs.clone(),
            onnxruntime: settings.onnxruntime.clone(),
        })?;
        say("start a daemon of the demo's own, with a Btrfs store in a file of its own");
        instance.start()?;
        let ctl = instance.ctl();
        let bundles = instance.folder().join("bundles");
        fs::create_dir(&bundles)?;
        say("make a signing key, and trust it for the demo's models");
        let key = models::trusted_key(&ctl, instance.folder())?;
        let (settings, lines) = (settings.clone(), Vec::new());
        let (reports, files, loads) = (Vec::new(), Vec::new(), Vec::new());
        let mut stage =
            Self { settings, instance, ctl, key, bundles, ports, reports, files, lines, runtime, loads };
        stage.import_all()?;
        Ok(stage)
    }

    fn import_all(&mut self) -> Result<()> {
        say("write, sign and import every version of digits and cancer");
        let mut count = 0;
        for model in MODELS {
            for version in std::iter::once(FIRST).chain(OTHERS) {
                let bundle = models::unsigned(&self.ctl, &self.bundles, Source::of(model, version))?;
                models::sign(&self.ctl, &bundle, &self.key)?;
                models::import(&self.ctl, &bundle)?.expect(0)?;
                count += 1;
            }
        }
        self.line("signed versions imported", count, count == MODELS.len() * (OTHERS.len() + 1));
        Ok(())
    }

    /// Begins the traffic, which lasts until [`Self::end_traffic`].
    pub fn traffic(&mut self) -> Result<()> {
        say("begin live traffic: keep-alive and short connections on both models, until the end");
        let _inside = self.runtime.enter();
        for (model, connections, rate, short_per_second) in
            [("digits", 32, 1000.0, 200), ("cancer", 4, 80.0, 20)]
        {
            let load = Load {
                address: self.address(model),
                path: format!("/v2/models/{model}/infer"),
                bodies: models::bodies(model)?,
                connections,
                pace: Pace::PerSecond(rate),
                short_per_second,
                deadline: DEADLINE,
                most_requests: MOST_REQUESTS,
                longest: LONGEST,
            };
            self.loads.push((model, load.start()));
        }
        Ok(())
    }

    /// Ends the traffic, and says what clients saw.
    pub fn end_traffic(&mut self) -> Vec<ModelTally> {
        let finish = |(model, load): (&'static str, Running)| {
            let began_ms = load.began_ms();
            ModelTally { model, began_ms, tally: self.runtime.block_on(load.finish()) }
        };
        self.loads.drain(..).map(finish).collect()
    }

    /// Where a model is served.
    pub fn address(&self, model: &str) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.get(model).copied().unwrap_or_default()))
    }

    /// Adds a line to the verdict and shows it.
    pub fn line(&mut self, what: impl Into<String>, found: impl ToString, good: bool) {
        let line = Line { what: what.into(), found: found.to_string(), good };
        println!("    {} {}: {}", if line.good { "good" } else { "BAD " }, line.what, line.found);
        self.lines.push(line);
    }

    /// Leaves the daemon running, and says in one line of JSON how to play on.
    pub fn keep(self) -> Result<()> {
        let pid = self.instance.pid().context("the daemon does not run")?;
        let endpoint = |model: &str| format!("http://{}", self.address(model));
        let endpoints: BTreeMap<_, _> = MODELS.iter().map(|model| (*model, endpoint(model))).collect();
        let demo = std::env::current_exe()?;
        let line = json!({
            "socket": self.instance.socket(),
            "ctl": self.ctl.program,
            "endpoints": endpoints,
            "pids": {"turnoutd": pid},
            "stop": format!("{} --stop", demo.display()),
        });
        self.instance.keep();
        println!("{line}");
        Ok(())
    }
}

/// Says what is done next.
pub(super) fn say(what: &str) {
    println!("demo: {what}");
}

/// The first block of ports of which the demo's first ones are free.
fn free_block() -> Result<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let starts = PORTS.step_by(usize::from(PORT_BLOCK));
    let mut free = starts.filter(|first| (*first..*first + MODELS.len() as u16).all(|port| is_free(&port)));
    match free.next() {
        Some(first) => Ok(first),
        None => bail!(
            "no port between {} and {} is free; remedy: stop what listens there",
            PORTS.start,
            PORTS.end
        ),
    }
}
