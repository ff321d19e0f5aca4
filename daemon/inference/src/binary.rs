//! The binary tensor extension: raw little-endian values behind the JSON, in the order of the tensors in it.

use crate::error::{InferenceError, TensorProblem};
use crate::tensor::{Datatype, Elements, ElementsRef};

/// The HTTP header that says how many bytes of the body are JSON; without it the whole body is.
pub const HEADER: &str = "inference-header-content-length";

/// The JSON and what follows it.
pub(crate) fn split(body: &[u8], json_length: Option<usize>) -> Result<(&[u8], &[u8]), InferenceError> {
    let Some(length) = json_length else { return Ok((body, &[])) };
    body.split_at_checked(length).ok_or(InferenceError::HeaderLength { length, body: body.len() })
}

/// Takes one tensor's bytes off the front of the tail.
pub(crate) fn take<'a>(
    datatype: Datatype,
    size: u64,
    tail: &mut &'a [u8],
) -> Result<&'a [u8], TensorProblem> {
    let truncated = TensorProblem::Truncated { size, left: tail.len() };
    let length = usize::try_from(size).ok().filter(|length| length.is_multiple_of(datatype.size()));
    let Some((bytes, rest)) = length.and_then(|length| tail.split_at_checked(length)) else {
        return Err(truncated);
    };
    *tail = rest;
    Ok(bytes)
}

/// The values of these bytes. What is left of an incomplete last element is dropped: [`take`] lets none through.
pub(crate) fn decode(datatype: Datatype, bytes: &[u8]) -> Result<Elements, TensorProblem> {
    macro_rules! numbers {
        ($variant:ident $rust:ty) => {
            Elements::$variant(
                bytes.as_chunks().0.iter().map(|element| <$rust>::from_le_bytes(*element)).collect(),
            )
        };
    }
    Ok(match datatype {
        Datatype::Bool => Elements::Bool(booleans(bytes)?),
        Datatype::Uint8 => Elements::Uint8(bytes.to_vec()),
        Datatype::Uint16 => numbers!(Uint16 u16),
        Datatype::Uint32 => numbers!(Uint32 u32),
        Datatype::Uint64 => numbers!(Uint64 u64),
        Datatype::Int8 => numbers!(Int8 i8),
        Datatype::Int16 => numbers!(Int16 i16),
        Datatype::Int32 => numbers!(Int32 i32),
        Datatype::Int64 => numbers!(Int64 i64),
        Datatype::Fp32 => numbers!(Fp32 f32),
        Datatype::Fp64 => numbers!(Fp64 f64),
    })
}

/// Appends the values as raw bytes.
pub(crate) fn encode(elements: ElementsRef<'_>, out: &mut Vec<u8>) {
    macro_rules! append {
        ($values:expr) => {
            out.extend($values.iter().flat_map(|value| value.to_le_bytes()))
        };
    }
    match elements {
        ElementsRef::Bool(values) => out.extend(values.iter().map(|&value| u8::from(value))),
        ElementsRef::Uint8(values) => out.extend_from_slice(values),
        ElementsRef::Uint16(values) => append!(values),
        ElementsRef::Uint32(values) => append!(values),
        ElementsRef::Uint64(values) => append!(values),
        ElementsRef::Int8(values) => append!(values),
        ElementsRef::Int16(values) => append!(values),
        ElementsRef::Int32(values) => append!(values),
        ElementsRef::Int64(values) => append!(values),
        ElementsRef::Fp32(values) => append!(values),
        ElementsRef::Fp64(values) => append!(values),
    }
}

fn booleans(bytes: &[u8]) -> Result<Vec<bool>, TensorProblem> {
    let other =
        |index: usize| TensorProblem::Value { index, value: bytes[index].to_string(), datatype: "BOOL" };
    match bytes.iter().position(|&byte| byte > 1) {
        Some(index) => Err(other(index)),
        None => Ok(bytes.iter().map(|&byte| byte == 1).collect()),
    }
}
