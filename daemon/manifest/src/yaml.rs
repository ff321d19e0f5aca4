//! The YAML that people write, as a tree of nodes with lines. A small YAML: one document, no anchors, aliases or tags,
//! no key twice, bounded in size, depth and number of nodes. What the keys mean is left to others.

use crate::document::{Content, Node, printable};
use crate::problem::{Problem, Problems};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

/// Greatest size of a YAML text, bytes.
pub const YAML_MAX: usize = 1024 * 1024;
/// Greatest nesting.
pub const YAML_DEPTH_MAX: usize = 16;
/// Greatest number of nodes, keys included.
pub const YAML_NODES_MAX: usize = 20_000;

/// Reads one document.
pub(crate) fn parse(text: &str) -> Result<Node, Problems> {
    if text.len() > YAML_MAX {
        let what = format!("text of {} bytes", text.len());
        return Err(Problems(vec![Problem::new("", what, format!("at most {YAML_MAX} are allowed"))]));
    }
    let mut builder = Builder { open: Vec::new(), nodes: 0, root: None, ended: false };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| malformed(&error))?;
        builder.take(event, span).map_err(|problem| Problems(vec![problem]))?;
    }
    builder
        .root
        .ok_or_else(|| Problems(vec![Problem::new("", "the text is empty", "write at least one key")]))
}

fn malformed(error: &ScanError) -> Problems {
    let marker = error.marker();
    let what = format!("not YAML at column {}: {}", marker.col() + 1, error.info());
    Problems(vec![Problem {
        line: line(marker.line()),
        ..Problem::new("", what, "mend the notation: indent with spaces, quote texts that hold `: ` or ` #`")
    }])
}

fn line(number: usize) -> Option<u32> {
    u32::try_from(number.max(1)).ok()
}

/// A list or group that is still open, and the key whose value comes next.
struct Open {
    node: Node,
    key: Option<String>,
}

struct Builder {
    open: Vec<Open>,
    nodes: usize,
    root: Option<Node>,
    ended: bool,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let line = line(span.start.line());
        let refuse = |what: &str, remedy: &str| Err(Problem { line, ..Problem::new("", what, remedy) });
        if event.tag().is_some() {
            return refuse("tags (`!`) are not allowed", "write the plain value");
        }
        if event.is_alias() || event.anchor_id().is_some_and(|id| id != 0) {
            return refuse("anchors (`&`) and aliases (`*`) are not allowed", "write the value out");
        }
        match event {
            Event::DocumentStart(..) if self.ended => {
                refuse("a second document", "keep one document per file: remove the second `---`")
            }
            Event::Scalar(text, style, ..) => {
                let plain = matches!(style, ScalarStyle::Plain);
                // The parser gives `~` for a value that is not there.
                let text = if plain && text == "~" { String::new() } else { text.into_owned() };
                let content = if plain { Content::Plain(text) } else { Content::Text(text) };
                self.count(line)?;
                self.place(Node { line, content })
            }
            Event::SequenceStart(..) => self.begin(Node { line, content: Content::List(Vec::new()) }),
            Event::MappingStart(..) => self.begin(Node { line, content: Content::Map(Vec::new()) }),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(closed) => self.place(closed.node),
                None => Ok(()),
            },
            Event::DocumentEnd => {
                self.ended = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, line: Option<u32>) -> Result<(), Problem> {
        self.nodes += 1;
        if self.nodes <= YAML_NODES_MAX {
            return Ok(());
        }
        let remedy = format!("at most {YAML_NODES_MAX} values are allowed");
        Err(Problem { line, ..Problem::new("", "too many values", remedy) })
    }

    fn begin(&mut self, node: Node) -> Result<(), Problem> {
        self.count(node.line)?;
        if self.open.len() == YAML_DEPTH_MAX {
            let remedy = format!("at most {YAML_DEPTH_MAX} levels are allowed");
            return Err(Problem { line: node.line, ..Problem::new("", "nested too deep", remedy) });
        }
        if let Some(Open { node: Node { content: Content::Map(_), .. }, key: None }) = self.open.last() {
            let what = "a list or group where a key is due";
            return Err(Problem { line: node.line, ..Problem::new("", what, "write a word as the key") });
        }
        self.open.push(Open { node, key: None });
        Ok(())
    }

    fn place(&mut self, node: Node) -> Result<(), Problem> {
        let Some(Open { node: parent, key }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut parent.content {
            Content::List(items) => items.push(node),
            Content::Map(members) => match key.take() {
                Some(name) => members.push((name, node)),
                None => {
                    let (Content::Plain(name) | Content::Text(name)) = node.content else { return Ok(()) };
                    if members.iter().any(|(earlier, _)| *earlier == name) {
                        let what = format!("key `{}` is given twice", printable(&name));
                        return Err(Problem {
                            line: node.line,
                            ..Problem::new(printable(&name), what, "keep one of them")
                        });
                    }
                    *key = Some(name);
                }
            },
            Content::Text(_) | Content::Plain(_) | Content::Literal(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn yaml_beyond_the_small_one_is_refused_at_its_line() {
        for (text, line, what) in [
            ("", None, "empty"),
            ("# nothing\n", None, "empty"),
            ("a: 1\nb: &x 2\n", Some(2), "anchors"),
            ("a: &x {b: 1}\nc: *x\n", Some(1), "anchors"),
            ("a: 1\nb: *x\n", Some(2), "YAML"),
            ("a: !!str 1\n", Some(1), "tags"),
            ("a: 1\nb: 2\na: 3\n", Some(3), "twice"),
            ("a: 1\n---\nb: 2\n", Some(2), "second document"),
            ("a:\n\tb: 2\n", Some(2), "YAML"),
            ("a: [1, 2\nb: 3\n", Some(2), "YAML"),
            ("? [1]\n: 2\n", Some(1), "key is due"),
            (&("[".repeat(YAML_DEPTH_MAX + 1) + &"]".repeat(YAML_DEPTH_MAX + 1)), Some(1), "deep"),
            (&format!("[{}]", "1,".repeat(YAML_NODES_MAX + 1)), Some(1), "too many"),
            (&" ".repeat(YAML_MAX + 1), None, "bytes"),
        ] {
            let Problems(found) = parse(text).expect_err(text);
            let first = &found[0];
            assert!(
                found.len() == 1 && first.line == line && first.what.contains(what),
                "{text:.60}: {first}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[a-c0-9:\\[\\]{},&*!|>'\"#?\n\t -]{0,60}") {
            let _ = parse(&text);
        }
    }
}
