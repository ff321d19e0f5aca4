//! `check`: everything a change must pass before it is proposed. Every check runs, whatever the others found, and all
//! findings are listed at the end; a check that could not be made is listed too, never passed over.

use crate::command::{self, Finished};
use crate::setup::{self, Need};
use crate::{ebpf, layers, sources, test};
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Instant;

/// Most lines of one check's output that are repeated in the list.
const OUTPUT_LINES: usize = 60;

/// What a check came to.
enum Verdict {
    /// What was looked at, for people.
    Good(String),
    /// One line per finding.
    Bad(Vec<String>),
    /// Why it could not be made.
    Skipped(String),
}

type Check = fn(&Path) -> Result<Verdict>;

/// Workspaces of their own, which no build of this one looks at.
const APART: [&str; 2] = ["ebpf/Cargo.toml", "tests/fuzz/engine/Cargo.toml"];

const CHECKS: [(&str, Check); 9] = [
    ("format", format),
    ("layers", layers),
    ("sources", sources),
    ("lock files", lock_files),
    ("licences", licences),
    ("advisories", advisories),
    ("clippy", clippy),
    ("ebpf format", ebpf_format),
    ("documentation", documentation),
];

/// Sets up, runs every check and lists all findings.
///
/// # Errors
/// When set-up fails or there is a finding.
pub fn run(root: &Path) -> Result<()> {
    setup::run(root, &Need::ALL)?;
    ebpf::run(root)?;
    let (mut bad, mut skipped) = (Vec::new(), Vec::new());
    for (name, check) in CHECKS {
        let began = Instant::now();
        let verdict = check(root).unwrap_or_else(|error| Verdict::Bad(vec![format!("{error:#}")]));
        let took = began.elapsed().as_secs_f64();
        match verdict {
            Verdict::Good(what) => println!("check: {name}: good, {what} ({took:.1} s)"),
            Verdict::Bad(found) => {
                println!("check: {name}: {} findings ({took:.1} s)", found.len());
                bad.extend(found.into_iter().map(|finding| format!("{name}: {finding}")));
            }
            Verdict::Skipped(why) => {
                println!("check: {name}: skipped: {why} ({took:.1} s)");
                skipped.push(format!("{name}: skipped: {why}"));
            }
        }
    }
    report(&bad, &skipped)
}

fn report(bad: &[String], skipped: &[String]) -> Result<()> {
    for line in skipped {
        println!("check: not made: {line}");
    }
    if bad.is_empty() {
        println!("check: all good, {} of {} checks made", CHECKS.len() - skipped.len(), CHECKS.len());
        return Ok(());
    }
    println!("\ncheck: all findings:");
    for line in bad {
        println!("  {line}");
    }
    bail!("{} findings, listed above", bad.len());
}

fn format(root: &Path) -> Result<Verdict> {
    formatted(root, &["--all"])
}

fn ebpf_format(root: &Path) -> Result<Verdict> {
    formatted(root, &["--manifest-path", "ebpf/Cargo.toml"])
}

fn formatted(root: &Path, which: &[&str]) -> Result<Verdict> {
    let mut cargo = command::cargo(root);
    let done = command::capture(cargo.arg("fmt").args(which).args(["--", "--check", "-l"]))?;
    if done.success {
        return Ok(Verdict::Good("every file formatted".into()));
    }
    let below_root = |file| Path::new(file).strip_prefix(root).unwrap_or(Path::new(file));
    let remedy = format!("run `cargo fmt {}`", which.join(" "));
    let files: Vec<_> =
        done.stdout.lines().map(|file| format!("{}: {remedy}", below_root(file).display())).collect();
    Ok(if files.is_empty() { Verdict::Bad(output(&done)) } else { Verdict::Bad(files) })
}

fn layers(root: &Path) -> Result<Verdict> {
    let found = layers::findings(root)?;
    Ok(if found.is_empty() { Verdict::Good("every edge allowed".into()) } else { Verdict::Bad(found) })
}

fn sources(root: &Path) -> Result<Verdict> {
    let (count, found) = sources::findings(root)?;
    Ok(if found.is_empty() { Verdict::Good(format!("{count} files")) } else { Verdict::Bad(found) })
}

/// A crate of this workspace that gets a dependency changes the lock files of others that use it.
fn lock_files(root: &Path) -> Result<Verdict> {
    let mut behind = Vec::new();
    for manifest in APART {
        let mut cargo = command::cargo(root);
        cargo.args(["metadata", "--locked", "--format-version", "1", "--manifest-path", manifest]);
        if !command::capture(&mut cargo)?.success {
            let remedy = format!("`cargo update --workspace --manifest-path {manifest}`");
            behind.push(format!("{manifest}: its Cargo.lock is behind, or cannot be read: run {remedy}"));
        }
    }
    Ok(if behind.is_empty() { Verdict::Good("none behind".into()) } else { Verdict::Bad(behind) })
}

fn clippy(root: &Path) -> Result<Verdict> {
    let arguments =
        ["clippy", "--workspace", "--all-targets", "--locked", "--keep-going", "--message-format", "short"];
    let done = command::capture(test::cargo(root, &arguments).args(["--", "-D", "warnings"]))?;
    Ok(diagnostics(&done, "no warning"))
}

fn documentation(root: &Path) -> Result<Verdict> {
    let arguments =
        ["doc", "--workspace", "--no-deps", "--locked", "--keep-going", "--message-format", "short"];
    let done = command::capture(test::cargo(root, &arguments).env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(diagnostics(&done, "no warning"))
}

/// Good when cargo was; else the lines that name a place, or all of them when none does.
fn diagnostics(done: &Finished, good: &str) -> Verdict {
    if done.success {
        return Verdict::Good(good.into());
    }
    let named =
        |line: &&str| line.contains(": error") || line.contains(": warning") || line.starts_with("error");
    let lines: Vec<_> = done.stderr.lines().filter(named).map(str::to_owned).collect();
    Verdict::Bad(if lines.is_empty() { output(done) } else { lines })
}

fn licences(root: &Path) -> Result<Verdict> {
    let done = deny(root, &["licenses", "bans", "sources"])?;
    if done.success {
        return Ok(Verdict::Good("licences, bans and sources of every crate allowed".into()));
    }
    Ok(Verdict::Bad(output(&done)))
}

/// The advisory database comes over the network: a machine that cannot reach it says so, and checks the rest.
fn advisories(root: &Path) -> Result<Verdict> {
    let done = deny(root, &["advisories"])?;
    if done.success {
        return Ok(Verdict::Good("no known advisory".into()));
    }
    let unreachable = done.stderr.contains("failed to fetch advisory database");
    if unreachable {
        return Ok(Verdict::Skipped("advisory database unreachable".into()));
    }
    Ok(Verdict::Bad(output(&done)))
}

fn deny(root: &Path, which: &[&str]) -> Result<Finished> {
    let mut deny = command::cargo(root);
    deny.args(["deny", "--locked", "--color", "never", "check", "--hide-inclusion-graph"]).args(which);
    command::capture(&mut deny)
}

/// The end of a command's output, where the reason usually is.
fn output(done: &Finished) -> Vec<String> {
    let lines: Vec<_> =
        done.stdout.lines().chain(done.stderr.lines()).filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(OUTPUT_LINES);
    lines[from..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_always_leaves_a_finding() {
        for (stderr, expected) in [
            ("   Checking a\nsrc/a.rs:3:1: error: unused import\nerror: could not compile\n", 2),
            ("no line of the known form\n", 1),
        ] {
            let stderr = stderr.to_owned();
            let done = Finished { success: false, stdout: String::new(), stderr };
            match diagnostics(&done, "good") {
                Verdict::Bad(found) => assert_eq!(found.len(), expected, "{found:?}"),
                _ => panic!("a failure was passed over"),
            }
        }
    }

    #[test]
    fn findings_fail_the_verb_and_a_skipped_check_alone_does_not() {
        assert!(report(&["format: src/a.rs".into()], &[]).is_err());
        assert!(report(&[], &["advisories: skipped".into()]).is_ok());
    }
}
