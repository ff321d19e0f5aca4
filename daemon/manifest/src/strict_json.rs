//! The grammar of strict JSON: one pass over the bytes, one value or the first byte that breaks a rule.
//! Limits, errors and the canonical form are in `canonical`, and so are the tests of both.

use crate::canonical::{CanonicalError, DEPTH_MAX, INTEGER_MAX, VALUES_MAX, Value};
use std::collections::BTreeMap;

/// How whole numbers may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Digits alone: our own documents.
    Digits,
    /// Also `1000.0`: documents of others that went through a protobuf `Struct`, whose numbers are all floats.
    PointZero,
}

/// Reads one document; the caller has capped its size.
pub(crate) fn read(bytes: &[u8], numbers: Numbers) -> Result<Value, CanonicalError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| CanonicalError::Syntax { at: error.valid_up_to(), what: "not UTF-8" })?;
    let mut parser = Parser { text, at: 0, depth: 0, values: 0, numbers };
    let value = parser.value()?;
    parser.skip_space();
    if parser.at < text.len() { parser.fail("text after the document") } else { Ok(value) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    values: usize,
    numbers: Numbers,
}

impl Parser<'_> {
    fn fail<T>(&self, what: &'static str) -> Result<T, CanonicalError> {
        Err(CanonicalError::Syntax { at: self.at, what })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Value, CanonicalError> {
        self.skip_space();
        self.values += 1;
        if self.values > VALUES_MAX {
            return self.fail("more values than one document may hold");
        }
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.integer(),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(_) => self.fail("expected a value"),
            None => self.fail("the document ends where a value is due"),
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, CanonicalError> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(value)
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, CanonicalError>,
    ) -> Result<Value, CanonicalError> {
        if self.depth == DEPTH_MAX {
            return self.fail("nested deeper than 32 levels");
        }
        self.depth += 1;
        self.at += 1;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value, CanonicalError> {
        let mut items = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.skip_space();
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return self.fail("expected `,` or `]`");
            }
        }
    }

    fn object(&mut self) -> Result<Value, CanonicalError> {
        let mut members = BTreeMap::new();
        self.skip_space();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            let start = self.at;
            let name = self.string()?;
            let refused = |what| Err(CanonicalError::Syntax { at: start, what });
            if !name.is_ascii() {
                return refused("member name outside ASCII");
            }
            self.skip_space();
            if !self.take(b':') {
                return self.fail("expected `:`");
            }
            let member = self.value()?;
            if members.insert(name, member).is_some() {
                return refused("member name given twice");
            }
            self.skip_space();
            if self.take(b'}') {
                return Ok(Value::Object(members));
            }
            if !self.take(b',') {
                return self.fail("expected `,` or `}`");
            }
        }
    }

    fn integer(&mut self) -> Result<Value, CanonicalError> {
        let start = self.at;
        self.take(b'-');
        let first = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        let end = self.at;
        if self.numbers == Numbers::PointZero && self.text[end..].starts_with(".0") {
            self.at += 1;
            while self.take(b'0') {}
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E' | b'0'..=b'9')) {
            return self.fail("numbers are whole here: carry a fraction as a decimal text");
        }
        let digits = &self.text[first..end];
        let zero_first = digits.starts_with('0') && (digits.len() > 1 || first > start);
        if digits.is_empty() || zero_first {
            return self.fail("malformed number");
        }
        match self.text[start..end].parse::<i64>() {
            Ok(number) if number.abs() <= INTEGER_MAX => Ok(Value::Integer(number)),
            Ok(_) | Err(_) => Err(CanonicalError::Syntax {
                at: start,
                what: "number beyond 2^53 - 1: not every reader holds it",
            }),
        }
    }

    fn string(&mut self) -> Result<String, CanonicalError> {
        if !self.take(b'"') {
            return self.fail("expected a text in double quotes");
        }
        let mut out = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|byte| byte != b'"' && byte != b'\\' && byte >= 0x20) {
                self.at += 1;
            }
            out.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return self.fail("control character in a text: escape it"),
                None => return self.fail("the document ends inside a text"),
            }
        }
    }

    fn escape(&mut self) -> Result<char, CanonicalError> {
        self.at += 1;
        let plain = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(),
            _ => return self.fail("unknown escape"),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode_escape(&mut self) -> Result<char, CanonicalError> {
        let first = self.code_unit()?;
        if !(0xd800..0xe000).contains(&first) {
            return char::from_u32(first).map_or_else(|| self.fail("malformed escape"), Ok);
        }
        if first >= 0xdc00 || self.peek() != Some(b'\\') {
            return self.fail("lone surrogate");
        }
        self.at += 1;
        if self.peek() != Some(b'u') {
            return self.fail("lone surrogate");
        }
        let second = self.code_unit()?;
        if !(0xdc00..0xe000).contains(&second) {
            return self.fail("lone surrogate");
        }
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        char::from_u32(code).map_or_else(|| self.fail("malformed escape"), Ok)
    }

    /// Reads `uXXXX`, standing on the `u`.
    fn code_unit(&mut self) -> Result<u32, CanonicalError> {
        let digits = self.text.as_bytes().get(self.at + 1..self.at + 5);
        let Some(digits) = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)) else {
            return self.fail("`\\u` needs four hexadecimal digits");
        };
        self.at += 5;
        Ok(digits.iter().fold(0, |code, digit| code * 16 + char::from(*digit).to_digit(16).unwrap_or(0)))
    }
}
