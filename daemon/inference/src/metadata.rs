//! What a server and a model say of themselves, and their health.

use crate::tensor::Datatype;
use serde::Serialize;

/// `GET /v2`.
#[derive(Debug, Serialize)]
pub struct ServerMetadata<'a> {
    /// Name of the server.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The extensions of the protocol that it speaks.
    pub extensions: &'a [&'a str],
}

/// `GET /v2/models/{model}`.
#[derive(Debug, Serialize)]
pub struct ModelMetadata<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// The versions served here.
    pub versions: &'a [&'a str],
    /// What runs it: `onnxruntime_onnx`.
    pub platform: &'a str,
    /// Its inputs.
    pub inputs: Vec<TensorMetadata<'a>>,
    /// Its outputs.
    pub outputs: Vec<TensorMetadata<'a>>,
}

/// One input or output.
#[derive(Debug, Clone, Serialize)]
pub struct TensorMetadata<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub datatype: Datatype,
    /// Its dimensions; -1 is any length.
    pub shape: &'a [i64],
}

/// `GET /v2/health/live`.
#[derive(Debug, Serialize)]
pub struct Live {
    /// The process answers.
    pub live: bool,
}

/// `GET /v2/health/ready`.
#[derive(Debug, Serialize)]
pub struct Ready {
    /// It takes requests.
    pub ready: bool,
}

/// `GET /v2/models/{model}/ready`.
#[derive(Debug, Serialize)]
pub struct ModelReady<'a> {
    /// Name of the model.
    pub name: &'a str,
    /// It takes requests.
    pub ready: bool,
}

/// `GET /v2/models`.
#[derive(Debug, Serialize)]
pub struct Models<'a> {
    /// Names of the models served here.
    pub models: &'a [&'a str],
}
