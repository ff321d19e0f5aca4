//! Checks on outputs that the worker makes on every answer, beyond what the contract says of types and shapes.
//! Withholding the answer and counting the failure is left to the worker.

use crate::contract::{Contract, Datatype, Decimal, Range};
use crate::document::{deceptive, printable, repeated};
use crate::element::{Element, Float, Violation, first_failing};
use crate::problem::Problems;
use serde::{Deserialize, Serialize};

/// Greatest number of assertions.
pub const ASSERTIONS_MAX: usize = 256;
/// Greatest length of an assertion's name, bytes.
pub const ASSERTION_NAME_MAX: usize = 128;

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

/// An assertion with its numbers computed, for checking many answers.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledAssertion {
    /// Its name in messages and reports.
    pub name: String,
    /// The output tensor it looks at.
    pub output: String,
    check: CompiledCheck,
}

#[derive(Debug, Clone, PartialEq)]
enum CompiledCheck {
    Finite,
    Range(Range),
    SumsToOne { tolerance: f64 },
}

impl Assertion {
    /// The form for checking many answers.
    pub fn compile(&self) -> CompiledAssertion {
        let check = match &self.check {
            Check::Finite => CompiledCheck::Finite,
            Check::Range { minimum, maximum } => {
                CompiledCheck::Range(Range::new(Some(minimum), Some(maximum)))
            }
            Check::SumsToOne { tolerance } => CompiledCheck::SumsToOne { tolerance: tolerance.value() },
        };
        CompiledAssertion { name: self.name.clone(), output: self.output.clone(), check }
    }

    fn check(&self, path: &str, contract: &Contract, problems: &mut Problems) {
        if self.name.is_empty() || self.name.len() > ASSERTION_NAME_MAX || self.name.chars().any(deceptive) {
            let what = format!("`{}` is no name of an assertion", printable(&self.name));
            let remedy =
                format!("write 1 to {ASSERTION_NAME_MAX} bytes without control or invisible characters");
            problems.push(format!("{path}.name"), what, remedy);
        }
        let output = contract.outputs.iter().find(|output| output.name == self.output);
        let Some(output) = output else {
            let what = format!("`{}` is no output of the contract", printable(&self.output));
            return problems.push(format!("{path}.output"), what, "name one of `contract.outputs`");
        };
        let (datatype, scalar) = (output.datatype, output.shape.is_empty());
        let refused = match &self.check {
            Check::Finite | Check::Range { .. } if !datatype.is_numeric() => Some("has no numbers"),
            Check::SumsToOne { .. } if !datatype.is_float() => Some("has no fractions to add up"),
            Check::SumsToOne { .. } if scalar => Some("has no dimension to add up along"),
            _ => None,
        };
        if let Some(reason) = refused {
            let what = format!("output `{}` of type {datatype} {reason}", printable(&self.output));
            problems.push(path, what, "remove this assertion, or name another output");
        }
        match &self.check {
            Check::Range { minimum, maximum } if minimum.value() > maximum.value() => {
                problems.push(path, "`minimum` is above `maximum`", "exchange them");
            }
            Check::SumsToOne { tolerance } if !(0.0..1.0).contains(&tolerance.value()) => {
                let what = format!("a tolerance of {tolerance}");
                problems.push(format!("{path}.tolerance"), what, "write 0 or more, below 1");
            }
            _ => {}
        }
    }
}

pub(crate) fn check_all(assertions: &[Assertion], contract: &Contract, problems: &mut Problems) {
    if assertions.len() > ASSERTIONS_MAX {
        let what = format!("{} assertions", assertions.len());
        problems.push("assertions", what, format!("at most {ASSERTIONS_MAX} are allowed"));
    }
    for name in repeated(assertions.iter().map(|assertion| assertion.name.as_str())) {
        let what = format!("`{}` is named twice", printable(name));
        problems.push("assertions", what, "give every assertion another name");
    }
    for (index, assertion) in assertions.iter().enumerate() {
        assertion.check(&format!("assertions[{index}]"), contract, problems);
    }
}

impl CompiledAssertion {
    /// True if an output of this element type needs a look at all.
    pub fn concerns(&self, datatype: Datatype) -> bool {
        match self.check {
            CompiledCheck::Finite | CompiledCheck::SumsToOne { .. } => datatype.is_float(),
            CompiledCheck::Range(_) => datatype.is_numeric(),
        }
    }

    /// Holds a floating-point output against the assertion. `last_dimension` is the length of its last dimension.
    ///
    /// # Errors
    /// The first violation; elements that do not fill whole rows of `last_dimension` are one for a sum.
    pub fn check_floats<T: Float>(&self, elements: &[T], last_dimension: usize) -> Result<(), Violation> {
        match &self.check {
            CompiledCheck::Finite => {
                match first_failing(elements, |element| Into::<f64>::into(element).is_finite()) {
                    None => Ok(()),
                    Some(at) => Err(Violation::at(at, elements[at], "must be finite")),
                }
            }
            CompiledCheck::Range(range) => range.check(elements),
            CompiledCheck::SumsToOne { tolerance } => check_sums(elements, last_dimension, *tolerance),
        }
    }

    /// Holds an integer output against the assertion: integers are always finite, and a sum of 1 is not asked of them.
    ///
    /// # Errors
    /// The first element outside a range.
    pub fn check_integers<T: Element>(&self, elements: &[T]) -> Result<(), Violation> {
        match &self.check {
            CompiledCheck::Range(range) => range.check(elements),
            CompiledCheck::Finite | CompiledCheck::SumsToOne { .. } => Ok(()),
        }
    }
}

fn check_sums<T: Float>(elements: &[T], last_dimension: usize, tolerance: f64) -> Result<(), Violation> {
    let required = || format!("must be 1 within {tolerance}");
    if elements.is_empty() {
        return Ok(());
    }
    if last_dimension == 0 || !elements.len().is_multiple_of(last_dimension) {
        let found = format!("{} elements in rows of {last_dimension}", elements.len());
        return Err(Violation { element: None, found, required: "must fill whole rows".to_owned() });
    }
    for (row, values) in elements.chunks_exact(last_dimension).enumerate() {
        let sum: f64 = values.iter().map(|value| Into::<f64>::into(*value)).sum();
        // Written so that a sum of NaN fails.
        let close = (sum - 1.0).abs() <= tolerance;
        if !close {
            let found = format!("the sum of row {row} is `{sum}`");
            return Err(Violation { element: Some(row * last_dimension), found, required: required() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(check: Check) -> CompiledAssertion {
        Assertion { name: "a".to_owned(), output: "y".to_owned(), check }.compile()
    }

    #[test]
    fn each_check_finds_what_it_looks_for() {
        let decimal = |text: &str| -> Decimal { text.parse().unwrap() };
        let finite = compiled(Check::Finite);
        let range = compiled(Check::Range { minimum: decimal("0"), maximum: decimal("1") });
        let sums = compiled(Check::SumsToOne { tolerance: decimal("0.001") });
        for (assertion, elements, last, expected) in [
            (&finite, &[1.0f32, -2.5][..], 2, None),
            (&finite, &[1.0, f32::NAN], 2, Some("element 1 is `NaN`, must be finite")),
            (&finite, &[f32::NEG_INFINITY], 1, Some("element 0 is `-inf`, must be finite")),
            (&range, &[0.0, 1.0], 2, None),
            (&range, &[0.0, 1.5], 2, Some("element 1 is `1.5`, must lie in 0 ..= 1")),
            (&range, &[f32::NAN], 1, Some("element 0 is `NaN`, must lie in 0 ..= 1")),
            (&sums, &[0.25, 0.75, 1.0, 0.0], 2, None),
            (&sums, &[], 0, None),
            (&sums, &[0.5, 0.5, 0.5, 0.25], 2, Some("the sum of row 1 is `0.75`, must be 1 within 0.001")),
            (&sums, &[f32::NAN, 1.0], 2, Some("the sum of row 0 is `NaN`, must be 1 within 0.001")),
            (&sums, &[1.0, 1.0, 1.0], 2, Some("3 elements in rows of 2, must fill whole rows")),
            (&sums, &[1.0], 0, Some("1 elements in rows of 0, must fill whole rows")),
        ] {
            let doubles: Vec<f64> = elements.iter().map(|element| f64::from(*element)).collect();
            for found in [assertion.check_floats(elements, last), assertion.check_floats(&doubles, last)] {
                assert_eq!(found.err().map(|v| v.to_string()).as_deref(), expected, "{elements:?}");
            }
        }
        assert!(range.check_integers(&[0u8, 1]).is_ok() && range.check_integers(&[2i64]).is_err());
        assert!(finite.check_integers(&[i64::MAX]).is_ok() && !finite.concerns(Datatype::Int64));
    }
}
