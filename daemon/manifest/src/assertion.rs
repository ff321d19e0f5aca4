//! Checks on outputs that the worker makes on every answer, beyond what the contract says of types and shapes.

use crate::contract::Decimal;
use serde::{Deserialize, Serialize};

/// What must hold of one output tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "check", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Check {
    /// No element is NaN or infinite.
    Finite,
    /// Every element lies in `minimum ..= maximum`.
    Range {
        /// Smallest allowed element.
        minimum: Decimal,
        /// Greatest allowed element.
        maximum: Decimal,
    },
    /// The elements along the last dimension add up to 1, within `tolerance`.
    SumsToOne {
        /// Greatest distance from 1.
        tolerance: Decimal,
    },
}

/// One named check on one output. An answer that breaks it is not sent: the client gets an error and the
/// failure counts against the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertion {
    /// Its name in messages and reports.
    pub name: String,
    /// The output tensor it looks at.
    pub output: String,
    /// What must hold.
    #[serde(flatten)]
    pub check: Check,
}
