//! The guest's side of a power cut: sets a daemon up, keeps releasing under load and says what was acknowledged, and after
//! the next boot demands that all of it is there. The cut itself is made by the host, in `xtask/src/vm/cuts.rs`.

use crate::daemon::Ctl;
use crate::load::{Load, Pace};
use crate::models::{self, FIRST, Source};
use crate::scenario::{until, whole};
use crate::tally::Tally;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use turnout_journal::{Reader, Tree, verify};
use turnout_protocol::client::Client;
use turnout_protocol::control::{ReleaseState, ReleaseStatus, Status};

/// Versions that take over from one another, and how their releases end. The last one is thrown out by its plan, not by
/// its answers: where few requests are answered in a window, a version that fails at times may well meet its objectives.
const TURNS: [(&str, ReleaseState); 3] = [
    ("better", ReleaseState::Promoted),
    (FIRST, ReleaseState::Promoted),
    ("better", ReleaseState::RolledBack),
];
/// A plan that is over quickly where everything is slow. What decides is put in.
const PLAN: &str = "strategy: {kind: weight}\nsteps: [{percent: 30}, {percent: 100}]\nwindow: 500ms\n\
                    windows: {look_back: 2, consecutive: 2}\nobjectives: {OBJECTIVE}\n\
                    minimum_requests: 3\npatience: 30s\non_breach: rollback\n";
/// What a version meets that answers.
const MET: &str = "error_rate: 0.05";
/// What no version meets.
const MISSED: &str = "p95_ms: 0.001";
/// Longest wait for the daemon after a boot.
const UP_LIMIT: Duration = Duration::from_secs(240);
/// Longest wait for a release to end, here where everything is slow.
const RELEASE_LIMIT: Duration = Duration::from_secs(480);
/// How often the daemon is asked for its journal's head meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Answers that must be right after a boot.
const ANSWERS: u64 = 40;
/// No request takes longer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);

/// A daemon that systemd runs.
pub struct Subject {
    ctl: Ctl,
    client: Client,
    state: PathBuf,
    work: PathBuf,
    address: SocketAddr,
    runtime: Runtime,
}

/// A journal's head that the daemon had shown before the cut.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// Number of records.
    pub size: u64,
    /// Root over them, hex.
    pub root: String,
}

/// Records are gone that the daemon had shown before the cut.
#[derive(Debug)]
pub struct Lost(String);

impl fmt::Display for Lost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Error for Lost {}

impl Subject {
    /// The daemon with its files in `state` and its model `digits` at `address`; `work` is for keys and models' folders.
    ///
    /// # Errors
    /// When no runtime can be made.
    pub fn new(ctl: Ctl, state: &Path, work: &Path, address: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = Client::new(&ctl.socket);
        Ok(Self { ctl, client, state: state.to_owned(), work: work.to_owned(), address, runtime })
    }

    /// Makes a key, imports the versions and releases the first one.
    ///
    /// # Errors
    /// A command's own message.
    pub fn prepare(&self) -> Result<()> {
        fs::create_dir_all(&self.work)?;
        self.up()?;
        let key = models::trusted_key(&self.ctl, &self.work)?;
        for version in [FIRST, "better"] {
            let bundle = models::unsigned(&self.ctl, &self.work, Source::of("digits", version))?;
            models::sign(&self.ctl, &bundle, &key)?;
            models::import(&self.ctl, &bundle)?.expect(0)?;
        }
        for (state, objective) in [(ReleaseState::Promoted, MET), (ReleaseState::RolledBack, MISSED)] {
            fs::write(self.plan(state), PLAN.replace("OBJECTIVE", objective))?;
        }
        self.ctl.ok(&["release", "start", &format!("digits@{FIRST}"), "--wait", "--timeout", "480s"])?;
        Ok(())
    }

    /// Releases one version after the other under load, and says each head of the journal that the daemon shows. Ends
    /// after this time, unless the power goes before.
    ///
    /// # Errors
    /// When a release ends otherwise than it should, or a request fails.
    pub fn release(&self, time: Duration) -> Result<()> {
        self.up()?;
        let live = self.first_answer(&AtomicBool::new(false))?;
        let done = TURNS.iter().take_while(|(version, _)| *version == live).count();
        let traffic = {
            let _inside = self.runtime.enter();
            self.load(u64::MAX)?.start()
        };
        println!("begun");
        let end = Instant::now() + time;
        for (version, wanted) in TURNS.iter().cycle().skip(done) {
            if Instant::now() > end {
                break;
            }
            let plan = models::text(&self.plan(*wanted))?.to_owned();
            self.ctl.ok(&["release", "start", &format!("digits@{version}"), "--plan", &plan])?;
            let ended = self.ended(say_head)?;
            ensure!(ended.state == *wanted, "{version} ended {:?}: {:?}", ended.state, ended.cause);
            println!("ended {version}");
        }
        let tally = self.runtime.block_on(traffic.finish());
        ensure!(
            tally.failed == 0,
            "{} of {} requests failed: {:?}",
            tally.failed,
            tally.sent,
            tally.failures
        );
        Ok(())
    }

    /// After the next boot: what was acknowledged is there, the release is over, and the right version answers.
    ///
    /// # Errors
    /// What does not hold; [`Lost`] when it is that acknowledged records are gone.
    pub fn check(&self, acknowledged: &Acknowledged) -> Result<()> {
        let stop = AtomicBool::new(false);
        let first = std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.first_answer(&stop));
            let up = self.up();
            // Also of a daemon that does not start: that may be why.
            let outcome = self.kept(acknowledged).and(up).and_then(|()| self.ended(|_| ()));
            stop.store(outcome.is_err(), Ordering::Relaxed);
            let first = asking.join().map_err(|_| anyhow::anyhow!("asking has panicked"))?;
            outcome.and(first)
        })?;
        // What was over before the cut is over while the daemon has not yet begun to start the live version again. When that
        // answers, it has.
        self.ended(|_| ())?;
        let records = self.records()?;
        let history = History::of(&records)?;
        history.all_over()?;
        ensure!(
            first == history.live_at_cut,
            "the first answer came from {first}, the last good version was {}",
            history.live_at_cut
        );
        let answers = self.answers_right(&history)?;
        println!(
            "good: {} records, at the cut {}; {} live again, {} live now, {answers} answers",
            records.len(),
            history.under_way,
            history.live_at_cut,
            history.live
        );
        Ok(())
    }

    /// Waits until the daemon answers.
    fn up(&self) -> Result<()> {
        until("the daemon answers", UP_LIMIT, || Ok(self.status().ok().map(drop)))
    }

    fn status(&self) -> Result<Status> {
        self.runtime.block_on(self.client.status()).context("status")
    }

    /// Waits until the last release is over; every status on the way is shown.
    fn ended(&self, seen: impl Fn(&Status)) -> Result<ReleaseStatus> {
        until("the release is over", RELEASE_LIMIT, || {
            let status = self.status()?;
            seen(&status);
            let digits = status.models.into_iter().find(|model| model.model.as_str() == "digits");
            let release = digits.and_then(|model| model.release).filter(|release| release.state.is_final());
            if release.is_none() {
                std::thread::sleep(LOOK_EVERY);
            }
            Ok(release)
        })
    }

    /// The plan of a release that ends so.
    fn plan(&self, state: ReleaseState) -> PathBuf {
        let promoted = state == ReleaseState::Promoted;
        self.work.join(if promoted { "met.yaml" } else { "missed.yaml" })
    }

    fn load(&self, most_requests: u64) -> Result<Load> {
        Ok(Load {
            address: self.address,
            path: "/v2/models/digits/infer".to_owned(),
            bodies: models::bodies("digits")?,
            connections: 2,
            pace: Pace::PerSecond(15.0),
            short_per_second: 10,
            deadline: REQUEST_DEADLINE,
            most_requests,
            longest: Duration::from_secs(3600),
        })
    }

    /// The version that is the first to answer.
    fn first_answer(&self, stop: &AtomicBool) -> Result<String> {
        until("a version answers", UP_LIMIT + RELEASE_LIMIT, || {
            ensure!(!stop.load(Ordering::Relaxed), "nobody answered");
            let tally = self.ask(Load { connections: 1, short_per_second: 0, ..self.load(1)? });
            Ok(tally.versions.first().map(|version| version.version.clone()))
        })
    }

    /// Demands right answers of the version that the journal says is live.
    fn answers_right(&self, history: &History) -> Result<u64> {
        let tally = self.ask(self.load(ANSWERS)?);
        whole(&tally)?;
        let versions: Vec<_> = tally.versions.iter().map(|version| version.version.as_str()).collect();
        ensure!(versions == [history.live.as_str()], "{versions:?} answer, live is {}", history.live);
        Ok(tally.sent)
    }

    fn ask(&self, load: Load) -> Tally {
        let running = {
            let _inside = self.runtime.enter();
            load.start()
        };
        self.runtime.block_on(running.ended())
    }

    /// Demands that what was acknowledged is in the journal. Whether all of it is whole is asked later.
    fn kept(&self, acknowledged: &Acknowledged) -> Result<()> {
        if acknowledged.size == 0 {
            return Ok(());
        }
        let mut tree = Tree::empty();
        for record in Reader::open(&self.journal(), 0)?.map_while(Result::ok) {
            tree.push(record.leaf());
            if tree.size() == acknowledged.size {
                if tree.root().to_string() == acknowledged.root {
                    return Ok(());
                }
                let others = format!("{} records were acknowledged, others are in their place", tree.size());
                return Err(Lost(others).into());
            }
        }
        Err(Lost(format!("{} records were acknowledged, {} are there", acknowledged.size, tree.size()))
            .into())
    }

    /// All records, with the journal whole.
    fn records(&self) -> Result<Vec<Value>> {
        let journal = self.journal();
        let answer = self.ctl.ok(&["audit", "verify"])?;
        ensure!(answer.code == Some(0), "`audit verify`: {answer:?}");
        verify(&journal).context("the journal does not verify")?;
        Reader::open(&journal, 0)?.map(|record| Ok(serde_json::from_slice(&record?.body)?)).collect()
    }

    fn journal(&self) -> PathBuf {
        self.state.join("journal")
    }
}

/// Says the head of the journal.
fn say_head(status: &Status) {
    println!("acked {} {}", status.journal.size, status.journal.root);
}

/// What the journal tells of releases, up to the cut and after it.
#[derive(Debug, Default, PartialEq)]
struct History {
    /// The version that was live when the power went.
    live_at_cut: String,
    /// What was under way when the power went, for people.
    under_way: String,
    /// The version that is live now.
    live: String,
    /// Releases and how they ended; empty while they have not.
    releases: BTreeMap<u64, String>,
}

impl History {
    fn of(records: &[Value]) -> Result<Self> {
        let started = |record: &Value| record["event"] == "daemon-started";
        let boot = records.iter().rposition(started).context("the daemon never started")?;
        let (mut history, mut versions) = (Self::default(), BTreeMap::new());
        for (at, record) in records.iter().enumerate() {
            if at == boot {
                history.live_at_cut.clone_from(&history.live);
                history.under_way = history.under_way();
            }
            let Some(release) = record["release"].as_str().and_then(|id| id.strip_prefix("r-")?.parse().ok())
            else {
                continue;
            };
            let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            match text("/event") {
                "planned" => {
                    versions.insert(release, text("/to/version").to_owned());
                    history.releases.insert(release, String::new());
                }
                "promoted" => history.live = versions.get(&release).cloned().unwrap_or_default(),
                "ended" => drop(history.releases.insert(release, text("/state").to_owned())),
                _ => {}
            }
        }
        ensure!(!history.live.is_empty(), "no version was ever promoted");
        Ok(history)
    }

    fn under_way(&self) -> String {
        let open: Vec<_> = self.releases.iter().filter(|(_, end)| end.is_empty()).map(|(id, _)| id).collect();
        if open.is_empty() { "nothing was under way".to_owned() } else { format!("r-{open:?} was under way") }
    }

    /// Every release is promoted or rolled back.
    fn all_over(&self) -> Result<()> {
        for (release, end) in &self.releases {
            if !["promoted", "rolled_back"].contains(&end.as_str()) {
                bail!("r-{release} ended `{end}`, neither promoted nor rolled back");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn planned(release: &str, version: &str) -> Value {
        json!({"event": "planned", "release": release, "to": {"version": version, "generation": 1}})
    }

    #[test]
    fn the_cut_is_before_the_last_start_of_the_daemon() {
        let records = [
            json!({"event": "daemon-started", "version": "0"}),
            planned("r-1", "a"),
            json!({"event": "promoted", "release": "r-1"}),
            json!({"event": "ended", "release": "r-1", "state": "promoted"}),
            planned("r-2", "b"),
            json!({"event": "daemon-started", "version": "0"}),
            json!({"event": "promoted", "release": "r-2"}),
        ];
        let history = History::of(&records).unwrap();
        assert_eq!((history.live_at_cut.as_str(), history.live.as_str()), ("a", "b"));
        assert_eq!(history.under_way, "r-[2] was under way");
        assert!(history.all_over().unwrap_err().to_string().contains("r-2"));
        assert!(History::of(&records[..2]).unwrap_err().to_string().contains("ever promoted"));
    }
}
