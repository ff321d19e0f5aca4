//! Writes the manual pages and the completions of every program that people call, from the doc comments of their
//! command lines. Run by `cargo xtask dist`; a crate of its own, so that no program carries what writes them.

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use std::fs;
use std::path::{Path, PathBuf};

// The files themselves, because a program's crate is no library.
#[allow(
    dead_code,
    unused_imports,
    reason = "only the description of the command line is used here, not what it parses to"
)]
#[path = "../../../daemon/ctl/src/args.rs"]
mod ctl;
#[allow(dead_code, reason = "as above")]
#[path = "../../../daemon/turnoutd/src/arguments.rs"]
mod daemon;
#[allow(dead_code, reason = "as above")]
#[path = "../../../daemon/export/src/arguments.rs"]
mod export;

fn main() -> Result<()> {
    let into = PathBuf::from(std::env::args_os().nth(1).context("usage: turnout-manuals DIRECTORY")?);
    for (command, section) in [
        (ctl::Arguments::command(), "1"),
        (daemon::Arguments::command(), "8"),
        (export::Arguments::command(), "8"),
    ] {
        pages(&command, section, &into.join(format!("man{section}")))?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            completion(&command, shell, &into.join(shell.to_string()))?;
        }
    }
    Ok(())
}

/// A page for the program and one for each of its commands, `NAME-COMMAND.SECTION`.
fn pages(command: &Command, section: &str, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot make `{}`", into.display()))?;
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    page(&command, section, into)
}

fn page(command: &Command, section: &str, into: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let manual = clap_mangen::Man::new(command.clone()).title(name).section(section).manual("Turnout");
    manual.generate_to(into).with_context(|| format!("cannot write the page of `{name}`"))?;
    command.get_subcommands().try_for_each(|inner| page(inner, section, into))
}

fn completion(command: &Command, shell: Shell, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot make `{}`", into.display()))?;
    let name = command.get_name().to_owned();
    clap_complete::generate_to(shell, &mut command.clone(), name, into)?;
    Ok(())
}
