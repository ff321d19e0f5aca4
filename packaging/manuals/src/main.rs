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

/// What no command line says of the daemon.
const DAEMON: &str = r#".SH FILES
.TP
.I /etc/turnout/turnout.toml
The configuration that the service names by \fB\-\-config\fR; every key is in
.BR turnout.toml (5).
.SH SIGNALS
.TP
.B SIGHUP
Reads the configuration again; \fBsystemctl reload turnoutd\fR sends it.
.SH SEE ALSO
.BR turnout.toml (5),
.BR turnoutctl (1),
.BR turnout\-export (8)
"#;

/// What every page says of itself.
struct Edition {
    version: String,
    day: String,
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [into, version, day] = <[String; 3]>::try_from(arguments)
        .map_err(|_| anyhow::anyhow!("usage: turnout-manuals DIRECTORY VERSION DATE"))?;
    let (into, edition) = (PathBuf::from(into), Edition { version, day });
    for (command, section, rest) in [
        (ctl::Arguments::command(), "1", ""),
        (daemon::Arguments::command(), "8", DAEMON),
        (export::Arguments::command(), "8", ""),
    ] {
        let mut pages = pages(&command, section, &edition)?;
        pages[0].text += rest;
        let folder = into.join(format!("man{section}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        for page in pages {
            let file = folder.join(page.name);
            fs::write(&file, page.text).with_context(|| format!("cannot write `{}`", file.display()))?;
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            completion(&command, shell, &into.join(shell.to_string()))?;
        }
    }
    Ok(())
}

/// A manual page.
struct Page {
    name: String,
    text: String,
}

/// A page for the program, which comes first, and one for each of its commands that people call, `NAME-COMMAND.SECTION`.
fn pages(command: &Command, section: &str, edition: &Edition) -> Result<Vec<Page>> {
    let mut command = command.clone().disable_help_subcommand(true);
    command.build();
    let (mut pages, mut open) = (Vec::new(), vec![&command]);
    while let Some(command) = open.pop() {
        pages.push(page(command, section, edition)?);
        open.extend(command.get_subcommands().filter(|inner| !inner.is_hide_set()));
    }
    Ok(pages)
}

fn page(command: &Command, section: &str, edition: &Edition) -> Result<Page> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let manual = clap_mangen::Man::new(command.clone()).title(name).section(section).manual("Turnout");
    let manual = manual.source(format!("turnout {}", edition.version)).date(&*edition.day);
    let mut text = Vec::new();
    manual.render(&mut text).with_context(|| format!("cannot make the page of `{name}`"))?;
    Ok(Page { name: manual.get_filename(), text: String::from_utf8(text)? })
}

fn completion(command: &Command, shell: Shell, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot make `{}`", into.display()))?;
    let name = command.get_name().to_owned();
    clap_complete::generate_to(shell, &mut command.clone(), name, into)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon_pages() -> Vec<Page> {
        let edition = Edition { version: "0.1.0".to_owned(), day: "2026-01-31".to_owned() };
        pages(&daemon::Arguments::command(), "8", &edition).unwrap()
    }

    #[test]
    fn every_page_names_product_version_and_day() {
        for page in daemon_pages() {
            let title = page.text.lines().find(|line| line.starts_with(".TH")).unwrap_or_default();
            assert!(title.ends_with(r#"8 2026-01-31 "turnout 0.1.0" Turnout"#), "{}: {title}", page.name);
        }
    }

    #[test]
    fn a_hidden_command_has_no_page() {
        let command = daemon::Arguments::command();
        assert!(
            command
                .get_subcommands()
                .any(|inner| inner.get_name() == "serve-snapshots" && inner.is_hide_set())
        );
        let names: Vec<_> = daemon_pages().into_iter().map(|page| page.name).collect();
        assert_eq!(names[0], "turnoutd.8");
        assert!(names.contains(&"turnoutd-doctor.8".to_owned()), "{names:?}");
        assert!(!names.contains(&"turnoutd-serve-snapshots.8".to_owned()), "{names:?}");
    }
}
