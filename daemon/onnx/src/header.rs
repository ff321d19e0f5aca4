//! Reads from an ONNX file what goes in and what comes out (names, element types, shapes) and what it uses (operator
//! sets, operators of other domains, files beside it). Weights are skipped unread, so that a file of any size costs little.

use crate::OnnxError;
use crate::uses::{self, OperatorSet, Uses};
use crate::wire::{Value, Wire};
use std::collections::HashSet;
use std::io::{Read, Seek};
use turnout_manifest::contract::Datatype;

/// Most inputs, and most outputs.
pub const TENSORS_MAX: usize = 1024;
/// Most dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 16;
/// Most operator sets.
pub const OPERATOR_SETS_MAX: usize = 64;
/// Most initializers whose names are kept.
pub const INITIALIZERS_MAX: usize = 200_000;

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions; -1 where the model leaves the length open.
    pub shape: Vec<i64>,
}

/// What a model says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Inputs that a request must bring, in the model's order.
    pub inputs: Vec<Tensor>,
    /// Outputs, in the model's order.
    pub outputs: Vec<Tensor>,
    /// The operator sets it was made for.
    pub operator_sets: Vec<OperatorSet>,
    /// What it uses beyond the standard operators and its own file.
    pub uses: Uses,
}

/// Reads the header.
///
/// # Errors
/// [`OnnxError`]; never panics, whatever the bytes.
pub fn header(source: impl Read + Seek) -> Result<Header, OnnxError> {
    let mut wire = Wire::new(source)?;
    let end = wire.end;
    let (mut version, mut graph) = (false, None);
    let (mut operator_sets, mut uses) = (Vec::new(), Uses::default());
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Number(_)) => version = true,
            (7, Value::Message(end)) if graph.is_none() => {
                graph = Some(read_graph(&mut wire, end, &mut uses)?);
            }
            (7, _) => return Err(OnnxError::NotOnnx("it holds more than one graph")),
            (8, Value::Message(end)) => {
                operator_sets.push(uses::operator_set(&mut wire, end)?);
                within("operator sets", operator_sets.len(), OPERATOR_SETS_MAX)?;
            }
            (20, Value::Message(end)) => uses::training(&mut wire, end, &mut uses)?,
            (25, Value::Message(end)) => uses::function(&mut wire, end, &mut uses)?,
            (_, value) => wire.skip(&value)?,
        }
    }
    match graph {
        _ if !version => Err(OnnxError::NotOnnx("it states no IR version")),
        Some((inputs, outputs)) if !outputs.is_empty() => Ok(Header { inputs, outputs, operator_sets, uses }),
        _ => Err(OnnxError::NotOnnx("it holds no graph with outputs")),
    }
}

/// The inputs and outputs of the main graph.
fn read_graph<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    uses: &mut Uses,
) -> Result<(Vec<Tensor>, Vec<Tensor>), OnnxError> {
    let (mut inputs, mut required, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
    let mut initializers = HashSet::new();
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Message(end)) => uses::node(wire, end, (uses, 0))?,
            (5, Value::Message(end)) => {
                initializers.insert(uses::tensor(wire, end, uses)?);
                within("initializers", initializers.len(), INITIALIZERS_MAX)?;
            }
            (11, Value::Message(end)) => {
                inputs.push(read_value(wire, end)?);
                // Files of the first IR versions list every weight among the inputs.
                within("inputs", inputs.len(), INITIALIZERS_MAX)?;
            }
            (12, Value::Message(end)) => {
                outputs.push(read_value(wire, end)?.tensor()?);
                within("outputs", outputs.len(), TENSORS_MAX)?;
            }
            (15, Value::Message(end)) => uses::sparse_tensor(wire, end, uses)?,
            (_, value) => wire.skip(&value)?,
        }
    }
    for input in inputs.into_iter().filter(|input| !initializers.contains(&input.name)) {
        required.push(input.tensor()?);
        within("inputs", required.len(), TENSORS_MAX)?;
    }
    Ok((required, outputs))
}

/// An input or output before it is known whether it matters.
struct ValueInfo {
    name: String,
    kind: &'static str,
    element: u64,
    shape: Vec<i64>,
}

impl ValueInfo {
    fn tensor(self) -> Result<Tensor, OnnxError> {
        if self.kind != "tensor" {
            return Err(OnnxError::NotTensor { name: self.name, kind: self.kind });
        }
        match datatype(self.element) {
            Ok(datatype) => Ok(Tensor { name: self.name, datatype, shape: self.shape }),
            Err(found) => Err(OnnxError::Element { name: self.name, found }),
        }
    }
}

fn read_value<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<ValueInfo, OnnxError> {
    let mut info =
        ValueInfo { name: String::new(), kind: "value without a type", element: 0, shape: Vec::new() };
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Message(end)) => info.name = wire.text(end)?,
            (2, Value::Message(end)) => read_type(wire, end, &mut info)?,
            (_, value) => wire.skip(&value)?,
        }
    }
    if info.name.is_empty() { Err(OnnxError::NotOnnx("an input or output has no name")) } else { Ok(info) }
}

fn read_type<R: Read + Seek>(wire: &mut Wire<R>, end: u64, info: &mut ValueInfo) -> Result<(), OnnxError> {
    while let Some((number, value)) = wire.field(end)? {
        info.kind = match number {
            1 => "tensor",
            4 => "sequence",
            5 => "map",
            8 => "sparse tensor",
            9 => "optional value",
            _ => info.kind,
        };
        match (number, value) {
            (1, Value::Message(end)) => {
                while let Some(field) = wire.field(end)? {
                    match field {
                        (1, Value::Number(element)) => info.element = element,
                        (2, Value::Message(end)) => info.shape = read_shape(wire, end)?,
                        (_, value) => wire.skip(&value)?,
                    }
                }
            }
            (_, value) => wire.skip(&value)?,
        }
    }
    Ok(())
}

fn read_shape<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<Vec<i64>, OnnxError> {
    let mut shape = Vec::new();
    while let Some(field) = wire.field(end)? {
        let (1, Value::Message(end)) = field else {
            wire.skip(&field.1)?;
            continue;
        };
        let mut length = -1;
        while let Some(field) = wire.field(end)? {
            match field {
                // Some exporters write 0 for a length they do not know.
                (1, Value::Number(value)) => {
                    length = i64::try_from(value).ok().filter(|n| *n > 0).unwrap_or(-1)
                }
                (_, value) => wire.skip(&value)?,
            }
        }
        shape.push(length);
        within("dimensions", shape.len(), DIMENSIONS_MAX)?;
    }
    Ok(shape)
}

pub(crate) fn within(what: &'static str, count: usize, limit: usize) -> Result<(), OnnxError> {
    if count > limit { Err(OnnxError::Limit { what, limit: limit as u64 }) } else { Ok(()) }
}

/// `TensorProto.DataType` of the ONNX specification.
fn datatype(element: u64) -> Result<Datatype, String> {
    Ok(match element {
        1 => Datatype::Fp32,
        2 => Datatype::Uint8,
        3 => Datatype::Int8,
        4 => Datatype::Uint16,
        5 => Datatype::Int16,
        6 => Datatype::Int32,
        7 => Datatype::Int64,
        8 => Datatype::Bytes,
        9 => Datatype::Bool,
        11 => Datatype::Fp64,
        12 => Datatype::Uint32,
        13 => Datatype::Uint64,
        10 => return Err("float16".to_owned()),
        16 => return Err("bfloat16".to_owned()),
        other => return Err(format!("number {other}")),
    })
}
