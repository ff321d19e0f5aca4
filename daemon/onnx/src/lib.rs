//! What files say of themselves before anything loads them: an ONNX model's inputs, outputs, operator sets and external
//! data, and formats that run code when they are loaded. Unprivileged programs alone may use this: root parses no model.

mod content;
mod format;
mod header;
#[cfg(test)]
mod tests;
mod uses;
mod wire;

use std::io;

pub use content::{ContentError, Policy, Role, STANDARD_DOMAINS, examine};
pub use format::{Format, FormatError, HEAD_MAX};
pub use header::{DIMENSIONS_MAX, Header, INITIALIZERS_MAX, OPERATOR_SETS_MAX, TENSORS_MAX, Tensor, header};
pub use uses::{DEPTH_MAX, OperatorSet, USES_MAX, Uses};
pub use wire::{FIELDS_MAX, NAME_MAX};

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
    /// Graphs inside graphs beyond [`DEPTH_MAX`].
    #[error("has graphs nested deeper than {0}")]
    Depth(usize),
    /// An element type that requests cannot carry.
    #[error("`{name}` has elements of type {found}, which a contract cannot name")]
    Element {
        /// The input or output.
        name: String,
        /// The type.
        found: String,
    },
}
