//! The answer to an inference request, written into one buffer: JSON, then the outputs that were asked for as binary tensors.

use crate::binary;
use crate::error::InferenceError;
use crate::tensor::ElementsRef;

/// What an answer says besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct ResponseHead<'a> {
    /// The model.
    pub model_name: &'a str,
    /// Its version.
    pub model_version: &'a str,
    /// The request's id, sent back.
    pub id: Option<&'a str>,
}

/// One output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutputTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dimensions.
    pub shape: &'a [i64],
    /// Its values.
    pub elements: ElementsRef<'a>,
}

/// How one output is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In the JSON.
    Json,
    /// As raw bytes behind it.
    Binary,
}

/// Appends the answer to `out`. Returns the length of its JSON when an output is binary: the value of
/// [`binary::HEADER`].
///
/// # Errors
/// [`InferenceError::NotFinite`] for a value that JSON cannot carry.
pub fn write(
    head: ResponseHead<'_>,
    outputs: &[(OutputTensor<'_>, Form)],
    out: &mut Vec<u8>,
) -> Result<Option<usize>, InferenceError> {
    let start = out.len();
    out.extend_from_slice(b"{\"model_name\":");
    value(head.model_name, out);
    out.extend_from_slice(b",\"model_version\":");
    value(head.model_version, out);
    if let Some(id) = head.id {
        out.extend_from_slice(b",\"id\":");
        value(id, out);
    }
    out.extend_from_slice(b",\"outputs\":[");
    for (index, (output, form)) in outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_output(output, *form, out)?;
    }
    out.extend_from_slice(b"]}");
    let json_length = out.len() - start;
    let binary = outputs.iter().filter(|(_, form)| *form == Form::Binary);
    let count = binary.map(|(output, _)| binary::encode(output.elements, out)).count();
    Ok((count > 0).then_some(json_length))
}

fn write_output(output: &OutputTensor<'_>, form: Form, out: &mut Vec<u8>) -> Result<(), InferenceError> {
    out.extend_from_slice(b"{\"name\":");
    value(output.name, out);
    out.extend_from_slice(b",\"datatype\":\"");
    out.extend_from_slice(output.elements.datatype().name().as_bytes());
    out.extend_from_slice(b"\",\"shape\":");
    list(output.shape, out);
    match form {
        Form::Binary => {
            let size = output.elements.len() * output.elements.datatype().size();
            out.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            value(&size, out);
            out.push(b'}');
        }
        Form::Json => {
            if !is_finite(output.elements) {
                return Err(InferenceError::NotFinite(output.name.to_owned()));
            }
            out.extend_from_slice(b",\"data\":");
            values(output.elements, out);
        }
    }
    out.push(b'}');
    Ok(())
}

/// No value is NaN or infinite.
pub fn is_finite(elements: ElementsRef<'_>) -> bool {
    match elements {
        ElementsRef::Fp32(values) => values.iter().all(|value| value.is_finite()),
        ElementsRef::Fp64(values) => values.iter().all(|value| value.is_finite()),
        _ => true,
    }
}

fn values(elements: ElementsRef<'_>, out: &mut Vec<u8>) {
    match elements {
        ElementsRef::Bool(values) => list(values, out),
        ElementsRef::Uint8(values) => list(values, out),
        ElementsRef::Uint16(values) => list(values, out),
        ElementsRef::Uint32(values) => list(values, out),
        ElementsRef::Uint64(values) => list(values, out),
        ElementsRef::Int8(values) => list(values, out),
        ElementsRef::Int16(values) => list(values, out),
        ElementsRef::Int32(values) => list(values, out),
        ElementsRef::Int64(values) => list(values, out),
        ElementsRef::Fp32(values) => list(values, out),
        ElementsRef::Fp64(values) => list(values, out),
    }
}

fn list<T: serde::Serialize>(values: &[T], out: &mut Vec<u8>) {
    out.push(b'[');
    for (index, element) in values.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        value(element, out);
    }
    out.push(b']');
}

fn value<T: serde::Serialize + ?Sized>(element: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, element).expect("texts, numbers and booleans are always JSON");
}
