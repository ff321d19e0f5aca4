//! The contract in force: held against the model once, at load, then against every request and every answer.

use crate::model::{Described, Model};
use std::collections::HashSet;
use turnout_inference::response::Form;
use turnout_inference::{Datatype, Elements, ElementsRef, InferRequest, InputTensor, OutputTensor};
use turnout_manifest::contract::{Contract, Datatype as Declared, TensorContract};

/// A contract that the model keeps, with its tensors in the model's own order.
pub struct ContractInForce {
    /// The inputs.
    pub inputs: Vec<TensorRule>,
    /// The outputs.
    pub outputs: Vec<TensorRule>,
}

/// What one tensor must look like.
pub struct TensorRule {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions; -1 is any length.
    pub shape: Vec<i64>,
    /// Least and greatest element, where the contract sets one.
    bounds: Option<Bounds>,
}

/// Least and greatest allowed value.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    least: f64,
    greatest: f64,
}

impl Bounds {
    /// The bounds as the tensor's type holds them: 0.1 as a single is more than 0.1, and must still pass a greatest of 0.1.
    pub fn new(datatype: Datatype, least: Option<f64>, greatest: Option<f64>) -> Self {
        let held = |bound: f64| if datatype == Datatype::Fp32 { f64::from(bound as f32) } else { bound };
        Self { least: least.map_or(f64::NEG_INFINITY, held), greatest: greatest.map_or(f64::INFINITY, held) }
    }

    /// The position of the first value outside, NaN included.
    pub fn first_outside(self, elements: ElementsRef<'_>) -> Option<usize> {
        elements.position(|value| !(self.least..=self.greatest).contains(&value))
    }

    /// What went wrong at a position given by [`Bounds::first_outside`].
    pub fn explain(self, elements: ElementsRef<'_>, index: usize) -> String {
        format!("value {index} is {}, outside {} to {}", elements.value(index), self.least, self.greatest)
    }
}

impl ContractInForce {
    /// Holds the contract against the model.
    ///
    /// # Errors
    /// Every difference, one text each.
    pub fn new(contract: &Contract, model: &Model) -> Result<Self, Vec<String>> {
        let mut differences = Vec::new();
        let inputs = rules("input", &contract.inputs, model.inputs(), &mut differences);
        let outputs = rules("output", &contract.outputs, model.outputs(), &mut differences);
        if differences.is_empty() { Ok(Self { inputs, outputs }) } else { Err(differences) }
    }

    /// The request's inputs in the model's order, each checked.
    ///
    /// # Errors
    /// What is wrong, naming the input.
    pub fn arrange<'r, 'a>(&self, request: &'r InferRequest<'a>) -> Result<Vec<&'r InputTensor<'a>>, String> {
        let known = |input: &&InputTensor<'_>| self.inputs.iter().all(|rule| rule.name != input.name);
        if let Some(unknown) = request.inputs.iter().find(known) {
            return Err(format!("input `{}`: unknown, expected {}", unknown.name, names(&self.inputs)));
        }
        let find = |rule: &TensorRule| {
            let input = request.inputs.iter().find(|input| input.name == rule.name);
            let input = input.ok_or_else(|| format!("input `{}`: missing", rule.name))?;
            let problem = rule.problem(&input.shape, input.elements.borrowed());
            let problem = problem
                .or_else(|| input.elements.borrowed().is_empty().then(|| "holds no values".to_owned()));
            problem.map_or(Ok(input), |problem| Err(format!("input `{}`: {problem}", rule.name)))
        };
        self.inputs.iter().map(find).collect()
    }

    /// Which outputs the request wants, by their place in the model's order, and in which form.
    ///
    /// # Errors
    /// The name of an output that there is not, or that is asked for twice.
    pub fn wanted(&self, request: &InferRequest<'_>) -> Result<Vec<(usize, Form)>, String> {
        let form = |binary: bool| if binary { Form::Binary } else { Form::Json };
        if request.outputs.is_empty() {
            return Ok((0..self.outputs.len()).map(|place| (place, form(request.binary_output))).collect());
        }
        let mut seen = HashSet::new();
        let find = |output: &turnout_inference::request::RequestedOutput<'_>| {
            let place = self.outputs.iter().position(|rule| rule.name == output.name);
            let place = place.ok_or_else(|| {
                format!("output `{}`: unknown, expected {}", output.name, names(&self.outputs))
            })?;
            if !seen.insert(place) {
                return Err(format!("output `{}`: asked for twice", output.name));
            }
            Ok((place, form(output.binary.unwrap_or(request.binary_output))))
        };
        request.outputs.iter().map(find).collect()
    }

    /// The first thing in an answer that breaks the contract.
    pub fn broken_output(&self, outputs: &[OutputTensor<'_>]) -> Option<String> {
        let broken = |(rule, output): (&TensorRule, &OutputTensor<'_>)| {
            rule.problem(output.shape, output.elements)
                .map(|problem| format!("output `{}`: {problem}", rule.name))
        };
        self.outputs.iter().zip(outputs).find_map(broken)
    }

    /// Inputs that keep the contract, to warm up with: zeros where zero is allowed, one element for every open dimension.
    pub fn warm_up_inputs(&self) -> Vec<InputTensor<'_>> {
        self.inputs.iter().map(TensorRule::warm_up_input).collect()
    }
}

impl TensorRule {
    fn problem(&self, shape: &[i64], elements: ElementsRef<'_>) -> Option<String> {
        if elements.datatype() != self.datatype {
            return Some(format!("datatype is {}, expected {}", elements.datatype(), self.datatype));
        }
        if !fits(shape, &self.shape) {
            return Some(format!("shape is {shape:?}, expected {:?}", self.shape));
        }
        let bounds = self.bounds?;
        bounds.first_outside(elements).map(|index| bounds.explain(elements, index))
    }

    fn warm_up_input(&self) -> InputTensor<'_> {
        let shape: Vec<i64> =
            self.shape.iter().map(|&dimension| if dimension < 0 { 1 } else { dimension }).collect();
        let count = shape.iter().product::<i64>() as usize;
        let value = self.bounds.map_or(0.0, |bounds| 0_f64.clamp(bounds.least, bounds.greatest));
        let elements = match self.datatype {
            Datatype::Bool => Elements::Bool(vec![value != 0.0; count]),
            Datatype::Uint8 => Elements::Uint8(vec![value as u8; count]),
            Datatype::Uint16 => Elements::Uint16(vec![value as u16; count]),
            Datatype::Uint32 => Elements::Uint32(vec![value as u32; count]),
            Datatype::Uint64 => Elements::Uint64(vec![value as u64; count]),
            Datatype::Int8 => Elements::Int8(vec![value as i8; count]),
            Datatype::Int16 => Elements::Int16(vec![value as i16; count]),
            Datatype::Int32 => Elements::Int32(vec![value as i32; count]),
            Datatype::Int64 => Elements::Int64(vec![value as i64; count]),
            Datatype::Fp32 => Elements::Fp32(vec![value as f32; count]),
            Datatype::Fp64 => Elements::Fp64(vec![value; count]),
        };
        InputTensor { name: self.name.as_str().into(), shape, elements }
    }
}

fn fits(shape: &[i64], expected: &[i64]) -> bool {
    let one = |(&dimension, &expected): (&i64, &i64)| expected < 0 || dimension == expected;
    shape.len() == expected.len() && shape.iter().zip(expected).all(one)
}

fn names(rules: &[TensorRule]) -> String {
    rules.iter().map(|rule| format!("`{}`", rule.name)).collect::<Vec<_>>().join(", ")
}

/// The rules in the model's order; what the contract and the model do not agree on goes to `differences`.
fn rules(
    kind: &str,
    declared: &[TensorContract],
    described: &[Described],
    differences: &mut Vec<String>,
) -> Vec<TensorRule> {
    let mut seen = HashSet::new();
    for tensor in declared {
        if !seen.insert(&tensor.name) {
            differences.push(format!("{kind} `{}`: twice in the contract", tensor.name));
        }
        if described.iter().all(|found| found.name != tensor.name) {
            differences.push(format!("{kind} `{}`: in the contract, not in the model", tensor.name));
        }
    }
    let mut rules = Vec::new();
    for found in described {
        match declared.iter().find(|tensor| tensor.name == found.name) {
            None => differences.push(format!("{kind} `{}`: in the model, not in the contract", found.name)),
            Some(tensor) => match rule(tensor, found) {
                Ok(rule) => rules.push(rule),
                Err(problem) => differences.push(format!("{kind} `{}`: {problem}", found.name)),
            },
        }
    }
    rules
}

fn rule(declared: &TensorContract, found: &Described) -> Result<TensorRule, String> {
    let datatype = served(declared.datatype).ok_or("BYTES tensors are not served")?;
    let same = |name: &str| format!("datatype is {name} in the model, {datatype} in the contract");
    match &found.datatype {
        Err(name) => return Err(same(name)),
        Ok(other) if *other != datatype => return Err(same(other.name())),
        Ok(_) => {}
    }
    // Where the model leaves a dimension open the contract may narrow it, never the other way round.
    if !fits(&declared.shape, &found.shape) {
        return Err(format!("shape is {:?} in the model, {:?} in the contract", found.shape, declared.shape));
    }
    let (least, greatest) =
        (declared.minimum.as_ref().map(|d| d.value()), declared.maximum.as_ref().map(|d| d.value()));
    if least.zip(greatest).is_some_and(|(least, greatest)| least > greatest) {
        return Err("minimum is greater than maximum in the contract".to_owned());
    }
    let bounded = least.is_some() || greatest.is_some();
    Ok(TensorRule {
        name: declared.name.clone(),
        datatype,
        shape: declared.shape.clone(),
        bounds: bounded.then(|| Bounds::new(datatype, least, greatest)),
    })
}

fn served(declared: Declared) -> Option<Datatype> {
    Some(match declared {
        Declared::Bool => Datatype::Bool,
        Declared::Uint8 => Datatype::Uint8,
        Declared::Uint16 => Datatype::Uint16,
        Declared::Uint32 => Datatype::Uint32,
        Declared::Uint64 => Datatype::Uint64,
        Declared::Int8 => Datatype::Int8,
        Declared::Int16 => Datatype::Int16,
        Declared::Int32 => Datatype::Int32,
        Declared::Int64 => Datatype::Int64,
        Declared::Fp32 => Datatype::Fp32,
        Declared::Fp64 => Datatype::Fp64,
        Declared::Bytes => return None,
    })
}
