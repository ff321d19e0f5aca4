//! The default configuration, `packaging/turnout.toml`, out of the doc comments of the configuration's type: each key
//! with its manual and, as a comment, its default. A key whose comment names no value fails, so that none is left out.
//! The manual page out of the same comments is in `page.rs`.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use syn::{Attribute, Expr, ExprLit, Field, Item, ItemStruct, Lit, Meta};

/// Where the types are.
const SOURCES: [&str; 5] = [
    "daemon/turnoutd/src/config.rs",
    "daemon/turnoutd/src/config/journal.rs",
    "daemon/turnoutd/src/config/keep.rs",
    "daemon/turnoutd/src/config/trust.rs",
    "daemon/turnoutd/src/config/tenants.rs",
];
/// The type of each table, and what the file calls it. The type's comment stands above the table.
const TABLES: [(&str, &str); 7] = [
    ("RawJournal", "journal"),
    ("RawRetention", "retention"),
    ("RawStore", "store"),
    ("RawAuditHttp", "audit.http"),
    ("RawTrust", "trust"),
    ("RawTenant", "tenants.NAME"),
    ("RawModel", "models.NAME"),
];
/// Where the file lies.
const TARGET: &str = "packaging/turnout.toml";
const WIDTH: usize = 100;
const HEAD: &str = "\
# Configuration of turnoutd, written by `cargo xtask dist` from the manual in the source.
# Every key is optional; it is shown with its default, or with an example where the default depends on the machine.
# An unknown key is refused. `systemctl reload turnoutd` puts ports, models, worker_cpus, worker_cpu_limit, devices,
# ready_seconds, drain_seconds and log in force at once, and says in the log which other keys wait for
# `systemctl restart turnoutd`.
";

/// A table of the configuration.
pub struct Table {
    /// What the file calls it; the first one has no name.
    pub name: Option<&'static str>,
    /// What it is for.
    pub manual: String,
    /// Its keys, in their order.
    pub keys: Vec<Key>,
}

/// A key of the configuration.
pub struct Key {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub manual: String,
    /// Its default or an example, as TOML.
    pub value: String,
}

/// Writes the file anew, when it is not as the source says.
///
/// # Errors
/// When the source cannot be read or lacks a value.
pub fn refresh(root: &Path) -> Result<()> {
    let (target, wanted) = (root.join(TARGET), generate(root)?);
    if fs::read_to_string(&target).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    println!("dist: `{TARGET}` is written anew; commit it");
    fs::write(&target, wanted).with_context(|| format!("cannot write `{TARGET}`"))
}

fn generate(root: &Path) -> Result<String> {
    Ok(text(&tables(root)?))
}

/// The tables of this checkout's configuration.
///
/// # Errors
/// When the source cannot be read or lacks a value.
pub fn tables(root: &Path) -> Result<Vec<Table>> {
    let read = |source: &&str| {
        fs::read_to_string(root.join(source)).with_context(|| format!("cannot read `{source}`"))
    };
    let sources = SOURCES.iter().map(read).collect::<Result<Vec<_>>>()?;
    parse(&sources.concat(), &TABLES)
}

fn parse(source: &str, tables: &[(&str, &'static str)]) -> Result<Vec<Table>> {
    // Doc comments of a file as a whole cannot stand in the middle of a text.
    let source = source.lines().filter(|line| !line.starts_with("//!")).collect::<Vec<_>>().join("\n");
    let file = syn::parse_file(&source).context("the configuration's source")?;
    let is_table =
        |field: &&Field| tables.iter().any(|(_, table)| table.split('.').next() == Some(&name(field)));
    let first = settings(&file.items, "Raw")?.fields.iter().filter(|field| !is_table(field));
    let keys = first.map(key).collect::<Result<_>>()?;
    let mut found = vec![Table { name: None, manual: String::new(), keys }];
    for (of, table) in tables {
        let settings = settings(&file.items, of)?;
        let keys = settings.fields.iter().map(key).collect::<Result<_>>()?;
        found.push(Table { name: Some(table), manual: manual(&settings.attrs), keys });
    }
    Ok(found)
}

fn text(tables: &[Table]) -> String {
    let mut out = HEAD.to_owned();
    for table in tables {
        if let Some(name) = table.name {
            out += &format!("\n{}#[{name}]\n", wrap(&table.manual));
        }
        for key in &table.keys {
            out += &format!("\n{}#{} = {}\n", wrap(&key.manual), key.name, key.value);
        }
    }
    out
}

fn settings<'a>(items: &'a [Item], wanted: &str) -> Result<&'a ItemStruct> {
    let mut structs = items.iter().filter_map(|item| match item {
        Item::Struct(item) => Some(item),
        _ => None,
    });
    structs.find(|item| item.ident == wanted).with_context(|| format!("the configuration has no `{wanted}`"))
}

fn key(field: &Field) -> Result<Key> {
    let (name, manual) = (name(field), manual(&field.attrs));
    let Some(value) = value(&manual) else {
        bail!(
            "configuration: the comment of `{name}` names no value; write \"Default `...`\" or \"such as `...`\""
        );
    };
    let value = if is_bare(value) { value.to_owned() } else { format!("\"{value}\"") };
    Ok(Key { name, manual, value })
}

fn name(field: &Field) -> String {
    field.ident.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// The doc comment as one line.
fn manual(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// The value that the manual names: an example before a default, because a default may be words.
fn value(manual: &str) -> Option<&str> {
    let after = ["such as `", "Default `"].into_iter().find_map(|mark| manual.split_once(mark))?.1;
    after.split_once('`').map(|(value, _)| value)
}

/// Numbers, lists and tables are written as they are, everything else is text.
fn is_bare(value: &str) -> bool {
    value.starts_with(['[', '{']) || value.parse::<f64>().is_ok()
}

fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + word.len() >= WIDTH {
            out += &(line + "\n");
            line = String::from("#");
        }
        line = line + " " + word;
    }
    out + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_this_checkout_is_as_the_source_says() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let found = fs::read_to_string(root.join(TARGET)).unwrap_or_default();
        assert!(found == generate(&root).unwrap(), "`cargo xtask dist` writes `{TARGET}` anew");
    }

    #[test]
    fn a_key_has_its_manual_and_its_default() {
        let source = "struct Raw { /// How many. Default `3`.\n a: u8, /// Where. Default beside it, such as `/x`.\n b: P, models: M }\n\
                      /// Settings of one model, by its name.\nstruct RawModel { /// Which. Default `[1, 2]`.\n c: C }";
        let text = text(&parse(source, &[("RawModel", "models.NAME")]).unwrap());
        let body = text.strip_prefix(HEAD).unwrap();
        assert_eq!(
            body,
            "\n# How many. Default `3`.\n#a = 3\n\n# Where. Default beside it, such as `/x`.\n#b = \"/x\"\n\n\
             # Settings of one model, by its name.\n#[models.NAME]\n\n# Which. Default `[1, 2]`.\n#c = [1, 2]\n"
        );
    }

    #[test]
    fn a_key_without_a_value_is_named() {
        let refusal = parse("struct Raw { /// Some words.\n a: u8 }", &[]).err().unwrap().to_string();
        assert!(refusal.contains("comment of `a` names no value"), "{refusal}");
    }
}
