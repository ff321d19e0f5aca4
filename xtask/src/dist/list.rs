//! `packaging/files.toml`: what a package holds, checked. How a file gets its content is in `stage.rs`.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;

/// The list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// What the package says of itself.
    pub package: Package,
    /// What it needs beside what its programs are linked against.
    pub depends: Depends,
    file: Vec<Entry>,
}

/// What a package says of itself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The version under development: what changed in it is not under a heading of its own yet.
    pub unreleased: String,
    /// One line.
    pub summary: String,
    /// A paragraph.
    pub description: String,
    /// Who answers for it.
    pub maintainer: String,
    /// SPDX expression.
    pub licence: String,
}

/// Other packages, as each kind writes them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Depends {
    /// For the .deb.
    pub deb: Vec<String>,
    /// For the .rpm.
    pub rpm: Vec<String>,
    /// For the .rpm, where they are to be had.
    #[serde(default)]
    pub rpm_recommends: Vec<String>,
}

/// A kind of package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Debian's.
    Deb,
    /// That of Fedora, SUSE and others.
    Rpm,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Where the content comes from.
    pub from: String,
    /// Where it is installed.
    pub to: String,
    #[serde(default = "readable")]
    mode: String,
    /// The administrator's own.
    #[serde(default)]
    pub config: bool,
    /// The text of a licence, or a notice that one asks for.
    #[serde(default)]
    pub licence: bool,
    /// As `.gz`.
    #[serde(default)]
    pub compress: bool,
    only: Option<Kind>,
}

fn readable() -> String {
    "0644".to_owned()
}

impl Kind {
    /// As in the file's ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        }
    }
}

impl Entry {
    /// Whether this line puts a file there.
    pub fn installs(&self, path: &str) -> bool {
        let Some(name) = self.from.rsplit('/').next().filter(|_| self.to.ends_with('/')) else {
            return path.strip_suffix(self.ending()) == Some(&*self.to);
        };
        let inside = path.strip_prefix(&*self.to).and_then(|rest| rest.strip_suffix(self.ending()));
        inside.is_some_and(|inside| inside == name || (name == "*" && !inside.contains('/')))
    }

    /// What compression appends to its name.
    pub fn ending(&self) -> &'static str {
        if self.compress { ".gz" } else { "" }
    }

    /// Its permissions.
    ///
    /// # Errors
    /// When they are no octal number.
    pub fn mode(&self) -> Result<u32> {
        u32::from_str_radix(&self.mode, 8)
            .with_context(|| format!("`{}`: mode `{}` is no octal number", self.to, self.mode))
    }
}

impl List {
    /// Reads and checks the list.
    ///
    /// # Errors
    /// When it is no such TOML, or a line cannot be.
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        Self::parse(&text).with_context(|| format!("`{}`", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let list: Self = toml::from_str(text)?;
        for (at, entry) in list.file.iter().enumerate() {
            entry.mode()?;
            if !entry.to.starts_with('/') || entry.to.contains("..") {
                bail!("`{}` must be an absolute path", entry.to);
            }
            if entry.from.ends_with("/*") && !entry.to.ends_with('/') {
                bail!("`{}` are several files: `{}` must end in `/`", entry.from, entry.to);
            }
            if list.file[..at].contains(entry) {
                bail!("`{}` is listed twice", entry.from);
            }
        }
        Ok(list)
    }

    /// The programs that are installed, by their names.
    pub fn programs(&self) -> Vec<&str> {
        self.file.iter().filter_map(|entry| entry.from.strip_prefix("@program/")).collect()
    }

    /// The lines for one kind of package.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.file.iter().filter(move |entry| entry.only.is_none_or(|only| only == kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Crates whose programs are installed.
    const PROGRAMS: [&str; 6] =
        ["turnoutctl", "turnoutd", "turnout-export", "turnout-launcher", "turnout-worker", "turnout-router"];
    const HEAD: &str = "[package]\nname = \"n\"\nunreleased = \"0\"\nsummary = \"s\"\ndescription = \"d\"\nmaintainer = \"m\"\n\
                        licence = \"l\"\n[depends]\ndeb = []\nrpm = []\n";

    fn parse(entries: &str) -> Result<List> {
        List::parse(&format!("{HEAD}{entries}"))
    }

    #[test]
    fn the_list_of_this_checkout_names_every_program() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/files.toml");
        let list = List::read(&file).unwrap();
        for program in PROGRAMS {
            assert!(list.programs().contains(&program), "{program}");
        }
    }

    #[test]
    fn a_line_for_one_kind_is_not_in_the_other() {
        let list = parse("[[file]]\nfrom = \"a\"\nto = \"/a\"\nonly = \"deb\"\n").unwrap();
        assert_eq!((list.of(Kind::Deb).count(), list.of(Kind::Rpm).count()), (1, 0));
    }

    #[test]
    fn a_line_knows_what_it_installs() {
        let list = parse(
            "[[file]]\nfrom = \"x/a\"\nto = \"/d/\"\n[[file]]\nfrom = \"x/*\"\nto = \"/e/\"\ncompress = true\n\
             [[file]]\nfrom = \"x\"\nto = \"/f\"\n",
        );
        let entries = list.unwrap().file;
        for (at, path, expected) in [
            (0, "/d/a", true),
            (0, "/d/b", false),
            (0, "/d/a.gz", false),
            (1, "/e/b.gz", true),
            (1, "/e/b", false),
            (1, "/e/f/b.gz", false),
            (2, "/f", true),
            (2, "/f/a", false),
        ] {
            assert_eq!(entries[at].installs(path), expected, "{path}");
        }
    }

    #[test]
    fn lines_that_cannot_be_are_refused() {
        for entries in [
            "[[file]]\nfrom = \"a\"\nto = \"a\"\n",
            "[[file]]\nfrom = \"a\"\nto = \"/../a\"\n",
            "[[file]]\nfrom = \"a/*\"\nto = \"/a\"\n",
            "[[file]]\nfrom = \"a\"\nto = \"/a\"\nmode = \"rw\"\n",
            "[[file]]\nfrom = \"a\"\nto = \"/a\"\nonly = \"apk\"\n",
            "[[file]]\nfrom = \"a\"\nto = \"/a\"\n[[file]]\nfrom = \"a\"\nto = \"/a\"\n",
            "[[file]]\nfrom = \"a\"\nto = \"/a\"\nconf = true\n",
        ] {
            assert!(parse(entries).is_err(), "{entries}");
        }
    }
}
