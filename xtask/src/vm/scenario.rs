//! Scenarios: programs below `tests/vm/scenarios` that run in a guest of their own. How one is run, what its exit codes
//! mean, and what is kept when it fails. Their words are in `tests/vm/README.md`.

use super::cuts::{self, Plan};
use super::emulator::Emulator;
use super::guest::{Guest, Place};
use super::image::Image;
use super::system;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest time of a scenario between two boots.
const LIMIT: Duration = Duration::from_secs(900);
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
    names.push(cuts::NAME.to_owned());
    names.sort();
    Ok(names)
}

/// Plays a scenario in a fresh guest.
pub fn play(bench: &Bench, image: &Image, name: &str) -> Verdict {
    let folder = place(&bench.root, image.system.name, name);
    let verdict = open(bench, image, &folder).and_then(|place| {
        let mut stage = Stage { bench, image, place, name, last: Vec::new() };
        if name == cuts::NAME { cuts::play(&mut stage) } else { stage.play() }
    });
    let verdict = verdict.unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")));
    let failed = matches!(verdict, Verdict::Failed(_));
    if !bench.keep {
        // What a failed power cut needs to be made again stays; it is a few writes.
        let left = if failed { Place::of(folder.clone()).disk() } else { folder.clone() };
        if let Err(error) = super::remove(&left) {
            println!("vm: `{}` is left behind: {error:#}", left.display());
        }
    }
    match verdict {
        Verdict::Failed(why) => Verdict::Failed(format!("{why}\n    evidence: {}", folder.display())),
        other => other,
    }
}

/// The place of a scenario, with a disk like the image's; or as an earlier run has left it.
fn open(bench: &Bench, image: &Image, folder: &Path) -> Result<Place> {
    if bench.plan.again {
        return Ok(Place::of(folder.to_owned()));
    }
    let place = Place::fresh(folder.to_owned())?;
    bench.emulator.overlay(&image.disk(), &place.disk())?;
    Ok(place)
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
}

impl Stage<'_> {
    fn play(&mut self) -> Result<Verdict> {
        for boot in 1..=BOOTS_MAX {
            let mut guest = self.boot()?;
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
                0 => return Ok(Verdict::Passed(self.last_line())),
                REBOOT => guest.shut_down()?,
                SKIPPED => return Ok(Verdict::Skipped(self.last_line())),
                code => return Ok(Verdict::Failed(format!("ended with {code}:\n{}", self.last_lines()))),
            }
        }
        Ok(Verdict::Failed(format!("asks for more than {BOOTS_MAX} boots")))
    }

    /// Boots the guest from its disk.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn boot(&self) -> Result<Guest> {
        let guest = Guest::boot(&self.bench.emulator, self.image, &self.bench.payload, &self.place)?;
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

    fn call(&mut self, guest: &mut Guest, command: &str, limit: Duration) -> Result<i32> {
        let mut log = self.output()?;
        let began = Instant::now();
        let last = &mut self.last;
        last.clear();
        let mut failed = None;
        let code = guest.run(command, limit, |line| {
            let written = writeln!(log, "{:7.1} {line}", began.elapsed().as_secs_f64());
            failed = failed.take().or(written.err());
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
        for file in EVIDENCE.map(|(file, _)| file).into_iter().chain(["console.log", "output.log"]) {
            let path = self.place.folder().join(file);
            if path.is_file() {
                fs::rename(&path, folder.join(file))?;
            }
        }
        Ok(())
    }

    fn last_line(&self) -> String {
        self.last.last().cloned().unwrap_or_default()
    }

    fn last_lines(&self) -> String {
        self.last.iter().map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n")
    }

    /// Says how it goes.
    pub fn say(&self, what: &str) {
        println!("vm: {} {}: {what}", self.image.system.name, self.name);
    }
}
