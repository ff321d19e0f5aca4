//! Checks on every answer before it is sent, made ready once, at load.

use crate::contract::{Bounds, ContractInForce};
use turnout_inference::OutputTensor;
use turnout_inference::response::is_finite;
use turnout_manifest::assertion::{Assertion, Check};

/// An assertion with its output found and its limits as numbers.
struct Ready {
    name: String,
    place: usize,
    check: ReadyCheck,
}

enum ReadyCheck {
    Finite,
    Range(Bounds),
    SumsToOne { tolerance: f64 },
}

/// All assertions of a version.
pub struct Assertions(Vec<Ready>);

impl Assertions {
    /// Finds each assertion's output.
    ///
    /// # Errors
    /// One text for each assertion about an output that there is not.
    pub fn new(assertions: &[Assertion], contract: &ContractInForce) -> Result<Self, Vec<String>> {
        let (mut ready, mut problems) = (Vec::new(), Vec::new());
        for assertion in assertions {
            match contract.outputs.iter().position(|rule| rule.name == assertion.output) {
                Some(place) => {
                    let check = match &assertion.check {
                        Check::Finite => ReadyCheck::Finite,
                        Check::Range { minimum, maximum } => {
                            let datatype = contract.outputs[place].datatype;
                            ReadyCheck::Range(Bounds::new(
                                datatype,
                                Some(minimum.value()),
                                Some(maximum.value()),
                            ))
                        }
                        Check::SumsToOne { tolerance } => {
                            ReadyCheck::SumsToOne { tolerance: tolerance.value() }
                        }
                    };
                    ready.push(Ready { name: assertion.name.clone(), place, check });
                }
                None => problems.push(format!(
                    "assertion `{}`: there is no output `{}`",
                    assertion.name, assertion.output
                )),
            }
        }
        if problems.is_empty() { Ok(Self(ready)) } else { Err(problems) }
    }

    /// The first assertion that does not hold, and why. The outputs are in the contract's order.
    pub fn broken(&self, outputs: &[OutputTensor<'_>]) -> Option<String> {
        self.0.iter().find_map(|ready| {
            let output = outputs.get(ready.place)?;
            let why = ready.check.problem(output)?;
            Some(format!("output assertion `{}` failed: `{}` {why}", ready.name, output.name))
        })
    }
}

impl ReadyCheck {
    fn problem(&self, output: &OutputTensor<'_>) -> Option<String> {
        let elements = output.elements;
        match self {
            Self::Finite if is_finite(elements) => None,
            Self::Finite => {
                let index = elements.position(|value| !value.is_finite())?;
                Some(format!("value {index} is {}", elements.value(index)))
            }
            Self::Range(bounds) => {
                bounds.first_outside(elements).map(|index| bounds.explain(elements, index))
            }
            Self::SumsToOne { tolerance } => {
                let width = output.shape.last().map_or(1, |&width| width as usize);
                // Not `> tolerance`: a sum that is NaN must not pass.
                let off = |sum: f64| !(0.0..=*tolerance).contains(&(sum - 1.0).abs());
                elements.row_with_sum(width, off).map(|(row, sum)| format!("row {row} adds up to {sum}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use turnout_inference::ElementsRef;

    fn check(check: &ReadyCheck, values: &[f32]) -> Option<String> {
        check.problem(&OutputTensor {
            name: "p",
            shape: &[1, values.len() as i64],
            elements: ElementsRef::Fp32(values),
        })
    }

    #[test]
    fn nan_breaks_every_check() {
        let bounds = Bounds::new(turnout_inference::Datatype::Fp32, Some(0.0), Some(1.0));
        for ready in
            [ReadyCheck::Finite, ReadyCheck::Range(bounds), ReadyCheck::SumsToOne { tolerance: 0.01 }]
        {
            assert_eq!(check(&ready, &[0.25, 0.75]), None);
            assert!(check(&ready, &[0.25, f32::NAN]).is_some());
        }
    }

    #[test]
    fn a_bound_is_met_by_the_single_nearest_to_it() {
        let bounds = Bounds::new(turnout_inference::Datatype::Fp32, Some(-0.1), Some(0.1));
        assert_eq!(bounds.first_outside(ElementsRef::Fp32(&[0.1, -0.1])), None);
        assert_eq!(bounds.first_outside(ElementsRef::Fp32(&[0.1, 0.100_001])), Some(1));
    }

    #[test]
    fn sums_are_taken_row_by_row() {
        let sums = ReadyCheck::SumsToOne { tolerance: 0.001 };
        let output = |values| OutputTensor { name: "p", shape: &[2, 2], elements: ElementsRef::Fp32(values) };
        assert_eq!(sums.problem(&output(&[0.5, 0.5, 0.1, 0.9])), None);
        assert!(sums.problem(&output(&[0.5, 0.4, 0.2, 0.9])).is_some_and(|why| why.starts_with("row 0")));
    }
}
