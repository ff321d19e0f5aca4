//! What a plan can ask of a request: a small part of CEL, total and bounded. A value that is absent is the empty text,
//! so every expression is true or false of every request, after at most as many comparisons as it has.

mod parse;

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// Greatest length of an expression, bytes.
pub const EXPRESSION_MAX: usize = 1024;
/// Greatest depth of brackets and negations.
pub const DEPTH_MAX: usize = 16;
/// Greatest number of comparisons, and of texts in one list.
pub const TERMS_MAX: usize = 64;

/// What an expression can ask about. Names of headers come in lower case.
pub trait Subject {
    /// The method.
    fn method(&self) -> &str;
    /// The path, as it was sent, without the query.
    fn path(&self) -> &str;
    /// The first header of this name, when its value is text.
    fn header(&self, name: &str) -> Option<&str>;
    /// The first value of this name in the query, decoded.
    fn query(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// A checked expression.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression {
    text: String,
    tree: Tree,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Longer than [`EXPRESSION_MAX`].
    #[error("an expression of {0} bytes, at most {EXPRESSION_MAX} are allowed")]
    TooLong(usize),
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("brackets and negations deeper than {DEPTH_MAX}")]
    TooDeep,
    /// More comparisons, or more texts in a list, than [`TERMS_MAX`].
    #[error("more than {TERMS_MAX} comparisons, or texts in a list")]
    TooMany,
    /// Something else is due at this place.
    #[error("at character {at}: {due} is due, not {found}")]
    Unexpected {
        /// Where, counted from 1.
        at: usize,
        /// What is due.
        due: &'static str,
        /// What stands there.
        found: String,
    },
}

#[derive(Debug, Clone)]
enum Tree {
    Any(Vec<Tree>),
    Every(Vec<Tree>),
    Not(Box<Tree>),
    Compare(Value, Relation, Value),
    OneOf(Value, Vec<String>),
    Present(Group, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    Unequal,
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Headers,
    Query,
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Method,
    Path,
    Named(Group, String),
}

impl Expression {
    /// Whether it is true of this request.
    pub fn matches(&self, subject: &impl Subject) -> bool {
        self.tree.holds(subject)
    }
}

impl Tree {
    fn holds(&self, subject: &impl Subject) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.holds(subject)),
            Self::Every(parts) => parts.iter().all(|part| part.holds(subject)),
            Self::Not(part) => !part.holds(subject),
            Self::Compare(left, relation, right) => relation.holds(&left.of(subject), &right.of(subject)),
            Self::OneOf(value, texts) => {
                // A query is decoded for each look at it.
                let found = value.of(subject);
                texts.iter().any(|text| *text == found)
            }
            Self::Present(group, name) => group.of(name, subject).is_some(),
        }
    }
}

impl Relation {
    fn holds(self, left: &str, right: &str) -> bool {
        match self {
            Self::Equal => left == right,
            Self::Unequal => left != right,
            Self::StartsWith => left.starts_with(right),
            Self::EndsWith => left.ends_with(right),
            Self::Contains => left.contains(right),
        }
    }
}

impl Group {
    fn of<'a>(self, name: &str, subject: &'a impl Subject) -> Option<Cow<'a, str>> {
        match self {
            Self::Headers => subject.header(name).map(Cow::Borrowed),
            Self::Query => subject.query(name),
        }
    }
}

impl Value {
    fn of<'a>(&'a self, subject: &'a impl Subject) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Method => Cow::Borrowed(subject.method()),
            Self::Path => Cow::Borrowed(subject.path()),
            Self::Named(group, name) => group.of(name, subject).unwrap_or_default(),
        }
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;
    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > EXPRESSION_MAX {
            return Err(ExpressionError::TooLong(text.len()));
        }
        Ok(Self { text: text.to_owned(), tree: parse::parse(text)? })
    }
}

impl TryFrom<String> for Expression {
    type Error = ExpressionError;
    fn try_from(text: String) -> Result<Self, ExpressionError> {
        text.parse()
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.text
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Sample;

    impl Subject for Sample {
        fn method(&self) -> &str {
            "POST"
        }
        fn path(&self) -> &str {
            "/v2/models/fraud/infer"
        }
        fn header(&self, name: &str) -> Option<&str> {
            match name {
                "x-region" => Some("eu-west"),
                "x-empty" => Some(""),
                _ => None,
            }
        }
        fn query(&self, name: &str) -> Option<Cow<'_, str>> {
            (name == "tier").then_some(Cow::Borrowed("a b"))
        }
    }

    #[test]
    fn expressions_say_what_they_seem_to() {
        for (text, expected) in [
            (r#"method == "POST""#, true),
            (r#""POST" == method"#, true),
            (r#"method != "POST""#, false),
            (r#"path.endsWith("/infer") && path.startsWith('/v2/')"#, true),
            (r#"path.contains("fraud")"#, true),
            (r#"headers["X-Region"] == "eu-west""#, true),
            (r#"headers["x-region"] in ["us", "eu-west"]"#, true),
            (r#"headers["x-region"] in ["us"]"#, false),
            (r#"headers["x-none"] == """#, true),
            (r#"headers["x-none"] != "a""#, true),
            (r#""x-none" in headers"#, false),
            (r#""X-Empty" in headers"#, true),
            (r#"query["tier"] == "a b" && "tier" in query"#, true),
            (r#"!("x-none" in headers) && !!(method == "POST")"#, true),
            // `&&` binds closer than `||`.
            (r#"method == "POST" || method == "GET" && path == "/""#, true),
            (r#"(method == "POST" || method == "GET") && path == "/""#, false),
            (r#"headers["x-region"].startsWith(headers["x-empty"])"#, true),
            (r#""a\"b" == 'a"b'"#, true),
        ] {
            let expression: Expression = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(expression.matches(&Sample), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_place() {
        for (text, message) in [
            ("", "at character 1: a comparison is due, not the end"),
            ("method", "at character 7: `==`, `!=`, `in` or `.` is due, not the end"),
            ("method = \"a\"", "at character 8: `==`, `!=`, `in` or `.` is due, not `=`"),
            (
                "body == \"a\"",
                "at character 1: `method`, `path`, `headers`, `query` or a text is due, not `body`",
            ),
            ("method == \"a", "at character 11: a closing quote is due, not the end"),
            ("method == \"a\" method", "at character 15: `&&`, `||` or the end is due, not `method`"),
            (
                "path.matches(\"a\")",
                "at character 6: `startsWith`, `endsWith` or `contains` is due, not `matches`",
            ),
            ("headers[method] == \"a\"", "at character 9: a text in quotes is due, not `method`"),
            ("headers == \"a\"", "at character 9: `[` is due, not `==`"),
            ("method in []", "at character 12: a text in quotes is due, not `]`"),
            ("(method == \"a\"", "at character 15: `)` is due, not the end"),
        ] {
            assert_eq!(text.parse::<Expression>().unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn every_limit_is_held() {
        let nested = |depth| format!("{}method == \"a\"{}", "(".repeat(depth), ")".repeat(depth));
        let ored = |terms| vec!["method == \"a\""; terms].join("||");
        let list = |texts| format!("method in [{}]", vec!["\"a\""; texts].join(","));
        for (text, limit) in [
            (nested(DEPTH_MAX), None),
            (nested(DEPTH_MAX + 1), Some(ExpressionError::TooDeep)),
            ("!".repeat(DEPTH_MAX + 1) + "(method == \"a\")", Some(ExpressionError::TooDeep)),
            (ored(TERMS_MAX), None),
            (ored(TERMS_MAX + 1), Some(ExpressionError::TooMany)),
            (list(TERMS_MAX), None),
            (list(TERMS_MAX + 1), Some(ExpressionError::TooMany)),
            (" ".repeat(EXPRESSION_MAX + 1), Some(ExpressionError::TooLong(EXPRESSION_MAX + 1))),
        ] {
            assert_eq!(text.parse::<Expression>().err(), limit, "{text}");
        }
    }

    fn terms() -> impl Strategy<Value = (String, bool)> {
        let comparison = prop_oneof![
            Just((r#"method == "POST""#.to_owned(), true)),
            Just((r#"path == "/""#.to_owned(), false)),
            Just((r#""x-region" in headers"#.to_owned(), true)),
            Just((r#"query["tier"] in ["x"]"#.to_owned(), false)),
        ];
        comparison.prop_recursive(4, 24, 2, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone())
                    .prop_map(|((a, x), (b, y))| (format!("({a}) && ({b})"), x && y)),
                (inner.clone(), inner.clone())
                    .prop_map(|((a, x), (b, y))| (format!("({a}) || ({b})"), x || y)),
                inner.prop_map(|(a, x)| (format!("!({a})"), !x)),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_decided(text in ".{0,80}") {
            if let Ok(expression) = text.parse::<Expression>() {
                let _ = expression.matches(&Sample);
            }
        }

        #[test]
        fn logic_is_that_of_its_parts((text, expected) in terms()) {
            prop_assume!(text.len() <= EXPRESSION_MAX);
            prop_assert_eq!(text.parse::<Expression>().unwrap().matches(&Sample), expected);
        }
    }
}
