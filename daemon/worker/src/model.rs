//! The only file that names the ONNX library: load it, load a model, say what the model is, run it.

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::{Session, SessionInputValue};
use ort::value::{Outlet, TensorElementType, TensorRef};
use std::path::Path;
use turnout_inference::{Datatype, Elements, ElementsRef, InputTensor, OutputTensor};

/// What the runtime says of a failure is cut to this many characters.
const MESSAGE_MAX: usize = 300;

/// Why there is no model to run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot load ONNX Runtime from `{path}`: {message}")]
    Library { path: String, message: String },
    #[error("cannot load `{path}`: {message}")]
    Load { path: String, message: String },
}

/// A run that gave no outputs. The text is the runtime's own.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunError(String);

/// The loaded library, one per process.
pub struct Runtime(Environment);

impl Runtime {
    /// Loads the library from exactly this file. Telemetry is off.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let failed = |message: String| ModelError::Library { path: path.display().to_string(), message };
        let builder = ort::init_from(path).map_err(|error| failed(error.to_string()))?;
        let environment = builder.with_name("turnout").with_telemetry(false).build();
        environment.map(Self).map_err(|error| failed(error.to_string()))
    }
}

/// One input or output as the model itself describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its element type, or the runtime's name of a type that cannot be served.
    pub datatype: Result<Datatype, String>,
    /// Its dimensions; -1 is any length.
    pub shape: Vec<i64>,
}

/// A model in a session of its own, for one thread.
pub struct Model {
    session: Session,
    inputs: Vec<Described>,
    outputs: Vec<Described>,
}

impl Model {
    /// Loads a model to run on the calling thread alone.
    pub fn load(runtime: &Runtime, path: &Path) -> Result<Self, ModelError> {
        let session = open(runtime, path).map_err(|error| ModelError::Load {
            path: path.display().to_string(),
            message: cut(error.message()),
        })?;
        let (inputs, outputs) = (describe(session.inputs()), describe(session.outputs()));
        Ok(Self { session, inputs, outputs })
    }

    /// The inputs in the order in which [`Model::run`] takes them.
    pub fn inputs(&self) -> &[Described] {
        &self.inputs
    }

    /// The outputs in the order in which [`Model::run`] gives them.
    pub fn outputs(&self) -> &[Described] {
        &self.outputs
    }

    /// Runs the model on inputs in its own order and hands the outputs, still where the runtime left them, to `read`.
    pub fn run<R>(
        &mut self,
        inputs: &[&InputTensor<'_>],
        read: impl FnOnce(&[OutputTensor<'_>]) -> R,
    ) -> Result<R, RunError> {
        let failed = |error: ort::Error| RunError(cut(error.message()));
        let inputs: Vec<SessionInputValue<'_>> =
            inputs.iter().map(|input| view(input)).collect::<Result<_, _>>().map_err(failed)?;
        let results = self.session.run(&inputs[..]).map_err(failed)?;
        // By index: iterating over the results would clone a handle to each.
        let outputs = self.outputs.iter().enumerate();
        let outputs: Vec<OutputTensor<'_>> = outputs
            .map(|(place, described)| extract(&described.name, &results[place]))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        Ok(read(&outputs))
    }
}

fn open(runtime: &Runtime, path: &Path) -> ort::Result<Session> {
    Session::builder(&runtime.0)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        // A run that fails is answered with its message; a line in the log for each would be an attack on the log.
        .with_log_level(LogLevel::Fatal)?
        .commit_from_file(path)
}

fn describe(outlets: &[Outlet]) -> Vec<Described> {
    let one = |outlet: &Outlet| Described {
        name: outlet.name().to_owned(),
        datatype: match outlet.dtype().tensor_type() {
            Some(element) => datatype(element).ok_or_else(|| element.to_string()),
            None => Err(outlet.dtype().to_string()),
        },
        shape: outlet.dtype().tensor_shape().map_or_else(Vec::new, |shape| shape.to_vec()),
    };
    outlets.iter().map(one).collect()
}

fn datatype(element: TensorElementType) -> Option<Datatype> {
    Some(match element {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        _ => return None,
    })
}

fn view<'a>(input: &'a InputTensor<'_>) -> ort::Result<SessionInputValue<'a>> {
    let shape = &input.shape[..];
    Ok(match &input.elements {
        Elements::Bool(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Uint8(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Uint16(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Uint32(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Uint64(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Int8(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Int16(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Int32(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Int64(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Fp32(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
        Elements::Fp64(values) => TensorRef::from_array_view((shape, &values[..]))?.into(),
    })
}

fn extract<'a>(name: &'a str, value: &'a ort::value::DynValue) -> ort::Result<OutputTensor<'a>> {
    macro_rules! tensor {
        ($variant:ident) => {{
            let (shape, values) = value.try_extract_tensor()?;
            OutputTensor { name, shape, elements: ElementsRef::$variant(values) }
        }};
    }
    let element = value.dtype().tensor_type();
    let Some(datatype) = element.and_then(datatype) else {
        return Err(ort::Error::new(format!("output `{name}` is a {}", value.dtype())));
    };
    Ok(match datatype {
        Datatype::Bool => tensor!(Bool),
        Datatype::Uint8 => tensor!(Uint8),
        Datatype::Uint16 => tensor!(Uint16),
        Datatype::Uint32 => tensor!(Uint32),
        Datatype::Uint64 => tensor!(Uint64),
        Datatype::Int8 => tensor!(Int8),
        Datatype::Int16 => tensor!(Int16),
        Datatype::Int32 => tensor!(Int32),
        Datatype::Int64 => tensor!(Int64),
        Datatype::Fp32 => tensor!(Fp32),
        Datatype::Fp64 => tensor!(Fp64),
    })
}

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_MAX).collect()
}
