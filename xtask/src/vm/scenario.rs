//! Scenarios: programs below `tests/vm/scenarios` that run in a guest. How they are run, one after the other in one guest
//! while they hold, what their exit codes mean, and what is kept when one fails. Their words are in `tests/vm/README.md`.

use super::cuts::{self, Plan};
use super::emulator::Emulator;
use super::guest::{Guest, Place, failed_by_emulator};
use super::image::Image;
use super::system;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time of a scenario between two boots.
const LIMIT: Duration = Duration::from_secs(2400);
/// Longest time for asking a guest after a failure.
const ASK_LIMIT: Duration = Duration::from_secs(60);
/// A scenario's way of saying: boot again, and call me again.
const REBOOT: i32 = 75;
/// A scenario's way of saying: not on this system.
const SKIPPED: i32 = 77;
/// Most boots of one scenario.
const BOOTS_MAX: u32 = 5;
/// Lines of a scenario's output that a failure repeats.
const LAST_LINES: usize = 15;
/// Lines about what did not hold that a failure repeats.
const BROKEN_LINES: usize = 60;
/// What is asked of a guest after a failure: file, command.
const EVIDENCE: [(&str, &str); 3] = [
    ("journal.log", "journalctl --no-pager --boot --output=short-monotonic"),
    ("dmesg.log", "dmesg"),
    (
        "units.log",
        "systemctl --no-pager --failed; systemctl --no-pager status 'turnout*'; losetup -l; findmnt; true",
    ),
];

/// What every scenario of a run shares.
pub struct Bench {
    /// The checkout.
    pub root: PathBuf,
    /// What runs the guests.
    pub emulator: Emulator,
    /// The disk that all guests read.
    pub payload: PathBuf,
    /// Guests' disks are kept, whatever comes of them.
    pub keep: bool,
    /// Which power cuts are made.
    pub plan: Plan,
}

/// What became of a scenario on a system.
pub enum Verdict {
    /// It holds: what it said last.
    Passed(String),
    /// It does not, or could not be run to its end: why, and where the evidence is.
    Failed(String),
    /// It has nothing to say about this system: why.
    Skipped(String),
}

/// Where a guest of a scenario, or of a shell, has its disk and its logs.
pub fn place(root: &Path, system: &str, name: &str) -> PathBuf {
    system::folder(root).join("runs").join(format!("{system}.{name}"))
}

/// The names of all scenarios.
///
/// # Errors
/// When their folder cannot be read.
pub fn names(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/vm/scenarios");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    // It has guests of its own, and the long way to them.
    names.push(cuts::NAME.to_owned());
    Ok(names)
}

/// Plays scenarios on one system, each in the guest that the one before has left, as long as they hold.
pub struct Series<'a> {
    bench: &'a Bench,
    image: &'a Image,
    /// What the last scenario has left: where its guest has its disk, and the guest.
    left: Option<(Place, Guest)>,
}

impl<'a> Series<'a> {
    /// Begins without a guest.
    pub fn new(bench: &'a Bench, image: &'a Image) -> Self {
        Self { bench, image, left: None }
    }

    /// Plays the next one.
    pub fn play(&mut self, name: &str) -> Verdict {
        if name == cuts::NAME {
            self.end();
        }
        let (place, guest) = match self.left.take() {
            Some((place, guest)) => (place, Some(guest)),
            None => (Place::of(place(&self.bench.root, self.image.system.name, name)), None),
        };
        let played = self.play_at(&place, guest, name);
        let (verdict, left) = played.unwrap_or_else(|error| (Verdict::Failed(format!("{error:#}")), None));
        match (verdict, left) {
            (Verdict::Failed(why), _) => {
                // What a failed power cut needs to be made again stays; it is a few writes.
                self.clear(&place.disk());
                Verdict::Failed(format!("{why}\n    evidence: {}", place.folder().display()))
            }
            (verdict, Some(guest)) => {
                self.left = Some((place, guest));
                verdict
            }
            (verdict, None) => {
                self.clear(place.folder());
                verdict
            }
        }
    }

    /// Plays a scenario; once more where the emulator itself was at fault, and nothing that the scenario looked at was.
    fn play_at(&self, place: &Place, guest: Option<Guest>, name: &str) -> Result<(Verdict, Option<Guest>)> {
        let (bench, image) = (self.bench, self.image);
        let recorded = bench.plan.again && name == cuts::NAME;
        if guest.is_none() && !recorded {
            open(bench, image, place)?;
        }
        let mut stage =
            Stage { bench, image, place: place.clone(), name, last: Vec::new(), broken: Vec::new() };
        if name == cuts::NAME {
            return Ok((cuts::play(&mut stage)?, None));
        }
        let shown_before = place.shown()?.len();
        match stage.play(guest) {
            Err(error) if stage.broken.is_empty() && failed_by_emulator(&place.shown()?[shown_before..]) => {
                stage.say(&format!(
                    "the emulator has failed, as it does at times, and the scenario is played once more in a fresh \
                     guest: {error:#}"
                ));
                open(bench, image, place)?;
                stage.play(None)
            }
            played => played,
        }
    }

    /// Ends the guest that was left, if there is one.
    pub fn end(&mut self) {
        if let Some((place, guest)) = self.left.take() {
            drop(guest);
            self.clear(place.folder());
        }
    }

    fn clear(&self, what: &Path) {
        if self.bench.keep {
            return;
        }
        if let Err(error) = super::remove(what) {
            println!("vm: `{}` is left behind: {error:#}", what.display());
        }
    }
}

/// Empties a place and gives it a disk like the image's.
fn open(bench: &Bench, image: &Image, place: &Place) -> Result<()> {
    Place::fresh(place.folder().to_owned())?;
    bench.emulator.overlay(&image.disk(), &place.disk())
}

/// A scenario being played.
pub struct Stage<'a> {
    /// What all share.
    pub bench: &'a Bench,
    /// The system.
    pub image: &'a Image,
    /// Where the guest has its disk and its logs.
    pub place: Place,
    name: &'a str,
    last: Vec<String>,
    broken: Vec<String>,
}

impl Stage<'_> {
    /// Runs the scenario's program, in the guest that is left or a new one; leaves the guest when it holds.
    fn play(&mut self, left: Option<Guest>) -> Result<(Verdict, Option<Guest>)> {
        let mut guest = left.map_or_else(|| self.boot(), Ok)?;
        writeln!(self.output()?, "== {}", self.name)?;
        for boot in 1..=BOOTS_MAX {
            let command = format!(
                ". /run/turnout-vm/environment; cd /; TURNOUT_BOOT={boot} \
                 exec \"$TURNOUT_CHECKOUT/tests/vm/scenarios/{}\"",
                self.name
            );
            let code = self.call(&mut guest, &command, LIMIT);
            if !matches!(code, Ok(0 | REBOOT | SKIPPED)) {
                self.gather(&mut guest);
            }
            match code? {
                0 => return Ok((Verdict::Passed(self.last_line()), Some(guest))),
                REBOOT => {
                    guest.shut_down()?;
                    guest = self.boot()?;
                }
                SKIPPED => return Ok((Verdict::Skipped(self.last_line()), Some(guest))),
                code => {
                    return Ok((Verdict::Failed(format!("ended with {code}:\n{}", self.last_lines())), None));
                }
            }
        }
        Ok((Verdict::Failed(format!("asks for more than {BOOTS_MAX} boots")), None))
    }

    /// A stage of the same system with another place and name.
    pub fn beside<'b>(&'b self, place: Place, name: &'b str) -> Stage<'b> {
        Stage { bench: self.bench, image: self.image, place, name, last: Vec::new(), broken: Vec::new() }
    }

    /// Boots the guest from its disk; once more where the emulator itself was at fault.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot(&self) -> Result<Guest> {
        let boot = || Guest::boot(&self.bench.emulator, self.image, &self.bench.payload, &self.place);
        let shown_before = self.place.shown()?.len();
        let guest = match boot() {
            Err(error) if failed_by_emulator(&self.place.shown()?[shown_before..]) => {
                self.say(&format!(
                    "the emulator has failed, as it does at times, and boots again: {error:#}"
                ));
                boot()?
            }
            booted => booted?,
        };
        self.say(&format!("up after {:.0} s", guest.booted_in.as_secs_f64()));
        Ok(guest)
    }

    /// Has the guest run a command that must succeed; its output is kept.
    ///
    /// # Errors
    /// When it does not, with the end of its output.
    pub fn must(&mut self, guest: &mut Guest, command: &str, limit: Duration) -> Result<()> {
        let code = self.call(guest, command, limit)?;
        ensure!(code == 0, "ended with {code}:\n{}", self.last_lines());
        Ok(())
    }

    /// The file for what the guest says.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn output(&self) -> Result<File> {
        let path = self.place.folder().join("output.log");
        File::options().create(true).append(true).open(&path).with_context(|| format!("`{}`", path.display()))
    }

    /// Has the guest run a command, and gives its exit code; its output is kept.
    ///
    /// # Errors
    /// When the guest dies, or does not answer in time.
    pub fn call(&mut self, guest: &mut Guest, command: &str, limit: Duration) -> Result<i32> {
        let mut log = self.output()?;
        let began = Instant::now();
        let (last, broken) = (&mut self.last, &mut self.broken);
        last.clear();
        broken.clear();
        let (mut failed, mut explains) = (None, false);
        let code = guest.run(command, limit, |line| {
            let written = writeln!(log, "{:7.1} {line}", began.elapsed().as_secs_f64());
            failed = failed.take().or(written.err());
            // What a check had to say follows it, indented behind its `#`.
            explains = line.starts_with("not ok") || (explains && line.starts_with("#   "));
            if explains && broken.len() < BROKEN_LINES {
                broken.push(line.to_owned());
            }
            last.push(line.to_owned());
            if last.len() > LAST_LINES {
                last.remove(0);
            }
        })?;
        ensure!(failed.is_none(), "the scenario's output cannot be written: {failed:?}");
        Ok(code)
    }

    /// Asks the guest for its logs; a dead one has left its console alone.
    pub fn gather(&self, guest: &mut Guest) {
        for (file, command) in EVIDENCE {
            match guest.ask(command, ASK_LIMIT) {
                Ok(text) => drop(fs::write(self.place.folder().join(file), text)),
                Err(error) => return self.say(&format!("no {file}: {error:#}")),
            }
        }
    }

    /// Sets what was gathered aside, under a name of its own.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn keep_evidence(&self, name: &str) -> Result<()> {
        let folder = self.place.folder().join(name);
        super::remove(&folder)?;
        fs::create_dir(&folder)?;
        for file in
            EVIDENCE.map(|(file, _)| file).into_iter().chain(["console.log", "output.log", "qemu.log"])
        {
            let path = self.place.folder().join(file);
            if path.is_file() {
                fs::rename(&path, folder.join(file))?;
            }
        }
        Ok(())
    }

    /// The last line of what ran last.
    pub fn last_line(&self) -> String {
        self.last.last().cloned().unwrap_or_default()
    }

    /// What did not hold, in a scenario's own words, or else how it ended.
    fn last_lines(&self) -> String {
        let lines = if self.broken.is_empty() { &self.last } else { &self.broken };
        lines.iter().map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n")
    }

    /// Says how it goes.
    pub fn say(&self, what: &str) {
        println!("vm: {} {}: {what}", self.image.system.name, self.name);
    }
}
