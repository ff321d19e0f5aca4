//! The request contract: names, types, shapes and ranges of what goes in and comes out, and how a tensor is held
//! against them. Reading it from a document is left to `manifest`, refusing a request to the worker.

use crate::document::{deceptive, printable, repeated};
use crate::element::{Element, Endpoints, Violation, first_outside};
use crate::problem::Problems;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Greatest number of inputs, and of outputs.
pub const TENSORS_MAX: usize = 256;
/// Greatest length of a tensor's name, bytes.
pub const TENSOR_NAME_MAX: usize = 256;
/// Greatest number of dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 8;
/// Greatest product of a tensor's fixed dimensions.
pub const ELEMENTS_MAX: i64 = 1 << 31;

/// Element types of the Open Inference Protocol V2 that a contract may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp32,
    Fp64,
    Bytes,
}

impl Datatype {
    /// Every type with its name in the protocol.
    pub const NAMES: [(&'static str, Self); 12] = [
        ("BOOL", Self::Bool),
        ("UINT8", Self::Uint8),
        ("UINT16", Self::Uint16),
        ("UINT32", Self::Uint32),
        ("UINT64", Self::Uint64),
        ("INT8", Self::Int8),
        ("INT16", Self::Int16),
        ("INT32", Self::Int32),
        ("INT64", Self::Int64),
        ("FP32", Self::Fp32),
        ("FP64", Self::Fp64),
        ("BYTES", Self::Bytes),
    ];

    /// Its name in the protocol.
    pub fn as_str(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, datatype)| *datatype == self);
        named.expect("the table names every type").0
    }

    /// True for types whose elements are numbers.
    pub fn is_numeric(self) -> bool {
        !matches!(self, Self::Bool | Self::Bytes)
    }

    /// True for types with fractions.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp32 | Self::Fp64)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

/// One input or output tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorContract {
    /// Its name in the model.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions; -1 is any length.
    pub shape: Vec<i64>,
    /// Smallest allowed element, a decimal number as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Decimal>,
    /// Greatest allowed element, a decimal number as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Decimal>,
}

impl TensorContract {
    /// True if a tensor of this shape fits: as many dimensions, each as long as asked or of free length.
    pub fn accepts_shape(&self, shape: &[i64]) -> bool {
        shape.len() == self.shape.len()
            && shape.iter().zip(&self.shape).all(|(got, due)| *got >= 0 && (*due == -1 || got == due))
    }

    /// The range of its elements in a form made once, for checking many tensors; `None` when any element will do.
    pub fn range(&self) -> Option<Range> {
        let bounded = self.minimum.is_some() || self.maximum.is_some();
        bounded.then(|| Range::new(self.minimum.as_ref(), self.maximum.as_ref()))
    }

    fn check(&self, path: &str, problems: &mut Problems) {
        if self.name.is_empty() || self.name.len() > TENSOR_NAME_MAX || self.name.chars().any(deceptive) {
            let what = format!("`{}` is no name of a tensor", printable(&self.name));
            problems.push(
                format!("{path}.name"),
                what,
                format!("write 1 to {TENSOR_NAME_MAX} bytes without control or invisible characters"),
            );
        }
        self.check_shape(&format!("{path}.shape"), problems);
        let Some(range) = self.range() else { return };
        if !self.datatype.is_numeric() {
            let what = format!("elements of type {} have no range", self.datatype);
            problems.push(path, what, "remove `minimum` and `maximum`");
        } else if range.is_empty() {
            problems.push(path, "`minimum` is above `maximum`", "exchange them");
        }
    }

    fn check_shape(&self, path: &str, problems: &mut Problems) {
        if self.shape.len() > DIMENSIONS_MAX {
            let what = format!("{} dimensions", self.shape.len());
            problems.push(path, what, format!("at most {DIMENSIONS_MAX} are allowed"));
        }
        for (index, dimension) in self.shape.iter().enumerate() {
            if *dimension != -1 && *dimension < 1 {
                let what = format!("a dimension of {dimension}");
                problems.push(
                    format!("{path}[{index}]"),
                    what,
                    "write its length, 1 or more, or -1 for any length",
                );
            }
        }
        let fixed = self.shape.iter().filter(|dimension| **dimension > 0);
        let elements = fixed.fold(1i64, |product, dimension| product.saturating_mul(*dimension));
        if elements > ELEMENTS_MAX {
            problems.push(path, "more than 2^31 elements", "make the fixed dimensions smaller");
        }
    }
}

/// What requests and answers of a version look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Inputs, in the model's order.
    pub inputs: Vec<TensorContract>,
    /// Outputs, in the model's order.
    pub outputs: Vec<TensorContract>,
}

impl Contract {
    pub(crate) fn check(&self, problems: &mut Problems) {
        for (side, tensors) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            let path = format!("contract.{side}");
            if tensors.is_empty() || tensors.len() > TENSORS_MAX {
                let what = format!("{} tensors", tensors.len());
                problems.push(&path, what, format!("name 1 to {TENSORS_MAX}"));
            }
            for name in repeated(tensors.iter().map(|tensor| tensor.name.as_str())) {
                let what = format!("`{}` is named twice", printable(name));
                problems.push(&path, what, "give every tensor another name");
            }
            for (index, tensor) in tensors.iter().enumerate() {
                tensor.check(&format!("{path}[{index}]"), problems);
            }
        }
    }
}

/// A closed range of numbers with its ends computed once, for `f32`, `f64` and integers each in their own type.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    pub(crate) endpoints: Endpoints,
    shown: String,
}

impl Range {
    /// From `minimum` to `maximum`; an absent end is open to infinity but not to NaN.
    pub fn new(minimum: Option<&Decimal>, maximum: Option<&Decimal>) -> Self {
        let end = |decimal: Option<&Decimal>| decimal.map_or("any".to_owned(), ToString::to_string);
        let shown = format!("must lie in {} ..= {}", end(minimum), end(maximum));
        Self { endpoints: Endpoints::new(minimum, maximum), shown }
    }

    /// Holds every element against the range. Any order, any shape; no allocation unless one is outside.
    ///
    /// # Errors
    /// The first element outside; NaN is always outside.
    pub fn check<T: Element>(&self, elements: &[T]) -> Result<(), Violation> {
        match first_outside(elements, &self.endpoints) {
            None => Ok(()),
            Some(at) => Err(Violation::at(at, elements[at].to_string(), self.shown.clone())),
        }
    }

    fn is_empty(&self) -> bool {
        self.endpoints.minimum > self.endpoints.maximum
    }
}

/// A decimal number carried as text (`-0.5`, `16`), because signed JSON holds no fractions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Decimal(String);

/// A text that is not a plain decimal number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a decimal number such as `-0.5` or `16`")]
pub struct DecimalError(String);

impl Decimal {
    /// The nearest double.
    pub fn value(&self) -> f64 {
        self.0.parse().expect("the constructor took only texts that f64 reads")
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;
    fn from_str(text: &str) -> Result<Self, DecimalError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Decimal {
    type Error = DecimalError;
    fn try_from(text: String) -> Result<Self, DecimalError> {
        let unsigned = text.strip_prefix('-').unwrap_or(&text);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        let digits = |s: &str| !s.is_empty() && s.len() <= 18 && s.bytes().all(|b| b.is_ascii_digit());
        if digits(whole) && digits(fraction) {
            Ok(Self(text))
        } else {
            Err(DecimalError(text.chars().take(40).collect()))
        }
    }
}

impl From<Decimal> for String {
    fn from(decimal: Decimal) -> String {
        decimal.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn tensor(shape: &[i64]) -> TensorContract {
        TensorContract {
            name: "x".to_owned(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
            minimum: None,
            maximum: None,
        }
    }

    #[test]
    fn shapes_fit_where_every_dimension_does() {
        for (due, got, fits) in [
            (&[-1, 64][..], &[1, 64][..], true),
            (&[-1, 64], &[0, 64], true),
            (&[-1, 64], &[-1, 64], false),
            (&[-1, 64], &[1, 63], false),
            (&[-1, 64], &[64], false),
            (&[-1, 64], &[1, 64, 1], false),
            (&[], &[], true),
        ] {
            assert_eq!(tensor(due).accepts_shape(got), fits, "{due:?} {got:?}");
        }
    }

    #[test]
    fn decimals_are_plain_numbers_only() {
        for good in ["0", "-0.5", "16", "0.001", "999999999999999999"] {
            assert_eq!(decimal(good).as_str(), good);
        }
        for bad in
            ["", "-", ".5", "5.", "1e3", "+1", "NaN", "inf", "1_000", " 1", "1000000000000000000", "0x10"]
        {
            assert!(bad.parse::<Decimal>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn datatype_names_are_those_of_serde() {
        for (name, datatype) in Datatype::NAMES {
            assert_eq!(serde_json::to_string(&datatype).unwrap(), format!("\"{name}\""));
            assert_eq!(datatype.to_string(), name);
        }
    }

    #[test]
    fn ranges_hold_in_the_element_type() {
        let tenth = Range::new(Some(&decimal("-0.1")), Some(&decimal("0.1")));
        assert!(tenth.check(&[0.1f32, -0.1]).is_ok(), "0.1 as a float is the end of the range");
        assert!(tenth.check(&[f32::from_bits(0.1f32.to_bits() + 1)]).is_err());
        assert!(tenth.check(&[0.1f64, -0.1]).is_ok());
        assert_eq!(tenth.check(&[0.0f64, f64::NAN]).unwrap_err().element, Some(1));
        assert!(tenth.check(&[0i32]).is_ok() && tenth.check(&[1i32]).is_err());

        let halves = Range::new(Some(&decimal("0.5")), Some(&decimal("2.5")));
        assert!(halves.check(&[1u8, 2]).is_ok());
        assert_eq!(halves.check(&[1u8, 2, 3]).unwrap_err().element, Some(2));
        assert!(halves.check(&[0i64]).is_err());
        let below = Range::new(Some(&decimal("-2.5")), Some(&decimal("-0.5")));
        assert!(
            below.check(&[-2i8, -1]).is_ok() && below.check(&[-3i8]).is_err() && below.check(&[0i8]).is_err()
        );

        let wide = Range::new(Some(&decimal("0")), Some(&decimal("999999999999999999")));
        assert!(wide.check(&[999_999_999_999_999_999u64]).is_ok());
        assert!(wide.check(&[1_000_000_000_000_000_000u64]).is_err(), "one more, though equal as doubles");
        assert!(wide.check(&[u64::MAX]).is_err() && wide.check(&[-1i64]).is_err());

        let open = Range::new(Some(&decimal("0")), None);
        assert!(open.check(&[u64::MAX]).is_ok() && open.check(&[f32::INFINITY]).is_ok());
        assert!(open.check(&[f32::NAN]).is_err());
    }

    #[test]
    fn the_first_element_outside_is_named_in_long_tensors_too() {
        let range = Range::new(None, Some(&decimal("1")));
        let mut elements = vec![0f32; 10_000];
        assert!(range.check(&elements).is_ok());
        elements[7001] = 1.5;
        elements[9000] = 2.0;
        let violation = range.check(&elements).unwrap_err();
        assert_eq!(violation.to_string(), "element 7001 is `1.5`, must lie in any ..= 1");
    }
}
