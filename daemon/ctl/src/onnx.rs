//! Reads from an ONNX file what goes in and what comes out: names, element types, shapes. A walker over the protobuf
//! encoding (<https://protobuf.dev/programming-guides/encoding/>) that skips weights and nodes unread, so that a file
//! of any size costs little. It runs with the caller's rights on files of others: every length and count has a limit.

use std::collections::HashSet;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use turnout_manifest::contract::Datatype;

/// Most inputs, and most outputs.
pub const TENSORS_MAX: usize = 1024;
/// Longest name, bytes.
pub const NAME_MAX: u64 = 512;
/// Most dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 16;
/// Most initializers whose names are kept.
pub const INITIALIZERS_MAX: usize = 200_000;
/// Most fields looked at, in all messages together.
pub const FIELDS_MAX: u64 = 20_000_000;

/// Why a file gives no header.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// Not the encoding, or not this message.
    #[error("is not an ONNX model: {0}")]
    NotOnnx(&'static str),
    /// Beyond one of the limits.
    #[error("has more {what} than the {limit} that are read")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is read.
        limit: u64,
    },
    /// An input or output that is no tensor.
    #[error("`{name}` is a {kind}, not a tensor: export the model without it (skl2onnx: `zipmap: False`)")]
    NotTensor {
        /// The input or output.
        name: String,
        /// What it is instead.
        kind: &'static str,
    },
    /// An element type that requests cannot carry.
    #[error("`{name}` has elements of type {found}, which a contract cannot name")]
    Element {
        /// The input or output.
        name: String,
        /// The type.
        found: String,
    },
}

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
}

/// Reads the header.
///
/// # Errors
/// [`OnnxError`]; never panics, whatever the bytes.
pub fn header(source: impl Read + Seek) -> Result<Header, OnnxError> {
    let mut wire = Wire::new(source)?;
    let end = wire.end;
    let (mut version, mut graph) = (false, None);
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Number(_)) => version = true,
            (7, Value::Message(end)) if graph.is_none() => graph = Some(read_graph(&mut wire, end)?),
            (7, _) => return Err(OnnxError::NotOnnx("it holds more than one graph")),
            (_, value) => wire.skip(&value)?,
        }
    }
    match graph {
        _ if !version => Err(OnnxError::NotOnnx("it states no IR version")),
        Some(graph) if !graph.outputs.is_empty() => Ok(graph),
        _ => Err(OnnxError::NotOnnx("it holds no graph with outputs")),
    }
}

fn read_graph<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<Header, OnnxError> {
    let mut graph = Header { inputs: Vec::new(), outputs: Vec::new() };
    let mut inputs = Vec::new();
    let mut initializers = HashSet::new();
    while let Some(field) = wire.field(end)? {
        match field {
            (5, Value::Message(end)) => {
                initializers.insert(initializer_name(wire, end)?);
                within("initializers", initializers.len(), INITIALIZERS_MAX)?;
            }
            (11, Value::Message(end)) => {
                inputs.push(read_value(wire, end)?);
                // Files of the first IR versions list every weight among the inputs.
                within("inputs", inputs.len(), INITIALIZERS_MAX)?;
            }
            (12, Value::Message(end)) => {
                graph.outputs.push(read_value(wire, end)?.tensor()?);
                within("outputs", graph.outputs.len(), TENSORS_MAX)?;
            }
            (_, value) => wire.skip(&value)?,
        }
    }
    for input in inputs.into_iter().filter(|input| !initializers.contains(&input.name)) {
        graph.inputs.push(input.tensor()?);
        within("inputs", graph.inputs.len(), TENSORS_MAX)?;
    }
    Ok(graph)
}

/// The name of a TensorProto; its data is skipped.
fn initializer_name<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<String, OnnxError> {
    let mut name = String::new();
    while let Some(field) = wire.field(end)? {
        match field {
            (8, Value::Message(end)) => name = wire.text(end)?,
            (_, value) => wire.skip(&value)?,
        }
    }
    Ok(name)
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

fn within(what: &'static str, count: usize, limit: usize) -> Result<(), OnnxError> {
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

/// The value of a field, not yet read where it has a length.
enum Value {
    Number(u64),
    /// Ends at this position.
    Message(u64),
    Fixed(u64),
}

struct Wire<R> {
    source: BufReader<R>,
    position: u64,
    end: u64,
    fields: u64,
}

impl<R: Read + Seek> Wire<R> {
    fn new(mut source: R) -> Result<Self, OnnxError> {
        let end = source.seek(SeekFrom::End(0)).map_err(OnnxError::Read)?;
        source.rewind().map_err(OnnxError::Read)?;
        Ok(Self { source: BufReader::with_capacity(64 * 1024, source), position: 0, end, fields: 0 })
    }

    /// The next field of the message that ends at `end`.
    fn field(&mut self, end: u64) -> Result<Option<(u64, Value)>, OnnxError> {
        if self.position == end {
            return Ok(None);
        }
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return Err(OnnxError::Limit { what: "fields", limit: FIELDS_MAX });
        }
        let key = self.varint(end)?;
        let value = match key & 7 {
            0 => Value::Number(self.varint(end)?),
            1 => Value::Fixed(8),
            2 => {
                let length = self.varint(end)?;
                let message = self.position.checked_add(length).filter(|message| *message <= end);
                Value::Message(message.ok_or(OnnxError::NotOnnx("a field reaches beyond its message"))?)
            }
            5 => Value::Fixed(4),
            _ => return Err(OnnxError::NotOnnx("a field has an unknown encoding")),
        };
        if let Value::Fixed(length) = value
            && end - self.position < length
        {
            return Err(OnnxError::NotOnnx("a field reaches beyond its message"));
        }
        match key >> 3 {
            0 => Err(OnnxError::NotOnnx("a field has the number 0")),
            number => Ok(Some((number, value))),
        }
    }

    fn skip(&mut self, value: &Value) -> Result<(), OnnxError> {
        let target = match value {
            Value::Number(_) => self.position,
            Value::Message(end) => *end,
            Value::Fixed(length) => self.position + length,
        };
        let distance =
            i64::try_from(target - self.position).map_err(|_| OnnxError::NotOnnx("it is too long"))?;
        self.source.seek_relative(distance).map_err(OnnxError::Read)?;
        self.position = target;
        Ok(())
    }

    fn text(&mut self, end: u64) -> Result<String, OnnxError> {
        let length = end - self.position;
        if length > NAME_MAX {
            return Err(OnnxError::Limit { what: "bytes in a name", limit: NAME_MAX });
        }
        // In bounds: at most NAME_MAX.
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes).map_err(OnnxError::Read)?;
        self.position = end;
        String::from_utf8(bytes).map_err(|_| OnnxError::NotOnnx("a name is not UTF-8"))
    }

    fn varint(&mut self, end: u64) -> Result<u64, OnnxError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.position >= end {
                return Err(OnnxError::NotOnnx("it ends within a field"));
            }
            let mut byte = [0];
            self.source.read_exact(&mut byte).map_err(OnnxError::Read)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(OnnxError::NotOnnx("a number is too long"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn message(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend_from_slice(content);
        bytes
    }

    fn value_info(name: &str, element: u8, dimensions: &[u8]) -> Vec<u8> {
        let shape: Vec<u8> = dimensions.iter().flat_map(|length| message(1, &[8, *length])).collect();
        let tensor = [vec![8, element], message(2, &shape)].concat();
        [message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat()
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        [vec![8, 9], message(7, graph)].concat()
    }

    fn sample() -> Vec<u8> {
        let weights = [message(8, b"w"), message(9, &[0; 300])].concat();
        model(
            &[
                message(5, &weights),
                message(11, &value_info("x", 1, &[0, 64])),
                message(11, &value_info("w", 1, &[3])),
                message(12, &value_info("label", 7, &[1])),
            ]
            .concat(),
        )
    }

    #[test]
    fn inputs_outputs_and_shapes_are_read_and_weights_left_out() {
        let header = header(Cursor::new(sample())).unwrap();
        let tensor = |name: &str, datatype, shape: &[i64]| Tensor {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
        };
        assert_eq!(header.inputs, [tensor("x", Datatype::Fp32, &[-1, 64])]);
        assert_eq!(header.outputs, [tensor("label", Datatype::Int64, &[1])]);
    }

    #[test]
    fn what_is_no_onnx_says_why() {
        let sequence = [message(1, b"p"), message(2, &message(4, b""))].concat();
        for (bytes, why) in [
            (b"hello, world".to_vec(), "is not an ONNX model: "),
            (Vec::new(), "it states no IR version"),
            (vec![8, 9], "no graph with outputs"),
            (model(&message(12, &value_info("y", 10, &[1]))), "float16"),
            (model(&message(12, &sequence)), "is a sequence, not a tensor"),
            (model(&message(12, &value_info(&"n".repeat(513), 1, &[1]))), "bytes in a name"),
            (model(&message(12, &value_info("y", 1, &[1; 17]))), "dimensions"),
        ] {
            let error = header(Cursor::new(bytes)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = header(Cursor::new(bytes));
        }

        #[test]
        fn a_cut_file_is_refused(at in 0..sample().len()) {
            prop_assert!(header(Cursor::new(&sample()[..at])).is_err());
        }

        #[test]
        fn a_damaged_file_does_not_make_it_panic(at in 0..sample().len(), byte: u8) {
            let mut bytes = sample();
            bytes[at] = byte;
            let _ = header(Cursor::new(bytes));
        }
    }
}
