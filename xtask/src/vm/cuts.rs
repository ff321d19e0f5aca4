//! `power-cut`: a daemon releases under load while every write to its disk is recorded; then the disk is made what a power
//! cut at a random moment would have left, the system is booted from it, and must have come back to where it was. The
//! guest's side, and what it demands, is in `tests/src/power_cut.rs`. At the end stands a control: the same with a daemon
//! whose calls to sync reach nobody must lose records that it had shown, or the demands would prove nothing.

use super::chance::Chance;
use super::disk_log::{DiskLog, Replay};
use super::guest::{Guest, Place};
use super::scenario::{Stage, Verdict};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// The scenario's name.
pub const NAME: &str = "power-cut";
/// Longest time for installing, importing and the first release.
const PREPARE_LIMIT: Duration = Duration::from_secs(900);
/// Longest time of releasing.
const RELEASE_LIMIT: Duration = Duration::from_secs(1500);
/// Longest time for coming back after a cut.
const CHECK_LIMIT: Duration = Duration::from_secs(900);
/// Releases that end before the recording does: one of each kind at least, and the moments fall into them all.
const RELEASES: usize = 3;
/// Most of them, where many cuts are asked for.
const RELEASES_MAX: usize = 12;
/// Cuts that share a release, on average.
const CUTS_PER_RELEASE: usize = 4;
/// Failed cuts after which no more are made.
const FAILURES_MAX: usize = 3;
/// Cuts of the control; the first that loses a record is the last.
const CONTROL_CUTS: u32 = 4;
/// Where the control has its disks and logs, below the scenario's folder.
const CONTROL: &str = "control";
/// What the guest's side ends with when records that were shown before the cut are gone.
const LOST: i32 = 3;
/// What every part of the guest's side begins with.
const SIDE: &str = ". /run/turnout-vm/environment; cd /; exec \"$TURNOUT_PROGRAMS/turnout-power-cut\"";
const PREPARE: &str =
    ". /run/turnout-vm/environment; cd /; exec \"$TURNOUT_CHECKOUT/tests/vm/power-cut-prepare\"";
/// What makes the control one.
const UNSYNC: &str =
    ". /run/turnout-vm/environment; cd /; exec \"$TURNOUT_CHECKOUT/tests/vm/power-cut-unsync\"";

/// Which power cuts are made.
#[derive(Clone, Copy)]
pub struct Plan {
    /// On each system.
    pub cuts: u32,
    /// Chooses the moments, and what of the last writes is lost.
    pub seed: u64,
    /// The recorded run of before.
    pub again: bool,
}

/// A head of the journal that the guest had shown when the log of writes had so many bytes.
#[derive(Clone, Debug, PartialEq)]
struct Shown {
    log_bytes: u64,
    size: u64,
    root: String,
}

/// A cut after which not all is as it should be.
struct Broken {
    what: String,
    /// Records are gone that were shown before the cut.
    lost: bool,
}

/// Plays it.
///
/// # Errors
/// When a guest does not come up, or the recording fails.
pub fn play(stage: &mut Stage) -> Result<Verdict> {
    let plan = stage.bench.plan;
    if plan.again {
        let of = fs::read_to_string(image_file(stage)).unwrap_or_default();
        ensure!(
            of == stage.image.identity()?,
            "`{}` has no recorded run of this image; remedy: leave `--again` out",
            stage.place.folder().display()
        );
    } else {
        prepare(stage)?;
        let releases = (plan.cuts as usize / CUTS_PER_RELEASE).clamp(RELEASES, RELEASES_MAX);
        record(stage, None, releases)?;
    }
    let (cuts, broken) = cut_all(stage, &plan, FAILURES_MAX)?;
    if !broken.is_empty() {
        return Ok(failed(stage, cuts, &broken));
    }
    let good = format!("{cuts} power cuts, seed {}", plan.seed);
    if plan.again {
        return Ok(Verdict::Passed(good));
    }
    Ok(match control(stage)? {
        Control::Lost(which) => Verdict::Passed(format!("{good}; without sync, {which}")),
        Control::Kept(why) => Verdict::Failed(format!("{good}; but the control proves nothing: {why}")),
    })
}

fn failed(stage: &Stage, cuts: usize, broken: &[Broken]) -> Verdict {
    let plan = stage.bench.plan;
    let all: Vec<_> = broken.iter().map(|broken| broken.what.as_str()).collect();
    Verdict::Failed(format!(
        "{} of {cuts} cuts: {}\n    again: `cargo xtask vm-test --only {},{NAME} --cuts {} --seed {} --again`",
        broken.len(),
        all.join("\n    "),
        stage.image.system.name,
        plan.cuts,
        plan.seed
    ))
}

/// What became of the control.
enum Control {
    /// A cut has lost what it should: which.
    Lost(String),
    /// None has: what happened instead.
    Kept(String),
}

/// The same again with a daemon whose calls to sync reach nobody.
fn control(stage: &Stage) -> Result<Control> {
    let place = Place::fresh(stage.place.folder().join(CONTROL))?;
    let mut control = stage.beside(place, "power-cut without sync");
    fs::hard_link(base(stage), base(&control)).context("the disk cannot be used again")?;
    record(&mut control, Some(UNSYNC), 1)?;
    let plan = Plan { cuts: CONTROL_CUTS, ..stage.bench.plan };
    let (_, broken) = cut_all(&mut control, &plan, 1)?;
    Ok(match broken.first() {
        Some(Broken { what, lost: true }) => Control::Lost(what.clone()),
        Some(Broken { what, .. }) => Control::Kept(what.clone()),
        None => Control::Kept(format!("{CONTROL_CUTS} cuts lost no record that was shown")),
    })
}

/// The disk before the recording, as it is kept for another time.
fn base(stage: &Stage) -> PathBuf {
    stage.place.folder().join("before.qcow2")
}

/// Which image the recorded run was of.
fn image_file(stage: &Stage) -> PathBuf {
    stage.place.folder().join("image")
}

/// The disk as a cut has left it.
fn cut_disk(stage: &Stage) -> PathBuf {
    stage.place.folder().join("cut.raw")
}

fn shown_file(stage: &Stage) -> PathBuf {
    stage.place.folder().join("shown.log")
}

/// Runs a command that must succeed, and asks the guest for its logs when it does not.
fn must(stage: &mut Stage, guest: &mut Guest, command: &str) -> Result<()> {
    let outcome = stage.must(guest, command, PREPARE_LIMIT);
    if outcome.is_err() {
        stage.gather(guest);
    }
    outcome
}

/// Sets a guest up and shuts it down.
fn prepare(stage: &mut Stage) -> Result<()> {
    let mut guest = stage.boot()?;
    for command in [PREPARE, &format!("{SIDE} prepare")] {
        must(stage, &mut guest, command)?;
    }
    guest.shut_down()?;
    fs::rename(stage.place.disk(), base(stage)).context("the disk cannot be kept")
}

/// Records what the guest writes while it releases, after this command, if there is one; its power goes in the end.
fn record(stage: &mut Stage, first: Option<&str>, releases: usize) -> Result<()> {
    fs::copy(base(stage), stage.place.disk()).context("the disk cannot be copied")?;
    File::create(stage.place.writes())?;
    let mut guest = stage.boot()?;
    if let Some(command) = first {
        must(stage, &mut guest, command)?;
    }
    let outcome = listen(stage, &mut guest, releases);
    if outcome.is_err() {
        stage.gather(&mut guest);
    }
    // Dropping the guest kills it: the last moment is a real power cut of the emulator.
    drop(guest);
    // Last: a recorded run without it is none.
    outcome.and_then(|()| Ok(fs::write(image_file(stage), stage.image.identity()?)?))
}

fn listen(stage: &mut Stage, guest: &mut Guest, releases: usize) -> Result<()> {
    let writes = stage.place.writes();
    let mut shown = File::create(shown_file(stage))?;
    let mut output = stage.output()?;
    let (mut ended, mut failed) = (0, None);
    let command = format!("{SIDE} release --seconds {}", RELEASE_LIMIT.as_secs());
    let code = guest.run_while(&command, RELEASE_LIMIT, |line| {
        // What the guest had written before it said this is in the log by now.
        let log_bytes = fs::metadata(&writes).map_or(0, |facts| facts.len());
        let line = line.trim();
        let written = match line.strip_prefix("acked ") {
            Some(head) => writeln!(shown, "{log_bytes} {head}"),
            None => writeln!(output, "{line}"),
        };
        failed = failed.take().or(written.err());
        ended += usize::from(line.starts_with("ended "));
        ended < releases
    })?;
    if let Some(error) = failed {
        bail!("what the guest says cannot be written: {error}");
    }
    match code {
        None => Ok(()),
        Some(code) => bail!("releasing ended with {code}; see `output.log`"),
    }
}

/// Boots once for each moment, until so many have failed; gives how many moments there were, and what failed.
fn cut_all(stage: &mut Stage, plan: &Plan, enough: usize) -> Result<(usize, Vec<Broken>)> {
    let shown = read_shown(&fs::read_to_string(shown_file(stage)).context("no record of what was shown")?)?;
    let log = DiskLog::read(&stage.place.writes())?;
    let begun = log.entries_within(shown.first().context("nothing was shown before the cut")?.log_bytes);
    ensure!(log.len() > begun, "nothing was written while releases were under way");
    let moments = moments(plan, begun, log.len());
    stage.say(&format!(
        "{} moments among {} writes under {} shown heads, seed {}",
        moments.len(),
        log.len() - begun,
        shown.len(),
        plan.seed
    ));
    let raw = cut_disk(stage);
    stage.bench.emulator.write_out(&base(stage), &raw)?;
    // The boots after a cut are not recorded.
    let recorded = stage.place.folder().join("writes.recorded");
    fs::rename(stage.place.writes(), &recorded)?;
    let mut broken = Vec::new();
    let outcome = Replay::begin(&log, &raw).and_then(|mut replay| {
        for (number, moment) in moments.iter().enumerate() {
            let heads = Heads { shown: &shown, seed: plan.seed };
            broken.extend(boot_after(stage, &mut replay, &heads, (number + 1, *moment))?);
            if broken.len() >= enough {
                break;
            }
        }
        Ok(())
    });
    fs::rename(&recorded, stage.place.writes())?;
    super::remove(&raw)?;
    outcome.map(|()| (moments.len(), broken))
}

/// What was shown before a cut, and what chooses which writes it loses.
struct Heads<'a> {
    shown: &'a [Shown],
    seed: u64,
}

/// Cuts the power after so many writes, and boots.
fn boot_after(
    stage: &mut Stage,
    replay: &mut Replay,
    heads: &Heads,
    (number, moment): (usize, usize),
) -> Result<Option<Broken>> {
    let mut chance = Chance::of(heads.seed ^ (moment as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
    let loss = replay.cut_at(moment, &mut chance)?;
    let disk = stage.place.disk();
    super::remove(&disk)?;
    stage.bench.emulator.overlay(&cut_disk(stage), &disk)?;
    let bytes = replay.log().bytes_of(moment);
    let head = heads.shown.iter().rfind(|head| head.log_bytes <= bytes);
    stage.say(&format!("cut {number} after write {moment}: {loss}"));
    let (lost, why) = match come_back(stage, head) {
        Ok(0) => return Ok(None),
        Ok(code) => (code == LOST, stage.last_line()),
        Err(error) => (false, format!("{error:#}")),
    };
    let what = format!("cut {number} after write {moment}: {why}");
    stage.say(&format!("{} {what}", if lost { "LOST:" } else { "FAILED:" }));
    stage.keep_evidence(&format!("cut-{number}"))?;
    Ok(Some(Broken { what, lost }))
}

/// Boots, and gives what the guest's side ended with.
fn come_back(stage: &mut Stage, head: Option<&Shown>) -> Result<i32> {
    let mut guest = stage.boot()?;
    let (size, root) = head.map_or((0, ""), |head| (head.size, head.root.as_str()));
    let outcome = stage.call(&mut guest, &format!("{SIDE} check --size {size} --root '{root}'"), CHECK_LIMIT);
    if !matches!(outcome, Ok(0)) {
        stage.gather(&mut guest);
    }
    outcome
}

/// Moments in the order of the log, each once.
fn moments(plan: &Plan, from: usize, to: usize) -> Vec<usize> {
    let mut chance = Chance::of(plan.seed);
    let range = (to - from) as u64;
    let mut moments: Vec<_> = (0..plan.cuts).map(|_| from + 1 + chance.below(range) as usize).collect();
    moments.sort_unstable();
    moments.dedup();
    moments
}

fn read_shown(text: &str) -> Result<Vec<Shown>> {
    let read = |line: &str| {
        let mut words = line.split(' ');
        let (bytes, size, root) = (words.next()?, words.next()?, words.next()?);
        Some(Shown { log_bytes: bytes.parse().ok()?, size: size.parse().ok()?, root: root.to_owned() })
    };
    text.lines().map(|line| read(line).with_context(|| format!("no head of a journal: `{line}`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_moments_again_and_none_outside() {
        let plan = Plan { cuts: 50, seed: 7, again: false };
        let chosen = moments(&plan, 100, 120);
        assert_eq!(chosen, moments(&plan, 100, 120));
        assert!(chosen.iter().all(|moment| (101..=120).contains(moment)), "{chosen:?}");
        assert!(chosen.len() > 10 && chosen.windows(2).all(|pair| pair[0] < pair[1]), "{chosen:?}");
        assert_ne!(moments(&Plan { seed: 8, ..plan }, 100, 120), chosen);
    }
}
