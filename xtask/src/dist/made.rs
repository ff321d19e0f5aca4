//! What a package holds and no file of the checkout is: manual pages and completions, out of the programs' own command
//! lines; the manual page of the configuration; notices of third parties; Debian's changelog.

use super::list::List;
use super::{Job, VERSION, fresh, notices, page, write};
use crate::command;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// Where people read what changed in a version that has no heading of its own.
const UNRELEASED: &str = "Unreleased";

/// Makes all of it in `target/dist/made`.
///
/// # Errors
/// When the program that writes manuals does not, or the notices cannot be written.
pub fn make(job: &Job<'_>, list: &List) -> Result<()> {
    let made = job.made();
    fresh(&made)?;
    let day = date(job, "+%Y-%m-%d")?;
    let manuals = job.programs.join("turnout-manuals");
    let mut manuals = command::program(job.root, &manuals.to_string_lossy());
    command::run(manuals.arg(&made).args([&job.version, &day]))?;
    write(&made.join("man5/turnout.toml.5"), page::text(job.root, &job.version, &day)?)?;
    write(&made.join("THIRD-PARTY-NOTICES"), notices::text(job.root, list)?)?;
    write(&made.join("changelog"), debian_changelog(job, list)?)
}

/// Debian wants one entry for each version, in its own form; what changed is in `CHANGELOG.md`, which is installed too.
fn debian_changelog(job: &Job<'_>, list: &List) -> Result<String> {
    let (date, told) = (date(job, "--rfc-email")?, told(job)?);
    let (name, maintainer) = (&list.package.name, &list.package.maintainer);
    Ok(format!(
        "{name} ({}) unstable; urgency=medium\n\n  * {told}\n\n -- {maintainer}  {date}\n",
        job.package_version()
    ))
}

/// Where the changes of this version stand, for the changelogs of both kinds of package.
///
/// # Errors
/// When the changelog cannot be read.
pub fn told(job: &Job<'_>) -> Result<String> {
    let heading = if has_heading(&changelog(job.root)?, &job.version) { &*job.version } else { UNRELEASED };
    Ok(format!("What changed is in CHANGELOG.md, under [{heading}]."))
}

/// Refuses to package a version of the workspace that the changelog says nothing of. Until it is released, the version
/// under development has no heading.
///
/// # Errors
/// When the workspace's version is another one and has no heading.
pub fn ensure_told(root: &Path, list: &List) -> Result<()> {
    judge(&changelog(root)?, VERSION, &list.package.unreleased)
}

fn judge(changelog: &str, version: &str, unreleased: &str) -> Result<()> {
    ensure!(
        version == unreleased || has_heading(changelog, version),
        "CHANGELOG.md has no `## [{version}]`; remedy: write it, or, while {version} is under development, make it \
         `unreleased` in packaging/files.toml"
    );
    Ok(())
}

fn has_heading(changelog: &str, version: &str) -> bool {
    changelog.lines().any(|line| line.starts_with(&format!("## [{version}]")))
}

fn changelog(root: &Path) -> Result<String> {
    fs::read_to_string(root.join("CHANGELOG.md")).context("cannot read `CHANGELOG.md`")
}

/// The time of the packages, in one of date(1)'s forms.
///
/// # Errors
/// When date(1) cannot be run.
pub fn date(job: &Job<'_>, form: &str) -> Result<String> {
    let mut date = command::program(job.root, "date");
    date.args(["--utc", form, "--date"]).arg(format!("@{}", job.epoch)).env("LC_ALL", "C");
    Ok(command::capture(&mut date)?.stdout.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::LIST;
    use super::*;

    #[test]
    fn only_the_version_under_development_may_be_untold() {
        let changelog = "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-01-31\n";
        for (version, unreleased, expected) in [
            ("0.1.0", "0.2.0", true),
            ("0.2.0", "0.2.0", true),
            ("0.2.0", "0.1.0", false),
            ("0.1.0-rc.1", "0.2.0", false),
            ("0.1", "0.2.0", false),
        ] {
            assert_eq!(judge(changelog, version, unreleased).is_ok(), expected, "{version}");
        }
    }

    #[test]
    fn the_version_of_this_checkout_can_be_packaged() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let list = List::read(&root.join(LIST)).unwrap();
        ensure_told(&root, &list).unwrap();
    }
}
