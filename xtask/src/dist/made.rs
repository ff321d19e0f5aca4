//! What a package holds and no file of the checkout is: manual pages and completions, out of the programs' own command
//! lines; the manual page of the configuration; Debian's changelog.

use super::list::List;
use super::{Job, fresh, page, write};
use crate::command;
use anyhow::Result;

/// Makes all of it in `target/dist/made`.
///
/// # Errors
/// When the program that writes manuals does not.
pub fn make(job: &Job<'_>, list: &List) -> Result<()> {
    let made = job.made();
    fresh(&made)?;
    let day = date(job, "+%Y-%m-%d")?;
    let manuals = job.programs.join("turnout-manuals");
    let mut manuals = command::program(job.root, &manuals.to_string_lossy());
    command::run(manuals.arg(&made).args([&job.version, &day]))?;
    write(&made.join("man5/turnout.toml.5"), page::text(job.root, &job.version, &day)?)?;
    write(&made.join("changelog"), changelog(job, list)?)
}

/// Debian wants one entry for each version, in its own form; what changed is in `CHANGELOG.md`, which is installed too.
fn changelog(job: &Job<'_>, list: &List) -> Result<String> {
    let date = date(job, "--rfc-email")?;
    let (name, maintainer) = (&list.package.name, &list.package.maintainer);
    Ok(format!(
        "{name} ({}) unstable; urgency=medium\n\n  * What changed is in CHANGELOG.md beside this file.\n\n \
         -- {maintainer}  {}\n",
        job.version, date
    ))
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
