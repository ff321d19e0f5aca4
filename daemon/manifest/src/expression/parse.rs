//! Text -> tree, by recursive descent with every depth and number counted. The grammar stands above [`parse`].

use super::{DEPTH_MAX, ExpressionError, Group, Relation, TERMS_MAX, Tree, Value};
use crate::document::printable;

/// Reads a whole expression.
///
/// ```text
///   either   = both { "||" both }                 value = "method" | "path" | text
///   both     = one { "&&" one }                         | ("headers" | "query") "[" text "]"
///   one      = "!" one | "(" either ")" | text "in" ("headers" | "query")
///            | value ("==" | "!=") value | value "in" "[" text { "," text } "]"
///            | value "." ("startsWith" | "endsWith" | "contains") "(" value ")"
/// ```
///
/// # Errors
/// [`ExpressionError`], with the place of what is wrong.
pub(super) fn parse(text: &str) -> Result<Tree, ExpressionError> {
    let mut parser = Parser { text, at: 0, depth: 0, terms: 0 };
    let tree = parser.either()?;
    match parser.peek() {
        "" => Ok(tree),
        _ => Err(parser.due("`&&`, `||` or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    terms: usize,
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Result<Tree, ExpressionError> {
        let mut parts = vec![self.both()?];
        while self.take("||") {
            parts.push(self.both()?);
        }
        Ok(only(parts).unwrap_or_else(Tree::Any))
    }

    fn both(&mut self) -> Result<Tree, ExpressionError> {
        let mut parts = vec![self.one()?];
        while self.take("&&") {
            parts.push(self.one()?);
        }
        Ok(only(parts).unwrap_or_else(Tree::Every))
    }

    fn one(&mut self) -> Result<Tree, ExpressionError> {
        if self.peek() == "!" {
            return self.deeper(|parser| {
                parser.take("!");
                Ok(Tree::Not(Box::new(parser.one()?)))
            });
        }
        if self.peek() == "(" {
            return self.deeper(|parser| {
                parser.take("(");
                let inner = parser.either()?;
                parser.demand(")", "`)`")?;
                Ok(inner)
            });
        }
        self.comparison()
    }

    fn deeper<T>(
        &mut self,
        inner: impl FnOnce(&mut Self) -> Result<T, ExpressionError>,
    ) -> Result<T, ExpressionError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ExpressionError::TooDeep);
        }
        let read = inner(self)?;
        self.depth -= 1;
        Ok(read)
    }

    fn comparison(&mut self) -> Result<Tree, ExpressionError> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(ExpressionError::TooMany);
        }
        if self.peek().is_empty() {
            return Err(self.due("a comparison"));
        }
        let left = self.value()?;
        if self.take("==") {
            return Ok(Tree::Compare(left, Relation::Equal, self.value()?));
        }
        if self.take("!=") {
            return Ok(Tree::Compare(left, Relation::Unequal, self.value()?));
        }
        if self.take("in") {
            return self.membership(left);
        }
        if !self.take(".") {
            return Err(self.due("`==`, `!=`, `in` or `.`"));
        }
        let relation = self.relation()?;
        self.demand("(", "`(`")?;
        let right = self.value()?;
        self.demand(")", "`)`")?;
        Ok(Tree::Compare(left, relation, right))
    }

    fn membership(&mut self, left: Value) -> Result<Tree, ExpressionError> {
        if let (Value::Text(name), Some(group)) = (&left, self.group()) {
            return Ok(Tree::Present(group, key(group, name)));
        }
        self.demand("[", "a list in `[...]`, or `headers` or `query` after a text")?;
        let mut texts = vec![self.quoted()?];
        while self.take(",") {
            texts.push(self.quoted()?);
            if texts.len() > TERMS_MAX {
                return Err(ExpressionError::TooMany);
            }
        }
        self.demand("]", "`,` or `]`")?;
        Ok(Tree::OneOf(left, texts))
    }

    fn relation(&mut self) -> Result<Relation, ExpressionError> {
        let known = [
            ("startsWith", Relation::StartsWith),
            ("endsWith", Relation::EndsWith),
            ("contains", Relation::Contains),
        ];
        let found = known.into_iter().find(|(word, _)| self.take(word));
        found.map(|(_, relation)| relation).ok_or_else(|| self.due("`startsWith`, `endsWith` or `contains`"))
    }

    fn value(&mut self) -> Result<Value, ExpressionError> {
        if self.peek().starts_with(['"', '\'']) {
            return self.quoted().map(Value::Text);
        }
        if self.take("method") {
            return Ok(Value::Method);
        }
        if self.take("path") {
            return Ok(Value::Path);
        }
        let Some(group) = self.group() else {
            return Err(self.due("`method`, `path`, `headers`, `query` or a text"));
        };
        self.demand("[", "`[`")?;
        let name = self.quoted()?;
        self.demand("]", "`]`")?;
        Ok(Value::Named(group, key(group, &name)))
    }

    fn group(&mut self) -> Option<Group> {
        if self.take("headers") {
            return Some(Group::Headers);
        }
        self.take("query").then_some(Group::Query)
    }

    /// A text in single or double quotes; a backslash takes the next character as it is.
    fn quoted(&mut self) -> Result<String, ExpressionError> {
        let quote = match self.peek().chars().next() {
            Some(quote @ ('"' | '\'')) => quote,
            _ => return Err(self.due("a text in quotes")),
        };
        let begin = self.at;
        let mut read = String::new();
        let mut escaped = false;
        for (index, character) in self.text[begin..].char_indices().skip(1) {
            match character {
                _ if escaped => {
                    read.push(character);
                    escaped = false;
                }
                '\\' => escaped = true,
                _ if character == quote => {
                    self.at = begin + index + character.len_utf8();
                    return Ok(read);
                }
                _ => read.push(character),
            }
        }
        Err(unexpected(self.text, begin, "a closing quote", "the end".to_owned()))
    }

    fn demand(&mut self, token: &str, due: &'static str) -> Result<(), ExpressionError> {
        if self.take(token) { Ok(()) } else { Err(self.due(due)) }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        if found {
            self.at += token.len();
        }
        found
    }

    /// The token that comes next, after blanks: a word, a pair of signs, or a single character. Empty at the end.
    fn peek(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let token = rest.trim_start();
        self.at += rest.len() - token.len();
        let word = token.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(token.len());
        let length = match word {
            0 if ["==", "!=", "&&", "||"].iter().any(|pair| token.starts_with(pair)) => 2,
            0 => token.chars().next().map_or(0, char::len_utf8),
            word => word,
        };
        &token[..length]
    }

    fn due(&mut self, due: &'static str) -> ExpressionError {
        let found = match self.peek() {
            "" => "the end".to_owned(),
            token => format!("`{}`", printable(token)),
        };
        unexpected(self.text, self.at, due, found)
    }
}

fn unexpected(text: &str, at: usize, due: &'static str, found: String) -> ExpressionError {
    ExpressionError::Unexpected { at: text[..at].chars().count() + 1, due, found }
}

/// Names of headers know no case.
fn key(group: Group, name: &str) -> String {
    match group {
        Group::Headers => name.to_ascii_lowercase(),
        Group::Query => name.to_owned(),
    }
}

/// The only part, or all of them.
fn only(mut parts: Vec<Tree>) -> Result<Tree, Vec<Tree>> {
    match parts.len() {
        1 => Ok(parts.remove(0)),
        _ => Err(parts),
    }
}
