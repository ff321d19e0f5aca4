//! The command line. Inside a cell it is empty: everything has its fixed place. Tests and benchmarks say where things are instead.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use turnout_protocol::worker::{LINK_FD, LISTENER_FD, MODEL_DIR, ONNXRUNTIME_PATH};

/// Where the worker finds what it was given.
pub struct Options {
    /// Folder of the model's files.
    pub model_dir: PathBuf,
    /// The ONNX Runtime library.
    pub onnxruntime: PathBuf,
    /// Descriptor of the listening socket.
    pub listener_fd: i32,
    /// Descriptor of the link.
    pub link_fd: i32,
}

/// A command line that is not understood.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error(
        "unknown option `{0}`; known are `--model-dir`, `--onnxruntime`, `--listener-fd` and `--link-fd`, each with a value"
    )]
    Unknown(String),
    #[error("`{0}` needs a value")]
    Value(String),
    #[error("`{0}` needs the number of an open descriptor")]
    Descriptor(String),
}

impl Options {
    /// Reads the arguments after the program's name.
    pub fn from_command_line(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, OptionsError> {
        let mut options = Self {
            model_dir: MODEL_DIR.into(),
            onnxruntime: ONNXRUNTIME_PATH.into(),
            listener_fd: LISTENER_FD,
            link_fd: LINK_FD,
        };
        while let Some(name) = arguments.next() {
            let shown = name.to_string_lossy().into_owned();
            let mut value = || arguments.next().ok_or_else(|| OptionsError::Value(shown.clone()));
            match name.to_str() {
                Some("--model-dir") => options.model_dir = value()?.into(),
                Some("--onnxruntime") => options.onnxruntime = value()?.into(),
                Some("--listener-fd") => options.listener_fd = descriptor(&shown, &value()?)?,
                Some("--link-fd") => options.link_fd = descriptor(&shown, &value()?)?,
                _ => return Err(OptionsError::Unknown(shown)),
            }
        }
        Ok(options)
    }
}

fn descriptor(name: &str, value: &OsStr) -> Result<i32, OptionsError> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 2);
    number.ok_or_else(|| OptionsError::Descriptor(name.to_owned()))
}
