//! `vm-test` and `vm shell`: whole Debian systems, booted under emulation from images made of Debian's packages. What a
//! scenario is, is in `vm/scenario.rs`; how a guest is run, in `vm/guest.rs`.

mod archive;
mod bounded;
mod chance;
mod cpio;
mod cuts;
mod disk_log;
mod emulator;
mod guest;
mod image;
mod kernel;
mod payload;
mod scenario;
mod system;

use crate::setup::{self, Need};
use anyhow::{Context, Result, bail, ensure};
use cuts::Plan;
use emulator::{Console, Emulator, Machine};
use image::Image;
use scenario::{Bench, Series, Verdict};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;
use system::{SYSTEMS, System};

/// Where a scenario is played by CI, which has no time for all of them on both systems: what is the kernel's on the older
/// kernel, what is the packages' on the newer systemd. The others are played on both.
const QUICK: [(&str, &str); 11] = [
    ("cell", "debian-12"),
    ("power-cut", "debian-12"),
    ("snapshots", "debian-12"),
    ("swap", "debian-12"),
    ("traffic", "debian-12"),
    ("another-disk", "debian-13"),
    ("reboot", "debian-13"),
    ("restore", "debian-13"),
    ("rpm", "debian-13"),
    ("upgrade", "debian-13"),
    ("zz-remove", "debian-13"),
];

/// What `vm-test` takes.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only these systems and scenarios
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Keep the guests' disks and logs, for `vm shell SYSTEM --of SCENARIO`: the first that was played in the guest
    #[arg(long)]
    keep: bool,
    /// Fewer swaps, connections, reboots and power cuts, and most scenarios on one system only unless `--only` says which, as CI does
    #[arg(long)]
    quick: bool,
    /// Power cuts on each system: 10 unless said, 2 with `--quick`
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    cuts: Option<u32>,
    /// Choose the moments of the power cuts as an earlier run did
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Cut the power of the recorded run again that `--keep` or a failure left, instead of recording a new one
    #[arg(long, requires = "seed")]
    again: bool,
}

/// What `vm` can do.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// Boot a system and log in; Ctrl-A X ends it
    Shell(Shell),
}

/// What `vm shell` takes.
#[derive(clap::Args)]
pub struct Shell {
    /// The system
    system: String,
    /// The disk of the guest that this scenario was the first in, left by `vm-test --keep`
    #[arg(long, value_name = "SCENARIO")]
    of: Option<String>,
}

/// What became of one scenario on one system.
struct Line {
    system: &'static str,
    scenario: String,
    seconds: f64,
    verdict: Verdict,
}

/// Sets up, builds, boots, and ends with a line for each scenario on each system.
///
/// # Errors
/// When something cannot be set up or built, or a scenario failed.
pub fn test(root: &Path, arguments: &Arguments) -> Result<()> {
    let began = Instant::now();
    let (systems, scenarios) = chosen(&arguments.only, &scenario::names(root)?)?;
    setup::run(root, &Need::VM)?;
    let _alone = alone(root)?;
    // What one waits for the network with, the other builds with.
    let (emulator, payload) = std::thread::scope(|scope| {
        let emulator = scope.spawn(|| prepare(root, &systems));
        let payload = payload::make(root, arguments.quick);
        (emulator.join().expect("making images does not panic"), payload)
    });
    let (emulator, payload) = (emulator?, payload?);
    println!("vm: all made and built, {:.0} s", began.elapsed().as_secs_f64());
    let plan = Plan {
        cuts: arguments.cuts.unwrap_or(if arguments.quick { 2 } else { 10 }),
        seed: arguments.seed.unwrap_or_else(some_seed),
        again: arguments.again,
    };
    let bench = Bench { root: root.to_owned(), emulator, payload, keep: arguments.keep, plan };
    let everywhere = !arguments.quick || !arguments.only.is_empty();
    let is_for = |system: &System, scenario: &str| everywhere || is_played_quickly(system.name, scenario);
    let lines = play_all(&bench, &systems, |system| {
        scenarios.iter().filter(|scenario| is_for(system, scenario)).cloned().collect()
    });
    let failed = lines.iter().filter(|line| matches!(line.verdict, Verdict::Failed(_))).count();
    lines.iter().for_each(show);
    println!(
        "vm-test: {} of {} good, {:.0} s in all",
        lines.len() - failed,
        lines.len(),
        began.elapsed().as_secs_f64()
    );
    ensure!(failed == 0, "{failed} scenarios failed; their evidence is named above");
    Ok(())
}

/// Boots a system with its console on this terminal.
///
/// # Errors
/// When something cannot be set up or built, or the emulator fails.
pub fn shell(root: &Path, shell: &Shell) -> Result<()> {
    let system = system::named(&shell.system)?;
    setup::run(root, &Need::VM)?;
    let _alone = alone(root)?;
    let emulator = prepare(root, &[system])?;
    let payload = payload::make(root, false)?;
    let image = Image::of(root, system);
    let place = guest::Place::fresh(scenario::place(root, system.name, "shell"))?;
    let disk = match &shell.of {
        None => {
            emulator.overlay(&image.disk(), &place.disk())?;
            place.disk()
        }
        Some(scenario) => {
            let disk = guest::Place::of(scenario::place(root, system.name, scenario)).disk();
            ensure!(disk.is_file(), "no `{}`; remedy: `cargo xtask vm-test --keep` first", disk.display());
            disk
        }
    };
    println!("vm: Ctrl-A X ends the guest; `. /run/turnout-vm/environment` sets what scenarios are given");
    let link = place.link();
    let machine = Machine {
        image: &image,
        disk: &disk,
        log: None,
        payload: &payload,
        link: &link,
        console: Console::Terminal,
    };
    let status = emulator.boot(&machine).status().context("the emulator cannot be started")?;
    ensure!(status.success(), "the emulator ended with {status}");
    Ok(())
}

/// Tells systems from scenarios; nothing named of a kind is all of it.
fn chosen(only: &[String], known: &[String]) -> Result<(Vec<&'static System>, Vec<String>)> {
    let unknown: Vec<_> = only
        .iter()
        .filter(|name| system::named(name).is_err() && !known.contains(name))
        .map(|name| format!("`{name}`"))
        .collect();
    if !unknown.is_empty() {
        bail!(
            "no system and no scenario {}; remedy: systems are {}, scenarios are {}",
            unknown.join(", "),
            system::names().join(", "),
            known.join(", ")
        );
    }
    let named = |name: &str| only.iter().any(|wanted| wanted == name);
    let some_system = SYSTEMS.iter().any(|system| named(system.name));
    let some_scenario = known.iter().any(|scenario| named(scenario));
    let systems = SYSTEMS.iter().filter(|system| !some_system || named(system.name)).collect();
    let scenarios = known.iter().filter(|scenario| !some_scenario || named(scenario)).cloned().collect();
    Ok((systems, scenarios))
}

/// Makes sure that the emulator and the images are there, side by side, and says what it makes.
fn prepare(root: &Path, systems: &[&'static System]) -> Result<Emulator> {
    let emulator = Emulator::of(root);
    std::thread::scope(|scope| {
        let making: Vec<_> =
            systems.iter().map(|system| scope.spawn(|| image(&Image::of(root, system), root))).collect();
        let fetched = fetched(&emulator);
        let made = making.into_iter().map(|image| image.join().expect("making an image does not panic"));
        made.chain([fetched]).collect::<Result<()>>()
    })?;
    Ok(emulator)
}

fn fetched(emulator: &Emulator) -> Result<()> {
    if let Some(version) = emulator.found() {
        println!("vm: emulator: {version}: nothing to do");
        return Ok(());
    }
    println!("vm: emulator: fetching QEMU of Debian 13 into target/vm/emulator (180 MB on disk)");
    emulator.fetch()
}

fn image(image: &Image, root: &Path) -> Result<()> {
    let name = image.system.name;
    if let Some(what) = image.found() {
        println!("vm: {name}: {what}: nothing to do");
        return Ok(());
    }
    println!("vm: {name}: making its image from Debian's packages, into target/vm/images");
    image.make(root)
}

/// A seed that nobody asked for.
fn some_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) | now.as_secs() << 32
}

fn is_played_quickly(system: &str, scenario: &str) -> bool {
    QUICK.iter().all(|(name, on)| *name != scenario || *on == system)
}

/// Plays each system's scenarios, the systems side by side.
fn play_all(
    bench: &Bench,
    systems: &[&'static System],
    scenarios: impl Fn(&System) -> Vec<String>,
) -> Vec<Line> {
    std::thread::scope(|scope| {
        let play = |system: &&'static System| {
            let (system, scenarios) = (*system, scenarios(system));
            scope.spawn(move || play_on(bench, system, &scenarios))
        };
        let threads: Vec<_> = systems.iter().map(play).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("playing does not panic")).collect()
    })
}

fn play_on(bench: &Bench, system: &'static System, scenarios: &[String]) -> Vec<Line> {
    let image = Image::of(&bench.root, system);
    let mut series = Series::new(bench, &image);
    let play = |scenario: &String| {
        let began = Instant::now();
        let verdict = series.play(scenario);
        let seconds = began.elapsed().as_secs_f64();
        let line = Line { system: system.name, scenario: scenario.clone(), seconds, verdict };
        show(&line);
        line
    };
    let lines = scenarios.iter().map(play).collect();
    series.end();
    lines
}

fn show(line: &Line) {
    let (word, why) = match &line.verdict {
        Verdict::Passed(what) => ("passed", what.as_str()),
        Verdict::Failed(why) => ("FAILED", why.as_str()),
        Verdict::Skipped(why) => ("skipped", why.as_str()),
    };
    println!("vm-test: {:10} {:12} {word:8} {:4.0} s  {why}", line.system, line.scenario, line.seconds);
}

/// Makes sure that nobody else uses `target/vm`. What a killed run left is files alone, and whoever makes them anew clears them.
fn alone(root: &Path) -> Result<File> {
    let folder = system::folder(root);
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("another `vm-test` or `vm shell` runs in this checkout; remedy: wait for its end")
        }
        Err(TryLockError::Error(error)) => Err(error).context("`target/vm/lock` cannot be locked"),
    }
}

/// Removes a file or a folder, if it is there.
fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn systems_and_scenarios_are_told_apart_and_none_of_a_kind_means_all() {
        let known = words(&["cell", "swap"]);
        let check = |only: &[&str]| {
            let (systems, scenarios) = chosen(&words(only), &known).unwrap();
            (systems.iter().map(|system| system.name).collect::<Vec<_>>(), scenarios)
        };
        assert_eq!(check(&[]), (vec!["debian-12", "debian-13"], known.clone()));
        assert_eq!(check(&["debian-13"]), (vec!["debian-13"], known.clone()));
        assert_eq!(check(&["swap"]), (vec!["debian-12", "debian-13"], words(&["swap"])));
        assert_eq!(check(&["swap", "debian-12"]), (vec!["debian-12"], words(&["swap"])));
        let error = chosen(&words(&["swop"]), &known).unwrap_err().to_string();
        assert!(error.contains("`swop`") && error.contains("cell, swap"), "{error}");
    }

    #[test]
    fn quickly_each_scenario_that_there_is_is_played_somewhere() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let known = scenario::names(&root).unwrap();
        for (name, on) in QUICK {
            assert!(known.iter().any(|known| known == name), "no scenario `{name}`");
            assert!(SYSTEMS.iter().any(|system| system.name == on), "no system `{on}`");
        }
        let played = |scenario: &str| -> Vec<&str> {
            let on = SYSTEMS.iter().filter(|system| is_played_quickly(system.name, scenario));
            on.map(|system| system.name).collect()
        };
        assert_eq!(played("cell"), ["debian-12"]);
        assert_eq!(played("install"), ["debian-12", "debian-13"]);
    }
}
