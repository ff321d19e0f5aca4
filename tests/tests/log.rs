//! The way of an event into the systemd journal and back, with a real journald: the exporter is killed again and again,
//! and each event is there at least once, told apart exactly once.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use turnout_journal::{Journal, OpenOptions};
use turnout_scenarios::journald::Journald;
use turnout_scenarios::scenario::{LIMIT, until};

/// Kills of the exporter.
const KILLS: u64 = 12;
/// Records that are written between two of them.
const RECORDS: u64 = 40;

#[test]
fn every_event_is_in_the_systemd_journal_once_however_often_the_exporter_dies() {
    on_a_thread(|| {
        let journald = Journald::start()?;
        let place = Place::new()?;
        let (journal, _) = Journal::open(&place.journal(), OpenOptions::default())?;
        journal.append(planned().to_string().as_bytes())?;
        for kill in 0..KILLS {
            let mut exporter = place.export(&["--follow"]).spawn()?;
            // A different moment of its work each time; the last records of a round may be given in the next one.
            let until_then = Instant::now() + Duration::from_millis(3 * kill);
            for _ in 0..RECORDS {
                journal.append(done(journal.size()).to_string().as_bytes())?;
            }
            std::thread::sleep(until_then.saturating_duration_since(Instant::now()));
            end(&mut exporter)?;
        }
        let size = journal.size();
        ensure!(place.export(&[]).status()?.success(), "the rest");
        // A crash between giving and noting, for certain.
        fs::write(place.cursor(), format!("{} 0 {}\n", size - 5, boot()?))?;
        ensure!(place.export(&[]).status()?.success(), "once more");
        let raw = journald.journalctl(&["--output=json", "SYSLOG_IDENTIFIER=turnout"])?;
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        for line in raw.lines() {
            let entry: Value = serde_json::from_str(line)?;
            *times.entry(entry["TURNOUT_SEQ"].as_str().context("no number")?.parse()?).or_default() += 1;
        }
        let missing: Vec<u64> = (0..size).filter(|seq| !times.contains_key(seq)).collect();
        ensure!(missing.is_empty(), "{missing:?} of {size} events are not there");
        ensure!(times.values().any(|times| *times > 1), "no event came twice: nothing was told apart");
        let log = place.log(&["--lines", "100000", "--output", "json"])?;
        let log: Value = serde_json::from_slice(&log.stdout)?;
        let events = log["events"].as_array().context("no events")?;
        let numbers = events.iter().filter_map(|event| event["seq"].as_u64());
        ensure!(numbers.eq(0..size), "each once, in order: {events:?}");
        searched_and_explained(&journald, &place, size)?;
        journald.end()?;
        without_journald_it_says_what_to_do(&place)
    });
}

/// Fields can be asked for, and `journalctl -x` explains a message with the event's own words.
fn searched_and_explained(journald: &Journald, place: &Place, size: u64) -> Result<()> {
    let text = |arguments: &[&str]| Ok::<_, anyhow::Error>(String::from_utf8(place.log(arguments)?.stdout)?);
    let all = text(&["-n", "100000", "--model", "digits", "--release", "r-7"])?;
    ensure!(all.lines().count() as u64 == size, "each record is of r-7, which the first one planned: {all}");
    ensure!(all.contains("notice   digits@2.0        r-7 digits: release of 2.0 after nothing"), "{all}");
    ensure!(text(&["-n", "3"])?.lines().count() == 3, "the newest three");
    ensure!(
        text(&["--model", "cancer"])?
            .starts_with("no event about model `cancer` in the systemd journal\nhint:"),
        "none"
    );
    let explained = journald.journalctl(&["-x", "MESSAGE_ID=3ffe00189077494eb9db33cae2945297"])?;
    ensure!(explained.contains("r-7 will bring version 2.0 of digits live"), "{explained}");
    ensure!(explained.contains("Subject: A release was created"), "{explained}");
    let verbose = journald.journalctl(&["--output=verbose", "TURNOUT_SEQ=1"])?;
    for field in ["PRIORITY=6", "TURNOUT_STEP=shift to 5 %", "TURNOUT_VERSION=2.0", "TURNOUT_EVENT_ID=1/"] {
        ensure!(verbose.contains(field), "{field}: {verbose}");
    }
    follows(place)
}

/// What comes while it follows is shown; what is there, as many as were asked for.
fn follows(place: &Place) -> Result<()> {
    let file = place.0.path().join("followed");
    let mut log = place.ctl(&["-f", "-n", "2"]).stdout(fs::File::create(&file)?).spawn()?;
    let shown = || fs::read_to_string(&file).unwrap_or_default();
    let seen = until("the newest are shown", LIMIT, || Ok((shown().lines().count() == 2).then_some(())));
    let (journal, _) = Journal::open(&place.0.path().join("second"), OpenOptions::default())?;
    journal.append(json!({"event": "of-tomorrow", "release": "r-99"}).to_string().as_bytes())?;
    let mut exporter = Command::new(program("turnout-export"));
    exporter.arg("--journal").arg(place.0.path().join("second")).args(["--to", "journald"]);
    let new = seen.and_then(|()| {
        ensure!(exporter.status()?.success(), "the second journal");
        until("the new one is shown", LIMIT, || Ok(shown().contains("of-tomorrow r-99").then_some(())))
    });
    end(&mut log)?;
    new
}

fn without_journald_it_says_what_to_do(place: &Place) -> Result<()> {
    let refused = place.log(&[])?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(1) && said.contains("turnoutctl audit log"), "{said}");
    let refused = place.export(&[]).output()?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(
        !refused.status.success() && said.contains("journald at `/run/systemd/journal/socket`"),
        "{said}"
    );
    Ok(())
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir_in("/var/tmp")?))
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join("journal")
    }

    fn cursor(&self) -> PathBuf {
        self.0.path().join("cursor")
    }

    fn export(&self, more: &[&str]) -> Command {
        let mut command = Command::new(program("turnout-export"));
        command.arg("--journal").arg(self.journal()).arg("--cursor").arg(self.cursor());
        command.args(["--to", "journald"]).args(more).stdin(Stdio::null());
        command
    }

    fn ctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("turnoutctl"));
        command.arg("log").args(arguments).stdin(Stdio::null());
        command
    }

    fn log(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.ctl(arguments).output()?)
    }
}

fn planned() -> Value {
    json!({"event": "planned", "release": "r-7", "model": "digits", "kind": "release", "by": "root",
           "to": {"version": "2.0", "generation": 9}})
}

fn done(number: u64) -> Value {
    json!({"event": "done", "release": "r-7", "at": number, "step": {"do": "shift", "of": 5000}, "detail": ""})
}

fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn boot() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A built program, beside this one.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this process has a program");
    own.ancestors().nth(2).unwrap_or(Path::new(".")).join(name)
}

/// Plays on a thread of its own, whose mounts are its own.
fn on_a_thread(play: impl FnOnce() -> Result<()> + Send + 'static) {
    match std::thread::spawn(play).join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(panicked) => std::panic::resume_unwind(panicked),
    }
}
