//! One inference request, from the body's bytes to the answer's: parse, check, run, check, write.

use crate::assertions::Assertions;
use crate::contract::ContractInForce;
use crate::model::Model;
use crate::state::Outcome;
use turnout_inference::response::{self, Form};
use turnout_inference::{InferRequest, InferenceError, OutputTensor, ResponseHead};

/// What an answer's JSON takes besides its values, and room for some values: saves most answers from growing twice.
const ANSWER_ROOM: usize = 512;

/// What every thread holds requests and answers to.
pub struct Rules {
    /// Names, types, shapes and ranges.
    pub contract: ContractInForce,
    /// Checks on outputs.
    pub assertions: Assertions,
    /// The model's name, as answers give it.
    pub model_name: String,
    /// The version's label, as answers give it.
    pub model_version: String,
}

/// A body to send.
pub struct Answer {
    /// Its bytes.
    pub body: Vec<u8>,
    /// Where its JSON ends, when binary tensors follow.
    pub json_length: Option<usize>,
}

/// Why there is no answer. The texts are for the client.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The client's mistake.
    #[error("{0}")]
    Request(String),
    /// The model or its runtime failed.
    #[error("the model failed: {0}")]
    Run(#[from] crate::model::RunError),
    /// The answer breaks what the version promises.
    #[error("{0}")]
    Withheld(String),
}

impl Refusal {
    /// How it is counted.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Request(_) => Outcome::Refused,
            Self::Run(_) => Outcome::Failed,
            Self::Withheld(_) => Outcome::Withheld,
        }
    }
}

impl Rules {
    /// Answers one request.
    ///
    /// # Errors
    /// [`Refusal`], nothing of the answer having been sent.
    pub fn infer(
        &self,
        model: &mut Model,
        body: &[u8],
        json_length: Option<usize>,
    ) -> Result<Answer, Refusal> {
        let request =
            InferRequest::parse(body, json_length).map_err(|error| Refusal::Request(error.to_string()))?;
        let inputs = self.contract.arrange(&request).map_err(Refusal::Request)?;
        let wanted = self.contract.wanted(&request).map_err(Refusal::Request)?;
        model.run(&inputs, |outputs| self.answer(request.id.as_deref(), &wanted, outputs))?
    }

    fn answer(
        &self,
        id: Option<&str>,
        wanted: &[(usize, Form)],
        outputs: &[OutputTensor<'_>],
    ) -> Result<Answer, Refusal> {
        let broken = self.assertions.broken(outputs);
        if let Some(why) = broken
            .or_else(|| self.contract.broken_output(outputs).map(|why| format!("output assertion: {why}")))
        {
            return Err(Refusal::Withheld(why));
        }
        let chosen: Vec<(OutputTensor<'_>, Form)> =
            wanted.iter().map(|&(place, form)| (outputs[place], form)).collect();
        let head = ResponseHead { model_name: &self.model_name, model_version: &self.model_version, id };
        let mut body = Vec::with_capacity(ANSWER_ROOM);
        let withheld = |error: InferenceError| Refusal::Withheld(format!("output assertion: {error}"));
        let json_length = response::write(head, &chosen, &mut body).map_err(withheld)?;
        Ok(Answer { body, json_length })
    }
}
