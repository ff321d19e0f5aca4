//! A document as a tree of nodes that know their place, whatever it was written in, and a reader that walks it
//! and notes every problem instead of stopping at the first. What the fields mean is left to others.

use crate::Sha256;
use crate::canonical::Value;
use crate::problem::{Problem, Problems};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;
use unicode_normalization::UnicodeNormalization;

/// Greatest number of problems noted of one document; more would only hide the first ones.
pub(crate) const PROBLEMS_MAX: usize = 64;

/// One node of a document.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The line it begins on, from 1, where the document has lines.
    pub line: Option<u32>,
    /// What it holds.
    pub content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// A text in quotes.
    Text(String),
    /// A YAML word without quotes: a text, a number or a truth value, as the reader asks.
    Plain(String),
    /// A JSON number, truth value or null: never a text.
    Literal(String),
    /// A list.
    List(Vec<Node>),
    /// Members in the order of the document, with the line of the name.
    Map(Vec<(String, Node)>),
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        let content = match value {
            Value::Null => Content::Literal("null".to_owned()),
            Value::Bool(truth) => Content::Literal(truth.to_string()),
            Value::Integer(number) => Content::Literal(number.to_string()),
            Value::String(text) => Content::Text(text),
            Value::Array(items) => Content::List(items.into_iter().map(Self::from).collect()),
            Value::Object(members) => {
                Content::Map(members.into_iter().map(|(name, member)| (name, Self::from(member))).collect())
            }
        };
        Self { line: None, content }
    }
}

impl Node {
    fn kind(&self) -> &'static str {
        match &self.content {
            Content::Text(_) => "a text",
            Content::Plain(word) if word.is_empty() => "nothing",
            Content::Plain(_) => "a single value",
            Content::Literal(_) => "a number or literal",
            Content::List(_) => "a list",
            Content::Map(_) => "a group of keys",
        }
    }
}

/// Walks a document and gathers its problems. A failed read gives `None` and leaves its problem behind.
#[derive(Default)]
pub(crate) struct Reader {
    problems: Problems,
}

/// A node together with its path.
#[derive(Clone)]
pub(crate) struct Place<'a> {
    pub path: String,
    pub node: &'a Node,
}

impl<'a> Place<'a> {
    pub fn root(node: &'a Node) -> Self {
        Self { path: String::new(), node }
    }

    fn member(&self, name: &str, node: &'a Node) -> Self {
        // Free keys are whatever somebody wrote.
        let name = printable(name);
        let path = if self.path.is_empty() { name } else { format!("{}.{name}", self.path) };
        Self { path, node }
    }

    fn item(&self, index: usize, node: &'a Node) -> Self {
        Self { path: format!("{}[{index}]", self.path), node }
    }
}

impl Reader {
    pub fn refuse(&mut self, place: &Place<'_>, what: impl Into<String>, remedy: impl Into<String>) {
        let line = place.node.line;
        self.problems.0.push(Problem { line, ..Problem::new(place.path.clone(), what, remedy) });
    }

    /// Takes problems found in checked values, and gives each the line of the nearest node on its path.
    pub fn locate(&mut self, root: &Node, found: impl IntoIterator<Item = Problem>) {
        for mut problem in found {
            problem.line = problem.line.or_else(|| line_of(root, &problem.path));
            self.problems.0.push(problem);
        }
    }

    pub fn finish(mut self) -> Problems {
        self.problems.0.sort_by_key(|problem| problem.line);
        self.problems.0.truncate(PROBLEMS_MAX);
        self.problems
    }

    /// The members of a group whose keys are all among `known`; unknown ones are problems of their own.
    pub fn group<'a>(&mut self, place: &Place<'a>, known: &'static [&'static str]) -> Option<Group<'a>> {
        let Content::Map(members) = &place.node.content else {
            self.refuse(
                place,
                format!("{} where a group of keys is due", place.node.kind()),
                match known {
                    [only] => format!("write `{{{only}: ...}}`"),
                    _ => format!("write one or more of {}", listed(known)),
                },
            );
            return None;
        };
        for (name, node) in members.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
            let remedy = match nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", listed(known)),
            };
            let name = printable(name);
            self.refuse(&place.member(&name, node), format!("unknown key `{name}`"), remedy);
        }
        Some(Group { place: place.clone(), members })
    }

    /// Every member of a group whose keys are free.
    pub fn entries<'a>(&mut self, place: &Place<'a>) -> Option<Vec<(&'a str, Place<'a>)>> {
        let Content::Map(members) = &place.node.content else {
            self.refuse(
                place,
                format!("{} where a group of keys is due", place.node.kind()),
                "write `name: value` lines below it",
            );
            return None;
        };
        Some(members.iter().map(|(name, node)| (name.as_str(), place.member(name, node))).collect())
    }

    /// The items of a list of at most `most`.
    pub fn list<'a>(&mut self, place: &Place<'a>, most: usize) -> Option<Vec<Place<'a>>> {
        let Content::List(items) = &place.node.content else {
            self.refuse(
                place,
                format!("{} where a list is due", place.node.kind()),
                "write `[...]`, or one `- item` per line",
            );
            return None;
        };
        if items.len() > most {
            self.refuse(place, format!("{} entries", items.len()), format!("at most {most} are allowed"));
            return None;
        }
        Some(items.iter().enumerate().map(|(index, node)| place.item(index, node)).collect())
    }

    pub fn text(&mut self, place: &Place<'_>) -> Option<String> {
        match &place.node.content {
            Content::Text(text) => Some(text.clone()),
            Content::Plain(word) if !word.is_empty() => Some(word.clone()),
            _ => {
                self.refuse(place, format!("{} where a text is due", place.node.kind()), "write a text");
                None
            }
        }
    }

    /// A value in YAML or JSON notation that is no text: the word that stands there.
    pub fn word(&mut self, place: &Place<'_>, due: &str) -> Option<String> {
        match &place.node.content {
            Content::Plain(word) | Content::Literal(word) if !word.is_empty() => Some(word.clone()),
            Content::Text(_) => {
                self.refuse(place, format!("a text in quotes where {due} is due"), "remove the quotes");
                None
            }
            _ => {
                self.refuse(
                    place,
                    format!("{} where {due} is due", place.node.kind()),
                    format!("write {due}"),
                );
                None
            }
        }
    }

    pub fn integer<T: FromStr>(&mut self, place: &Place<'_>) -> Option<T> {
        let word = self.word(place, "a whole number")?;
        let digits = word.strip_prefix('-').unwrap_or(&word);
        let whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = word.parse().ok().filter(|_| whole);
        if number.is_none() {
            let what = format!("`{}` is not a whole number in range", printable(&word));
            self.refuse(place, what, "write digits only, without unit, sign or fraction");
        }
        number
    }

    /// A text that its type reads; its own error says what is due.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, place: &Place<'_>, remedy: &str) -> Option<T> {
        let text = self.text(place)?;
        self.parsed_from(place, &text, remedy)
    }

    pub fn parsed_from<T: FromStr<Err: Display>>(
        &mut self,
        place: &Place<'_>,
        text: &str,
        remedy: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(place, error.to_string(), remedy);
                None
            }
        }
    }

    /// One of a closed list of words.
    pub fn choice<T: Copy>(&mut self, place: &Place<'_>, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(place)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let known: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
        let remedy = match nearest(&text, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", listed(&known)),
        };
        self.refuse(place, format!("`{}` is not known here", printable(&text)), remedy);
        None
    }
}

/// The members of one group.
pub(crate) struct Group<'a> {
    pub place: Place<'a>,
    members: &'a [(String, Node)],
}

impl<'a> Group<'a> {
    pub fn get(&self, name: &str) -> Option<Place<'a>> {
        let (_, node) = self.members.iter().find(|(member, _)| member == name)?;
        Some(self.place.member(name, node))
    }

    /// The member, or a problem that says it is missing.
    pub fn require(&self, reader: &mut Reader, name: &str) -> Option<Place<'a>> {
        let found = self.get(name);
        if found.is_none() {
            reader.refuse(&self.place, format!("key `{name}` is missing"), format!("add `{name}`"));
        }
        found
    }
}

/// Control characters escaped and cut to a printable length.
pub(crate) fn printable(text: &str) -> String {
    printable_to(text, 80)
}

/// The same, cut to so many characters.
pub(crate) fn printable_to(text: &str, most: usize) -> String {
    let mut cut: String = text.chars().take(most).flat_map(|c| c.escape_debug()).collect();
    if text.chars().nth(most).is_some() {
        cut.push('…');
    }
    cut
}

/// Characters that a terminal obeys or hides: controls, zero-width ones, marks of writing direction.
pub fn deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What a file system that knows neither case nor normalization keeps of a name; its digest, so that it stays short.
pub(crate) fn fold(name: &str) -> Sha256 {
    let lower: String = name.nfc().flat_map(char::to_lowercase).nfc().collect();
    Sha256::of(lower.as_bytes())
}

/// The entries of a list that occur more than once, each named once.
pub(crate) fn repeated<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    names.into_iter().filter(|name| !seen.insert(*name)).collect()
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn line_of(root: &Node, path: &str) -> Option<u32> {
    let mut node = root;
    for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
        let next = match &node.content {
            Content::Map(members) => members.iter().find(|(name, _)| name == part).map(|(_, node)| node),
            Content::List(items) => {
                part.strip_suffix(']').and_then(|index| items.get(index.parse::<usize>().ok()?))
            }
            _ => None,
        };
        let Some(next) = next else { break };
        node = next;
    }
    node.line
}

/// The known word that a misspelt one most likely meant: the whole of which it is a part, or one at most two edits
/// away of which less than half is wrong. Case does not count.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    if !(2..=64).contains(&word.len()) {
        return None;
    }
    let (distance, near) =
        known.iter().map(|candidate| (edits(&word, &candidate.to_ascii_lowercase()), *candidate)).min()?;
    if distance <= 2 && distance * 2 < near.len() {
        return Some(near);
    }
    known.iter().copied().find(|candidate| candidate.starts_with(&word))
}

fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_its_neighbour_and_a_foreign_one_none() {
        let known = ["strategy", "steps", "window", "windows"];
        for (word, near) in [
            ("stepz", Some("steps")),
            ("windos", Some("window")),
            ("stratgy", Some("strategy")),
            ("objective", None),
        ] {
            assert_eq!(nearest(word, &known), near, "{word}");
        }
    }
}
