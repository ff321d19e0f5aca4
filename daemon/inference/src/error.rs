//! Why bytes are not a request of the protocol, or values not an answer, and the one form in which a client hears of it.

use serde::Serialize;

/// What is wrong with a request, or with an answer about to be written. The texts are for the client.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The JSON is broken, or a member has the wrong type.
    #[error("request is not an inference request: {0}")]
    Json(String),
    /// `inputs` is empty.
    #[error("request has no inputs")]
    NoInputs,
    /// The same input twice.
    #[error("input `{0}` is given twice")]
    DuplicateInput(String),
    /// One input's values do not fit what the input says of itself.
    #[error("input `{name}`: {problem}")]
    Input {
        /// The input.
        name: String,
        /// What is wrong with it.
        problem: TensorProblem,
    },
    /// The header that says where the JSON ends does not fit the body.
    #[error("`Inference-Header-Content-Length` is {length}, but the body has {body} bytes")]
    HeaderLength {
        /// What the header says.
        length: usize,
        /// What there is.
        body: usize,
    },
    /// Bytes after the last binary tensor.
    #[error("{0} bytes follow the last binary tensor")]
    LeftOver(usize),
    /// A value that JSON cannot carry.
    #[error("output `{0}` holds a value that is not finite, which JSON cannot carry")]
    NotFinite(String),
}

/// What is wrong with one tensor of a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorProblem {
    /// Not a name of the protocol, or one that is not served.
    #[error("datatype `{0}` is unknown or not supported")]
    Datatype(String),
    /// A type whose values JSON has no form for.
    #[error("datatype `{0}` cannot be sent as JSON")]
    BinaryOnly(String),
    /// A negative dimension, or a product that overflows.
    #[error("shape {0:?} is not a shape")]
    Shape(Vec<i64>),
    /// The shape and the values disagree.
    #[error("shape {shape:?} needs {needed} values, but {found}")]
    Count {
        /// The declared shape.
        shape: Vec<i64>,
        /// The product of its dimensions.
        needed: usize,
        /// What was found, in words: `3 are given`.
        found: String,
    },
    /// A value that is not of the tensor's type.
    #[error("value {index}, `{value}`, is not a {datatype}")]
    Value {
        /// Its position, from 0, in row-major order.
        index: usize,
        /// The text, cut to a printable length.
        value: String,
        /// The declared type.
        datatype: &'static str,
    },
    /// Lists in lists without end.
    #[error("values are nested deeper than {0} lists")]
    Nesting(usize),
    /// Neither `data` nor `binary_data_size`, or both.
    #[error("exactly one of `data` and `binary_data_size` must be given")]
    Source,
    /// The body ends before the tensor does.
    #[error("`binary_data_size` is {size}, but {left} bytes are left of the body")]
    Truncated {
        /// The declared size in bytes.
        size: u64,
        /// What is left.
        left: usize,
    },
}

/// The body of every answer that is not a success.
#[derive(Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// What went wrong, for people.
    pub error: &'a str,
}

impl ErrorBody<'_> {
    /// The body as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of one string is always JSON")
    }
}
