//! The manual page of the configuration, turnout.toml(5), out of the same doc comments as the file itself. Pages of programs
//! are written by `packaging/manuals`.

use super::configuration::{self, Table};
use anyhow::Result;
use std::path::Path;

/// What the file is called where it is installed.
const FILE: &str = "/etc/turnout/turnout.toml";
const HEAD: &str = "\
.SH NAME
turnout.toml \\- configuration of turnoutd
.SH DESCRIPTION
Every key is optional. Each is shown with its default, or with an example where the default depends on the machine. An \
unknown key is refused.
.PP
\\fBsystemctl reload turnoutd\\fR puts \\fBports\\fR, \\fBmodels\\fR, \\fBworker_cpus\\fR, \\fBworker_cpu_limit\\fR, \
\\fBdevices\\fR, \\fBready_seconds\\fR, \\fBdrain_seconds\\fR and \\fBlog\\fR in force at once, and says in the log which \
other keys wait for \\fBsystemctl restart turnoutd\\fR.
";
const END: &str = "\
.SH SEE ALSO
.BR turnoutd (8),
.BR turnoutctl (1)
";

/// The page, of this version and day.
///
/// # Errors
/// When the configuration's source cannot be read.
pub fn text(root: &Path, version: &str, day: &str) -> Result<String> {
    let title = format!(".TH turnout.toml 5 {day} \"turnout {version}\" Turnout\n");
    let tables: String = configuration::tables(root)?.iter().map(section).collect();
    Ok(format!("{title}{HEAD}{tables}.SH FILES\n.I {FILE}\n{END}"))
}

fn section(table: &Table) -> String {
    let mut out = match table.name {
        Some(name) => format!(".SH TABLE {}\n{}\n", escaped(&format!("[{name}]")), prose(&table.manual)),
        None => ".SH KEYS\n".to_owned(),
    };
    for key in &table.keys {
        let example = escaped(&format!("{} = {}", key.name, key.value));
        out += &format!(".TP\n.B {example}\n{}\n", prose(&key.manual));
    }
    out
}

/// What stands between backticks is bold.
fn prose(manual: &str) -> String {
    let parts = manual.split('`').enumerate().map(|(at, part)| match at % 2 {
        0 => escaped(part),
        _ => format!("\\fB{}\\fR", escaped(part)),
    });
    // Else a full stop or an apostrophe would begin a request.
    format!("\\&{}", parts.collect::<String>())
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('"', "\\(dq")
}

#[cfg(test)]
mod tests {
    use super::*;
    use configuration::Key;

    #[test]
    fn a_table_is_a_section_and_a_key_a_paragraph() {
        let key =
            Key { name: "a_b".into(), manual: "Where. Default `/x-y`.".into(), value: "\"/x-y\"".into() };
        let table = Table { name: Some("store"), manual: ".5 of \\ it.".into(), keys: vec![key] };
        assert_eq!(
            section(&table),
            ".SH TABLE [store]\n\\&.5 of \\e it.\n.TP\n.B a_b = \\(dq/x\\-y\\(dq\n\\&Where. Default \\fB/x\\-y\\fR.\n"
        );
    }

    #[test]
    fn the_page_has_every_key_that_the_file_has() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = text(&root, "0.1.0", "2026-01-31").unwrap();
        assert!(page.starts_with(".TH turnout.toml 5 2026-01-31 \"turnout 0.1.0\" Turnout\n"), "{page}");
        let file = std::fs::read_to_string(root.join("packaging/turnout.toml")).unwrap();
        let keys: Vec<_> =
            file.lines().filter_map(|line| line.strip_prefix('#')?.split_once(" = ")).collect();
        assert!(keys.len() > 20);
        for (key, _) in keys.iter().filter(|(key, _)| !key.contains(' ')) {
            assert!(page.contains(&format!("\n.B {key} = ")), "{key}");
        }
    }
}
