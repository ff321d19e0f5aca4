//! An inference request: JSON, with binary tensors behind it where the client says so.
//! Members that nobody here knows are ignored, as the protocol asks; what is known must be right.

use crate::binary;
use crate::elements;
use crate::error::{InferenceError, TensorProblem};
use crate::tensor::{Datatype, Elements, element_count};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// Most tensors in a request, and most outputs asked for.
pub const TENSORS_MAX: usize = 256;
/// Most dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 16;

/// A request whose tensors are typed and agree with their own shapes.
#[derive(Debug, PartialEq)]
pub struct InferRequest<'a> {
    /// What the client calls this request, to be sent back.
    pub id: Option<Cow<'a, str>>,
    /// The inputs in the order given, no name twice.
    pub inputs: Vec<InputTensor<'a>>,
    /// The outputs asked for; empty means all.
    pub outputs: Vec<RequestedOutput<'a>>,
    /// Outputs that do not say otherwise are wanted as binary tensors.
    pub binary_output: bool,
}

/// One input.
#[derive(Debug, PartialEq)]
pub struct InputTensor<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its dimensions, none negative.
    pub shape: Vec<i64>,
    /// Its values, as many as the shape says.
    pub elements: Elements,
}

/// One output that the client asks for.
#[derive(Debug, PartialEq)]
pub struct RequestedOutput<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// It is wanted as a binary tensor, or as JSON; `None`: as the request says.
    pub binary: Option<bool>,
}

impl<'a> InferRequest<'a> {
    /// Reads a body. `json_length` is the value of the header `Inference-Header-Content-Length`, where there is one.
    ///
    /// # Errors
    /// Every [`InferenceError`] but [`InferenceError::NotFinite`].
    pub fn parse(body: &'a [u8], json_length: Option<usize>) -> Result<Self, InferenceError> {
        let (json, mut tail) = binary::split(body, json_length)?;
        let wire: WireRequest<'a> = serde_json::from_slice(json)
            .map(|Object(wire)| wire)
            .map_err(|error| InferenceError::Json(error.to_string()))?;
        if wire.inputs.is_empty() {
            return Err(InferenceError::NoInputs);
        }
        let mut inputs: Vec<InputTensor<'a>> = Vec::with_capacity(wire.inputs.len());
        for Object(input) in wire.inputs {
            if inputs.iter().any(|earlier| earlier.name == input.name) {
                return Err(InferenceError::DuplicateInput(input.name.into_owned()));
            }
            match read_elements(&input, &mut tail) {
                Ok(elements) => inputs.push(InputTensor { name: input.name, shape: input.shape, elements }),
                Err(problem) => return Err(InferenceError::Input { name: input.name.into_owned(), problem }),
            }
        }
        if !tail.is_empty() {
            return Err(InferenceError::LeftOver(tail.len()));
        }
        let requested = |Object(output): Object<WireOutput<'a>>| RequestedOutput {
            name: output.name,
            binary: output.parameters.binary_data,
        };
        Ok(Self {
            id: wire.id,
            inputs,
            outputs: wire.outputs.into_iter().map(requested).collect(),
            binary_output: wire.parameters.binary_data_output.unwrap_or(false),
        })
    }
}

fn read_elements(input: &WireInput<'_>, tail: &mut &[u8]) -> Result<Elements, TensorProblem> {
    let Some(datatype) = Datatype::from_name(&input.datatype) else {
        let name = input.datatype.chars().take(20).collect();
        let half = matches!(&*input.datatype, "FP16" | "BF16") && input.data.is_some();
        return Err(if half { TensorProblem::BinaryOnly(name) } else { TensorProblem::Datatype(name) });
    };
    let needed = element_count(&input.shape).ok_or_else(|| TensorProblem::Shape(input.shape.clone()))?;
    match (input.data, input.parameters.binary_data_size) {
        (Some(data), None) => elements::parse(datatype, data.get(), needed)
            .map_err(|reason| reason.of(datatype, &input.shape, needed)),
        (None, Some(size)) => binary::take(datatype, size, tail)
            .and_then(|bytes| binary::decode(datatype, bytes))
            .and_then(|elements| counted(elements, &input.shape, needed)),
        _ => Err(TensorProblem::Source),
    }
}

fn counted(elements: Elements, shape: &[i64], needed: usize) -> Result<Elements, TensorProblem> {
    match elements.borrowed().len() {
        count if count == needed => Ok(elements),
        count => {
            Err(TensorProblem::Count { shape: shape.to_vec(), needed, found: format!("{count} are given") })
        }
    }
}

#[derive(Deserialize)]
struct WireRequest<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, deserialize_with = "few::<TENSORS_MAX, _, _>")]
    inputs: Vec<Object<WireInput<'a>>>,
    #[serde(borrow, default, deserialize_with = "few::<TENSORS_MAX, _, _>")]
    outputs: Vec<Object<WireOutput<'a>>>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize)]
struct WireInput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(deserialize_with = "few::<DIMENSIONS_MAX, _, _>")]
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: Parameters,
}

/// The parameters that mean something here, of a request, an input or an output.
#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<u64>,
    binary_data: Option<bool>,
    binary_data_output: Option<bool>,
}

/// A struct that is written as an object: derived readers also take a list of its fields, which no client means.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// Reads a list of at most `MAX` items, so that a small item cannot be asked for by the million.
fn few<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Few<const MAX: usize, T>(PhantomData<T>);
    impl<'de, const MAX: usize, T: Deserialize<'de>> Visitor<'de> for Few<MAX, T> {
        type Value = Vec<T>;
        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(out, "a list of at most {MAX}")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == MAX {
                    return Err(A::Error::invalid_length(MAX + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_seq(Few::<MAX, T>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<InferRequest<'_>, InferenceError> {
        InferRequest::parse(json.as_bytes(), None)
    }

    fn one(json: &str) -> Elements {
        parse(json).unwrap().inputs.remove(0).elements
    }

    #[test]
    fn nested_and_flat_data_are_the_same_in_any_order_of_members() {
        let expected = Elements::Fp32(vec![1.0, 2.5, -3.0, 4e3]);
        for json in [
            r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2.5,-3,4e3]}]}"#,
            r#"{"inputs":[{"data":[[1, 2.5],[-3.0, 4000]],"datatype":"FP32","shape":[2,2],"name":"x"}]}"#,
            r#"{"model_name":"m","id":"7","parameters":{"a":[1]},"inputs":[{"name":"x","shape":[4],"datatype":"FP32",
               "parameters":{"unknown":"kept out"},"data":[[[1]],[[2.5]],[[-3]],[[4000.0]]]}]}"#,
        ] {
            assert_eq!(one(json), expected, "{json}");
        }
    }

    #[test]
    fn every_numeric_type_reads_its_own_bounds() {
        for (datatype, data, expected) in [
            ("BOOL", "[true,false]", Elements::Bool(vec![true, false])),
            ("UINT8", "[0,255]", Elements::Uint8(vec![0, 255])),
            ("UINT64", "[0,18446744073709551615]", Elements::Uint64(vec![0, u64::MAX])),
            ("INT8", "[-128,127]", Elements::Int8(vec![-128, 127])),
            (
                "INT64",
                "[-9223372036854775808,9223372036854775807]",
                Elements::Int64(vec![i64::MIN, i64::MAX]),
            ),
            ("FP64", "[0.1,-1.7976931348623157e308]", Elements::Fp64(vec![0.1, f64::MIN])),
        ] {
            let json =
                format!(r#"{{"inputs":[{{"name":"x","shape":[2],"datatype":"{datatype}","data":{data}}}]}}"#);
            assert_eq!(one(&json), expected, "{json}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let deep = "[".repeat(17) + "1" + &"]".repeat(17);
        for (shape, datatype, data, message) in [
            ("[3]", "FP32", "[1,2]", "shape [3] needs 3 values, but 2 are given"),
            ("[1]", "FP32", "[1,2]", "shape [1] needs 1 values, but more are given"),
            ("[-1]", "FP32", "[1]", "shape [-1] is not a shape"),
            ("[4294967296,4294967296]", "FP32", "[1]", "is not a shape"),
            ("[1]", "FP16", "[1]", "`FP16` cannot be sent as JSON"),
            ("[1]", "BYTES", "[\"a\"]", "datatype `BYTES` is unknown or not supported"),
            ("[1]", "fp32", "[1]", "datatype `fp32` is unknown"),
            ("[1]", "FP32", "[\"inf\"]", "value 0, `\"inf\"`, is not a FP32"),
            ("[1]", "FP32", "[1e39]", "value 0, `1e39`, is not a FP32"),
            ("[1]", "FP32", "[null]", "value 0, `null`, is not a FP32"),
            ("[1]", "FP32", "[{\"a\":1}]", "is not a FP32"),
            ("[1]", "FP32", "1", "`data` is `1`, not a list"),
            ("[2]", "INT8", "[1,128]", "value 1, `128`, is not a INT8"),
            ("[1]", "INT64", "[1.0]", "value 0, `1.0`, is not a INT64"),
            ("[1]", "BOOL", "[1]", "value 0, `1`, is not a BOOL"),
            ("[1]", "FP32", &deep, "nested deeper than 16"),
        ] {
            let json = format!(
                r#"{{"inputs":[{{"name":"x","shape":{shape},"datatype":"{datatype}","data":{data}}}]}}"#
            );
            let error = parse(&json).unwrap_err().to_string();
            assert!(error.starts_with("input `x`: ") && error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_request_without_what_it_needs_is_refused() {
        let twice = r#"{"name":"x","shape":[1],"datatype":"FP32","data":[1]}"#;
        let many = vec![twice; TENSORS_MAX + 1].join(",");
        for (json, message) in [
            (String::new(), "EOF"),
            ("[]".to_owned(), "expected an object"),
            (r#"{"inputs":[["x",[1],"FP32",{},[1]]]}"#.to_owned(), "expected an object"),
            (r#"{"inputs":[7]}"#.to_owned(), "expected an object"),
            ("{}".to_owned(), "missing field `inputs`"),
            (r#"{"inputs":[]}"#.to_owned(), "no inputs"),
            (r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#.to_owned(), "exactly one of"),
            (format!(r#"{{"inputs":[{twice},{twice}]}}"#), "input `x` is given twice"),
            (format!(r#"{{"inputs":[{many}]}}"#), "at most 256"),
            (format!(r#"{{"inputs":[{twice}]}} x"#), "trailing characters"),
        ] {
            let error = parse(&json).unwrap_err().to_string();
            assert!(error.contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn a_shape_larger_than_the_body_allocates_nothing() {
        let json = r#"{"inputs":[{"name":"x","shape":[1000000000000],"datatype":"FP64","data":[1]}]}"#;
        assert!(parse(json).unwrap_err().to_string().contains("1 are given"));
    }
}
