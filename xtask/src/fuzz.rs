//! `fuzz`: searches every parser of outside bytes for inputs that break it, with libFuzzer and the stable compiler. What is
//! searched is in `tests/fuzz`; here is how it is built, for how long it runs, and what is said of a finding.

use crate::command;
use crate::setup::{self, Need};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Coverage counters in every crate, by options that the stable compiler has.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Most memory of a whole search, MiB; what one input may take is counted by the engine itself.
const SEARCH_MEMORY_MIB: u32 = 1024;
/// How long one input may take, seconds: longer is a finding.
const INPUT_SECONDS: u32 = 10;
/// Lines of a search's end that are shown with a finding.
const SHOWN: usize = 12;

/// What to search, and for how long.
#[derive(clap::Args)]
pub struct Arguments {
    /// Minutes for each target; parts of a minute are taken
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Only this target; may be repeated
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
    /// Search nothing: give this input to the one target again
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// Builds the engine and searches.
///
/// # Errors
/// When it cannot be built, a target is unknown, or something was found.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let seconds = seconds(arguments.minutes)?;
    setup::run(root, &Need::FUZZ)?;
    let engine = build(root)?;
    let targets = chosen(&targets(&engine)?, &arguments.only)?;
    if let Some(input) = &arguments.input {
        let [target] = targets.as_slice() else {
            bail!("--input is for one target; remedy: name it with --only")
        };
        return repeat(&engine, target, input);
    }
    let mut found = Vec::new();
    for target in &targets {
        found.extend(search(root, &engine, target, seconds)?);
    }
    if found.is_empty() {
        println!("fuzz: nothing found in {} targets, {seconds} s each", targets.len());
        return Ok(());
    }
    println!("\nfuzz: findings:");
    for Finding { target, input } in &found {
        println!("  {target}: {}", input.display());
        println!("    repeat: cargo xtask fuzz --only {target} --input {}", input.display());
        println!("    once mended, keep it: cp {} tests/fuzz/findings/{target}/NAME", input.display());
    }
    bail!("{} inputs break a parser, listed above", found.len());
}

/// An input that broke a target.
struct Finding {
    target: String,
    input: PathBuf,
}

fn seconds(minutes: f64) -> Result<u64> {
    let seconds = (minutes * 60.0).round();
    if !(1.0..=86_400.0).contains(&seconds) {
        bail!("--minutes {minutes}: a target is searched for a second to a day");
    }
    // In range, so nothing is cut.
    Ok(seconds as u64)
}

fn build(root: &Path) -> Result<PathBuf> {
    let host = host(root)?;
    let folder = root.join("target/fuzz/build");
    let mut cargo = command::cargo(root);
    // With a target named, build scripts and macros are built without counters, which they could not link.
    cargo.args(["build", "--release", "--locked", "--target", &host, "--target-dir"]).arg(&folder);
    cargo.args(["--manifest-path", "tests/fuzz/engine/Cargo.toml"]).env("RUSTFLAGS", FLAGS);
    command::run(&mut cargo).context("the engine cannot be built; remedy: read cargo's message above")?;
    Ok(folder.join(host).join("release/turnout-fuzz-engine"))
}

/// The compiler's own target, `x86_64-unknown-linux-gnu`.
fn host(root: &Path) -> Result<String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    let told = command::capture(rustc.current_dir(root).arg("-vV"))?;
    let line = told.stdout.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc does not say what it builds for")
}

/// The targets that the engine knows.
fn targets(engine: &Path) -> Result<Vec<String>> {
    let listed = command::capture(Command::new(engine).env("TURNOUT_FUZZ_LIST", "1"))?;
    let targets: Vec<String> = listed.stdout.lines().map(str::to_owned).collect();
    if !listed.success || targets.is_empty() {
        bail!("the engine lists no targets: {}", listed.stderr.trim());
    }
    Ok(targets)
}

fn chosen(targets: &[String], only: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = only.iter().find(|name| !targets.contains(name)) {
        bail!("no target `{unknown}`; there are: {}", targets.join(", "));
    }
    Ok(targets.iter().filter(|name| only.is_empty() || only.contains(name)).cloned().collect())
}

/// Gives one input to one target, with its words in the open.
fn repeat(engine: &Path, target: &str, input: &Path) -> Result<()> {
    if !input.is_file() {
        bail!("`{}` is no file", input.display());
    }
    let mut once = Command::new(engine);
    once.env("TURNOUT_FUZZ_TARGET", target).arg(format!("-timeout={INPUT_SECONDS}")).arg(input);
    command::run(&mut once).with_context(|| format!("`{}` breaks {target}", input.display()))?;
    println!("fuzz: {target}: `{}` breaks nothing", input.display());
    Ok(())
}

/// Searches one target; gives the inputs that broke it.
fn search(root: &Path, engine: &Path, target: &str, seconds: u64) -> Result<Vec<Finding>> {
    let folder = root.join("target/fuzz").join(target);
    let [seeds, corpus, found] = ["seeds", "corpus", "found"].map(|name| folder.join(name));
    for made in [&seeds, &corpus, &found] {
        fs::create_dir_all(made).with_context(|| format!("cannot make `{}`", made.display()))?;
    }
    let before = files(&found)?;
    let log_file = folder.join("log");
    let log = File::create(&log_file).with_context(|| format!("cannot write `{}`", log_file.display()))?;
    let mut engine = Command::new(engine);
    engine.env("TURNOUT_FUZZ_TARGET", target).env("TURNOUT_FUZZ_SEEDS", &seeds).env("RUST_BACKTRACE", "1");
    engine.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_SECONDS}"));
    engine.arg(format!("-rss_limit_mb={SEARCH_MEMORY_MIB}")).arg("-print_final_stats=1");
    engine.arg(format!("-artifact_prefix={}/", found.display())).arg(&corpus).arg(&seeds);
    engine.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let ended = engine.status().context("the engine cannot be started")?;
    let told = String::from_utf8_lossy(&fs::read(&log_file)?).into_owned();
    println!("fuzz: {target}: {}", summary(&told));
    let new = files(&found)?.into_iter().filter(|file| !before.contains(file));
    let found: Vec<Finding> = new.map(|input| Finding { target: target.to_owned(), input }).collect();
    if !ended.success() || !found.is_empty() {
        let lines: Vec<&str> = told.lines().filter(|line| !line.starts_with("stat::")).collect();
        lines[lines.len().saturating_sub(SHOWN)..].iter().for_each(|line| println!("    {line}"));
    }
    if !ended.success() && found.is_empty() {
        bail!(
            "{target}: the engine ended with {ended} and left no input; its words are in `{}`",
            log_file.display()
        );
    }
    Ok(found)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    let files: Result<Vec<PathBuf>, std::io::Error> = entries.map(|entry| Ok(entry?.path())).collect();
    Ok(files?)
}

/// What a search did, from the engine's own figures.
fn summary(told: &str) -> String {
    let figure = |name: &str| {
        let line = told.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
        line.and_then(|rest| rest.strip_prefix(':')).map_or("?", str::trim).to_owned()
    };
    let covered = told.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
    format!(
        "{} inputs, {} places reached, at most {} MiB",
        figure("number_of_executed_units"),
        covered.unwrap_or("?"),
        figure("peak_rss_mb"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_takes_a_second_to_a_day() {
        assert_eq!(seconds(1.0).unwrap(), 60);
        assert_eq!(seconds(0.1).unwrap(), 6);
        for minutes in [0.0, -1.0, 0.001, 1441.0, f64::NAN, f64::INFINITY] {
            assert!(seconds(minutes).is_err(), "{minutes}");
        }
    }

    #[test]
    fn an_unknown_target_is_refused_with_those_that_there_are() {
        let targets = ["journal", "plan"].map(str::to_owned);
        assert_eq!(chosen(&targets, &[]).unwrap(), targets);
        assert_eq!(chosen(&targets, &["plan".to_owned()]).unwrap(), ["plan"]);
        let refused = chosen(&targets, &["plans".to_owned()]).unwrap_err().to_string();
        assert!(refused.contains("`plans`") && refused.contains("journal, plan"), "{refused}");
    }

    #[test]
    fn figures_are_read_from_the_engines_words() {
        let told = "#2\tINITED cov: 90 ft: 91 corp: 1/1b\n#777\tDONE   cov: 411 ft: 1022 corp: 9/9b\n\
                    stat::number_of_executed_units: 777\nstat::peak_rss_mb:              41\n";
        assert_eq!(summary(told), "777 inputs, 411 places reached, at most 41 MiB");
        assert_eq!(summary("killed"), "? inputs, ? places reached, at most ? MiB");
    }
}
