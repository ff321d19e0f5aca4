//! `power-cut`: a daemon releases under load while every write to its disk is recorded; then the disk is made what a power
//! cut at a random moment would have left, the system is booted from it, and must have come back to where it was. The
//! guest's side, and what it demands, is in `tests/src/power_cut.rs`.

use super::chance::Chance;
use super::disk_log::{DiskLog, Replay};
use super::guest::Guest;
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
/// What every part of the guest's side begins with.
const SIDE: &str = ". /run/turnout-vm/environment; cd /; exec \"$TURNOUT_PROGRAMS/turnout-power-cut\"";
const PREPARE: &str =
    ". /run/turnout-vm/environment; cd /; exec \"$TURNOUT_CHECKOUT/tests/vm/power-cut-prepare\"";

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
        record(stage)?;
    }
    let shown = read_shown(&fs::read_to_string(shown_file(stage)).context("no record of what was shown")?)?;
    let log = DiskLog::read(&stage.place.writes())?;
    let begun = log.entries_within(shown.first().context("nothing was shown before the cut")?.log_bytes);
    ensure!(log.len() > begun, "nothing was written while releases were under way");
    let moments = moments(&plan, begun, log.len());
    stage.say(&format!(
        "{} moments among {} writes under {} shown heads, seed {}",
        moments.len(),
        log.len() - begun,
        shown.len(),
        plan.seed
    ));
    cut_all(stage, &log, &shown, &moments)
}

/// The disk before the recording, as it is kept for another time.
fn base(stage: &Stage) -> PathBuf {
    stage.place.folder().join("before.qcow2")
}

/// Which image the recorded run was of.
fn image_file(stage: &Stage) -> PathBuf {
    stage.place.folder().join("image")
}

fn shown_file(stage: &Stage) -> PathBuf {
    stage.place.folder().join("shown.log")
}

/// Sets a guest up, shuts it down, and records what it writes while it releases; its power goes in the end.
fn record(stage: &mut Stage) -> Result<()> {
    let mut guest = stage.boot()?;
    for command in [PREPARE, &format!("{SIDE} prepare")] {
        let prepared = stage.must(&mut guest, command, PREPARE_LIMIT);
        if prepared.is_err() {
            stage.gather(&mut guest);
        }
        prepared?;
    }
    guest.shut_down()?;
    fs::copy(stage.place.disk(), base(stage)).context("the disk cannot be copied")?;
    File::create(stage.place.writes())?;
    let mut guest = stage.boot()?;
    let releases = (stage.bench.plan.cuts as usize / CUTS_PER_RELEASE).clamp(RELEASES, RELEASES_MAX);
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

/// Boots once for each moment.
fn cut_all(stage: &mut Stage, log: &DiskLog, shown: &[Shown], moments: &[usize]) -> Result<Verdict> {
    let raw = stage.place.folder().join("cut.raw");
    stage.bench.emulator.write_out(&base(stage), &raw)?;
    // The boots after a cut are not recorded.
    let recorded = stage.place.folder().join("writes.recorded");
    fs::rename(stage.place.writes(), &recorded)?;
    let outcome = boot_each(stage, &mut Replay::begin(log, &raw)?, shown, moments);
    fs::rename(&recorded, stage.place.writes())?;
    super::remove(&raw)?;
    let failed = outcome?;
    if failed.is_empty() {
        return Ok(Verdict::Passed(format!("{} power cuts, seed {}", moments.len(), stage.bench.plan.seed)));
    }
    Ok(Verdict::Failed(format!(
        "{} of {} cuts: {}\n    again: `cargo xtask vm-test --only {},{NAME} --cuts {} --seed {} --again`",
        failed.len(),
        moments.len(),
        failed.join("\n    "),
        stage.image.system.name,
        stage.bench.plan.cuts,
        stage.bench.plan.seed
    )))
}

fn boot_each(
    stage: &mut Stage,
    replay: &mut Replay,
    shown: &[Shown],
    moments: &[usize],
) -> Result<Vec<String>> {
    let raw = stage.place.folder().join("cut.raw");
    let mut failed = Vec::new();
    for (number, moment) in moments.iter().enumerate() {
        let mut chance =
            Chance::of(stage.bench.plan.seed ^ (*moment as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let loss = replay.cut_at(*moment, &mut chance)?;
        let disk = stage.place.disk();
        super::remove(&disk)?;
        stage.bench.emulator.overlay(&raw, &disk)?;
        let bytes = replay.log().bytes_of(*moment);
        let head = shown.iter().rfind(|head| head.log_bytes <= bytes);
        stage.say(&format!("cut {} after write {moment}: {loss}", number + 1));
        let outcome = come_back(stage, head);
        if let Err(error) = outcome {
            stage.say(&format!("cut {} FAILED: {error:#}", number + 1));
            failed.push(format!("cut {} after write {moment}: {error:#}", number + 1));
            stage.keep_evidence(&format!("cut-{}", number + 1))?;
        }
        if failed.len() >= FAILURES_MAX {
            break;
        }
    }
    Ok(failed)
}

fn come_back(stage: &mut Stage, head: Option<&Shown>) -> Result<()> {
    let mut guest = stage.boot()?;
    let (size, root) = head.map_or((0, ""), |head| (head.size, head.root.as_str()));
    let outcome = stage.must(&mut guest, &format!("{SIDE} check --size {size} --root '{root}'"), CHECK_LIMIT);
    if outcome.is_err() {
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
