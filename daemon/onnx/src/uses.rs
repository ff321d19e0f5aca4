//! What a model uses beyond the standard operators and its own file: operators of other domains, wherever in the graph
//! they stand, and files beside it that hold weights. What is written twice counts twice, whichever a reader would take.

use crate::OnnxError;
use crate::header::within;
use crate::wire::{Value, Wire};
use std::collections::BTreeSet;
use std::io::{Read, Seek};

/// Deepest graph inside a graph.
pub const DEPTH_MAX: usize = 16;
/// Most operators of other domains, functions and external files that are kept of each.
pub const USES_MAX: usize = 4096;

/// One set of operators, by domain and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSet {
    /// The domain; empty is the standard one.
    pub domain: String,
    /// The version.
    pub version: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses {
    /// Operators outside the standard domain, as `domain` and `name`.
    pub operators: BTreeSet<(String, String)>,
    /// Functions that the model brings itself, as `domain` and `name`.
    pub functions: BTreeSet<(String, String)>,
    /// Files that hold weights, relative to the folder of the model.
    pub external: BTreeSet<String>,
}

/// An OperatorSetIdProto.
pub(crate) fn operator_set<R: Read + Seek>(wire: &mut Wire<R>, end: u64) -> Result<OperatorSet, OnnxError> {
    let mut set = OperatorSet { domain: String::new(), version: 0 };
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Message(end)) => set.domain = wire.text(end)?,
            (2, Value::Number(version)) => set.version = version,
            (_, value) => wire.skip(&value)?,
        }
    }
    Ok(set)
}

/// A FunctionProto: its nodes are held to the same rules as those of the graph.
pub(crate) fn function<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    uses: &mut Uses,
) -> Result<(), OnnxError> {
    let (mut name, mut domain) = (String::new(), String::new());
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Message(end)) => name = wire.text(end)?,
            (7, Value::Message(end)) => node(wire, end, (uses, 0))?,
            (10, Value::Message(end)) => domain = wire.text(end)?,
            (11, Value::Message(end)) => attribute(wire, end, (uses, 0))?,
            (_, value) => wire.skip(&value)?,
        }
    }
    uses.functions.insert((domain, name));
    within("functions", uses.functions.len(), USES_MAX)
}

/// A TrainingInfoProto: two graphs.
pub(crate) fn training<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    uses: &mut Uses,
) -> Result<(), OnnxError> {
    while let Some(field) = wire.field(end)? {
        match field {
            (1 | 2, Value::Message(end)) => graph(wire, end, (uses, 0))?,
            (_, value) => wire.skip(&value)?,
        }
    }
    Ok(())
}

/// What is found, and how deep inside other graphs it stands.
type Inside<'a> = (&'a mut Uses, usize);

fn graph<R: Read + Seek>(wire: &mut Wire<R>, end: u64, (uses, depth): Inside<'_>) -> Result<(), OnnxError> {
    if depth > DEPTH_MAX {
        return Err(OnnxError::Depth(DEPTH_MAX));
    }
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Message(end)) => node(wire, end, (uses, depth))?,
            (5, Value::Message(end)) => drop(tensor(wire, end, uses)?),
            (15, Value::Message(end)) => sparse_tensor(wire, end, uses)?,
            (_, value) => wire.skip(&value)?,
        }
    }
    Ok(())
}

/// A NodeProto, with the graphs and tensors in its attributes.
pub(crate) fn node<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    (uses, depth): Inside<'_>,
) -> Result<(), OnnxError> {
    let (mut names, mut domains) = (Vec::new(), Vec::new());
    while let Some(field) = wire.field(end)? {
        match field {
            (4, Value::Message(end)) => names.push(wire.text(end)?),
            (5, Value::Message(end)) => attribute(wire, end, (uses, depth))?,
            (7, Value::Message(end)) => domains.push(wire.text(end)?),
            (_, value) => wire.skip(&value)?,
        }
        within("names of one node", names.len().max(domains.len()), 16)?;
    }
    for domain in domains.into_iter().filter(|domain| !domain.is_empty()) {
        if names.is_empty() {
            uses.operators.insert((domain.clone(), String::new()));
        }
        uses.operators.extend(names.iter().map(|name| (domain.clone(), name.clone())));
    }
    within("operators of other domains", uses.operators.len(), USES_MAX)
}

fn attribute<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    (uses, depth): Inside<'_>,
) -> Result<(), OnnxError> {
    while let Some(field) = wire.field(end)? {
        match field {
            (5 | 10, Value::Message(end)) => drop(tensor(wire, end, uses)?),
            (6 | 11, Value::Message(end)) => graph(wire, end, (uses, depth + 1))?,
            (22 | 23, Value::Message(end)) => sparse_tensor(wire, end, uses)?,
            (_, value) => wire.skip(&value)?,
        }
    }
    Ok(())
}

/// The two tensors of a SparseTensorProto.
pub(crate) fn sparse_tensor<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    uses: &mut Uses,
) -> Result<(), OnnxError> {
    while let Some(field) = wire.field(end)? {
        match field {
            (1 | 2, Value::Message(end)) => drop(tensor(wire, end, uses)?),
            (_, value) => wire.skip(&value)?,
        }
    }
    Ok(())
}

/// The name of a TensorProto; data in it is skipped, data beside it noted.
pub(crate) fn tensor<R: Read + Seek>(
    wire: &mut Wire<R>,
    end: u64,
    uses: &mut Uses,
) -> Result<String, OnnxError> {
    let mut name = String::new();
    let (mut elsewhere, mut located) = (false, false);
    while let Some(field) = wire.field(end)? {
        match field {
            (8, Value::Message(end)) => name = wire.text(end)?,
            (13, Value::Message(end)) => located |= location(wire, end, uses)?,
            (14, Value::Number(place)) => elsewhere |= place != 0,
            (_, value) => wire.skip(&value)?,
        }
    }
    if elsewhere && !located {
        return Err(OnnxError::NotOnnx("a tensor has its data elsewhere and does not say where"));
    }
    within("external files", uses.external.len(), USES_MAX)?;
    Ok(name)
}

/// One entry of a tensor's `external_data`; true if it is the location.
fn location<R: Read + Seek>(wire: &mut Wire<R>, end: u64, uses: &mut Uses) -> Result<bool, OnnxError> {
    let (mut is_location, mut values) = (false, Vec::new());
    while let Some(field) = wire.field(end)? {
        match field {
            (1, Value::Message(end)) => is_location |= wire.text(end)? == "location",
            (2, Value::Message(end)) => values.push(wire.text(end)?),
            (_, value) => wire.skip(&value)?,
        }
        within("values of one entry", values.len(), 16)?;
    }
    if is_location {
        uses.external.extend(values);
    }
    Ok(is_location)
}
