//! Calls about trust: single keys, signed roots, exceptions.

use super::{Call, Client, ClientError, path_segment};
use crate::control::{AddTrust, Trust};
use crate::trust::{ApplyTrust, TrustApplied, TrustHistory, TrustState};
use hyper::Method;

impl Client {
    /// `GET /v1/trust`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn trust(&self) -> Result<Trust, ClientError> {
        self.call(Call::get("/v1/trust")).await
    }

    /// `POST /v1/trust`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn add_trust(&self, request: &AddTrust) -> Result<Trust, ClientError> {
        self.call(Call::post("/v1/trust").json(request)).await
    }

    /// `DELETE /v1/trust/{key_id}`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove_trust(&self, key_id: &str) -> Result<Trust, ClientError> {
        self.call(Call::new(Method::DELETE, format!("/v1/trust/{}", path_segment(key_id)))).await
    }

    /// `GET /v1/trust/root`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn trust_state(&self) -> Result<TrustState, ClientError> {
        self.call(Call::get("/v1/trust/root")).await
    }

    /// `GET /v1/trust/root/history`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn trust_history(&self) -> Result<TrustHistory, ClientError> {
        self.call(Call::get("/v1/trust/root/history")).await
    }

    /// `POST /v1/trust/root`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn apply_root(&self, request: &ApplyTrust) -> Result<TrustApplied, ClientError> {
        self.call(Call::post("/v1/trust/root").json(request)).await
    }

    /// `POST /v1/trust/exceptions`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn apply_exception(&self, request: &ApplyTrust) -> Result<TrustApplied, ClientError> {
        self.call(Call::post("/v1/trust/exceptions").json(request)).await
    }
}
