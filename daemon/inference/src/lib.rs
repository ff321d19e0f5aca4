//! Open Inference Protocol V2 as bytes: requests in, answers out, in JSON and with binary tensors.
//! No server, no model: what a tensor's name may be and what its values mean is for others to say.

pub mod binary;
mod elements;
pub mod error;
pub mod metadata;
pub mod request;
pub mod response;
pub mod tensor;

pub use error::InferenceError;
pub use request::{InferRequest, InputTensor};
pub use response::{OutputTensor, ResponseHead};
pub use tensor::{Datatype, Elements, ElementsRef};
