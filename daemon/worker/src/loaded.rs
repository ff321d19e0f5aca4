//! From an assignment to a version that is loaded, checked and warm, with a session for each serving thread.

use crate::assertions::Assertions;
use crate::content::{self, ContentRefused};
use crate::contract::ContractInForce;
use crate::http::Pages;
use crate::infer::{Answer, Refusal, Rules};
use crate::model::{Model, ModelError, RunError, Runtime};
use crate::options::Options;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use turnout_manifest::Sha256;
use turnout_protocol::worker::Assignment;

/// Most serving threads.
const THREADS_MAX: u32 = 64;

/// Why an assignment cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0} threads asked for, 1 to {THREADS_MAX} can be")]
    Threads(u32),
    #[error("model file `{0}` is not a relative path inside the model's folder")]
    Path(String),
    #[error("content policy")]
    Content(#[from] ContentRefused),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("the contract and the model differ: {}", .0.join("; "))]
    Contract(Vec<String>),
    #[error("the model fails on its warm-up inputs")]
    WarmUp(#[source] RunError),
    #[error("digest cannot stand in a header")]
    Digest(#[source] hyper::header::InvalidHeaderValue),
}

/// What loading needs, whatever is loaded.
pub struct Loader {
    model_dir: PathBuf,
    runtime: Runtime,
}

/// One version: what it is held to, what it says of itself, and its sessions.
pub struct Loaded {
    /// Digest of its manifest.
    pub digest: Sha256,
    /// Bodies and headers that never change.
    pub pages: Pages,
    rules: Rules,
    sessions: Vec<Mutex<Model>>,
}

impl Loader {
    /// Loads the runtime's library, once for the process.
    ///
    /// # Errors
    /// [`LoadError::Model`].
    pub fn new(options: &Options) -> Result<Self, LoadError> {
        Ok(Self { model_dir: options.model_dir.clone(), runtime: Runtime::load(&options.onnxruntime)? })
    }

    /// Loads what lies in the model's folder for every thread, holds the contract against it and warms it up.
    ///
    /// # Errors
    /// [`LoadError`], nothing of it being left.
    pub fn load(&self, assignment: &Assignment) -> Result<Loaded, LoadError> {
        if !(1..=THREADS_MAX).contains(&assignment.threads) {
            return Err(LoadError::Threads(assignment.threads));
        }
        let file = Path::new(&assignment.model_file);
        if !file.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(LoadError::Path(assignment.model_file.clone()));
        }
        content::check(&self.model_dir, assignment)?;
        let file = self.model_dir.join(file);
        let first = Model::load(&self.runtime, &file)?;
        let rules = rules(assignment, &first)?;
        let mut models = vec![first];
        for _ in 1..assignment.threads {
            models.push(Model::load(&self.runtime, &file)?);
        }
        let inputs = rules.contract.warm_up_inputs();
        for model in &mut models {
            model.run(&inputs.iter().collect::<Vec<_>>(), |_| ()).map_err(LoadError::WarmUp)?;
        }
        drop(inputs);
        let pages = Pages::new(assignment, &rules).map_err(LoadError::Digest)?;
        let sessions = models.into_iter().map(Mutex::new).collect();
        Ok(Loaded { digest: assignment.digest, pages, rules, sessions })
    }
}

impl Loaded {
    /// How many threads it can serve.
    pub fn threads(&self) -> usize {
        self.sessions.len()
    }

    /// Answers one request with a thread's own session.
    ///
    /// # Errors
    /// [`Refusal`], nothing of the answer having been sent.
    pub fn infer(&self, thread: usize, body: &[u8], json_length: Option<usize>) -> Result<Answer, Refusal> {
        // Nobody else asks for it. One whose run panicked is as good as one whose run failed.
        let mut session = self.sessions[thread].lock().unwrap_or_else(PoisonError::into_inner);
        self.rules.infer(&mut session, body, json_length)
    }
}

fn rules(assignment: &Assignment, model: &Model) -> Result<Rules, LoadError> {
    let contract = ContractInForce::new(&assignment.contract, model).map_err(LoadError::Contract)?;
    let assertions = Assertions::new(&assignment.assertions, &contract).map_err(LoadError::Contract)?;
    let (model_name, model_version) = (assignment.model.to_string(), assignment.version.to_string());
    Ok(Rules { contract, assertions, model_name, model_version })
}
