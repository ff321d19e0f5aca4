//! Strict JSON in, canonical JSON (RFC 8785) out. The JSON is narrowed until all canonicalizers agree on it:
//! integers within ±(2^53 - 1) only, ASCII member names, no name twice, bounded depth and size.
//! The grammar is in `strict_json`; what a document means is left to others. Fractions are carried as decimal texts.

use crate::document::printable_to;
use crate::strict_json::{self, Numbers};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// Greatest size of a document, bytes.
pub const DOCUMENT_MAX: usize = 16 * 1024 * 1024;
/// Greatest nesting of arrays and objects.
pub const DEPTH_MAX: usize = 32;
/// Greatest number of values in a document, members and list items alike: what a reader holds of them stays within 50 MiB,
/// however short each is written (an object of one member takes 640 bytes).
pub const VALUES_MAX: usize = 80_000;
/// Greatest magnitude of a number: 2^53 - 1, the last one that every JSON reader holds exactly.
pub const INTEGER_MAX: i64 = (1 << 53) - 1;

/// A strict JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number within ±[`INTEGER_MAX`].
    Integer(i64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// Members by name; the order of ASCII names is the order of RFC 8785.
    Object(BTreeMap<String, Value>),
}

/// Why bytes are no strict JSON, or a value has no canonical form.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// More bytes than [`DOCUMENT_MAX`].
    #[error("document of {0} bytes is larger than {DOCUMENT_MAX}")]
    TooLarge(usize),
    /// The text breaks a rule of strict JSON.
    #[error("byte {at}: {what}")]
    Syntax {
        /// Offset of the offending byte, from 0.
        at: usize,
        /// The rule it breaks.
        what: &'static str,
    },
    /// Strict JSON, but not in canonical form: other white space, order or escapes than RFC 8785 writes.
    #[error("not canonical JSON: first differs from the canonical form at byte {at}")]
    NotCanonical {
        /// Offset of the first byte that differs, from 0.
        at: usize,
    },
    /// Strict and canonical, but not of the expected type; says where, cut to a printable length: the library quotes the
    /// whole value.
    #[error("canonical JSON of another shape than expected: {0}")]
    Shape(String),
    /// A value that serde could not write as JSON.
    #[error("value cannot be written as JSON")]
    Write(#[source] serde_json::Error),
}

/// Longest text about a shape that was not expected, characters: a few times the longest that names no value.
const SHAPE_MAX: usize = 300;

/// Reads one strict JSON document; white space around tokens is allowed.
///
/// # Errors
/// [`CanonicalError::TooLarge`] or [`CanonicalError::Syntax`] with the first offending byte.
pub fn parse(bytes: &[u8]) -> Result<Value, CanonicalError> {
    if bytes.len() > DOCUMENT_MAX {
        return Err(CanonicalError::TooLarge(bytes.len()));
    }
    strict_json::read(bytes, Numbers::Digits)
}

/// Reads a document that must already be canonical, into a type.
///
/// # Errors
/// Those of [`parse`], [`CanonicalError::NotCanonical`], or [`CanonicalError::Shape`].
pub fn from_canonical<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    parse_canonical(bytes)?;
    serde_json::from_slice(bytes)
        .map_err(|error| CanonicalError::Shape(printable_to(&error.to_string(), SHAPE_MAX)))
}

/// Reads a document that must already be canonical.
///
/// # Errors
/// Those of [`parse`], or [`CanonicalError::NotCanonical`].
pub fn parse_canonical(bytes: &[u8]) -> Result<Value, CanonicalError> {
    let value = parse(bytes)?;
    let canonical = value.to_bytes();
    if canonical == bytes {
        return Ok(value);
    }
    let at = canonical.iter().zip(bytes).take_while(|(a, b)| a == b).count();
    Err(CanonicalError::NotCanonical { at })
}

/// The canonical form of any value that keeps to strict JSON.
///
/// # Errors
/// [`CanonicalError::Write`] when serde refuses it; those of [`parse`] when it holds a fraction, a number beyond
/// [`INTEGER_MAX`], a name twice or one outside ASCII, or is too deep or too large.
pub fn to_canonical(value: &impl Serialize) -> Result<Vec<u8>, CanonicalError> {
    let loose = serde_json::to_vec(value).map_err(CanonicalError::Write)?;
    Ok(parse(&loose)?.to_bytes())
}

impl Value {
    /// The canonical bytes of this value (RFC 8785).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::new();
        self.write(&mut out);
        out.into_bytes()
    }

    fn write(&self, out: &mut String) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(true) => out.push_str("true"),
            Value::Bool(false) => out.push_str("false"),
            Value::Integer(number) => out.push_str(&number.to_string()),
            Value::String(text) => write_string(text, out),
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                out.push('{');
                for (index, (name, member)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_string(name, out);
                    out.push(':');
                    member.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// RFC 8785, 3.2.2.2: two-character escapes where JSON has them, `\u00xx` for other controls, all else as it is.
pub(crate) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", character as u32)),
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        String::from_utf8(parse(text.as_bytes()).unwrap().to_bytes()).unwrap()
    }

    #[test]
    fn canonical_form_sorts_names_drops_space_and_fixes_escapes() {
        for (text, expected) in [
            (r#" { "b" : 1 , "a" : [ true , null ] } "#, r#"{"a":[true,null],"b":1}"#),
            (r#"{"Z":1,"a":2,"A":3,"_":4,"":5}"#, r#"{"":5,"A":3,"Z":1,"_":4,"a":2}"#),
            (
                r#""\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/""#,
                "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"",
            ),
            (r#""\ud83d\ude00\u007f\b\f\t\r""#, "\"\u{1f600}\u{7f}\\b\\f\\t\\r\""),
            ("9007199254740991", "9007199254740991"),
            ("-9007199254740991", "-9007199254740991"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn lax_json_is_refused_at_its_byte() {
        for (text, at, what) in [
            (r#"{"a":1,"a":2}"#, 7, "twice"),
            (r#"{"x":{"a":1,"\u0061":2}}"#, 12, "twice"),
            ("1.0", 1, "whole"),
            ("1e3", 1, "whole"),
            ("9007199254740992", 0, "2^53"),
            ("-9007199254740992", 0, "2^53"),
            ("99999999999999999999999", 0, "2^53"),
            ("01", 2, "malformed"),
            ("-0", 2, "malformed"),
            ("-", 1, "malformed"),
            ("+1", 0, "expected a value"),
            ("NaN", 0, "expected a value"),
            ("\u{feff}{}", 0, "expected a value"),
            (r#""\ud800""#, 7, "surrogate"),
            (r#""\udc00\ud800""#, 7, "surrogate"),
            (r#""\ud800\u0041""#, 13, "surrogate"),
            (r#""\u00g0""#, 2, "hexadecimal"),
            (r#""\x41""#, 2, "escape"),
            (r#"{"é":1}"#, 1, "ASCII"),
            ("\"a\nb\"", 2, "control"),
            ("[1,]", 3, "expected a value"),
            ("[1 2]", 3, "expected `,`"),
            ("{a:1}", 1, "double quotes"),
            ("{} {}", 3, "after"),
            ("", 0, "ends"),
            ("\"abc", 4, "ends inside"),
        ] {
            match parse(text.as_bytes()) {
                Err(CanonicalError::Syntax { at: found, what: rule }) => {
                    assert!(found == at && rule.contains(what), "{text}: {found} {rule}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(parse(b"\"\xff\""), Err(CanonicalError::Syntax { at: 1, what: "not UTF-8" })));
    }

    #[test]
    fn depth_and_size_are_capped() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(matches!(parse(&vec![b' '; DOCUMENT_MAX + 1]), Err(CanonicalError::TooLarge(_))));
        let list = |items: usize| format!("[{}0]", "0,".repeat(items - 1));
        assert!(parse(list(VALUES_MAX - 1).as_bytes()).is_ok());
        assert!(parse(list(VALUES_MAX).as_bytes()).is_err());
    }

    #[test]
    fn typed_reading_takes_only_the_canonical_bytes() {
        let read = from_canonical::<BTreeMap<String, u64>>;
        assert_eq!(read(br#"{"a":1,"b":2}"#).unwrap().len(), 2);
        for bad in
            [&br#"{"b":2,"a":1}"#[..], br#"{"a":1, "b":2}"#, b"{\"a\":1}\n", br#"{"\u0061":1}"#, b"[1]"]
        {
            assert!(read(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn values_outside_strict_json_have_no_canonical_form() {
        assert!(to_canonical(&0.5).is_err());
        assert!(to_canonical(&u64::MAX).is_err());
        assert!(to_canonical(&BTreeMap::from([("ü", 1)])).is_err());
        assert_eq!(to_canonical(&(1, "x", None::<u8>)).unwrap(), br#"[1,"x",null]"#);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-INTEGER_MAX..=INTEGER_MAX).prop_map(Value::Integer),
            any::<String>().prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::btree_map("[ -~]{0,6}", inner, 0..5).prop_map(Value::Object),
            ]
        })
    }

    /// The same document with members in reverse order, white space and every character escaped.
    fn disguise(value: &Value) -> String {
        let escaped = |text: &str| -> String {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            format!("\"{units}\"")
        };
        match value {
            Value::String(text) => escaped(text),
            Value::Array(items) => {
                format!("[ {} ]", items.iter().map(disguise).collect::<Vec<_>>().join(" ,\n"))
            }
            Value::Object(members) => {
                let member =
                    |(name, value): (&String, &Value)| format!("{} : {}", escaped(name), disguise(value));
                format!("{{\t{}\r}}", members.iter().rev().map(member).collect::<Vec<_>>().join(" , "))
            }
            other => String::from_utf8(other.to_bytes()).unwrap(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn canonical_form_is_a_fixed_point_and_forgets_order_and_escapes(value in any_value()) {
            let bytes = value.to_bytes();
            prop_assert_eq!(&parse_canonical(&bytes).unwrap(), &value);
            prop_assert_eq!(parse(disguise(&value).as_bytes()).unwrap().to_bytes(), bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn near_json_never_panics_and_what_passes_agrees_with_serde(text in "[\\[\\]{}\",:0-9a\\\\u -]{0,40}") {
            if let Ok(value) = parse(text.as_bytes()) {
                let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
                let ours: serde_json::Value = serde_json::from_slice(&value.to_bytes()).unwrap();
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
