//! Calls about signed checkpoints and proofs.

use super::{Call, Client, ClientError};
use crate::checkpoint::{Consistency, KeepCosigned, RecordProof, SignedCheckpoint};

impl Client {
    /// `GET /v1/audit/checkpoint`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint, ClientError> {
        self.call(Call::get("/v1/audit/checkpoint")).await
    }

    /// `GET /v1/audit/proofs/{seq}`, without a deadline: where tiles are missing, every record is read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn record_proof(&self, seq: u64) -> Result<RecordProof, ClientError> {
        self.call(Call { deadline: None, ..Call::get(format!("/v1/audit/proofs/{seq}")) }).await
    }

    /// `GET /v1/audit/consistency?from=SIZE`, without a deadline, as [`Client::record_proof`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn consistency(&self, from: u64) -> Result<Consistency, ClientError> {
        self.call(Call { deadline: None, ..Call::get(format!("/v1/audit/consistency?from={from}")) }).await
    }

    /// `POST /v1/audit/cosignatures`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn keep_cosigned(&self, request: &KeepCosigned) -> Result<SignedCheckpoint, ClientError> {
        self.call(Call::post("/v1/audit/cosignatures").json(request)).await
    }
}
