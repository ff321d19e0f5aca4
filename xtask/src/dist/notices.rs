//! What the licences of linked crates ask for: a file with every crate, its licence and its texts, and the expression of
//! the package as a whole. Where the texts come from is in `crates.rs`.

use super::crates::{self, Foreign};
use super::licence::Expression;
use super::list::List;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Turnout's own.
const OWN: &str = "Apache-2.0";
/// That of the official build of ONNX Runtime.
const ONNX_RUNTIME: &str = "MIT";
const HEAD: &str = "\
Notices of third parties

The programs of Turnout are linked with the crates below, which others wrote. Each stands with its version, its licence
as an SPDX expression, and the numbers of the texts that are in its source; a text that several share is here once.

Beside them, the programs hold Rust's standard library: its notices are in rust/COPYRIGHT-library.html.gz beside this
file. Those of ONNX Runtime are in the folder onnxruntime.
";

/// The text of the file, which is the same for everybody.
///
/// # Errors
/// When cargo cannot say what is linked, or the list's licence is not that of what is packaged.
pub fn text(root: &Path, list: &List) -> Result<String> {
    let foreign = crates::foreign(root, &list.programs())?;
    let computed = expression(&foreign)?;
    ensure!(
        list.package.licence == computed.to_string(),
        "the package is said to be `{}`, but what it holds is `{computed}`; remedy: look whether that may be packaged, \
         then write it in packaging/files.toml, packaging/copyright and packaging/rpm/rpmlint.toml",
        list.package.licence
    );
    write(&foreign)
}

fn expression(foreign: &BTreeSet<Foreign>) -> Result<Expression> {
    let mut all = Expression::parse(OWN)?.and(Expression::parse(ONNX_RUNTIME)?);
    for one in foreign {
        let own = Expression::parse(&one.licence).with_context(|| format!("crate `{}`", one.name))?;
        all = all.and(own);
    }
    Ok(all)
}

fn write(foreign: &BTreeSet<Foreign>) -> Result<String> {
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut out = format!("{HEAD}\n\nCrates\n\n");
    for one in foreign {
        write!(out, "{} {}: {}; ", one.name, one.version, one.licence)?;
        let mut own = Vec::new();
        for (file, text) in &one.texts {
            let text = tidy(text);
            let number = *numbers.entry(text.clone()).or_insert_with(|| {
                texts.push((format!("{file} of {} {}", one.name, one.version), text));
                texts.len()
            });
            own.push(number.to_string());
        }
        match own.is_empty() {
            true => writeln!(out, "no text in its source, authors: {}", one.authors.join(", "))?,
            false => writeln!(out, "{}", own.join(", "))?,
        }
    }
    out += "\n\nTexts\n";
    for (number, (name, text)) in (1..).zip(texts) {
        write!(out, "\n--- {number}: {name}\n\n{text}\n")?;
    }
    Ok(out)
}

/// Without what differs and says nothing: ends of lines, empty lines around.
fn tidy(text: &str) -> String {
    let lines = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    lines.trim_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    fn root() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    fn list() -> List {
        List::read(&root().join("packaging/files.toml")).unwrap()
    }

    fn foreign(name: &str, licence: &str, texts: &[(&str, &str)]) -> Foreign {
        let texts = texts.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        let (name, licence) = (name.to_owned(), licence.to_owned());
        Foreign { name, version: "1.0.0".to_owned(), licence, authors: vec!["Ann".to_owned()], texts }
    }

    #[test]
    fn the_notices_of_this_checkout_name_whatever_cargo_links() {
        let text = text(&root(), &list()).unwrap();
        let mut cargo = command::cargo(&root());
        cargo.args(["tree", "--locked", "--edges", "normal", "--target", "x86_64-unknown-linux-gnu"]);
        cargo.args([
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            "turnoutd",
            "--package",
            "turnoutctl",
        ]);
        let answer = command::capture(&mut cargo).unwrap();
        let is_foreign = |line: &&str| !line.is_empty() && !line.starts_with("turnout");
        let linked: BTreeSet<_> = answer.stdout.lines().filter(is_foreign).collect();
        assert!(linked.len() > 100, "{}", answer.stderr);
        for line in linked {
            let mut words = line.split_whitespace();
            let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
            assert!(text.contains(&format!("\n{name} {version}: ")), "{line}");
        }
        for kernel_side in ["aya-ebpf", "aya-ebpf-bindings"] {
            assert!(text.contains(&format!("\n{kernel_side} ")), "{kernel_side}");
        }
        assert!(text.contains("Isis Agora Lovecruft"), "the notice of `subtle`");
        assert!(text.contains("Copyright (c) Tokio Contributors"), "the notice of `tokio`");
    }

    #[test]
    fn every_licence_that_counts_has_its_stanza_and_is_known_to_rpmlint() {
        let list = list();
        let copyright = std::fs::read_to_string(root().join("packaging/copyright")).unwrap();
        let rpmlint = std::fs::read_to_string(root().join("packaging/rpm/rpmlint.toml")).unwrap();
        let rpmlint: toml::Table = rpmlint.parse().unwrap();
        let known = rpmlint["ValidLicenses"].as_array().unwrap();
        let known: Vec<_> = known.iter().filter_map(toml::Value::as_str).collect();
        assert_eq!(known, list.package.licence.split(" AND ").collect::<Vec<_>>());
        for licence in known {
            assert!(copyright.contains(&format!("\nLicense: {licence}\n ")), "{licence}");
        }
    }

    #[test]
    fn a_licence_of_a_new_crate_is_not_passed_over() {
        let known = BTreeSet::from([foreign("a", "MIT OR Apache-2.0", &[])]);
        assert_eq!(expression(&known).unwrap().to_string(), "Apache-2.0 AND MIT");
        let new = BTreeSet::from([foreign("b", "MPL-2.0", &[])]);
        assert_eq!(expression(&new).unwrap().to_string(), "Apache-2.0 AND MIT AND MPL-2.0");
    }

    #[test]
    fn a_shared_text_is_there_once_and_a_missing_one_is_seen() {
        let text = write(&BTreeSet::from([
            foreign("a", "MIT", &[("LICENSE", "free\r\n"), ("NOTICE", "mine\n")]),
            foreign("b", "MIT", &[("LICENSE-MIT", "free")]),
            foreign("c", "BSD-3-Clause", &[]),
        ]));
        let body = text.unwrap().strip_prefix(HEAD).unwrap().to_owned();
        assert_eq!(
            body,
            "\n\nCrates\n\na 1.0.0: MIT; 1, 2\nb 1.0.0: MIT; 1\n\
             c 1.0.0: BSD-3-Clause; no text in its source, authors: Ann\n\n\n\
             Texts\n\n--- 1: LICENSE of a 1.0.0\n\nfree\n\n--- 2: NOTICE of a 1.0.0\n\nmine\n"
        );
    }
}
