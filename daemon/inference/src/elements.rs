//! The `data` member of a tensor: nested or flat JSON values of one type, straight into a typed vector.
//! The text comes from a JSON parser that has checked it, so only the kinds of values are looked at here.

use crate::error::TensorProblem;
use crate::tensor::{Datatype, Elements};

/// Deepest list in a list.
pub const NESTING_MAX: usize = 16;
/// Longest offending text that an error repeats, in characters.
const SHOWN_MAX: usize = 40;

/// Reads `needed` values of one type from the JSON text of `data`.
pub(crate) fn parse(datatype: Datatype, json: &str, needed: usize) -> Result<Elements, Reason> {
    Ok(match datatype {
        Datatype::Bool => Elements::Bool(collect(json, needed, boolean)?),
        Datatype::Uint8 => Elements::Uint8(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Uint16 => Elements::Uint16(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Uint32 => Elements::Uint32(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Uint64 => Elements::Uint64(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Int8 => Elements::Int8(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Int16 => Elements::Int16(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Int32 => Elements::Int32(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Int64 => Elements::Int64(collect(json, needed, |text| text.parse().ok())?),
        Datatype::Fp32 => Elements::Fp32(collect(json, needed, single)?),
        Datatype::Fp64 => Elements::Fp64(collect(json, needed, double)?),
    })
}

/// Why values were refused, before the tensor's type and shape are put beside it.
pub(crate) enum Reason {
    /// Position and text of a value of another kind.
    Value(usize, String),
    /// Fewer or more values than the shape needs.
    Count(String),
    /// Deeper than [`NESTING_MAX`].
    Nesting,
}

impl Reason {
    pub(crate) fn of(self, datatype: Datatype, shape: &[i64], needed: usize) -> TensorProblem {
        match self {
            Self::Value(index, value) => TensorProblem::Value { index, value, datatype: datatype.name() },
            Self::Count(found) => TensorProblem::Count { shape: shape.to_vec(), needed, found },
            Self::Nesting => TensorProblem::Nesting(NESTING_MAX),
        }
    }
}

fn collect<T>(json: &str, needed: usize, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Reason> {
    // A value and its comma take two bytes: a shape that claims more than the text can hold allocates nothing.
    let mut values = Vec::with_capacity(needed.min(json.len() / 2 + 1));
    let (bytes, mut at, mut depth) = (json.as_bytes(), 0, 0_usize);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'[' if depth == NESTING_MAX => return Err(Reason::Nesting),
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b',' | b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                let end = token_end(bytes, at);
                let shown = || json[at..end].chars().take(SHOWN_MAX).collect::<String>();
                if depth == 0 {
                    return Err(Reason::Count(format!("`data` is `{}`, not a list", shown())));
                }
                if values.len() == needed {
                    return Err(Reason::Count("more are given".to_owned()));
                }
                let value = read(&json[at..end]).ok_or_else(|| Reason::Value(values.len(), shown()))?;
                values.push(value);
                at = end;
                continue;
            }
        }
        at += 1;
    }
    if values.len() == needed {
        Ok(values)
    } else {
        Err(Reason::Count(format!("{} are given", values.len())))
    }
}

/// The end of the value that begins at `start`. A text or an object runs to the next structural byte, which is enough
/// to refuse it: a comma within it is ASCII, so the cut is always at a character's border.
fn token_end(bytes: &[u8], start: usize) -> usize {
    let ends = |byte: &u8| matches!(byte, b',' | b']' | b'[' | b' ' | b'\t' | b'\r' | b'\n');
    bytes[start..].iter().position(ends).map_or(bytes.len(), |length| start + length)
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn single(text: &str) -> Option<f32> {
    if let Some(whole) = small_whole(text) {
        return Some(f32::from(whole));
    }
    number(text)?.parse().ok().filter(|value: &f32| value.is_finite())
}

fn double(text: &str) -> Option<f64> {
    if let Some(whole) = small_whole(text) {
        return Some(f64::from(whole));
    }
    number(text)?.parse().ok().filter(|value: &f64| value.is_finite())
}

/// The common case of pixels and counts: up to four digits, which every floating type holds exactly.
fn small_whole(text: &str) -> Option<u16> {
    if text.len() > 4 {
        return None;
    }
    text.bytes()
        .try_fold(0_u16, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u16::from(byte - b'0')))
}

/// Rust reads `inf` and `nan` as numbers, JSON does not know them: a number begins with a digit or a minus and a digit.
fn number(text: &str) -> Option<&str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|first: char| first.is_ascii_digit()).then_some(text)
}
